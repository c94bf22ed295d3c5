"""What the integration tests share: paths, data that is made on the spot, running paramctl, counting cases.

Standard library only. A test prints one line a case and ends with `N passed, N failed, N skipped`; it exits with 1
when a case failed and with 77, and the reason, when nothing could be tried.
"""
import gzip
import json
import os
import random
import resource
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PARAMCTL = os.environ.get("PARAMCTL", os.path.join(ROOT, "build", "paramctl"))
SHARED = os.path.join(os.path.dirname(ROOT), "shared", "data")


class Cases:
    """Counts outcomes; a case is a name and a condition with what was seen."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def check(self, name, good, seen=""):
        if good:
            self.passed += 1
            print(f"ok      {name}", flush=True)
        else:
            self.failed += 1
            print(f"FAILED  {name}  {seen}", flush=True)
        return good

    def skip(self, name, why):
        self.skipped += 1
        print(f"skipped {name}: {why}", flush=True)

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        if self.failed:
            sys.exit(1)
        if not self.passed:
            sys.exit(77)


class Workplace:
    """A temporary directory that goes away, with the processes that a test left in it."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="paramd-test-")
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def file(self, name, text):
        path = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        data = text.encode() if isinstance(text, str) else text
        if name.endswith(".gz"):
            data = gzip.compress(data, mtime=0)
        with open(path, "wb") as f:
            f.write(data)
        return path


def start(arguments, cwd, env=None):
    return subprocess.Popen([PARAMCTL] + arguments, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            stdin=subprocess.DEVNULL, env=dict(os.environ, **(env or {})))


def run(arguments, cwd, timeout=120, stdin=None, env=None):
    """-> (exit code or None when it ran out of time, stdout, stderr)"""
    process = subprocess.Popen([PARAMCTL] + arguments, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                               env=dict(os.environ, **(env or {})))
    try:
        out, err = process.communicate(stdin.encode() if isinstance(stdin, str) else stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return None, out.decode(errors="replace"), err.decode(errors="replace")
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def run_job(arguments, cwd, timeout=120):
    """`paramctl run -o json` -> its object; on any failure {"state": "…", "text": what was printed}"""
    code, out, err = run(["run", "-o", "json"] + arguments, cwd, timeout)
    try:
        result = json.loads(out)
    except ValueError:
        result = {"state": "none"}
    result["code"] = code
    result["text"] = err[-2000:]
    return result


def killed_and_resumed(r, arguments, cwd, clusters, when, kills=3, timeout=120):
    """Begins a job afresh, kills paramctl with -9 when `when(process)` returns, sees its processes die, resumes on another
    of the clusters, and lets it end after so many kills. -> as run_job()"""
    how = "--fresh"
    for _ in range(kills):
        process = start(["run", *arguments, how, *r.choice(clusters)], cwd)
        when(process)
        children = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not wait_until(lambda: not any(is_alive(c) for c in children), 20):
            return {"state": "none", "text": f"processes were left behind: {children}"}
        how = "--resume=auto"
    return run_job([*arguments, how, *r.choice(clusters)], cwd, timeout)


class Daemons:
    """paramd-server and paramd-worker processes of one cluster, started by hand; none outlives the block."""

    def __init__(self, place, registry, sets=()):
        self.place, self.registry, self.sets = place, registry, list(sets)
        self.processes = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def start(self, role, name, sets=()):
        """Logs go to NAME.log in the place; its working directory is not the place."""
        program = os.path.join(os.path.dirname(os.path.abspath(PARAMCTL)), "paramd-" + role)
        arguments = [program]
        scratch = os.path.join(self.place.path, "scratch")
        for text in [f"registry={self.registry}", f"name={name}", f"scratch={scratch}", *self.sets, *sets]:
            arguments += ["--set", text]
        with open(os.path.join(self.place.path, name + ".log"), "ab") as log:
            self.processes[name] = subprocess.Popen(arguments, cwd="/", stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        return self.processes[name]

    def kill(self, name):
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def log(self, name):
        with open(os.path.join(self.place.path, name + ".log"), errors="replace") as f:
            return f.read()


def children_of(pid):
    """Processes whose parent is `pid`, by /proc."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry))
    return found


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def why_no_cores():
    """None when cores are files in the working directory here."""
    with open("/proc/sys/kernel/core_pattern") as f:
        pattern = f.read().strip()
    return f"cores go to '{pattern}' here" if pattern.startswith("|") or "/" in pattern else None


def core_of(arguments, place, wait):
    """Ends a program by SIGABRT once wait() has returned -> what its core holds, or None when it leaves none."""
    directory = os.path.join(place.path, "core")
    os.mkdir(directory)
    process = subprocess.Popen(arguments, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=lambda:
                               resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
    wait()
    process.send_signal(signal.SIGABRT)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = -signal.SIGABRT
    held = b"".join(open(os.path.join(directory, name), "rb").read() for name in os.listdir(directory))
    shutil.rmtree(directory)
    return held if held or os.WCOREDUMP(status) else None


class Authority:
    """A certificate authority of our own making, and a server's certificate by it, as files in a place."""

    def __init__(self, place, name="authority", names="DNS:localhost,IP:127.0.0.1"):
        directory = os.path.dirname(place.file(f"{name}/names", f"subjectAltName={names}\n"))
        self.ca, self.certificate, self.key = (os.path.join(directory, n) for n in ("ca.pem", "certificate.pem", "key.pem"))
        new = ["-newkey", "rsa:2048", "-nodes"]
        for arguments in (["req", "-x509", *new, "-days", "2", "-subj", f"/CN={name}", "-keyout", "ca.key", "-out", "ca.pem"],
                          ["req", *new, "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request"],
                          ["x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
                           "-extfile", "names", "-out", "certificate.pem"]):
            subprocess.run(["openssl", *arguments], cwd=directory, check=True, stderr=subprocess.DEVNULL)

    def wrap(self, server):
        """An HTTP server of Python's library speaks TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None   # clients that do not trust it hang up


# ---- data ----

def clicks_csv(rows, seed=1):
    """A table with categories, numbers and a label that depends on them."""
    r = random.Random(seed)
    lines = ["label,user,item,hour,price"]
    for _ in range(rows):
        user, item, hour = r.randrange(300), r.randrange(200), r.randrange(24)
        price = round(r.random() * 100, 2)
        score = ((user * 7919 + 13) % 11 - 5) * 0.3 + ((item * 104729) % 7 - 3) * 0.4 + (price - 50) * 0.01
        if (user % 5) == (item % 5):
            score += 1.5
        label = 1 if r.random() < 1 / (1 + 2.718281828 ** -score) else 0
        lines.append(f"{label},u{user},i{item},{hour},{price}")
    return "\n".join(lines) + "\n"


def clicks_job(model="fm", extra=""):
    return f"""
name: clicks
data: {{format: csv, train: train.csv, eval: test.csv, label: label, shuffle: {{window: 4000}}}}
features:
  user: categorical
  item: categorical
  hour: categorical
  price: {{transform: [log1p, standardize]}}
model: {{type: {model}, dim: 8, hidden: [32, 16]}}
train: {{batch_size: 256, epochs: 2, ranks: 4, drain_every: 10}}
checkpoint: {{every_steps: 20}}
{extra}
"""
