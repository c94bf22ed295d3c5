"""An S3 of our own, in memory, that checks signatures, is atomic, and misbehaves on request: at the nth request since
begin() it does what real stores do only now and then.

    with Store() as store:
        store.begin({3: "500-after"})       # the fourth request is carried out and answered with 500
        store.seen                          # "PUT /bucket/key?partNumber=1", in order
        store.objects["key"]                # bytes

Faults: 500, 503, 501, reset (nothing done); 500-after, reset-after (done all the same); truncated, slow (an answer
that ends early, or does not come); 409, 412, 403, expired (a token), skewed (a clock), moved (another region),
200-error (an error where the answer begins as a success), html (what a proxy in between says).
"""
import base64
import datetime
import email.utils
import hashlib
import hmac
import http.server
import os
import socket
import struct
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

from s3_servers import ACCESS_KEY, REGION, SECRET_KEY

ERRORS = {
    "500": (500, "InternalError"), "503": (503, "SlowDown"), "501": (501, "NotImplemented"),
    "409": (409, "ConditionalRequestConflict"), "412": (412, "PreconditionFailed"), "403": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"), "skewed": (403, "RequestTimeTooSkewed"),
    "moved": (400, "AuthorizationHeaderMalformed"), "500-after": (500, "InternalError"),
}


class Answer(Exception):
    def __init__(self, status, body=b"", headers=(), code=None):
        super().__init__(status)
        if code is not None:
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as asked</Message></Error>".encode()
        self.status, self.body, self.headers = status, body, dict(headers)


