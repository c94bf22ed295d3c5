#!/usr/bin/env python3
# timeout: 1200
"""Goal: bad input gives an error that names the thing, and an exit code; nothing crashes, nothing hangs.

Method: a table of cases over command lines, job files, every data format, packed files and checkpoints, run through
the real paramctl (PARAMCTL names another build, say a sanitized one), each with a time limit. A case is a name, the
arguments, the exit codes that are right, and what stderr must hold. Bad RPC messages are in tests/unit/test_wire.c,
test_shard_rules.c and test_service_peek.c.
"""
import glob
import gzip
import os
import shutil
import struct

from harness import Cases, Workplace, clicks_csv, clicks_job, run, run_job

cases = Cases()
LIMIT = 60
CSV = "label,a,b\n1,x,1\n0,y,2\n1,x,3\n0,z,4\n"
BASE = "data: {format: csv, train: t.csv}\nfeatures: {a: categorical, b: numeric}\nmodel: {type: lr}\n"


def job(text):
    return ["config", "check", "-f", "job.yaml"], {"job.yaml": text}


def data(fmt, name, content, model="lr", more="", features=""):
    text = f"name: bad\ndata: {{format: {fmt}, train: {name}{more}}}\n{features}model: {{type: {model}}}\n"
    return ["run", "-f", "job.yaml", "--fresh", "--servers", "0"], {"job.yaml": text, name: content}


def csv(content, more="", features="features: {a: categorical, b: numeric}\n"):
    return data("csv", "t.csv", content, more=more, features=features)


def idx(magic=2051, count=4, rows=2, cols=2, size=16, labels=4, label_magic=2049):
    images = struct.pack(">IIII", magic, count, rows, cols) + bytes(size)
    return {"x-images-idx3-ubyte": images, "x-labels-idx1-ubyte": struct.pack(">II", label_magic, labels) + bytes(labels)}


def idx_case(**changes):
    arguments, files = data("idx", "x-images-idx3-ubyte", b"", model="mlp")
    files.update(idx(**changes))
    return arguments, files


COMMANDS = [
    ("no command", [], (2,), ["paramctl run"]),
    ("unknown command", ["rnu"], (2,), ["'rnu'", "did you mean 'run'"]),
    ("a command that needs a cluster", ["submit"], (2,), ["submit", "cluster"]),
    ("run without a file", ["run"], (2,), ["-f JOB.yaml is missing"]),
    ("unknown option", ["run", "--serves", "1"], (2,), ["--serves", "did you mean '--servers'"]),
    ("an option without its value", ["run", "-f"], (2,), ["wants a value"]),
    ("a number that is none", ["run", "-f", "j", "--servers", "two"], (2,), ["'two'", "not a number"]),
    ("a negative number", ["run", "-f", "j", "--servers", "-1"], (2,), ["'-1'"]),
    ("resume and fresh", ["run", "-f", "j", "--resume", "--fresh"], (2,), ["exclude each other"]),
    ("another output", ["run", "-f", "j", "-o", "xml"], (2,), ["'xml'", "json"]),
    ("a file that is not there", ["run", "-f", "none.yaml"], (4,), ["none.yaml"]),
    ("eval without a checkpoint", ["eval", "-f", "j"], (2,), ["--checkpoint"]),
    ("checkpoints without a verb", ["checkpoints"], (2,), ["verb"]),
    ("checkpoints with another verb", ["checkpoints", "lss", "x"], (2,), ["did you mean 'ls'"]),
    ("checkpoints of nothing", ["checkpoints", "show", "nowhere"], (4,), ["nowhere"]),
    ("gc that keeps nothing", ["checkpoints", "gc", "x", "--keep", "0"], (2,), ["--keep"]),
    ("config with another verb", ["config", "chek", "-f", "x"], (2,), ["'chek'"]),
    ("data with another verb", ["data", "show", "-f", "x"], (2,), ["data describe"]),
    ("status of no run", ["status", "nobody"], (4,), ["nobody"]),
]

