"""A real ZooKeeper server for the integration tests: Debian's package, one server on a free port of this machine.

    with Workplace() as place, ZooKeeper(place.path + "/zookeeper") as server:
        uri = server.uri("cluster")     # zk://127.0.0.1:PORT/cluster
        server.kill(); server.start()   # same data: sessions shorter away than their time-out go on
        server.pause(); server.resume()
        server.kill(); server.wipe(); server.start()

Sessions can be as short as two ticks. `python3 zookeeper.py [DIRECTORY [PORT]]` runs one until it is interrupted.
"""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

JAR = "/usr/share/java/zookeeper.jar"
LOGGING = "/etc/zookeeper/conf"
PR_SET_PDEATHSIG = 1


def why_not():
    """None when a server can be started here, else the reason, for a test that is skipped."""
    if not os.path.exists(JAR):
        return f"{JAR} is not there: the package zookeeper is not installed"
    if shutil.which("java") is None:
        return "there is no java"
    return None


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class ZooKeeper:
    """Keeps zoo.cfg, data and log in `directory`. Started by `with`, or by start()."""

    def __init__(self, directory, tick_ms=200, port=None, address="127.0.0.1"):
        self.directory = os.path.abspath(directory)
        self.address = address
        self.port = port or free_port()
        self.process = None
        os.makedirs(self.directory, exist_ok=True)
        self.config = os.path.join(self.directory, "zoo.cfg")
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(f"tickTime={tick_ms}\ndataDir={self.data}\nclientPortAddress={address}\nclientPort={self.port}\n"
                    f"admin.enableServer=false\nminSessionTimeout={2 * tick_ms}\nmaxSessionTimeout=60000\n"
                    "maxClientCnxns=0\n4lw.commands.whitelist=ruok,stat,mntr\n")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def data(self):
        return os.path.join(self.directory, "data")

    @property
    def log(self):
        return os.path.join(self.directory, "log")

    @property
    def pid(self):
        return self.process.pid if self.process else None

    def uri(self, cluster):
        return f"zk://{self.address}:{self.port}/{cluster}"

    def ask(self, word, timeout_s=2):
        """The answer to one of ZooKeeper's four-letter words; None when there is none."""
        try:
            with socket.create_connection((self.address, self.port), timeout=timeout_s) as s:
                s.sendall(word.encode())
                answer = b""
                while part := s.recv(65536):
                    answer += part
                return answer.decode()
        except OSError:
            return None

    def is_serving(self):
        """`ruok` is answered before there is a server behind it, so a question about the data."""
        answer = self.ask("stat")
        return answer is not None and "Mode:" in answer

    def start(self, timeout_s=60):
        """Returns when it serves."""
        assert self.process is None, "it runs already"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                 "-Dzookeeper.jmx.log4j.disable=true", "-cp", f"{LOGGING}:{JAR}",
                 "org.apache.zookeeper.server.ZooKeeperServerMain", self.config],
                cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent)
        until = time.monotonic() + timeout_s
        while not self.is_serving():
            code = self.process.poll()
            if code is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"ZooKeeper does not start (exit {code}); see {self.log}")
            time.sleep(0.02)

    def end(self, signal_number, timeout_s=20):
        if self.process is None:
            return
        self.process.send_signal(signal_number)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def stop(self):
        self.end(signal.SIGTERM)

    def kill(self):
        self.end(signal.SIGKILL)

    def pause(self):
        """It takes connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def wipe(self):
        """Forgets all that it held; while it does not run."""
        assert self.process is None, "it runs"
        shutil.rmtree(self.data, ignore_errors=True)


def main():
    reason = why_not()
    if reason:
        sys.exit(reason)
    directory = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="paramd-zookeeper-")
    with ZooKeeper(directory, tick_ms=500, port=int(sys.argv[2]) if len(sys.argv) > 2 else None) as server:
        print(f"{server.uri('cluster')}   (data and log in {server.directory})", flush=True)
        try:
            server.process.wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
