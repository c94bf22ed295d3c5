#!/usr/bin/env python3
"""Goal: what a user gets, and what the parameter server costs: examples/s of fm (dim 16) on Criteo at batch 8192, with everything in
one process and with one server and one worker.

Method: the two alternate, three times each; medians of `examples_per_second` (training without set-up) and of the ratio of
each pair. Data: ../shared/data/criteo beside the project, else rows of the same shape that are made on the spot.

    bench_train.py [EPOCHS]
"""
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PARAMCTL = os.path.join(ROOT, "build", "paramctl")
DATA = os.path.join(os.path.dirname(ROOT), "shared", "data", "criteo")
TARGET = 0.7e6
EPOCHS = sys.argv[1] if len(sys.argv) > 1 else "20"


def make_data(directory):
    r = random.Random(1)
    for name, rows in (("train.tsv", 64000), ("test.tsv", 4000)):
        with open(os.path.join(directory, name), "w") as f:
            for _ in range(rows):
                numbers = [str(int(r.expovariate(0.02))) for _ in range(13)]
                words = [f"{int(r.paretovariate(0.6)) % 20000:05x}" for _ in range(26)]
                f.write("\t".join([str(int(r.random() < 0.23))] + numbers + words) + "\n")
    return directory, ""


def rate(place, data, packed, cluster):
    p = subprocess.run([PARAMCTL, "run", "-f", os.path.join(ROOT, "conf", "criteo-fm.yaml"), "--fresh", "-o", "json",
                        "--set", "train.batch_size=8192", "--set", f"train.epochs={EPOCHS}", "--set", "eval.every=end",
                        "--set", f"data.train={data}/train.tsv{packed}", "--set", f"data.eval={data}/test.tsv{packed}"]
                       + cluster, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if p.returncode:
        sys.exit(p.stderr.decode()[-2000:])
    return json.loads(p.stdout)["examples_per_second"]


def main():
    with tempfile.TemporaryDirectory() as place:
        data, packed = (DATA, ".gz") if os.path.isdir(DATA) else make_data(place)
        alone, served = [], []
        for _ in range(3):
            alone.append(rate(place, data, packed, ["--servers", "0"]))
            served.append(rate(place, data, packed, ["--servers", "1", "--workers", "1"]))
    a, s = statistics.median(alone), statistics.median(served)
    ratio = statistics.median(y / x for x, y in zip(alone, served))
    print(f"fm on Criteo, batch 8192, {EPOCHS} epochs: one process {a / 1e6:.3f} M examples/s, one server and one worker "
          f"{s / 1e6:.3f} M (target {TARGET / 1e6:.1f} M), ratio {ratio:.2f}")


main()
