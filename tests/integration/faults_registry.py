#!/usr/bin/env python3
# timeout: 600
"""Goal: while ZooKeeper is away training goes on up to a limit, then holds, and goes on when it is back; the model is the
same. A ZooKeeper that has forgotten everything is refused by name, and the job goes on from its checkpoint when the
daemons are started anew and the job is submitted again.

Method: for each case a ZooKeeper and a cluster of real daemons of its own, side by side, and a job of a few seconds.
ZooKeeper is killed and started again at once; killed and left away for longer than sessions live, with a limit
(registry_grace) that is long and one that is short; paused and continued; killed and wiped. Where the job stands is
taken from its checkpoints.

    faults_registry.py [--minute] [--seed S] [--only TEXT]... [--keep DIRECTORY]    --minute: away for a minute
"""
import argparse
import os
import random
import shutil
import threading
import time

import zookeeper
from cluster import Cluster
import disturb
from disturb import DAEMONS, Jobs, Run
from harness import Cases, Workplace, wait_until

EPOCHS = {False: 60, True: 400}  # of 16 steps; away for a minute or not
AWAY = 6  # seconds; sessions live for 2


class Case:
    """One cluster with a ZooKeeper of its own, and one job on it."""

    def __init__(self, jobs, cases, arguments, title, settings):
        self.jobs, self.cases, self.arguments, self.title = jobs, cases, arguments, title
        self.settings = ["registry_session_timeout=2s", *settings]
        self.place = os.path.join(jobs.place.path, title.replace(" ", "-"))
        os.makedirs(self.place)
        self.random = random.Random(f"{title} {arguments.seed}")

    def check(self, what, good, seen=""):
        with self.jobs.lock:
            self.cases.check(f"{self.title}: {what}", good, seen)

    def step(self):
        return max(self.run.checkpoints(), default=0)

    def begin(self):
        self.run = Run(self.cluster, self.jobs, "long", self.title)
        self.run.await_step(self.random.randrange(1, 100))

    def end(self):
        wrong = self.run.end()
        self.check(f"right model, {self.run.seconds:.1f} s, {self.run.result.get('recoveries')} recoveries", wrong is None,
                   wrong)

    def play(self, act):
        with zookeeper.ZooKeeper(os.path.join(self.place, "zookeeper")) as self.server, \
                Cluster(self.place, self.server.uri("paramd"), self.settings) as self.cluster:
            for name in DAEMONS:
                self.cluster.start(name)
            try:
                self.begin()
                act(self)
            except Exception as e:  # the other cases go on
                self.check("goes on", False, repr(e))
            if self.arguments.keep:
                shutil.copytree(self.place, os.path.join(self.arguments.keep, os.path.basename(self.place)),
                                dirs_exist_ok=True)


def restarted(case):
    for _ in range(2):
        case.server.kill()
        case.server.start()
        case.run.sleep(case.random.random())
    case.end()
    case.check("nobody was taken for dead", case.run.result.get("recoveries") == 0 and case.run.result.get("moves") == 0,
               case.run.result)


def away(case):
    """Training goes on: the limit is far."""
    case.server.kill()
    time.sleep(1)
    before = case.step()
    goes_on = wait_until(lambda: case.step() > before, 20)
    case.check(f"trains on meanwhile, from step {before} to {case.step()}", goes_on)
    case.run.sleep(AWAY - 1)
    case.server.start()
    case.end()


def held(case):
    """The limit is near: it holds until ZooKeeper is back."""
    case.server.kill()
    seen = case.run.await_log(("shards hold at the next drain point",), case.grace + 20)
    case.check("says that it holds", seen)
    case.run.sleep(2)
    before = case.step()
    case.run.sleep(max(case.away - case.grace - 2, 3))
    case.check(f"holds at step {before}", not case.run.is_over() and case.step() == before, case.step())
    case.server.start()
    case.end()


def paused(case):
    case.server.pause()
    case.run.sleep(AWAY)
    case.server.resume()
    case.end()


def wiped(case):
    case.server.kill()
    case.server.wipe()
    alive = dict(case.cluster.daemons)
    before = {n: case.cluster.log_size(n) for n in alive}
    case.cluster.restart_dead = lambda after=0: []  # what a service manager starts anew would not be refused
    case.server.start()
    refusals = {n: wait_until(lambda n=n: "has lost what it held" in case.cluster.log(n), 20) for n in alive}
    case.check("every daemon refuses it by name", all(refusals.values()), refusals)
    step = case.step()
    case.check("nobody leads it", not any("leads term=" in case.cluster.log(n, at) for n, at in before.items()))
    case.run.process.kill()
    case.run.process.wait()
    case.check("no daemon has crashed", all(p.poll() in (None, 75, 78) for p in alive.values()),
               {n: p.poll() for n, p in alive.items()})
    del case.cluster.restart_dead
    for name in alive:
        case.cluster.kill(name)
        case.cluster.start(name)
    case.run = Run(case.cluster, case.jobs, "long", case.title, how=["--resume"], store=case.run.store)
    case.check(f"resumed from the checkpoint of step {step}", step > 0)
    case.end()


# title -> (what is done, settings)
ACTS = {
    "restarted": (restarted, ["registry_session_timeout=8s"]),
    "away, the limit far": (away, ["registry_grace=10min"]),
    "away, the limit near": (held, []),
    "paused": (paused, []),
    "wiped": (wiped, []),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minute", action="store_true")
    parser.add_argument("--seed", type=int, default=random.randrange(1000, 1000000))
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--keep")
    arguments = parser.parse_args()
    cases = Cases()
    why = zookeeper.why_not()
    if why:
        cases.skip("all of it", why)
        cases.end()
    print(f"seed {arguments.seed}", flush=True)
    with Workplace() as place:
        jobs = Jobs(place)
        jobs.lock = threading.Lock()
        with open(jobs.path("depth2"), encoding="utf-8") as f:
            text = f.read().replace("name: depth2", "name: long").replace("epochs: 12", f"epochs: {EPOCHS[arguments.minute]}")
        # An evaluation's verdict has to be recorded before training goes on.
        text = text.replace(f", eval: {place.path}/test.csv", "")
        place.file("long.yaml", text)
        jobs.reference("long", cases)
        threads = []
        for title, (act, settings) in ACTS.items():
            if not all(text in title for text in arguments.only):
                continue
            case = Case(jobs, cases, arguments, title, settings)
            disturb.BOUND = 300 if arguments.minute else disturb.BOUND
            case.away, case.grace = (60, 10) if arguments.minute else (AWAY, 1)
            if act is held:
                case.settings.append(f"registry_grace={case.grace}s")
            threads.append(threading.Thread(target=case.play, args=(act,)))
            threads[-1].start()
        for t in threads:
            t.join()
    cases.end()


main()
