#!/usr/bin/env python3
# timeout: 1200
"""Goal: s3:// keeps the contract of storage.h on every kind of store, whatever it answers at whichever request; and no
secret is ever shown.

Method: storage_contract against versitygw, OpenStack Swift, and the store of s3_faults.py with each way to treat
conditional puts; then storage_commit writes and reads with each kind of fault at each request in turn, against a store
of its own for each.
"""
import concurrent.futures
import datetime
import http.server
import json
import os
import subprocess
import sys
import threading
import time

from harness import ROOT, Authority, Cases, Workplace
from s3_faults import Store
from s3_servers import ACCESS_KEY, SECRET_KEY, Swift, Unavailable, VersityGW, environment

cases = Cases()
TOOLS = os.path.join(ROOT, os.environ.get("BUILD_DIR", "build"), "integration")
SETS = ["--set", "storage_stall_timeout=1s", "--set", "storage_timeout=20s"]
TOKEN = "T0ken-Canary"
PASSING = ["500", "503", "reset", "500-after", "reset-after", "truncated", "slow", "expired", "skewed", "moved", "html",
           "200-error"]
LASTING = {"403": "AccessDenied", "412": "", "409": ""}
MANIFEST = b'{"small": 3000, "large": 9437189}\n'
SIZES = {"new/small": 3000, "new/large": 9437189, "new/MANIFEST.json": len(MANIFEST)}
said_by_all = []    # everything that any program printed, for the canaries


def tool(store, name, *arguments, env=(), sets=()):
    """-> (exit code, what it printed)"""
    done = subprocess.run([os.path.join(TOOLS, name), *arguments, *sets], stdout=subprocess.PIPE, timeout=300,
                          stderr=subprocess.STDOUT, check=False, env=dict(environment(store.endpoint), **dict(env)))
    said = done.stdout.decode(errors="replace")
    said_by_all.append(said)
    return done.returncode, said


def contract(name, store, *flags):
    code, said = tool(store, "storage_contract", *flags, "s3://bucket/contract")
    cases.check(f"{name} keeps the contract of storage.h", code == 0, said[-1500:])
    uploads = store.client.uploads("bucket") if hasattr(store, "client") else store.uploads
    cases.check(f"{name} is left without unfinished uploads", not uploads, str(uploads))


def commit(store, verb):
    return tool(store, "storage_commit", verb, "s3://bucket/new", sets=SETS)


def is_whole(store):
    return store.objects.get("new/MANIFEST.json") == MANIFEST and \
        all(len(store.objects.get(key, b"")) == size for key, size in SIZES.items())


def write_with(fault, at, conditions):
    """-> why it is wrong, or None"""
    with Store(conditions) as store:
        store.write("old/MANIFEST.json", b"old", {})
        store.begin({at: fault})
        code, said = commit(store, "write")
        what = f"{fault} at {at}: exit {code}: {said.strip()[-300:]}; {store.seen[max(0, at - 1):at + 3]}"
        hit = store.seen[at] if at < len(store.seen) else ""
        if store.objects.get("old/MANIFEST.json") != b"old":
            return f"the one before is gone; {what}"
        if store.written.get("new/MANIFEST.json", 0) > (1 if conditions == "atomic" else 2):
            return f"committed twice; {what}"
        if store.uploads and "DELETE" not in hit and "uploads=" not in hit:
            return f"uploads are left behind; {what}"
        if code == 0:
            return None if is_whole(store) else f"committed, and not whole; {what}"
        if "new/MANIFEST.json" in store.objects and not is_whole(store):
            return f"a manifest of what is not whole; {what}"
        if "s3://bucket/new" not in said or LASTING.get(fault, "") not in said:
            return f"the error names no cause; {what}"
        if fault in PASSING:
            return f"given up, though it would have passed; {what}"
        store.begin({})
        code, said = commit(store, "write")
        return None if code == 0 and is_whole(store) else f"not even the next time: {said}; {what}"