JOBS = [
    ("empty file", "", ["job.yaml"]),
    ("not a map", "- a\n- b\n", ["job.yaml:1"]),
    ("broken YAML", "data: {format: csv\nmodel: x\n", ["job.yaml:"]),
    ("a tab", "data:\n\tformat: csv\n", ["job.yaml:2"]),
    ("unknown section", BASE + "trian: {epochs: 2}\n", ["trian", "did you mean 'train'", ":4:"]),
    ("unknown setting", BASE + "train: {batchsize: 2}\n", ["train.batchsize", "batch_size"]),
    ("below its bound", BASE + "train: {batch_size: 0}\n", ["train.batch_size", "'0'", ":4:"]),
    ("not a number", BASE + "train: {epochs: many}\n", ["train.epochs", "'many'"]),
    ("twice", BASE + "train: {epochs: 1, epochs: 2}\n", ["epochs", "twice"]),
    ("no format", "data: {train: t}\nmodel: {type: lr}\n", ["data.format", "required"]),
    ("no model", "data: {format: libsvm, train: t}\n", ["model.type", "required"]),
    ("a format for later", "data: {format: parquet, train: t}\nmodel: {type: lr}\n", ["parquet"]),
    ("a model for later", "data: {format: libsvm, train: t}\nmodel: {type: deepfm}\n", ["deepfm"]),
    ("an unknown model", "data: {format: libsvm, train: t}\nmodel: {type: fmm}\n", ["'fmm'", "fm"]),
    ("an unknown optimizer", BASE + "optimizer: {linear: {type: adamm}}\n", ["adamm", "adam"]),
    ("a field that the optimizer lacks", BASE + "optimizer: {dense: {type: sgd, beta1: 0.5}}\n", ["beta1", "sgd"]),
    ("a variable that is not set", "name: ${day}\n" + BASE, ["day"]),
    ("more ranks than examples a step", BASE + "train: {batch_size: 2, ranks: 4}\n", ["ranks"]),
    ("an unknown consistency", BASE + "train: {consistency: psb}\n", ["'psb'", "bsp"]),
    ("depth beyond its bound", BASE + "train: {pipeline_depth: 1000}\n", ["pipeline_depth", "1000"]),
    ("early stopping without evaluation", BASE + "early_stopping: {metric: auc}\n", ["early_stopping"]),
    ("a cross of nothing", "data: {format: csv, train: t}\nfeatures: {a: ~, c: {cross: [a, q]}}\nmodel: {type: lr}\n", ["q"]),
    ("edges out of order", "data: {format: csv, train: t}\nfeatures: {a: {bucketize: [3, 1]}}\nmodel: {type: lr}\n",
     ["bucketize"]),
    ("a duration without its unit", BASE + "checkpoint: {timeout: soon}\n", ["checkpoint.timeout", "soon"]),
]

DATA = [
    ("csv: no such file", data("csv", "other.csv", "", features="features: {a: categorical}\n"), ["other.csv"]),
    ("csv: a missing column", csv("label,a\n1,x\n"), ["b"]),
    ("csv: too few fields", csv("label,a,b\n1,x,1\n0,y\n"), ["t.csv:3"]),
    ("csv: too many fields", csv("label,a,b\n1,x,1\n0,y,2,3\n"), ["t.csv:3"]),
    ("csv: a label that is no number", csv("label,a,b\nyes,x,1\n"), ["t.csv:2", "yes"]),
    ("csv: a label that is neither 0 nor 1", csv("label,a,b\n7,x,1\n"), ["t.csv:2", "7"]),
    ("csv: a number that is none", csv("label,a,b\n1,x,abc\n"), ["t.csv:2", "abc"]),
    ("csv: nan", csv("label,a,b\n1,x,nan\n"), ["t.csv:2", "nan"]),
    ("csv: a quote that never ends", csv('label,a,b\n1,"x,1\n0,y,2\n'), ["t.csv:2"]),
    ("csv: empty file", csv(""), ["data.train", "empty"]),
    ("csv: header only", csv("label,a,b\n"), ["data.train", "no examples"]),
    ("csv: a column twice", csv("label,a,a,b\n1,x,y,1\n"), ["a"]),
    ("csv: bytes that are no text", csv(b"label,a,b\n1,\x00\xff,zz\n"), ["t.csv:2"]),
    ("csv: a weight below zero", csv("label,a,b\n1,x,-1\n", more=", weight: b", features="features: {a: categorical}\n"),
     ["t.csv:2", "-1"]),
    ("libsvm: an index that is no number", data("libsvm", "t", "1 3:1 x:2\n"), ["t:1", "x"]),
    ("libsvm: no colon", data("libsvm", "t", "1 3:1\n0 4\n"), ["t:2"]),
    ("libsvm: a value that is no number", data("libsvm", "t", "1 3:one\n"), ["t:1", "one"]),
    ("libsvm: a label that is none", data("libsvm", "t", "a 3:1\n"), ["t:1", "'a'"]),
    ("libsvm: an index beyond 64 bits", data("libsvm", "t", "1 99999999999999999999999:1\n"), ["t:1", "9999"]),
    ("libffm: two parts only", data("libffm", "t", "1 3:1\n"), ["t:1"]),
    ("libffm: a field that is no number", data("libffm", "t", "1 f:3:1\n"), ["t:1", "f"]),
    ("libffm: a value that is no number", data("libffm", "t", "1 0:3:x\n"), ["t:1", "x"]),
    ("criteo: too few columns", data("criteo", "t", "1\t2\t3\n"), ["t:1"]),
    ("criteo: a label that is none", data("criteo", "t", "x" + "\t1" * 13 + "\tab" * 26 + "\n"), ["t:1"]),
    ("criteo: an integer that is none", data("criteo", "t", "1\tq" + "\t1" * 12 + "\tab" * 26 + "\n"), ["t:1", "q"]),
    ("criteo: too many columns", data("criteo", "t", "1" + "\t1" * 13 + "\tab" * 27 + "\n"), ["t:1"]),
    ("idx: another magic number", idx_case(magic=1234), ["x-images"]),
    ("idx: cut", idx_case(size=15), ["x-images"]),
    ("idx: more bytes than images", idx_case(size=17), ["x-images"]),
    ("idx: fewer labels than images", idx_case(labels=3), ["label"]),
    ("idx: labels of another magic number", idx_case(label_magic=7), ["x-labels"]),
    ("gzip: cut", data("libsvm", "t.gz", gzip.compress(b"1 3:1\n" * 5000)[:-20]), ["t.gz"]),
    ("gzip: damaged", data("libsvm", "t.gz", gzip.compress(os.urandom(4000))[:2000] + bytes(100)), ["t.gz"]),
    ("zstd: damaged", data("libsvm", "t.zst", b"\x28\xb5\x2f\xfd" + bytes(50)), ["t.zst"]),
    ("a directory without _SUCCESS", data("libsvm", "d", b""), ["_SUCCESS"]),
]


