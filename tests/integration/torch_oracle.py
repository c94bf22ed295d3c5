#!/usr/bin/env python3
# timeout: 900
"""Goal: models are what PyTorch makes of the same formulas: forward, loss, gradients, ten steps of each optimizer.

Method: a small csv with dense numbers, single- and multi-valued features and shared tables, every value in every
batch. Each model runs in paramd (bsp, one rank, in file order) and, from the same initial values, in PyTorch in float64
(torch_models.py). A learning rate of 1e-30 leaves the initial values in the checkpoint; one step of sgd with rate 1
leaves them less the gradient. Predictions and losses may differ by 2e-5, gradients by 1e-4 of the largest of their
array, ten steps' changes by 1e-3 of the largest (sums of 64 examples in float32, divided by small roots). Skipped where
PyTorch is not there.
"""
import json
import os
import random
import re

from harness import Cases, Workplace, run, run_job
from torch_models import Model, find_torch, parse_layers, read_safetensors

WHY_NOT = find_torch()
if WHY_NOT:
    print(WHY_NOT)
    raise SystemExit(77)
import torch  # noqa: E402

torch.set_num_threads(1)
M = (1 << 64) - 1
BATCH, STEPS = 64, 10
VOCABULARY = {"a": 7, "b": 5, "c": 7, "tags": 9}
cases = Cases()

# Features in the order of their slots: a and c share a table; tags is multi-valued.
JOB = """
name: oracle
data: {{format: csv, train: train.csv, eval: train.csv, shuffle: none}}
features:
{dense}
  a: {{key: integer, table: item}}
  b: {{key: integer, table: other}}
  c: {{key: integer, table: item}}
  tags: {{key: integer, table: tag, pooling: {pooling}}}
tables: {{item: {{init: {{normal: 0.3}}}}, other: {{dim: {other}, init: {{normal: 0.3}}}}, tag: {{init: {{normal: 0.3}}}}}}
model: {model}
optimizer: {{linear: {optimizer}, embedding: {optimizer}, dense: {optimizer}}}
train: {{batch_size: 64, max_steps: {steps}}}
"""

# name: (model, dim, dim of the table `other`)
MODELS = {
    "lr": ("{type: lr}", 1, 1),
    "fm": ("{type: fm, dim: 4}", 4, 4),
    "ffm": ("{type: ffm, dim: 3}", 3, 3),
    "mlp": ("{type: mlp, dim: 4, hidden: [8, 6], activation: tanh}", 4, 3),
    "mlp with norm": ("{type: mlp, dim: 4, hidden: [8, 6], activation: sigmoid, layer_norm: true, loss: squared}", 4, 3),
    "wide_deep": ("{type: wide_deep, dim: 4, hidden: [8], activation: tanh}", 4, 5),
    "deepfm": ("{type: deepfm, dim: 4, hidden: [8], activation: tanh}", 4, 4),
    "dcn": ("{type: dcn, dim: 4, hidden: [8], activation: tanh, cross_layers: 2}", 4, 3),
    "dcn low rank": ("{type: dcn, dim: 4, hidden: [8], activation: tanh, low_rank: 3, structure: parallel}", 4, 3),
    "dlrm": ("{type: dlrm, dim: 4, bottom: [6], hidden: [8], activation: tanh}", 4, 4),
    "layers": ("{dim: 4, layers: [{name: f, type: fm, in: ['embeddings(a)', 'embeddings(c)']}, "
               "{name: s, type: mlp, in: ['embeddings(tags)', dense], hidden: [5], activation: tanh}, "
               "{name: j, type: concat, in: [s, f, 'embeddings(b)']}, {name: n, type: norm, in: [j]}, "
               "{name: o, type: linear, in: [n, wide], units: 1}]}", 4, 3),
}
OPTIMIZERS = {
    "sgd": "{type: sgd, learning_rate: 0.5, weight_decay: 0.01}",
    "momentum": "{type: momentum, learning_rate: 0.2}",
    "nesterov": "{type: momentum, learning_rate: 0.2, nesterov: true}",
    "adagrad": "{type: adagrad, learning_rate: 0.1, initial_accumulator: 0.001, epsilon: 1.0e-4}",
    "adam": "{type: adam, learning_rate: 0.01, epsilon: 1.0e-4, weight_decay: 0.1}",
    "rmsprop": "{type: rmsprop, learning_rate: 0.01, epsilon: 1.0e-3}",
    "ftrl": "{type: ftrl, learning_rate: 0.1, beta: 0.1, l1: 0.0001, l2: 0.01}",
}