def read_with(fault, at, written):
    with Store() as store:
        store.copy(written)
        store.begin({at: fault})
        code, said = commit(store, "read")
        what = f"{fault} at {at}: exit {code}: {said.strip()[-300:]}; {store.seen[max(0, at - 1):at + 3]}"
        if code != 0 and fault in PASSING:
            return f"given up, though it would have passed; {what}"
        if code != 0 and ("s3://bucket/new" not in said or LASTING.get(fault, "") not in said):
            return f"the error names no cause; {what}"
        return None


def request_count(store, verb):
    store.begin({})
    code, said = commit(store, verb)
    cases.check(f"{verb} without a fault, conditions {store.conditions}", code == 0, said)
    return len(store.seen)


def every_fault(what, doing, count, faults, context):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        wrong = [w for w in pool.map(lambda x: doing(*x), [(f, i, context) for f in faults for i in range(count)]) if w]
    cases.check(f"{what}: {len(faults)} faults at each of {count} requests", not wrong,
                f"{len(wrong)} wrong:\n" + "\n".join(wrong[:6]))


def credentials():
    with Workplace() as place, Store(token=TOKEN) as store:
        good = {"AWS_SESSION_TOKEN": TOKEN}
        code, said = tool(store, "storage_commit", "write", "s3://bucket/new", env=good, sets=SETS)
        cases.check("a session's token is sent", code == 0, said)
        code, said = tool(store, "storage_commit", "write", "s3://bucket/new", env={"AWS_SESSION_TOKEN": "0ld-Canary"},
                          sets=SETS)
        cases.check("an expired one is named", code != 0 and "ExpiredToken" in said, said)
        nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        code, said = tool(store, "storage_commit", "read", "s3://bucket/new", env=nothing, sets=SETS)
        cases.check("without any the text says where was looked",
                    code != 0 and "no credentials" in said and "AWS_WEB_IDENTITY_TOKEN_FILE" in said, said)
        path = place.file("credentials", f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = wr0ng-Canary\n"
                                         f"[there]\n  aws_access_key_id={ACCESS_KEY}\n"
                                         f"aws_secret_access_key = {SECRET_KEY}\naws_session_token={TOKEN}\n")
        named = [*SETS, "--set", f"s3_credentials_file={path}"]
        code, said = tool(store, "storage_commit", "read", "s3://bucket/new", env=nothing,
                          sets=[*named, "--set", "s3_profile=there"])
        cases.check("a file of credentials, by profile", code == 0, said)
        code, said = tool(store, "storage_commit", "read", "s3://bucket/new", sets=named)
        cases.check("a token that is missing is named", code != 0 and "ExpiredToken" in said, said)
        code, said = tool(store, "storage_commit", "read", "s3://bucket/new", env=nothing,
                          sets=[*named, "--set", "s3_profile=none"])
        cases.check("a profile that is not there is named", code != 0 and "[none]" in said, said)
    with Store(secret="another") as store:
        code, said = tool(store, "storage_commit", "read", "s3://bucket/new", sets=SETS)
        cases.check("a wrong secret key is named", code != 0 and "the secret key is not" in said, said)

ODD = ["plain", "a b", "a+b", "a=b", "a%20b", "a%", "\u00fc\u4e2d\U0001f600", "q?x=1&y", "#x", "'\"<>&", "a\\b", "*", "~-_.", "..x"]


def odd_keys(server):
    """Keys made by another client, listed and read by ours."""
    for i, name in enumerate(ODD):
        server.client.put("bucket", "odd/" + name, b"x" * i)
    for n in range(3):
        server.client.put("bucket", f"odd/level {n}/deep", b"deep")
    code, said = tool(server, "storage_list", "--read", "s3://bucket/odd")
    expected = sorted([(n, str(i)) for i, n in enumerate(ODD)] + [(f"level {n}", "/") for n in range(3)],
                      key=lambda e: e[0].encode())
    cases.check(f"{server.name}: odd keys are listed and read", code == 0 and
                said == "".join(f"{n} {size}\n" for n, size in expected), said)


