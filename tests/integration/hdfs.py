"""A real HDFS for the integration tests: Hadoop's NameNode and DataNodes on free ports of 127.0.0.1.

    with Workplace() as place, Hdfs(place.path + "/hdfs") as hdfs:
        uri = hdfs.uri("/data")             # hdfs://127.0.0.1:PORT/data; of a pair, both NameNodes
        hdfs.command("active", 1)           # a pair's second NameNode takes over
        hdfs.command("stop-datanode", 0)    # each has an address of its own, the first one's is 127.0.0.1
        hdfs.request("PUT", "/data", op="MKDIRS")

What is needed comes with deploy/install-storage-tests.sh. `python3 hdfs.py [DIRECTORY [NAMENODES [DATANODES]]]` runs one until it is
interrupted, and passes on what is typed.
"""
import http.client
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

from zookeeper import die_with_parent, free_port

CACHE = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
BUILT = os.path.join(os.environ.get("PARAMD_TEST_SERVERS") or os.path.join(CACHE, "paramd", "test-servers"), "hdfs")


def why_not():
    """None when an HDFS can be started here, else the reason, for a test that is skipped."""
    if shutil.which("java") is None:
        return "there is no java"
    if not os.path.exists(os.path.join(BUILT, "stamp")):
        return f"Hadoop's jars are not in {BUILT}: deploy/install-storage-tests.sh fetches them"
    return None


class Hdfs:
    """One NameNode, or a pair, and DataNodes, in one Java process. Its files and log are in `directory`."""

    host = "127.0.0.1"

    def __init__(self, directory, namenodes=1, datanodes=1, settings=(), heap="384m", ports=None, java=()):
        self.directory = os.path.abspath(directory)
        self.ports = ports or [free_port() for _ in range(namenodes)]
        self.datanodes = datanodes
        self.settings = list(settings)
        self.heap = heap
        self.java = list(java)
        self.process = None
        self.said = None
        os.makedirs(self.directory, exist_ok=True)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def log(self):
        return os.path.join(self.directory, "log")

    def uri(self, path="/"):
        return "hdfs://" + ",".join(f"{self.host}:{port}" for port in self.ports) + path

    def start(self, timeout_s=180, fresh=True):
        """Returns when it serves. Not `fresh`: what an earlier one held is still there (not of a pair)."""
        assert self.process is None, "it runs already"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["java", f"-Xmx{self.heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *self.java,
                 "-cp", f"{BUILT}/classes:{BUILT}/jars/*", "Cluster", f"directory={self.directory}/data",
                 "http=" + ",".join(map(str, self.ports)), f"datanodes={self.datanodes}",
                 f"format={str(fresh).lower()}", *self.settings],
                cwd=self.directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                preexec_fn=die_with_parent)
        self.said = queue.Queue()
        threading.Thread(target=self.listen, args=(self.process.stdout, self.said), daemon=True).start()
        if self.hear(timeout_s) != "ready":
            self.kill()
            raise RuntimeError(f"HDFS does not start; see {self.log}")

    @staticmethod
    def listen(lines, said):
        for line in lines:
            if line.strip() == "ready" or line.startswith(("ok", "error ")):
                said.put(line.strip())
        said.put(None)

    def hear(self, timeout_s):
        try:
            return self.said.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def command(self, *words, timeout_s=120):
        """What Cluster.java answers after "ok"."""
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.hear(timeout_s)
        if answer is None or not answer.startswith("ok"):
            raise RuntimeError(f"hdfs: {' '.join(map(str, words))}: {answer}")
        return answer[2:].strip()

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process = None

    # ---- what a test does by itself, past paramd ----

    def ask(self, method, url, body=None, timeout_s=60):
        """-> (status, headers, body)"""
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        try:
            # A NameNode's Location has letters beyond ASCII as they are.
            target = parts.path + ("?" + parts.query if parts.query else "")
            connection.request(method, urllib.parse.quote(target, safe="/?&=%+:,;@!$'()*~"), body=body)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def request(self, method, path, user="root", node=0, **parameters):
        """One request to a NameNode -> (status, headers, body)"""
        query = urllib.parse.urlencode({**parameters, "user.name": user})
        return self.ask(method, f"http://127.0.0.1:{self.ports[node]}/webhdfs/v1{urllib.parse.quote(path)}?{query}")

    def put(self, path, data, node=0):
        status, _, body = self.request("PUT", path, node=node, op="CREATE", overwrite="true", noredirect="true")
        assert status == 200, body
        status, _, body = self.ask("PUT", json.loads(body)["Location"], body=data)
        assert status == 201, (status, body)

    def put_tree(self, local, path):
        for name in sorted(os.listdir(local)):
            below = os.path.join(local, name)
            if os.path.isdir(below):
                self.put_tree(below, f"{path}/{name}")
            else:
                with open(below, "rb") as f:
                    self.put(f"{path}/{name}", f)

    def get(self, path, node=0):
        status, _, body = self.request("GET", path, node=node, op="OPEN", noredirect="true")
        assert status == 200, body
        status, _, body = self.ask("GET", json.loads(body)["Location"])
        assert status == 200, (status, body)
        return body

    def names(self, path, node=0):
        """Names in a directory; None when it is not there."""
        status, _, body = self.request("GET", path, node=node, op="LISTSTATUS")
        if status == 404:
            return None
        return [f["pathSuffix"] for f in json.loads(body)["FileStatuses"]["FileStatus"]]


def main():
    reason = why_not()
    if reason:
        sys.exit(reason)
    directory = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="paramd-hdfs-")
    counts = [int(n) for n in sys.argv[2:4]]
    with Hdfs(directory, *counts) as hdfs:
        print(f"{hdfs.uri()}   (data and log in {hdfs.directory})", flush=True)
        try:
            for line in sys.stdin:
                try:
                    print("ok", hdfs.command(*line.split()), flush=True)
                except RuntimeError as e:
                    print(e, flush=True)
            while hdfs.process.poll() is None:
                time.sleep(0.5)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