def mix64(x):
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & M
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & M
    return x ^ x >> 31


def make_rows(seed=3):
    """Rows whose every batch has every value of every feature."""
    r, rows = random.Random(seed), []
    for _ in range(STEPS):
        columns = {}
        for name in "abc":
            count = VOCABULARY[name]
            columns[name] = [i % count for i in range(BATCH)]
            r.shuffle(columns[name])
        for i in range(BATCH):
            tags = sorted({i % VOCABULARY["tags"]} | set(r.sample(range(VOCABULARY["tags"]), r.randrange(3))))
            x = [round(r.gauss(0, 1), 3), round(r.random(), 3)]
            score = x[0] + (columns["a"][i] % 2 == columns["b"][i] % 2) - 0.5 + 0.3 * len(tags)
            rows.append({"label": int(r.random() * 2 < score), "x": x, "tags": tags, **{n: columns[n][i] for n in "abc"}})
    return rows


def write_csv(place, rows):
    lines = ["label,x0,x1,a,b,c,tags"]
    for w in rows:
        lines.append(",".join([str(w["label"]), str(w["x"][0]), str(w["x"][1]), str(w["a"]), str(w["b"]), str(w["c"]),
                               "|".join(map(str, w["tags"]))]))
    place.file("train.csv", "\n".join(lines) + "\n")


def scale_of(pooling, count):
    return {"sum": 1, "mean": 1 / count, "sqrtn": count ** -0.5}[pooling]


class Data:
    """The rows as tensors; row i of a table is the value i."""

    def __init__(self, rows, pooling, numbers):
        self.labels = torch.tensor([[float(w["label"])] for w in rows], dtype=torch.float64)
        self.dense = torch.tensor([[float(f"{v:.9g}") for v in w["x"]] for w in rows], dtype=torch.float32).double()
        self.slots = []
        if numbers:
            self.add("x0", "features", [[0]] * len(rows), [[w["x"][0]] for w in rows])
        # Table by table, in the order in which features first name them.
        for name, table in (("a", "item"), ("c", "item"), ("b", "other")):
            self.add(name, table, [[w[name]] for w in rows], [[1.0]] * len(rows))
        most = max(len(w["tags"]) for w in rows)
        self.add("tags", "tag", [w["tags"] + [0] * (most - len(w["tags"])) for w in rows],
                 [[scale_of(pooling, len(w["tags"]))] * len(w["tags"]) + [0.0] * (most - len(w["tags"])) for w in rows])

    def add(self, name, table, ids, values):
        self.slots.append({"name": name, "table": table, "ids": torch.tensor(ids),
                           "values": torch.tensor(values, dtype=torch.float32).double()})

    def batch(self, first, end):
        b = Data.__new__(Data)
        b.labels, b.dense = self.labels[first:end], self.dense[first:end]
        b.slots = [dict(s, ids=s["ids"][first:end], values=s["values"][first:end]) for s in self.slots]
        return b


class Named(Model):
    """embeddings(NAME) of one feature each."""

    def forward(self, p, batch):
        self.by_name = dict(self.pooled(p, batch)) if any("(" in n for layer in self.layers for n in layer["in"]) else {}
        return super().forward(p, batch)

    def input_of(self, name):
        found = re.fullmatch(r"embeddings\((.*)\)", name)
        return [self.by_name[found.group(1)]] if found else None


