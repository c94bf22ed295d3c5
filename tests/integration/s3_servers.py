"""Real S3 servers on loopback for the tests of storage, and a client of our own to prepare and look.

VersityGW keeps objects as files, checks signatures, and knows conditional puts, but not atomically. Swift is Debian's
OpenStack Swift with its s3api: it checks signatures and answers 501 to conditional puts. Both forget all at the end.
"""
import contextlib
import datetime
import getpass
import hashlib
import hmac
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.parse
import xml.etree.ElementTree

ACCESS_KEY = "test:tester"      # Swift's tempauth wants the colon
SECRET_KEY = "s3cr3t-Canary-Key"
REGION = "us-east-1"
KEPT = os.environ.get("PARAMD_TEST_SERVERS") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "paramd", "test-servers")


class Unavailable(Exception):
    """The server cannot be had here; the text says why."""


def free_port():
    with contextlib.closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(endpoint):
    """What a program needs to reach a server; nothing of the machine's own credentials is looked at."""
    e = {k: v for k, v in os.environ.items() if not k.startswith("AWS_") and not k.lower().endswith("_proxy")}
    e.update(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, AWS_REGION=REGION,
             AWS_ENDPOINT_URL_S3=endpoint, AWS_EC2_METADATA_DISABLED="true",
             AWS_SHARED_CREDENTIALS_FILE="/dev/null")
    return e


def enter(endpoint):
    """The same for this process and all that it starts."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update({k: v for k, v in environment(endpoint).items() if k.startswith("AWS_")})


class Client:
    """Requests with Signature V4, by Python's own library."""

    def __init__(self, port, ca=None):
        self.port, self.context = port, ca and ssl.create_default_context(cafile=ca)

    def connect(self):
        if self.context:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def sign(self, method, path, query, headers, body, digest=None):
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        digest = digest or hashlib.sha256(body).hexdigest()
        headers = dict(headers, host=f"127.0.0.1:{self.port}")
        headers["x-amz-date"] = now
        headers["x-amz-content-sha256"] = digest
        names = ";".join(sorted(headers))
        canonical = "\n".join([method, path, query, *(f"{k}:{headers[k]}" for k in sorted(headers)), "", names, digest])
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = ("AWS4" + SECRET_KEY).encode()
        for part in (now[:8], REGION, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        headers["authorization"] = (f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope},SignedHeaders={names},"
                                    f"Signature={signature}")
        return headers

    def request(self, method, bucket, key="", query=None, body=b"", connection=None):
        """-> (status, headers, body)"""
        path = urllib.parse.quote(f"/{bucket}" + (f"/{key}" if key else ""), safe="/~")
        text = "&".join(f"{urllib.parse.quote(k, safe='~')}={urllib.parse.quote(v, safe='~')}"
                        for k, v in sorted((query or {}).items()))
        headers = self.sign(method, path, text, {}, body)
        c = connection or self.connect()
        c.request(method, path + ("?" + text if text else ""), body=body, headers=headers)
        answer = c.getresponse()
        data = answer.read()
        if connection is None:
            c.close()
        return answer.status, dict(answer.getheaders()), data

    def put(self, bucket, key, body, connection=None):
        status, _, data = self.request("PUT", bucket, key, body=body, connection=connection)
        assert status == 200, (status, data)

    def get(self, bucket, key):
        status, _, data = self.request("GET", bucket, key)
        return data if status == 200 else None

    def make_bucket(self, bucket):
        status, _, data = self.request("PUT", bucket)
        assert status == 200, (status, data)

    def names(self, bucket, directory):
        """What is right below "a/b/": names of objects, and of levels; up to 1000."""
        status, _, data = self.request("GET", bucket, query={"list-type": "2", "delimiter": "/", "prefix": directory})
        assert status == 200, (status, data)
        root = xml.etree.ElementTree.fromstring(data)
        keys = [e.text for c in root for e in c if e.tag.endswith("Key") or (c.tag.endswith("CommonPrefixes") and
                                                                             e.tag.endswith("Prefix"))]
        return [k[len(directory):].rstrip("/") for k in keys if k != directory]

    def uploads(self, bucket):
        """Keys of unfinished multipart uploads."""
        status, _, data = self.request("GET", bucket, query={"uploads": ""})
        assert status == 200, (status, data)
        root = xml.etree.ElementTree.fromstring(data)
        return [e.text for u in root if u.tag.endswith("Upload") for e in u if e.tag.endswith("Key")]


