"""A WebHDFS of our own, in memory, that misbehaves at the request it is told to; for what a real one does not show.

    with Webhdfs() as server:
        server.uri("/a")                    # hdfs://127.0.0.1:PORT/a
        server.begin({3: "reset-after"})    # requests are counted from 1, those to the DataNode too
        server.files["/a/x"]                # what it holds

Kinds of fault: `500` `503` `reset` before anything is done, `500-after` `reset-after` when it is done, `truncated` (the answer
ends early), `slow` (no byte for STALL_S), `refused` (AccessControlException), `token` (InvalidToken), `standby`, `retriable`,
`safemode`, `dead` (a DataNode that is not there), `false` (a RENAME that is answered with false), `html` (no WebHDFS at all).
A fault at request 0 is one of all requests.
"""
import http.server
import json
import socket
import struct
import threading
import time
import urllib.parse

from zookeeper import free_port

STALL_S = 4
EXCEPTIONS = {
    "refused": "AccessControlException", "token": "SecretManager$InvalidToken", "standby": "StandbyException",
    "retriable": "RetriableException", "safemode": "SafeModeException",
}


class Failed(Exception):
    def __init__(self, name, message, status=403):
        super().__init__(message)
        self.name, self.message, self.status = name, message, status


def parent(path):
    return path.rsplit("/", 1)[0] or "/"