def load(place, checkpoint, has_wide, tables):
    """The exported parameters in float64, rows in the order of values."""
    code, out, err = run(["export", checkpoint, "-o", "exported"], place.path)
    if code != 0:
        raise RuntimeError(err)
    tensors = read_safetensors(os.path.join(place.path, "exported", "model.safetensors"))
    p = {}
    for name, (shape, data, kind) in tensors.items():
        if name.endswith(".keys"):
            continue
        value = torch.frombuffer(bytearray(data), dtype=torch.float32).double().reshape(shape)
        if not name.endswith(".values"):
            p[name] = value
            continue
        table = name[:-len(".values")]
        keys = torch.frombuffer(bytearray(tensors[table + ".keys"][1]), dtype=torch.int64).tolist()
        if table != "features":
            at = {k & M: i for i, k in enumerate(keys)}
            value = value[[at[mix64(i)] for i in range(tables[table])]]
        if has_wide:
            p[table + ".w"] = value[:, :1]
        if value.shape[1] > has_wide:
            p[table + ".v"] = value[:, int(has_wide):]
    return p


def loss_of(model, p, batch, squared):
    z = model.forward(p, batch)
    if squared:
        return 0.5 * ((z - batch.labels) ** 2).mean()
    return torch.nn.functional.binary_cross_entropy_with_logits(z, batch.labels)


class Ftrl:
    """McMahan et al., KDD 2013, algorithm 1."""

    def __init__(self, p, rate, beta, l1, l2):
        self.p, self.rate, self.beta, self.l1, self.l2 = p, rate, beta, l1, l2
        self.z = [torch.zeros_like(w) for w in p]
        self.n = [torch.zeros_like(w) for w in p]

    def zero_grad(self):
        for w in self.p:
            w.grad = None

    @torch.no_grad()
    def step(self):
        for i, w in enumerate(self.p):
            g, n = w.grad, self.n[i]
            self.n[i] = n + g * g
            self.z[i] += g - (self.n[i].sqrt() - n.sqrt()) / self.rate * w
            z, l1 = self.z[i], 0 if self.free[i] else self.l1
            away = -(z - z.sign() * l1) / ((self.beta + self.n[i].sqrt()) / self.rate + self.l2)
            w.copy_(torch.where(z.abs() <= l1, torch.zeros_like(w), away))


def optimizer_of(name, p):
    w = list(p.values())
    if name == "ftrl":
        ftrl = Ftrl(w, 0.1, 0.1, 0.0001, 0.01)
        ftrl.free = [key == "bias" for key in p]  # the bias has no l1
        return ftrl
    return {
        "sgd": lambda: torch.optim.SGD(w, 0.5, weight_decay=0.01),
        "momentum": lambda: torch.optim.SGD(w, 0.2, momentum=0.9),
        "nesterov": lambda: torch.optim.SGD(w, 0.2, momentum=0.9, nesterov=True),
        "adagrad": lambda: torch.optim.Adagrad(w, 0.1, initial_accumulator_value=0.001, eps=1e-4),
        "adam": lambda: torch.optim.AdamW(w, 0.01, eps=1e-4, weight_decay=0.1),
        "rmsprop": lambda: torch.optim.RMSprop(w, 0.01, alpha=0.9, eps=1e-3),
    }[name]()


def worst(found, expected):
    """The largest difference of any array, relative to the largest number of that array; and whose it is."""
    result = (0.0, "")
    for name in expected:
        size = max(expected[name].abs().max().item(), 1e-7)
        result = max(result, ((found[name] - expected[name]).abs().max().item() / size, name))
    return result