class Store:
    def __init__(self, conditions="atomic", secret=SECRET_KEY, token=None):
        self.conditions = conditions        # atomic, 501, 400, ignored
        self.secret, self.token = secret, token
        self.region = REGION
        self.objects, self.info, self.uploads, self.written = {}, {}, {}, {}
        self.lock = threading.Lock()
        self.away = False                   # 503 to everything
        self.plan, self.seen, self.count = {}, [], 0
        self.stopping = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"store": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.objects, self.uploads = {}, {}

    def copy(self, other):
        self.objects, self.info = dict(other.objects), dict(other.info)

    def begin(self, plan):
        with self.lock:
            self.plan, self.seen, self.count = dict(plan), [], 0

    # ---- requests, the lock held ----

    def check_signature(self, method, path, query, headers, body):
        authorization = headers.get("authorization", "")
        try:
            fields = dict(f.strip().split("=", 1) for f in authorization.split(" ", 1)[1].split(","))
            access, day, region, service, _ = fields["Credential"].split("/")
            names = fields["SignedHeaders"].split(";")
        except (IndexError, KeyError, ValueError):
            raise Answer(403, code="AccessDenied") from None
        if access != ACCESS_KEY:
            raise Answer(403, code="InvalidAccessKeyId")
        if self.token is not None and headers.get("x-amz-security-token") != self.token:
            raise Answer(400, code="ExpiredToken")
        if region != self.region:
            raise Answer(400, f"<Error><Code>AuthorizationHeaderMalformed</Code><Region>{self.region}</Region></Error>"
                         .encode(), {"x-amz-bucket-region": self.region})
        when = datetime.datetime.strptime(headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()
        if abs(when - time.time()) > 900:
            raise Answer(403, code="RequestTimeTooSkewed")
        digest = headers.get("x-amz-content-sha256")
        unsigned = [n for n in headers if n.startswith("x-amz-") and n not in names]
        is_trusted = digest == "UNSIGNED-PAYLOAD" and self.endpoint.startswith("https:")
        if not is_trusted and digest != hashlib.sha256(body).hexdigest() or unsigned or "host" not in names:
            raise Answer(400, code="XAmzContentSHA256Mismatch")
        pairs = sorted(p if "=" in p else p + "=" for p in query.split("&") if p)
        canonical = "\n".join([method, path, "&".join(pairs),
                               *(f"{n}:{' '.join(headers[n].split())}" for n in names), "", ";".join(names), digest])
        text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], f"{day}/{region}/{service}/aws4_request",
                          hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + self.secret).encode()
        for part in (day, region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        if hmac.new(key, text.encode(), hashlib.sha256).hexdigest() != fields["Signature"]:
            raise Answer(403, code="SignatureDoesNotMatch")

    def check_condition(self, key, headers):
        if "if-none-match" not in headers or self.conditions == "ignored":
            return
        if self.conditions != "atomic":
            raise Answer(int(self.conditions), code="NotImplemented")
        if key in self.objects:
            raise Answer(412, code="PreconditionFailed")

    def write(self, key, data, meta, etag=None):
        self.objects[key] = data
        self.written[key] = self.written.get(key, 0) + 1
        self.info[key] = {"etag": etag or f'"{hashlib.md5(data).hexdigest()}"', "meta": meta, "time": time.time()}

    def handle(self, method, key, query, headers, body):
        meta = {n: v for n, v in headers.items() if n.startswith("x-amz-meta-")}
        if key == "":
            return self.list_uploads(query) if "uploads" in query else self.list(query)
        if method == "POST" and "uploads" in query:
            name = base64.urlsafe_b64encode(os.urandom(9)).decode() + "+/="
            self.uploads[name] = (key, meta, {}, time.time())
            return Answer(200, f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId>"
                               f"</InitiateMultipartUploadResult>".encode())
        if "uploadId" in query:
            return self.upload(method, key, query, headers, body)
        if method == "PUT":
            self.check_condition(key, headers)
            self.write(key, body, meta)
            return Answer(200, b"", {"ETag": self.info[key]["etag"]})
        if method == "DELETE":
            self.objects.pop(key, None)
            return Answer(204)
        return self.read(method, key, headers)

    def upload(self, method, key, query, headers, body):
        name = query["uploadId"]
        if name not in self.uploads or self.uploads[name][0] != key:
            raise Answer(404, code="NoSuchUpload")
        _, meta, parts, _ = self.uploads[name]
        if method == "DELETE":
            del self.uploads[name]
            return Answer(204)
        if method == "PUT":
            etag = f'"{hashlib.md5(body).hexdigest()}"'
            parts[int(query["partNumber"])] = (body, etag)
            return Answer(200, b"", {"ETag": etag})
        self.check_condition(key, headers)
        listed = [(i + 1, p) for i, p in sorted((n - 1, p) for n, p in parts.items())]
        expected = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{p[1]}</ETag></Part>" for n, p in listed)
        if body.decode() != f"<CompleteMultipartUpload>{expected}</CompleteMultipartUpload>":
            raise Answer(400, code="InvalidPart")
        if any(len(p[0]) < 5 << 20 for _, p in listed[:-1]):
            raise Answer(400, code="EntityTooSmall")
        self.write(key, b"".join(p[0] for _, p in listed), meta, f'"{os.urandom(16).hex()}-{len(listed)}"')
        del self.uploads[name]
        return Answer(200, b"<CompleteMultipartUploadResult/>")

    def read(self, method, key, headers):
        if key not in self.objects:
            raise Answer(404, code="NoSuchKey")
        data, info = self.objects[key], self.info[key]
        told = {"ETag": info["etag"], "Last-Modified": email.utils.formatdate(info["time"], usegmt=True), **info["meta"]}
        if headers.get("if-match", info["etag"]) != info["etag"]:
            raise Answer(412, code="PreconditionFailed")
        if method == "HEAD" or "range" not in headers:
            return Answer(200, data, told)
        first, last = (int(n) for n in headers["range"].removeprefix("bytes=").split("-"))
        if first >= len(data):
            raise Answer(416, code="InvalidRange")
        return Answer(206, data[first:last + 1], told)

    def list(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = base64.b64decode(query.get("continuation-token", "")).decode("utf-8", "surrogateescape")
        most, told, body, last = min(int(query.get("max-keys", 1000)), 1000), set(), [], ""
        def quote(t): return urllib.parse.quote_plus(t, safe="", errors="surrogateescape")
        more = False
        for key in sorted(k for k in self.objects if k.startswith(prefix)):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            name = key if cut < 0 else key[:cut + 1]
            if name <= after or name in told:
                continue
            if len(told) == most:
                more = True
                break
            told.add(name)
            last = name
            when = datetime.datetime.fromtimestamp(self.info[key]["time"], datetime.timezone.utc)
            body.append(f"<CommonPrefixes><Prefix>{quote(name)}</Prefix></CommonPrefixes>" if cut >= 0 else
                        f"<Contents><Key>{quote(key)}</Key><LastModified>{when:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
                        f"<ETag>{escape(self.info[key]['etag'])}</ETag><Size>{len(self.objects[key])}</Size></Contents>")
        token = base64.b64encode(last.encode("utf-8", "surrogateescape")).decode()
        return Answer(200, ("<?xml version='1.0'?><ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
                            f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
                            + (f"<NextContinuationToken>{token}</NextContinuationToken>" if more else "")
                            + "".join(body) + "</ListBucketResult>").encode())

    def list_uploads(self, query):
        body = "".join(f"<Upload><Key>{escape(key)}</Key><UploadId>{name}</UploadId><Initiated>"
                       f"{datetime.datetime.fromtimestamp(begun, datetime.timezone.utc):%Y-%m-%dT%H:%M:%S.000Z}"
                       "</Initiated></Upload>" for name, (key, _, _, begun) in self.uploads.items()
                       if key.startswith(query.get("prefix", "")))
        return Answer(200, f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{body}"
                           "</ListMultipartUploadsResult>".encode())


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = None

    def log_message(self, *_):
        pass

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def answer(self, a, fault):
        body = a.body
        self.send_response(a.status)
        for name, value in a.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD" or a.status == 204:
            body = b""
        if fault == "truncated":
            self.wfile.write(body[:len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def serve(self):
        s = self.store
        path, _, text = self.path.partition("?")
        headers = {n.lower(): v for n, v in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        query = dict(urllib.parse.parse_qsl(text, keep_blank_values=True))
        with s.lock:
            fault = "503" if s.away else s.plan.get(s.count)
            if fault == "200-error" and self.command in ("GET", "HEAD", "DELETE"):
                fault = None
            s.count += 1
            s.seen.append(f"{self.command} {path}{'?' + text if text else ''}{' -> ' + fault if fault else ''}")
        if fault == "reset":
            return self.reset()
        if fault == "slow":
            s.stopping.wait(3)
            return self.reset()
        try:
            with s.lock:
                s.check_signature(self.command, path, text, headers, body)
                if fault == "200-error":
                    raise Answer(200, code="InternalError")
                if fault == "html":
                    raise Answer(502, b"<html><p>bad gateway<br></html>")
                if fault == "moved":
                    s.region = "eu-test-7"
                    raise Answer(400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-test-7</Region></Error>",
                                 {"x-amz-bucket-region": "eu-test-7"})
                if fault in ERRORS and not fault.endswith("-after"):
                    raise Answer(ERRORS[fault][0], code=ERRORS[fault][1])
                key = urllib.parse.unquote(path, errors="surrogateescape").split("/", 2)[2:]
                a = s.handle(self.command, key[0] if key else "", query, headers, body)
        except Answer as failed:
            a = failed
        if fault == "reset-after":
            return self.reset()
        if fault == "500-after":
            a = Answer(500, code="InternalError")
        return self.answer(a, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve
