#!/usr/bin/env python3
# timeout: 1500
"""Goal: a job on a cluster loses any process at any time and ends with the same model.

Method: real daemons (two servers, two workers) and a registry; a small job is disturbed at random moments by kill -9 of a
server, a worker, the coordinator, everything, by SIGSTOP past the time-outs and SIGCONT, by SIGTERM; what dies is
started again, as a service manager would. The digest of the result is compared with that of an undisturbed run of one
server and one worker, at pipeline depths 0 and 2; in asp the counting model has to be exact. Times from a kill to the
first step after it are printed beside the time-outs that were set.

faults.py [RUNS [KIND…]]     RUNS a kind and depth; REGISTRY=local: takes the registry of one machine, not ZooKeeper
"""
import os
import random
import signal
import statistics
import sys
import time

import zookeeper
from cluster import Cluster
from harness import Cases, Workplace, clicks_csv, clicks_job, run_job

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 0  # 0: five of each kind of kill, two of the others
KINDS = sys.argv[2:]
SEED = int(os.environ.get("SEED", "1"))
BOUND = 90  # seconds a disturbed run may take; an undisturbed one takes about five
cases = Cases()
recoveries = {}


def step_of(status):
    return int(status.get("step", 0) or 0)


def wait_for_step(cluster, job, step, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = cluster.status(job)
        if status.get("state") in ("DONE", "FAILED", "STOPPED") or step_of(status) >= step:
            return status
        time.sleep(0.02)
    return cluster.status(job)


def names(cluster, role):
    return sorted(n for n in cluster.daemons if n.startswith(role))


def kill_server(cluster, r):
    cluster.kill(r.choice(names(cluster, "server")))


def kill_worker(cluster, r):
    cluster.kill(r.choice(names(cluster, "worker")))


def kill_leader(cluster, r):
    cluster.kill(cluster.leader() or "server-1")


def kill_all(cluster, r):
    for name in list(cluster.daemons):
        cluster.kill(name)


def kill_twice(cluster, r):
    """The second during the recovery from the first."""
    kill_server(cluster, r)
    for _ in range(3):
        time.sleep(r.random() * 0.7)
        cluster.restart_dead()
    cluster.kill(r.choice(sorted(cluster.daemons)))


def pause(role):
    def act(cluster, r):
        name = r.choice(names(cluster, role)) if role != "leader" else cluster.leader() or "server-1"
        cluster.kill(name, signal.SIGSTOP)
        time.sleep(4 + r.random())  # past every time-out
        cluster.kill(name, signal.SIGCONT)
    return act


def drain(role):
    def act(cluster, r):
        cluster.kill(r.choice(names(cluster, role)), signal.SIGTERM)
    return act


ACTS = {
    "kill a server": kill_server,
    "kill a worker": kill_worker,
    "kill the coordinator": kill_leader,
    "kill everything": kill_all,
    "kill twice": kill_twice,
    "stop and continue a server": pause("server"),
    "stop and continue a worker": pause("worker"),
    "stop and continue the coordinator": pause("leader"),
    "drain a server": drain("server"),
    "drain a worker": drain("worker"),
}


def make_jobs(place):
    for depth in (0, 2):
        job = clicks_job("fm").replace("name: clicks", f"name: depth{depth}").replace("epochs: 2", "epochs: 25")
        job = job.replace("ranks: 4", f"ranks: 4, pipeline_depth: {depth}")
        job = job.replace("train.csv", f"{place.path}/train.csv").replace("test.csv", f"{place.path}/test.csv")
        job += "resources: {servers: 2, workers: 2, shards: 2}\n"
        job = job.replace("checkpoint: {every_steps: 20}", f"checkpoint: {{every_steps: 20, uri: {place.path}/store}}")
        place.file(f"depth{depth}.yaml", job)


def measure(cluster, job, kind, before):
    """Seconds until the job is past where it stood when it was disturbed."""
    start = time.monotonic()
    status = {}
    while time.monotonic() < start + BOUND:
        cluster.restart_dead()
        status = cluster.status(job)
        if status.get("state") in ("DONE", "FAILED", "STOPPED"):
            return
        if status.get("state") == "RUNNING" and step_of(status) > before:
            break
        time.sleep(0.05)
    recoveries.setdefault(kind, []).append(time.monotonic() - start)


def disturbed(cluster, place, kind, depth, seed, reference):
    r = random.Random(seed)
    job = f"depth{depth}"
    case = f"{kind}, depth {depth}, seed {seed}"
    code, out, err = cluster.ctl("submit", "-f", f"{job}.yaml", "--fresh")
    if code != 0:
        return cases.check(case, False, f"submit ends with {code}: {err[-400:]}")
    start = time.monotonic()
    if r.random() < 0.2:
        time.sleep(r.random())
        status = cluster.status(job)
    else:
        status = wait_for_step(cluster, job, r.randrange(1, 400))
    before = step_of(status)
    ACTS[kind](cluster, r)
    measure(cluster, job, kind, before)
    status = cluster.wait(job, timeout=BOUND)
    seconds = time.monotonic() - start
    digest = cluster.digest(status["checkpoint"]) if status.get("state") == "DONE" else ""
    good = status.get("state") == "DONE" and digest == reference
    cases.check(f"{case}: at step {before}, {status.get('recoveries', 0)} recoveries, {status.get('moves', 0)} moves, "
                f"{seconds:.1f} s", good, f"{status.get('state')} {status.get('why')} {digest} not {reference}")
    cluster.restart_dead()
    if not good:
        cluster.ctl("kill", job)
    return good


def registry_of(place):
    """-> URI, and what has to be closed"""
    if os.environ.get("REGISTRY", "zk:").startswith("local:"):
        return f"local:{place.path}/registry", None
    why = zookeeper.why_not()
    if why:
        cases.skip("ZooKeeper; the registry of one machine takes its place", why)
        return f"local:{place.path}/registry", None
    server = zookeeper.ZooKeeper(os.path.join(place.path, "zookeeper"))
    server.start()
    return server.uri("paramd"), server


def main():
    with Workplace() as place:
        place.file("train.csv", clicks_csv(6000))
        place.file("test.csv", clicks_csv(1500, seed=2))
        make_jobs(place)
        references = {}
        for depth in (0, 2):
            result = run_job(["-f", f"depth{depth}.yaml", "--fresh", "--servers", "1", "--workers", "1"], place.path)
            references[depth] = result.get("digest")
            cases.check(f"reference of depth {depth}", result.get("state") == "DONE", result)
        registry, server = registry_of(place)
        settings = ["registry_session_timeout=2s"] if server else []
        with Cluster(place.path, registry, settings) as cluster:
            for name in ("server-1", "server-2", "worker-1", "worker-2"):
                cluster.start(name)
            for kind in ACTS:
                if KINDS and not any(k in kind for k in KINDS):
                    continue
                for depth in (0, 2):
                    for i in range(RUNS or (5 if kind.startswith("kill") else 2)):
                        disturbed(cluster, place, kind, depth, SEED * 1000 + i, references[depth])
            if os.environ.get("KEEP"):
                os.system(f"cp -r {place.path} {os.environ['KEEP']}")
        if server:
            server.stop()
    for kind, seconds in recoveries.items():
        print(f"from the fault to a step beyond it: {kind}: median {statistics.median(seconds):.2f} s, "
              f"worst {max(seconds):.2f} s of {len(seconds)} (session and peer time-out 2 s)")
    cases.end()


main()
