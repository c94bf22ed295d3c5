#!/usr/bin/env python3
"""Goal: training at batch 8192 takes 0.7 M examples a second of a factorization machine (dim 16) on Criteo, and the
parameter server costs little of it.

Method: `paramctl run` of the same job with servers in the process of the worker and with a server process beside a worker
process, in alternation; an epoch's time is the difference of the times at which the ends of epochs are reported, and
medians over all later epochs of all rounds count. The first epoch, which parses, is reported by itself, as is a run with
two servers and two workers and small batches, which is bound by the latency of a step. CPU time a step or example
does not depend on who else uses the machine. Criteo's data are taken from ../shared/data, else records of the
same shape are generated.

bench_train.py [EPOCHS [ROUNDS]]
"""
import gzip
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PARAMCTL = os.path.abspath(os.environ.get("PARAMCTL", os.path.join(ROOT, "build", "paramctl")))
SHARED = os.path.join(os.path.dirname(ROOT), "shared", "data", "criteo")
TARGET = 700000

JOB = """
name: bench
data: {{format: criteo, train: "{train}"}}
features: {{"C1..C26": {{min_count: 4}}}}
model: {{type: fm, dim: 16}}
optimizer: {{linear: {{learning_rate: 0.05}}}}
train: {{batch_size: {batch}, epochs: {epochs}}}
checkpoint: {{every_steps: 1000000}}
"""


def generate(path, rows=64000, seed=1):
    """Criteo's shape: 13 skewed integers, 26 categories of which few values are frequent, a fifth is missing."""
    r = random.Random(seed)
    with gzip.open(path, "wt", compresslevel=1) as f:
        for _ in range(rows):
            fields = [str(int(r.random() < 0.23))]
            fields += [str(int(10 ** (r.random() * 4)) - 1) if r.random() < 0.8 else "" for _ in range(13)]
            fields += [f"{int((1e5 if c % 3 == 0 else 1e3) ** r.random()) * 2654435761 % (1 << 20):05x}"
                       if r.random() < 0.95 else "" for c in range(26)]
            f.write("\t".join(fields) + "\n")


class Run:
    """One run of paramctl: seconds of its epochs, CPU seconds of all its processes."""

    def __init__(self, place, job, cluster):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        metrics = os.path.join(place, "runs", "bench", "metrics.jsonl")
        if os.path.exists(metrics):
            os.remove(metrics)
        process = subprocess.run([PARAMCTL, "run", "-f", job, "--fresh", "-o", "json"] + cluster, cwd=place,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=600)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode != 0:
            sys.exit(f"bench_train: {' '.join(cluster)}: {process.stderr.decode(errors='replace')[-2000:]}")
        self.result = json.loads(process.stdout)
        self.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        with open(metrics) as f:
            ends = [line["seconds"] for line in map(json.loads, f) if line["kind"] == "progressive"]
        self.first = ends[0]
        self.epochs = [b - a for a, b in zip(ends, ends[1:])]
        self.examples = self.result["examples"] // self.result["epochs"]
        self.steps = self.result["steps"] // self.result["epochs"]


def measure(place, job, clusters, rounds):
    """-> {name: [Run]}, in alternation"""
    runs = {name: [] for name, _ in clusters}
    for _ in range(rounds):
        for name, cluster in clusters:
            runs[name].append(Run(place, job, cluster))
    return runs


def report(name, runs):
    rate = statistics.median(r.examples / s for r in runs for s in r.epochs)
    step = 1e3 * statistics.median(s / r.steps for r in runs for s in r.epochs)
    first = statistics.median(r.examples / r.first for r in runs)
    cpu = 1e6 * statistics.median(r.cpu / r.result["examples"] for r in runs)
    print(f"train {name:28s} {rate / 1e6:6.3f} M examples/s, {step:6.2f} ms a step, {cpu:5.2f} us of CPU an example; "
          f"first epoch with parsing {first / 1e6:.3f} M/s", flush=True)
    return rate


def main():
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    place = tempfile.mkdtemp(prefix="paramd-bench-")
    try:
        train = os.path.join(SHARED, "train.tsv.gz")
        if not os.path.exists(train):
            train = os.path.join(place, "train.tsv.gz")
            generate(train)
            print("train: Criteo's data are not beside the project; records are generated")
        jobs = {}
        for batch, count in ((8192, epochs), (1024, max(epochs // 6, 2))):
            jobs[batch] = os.path.join(place, f"bench-{batch}.yaml")
            with open(jobs[batch], "w") as f:
                f.write(JOB.format(train=train, batch=batch, epochs=count))
        one, two = ["--servers", "1", "--workers", "1"], ["--servers", "2", "--workers", "2"]
        runs = measure(place, jobs[8192], [("in process", ["--servers", "0"]), ("1 server, 1 worker", one)], rounds)
        alone = report("batch 8192, in process", runs["in process"])
        served = report("batch 8192, 1 server 1 worker", runs["1 server, 1 worker"])
        print(f"train: with a server process {served / alone:.2f} of the rate in process; target {TARGET / 1e6:.1f} M "
              f"examples/s: {'met' if served >= TARGET else 'missed'}")
        report("batch 1024, in process", measure(place, jobs[1024], [("", ["--servers", "0"])], 1)[""])
        report("batch 1024, 2 servers 2 workers", measure(place, jobs[1024], [("", two)], 1)[""])
    finally:
        shutil.rmtree(place, ignore_errors=True)


main()