class Server:
    """The processes of a server and its directory, both gone at the end. With an Authority it speaks TLS."""

    def __init__(self, authority=None):
        self.authority = authority

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="paramd-s3-")
        self.processes = []
        self.port = free_port()
        self.endpoint = f"{'https' if self.authority else 'http'}://127.0.0.1:{self.port}"
        self.client = Client(self.port, self.authority and self.authority.ca)
        try:
            self.start()
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for p in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(p.pid, signal.SIGKILL)
            p.wait()
        shutil.rmtree(self.path, ignore_errors=True)

    # ---- as Hdfs has them; paths begin with a slash ----

    def enter(self):
        enter(self.endpoint)

    def uri(self, path="/"):
        return "s3://bucket" + path

    def put_tree(self, local, path):
        for name in sorted(os.listdir(local)):
            below = os.path.join(local, name)
            if os.path.isdir(below):
                self.put_tree(below, f"{path}/{name}")
            else:
                with open(below, "rb") as f:
                    self.client.put("bucket", f"{path}/{name}"[1:], f.read())

    def names(self, path):
        return self.client.names("bucket", path[1:] + "/")

    def run(self, arguments, env=None):
        with open(os.path.join(self.path, "log"), "ab") as log:
            self.processes.append(subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                   env=dict(os.environ, **(env or {})), start_new_session=True))

    def wait(self):
        until = time.monotonic() + 90
        while True:
            try:
                self.client.make_bucket("bucket")
                return
            except (OSError, AssertionError, http.client.HTTPException) as e:
                if time.monotonic() > until or any(p.poll() is not None for p in self.processes):
                    with open(os.path.join(self.path, "log"), errors="replace") as log:
                        raise RuntimeError(f"{type(self).__name__} does not start: {e}: {log.read()[-2000:]}") from e
                time.sleep(0.2)


class VersityGW(Server):
    name = "versitygw"
    has_atomic_conditions = False

    def start(self):
        program = os.path.join(KEPT, "versitygw-v1.7.0")
        if not os.access(program, os.X_OK):
            raise Unavailable(f"no {program}: see deploy/install-storage-tests.sh")
        for name in ("data", "meta"):
            os.mkdir(os.path.join(self.path, name))
        tls = ["--cert", self.authority.certificate, "--key", self.authority.key] if self.authority else []
        self.run([program, "--port", f"127.0.0.1:{self.port}", *tls, "--keep-alive", "--quiet", "posix", "--sidecar",
                  os.path.join(self.path, "meta"), os.path.join(self.path, "data")],
                 {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY})


PROXY_CONF = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {path}
workers = 0
log_level = WARNING
[pipeline:main]
pipeline = catch_errors cache s3api tempauth bulk slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
"""

BACK_CONF = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {path}
devices = {path}/devices
mount_check = false
workers = 0
log_level = WARNING
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

# Swift reads /etc/swift unless it is told so from within.
LAUNCH = """import sys
from swift.common import utils
utils.set_swift_dir(sys.argv[1])
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(sys.argv[2], sys.argv[3]))
"""


class Swift(Server):
    name = "swift"
    has_atomic_conditions = False
    python = "/usr/bin/python3"

    def start(self):
        if not shutil.which("swift-ring-builder") or not shutil.which("memcached"):
            raise Unavailable("no swift-ring-builder or memcached: see deploy/install-storage-tests.sh")
        try:
            os.setxattr(self.path, "user.test", b"1")
        except OSError as e:
            raise Unavailable(f"the file system of {self.path} keeps no extended attributes: {e}") from e
        memcached = free_port()
        self.run(["memcached", "-l", "127.0.0.1", "-p", str(memcached), "-u", getpass.getuser()])
        os.makedirs(os.path.join(self.path, "devices", "d1"))
        self.write("swift.conf", "[swift-hash]\nswift_hash_path_suffix = tests\n")
        values = {"user": getpass.getuser(), "path": self.path, "memcached": memcached, "secret": SECRET_KEY,
                  "region": REGION}
        for kind in ("account", "container", "object"):
            port = free_port()
            self.write(f"{kind}.conf", BACK_CONF.format(kind=kind, port=port, **values))
            builder = os.path.join(self.path, f"{kind}.builder")
            for step in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
                subprocess.run(["swift-ring-builder", builder, *step], check=True, stdout=subprocess.DEVNULL)
            self.launch(kind)
        self.write("proxy.conf", PROXY_CONF.format(port=self.port, **values))
        self.launch("proxy")

    def write(self, name, text):
        with open(os.path.join(self.path, name), "w") as f:
            f.write(text)

    def launch(self, kind):
        self.run([self.python, "-c", LAUNCH, self.path, os.path.join(self.path, f"{kind}.conf"), f"{kind}-server"])