def write(place, files):
    for name in os.listdir(place.path):
        path = os.path.join(place.path, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    for name, content in files.items():
        place.file(name, content) if not name.endswith(".gz") else open(os.path.join(place.path, name), "wb").write(content)


def one(place, name, arguments, codes, fragments):
    code, out, err = run(arguments, place.path, timeout=LIMIT)
    seen = out + err
    cases.check(name, code in codes and all(f in seen for f in fragments) and "Sanitizer" not in seen,
                f"exit {code}: {seen[-500:]}")


def checkpoints(place):
    """A damaged newest checkpoint is refused by name, and the one before it is used."""
    write(place, {"train.csv": clicks_csv(3000), "test.csv": clicks_csv(300, seed=2), "job.yaml": clicks_job()})
    first = run_job(["-f", "job.yaml", "--fresh", "--servers", "0"], place.path, timeout=LIMIT)
    for title, pattern in (("the manifest", "MANIFEST.json"), ("a table", "table*"), ("the dense blocks", "dense*")):
        newest = sorted(glob.glob(os.path.join(place.path, "runs/clicks/clicks/[0-9]*-[0-9]*")),
                        key=lambda p: [int(x) for x in os.path.basename(p).split("-")])[-1]
        path = sorted(glob.glob(os.path.join(newest, pattern)))[0]
        kept = open(path, "rb").read()
        for damage, content in (("a flipped bit", kept[:len(kept) // 2] + bytes([kept[len(kept) // 2] ^ 4])
                                 + kept[len(kept) // 2 + 1:]), ("cut", kept[:-7]), ("empty", b"")):
            with open(path, "wb") as f:
                f.write(content)
            one(place, f"checkpoint: {title}: {damage}: verify", ["checkpoints", "verify", newest], (1, 4),
                [os.path.basename(path)])
            one(place, f"checkpoint: {title}: {damage}: eval", ["eval", "-f", "job.yaml", "--checkpoint", newest], (1, 3, 4),
                [os.path.basename(path)])
        result = run_job(["-f", "job.yaml", "--resume", "--servers", "0"], place.path, timeout=LIMIT)
        cases.check(f"checkpoint: {title}: damaged: the one before it is used", result.get("digest") == first["digest"], result)
        shutil.rmtree(os.path.join(place.path, "runs"))
        run_job(["-f", "job.yaml", "--fresh", "--servers", "0"], place.path, timeout=LIMIT)


def main():
    with Workplace() as place:
        for name, arguments, codes, fragments in COMMANDS:
            one(place, name, arguments, codes, fragments)
        for name, text, fragments in JOBS:
            arguments, files = job(text)
            write(place, files)
            one(place, f"job: {name}", arguments, (1,), fragments)
        for name, (arguments, files), fragments in DATA:
            if name.startswith("csv: no such file"):
                files.pop("other.csv")
            if name.startswith("a directory"):
                files = {"job.yaml": files["job.yaml"], "d/part-00000": "1 3:1\n"}
            write(place, files)
            one(place, name, arguments, (1, 3, 4), fragments)
        checkpoints(place)
    cases.end()


main()
