#!/usr/bin/env python3
"""Goal: from kill -9 of a server to the first step after it takes the session time-out and a second, for a model of
1 GiB on local disk; and no longer when a worker is killed.

Method: two servers, two workers and a ZooKeeper with a session time-out of 2 s. A job trains one epoch and takes its
last checkpoint, then goes on for many more; servers and workers are killed in turns, at random moments, and started again at
once. The time is that between the kill and the last rank's first step since, by the daemons' logs. When ZooKeeper took
the member for dead, when the job was formed anew and when its shards had restored tells where it went. The CPU time
that the servers took for it does not depend on who else uses the machine.

bench_recovery.py [KILLS [tiny|large]...]
"""
import datetime
import os
import random
import re
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "integration"))
import zookeeper  # noqa: E402
from cluster import Cluster  # noqa: E402
from harness import PARAMCTL, Workplace, clicks_csv, clicks_job, wait_until  # noqa: E402

SESSION_S = 2
AIM_S = SESSION_S + 1
DAEMONS = ("server-1", "server-2", "worker-1", "worker-2")
STAMP = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z ")
# 2 M rows of w with ftrl (3 floats) and v of 64 with adagrad (128 floats): 1 GiB
LARGE_ROWS, LARGE_DIM, LARGE_VALUES = 2_000_000, 64, 100

LARGE = """
name: large
data: {format: libsvm, train: large.svm, shuffle: none}
features: {features: {key: integer, separator: " ", value_weights: ":", max_values: 1000}}
model: {type: fm, dim: 64}
train: {batch_size: 100, ranks: 2, epochs: 100000, drain_every: 200}
checkpoint: {every_steps: 100000000, uri: STORE}
resources: {servers: 2, workers: 2}
"""


def make_large(place):
    per = LARGE_VALUES
    with open(os.path.join(place.path, "large.svm"), "w", encoding="ascii") as f:
        for e in range(LARGE_ROWS // per):
            f.write("01"[e % 2] + "".join(f" {k}:1" for k in range(e * per + 1, (e + 1) * per + 1)) + "\n")
    return LARGE.replace("large.svm", f"{place.path}/large.svm")


def make_tiny(place):
    place.file("train.csv", clicks_csv(2000))
    text = clicks_job("fm").replace("name: clicks", "name: tiny").replace(", eval: test.csv", "")
    text = text.replace("epochs: 2", "epochs: 100000").replace("ranks: 4", "ranks: 2")
    text = text.replace("train.csv", f"{place.path}/train.csv")
    return text.replace("every_steps: 20", "every_steps: 100, uri: STORE") + "resources: {servers: 2, workers: 2}\n"


MODELS = {"tiny": make_tiny, "large": make_large}


def seconds_of(line):
    match = STAMP.match(line)
    return datetime.datetime.strptime(match[1] + "+0000", "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() if match else 0


class Bench:
    def __init__(self, place, cluster, name):
        self.place, self.cluster, self.name = place, cluster, name

    def lines(self, since):
        """(time, text) of all daemons since a time, in order."""
        found = []
        for name in DAEMONS:
            for line in self.cluster.log(name).splitlines():
                at = seconds_of(line)
                if at >= since:
                    found.append((at, line))
        return sorted(found)

    def await_lines(self, since, text, count, seconds=120):
        def there():
            self.cluster.restart_dead()
            return sum(text in line for _, line in self.lines(since)) >= count
        if not wait_until(there, seconds):
            raise RuntimeError(f"'{text}' is not logged within {seconds} s")
        return [(at, line) for at, line in self.lines(since) if text in line]

    def begin(self):
        """Trains until there is a checkpoint with all rows, and goes on from it."""
        since = time.time()
        file = os.path.join(self.place.path, f"{self.name}.yaml")
        self.call("submit", "-f", file, "--fresh")
        first = 200 if self.name == "large" else 100
        if self.name == "large":
            wait_until(lambda: self.cluster.status(self.name).get("step", 0) > first, 300)
            self.call("checkpoint", "now", self.name)
        self.await_lines(since, "checkpoint name=", 1, 300)

    def call(self, *arguments):
        subprocess.run([PARAMCTL, *arguments, "--registry", self.cluster.registry], check=True,
                       stdout=subprocess.DEVNULL)

    def cpu_of_servers(self):
        ticks = 0
        for name in DAEMONS[:2]:
            with open(f"/proc/{self.cluster.daemons[name].pid}/stat", encoding="ascii") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill(self, name):
        """-> seconds to {what}, of which "first step" is the end"""
        since = time.time()
        self.cluster.kill(name)
        self.cluster.restart_dead()
        before = self.cpu_of_servers()
        took = {}
        if name.startswith("server"):
            took["seen"] = self.await_lines(since, " recovers: ", 1)[-1][0] - since
            formed = self.await_lines(since, "state=RESTORING", 1)[-1][0]
            took["formed"] = formed - since
            took["restored"] = self.await_lines(formed, "state=RUNNING", 1)[-1][0] - since
            steps = self.await_lines(formed, "first step", 2)
        else:
            took["seen"] = self.await_lines(since, " is out ", 1)[-1][0] - since
            steps = self.await_lines(since + took["seen"], "first step", 1)
        took["first step"] = steps[-1][0] - since
        took["CPU of the servers"] = self.cpu_of_servers() - before
        return took


def describe(kind, name, all_took):
    total = [t["first step"] for t in all_took]
    parts = ", ".join(f"{part} {statistics.median(t[part] for t in all_took):.2f}" for part in all_took[0])
    print(f"{name}, kill -9 of a {kind}: median {statistics.median(total):.2f} s, worst {max(total):.2f} s of "
          f"{len(total)} (session time-out {SESSION_S} s, aim {AIM_S} s); medians after the kill: {parts}", flush=True)


def play(name, kills):
    with Workplace() as place:
        place.file(f"{name}.yaml", MODELS[name](place).replace("STORE", f"file:{place.path}/store"))
        with zookeeper.ZooKeeper(os.path.join(place.path, "zookeeper")) as server, \
                Cluster(place.path, server.uri("paramd"), [f"registry_session_timeout={SESSION_S}s"]) as cluster:
            for daemon in DAEMONS:
                cluster.start(daemon)
            bench = Bench(place, cluster, name)
            bench.begin()
            used = subprocess.run(["du", "-sm", f"{place.path}/store"], capture_output=True, check=True)
            print(f"{name}: {int(used.stdout.split()[0])} MiB of checkpoints", flush=True)
            r = random.Random(1)
            for kind in ("server", "worker"):
                all_took = []
                for _ in range(kills):
                    time.sleep(2 + r.random() * 2)
                    all_took.append(bench.kill(f"{kind}-{r.choice((1, 2))}"))
                    print("        " + ", ".join(f"{k} {v:.2f}" for k, v in all_took[-1].items()), flush=True)
                describe(kind, name, all_took)


def main():
    why = zookeeper.why_not()
    if why:
        print(f"skipped: {why}")
        return
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name in sys.argv[2:] or MODELS:
        play(name, kills)


main()
