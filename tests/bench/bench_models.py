#!/usr/bin/env python3
"""Goal: one server and one worker on two cores train each model at least as fast as PyTorch does with two threads.

Method: the same shapes (Criteo's 13 numbers and 26 categories, dim 16, hidden layers 256-128, ffm with dim 4) and the same
batch, in turns; paramd's figure is the time between the ends of its first and its last epoch, reading, pushing and pulling
included; PyTorch's is forward, backward and optimizers (adagrad on sparse gradients, adam) over batches that lie in memory.
Beside wall time stands CPU time an example. PyTorch's contains what its threads spend waiting for each other, which is
much on a machine that others use, too. Medians of ROUNDS.

bench_models.py [BATCH [ROUNDS [MODEL…]]]
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
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
from torch_models import find_torch  # noqa: E402

PARAMCTL = os.path.abspath(os.environ.get("PARAMCTL", os.path.join(ROOT, "build", "paramctl")))
WHY_NOT = find_torch()
ROWS, EPOCHS, DENSE, FIELDS, DIM, FFM_DIM, HIDDEN = 65536, 4, 13, 26, 16, 4, (256, 128)
VOCABULARY = [10 ** (2 + i % 4) for i in range(FIELDS)]
MODELS = {
    "lr": "{type: lr}",
    "fm": "{type: fm, dim: 16}",
    "ffm": "{type: ffm, dim: 4}",
    "wide_deep": "{type: wide_deep, dim: 16, hidden: [256, 128]}",
    "deepfm": "{type: deepfm, dim: 16, hidden: [256, 128]}",
    "dcn": "{type: dcn, dim: 16, hidden: [256, 128], cross_layers: 2}",
    "dcn low rank": "{type: dcn, dim: 16, hidden: [256, 128], cross_layers: 2, low_rank: 64}",
    "dlrm": "{type: dlrm, dim: 16, bottom: [64], hidden: [256, 128]}",
}
JOB = """
name: bench
data: {{format: csv, train: train.csv.gz}}
features: {features}
model: {model}
train: {{batch_size: {batch}, epochs: {epochs}}}
checkpoint: {{every_steps: 0}}
resources: {{threads: 2}}
"""


def is_terms(name):
    return name in ("lr", "fm", "ffm")


def make_data(place):
    """Skewed categories; numbers with three digits."""
    r = random.Random(1)
    ids = [[int(v ** r.random()) for v in VOCABULARY] for _ in range(ROWS)]
    numbers = [[round(r.gauss(0, 1), 3) for _ in range(DENSE)] for _ in range(ROWS)]
    labels = [int(r.random() < 0.25) for _ in range(ROWS)]
    with gzip.open(os.path.join(place, "train.csv.gz"), "wt", compresslevel=1) as f:
        names = ["label"] + [f"n{i}" for i in range(DENSE)] + [f"c{i}" for i in range(FIELDS)]
        f.write(",".join(names) + "\n")
        for label, x, c in zip(labels, numbers, ids):
            f.write(",".join([str(label)] + [str(v) for v in x] + [str(v) for v in c]) + "\n")
    return ids, numbers, labels


def run_paramd(place, name, batch):
    """-> examples a second, CPU microseconds an example"""
    features = {f"c{i}": "categorical" for i in range(FIELDS)}
    if not is_terms(name):
        features.update({f"n{i}": "numeric" for i in range(DENSE)})
    with open(os.path.join(place, "bench.yaml"), "w") as f:
        f.write(JOB.format(features=json.dumps(features), model=MODELS[name], batch=batch, epochs=EPOCHS))
    metrics = os.path.join(place, "runs", "bench", "metrics.jsonl")
    shutil.rmtree(os.path.join(place, "runs"), ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([PARAMCTL, "run", "-o", "json", "-f", "bench.yaml", "--fresh", "--servers", "1", "--workers", "1"],
                            cwd=place, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode != 0:
        raise RuntimeError(result.stderr[-500:])
    with open(metrics) as f:
        ends = {}
        for line in f:
            record = json.loads(line)
            if "epoch" in record and "seconds" in record:
                ends[record["epoch"]] = record["seconds"]
    rate = json.loads(result.stdout)["examples_per_second"]
    if len(ends) > 1:
        first, last = min(ends), max(ends)
        rate = ROWS * (last - first) / (ends[last] - ends[first])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return rate, cpu / (ROWS * EPOCHS) * 1e6


def make_net(torch, name):
    nn, functional = torch.nn, torch.nn.functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            rows, width = sum(VOCABULARY) + FIELDS, DENSE + FIELDS * DIM
            self.w = nn.Embedding(rows, 1, sparse=True)
            self.bias = nn.Parameter(torch.zeros(1))
            self.v = nn.Embedding(rows, FFM_DIM * FIELDS if name == "ffm" else DIM, sparse=True)
            top = DIM + (FIELDS + 1) * FIELDS // 2 if name == "dlrm" else width
            sizes = (top,) + HIDDEN
            layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
            self.deep = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
            self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(2)) if name == "dcn" else None
            if name == "dcn low rank":
                self.cross = nn.ModuleList(nn.Sequential(nn.Linear(width, 64, bias=False), nn.Linear(64, width))
                                           for _ in range(2))
            self.bottom = nn.Sequential(nn.Linear(DENSE, 64), nn.ReLU(), nn.Linear(64, DIM), nn.ReLU())
            self.pairs = torch.tril_indices(FIELDS + 1, FIELDS + 1, -1)

        def fm(self, e):
            return 0.5 * (e.sum(1) ** 2 - (e ** 2).sum(1)).sum(1)

        def forward(self, x, ids):
            wide = self.w(ids).sum((1, 2)) + self.bias if name not in ("dcn", "dcn low rank", "dlrm") else 0
            if name == "lr":
                return wide
            e = self.v(ids)
            if name == "fm":
                return wide + self.fm(e)
            if name == "ffm":
                a = e.view(len(ids), FIELDS, FIELDS, FFM_DIM)
                products = (a * a.transpose(1, 2)).sum(3)
                return wide + 0.5 * (products.sum((1, 2)) - products.diagonal(dim1=1, dim2=2).sum(1))
            if name == "dlrm":
                b = self.bottom(x)
                z = torch.cat([b.unsqueeze(1), e], 1)
                dots = torch.bmm(z, z.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
                return self.deep(torch.cat([b, dots], 1)).squeeze(1)
            x0 = y = torch.cat([x, e.flatten(1)], 1)
            for layer in self.cross or ():
                y = x0 * layer(y) + y
            y = self.deep(y).squeeze(1)
            return y + wide + (self.fm(e) if name == "deepfm" else 0)

    net = Net()
    used = {"lr": [net.w], "fm": [net.w, net.v], "ffm": [net.w, net.v], "wide_deep": [net.w, net.v],
            "deepfm": [net.w, net.v]}.get(name, [net.v])
    dense = [] if is_terms(name) else list(net.deep.parameters())
    dense += list(net.cross.parameters()) if net.cross else []
    dense += list(net.bottom.parameters()) if name == "dlrm" else []
    dense += [net.bias] if name not in ("dcn", "dcn low rank", "dlrm") else []
    optimizers = [torch.optim.Adagrad([m.weight for m in used], 0.05)]
    optimizers += [torch.optim.Adam(dense, 0.001)] if dense else []
    return net, optimizers, functional.binary_cross_entropy_with_logits


def run_torch(name, batch, tensors):
    import torch
    torch.set_num_threads(2)
    net, optimizers, loss_of = make_net(torch, name)
    x, ids, labels = tensors
    seconds, cpu, examples = 0.0, 0.0, 0
    for epoch in range(3):
        wall, process = time.perf_counter(), time.process_time()
        for first in range(0, ROWS, batch):
            for o in optimizers:
                o.zero_grad(set_to_none=True)
            logits = net(x[first:first + batch], ids[first:first + batch])
            loss_of(logits, labels[first:first + batch]).backward()
            for o in optimizers:
                o.step()
        if epoch > 0:  # the first one warms up
            seconds += time.perf_counter() - wall
            cpu += time.process_time() - process
            examples += ROWS
    return examples / seconds, cpu / examples * 1e6


def make_tensors(data):
    import torch
    ids, numbers, labels = data
    offsets, total = [], 0
    for v in VOCABULARY:
        offsets.append(total)
        total += v + 1
    return (torch.tensor(numbers), torch.tensor(ids) + torch.tensor(offsets), torch.tensor(labels, dtype=torch.float32))


def main():
    batch = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    place = tempfile.mkdtemp(prefix="paramd-bench-")
    try:
        data = make_data(place)
        tensors = None if WHY_NOT else make_tensors(data)
        print(f"batch {batch}; examples/s and CPU us an example, paramd and PyTorch{'' if WHY_NOT is None else ': ' + WHY_NOT}")
        for name in sys.argv[3:] or MODELS:
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(run_paramd(place, name, batch))
                if tensors:
                    theirs.append(run_torch(name, batch, tensors))
            rate, cpu = (statistics.median(c) for c in zip(*ours))
            line = f"{name:14s} {rate:10.0f}/s {cpu:7.1f} us"
            if theirs:
                other_rate, other_cpu = (statistics.median(c) for c in zip(*theirs))
                line += f"   {other_rate:10.0f}/s {other_cpu:7.1f} us   {rate / other_rate:5.2f} times as fast"
            print(line, flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)


main()