def empty_levels():
    with Store() as store:
        for key in ("a/x", "a//x", "a//", "a///y", "/top", "b/"):
            store.write(key, key.encode(), {})
        for uri, expected in (("s3://bucket/a", "/ /\nx 3\n"), ("s3://bucket/a/", "/ /\nx 3\n"),
                              ("s3://bucket/a//", "/ /\nx 4\n"), ("s3://bucket/a///", "y 5\n"),
                              ("s3://bucket//", "top 4\n"), ("s3://bucket", "/ /\na /\nb /\n"), ("s3://bucket/b", "")):
            code, said = tool(store, "storage_list", "--read", uri)
            cases.check(f"empty levels: {uri}", code == 0 and said == expected, said)
        code, said = tool(store, "storage_list", "s3://bucket/none")
        cases.check("what is not there is not empty, but absent", code != 0 and "there is no" in said, said)


def many_objects(server):
    """100 000 files where versitygw keeps its objects."""
    directory = os.path.join(server.path, "data", "bucket", "many")
    os.mkdir(directory)
    for i in range(100000):
        os.close(os.open(os.path.join(directory, f"part-{i:06d}"), os.O_CREAT | os.O_WRONLY))
    code, said = tool(server, "storage_list", "s3://bucket/many")
    cases.check("100 000 objects are listed", code == 0 and
                said == "".join(f"part-{i:06d} 0\n" for i in range(100000)), said[-300:])


class Service(http.server.BaseHTTPRequestHandler):
    """Hands out credentials as a container's service, an instance's (IMDSv2), and STS do."""
    store, asked, lifetime, is_away = None, [], 3600, False

    def log_message(self, *_):
        pass

    def reply(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.asked.append(f"{self.command} {self.path} {body}")
        expires = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=self.lifetime)).strftime(
            "%Y-%m-%dT%H:%M:%SZ")
        found = json.dumps({"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": TOKEN, "Expiration": expires})
        role = "/latest/meta-data/iam/security-credentials/"
        if self.is_away:
            self.reply(503, TOKEN)
        elif self.path == "/latest/api/token" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
            self.reply(200, "imds-Canary")
        elif self.path.startswith("/latest/") and self.headers.get("X-aws-ec2-metadata-token") != "imds-Canary":
            self.reply(401, "")
        elif self.path == role:
            self.reply(200, "a-role")
        elif self.path == role + "a-role" or (self.path == "/container" and
                                              self.headers.get("Authorization") == "auth-Canary"):
            self.reply(200, found)
        elif self.command == "POST" and "Action=AssumeRoleWithWebIdentity" in body and \
                "WebIdentityToken=web%2BCanary%3D" in body and "RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr" in body:
            self.reply(200, "<AssumeRoleWithWebIdentityResponse xmlns='x'><AssumeRoleWithWebIdentityResult><Credentials>"
                            f"<AccessKeyId>{ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>"
                            f"<SessionToken>{TOKEN}</SessionToken><Expiration>{expires}</Expiration></Credentials>"
                            "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>")
        else:
            self.reply(403, f"<ErrorResponse><Error><Code>AccessDenied</Code><Message>{TOKEN}</Message></Error></ErrorResponse>")

    do_GET = do_PUT = do_POST = serve


def services():
    with Workplace() as place, Store(token=TOKEN) as store, \
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{service.server_address[1]}"
        nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        web = place.file("token", "web+Canary=\n")
        places = {
            "a container": {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url + "/container",
                            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "auth-Canary"},
            "an instance": {"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": url},
            "a web identity": {"AWS_WEB_IDENTITY_TOKEN_FILE": web, "AWS_ROLE_ARN": "arn:aws:iam::1:role/r",
                               "AWS_ENDPOINT_URL_STS": url},
        }
        for name, env in places.items():
            Service.asked.clear()
            code, said = tool(store, "storage_commit", "write", "s3://bucket/new", env={**nothing, **env}, sets=SETS)
            cases.check(f"credentials of {name}", code == 0, said)
            cases.check(f"{name} is asked once", len(Service.asked) == (3 if name == "an instance" else 1), Service.asked)
        bad = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url + "/container", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "bad-Canary"}
        code, said = tool(store, "storage_commit", "read", "s3://bucket/new", env={**nothing, **bad}, sets=SETS)
        cases.check("a service that refuses is named", code != 0 and "container" in said and "403" in said, said)
        Service.is_away = True
        code, said = tool(store, "storage_commit", "read", "s3://bucket/new", env={**nothing, **places["a container"]},
                          sets=["--set", "storage_timeout=2s"])
        cases.check("a service that is away is named", code != 0 and "container" in said and "503" in said, said)
        Service.is_away, Service.lifetime = False, 60
        code, said = tool(store, "storage_commit", "read", "s3://bucket/new", env={**nothing, **places["a container"]}, sets=SETS)
        cases.check("credentials that soon expire are used as long as they hold", code == 0, said)
        service.shutdown()