class Trial:
    def __init__(self, place, name):
        self.place, self.name = place, name
        self.model_text, self.dim, self.other = MODELS[name]
        self.terms = name in ("lr", "fm", "ffm")
        self.pooling = "sqrtn" if self.terms else "mean" if "layers" not in name else "sum"
        self.squared = "squared" in self.model_text
        self.rows = make_rows()
        self.data = Data(self.rows, self.pooling, self.terms)
        write_csv(place, self.rows)
        text = self.job("{type: sgd, learning_rate: 1}", 1)
        place.file("job.yaml", text)
        code, out, err = run(["config", "show", "--expand", "-f", "job.yaml"], place.path)
        if code != 0:
            raise RuntimeError(err)
        self.model = Named(torch, parse_layers(out), self.dim)
        self.has_wide = self.terms or any("wide" in layer["in"] for layer in self.model.layers)
        self.tables = {"item": 7, "other": 5, "tag": 9}

    def job(self, optimizer, steps):
        dense = "  x0: numeric" if self.terms else "  x0: numeric\n  x1: numeric"
        return JOB.format(dense=dense, pooling=self.pooling, other=self.other, model=self.model_text, optimizer=optimizer,
                          steps=steps)

    def train(self, optimizer, steps):
        self.place.file("job.yaml", self.job(optimizer, steps))
        result = run_job(["-f", "job.yaml", "--fresh", "--servers", "0"], self.place.path)
        if result.get("state") != "DONE":
            raise RuntimeError(result.get("text"))
        return load(self.place, result["checkpoint"], self.has_wide, self.tables), result

    def leaves(self):
        return {n: w.clone().requires_grad_(True) for n, w in self.start.items()}

    def check_forward(self):
        self.start, result = self.train("{type: sgd, learning_rate: 1.0e-30}", 1)
        with torch.no_grad():
            z = self.model.forward(self.start, self.data)
            expected = (z if self.squared else torch.sigmoid(z)).squeeze(1)
        code, out, err = run(["predict", "-f", "job.yaml", "--checkpoint", result["checkpoint"], "train.csv"], self.place.path)
        found = torch.tensor([json.loads(line)["prediction"] for line in out.splitlines()], dtype=torch.float64)
        cases.check(f"{self.name}: predictions", code == 0 and len(found) == len(expected) and
                    (found - expected).abs().max().item() <= 2e-5, err or (found[:4], expected[:4]))
        loss = loss_of(self.model, self.start, self.data, self.squared).item()
        seen = 0.5 * result["eval"]["rmse"] ** 2 if self.squared else result["eval"]["log_loss"]
        cases.check(f"{self.name}: loss", abs(seen - loss) <= 2e-5 * max(loss, 0.1), (seen, loss))

    def check_gradients(self):
        after, _ = self.train("{type: sgd, learning_rate: 1}", 1)
        p = self.leaves()
        loss_of(self.model, p, self.data.batch(0, BATCH), self.squared).backward()
        found = {n: self.start[n] - after[n] for n in p}
        off, where = worst(found, {n: w.grad for n, w in p.items()})
        cases.check(f"{self.name}: gradients of {len(p)} arrays", off <= 1e-4, f"{where} is off by {off:.2g}")

    def check_optimizer(self, name):
        after, _ = self.train(OPTIMIZERS[name], STEPS)
        p = self.leaves()
        optimizer = optimizer_of(name, p)
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(self.model, p, self.data.batch(step * BATCH, (step + 1) * BATCH), self.squared).backward()
            optimizer.step()
        changes = {n: w.detach() - self.start[n] for n, w in p.items()}
        off, where = worst({n: after[n] - self.start[n] for n in p}, changes)
        cases.check(f"{self.name}: ten steps of {name}", off <= 1e-3, f"{where} is off by {off:.2g}")


def main():
    print(f"PyTorch {torch.__version__}")
    with Workplace() as place:
        for name in MODELS:
            try:
                trial = Trial(place, name)
                trial.check_forward()
                trial.check_gradients()
                for optimizer in OPTIMIZERS:
                    trial.check_optimizer(optimizer)
            except RuntimeError as e:
                cases.check(f"{name}: runs", False, str(e)[-600:])
    cases.end()


main()
