"""A real HttpFS for the integration tests: Hadoop's own, in front of an HDFS of hdfs.py.

    with Hdfs(directory, settings=PROXY) as hdfs, HttpFs(place.path + "/httpfs", hdfs) as gate:
        uri = gate.uri("/data")             # all bytes go through it

It acts for the users that its requests name, which HDFS allows by PROXY. Comes with deploy/install-storage-tests.sh.
"""
import getpass
import os
import shutil
import subprocess
import time

import hdfs
from zookeeper import die_with_parent, free_port

BUILT = os.path.join(os.path.dirname(hdfs.BUILT), "httpfs")
MAIN = "org.apache.hadoop.fs.http.server.HttpFSServerWebServer"


def proxy_settings(user):
    return [f"hadoop.proxyuser.{user}.hosts=*", f"hadoop.proxyuser.{user}.groups=*"]


PROXY = proxy_settings(getpass.getuser())


def why_not():
    """None when an HttpFS can be started here, else the reason, for a test that is skipped."""
    if not os.path.exists(os.path.join(BUILT, "stamp")):
        return f"HttpFS's jars are not in {BUILT}: deploy/install-storage-tests.sh fetches them"
    return hdfs.why_not()


class HttpFs(hdfs.Hdfs):
    """Asked as a NameNode is. Its files and log are in `directory`."""

    def __init__(self, directory, behind, settings=None, hadoop=None, java=(), heap="256m"):
        """`settings` are its own, `hadoop` those of the HDFS client in it."""
        super().__init__(directory, heap=heap, java=java)
        self.behind, self.settings, self.hadoop = behind, settings or {}, hadoop or {}

    def write(self, name, settings):
        rows = "".join(f"<property><name>{k}</name><value>{v}</value></property>\n" for k, v in settings.items())
        with open(os.path.join(self.directory, name), "w") as f:
            f.write(f"<configuration>\n{rows}</configuration>\n")

    def start(self, timeout_s=120, fresh=True):
        rpc = self.behind.command("rpc", 0)
        self.write("core-site.xml", {"fs.defaultFS": f"hdfs://{self.behind.host}:{rpc}", **self.hadoop})
        self.write("hdfs-site.xml", {"dfs.replication": "1"})
        own = {"httpfs.http.port": self.ports[0], "httpfs.http.hostname": self.host}
        self.write("httpfs-site.xml", {**own, **self.settings})
        with open(os.path.join(self.directory, "httpfs-signature.secret"), "w") as f:
            f.write("of cookies that nobody uses")
        log4j = os.path.join(hdfs.BUILT, "classes", "log4j.properties")
        shutil.copy(log4j, os.path.join(self.directory, "httpfs-log4j.properties"))
        places = [f"-Dhttpfs.{what}.dir={self.directory}" for what in ("home", "config", "log", "temp")]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["java", f"-Xmx{self.heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "--add-opens",
                 "java.base/java.lang=ALL-UNNAMED", *self.java, *places,
                 f"-Dhadoop.tmp.dir={self.directory}", "-cp", f"{self.directory}:{BUILT}/jars/*", MAIN],
                cwd=self.directory, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, preexec_fn=die_with_parent)
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("GET", f"http://{self.host}:{self.ports[0]}/webhdfs/v1/?op=GETHOMEDIRECTORY&user.name=root")
                return
            except OSError:
                time.sleep(0.1)
        self.kill()
        raise RuntimeError(f"HttpFS does not start; see {self.log}")