def over_tls():
    """versitygw with a certificate by an authority of our own making: trusted only when that is named."""
    with Workplace() as place:
        ours, other = Authority(place), Authority(place, "other")
        trust = ["--set", f"storage_ca_file={ours.ca}"]
        with VersityGW(ours) as server:
            for verb in ("write", "read"):
                code, said = tool(server, "storage_commit", verb, "s3://bucket/new", sets=[*SETS, *trust])
                cases.check(f"TLS with an authority that is named: {verb}", code == 0, said)
            for title, sets, wanted in (("another one", ["--set", f"storage_ca_file={other.ca}"], "certificate"),
                                        ("none", [], "certificate"),
                                        ("a file that is not there", ["--set", "storage_ca_file=/nowhere.pem"], "/nowhere.pem")):
                start = time.monotonic()
                code, said = tool(server, "storage_commit", "read", "s3://bucket/new", sets=[*SETS, *sets])
                cases.check(f"TLS with {title} is refused at once", code == 1 and wanted in said and "s3://bucket/new" in said and
                            time.monotonic() - start < 15, said)
            server.endpoint = server.endpoint.replace("127.0.0.1", "localhost")
            code, said = tool(server, "storage_list", "s3://bucket", sets=["--set", "s3_addressing=virtual", "--set",
                                                                           "storage_timeout=1s", *trust])
            cases.check("virtual addressing names the bucket in the host", code != 0 and "bucket.localhost" in said, said)
        with Store() as store:
            Authority(place, "third", "DNS:elsewhere").wrap(store.server)
            store.endpoint = store.endpoint.replace("http:", "https:")
            code, said = tool(store, "storage_commit", "read", "s3://bucket/new",
                              sets=[*SETS, "--set", f"storage_ca_file={place.path}/third/ca.pem"])
            cases.check("a certificate of another machine is refused", code == 1 and "certificate" in said, said)


def canaries():
    shown = [c for c in (SECRET_KEY, TOKEN, "wr0ng-Canary", "0ld-Canary", "imds-Canary", "auth-Canary", "bad-Canary", "web+Canary",
                          "web%2BCanary") for s in said_by_all if c in s]
    cases.check(f"no secret in the output of {len(said_by_all)} runs", not shown, str(shown))


def on_real(kind):
    try:
        with kind() as server:
            contract(kind.name, server, "--weak")
            odd_keys(server)
            if kind is VersityGW:
                many_objects(server)
        if kind is VersityGW:
            over_tls()
    except (Unavailable, FileNotFoundError) as e:
        cases.skip(kind.name, str(e))


def on_our_own(conditions):
    with Store(conditions) as store:
        contract(f"a store with conditions {conditions}", store, *([] if conditions == "atomic" else ["--weak"]))


def faults():
    credentials()
    empty_levels()
    services()
    with Store() as store, Store("501") as unconditional:
        every_fault("write", write_with, request_count(store, "write"), [*PASSING, *LASTING], "atomic")
        every_fault("write", write_with, request_count(unconditional, "write"), ["500", "reset-after"], "501")
        every_fault("read", read_with, request_count(store, "read"), [*PASSING, "403"], store)


def main():
    """Much of it is waiting, so the parts run side by side; those that are named, or all."""
    parts = {VersityGW.name: [lambda: on_real(VersityGW)], Swift.name: [lambda: on_real(Swift)],
             "own": [lambda c=c: on_our_own(c) for c in ("atomic", "501", "400", "ignored")], "faults": [faults]}
    wanted = sys.argv[1:] or list(parts)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(part) for name in wanted for part in parts[name]]:
            done.result()
    canaries()
    cases.end()


main()
