#!/usr/bin/env python3
# timeout: 900
"""Goal: a job on a cluster loses any process at any time and ends with the same model.

Method: clusters of real daemons (two servers, two workers each) side by side, on one ZooKeeper with a session time-out
of 2 s. A small job is disturbed by kill -9 of a server, a worker, the coordinator, everything: at a random time; while
a checkpoint is being written; a second time while the first is being recovered. Further by SIGSTOP past the time-outs and
SIGCONT, and by SIGTERM. What dies is started again, at once or up to 2 s later, as a service manager would. In bsp, at
pipeline depths 0 and 2, the digest of the result is that of an undisturbed run of one server and one worker; in asp the
counting model is exact (disturb.py).

    faults.py [--runs N] [--clusters N] [--seed S] [--only TEXT]... [--keep DIRECTORY]

--runs: bsp runs of each kind of kill, a quarter as many in asp, and a tenth of each pause. --only: just cases with that
text in `KIND, JOB, seed SEED`, as they are printed. --keep: where the clusters' directories are copied. The registry is
the one of one machine (local:) with REGISTRY=local:, or where there is no ZooKeeper.
"""
import argparse
import os
import random
import signal
import time

import zookeeper
from disturb import DAEMONS, LAST_STEP, SERVERS, WORKERS, Field, Jobs
from harness import Cases, Workplace

RUNS = 20
PAUSE = 3.5  # seconds; longer than the time-outs of session and peers, which are 2 s


# ---- who ----

def some(names):
    return lambda cluster, r: [r.choice(names)]


def the_leader(cluster, r):
    return [cluster.leader() or SERVERS[0]]


def everybody(cluster, r):
    return r.sample(DAEMONS, len(DAEMONS))


KILLS = {
    "kill a server": some(SERVERS),
    "kill a worker": some(WORKERS),
    "kill the coordinator": the_leader,
    "kill everything": everybody,
}
PAUSES = {
    "pause a server": some(SERVERS),
    "pause a worker": some(WORKERS),
    "pause the coordinator": the_leader,
}
DRAINS = {
    "drain a server": some(SERVERS),
    "drain a worker": some(WORKERS),
}


# ---- when ----

def await_any_time(run):
    """-> what to call it. Now and then before the first step, or while the job forms."""
    if run.random.random() < 0.15:
        seconds = run.random.random() * 0.8
        run.sleep(seconds)
        return f"{seconds:.2f} s after submission"
    step = run.random.randrange(1, LAST_STEP[run.name] * 3 // 4)
    run.await_step(step)
    run.sleep(run.random.random() * 0.1)
    return f"past step {max(run.checkpoints(), default=0)}"


def await_checkpoint(run):
    step = run.random.randrange(1, LAST_STEP[run.name] * 3 // 4)
    run.await_checkpoint(step)
    time.sleep(run.random.random() * 0.01)
    return f"in the checkpoint of step {max(run.checkpoints(), default=0)}"


# ---- what ----

def kill(who, moment, twice):
    def disturb(run):
        how = moment(run)
        for name in who(run.cluster, run.random):
            run.cluster.kill(name)
        if twice:
            seen = run.await_log(("recovers:", " is out ", "leads term="), 10)
            run.sleep(run.random.random() * 0.6)
            for name in who(run.cluster, run.random):
                run.cluster.kill(name)
            how += ", again in the recovery" if seen else ", again"
        return how
    return disturb


def pause(who):
    def disturb(run):
        how = await_any_time(run)
        names = who(run.cluster, run.random)
        for name in names:
            run.cluster.kill(name, signal.SIGSTOP)
        run.sleep(PAUSE + run.random.random())
        for name in names:
            run.cluster.kill(name, signal.SIGCONT)
        return how
    return disturb


def drain(who):
    def disturb(run):
        how = await_any_time(run)
        for name in who(run.cluster, run.random):
            run.cluster.kill(name, signal.SIGTERM)
        return how
    return disturb


# ---- all of it ----

def tasks(runs, seed):
    """Of five kills one is in a checkpoint, and one in a recovery."""
    for kind, who in KILLS.items():
        for i in range(runs + runs // 4):
            job = ("depth0", "depth2")[i % 2] if i < runs else "count"
            moment = await_checkpoint if i % 5 == 0 else await_any_time
            yield kind, job, seed + i, kill(who, moment, twice=i % 5 == 1)
    for kinds, act in ((PAUSES, pause), (DRAINS, drain)):
        for kind, who in kinds.items():
            for i in range(max(runs // 10, 1) + 1):
                yield kind, ("count", "depth2", "depth0")[i % 3], seed + i, act(who)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--clusters", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.randrange(1000, 1000000))
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--keep")
    return parser.parse_args()


def main():
    a, cases = arguments(), Cases()
    print(f"seed {a.seed}", flush=True)
    wanted = [t for t in tasks(a.runs, a.seed) if all(text in f"{t[0]}, {t[1]}, seed {t[2]}" for text in a.only)]
    random.Random(a.seed).shuffle(wanted)
    why = "the registry of one machine is asked for" if os.environ.get("REGISTRY", "").startswith("local") else \
        zookeeper.why_not()
    began = time.monotonic()
    with Workplace() as place:
        jobs = Jobs(place)
        for name in {t[1] for t in wanted}:
            jobs.reference(name, cases)
        server = None if why else zookeeper.ZooKeeper(os.path.join(place.path, "zookeeper"))
        if why:
            cases.skip("ZooKeeper; the registry of one machine takes its place", why)
        else:
            server.start()
        registries = [server.uri(f"paramd{i}") if server else f"local:{place.path}/registry{i}"
                      for i in range(a.clusters)]
        field = Field(jobs, cases, registries, ["registry_session_timeout=2s"] if server else [], a.keep)
        for task in wanted:
            field.add(*task)
        field.play()
        if server:
            server.stop()
    field.summary()
    print(f"seed {a.seed}, {a.clusters} clusters side by side, {time.monotonic() - began:.0f} s; "
          f"a case again: faults.py --seed {a.seed} --only 'KIND, JOB, seed N'")
    cases.end()


main()
