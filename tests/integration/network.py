"""Hosts on a network of their own, for tests that cut some of them off from others.

The test runs in a network namespace (enter()), which has a bridge; each host is another one, joined to the bridge. What
is cut is dropped by nft in a host's own namespace. Nothing of it is seen outside, and all of it goes with the test.

    network.enter()                       # once, first of all; the program begins anew in its namespace
    with network.Network() as net:
        net.add("a"); net.add("b")        # addresses: net.address("a"), net.gateway
        Popen(net.prefix("a") + [...])    # runs on a
        net.cut("a", net.address("b"), ("in", "out")); net.mend("a")
"""
import os
import shutil
import subprocess
import sys
import threading
import time

from zookeeper import die_with_parent

INSIDE = "PARAMD_TEST_NETWORK"
TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "nft": "nftables"}


def why_not():
    """None when namespaces, a bridge and nft work here, else the reason, for a test that is skipped."""
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"there is no {tool} (package {package})"
    probe = "ip link add probe0 type bridge && ip link add probe1 type veth peer name probe2 && nft add table inet probe"
    tried = subprocess.run(namespace() + ["sh", "-ec", probe], capture_output=True, check=False)
    if tried.returncode != 0:
        return f"no network namespace with a bridge and nft: {tried.stderr.decode(errors='replace').strip()[-200:]}"
    return None


def namespace():
    """A command that runs another one in a new network namespace, also for those who are not root."""
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]


def enter():
    if INSIDE not in os.environ:
        os.execvpe("unshare", namespace() + [sys.executable] + sys.argv, dict(os.environ, **{INSIDE: "1"}))


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Network:
    gateway = "10.77.0.1"

    def __init__(self):
        self.lock = threading.Lock()
        self.hosts = {}  # name -> (process that holds the namespace, address)

    def __enter__(self):
        ip("link", "set", "lo", "up")
        ip("link", "add", "bridge0", "type", "bridge")
        ip("address", "add", f"{self.gateway}/16", "dev", "bridge0")
        ip("link", "set", "bridge0", "up")
        return self

    def __exit__(self, *_):
        for process, _ in self.hosts.values():
            process.kill()
            process.wait()

    def add(self, name):
        """From any thread."""
        process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL,
                                   preexec_fn=die_with_parent)
        with self.lock:
            number = len(self.hosts) + 2
            self.hosts[name] = (process, f"10.77.{number // 250}.{number % 250}")
        ours = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{process.pid}/ns/net") == ours:
            time.sleep(0.005)
        ip("link", "add", f"host{number}", "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        ip("link", "set", f"host{number}", "master", "bridge0", "up")
        for words in (["link", "set", "lo", "up"], ["address", "add", f"{self.address(name)}/16", "dev", "eth0"],
                      ["link", "set", "eth0", "up"]):
            subprocess.run(self.prefix(name) + ["ip"] + words, check=True)

    def address(self, name):
        return self.hosts[name][1]

    def prefix(self, name):
        return ["nsenter", "--target", str(self.hosts[name][0].pid), "--net"]

    def nft(self, name, text):
        subprocess.run(self.prefix(name) + ["nft", "-f", "-"], input=text.encode(), check=True)

    def cut(self, name, address, ways=("in", "out")):
        """From now on nothing from the address reaches it, or nothing that it sends gets there, or both."""
        self.nft(name, "table inet cut {\n"
                 + "chain in { type filter hook input priority 0;"
                 + (f" ip saddr {address} drop;" if "in" in ways else "") + " }\n"
                 + "chain out { type filter hook output priority 0;"
                 + (f" ip daddr {address} drop;" if "out" in ways else "") + " }\n}\n")

    def mend(self, name):
        self.nft(name, "delete table inet cut\n")