class Webhdfs:
    def __init__(self, batch=1000, kind="webhdfs", authority=None, negotiate=False):
        """`kind` "httpfs": one server that passes the bytes itself, gives files no numbers, and knows no options of RENAME
        and no LISTSTATUS_BATCH, as old ones.
        `negotiate`: the NameNode asks for Kerberos."""
        self.kind, self.authority, self.negotiate = kind, authority, negotiate
        self.files, self.directories, self.ids = {}, {"/"}, {}
        self.shown = 0          # tickets that a DataNode has seen
        self.last_id = 16385    # no number twice, as that tells whose file it is
        self.lock = threading.Lock()
        self.batch = batch
        self.servers = []
        self.begin({})

    def __enter__(self):
        for role in ("name", "data"):
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            server.daemon_threads = True
            server.block_on_close = False
            server.hdfs, server.role = self, role
            if self.authority:
                self.authority.wrap(server)
            self.servers.append(server)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def port(self, role):
        return self.servers[role == "data"].server_address[1]

    def address(self, role):
        return f"{'https' if self.authority else 'http'}://127.0.0.1:{self.port(role)}"

    def uri(self, path):
        return f"hdfs://127.0.0.1:{self.port('name')}{path}"

    def begin(self, faults):
        """Counts anew. -> nothing"""
        self.faults, self.count, self.seen, self.renamed, self.tokens = dict(faults), 0, [], {}, set()

    def next_fault(self, operation):
        with self.lock:
            self.count += 1
            self.seen.append(operation)
            return self.faults.get(self.count, self.faults.get(0))

    # ---- the name space; all under the lock ----

    def make_directories(self, path):
        while path not in self.directories:
            if path in self.files:
                raise Failed("ParentNotDirectoryException", f"{path} (is not a directory)")
            self.directories.add(path)
            path = parent(path)

    def id_of(self, path):
        if path not in self.ids:
            self.last_id += 1
            self.ids[path] = self.last_id
        return self.ids[path]

    def status(self, path, suffix=""):
        is_directory = path in self.directories
        if not is_directory and path not in self.files:
            raise Failed("FileNotFoundException", f"File does not exist: {path}", 404)
        number = {} if self.kind == "httpfs" else {"fileId": self.id_of(path)}
        return {"pathSuffix": suffix, "type": "DIRECTORY" if is_directory else "FILE",
                "length": 0 if is_directory else len(self.files[path]), "modificationTime": 1700000000000, **number}

    def children(self, path):
        if path in self.files:
            return [self.status(path)]
        self.status(path)
        below = path.rstrip("/") + "/"
        names = {p[len(below):] for p in list(self.files) + list(self.directories)
                 if p.startswith(below) and p != "/" and "/" not in p[len(below):]}
        return [self.status(below + name, name) for name in sorted(names, key=lambda n: n.encode())]

    def rename(self, path, destination, options):
        if path not in self.files and path not in self.directories:
            raise Failed("FileNotFoundException", f"rename source {path} is not found.", 404)
        if destination in self.directories or (destination in self.files and options != "OVERWRITE"):
            raise Failed("FileAlreadyExistsException", f"rename destination {destination} already exists")
        self.files[destination] = self.files.pop(path)
        self.ids[destination] = self.id_of(path)
        del self.ids[path]
        self.renamed[destination] = self.renamed.get(destination, 0) + 1

    def delete(self, path, recursive):
        below = path.rstrip("/") + "/"
        inside = [p for p in list(self.files) + list(self.directories) if p.startswith(below)]
        if inside and not recursive:
            raise Failed("PathIsNotEmptyDirectoryException", f"`{path} is non empty': Directory is not empty")
        was_there = path in self.files or path in self.directories
        for p in inside + [path]:
            self.files.pop(p, None)
            self.ids.pop(p, None)
            self.directories.discard(p)
        return was_there


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def handle_expect_100(self):
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    # ---- a request ----

    def serve(self):
        hdfs, parts = self.server.hdfs, urllib.parse.urlsplit(self.path)
        self.path_name = urllib.parse.unquote(parts.path)[len("/webhdfs/v1"):] or "/"
        self.query = {k: v[-1] for k, v in urllib.parse.parse_qs(parts.query, keep_blank_values=True).items()}
        self.operation = self.query.get("op", "")
        hdfs.tokens.add(self.query.get("delegation"))
        fault = hdfs.next_fault(f"{self.server.role} {self.operation} {self.path_name}")
        try:
            self.misbehave(fault)
            self.check_user()
            body = self.take_body()
            with hdfs.lock:
                status, answer = self.on_data(body) if self.is_for_data() else self.on_name(fault)
            if fault == "500-after":
                return self.answer(500, b"<html>oops</html>")
            if fault == "reset-after":
                return self.reset()
            self.answer(status, answer, cut=fault == "truncated")
        except Failed as e:
            self.answer(e.status, json.dumps({"RemoteException": {"exception": e.name, "message": e.message}}).encode())
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_GET = do_PUT = do_DELETE = serve

    def is_for_data(self):
        if self.server.hdfs.kind == "webhdfs":
            return self.server.role == "data"
        return self.query.get("data") == "true" or (self.operation == "OPEN" and "noredirect" not in self.query)

    def check_user(self):
        """A NameNode that wants Kerberos and gets none; DataNodes get a token from it, and must get nothing else."""
        has_ticket = self.headers.get("Authorization", "").startswith("Negotiate ")
        if self.server.role == "data":
            self.server.hdfs.shown += has_ticket
        elif self.server.hdfs.negotiate and not has_ticket:
            self.take_body()
            self.answer(401, b"<html>Error 401 Authentication required</html>")
            raise ConnectionError

    def misbehave(self, fault):
        if fault == "reset":
            self.reset()
            raise ConnectionError
        if fault == "slow":
            time.sleep(STALL_S)
            self.close_connection = True
            raise ConnectionError
        if fault in ("500", "503", "html"):
            self.take_body()
            self.answer(int(fault) if fault.isdigit() else 404, b"<html>not now</html>")
            raise ConnectionError
        if fault in EXCEPTIONS:
            self.take_body()
            raise Failed(EXCEPTIONS[fault], f"planted: {fault}\n\tat java.lang.Some.where(Some.java:1)")

    def reset(self):
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def take_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = bytearray()
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return bytes(body)
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionError
        return body

    def answer(self, status, body, cut=False):
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if status == 401:
                self.send_header("WWW-Authenticate", "Negotiate")
            self.send_header("Content-Length", str(len(body) + (7 if cut else 0)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
        except OSError:
            self.close_connection = True
        if cut:
            self.close_connection = True

    # ---- what it does ----

    def on_name(self, fault):
        hdfs, path, query = self.server.hdfs, self.path_name, self.query
        if self.operation in ("CREATE", "OPEN"):
            if self.operation == "OPEN":
                self.check_range(path)
            if "127.0.0.1" in query.get("excludedatanodes", "").split(","):     # by address, as NameNodes do; there is but one
                raise Failed("IOException", "Failed to find datanode, suggest to check cluster health.")
            address = hdfs.address("name" if hdfs.kind == "httpfs" else "data")
            if fault == "dead":
                address = f"http://127.0.0.1:{free_port()}"
            more = {k: v for k, v in query.items() if k != "noredirect"}
            if hdfs.kind == "httpfs" and self.operation == "CREATE":
                more["data"] = "true"
            quoted = urllib.parse.quote(path, safe="/+").encode()
            location = f"{address}/webhdfs/v1{quoted.decode()}?{urllib.parse.urlencode(more)}"
            return 200, json.dumps({"Location": location}).encode()
        if self.operation == "GETFILESTATUS":
            return 200, json.dumps({"FileStatus": hdfs.status(path)}).encode()
        if self.operation == "LISTSTATUS":
            return 200, json.dumps({"FileStatuses": {"FileStatus": hdfs.children(path)}}).encode()
        if self.operation == "LISTSTATUS_BATCH" and hdfs.kind == "httpfs":
            raise Failed("QueryParamException", "java.lang.IllegalArgumentException: No enum constant Operation.LISTSTATUS_BATCH", 500)
        if self.operation == "LISTSTATUS_BATCH":
            after = query.get("startafter", "").encode()
            left = [s for s in hdfs.children(path) if not after or s["pathSuffix"].encode() > after]
            some = {"FileStatuses": {"FileStatus": left[:hdfs.batch]}}
            return 200, json.dumps({"DirectoryListing": {"partialListing": some,
                                                         "remainingEntries": len(left[hdfs.batch:])}}).encode()
        if self.operation == "MKDIRS":
            hdfs.make_directories(path)
            return 200, b'{"boolean": true}'
        if self.operation == "DELETE":
            was_there = hdfs.delete(path, query.get("recursive") == "true")
            return 200, json.dumps({"boolean": was_there}).encode()
        if self.operation == "RENAME":
            taken = hdfs.kind == "httpfs" and query["destination"] in [*hdfs.files, *hdfs.directories]
            if fault == "false" or taken:
                return 200, b'{"boolean": false}'
            hdfs.rename(path, query["destination"], query.get("renameoptions", "NONE"))
            return 200, b'{"boolean": true}' if hdfs.kind == "httpfs" else b""
        raise Failed("UnsupportedOperationException", f"op={self.operation} is not supported", 400)

    def check_range(self, path):
        length = self.server.hdfs.status(path)["length"]
        if int(self.query.get("offset", 0)) >= length:
            raise Failed("IOException", f"Offset={self.query.get('offset')} out of the range [0, {length})")

    def on_data(self, body):
        hdfs, path, query = self.server.hdfs, self.path_name, self.query
        if self.operation == "OPEN":
            self.check_range(path)
            offset = int(query.get("offset", 0))
            return 200, hdfs.files[path][offset:offset + int(query.get("length", 1 << 60))]
        if path in hdfs.files and query.get("overwrite") != "true":
            raise Failed("FileAlreadyExistsException", f"{path} already exists")
        hdfs.make_directories(parent(path))
        hdfs.files[path] = body
        return 201, b""


if __name__ == "__main__":
    with Webhdfs() as running:
        print(running.uri("/"), flush=True)
        while True:
            time.sleep(60)
