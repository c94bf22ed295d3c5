#!/usr/bin/env python3
# timeout: 600
"""Goal: whatever is cut off from whatever for ten seconds, the job ends with the same model, and nothing hangs.

Method: every daemon on a host of its own (network.py), ZooKeeper on another; nft drops what one sends to another, what it
gets from it, or both: a worker and one server, with the coordinator on it or not; a worker, a server, the coordinator
and ZooKeeper; the two servers. Session and peer time-outs are 2 s, so whoever cannot be reached is given up long before
the cut is mended. Results are judged as in faults.py. Skipped where namespaces or nft are not permitted.

    faults_network.py [--rounds N] [--seed S] [--only TEXT]... [--keep DIRECTORY]
"""
import argparse
import os
import random
import re
import sys
import time

import network
import zookeeper
from disturb import BOUND, DAEMONS, LAST_STEP, SERVERS, WORKERS, Field, Jobs
from harness import Cases, Workplace

CUT = 10  # seconds
NAMES = ("depth2", "count", "depth0")


def follower(cluster):
    return next(s for s in SERVERS if s != leader(cluster))


def leader(cluster):
    return cluster.leader() or SERVERS[0]


# kind -> (who is cut off, from whom; None: ZooKeeper)
CUTS = {
    "worker from a server": (lambda c, r: r.choice(WORKERS), follower),
    "worker from the coordinator": (lambda c, r: r.choice(WORKERS), leader),
    "worker from ZooKeeper": (lambda c, r: r.choice(WORKERS), None),
    "server from ZooKeeper": (lambda c, r: follower(c), None),
    "coordinator from ZooKeeper": (lambda c, r: leader(c), None),
    "server from the coordinator": (lambda c, r: follower(c), leader),
}
WAYS = {"both ways": ("in", "out"), "what it sends": ("out",), "what it gets": ("in",)}


def host(cluster, name):
    return f"{os.path.basename(cluster.place)}/{name}"


def cut(net, kind, ways, seconds=CUT):
    who, whom = CUTS[kind]

    def disturb(run):
        run.await_step(run.random.randrange(1, LAST_STEP[run.name] // 2))
        name = host(run.cluster, who(run.cluster, run.random))
        address = net.address(host(run.cluster, whom(run.cluster))) if whom else net.gateway
        step = max(run.checkpoints(), default=0)
        net.cut(name, address, ways)
        try:
            end = time.monotonic() + seconds
            run.sleep(seconds)
            if seconds < BOUND:
                time.sleep(max(0, end - time.monotonic()))  # also when the job is over sooner
            elif not re.search("is out .*(has|have) not answered", run.log()):
                raise RuntimeError("nothing in the logs says why the ranks move")
        finally:
            net.mend(name)
        return f"past step {step}"
    return disturb


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--clusters", type=int, default=9)
    parser.add_argument("--seed", type=int, default=random.randrange(1000, 1000000))
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--keep")
    a = parser.parse_args()
    why = zookeeper.why_not() or (None if network.INSIDE in os.environ else network.why_not())
    if why:
        print(why)
        sys.exit(77)
    network.enter()
    cases = Cases()
    print(f"seed {a.seed}", flush=True)
    with Workplace() as place, network.Network() as net:
        jobs = Jobs(place)
        for name in ("depth0", "depth2"):
            jobs.reference(name, cases)
        server = zookeeper.ZooKeeper(os.path.join(place.path, "zookeeper"), address=net.gateway)
        server.start()

        def prepare(cluster, _):
            for name in DAEMONS:
                net.add(host(cluster, name))
                cluster.prefix[name] = net.prefix(host(cluster, name))
                cluster.own[name] = [f"listen={net.address(host(cluster, name))}:0"]

        registries = [server.uri(f"paramd{i}") for i in range(a.clusters)]
        field = Field(jobs, cases, registries, ["registry_session_timeout=2s", "stall_timeout=24s"], a.keep,
                      prepare)
        def add(*task):
            if all(text in f"{task[0]}, {task[1]}, seed {task[2]}" for text in a.only):
                field.add(*task)

        for i in range(a.rounds):
            # The longest first. The other worker has to take over what this one cannot do.
            add("cut off: worker from a server, for good", NAMES[i % 3], a.seed + i,
                cut(net, "worker from a server", ("in", "out"), BOUND))
            for k, kind in enumerate(CUTS):
                for w, (words, ways) in enumerate(WAYS.items()):
                    add(f"cut off: {kind}, {words}", NAMES[(i + k + w) % 3], a.seed + i, cut(net, kind, ways))
        field.play()
        server.stop()
    field.summary()
    cases.end()


main()
