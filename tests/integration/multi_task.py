#!/usr/bin/env python3
"""Goal: one job learns several labels over shared layers, and reports, predicts and stores them.

Method: a generated csv with a click, a purchase and a price that depend on different columns; the run must learn all
three, whichever of them `eval.output` reports; the model must have the same bits whatever is reported and whatever cluster
trains it; predictions are an object; labels that fit no loss, or no column, are refused by name.
"""
import json
import random

from harness import Cases, Workplace, run, run_job

cases = Cases()

JOB = """
name: tasks
data: {format: csv, train: train.csv, eval: train.csv}
features: {a: categorical, x: numeric, tags: {pooling: mean}}
model:
  dim: 8
  layers:
    - {name: bottom, type: mlp, in: [dense, embeddings], hidden: [16]}
    - {name: click, type: linear, in: [bottom], units: 1}
    - {name: buy, type: linear, in: [bottom, wide], units: 1}
    - {name: price, type: linear, in: [bottom], units: 1}
  outputs:
    - {from: click, label: click}
    - {from: buy, label: bought, weight: 0.5}
    - {from: price, label: cents, loss: squared, weight: 0.1}
train: {epochs: 20, batch_size: 64, ranks: 2}
optimizer: {dense: {learning_rate: 0.01}}
"""


def csv(rows=2000):
    r = random.Random(1)
    lines = ["click,bought,cents,a,x,tags"]
    for _ in range(rows):
        a, x = r.randrange(8), r.gauss(0, 1)
        click, buy = r.random() < (0.9 if a % 2 else 0.1), r.random() < (0.9 if x > 0 else 0.1)
        lines.append(f"{click:d},{buy:d},{a * 0.5 + x:.3f},{a},{x:.3f},{a}|{r.randrange(5) + 10}")
    return "\n".join(lines) + "\n"


def main():
    with Workplace() as place:
        place.file("train.csv", csv())
        place.file("job.yaml", JOB)
        digests = set()
        for output, metric, good, cluster in (("click", "auc", lambda v: v > 0.88, ["--servers", "2", "--workers", "2"]),
                                              ("buy", "auc", lambda v: v > 0.88, ["--servers", "3", "--workers", "1"]),
                                              ("price", "rmse", lambda v: v < 0.3, ["--servers", "0"])):
            result = run_job(["-f", "job.yaml", "--fresh", "--set", f"eval.output={output}"] + cluster, place.path)
            seen = result.get("eval", {}).get(metric)
            cases.check(f"{output}: {metric}", seen is not None and good(seen), result)
            digests.add(result.get("digest"))
        cases.check("one model, whatever is reported and whatever the cluster", len(digests) == 1, digests)
        code, out, err = run(["predict", "-f", "job.yaml", "--checkpoint", result.get("checkpoint", "none"), "train.csv"],
                             place.path)
        first = json.loads(out.splitlines()[0])["prediction"] if code == 0 else {}
        cases.check("predictions of each output", sorted(first) == ["buy", "click", "price"], err or first)
        code, out, err = run(["eval", "--checkpoint", result.get("checkpoint", "none"), "-o", "json", "--set", "eval.output=click",
                              "--set", "eval.metrics=~"], place.path)
        cases.check("another output's metrics, by eval", code == 0 and json.loads(out)["eval"].get("auc", 0) > 0.88, out + err)
        code, out, err = run(["config", "show", "--expand", "-f", "job.yaml"], place.path)
        place.file("expanded.yaml", out)
        result = run_job(["-f", "expanded.yaml", "--fresh", "--servers", "0"], place.path)
        cases.check("the expanded job is the same", code == 0 and result.get("digest") in digests, (err, result))
        for name, change, text in (
                ("no such column", ("label: bought", "label: boughtt"), "'boughtt'"),
                ("a label that is no number of the loss", ("cents, loss: squared", "cents"), "is not 0, 1 or -1"),
                ("a feature that is a label", ("{a: categorical", "{bought: categorical, a: categorical"), "is the label"),
                ("a layer that is none", ("from: buy", "from: bye"), "'bye' is no layer"),
                ("a wide layer", ("name: price, type: linear, in: [bottom], units: 1", "name: price, type: linear, in: "
                                  "[bottom], units: 2"), "gives 2 numbers, and an output has one")):
            place.file("wrong.yaml", JOB.replace(*change))
            code, out, err = run(["run", "-f", "wrong.yaml", "--fresh", "--servers", "0"], place.path)
            cases.check(f"refused: {name}", code not in (0, None) and text in err, err[-500:])
    cases.end()


main()
