#!/usr/bin/env python3
# timeout: 600
"""Goal: whatever a user gives - a job file, a setting, a command line, a data file, a checkpoint - paramctl answers
within its time limit, with the exit code of cli/cli.h and a text that names the thing, its place and its value;
it never crashes, hangs, or takes half of it.

Method: a table of cases, each one change to something that is good (the good ones are cases, too), through the real
program: config check, data describe, run with --servers 0, eval, predict, export, checkpoints. With a sanitizer's
build: PARAMCTL=$PWD/build/asan/paramctl.
"""
import gzip
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import PARAMCTL, Cases, Workplace, run  # noqa: E402

OK, ERROR, USAGE, FAILED, ABSENT, UNREACHABLE = 0, 1, 2, 3, 4, 6
LIMIT_S = 60
CRASH = re.compile(r"Sanitizer|runtime error:|check does not hold|Segmentation|stack smashing")

JOB = """name: j
data: {format: csv, train: t.csv, label: label}
features: {user: categorical, price: {transform: [log1p]}}
model: {type: fm, dim: 4}
train: {batch_size: 4, epochs: 1}
"""
CSV = "label,user,price\n1,a,1.5\n0,b,2\n1,c,3\n0,d,4\n"

cases = Cases()


def check(name, place, arguments, code, fragments, stdin=None, absent=()):
    got, out, err = run(arguments, place.path, LIMIT_S, stdin)
    text = out + err
    missing = [f for f in fragments if f not in text]
    extra = [f for f in absent if f in text]
    crash = CRASH.search(text)
    good = got == code and not missing and not extra and not crash
    cases.check(name, good, f"exit {got}, should be {code}; lacks {missing}; has {extra}; printed {text[-1500:]}")


def change(text, old, new):
    assert old in text, old
    return text.replace(old, new, 1)


# ---- job files, --set, --var ----

def with_line(line):
    return JOB + line + "\n"


CONFIG = [
    # name, job file, exit code, fragments
    ("good", JOB, OK, ["job 'j' is well formed"]),
    ("byte order mark", "\ufeff" + JOB, OK, ["well formed"]),
    ("list not closed", "name: [a", ERROR, ["j.yaml:2:1", "not valid YAML"]),
    ("tab", "name: a\n\tb: c", ERROR, ["j.yaml:2:1", "tab"]),
    ("a word", "hello", ERROR, ["j.yaml:1:1", "a job is a map"]),
    ("a list", "- a", ERROR, ["j.yaml:1:1", "a job is a map"]),
    ("empty", "", ERROR, ["data.format is required"]),
    ("control character", b"name: a\x01b", ERROR, ["j.yaml:1:8", "control characters"]),
    ("not UTF-8", b"name: \xff\xfe", ERROR, ["j.yaml:1:7", "UTF-8"]),
    ("nothing but zeros", b"\0" * 4096, ERROR, ["j.yaml:1:1"]),
    ("nested too deep", "a: " + "[" * 500, ERROR, ["j.yaml:1:35", "nested more than 32 deep"]),
    ("nested maps", "{a: " * 5000, ERROR, ["nested more than 32 deep"]),
    ("duplicate key", with_line("name: k"), ERROR, ["j.yaml:6:", "'name' is given twice"]),
    ("two documents", with_line("---\na: b"), ERROR, ["j.yaml:6:1", "second document"]),
    ("alias", with_line("vars: &v {a: 1}\neval: *v"), ERROR, ["j.yaml:"]),
    ("unknown group", with_line("trian: {}"), ERROR, ["j.yaml:6:", "trian", "did you mean 'train'?"]),
    ("unknown setting", with_line("eval: {evry: 3}"), ERROR, ["j.yaml:6:", "eval.evry", "did you mean 'every'?"]),
    ("text for a number", change(JOB, "size: 4", "size: abc"), ERROR, ["j.yaml:5:21", "train.batch_size", "'abc'"]),
    ("below its bound", change(JOB, "size: 4", "size: 0"), ERROR, ["j.yaml:5:21", "'0' is below 1"]),
    ("negative", change(JOB, "epochs: 1", "epochs: -1"), ERROR, ["j.yaml:5:32", "'-1' is below 1"]),
    ("a fraction", change(JOB, "epochs: 1", "epochs: 1.5"), ERROR, ["j.yaml:5:32", "'1.5' is not a whole number"]),
    ("past 64 bits", change(JOB, "size: 4", "size: 99999999999999999999"), ERROR, ["j.yaml:5:21", "99999999999999999999"]),
    ("a list for a number", change(JOB, "epochs: 1", "epochs: [1]"), ERROR, ["j.yaml:5:32", "a list is not"]),
    ("not a number", with_line("optimizer: {linear: {type: ftrl, learning_rate: .nan}}"), ERROR,
     ["j.yaml:6:", "optimizer.linear.learning_rate", "'.nan'"]),
    ("unknown model", change(JOB, "type: fm", "type: fmm"), ERROR, ["j.yaml:4:15", "'fmm'", "did you mean 'fm'?"]),
    ("a format of later", change(JOB, "format: csv", "format: parquet"), ERROR, ["j.yaml:2:16", "'parquet' is not in this"]),
    ("no format", change(JOB, "format: csv, ", ""), ERROR, ["data.format is required"]),
    ("no training data", change(JOB, "train: t.csv, ", ""), ERROR, ["data.train is required"]),
    ("no features", JOB.replace(JOB.splitlines()[2] + "\n", ""), ERROR, ["features", "csv"]),
    ("outputs of no layers", change(JOB, "type: fm", "type: fm, outputs: [{from: a, label: b}]"), ERROR,
     ["j.yaml:4:", "model.outputs: are from layers of model.layers, and model.type is fm"]),
    ("no model", JOB[:JOB.index("model:")], ERROR, ["model.type is required"]),
    ("unknown feature type", change(JOB, "user: categorical", "user: categorial"), ERROR,
     ["j.yaml:3:18", "features.user", "did you mean 'categorical'?"]),
    ("cross of nothing", change(JOB, "user: categorical", "user: categorical, x: {cross: [user, nope]}"), ERROR,
     ["j.yaml:3:", "features.x", "nope"]),
    ("edges not ascending", change(JOB, "transform: [log1p]", "bucketize: [3, 2]"), ERROR, ["j.yaml:3:", "bucketize"]),
    ("unknown transform", change(JOB, "log1p", "log2p"), ERROR, ["j.yaml:3:", "'log2p'", "did you mean 'log1p'?"]),
    ("unset variable", change(JOB, "t.csv", '"${day}.csv"'), ERROR, ["j.yaml:2:28", "'${day}'", "--var day"]),
    ("a name with a slash", change(JOB, "name: j", "name: a/b"), ERROR, ["j.yaml:1:7", "'a/b'"]),
    ("a name of dots", change(JOB, "name: j", "name: .."), ERROR, ["j.yaml:1:7", "'..'"]),
    ("a name too long", change(JOB, "name: j", "name: " + "x" * 129), ERROR, ["j.yaml:1:7", "128"]),
    ("a row too wide", change(JOB, "dim: 4", "dim: 5000"), ERROR, ["j.yaml:4:24", "'5000' is above"]),
    ("a layer without width", change(JOB, "type: fm, dim: 4", "type: mlp, hidden: [0]"), ERROR, ["j.yaml:4:", "model.hidden"]),
    ("keeps no checkpoint", with_line("checkpoint: {keep: 0}"), ERROR, ["j.yaml:6:20", "checkpoint.keep", "'0'"]),
    ("unknown unit of size", with_line("checkpoint: {memory: 12XB}"), ERROR, ["j.yaml:6:22", "'12XB'", "256MiB"]),
    ("unknown unit of time", with_line("checkpoint: {timeout: 5parsecs}"), ERROR, ["j.yaml:6:23", "'5parsecs'", "30s"]),
    ("early stopping without evaluation", with_line("early_stopping: {metric: auc}"), ERROR,
     ["j.yaml:6:", "early_stopping", "data.eval"]),
    ("unknown metric", change(with_line("early_stopping: {metric: f1}"), "label: label", "eval: t.csv, label: label"),
     ERROR, ["j.yaml:6:26", "'f1'", "auc"]),
    ("unknown setting like another", change(JOB, "batch_size", "batchsize"), ERROR, ["train.batchsize", "'batch_size'"]),
    ("a field that the optimizer lacks", with_line("optimizer: {dense: {type: sgd, beta1: 0.5}}"), ERROR,
     ["j.yaml:6:", "beta1", "sgd"]),
    ("more ranks than examples a step", change(JOB, "epochs: 1", "ranks: 8"), ERROR, ["j.yaml:5:", "ranks"]),
    ("unknown consistency", change(JOB, "epochs: 1", "consistency: psb"), ERROR, ["j.yaml:5:", "'psb'", "bsp"]),
    ("depth beyond its bound", change(JOB, "epochs: 1", "pipeline_depth: 1000"), ERROR, ["j.yaml:5:", "'1000'"]),
    ("unknown optimizer", with_line("optimizer: {linear: {type: adamm}}"), ERROR,
     ["j.yaml:6:28", "'adamm'", "did you mean 'adam'?"]),
]

SETTINGS = [
    (["--set", "trian.epochs=2"], ERROR, ["trian", "did you mean 'train'?"]),
    (["--set", "train.epochs"], ERROR, ["--set", "'train.epochs'"]),
    (["--set", "train.epochs="], ERROR, ["--set", "train.epochs", "''"]),
    (["--set", "train.epochs=x"], ERROR, ["--set", "train.epochs", "'x'"]),
    (["--set", "train.batch_size=-5"], ERROR, ["--set", "'-5' is below 1"]),
    (["--set", "=3"], ERROR, ["--set", "'=3'"]),
    (["--set", "train=3"], ERROR, ["--set", "train", "group"]),
    (["--set", "train.epochs=[1"], ERROR, ["train.epochs"]),
    (["--var", "x"], ERROR, ["--var", "'x'"]),
    (["--var", "=1"], ERROR, ["--var", "'=1'"]),
    (["--var", "y=1"], ERROR, ["--var", "'y'"]),
    (["--set", "train.epochs=2"], OK, ["well formed"]),
]


def test_configuration():
    with Workplace() as place:
        for name, text, code, fragments in CONFIG:
            place.file("j.yaml", text)
            check(f"config: {name}", place, ["config", "check", "-f", "j.yaml"], code, fragments)
        place.file("j.yaml", JOB)
        for words, code, fragments in SETTINGS:
            check(f"config: {' '.join(words)}", place, ["config", "check", "-f", "j.yaml"] + words, code, fragments)
        check("config: no such file", place, ["config", "check", "-f", "no.yaml"], ABSENT, ["no.yaml", "No such file"])
        check("config: a directory", place, ["config", "check", "-f", "."], ERROR, ["Is a directory"])


# ---- the command line ----

COMMANDS = [
    ([], USAGE, ["paramctl run -f JOB.yaml"]),
    (["rnu"], USAGE, ["'rnu' is not a command", "did you mean 'run'?"]),
    (["submit"], USAGE, ["-f JOB.yaml is missing"]),
    (["submit", "-f", "j.yaml"], ERROR, ["no cluster is named", "--registry", "PARAMD_REGISTRY"]),
    (["submit", "-f", "j.yaml", "--registry", "zk://h:1/c"], ERROR, ["data.train", "'t.csv' is relative"]),
    (["submit", "-f", "j.yaml", "--timeout", "1"], USAGE, ["--timeout goes with --wait"]),
    (["submit", "-f", "j.yaml", "--resume", "--fresh"], USAGE, ["exclude each other"]),
    (["list"], ERROR, ["no cluster is named"]),
    (["list", "x"], USAGE, ["'x' is one word too many"]),
    (["list", "--registry", "ftp:x"], ERROR, ["'ftp:x'", "local:"]),
    (["list", "--registry", "local:nowhere"], UNREACHABLE, ["local:nowhere"]),
    (["list", "--config", "nowhere.yaml"], ABSENT, ["nowhere.yaml"]),
    (["members", "-o", "xml"], USAGE, ["'xml'"]),
    (["logs"], USAGE, ["one JOB is wanted"]),
    (["status", "a", "-w", "--timeout", "soon"], USAGE, ["'soon'"]),
    (["stop", "a", "--registry", "local:x", "--run-dir", "y"], ERROR, ["exclude each other"]),
    (["status", "nobody"], ABSENT, ["'nobody'", "runs/nobody"]),
    (["stop"], USAGE, ["paramctl stop"]),
    (["kill", "nobody"], ABSENT, ["'nobody'"]),
    (["checkpoint", "now", "nobody"], ABSENT, ["'nobody'"]),
    (["data", "show", "-f", "j.yaml"], USAGE, ["data describe"]),
    (["checkpoints", "show", "nowhere"], ABSENT, ["nowhere"]),
    (["run"], USAGE, ["-f JOB.yaml is missing"]),
    (["run", "-f"], USAGE, ["--file wants a value"]),
    (["run", "-f", "j.yaml", "--serverz", "1"], USAGE, ["'--serverz'", "did you mean '--servers'?"]),
    (["run", "-f", "j.yaml", "--servers", "x"], USAGE, ["--servers", "'x'"]),
    (["run", "-f", "j.yaml", "--servers", "-1"], USAGE, ["--servers", "'-1'"]),
    (["run", "-f", "j.yaml", "--servers", "99999999999"], ERROR, ["'99999999999' is above"]),
    (["run", "-f", "j.yaml", "--resume", "--fresh"], USAGE, ["--resume and --fresh exclude each other"]),
    (["run", "-f", "j.yaml", "x"], USAGE, ["'x' is one word too many"]),
    (["run", "-f", "no.yaml"], ABSENT, ["no.yaml"]),
    (["config", "chek", "-f", "j.yaml"], USAGE, ["'chek' is not a verb"]),
    (["data", "describe"], USAGE, ["-f JOB.yaml is missing"]),
    (["checkpoints"], USAGE, ["a verb and a URI"]),
    (["checkpoints", "verfy", "runs"], USAGE, ["'verfy'", "did you mean 'verify'?"]),
    (["checkpoints", "gc", "runs", "--keep", "0"], USAGE, ["--keep", "'0'"]),
    (["checkpoints", "gc", "runs", "--keep", "-1"], USAGE, ["--keep", "'-1'"]),
    (["checkpoints", "ls", "runs", "-o", "yaml"], USAGE, ["-o: 'yaml'", "'json'"]),
    (["checkpoints", "ls", "nowhere"], ABSENT, ["no checkpoints in nowhere"]),
    (["checkpoints", "verify", "nowhere"], ABSENT, ["nowhere"]),
    (["checkpoints", "verify", "nowhere/1-1"], ABSENT, ["nowhere/1-1"]),
    (["checkpoints", "ls", "ftp://bucket/x"], ERROR, ["'ftp://bucket/x'", "no storage for 'ftp'"]),
    (["checkpoints", "ls", ""], ERROR, ["empty"]),
    (["export", "runs"], USAGE, ["-o DIR is missing"]),
    (["export", "nowhere", "-o", "out"], ABSENT, ["nowhere"]),
    (["predict", "-f", "j.yaml"], USAGE, ["--checkpoint URI is missing"]),
    (["predict", "-f", "j.yaml", "--checkpoint", "nowhere"], ABSENT, ["nowhere"]),
    (["eval", "-f", "j.yaml"], USAGE, ["--checkpoint URI is missing"]),
    (["eval", "-f", "j.yaml", "--checkpoint", "nowhere"], ABSENT, ["nowhere"]),
    (["eval", "--checkpoint", "nowhere"], ABSENT, ["nowhere"]),
    (["help"], OK, ["paramctl run -f JOB.yaml", "paramctl version", "help COMMAND"]),
    (["help", "predict"], OK, ["usage: paramctl predict", "--checkpoint URI", "JSON lines on stdin"]),
    (["status", "--help"], OK, ["usage: paramctl status", "--registry URI"]),
    (["help", "rnu"], USAGE, ["'rnu' is not a command", "did you mean 'run'?"]),
]


def test_commands():
    with Workplace() as place:
        place.file("j.yaml", JOB)
        for words, code, fragments in COMMANDS:
            check(f"command: {' '.join(words) or '(none)'}", place, words, code, fragments)


# ---- data ----

def replaced(row, number=3):
    """CSV with its record in line `number` + 1 replaced."""
    lines = CSV.splitlines()
    lines[number] = row
    return "\n".join(lines) + "\n"


def job_of(data, model="lr", features=""):
    return f"name: j\ndata: {{{data}}}\n{features}model: {{type: {model}}}\ntrain: {{batch_size: 4, epochs: 1}}\n"


def csv_job(train, more=""):
    return job_of(f"format: csv, train: {train}, label: label{more}",
                  features="features: {user: categorical, price: numeric}\n")


def criteo(label="1", numbers=None, values=None):
    return "\t".join([label] + (numbers or ["1"] * 13) + (values or ["0a1b"] * 26)) + "\n"


def idx(body, dims, kind=8):
    return struct.pack(">HBB", 0, kind, len(dims)) + b"".join(struct.pack(">I", d) for d in dims) + body


IMAGES, LABELS = "t-images-idx3-ubyte", "t-labels-idx1-ubyte"
PICTURES, KINDS = idx(bytes(range(16)), [4, 2, 2]), idx(bytes([0, 1, 2, 0]), [4])
IDX = (f"name: j\ndata: {{format: idx, train: {IMAGES}}}\nfeatures: {{pixels: {{type: vector, length: 4}}}}\n"
       "model: {type: mlp, hidden: [4], loss: softmax, classes: 3}\ntrain: {batch_size: 4, epochs: 1}\n")


def zipped(text, cut=None, flip=None, more=b""):
    data = bytearray(gzip.compress(text.encode(), mtime=0))
    if flip is not None:
        data[flip] ^= 0xff
    return bytes(data[:cut]) + more


def zstd_raw(text, damage=None):
    """A zstd frame of one raw block, made by hand (RFC 8878), without a checksum."""
    body = text.encode()
    frame = struct.pack("<I", 0xFD2FB528) + bytes([0xA0]) + struct.pack("<I", len(body))
    frame += struct.pack("<I", len(body) << 3 | 1)[:3] + body
    return frame if damage is None else damage(frame)


LONG = CSV * 1 + "1,a,2\n" * 200
SVM, FFM = "1 1:2 3:4\n", "1 0:1:2 1:3:4\n"

DATA = [
    # name, job, files, exit code of run, fragments
    ("csv: good", csv_job("t.csv"), {"t.csv": CSV}, OK, ["DONE"]),
    ("csv: no file", csv_job("t.csv"), {}, FAILED, ["data.train", "'t.csv'", "No such file"]),
    ("csv: empty", csv_job("t.csv"), {"t.csv": ""}, FAILED, ["data.train", "empty"]),
    ("csv: header only", csv_job("t.csv"), {"t.csv": "label,user,price\n"}, FAILED, ["no examples"]),
    ("csv: no label column", csv_job("t.csv"), {"t.csv": CSV.replace("label", "lab")}, FAILED,
     ["data.label", "no column 'label'", "did you mean 'lab'?"]),
    ("csv: no such column", csv_job("t.csv"), {"t.csv": CSV.replace("price", "prize")}, FAILED,
     ["features.price", "did you mean 'prize'?"]),
    ("csv: column twice", csv_job("t.csv"), {"t.csv": CSV.replace("user", "price")}, FAILED, ["t.csv:1", "'price' twice"]),
    ("csv: too many columns", csv_job("t.csv"), {"t.csv": "".join(f"c{i}," for i in range(40000)) + CSV}, FAILED,
     ["t.csv:1", "40003 columns", "32768"]),
    ("csv: label is a word", csv_job("t.csv"), {"t.csv": replaced("x,c,3")}, FAILED, ["t.csv:4:1", "label 'x'"]),
    ("csv: label is nan", csv_job("t.csv"), {"t.csv": replaced("nan,c,3")}, FAILED, ["t.csv:4:1", "label 'nan'"]),
    ("csv: label is 2", csv_job("t.csv"), {"t.csv": replaced("2,c,3")}, FAILED, ["t.csv:4:1", "label '2'"]),
    ("csv: not a number", csv_job("t.csv"), {"t.csv": replaced("1,c,3x")}, FAILED, ["t.csv:4:5", "'3x'", "'price'"]),
    ("csv: infinity", csv_job("t.csv"), {"t.csv": replaced("1,c,inf")}, FAILED, ["t.csv:4:5", "'inf'", "'price'"]),
    ("csv: past a double", csv_job("t.csv"), {"t.csv": replaced("1,c,1e999")}, FAILED, ["t.csv:4:5", "'1e999'"]),
    ("csv: past a float", csv_job("t.csv"), {"t.csv": replaced("1,c,1e99")}, FAILED, ["t.csv:4:5", "1e+99"]),
    ("csv: weight below zero", job_of("format: csv, train: t.csv, label: label, weight: price",
                                      features="features: {user: categorical}\n"), {"t.csv": replaced("1,c,-3")}, FAILED,
     ["t.csv:4", "-3"]),
    ("csv: too few fields", csv_job("t.csv"), {"t.csv": replaced("1,c")}, FAILED, ["t.csv:4:1", "2 fields", "3 columns"]),
    ("csv: too many fields", csv_job("t.csv"), {"t.csv": replaced("1,c,3,4")}, FAILED, ["t.csv:4:1", "4 fields"]),
    ("csv: quote not closed", csv_job("t.csv"), {"t.csv": replaced('1,"c,3')}, FAILED, ["t.csv:4:3", "not closed"]),
    ("csv: text after a quote", csv_job("t.csv"), {"t.csv": replaced('1,"c"d,3')}, FAILED, ["t.csv:4:6", "closing quote"]),
    ("csv: record too long", csv_job("t.csv"), {"t.csv": CSV + "1," + "x" * (17 << 20) + ",1\n"}, FAILED,
     ["t.csv:6:1", "longer than 16777216"]),
    ("csv: no text at all", csv_job("t.csv"), {"t.csv": bytes(range(256)) * 40}, FAILED, ["column"]),
    ("csv: bad rows within bad_rows", csv_job("t.csv", ", bad_rows: 0.3"), {"t.csv": replaced("1,c,3x")}, OK,
     ["t.csv:4:5", "'3x'", "DONE"]),
    ("csv: bad rows past bad_rows", csv_job("t.csv", ", bad_rows: 0.1"), {"t.csv": replaced("1,c,3x")}, FAILED,
     ["1 of 4 rows", "bad_rows: 0.1", "t.csv:4:5"]),
    ("csv: another header", csv_job("[a.csv, b.csv]"), {"a.csv": CSV, "b.csv": CSV.replace("user,price", "price,user")},
     FAILED, ["b.csv", "'price'", "'user'"]),
    ("eval: no examples", csv_job("t.csv", ", eval: e.csv"), {"t.csv": CSV, "e.csv": "label,user,price\n"}, FAILED,
     ["data.eval", "no examples"]),
    ("eval: empty", csv_job("t.csv", ", eval: e.csv"), {"t.csv": CSV, "e.csv": ""}, FAILED, ["data.eval", "no examples"]),
    ("csv: control characters", csv_job("t.csv"), {"t.csv": CSV.replace("price", "pr\x1bice")}, FAILED, ["pr\\x1bice"]),
    ("files: no match", csv_job('"x*.csv"'), {"t.csv": CSV}, FAILED, ["'x*.csv'"]),
    ("files: empty directory", csv_job("dir"), {"dir/.hidden": ""}, FAILED, ["'dir'"]),
    ("files: parts without _SUCCESS", csv_job("dir"), {"dir/part-0.csv": CSV}, FAILED, ["'dir'", "_SUCCESS"]),
    ("files: parts with _SUCCESS", csv_job("dir"), {"dir/part-0.csv": CSV, "dir/_SUCCESS": ""}, OK, ["DONE"]),
    ("files: other storage", csv_job('"ftp://host/x"'), {}, FAILED, ["no storage for 'ftp'"]),
    ("gzip: good", csv_job("t.gz"), {"raw:t.gz": zipped(LONG)}, OK, ["DONE"]),
    ("gzip: cut", csv_job("t.gz"), {"raw:t.gz": zipped(LONG, cut=-9)}, FAILED, ["'t.gz'", "truncated"]),
    ("gzip: wrong checksum", csv_job("t.gz"), {"raw:t.gz": zipped(LONG, flip=-6)}, FAILED, ["'t.gz'", "data check"]),
    ("gzip: damaged", csv_job("t.gz"), {"raw:t.gz": zipped(LONG, flip=30)}, FAILED, ["'t.gz'", "at byte"]),
    ("gzip: something follows", csv_job("t.gz"), {"raw:t.gz": zipped(LONG, more=b"junk")}, FAILED, ["'t.gz'", "at byte"]),
    ("zstd: good", csv_job("t.zst"), {"t.zst": zstd_raw(CSV)}, OK, ["DONE"]),
    ("zstd: cut", csv_job("t.zst"), {"t.zst": zstd_raw(CSV, lambda f: f[:-4])}, FAILED, ["'t.zst'", "truncated"]),
    ("zstd: damaged", csv_job("t.zst"), {"t.zst": zstd_raw(CSV, lambda f: f[:9] + b"\xff" + f[10:])}, FAILED,
     ["'t.zst'", "at byte"]),
    ("criteo: good", job_of("format: criteo, train: t.tsv"), {"t.tsv": criteo() * 4}, OK, ["DONE"]),
    ("criteo: too few fields", job_of("format: criteo, train: t.tsv"), {"t.tsv": criteo() + "1\t2\n"}, FAILED,
     ["t.tsv:2:1", "2 fields", "40"]),
    ("criteo: too many fields", job_of("format: criteo, train: t.tsv"), {"t.tsv": criteo()[:-1] + "\tab\n"}, FAILED,
     ["t.tsv:1:1", "41 fields"]),
    ("criteo: label", job_of("format: criteo, train: t.tsv"), {"t.tsv": criteo() + criteo("7")}, FAILED,
     ["t.tsv:2:1", "label '7'"]),
    ("criteo: number", job_of("format: criteo, train: t.tsv"), {"t.tsv": criteo() + criteo(numbers=["q"] + ["1"] * 12)},
     FAILED, ["t.tsv:2:3", "'q'", "'I1'"]),
    ("libsvm: good", job_of("format: libsvm, train: t.svm"), {"t.svm": SVM * 4}, OK, ["DONE"]),
    ("libsvm: no colon", job_of("format: libsvm, train: t.svm"), {"t.svm": SVM + "1 12\n"}, FAILED, ["t.svm:2:3", "'12'"]),
    ("libsvm: index", job_of("format: libsvm, train: t.svm"), {"t.svm": SVM + "1 x:2\n"}, FAILED, ["t.svm:2:3", "'x:2'"]),
    ("libsvm: negative index", job_of("format: libsvm, train: t.svm"), {"t.svm": SVM + "1 -1:2\n"}, FAILED,
     ["t.svm:2:3", "'-1:2'"]),
    ("libsvm: index past 64 bits", job_of("format: libsvm, train: t.svm"), {"t.svm": SVM + "1 99999999999999999999:1\n"},
     FAILED, ["t.svm:2:3", "99999999999999999999"]),
    ("libsvm: value", job_of("format: libsvm, train: t.svm"), {"t.svm": SVM + "1 1:2 2:nan\n"}, FAILED,
     ["t.svm:2:7", "'2:nan'"]),
    ("libsvm: label", job_of("format: libsvm, train: t.svm"), {"t.svm": SVM + "x 1:2\n"}, FAILED, ["t.svm:2:1", "label 'x'"]),
    ("libffm: good", job_of("format: libffm, train: t.ffm"), {"t.ffm": FFM * 4}, OK, ["DONE"]),
    ("libffm: two parts", job_of("format: libffm, train: t.ffm"), {"t.ffm": FFM + "1 1:2\n"}, FAILED,
     ["t.ffm:2:3", "'1:2'", "field:index:value"]),
    ("libffm: four parts", job_of("format: libffm, train: t.ffm"), {"t.ffm": FFM + "1 0:1:2:3\n"}, FAILED,
     ["t.ffm:2:3", "'0:1:2:3'"]),
    ("libffm: field", job_of("format: libffm, train: t.ffm"), {"t.ffm": FFM + "1 x:1:2\n"}, FAILED, ["t.ffm:2:3", "'x:1:2'"]),
    ("idx: good", IDX, {IMAGES: PICTURES, LABELS: KINDS}, OK, ["DONE"]),
    ("idx: no labels", IDX, {IMAGES: PICTURES}, FAILED, [f"'{LABELS}'", "No such file"]),
    ("idx: images cut", IDX, {IMAGES: PICTURES[:-1], LABELS: KINDS}, FAILED, [IMAGES, "ends in record 4 of 4"]),
    ("idx: labels cut", IDX, {IMAGES: PICTURES, LABELS: KINDS[:-1]}, FAILED, [LABELS, "before label 4 of 4"]),
    ("idx: something follows", IDX, {IMAGES: PICTURES + b"x", LABELS: KINDS}, FAILED, [IMAGES, "follows the last of 4"]),
    ("idx: something follows the labels", IDX, {IMAGES: PICTURES, LABELS: KINDS + b"x"}, FAILED,
     [LABELS, "follows the last of 4"]),
    ("idx: magic of the labels", IDX, {IMAGES: PICTURES, LABELS: b"\1" + KINDS[1:]}, FAILED, [LABELS, "0x01000801"]),
    ("idx: magic", IDX, {IMAGES: b"\1" + PICTURES[1:], LABELS: KINDS}, FAILED, [IMAGES, "0x01000803"]),
    ("idx: other type", IDX, {IMAGES: idx(bytes(16), [4, 2, 2], 13), LABELS: KINDS}, FAILED, [IMAGES, "0x00000d03"]),
    ("idx: fewer labels", IDX, {IMAGES: PICTURES, LABELS: idx(bytes(3), [3])}, FAILED, [LABELS, "3 labels, but 4 images"]),
    ("idx: dimensions that lie", IDX, {IMAGES: idx(bytes(16), [4, 0xffffffff, 0xffffffff]), LABELS: KINDS}, FAILED,
     [IMAGES, "4294967295 x 4294967295"]),
    ("idx: counts that lie", IDX, {IMAGES: idx(bytes(16), [0xffffffff, 2, 2]), LABELS: idx(bytes(4), [0xffffffff])},
     FAILED, [IMAGES, "record 5 of 4294967295"]),
    ("idx: label past the classes", IDX, {IMAGES: PICTURES, LABELS: idx(bytes([0, 1, 9, 0]), [4])}, FAILED,
     ["record 3", "9"]),
    ("idx: too short", IDX, {IMAGES: b"\0\0", LABELS: KINDS}, FAILED, [IMAGES, "2 bytes"]),
    ("idx: other size", change(IDX, "length: 4", "length: 9"), {IMAGES: PICTURES, LABELS: KINDS}, FAILED,
     ["record 1", "4 values", "length is 9"]),
]


def test_data():
    for name, job, files, code, fragments in DATA:
        with Workplace() as place:
            place.file("j.yaml", job)
            for path, content in files.items():
                if path.startswith("raw:"):          # Workplace would compress it
                    with open(os.path.join(place.path, path[4:]), "wb") as f:
                        f.write(content)
                else:
                    place.file(path, content)
            check(f"run: {name}", place, ["run", "-f", "j.yaml", "--servers", "0", "--fresh"], code, fragments)
            if code == FAILED:
                cases.check(f"run: {name}: no checkpoint", not checkpoints_in(place), "there is one")
            # describe shows bad rows and goes on; what is no data at all it refuses.
            got, out, err = run(["data", "describe", "-f", "j.yaml"], place.path, LIMIT_S)
            cases.check(f"describe: {name}", got in (OK, ERROR, ABSENT) and not CRASH.search(out + err) and
                        (code == OK) <= (got == OK), f"exit {got}: {(out + err)[-500:]}")


def checkpoints_in(place):
    top = os.path.join(place.path, "runs", "j", "j")
    found = [n for n in os.listdir(top) if re.fullmatch(r"\d+-\d+", n)] if os.path.isdir(top) else []
    return sorted(found, key=lambda n: tuple(map(int, n.split("-"))))


# ---- predict ----

PREDICT = [
    ('{"user":"u1","price":3}\n', OK, ['{"prediction":']),
    ('{"user":"u1","price":3,"more":2}\n', OK, ['{"prediction":']),
    ('{"user":"u1"}\n', OK, ['{"prediction":']),
    ("", OK, []),
    ("hello\n", ERROR, ["stdin:1", "column 1", "stdin takes JSON lines"]),
    ("[1]\n", ERROR, ["stdin:1", "not an object"]),
    ('{"user":"u1","price":"x"}\n', ERROR, ["stdin:1", "'x' is not a number", "'price'"]),
    ('{"user":{"a":1},"price":1}\n', ERROR, ["stdin:1", "'user' is an object"]),
    ('{"user":["u1",["u2"]],"price":1}\n', ERROR, ["stdin:1", "'user' holds an object or a list"]),
    ('{"user":"u1","price":NaN}\n', ERROR, ["stdin:1", "column 22"]),
    ('{"user":"u1","price":1e999}\n', ERROR, ["stdin:1", "column 22", "too large"]),
    ('{"user":"u1","price":1} x\n', ERROR, ["stdin:1", "follows the value"]),
    ('{"user":"u1","user":"u2"}\n', ERROR, ["stdin:1", "this name already"]),
    ('{"user":"u1","price":1}\n{"user"\n', ERROR, ['{"prediction":', "stdin:2", "column 8"]),
    ("[" * 100000 + "\n", ERROR, ["stdin:1", "nested too deeply"]),
    ('{"user":"' + "x" * (2 << 20) + '"}\n', ERROR, ["stdin:1", "bound is 1048576"]),
    (b'{"user":"\xff\xfe"}\n', ERROR, ["stdin:1"]),
]


def train(place, more=()):
    """Some checkpoints of a small model; the last is of step 100."""
    rows = "".join(f"{i % 2},u{i % 7},{i % 5}\n" for i in range(400))
    place.file("t.csv", "label,user,price\n" + rows)
    place.file("j.yaml", csv_job("t.csv", ", eval: t.csv") + "checkpoint: {every_steps: 20, keep: 10}\n")
    check("train", place, ["run", "-f", "j.yaml", "--servers", "0", "--fresh", "--set", "train.drain_every=5"] + list(more),
          OK, ["DONE"])


def test_predict(place):
    model = ["predict", "-f", "j.yaml", "--checkpoint", "runs/j"]
    for text, code, fragments in PREDICT:
        check(f"predict: {text[:40]!r}", place, model, code, fragments, stdin=text)
    files = {"p.csv": ("user,price\nu1,2\n", OK, ['{"prediction":']),
             "q.csv": ("user\nu1\n", ERROR, ["features", "price", "no column 'price'"]),
             "r.csv": ("user,price\nu1,2\nu2,x\n", ERROR, ["r.csv:3:4", "'x'", "'price'"])}
    for name, (text, code, fragments) in files.items():
        place.file(name, text)
        check(f"predict: {name}", place, model + [name], code, fragments)
    with open("/dev/full", "w") as full, open("/dev/null") as empty:
        for name, words in (("predict", model + ["p.csv"]), ("config show", ["config", "show", "-f", "j.yaml"])):
            done = subprocess.run([PARAMCTL] + words, cwd=place.path, stdin=empty, stdout=full, stderr=subprocess.PIPE,
                                  timeout=LIMIT_S)
            cases.check(f"{name}: to a full disk", done.returncode == ERROR and b"stdout" in done.stderr,
                        f"exit {done.returncode}: {done.stderr[-500:]}")
    directory = os.open(place.path, os.O_RDONLY)
    done = subprocess.run([PARAMCTL] + model, cwd=place.path, stdin=directory, capture_output=True, timeout=LIMIT_S)
    os.close(directory)
    cases.check("predict: stdin is a directory", done.returncode == ERROR and b"stdin:1" in done.stderr, done)
    check("predict: no file", place, model + ["none.csv"], ABSENT, ["none.csv"])
    place.file("k.yaml", change(csv_job("t.csv", ", eval: t.csv"), "type: lr", "type: fm, dim: 3"))
    check("predict: another model", place, ["predict", "-f", "k.yaml", "--checkpoint", "runs/j"], ERROR,
          ["runs/j/j/1-100", "model.type: was lr and is now fm"], stdin=PREDICT[0][0])
    check("eval: another model", place, ["eval", "-f", "k.yaml", "--checkpoint", "runs/j"], ERROR,
          ["checkpoint 1-100", "model.type: was lr and is now fm"])
    check("eval: a feature that is another", place,
          ["eval", "--checkpoint", "runs/j", "--set", "features.user.min_count=9"], ERROR,
          ["features.user.min_count: was 1 and is now 9"])
    place.file("u.csv", "label,user,price\n0,u1,2\n1,u2,3\n")
    check("eval: other data", place, ["eval", "--checkpoint", "runs/j", "--set", "data.eval=u.csv"], OK, ["log_loss"])
    check("resume: another model", place, ["run", "-f", "k.yaml", "--servers", "0", "--resume"], ERROR,
          ["model.type", "was lr and is now fm", "--fresh"])
    check("run over checkpoints", place, ["run", "-f", "j.yaml", "--servers", "0"], ERROR,
          ["runs/j/j/1-100", "--resume", "--fresh"])


# ---- models ----

LAYERS = """
name: m
data: {format: csv, train: m.csv, eval: m.csv}
features: {user: categorical, price: numeric}
model:
  dim: 4
  layers:
    - {name: a, type: linear, in: [dense, embeddings], units: 1}
    - {name: b, type: linear, in: [dense], units: 1}
  outputs: [{from: a, label: click}, {from: b, label: cents, loss: squared}]
train: {batch_size: 4}
"""


def test_models(place):
    """What a job file cannot show before there are data and a machine; and runs that train nothing."""
    start = ["run", "--servers", "0", "--fresh", "-f", "m.yaml"]
    place.file("m.yaml", LAYERS)
    place.file("m.csv", "click,cents,user,price\n1,2,a,1\n0,,b,2\n")
    check("a label of an output is missing", place, start, FAILED, ["m.csv:3", "the label is missing in column 'cents'"])
    place.file("m.csv", "click,cent,user,price\n1,2,a,1\n")
    check("no column for an output", place, start, FAILED, ["model.outputs", "no column 'cents'", "did you mean 'cent'"])
    place.file("m.csv", "click,cents,user,price\n" + "1,2,a,1\n0,3,b,2\n" * 40)
    check("a precision without a GPU", place, start + ["--set", "train.precision=bf16"], FAILED,
          ["train.precision is bf16", "needs a GPU", "train.precision: float32"])
    place.file("wide.yaml", change(LAYERS, "name: b, type: linear, in: [dense]",
                                   "name: w, type: linear, in: [dense], units: 65536}\n    - {name: b, type: linear, in: [w]"))
    check("a batch that no machine holds", place, ["run", "--servers", "0", "--fresh", "-f", "wide.yaml", "--set",
                                                   "train.batch_size=16000000"], FAILED,
          ["layer 'w' gives 65536 numbers", "train.batch_size"])
    check("a model that is no longer finite", place, start + ["--set", "model.l2=1e30", "--set", "train.max_steps=3",
          "--set", "optimizer.embedding.type=sgd"], OK, ["no value of any metric"])
    check("a run that ends between drain points", place, start + ["--set", "train.max_steps=11"], OK, ["DONE"])
    resume = ["run", "--servers", "0", "--resume", "-f", "m.yaml"]
    check("resumed from there", place, resume, FAILED, ["step 11", "train.drain_every 11"])
    check("resumed as it says", place, resume + ["--set", "train.drain_every=11"], OK, ["DONE"])
    for name, old, new, fragments in (
            ("a wide output", "embeddings], units: 1", "embeddings], units: 2", ["model.outputs[0].from: 'a' gives 2 numbers"]),
            ("a table that nothing reads", "in: [dense, embeddings]", "in: [dense]",
             ["features.user: no layer reads", "'features'"]),
            ("dense without numbers", ", price: numeric", "", ["model.layers.a: reads dense, and no feature gives"])):
        place.file("wrong.yaml", change(LAYERS, old, new))
        check(f"model: {name}", place, ["config", "check", "-f", "wrong.yaml"], ERROR, fragments)


# ---- checkpoints ----

def flip(data, at):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def table_file(directory):
    return next(n for n in sorted(os.listdir(directory)) if n.startswith("table0-"))


def damage(directory, kind, other=None):
    """Damages the checkpoint in `directory`, with files of `other`; the fragments that a refusal must have."""
    manifest, table = os.path.join(directory, "MANIFEST.json"), table_file(directory)
    path = os.path.join(directory, table)
    with open(manifest, "rb") as f:
        text = f.read()
    with open(path, "rb") as f:
        data = f.read()

    def write(where, content):
        with open(where, "wb") as f:
            f.write(content)

    if kind == "bit of a shard file":
        write(path, flip(data, len(data) // 3))
        return [table, "checksum"]
    if kind == "shard file cut":
        write(path, data[:-1])
        return [table, f"{len(data) - 1} bytes", str(len(data))]
    if kind == "shard file missing":
        os.remove(path)
        return [table, "missing"]
    if kind == "shard file empty":
        write(path, b"")
        return [table]
    if kind == "shard file is a directory":
        os.remove(path)
        os.mkdir(path)
        return [table]
    if kind == "shard file of another step":
        shutil.copy(os.path.join(other, table_file(other)), path)
        return [table]
    if kind == "bit of the manifest":
        write(manifest, flip(text, len(text) // 2))
        return ["MANIFEST.json", "checksum"]
    if kind == "manifest cut":
        write(manifest, text[:len(text) // 2])
        return ["MANIFEST.json", "cut"]
    if kind == "manifest empty":
        write(manifest, b"")
        return ["MANIFEST.json"]
    if kind == "manifest of another step":
        shutil.copy(os.path.join(other, "MANIFEST.json"), manifest)
        return [os.path.basename(other)]
    if kind == "manifest missing":
        os.remove(manifest)
        return ["MANIFEST.json"]
    raise ValueError(kind)


KINDS_OF_DAMAGE = ["bit of a shard file", "shard file cut", "shard file missing", "shard file empty",
                   "shard file is a directory", "shard file of another step", "bit of the manifest", "manifest cut",
                   "manifest empty", "manifest of another step", "manifest missing"]


def test_checkpoints(place):
    top, good = os.path.join(place.path, "runs", "j", "j"), os.path.join(place.path, "good")
    shutil.copytree(top, good)
    names, one = checkpoints_in(place), PREDICT[0][0]
    if not cases.check("several checkpoints", len(names) >= 2 and names[-1] == "1-100", names):
        return
    newest = "runs/j/j/1-100"
    for kind in KINDS_OF_DAMAGE:
        fragments = damage(os.path.join(top, names[-1]), kind, os.path.join(top, names[0]))
        code = ABSENT if kind == "manifest missing" else ERROR
        warned = [] if kind == "manifest missing" else fragments
        for verb in (["checkpoints", "verify", newest], ["checkpoints", "digest", newest],
                     ["export", newest, "-o", "out"], ["predict", "--checkpoint", newest]):
            check(f"{' '.join(verb[:-1])}: {kind}", place, verb, code, fragments, stdin=one)
        # The manifest is looked at before the job is taken, the rest by the job.
        check(f"eval: {kind}", place, ["eval", "-f", "j.yaml", "--checkpoint", newest],
              ERROR if "manifest" in kind else FAILED, fragments)
        check(f"predict from the one before: {kind}", place, ["predict", "--checkpoint", "runs/j"], OK,
              ['{"prediction":'] + warned, stdin=one)
        check(f"resume from the one before: {kind}", place,
              ["run", "-f", "j.yaml", "--servers", "0", "--resume", "--set", "train.drain_every=5"], OK,
              ["DONE", "step 100"] + warned)
        cases.check(f"resumed: {kind}", "2-100" in checkpoints_in(place), checkpoints_in(place))
        shutil.rmtree(top)
        shutil.copytree(good, top)
    for name in names:
        damage(os.path.join(top, name), "bit of the manifest")
    check("resume: none is good", place, ["run", "-f", "j.yaml", "--servers", "0", "--resume"], ERROR,
          names + ["checksum", "--fresh"])
    check("predict: none is good", place, ["predict", "--checkpoint", "runs/j"], ABSENT, ["no good checkpoint"], stdin=one)
    shutil.rmtree(top)
    shutil.copytree(good, top)


def test_export(place):
    """The file is what the format says, byte for byte: https://github.com/huggingface/safetensors."""
    check("export", place, ["export", "runs/j", "-o", "out"], OK, ["out/model.safetensors"])
    with open(os.path.join(place.path, "out", "model.safetensors"), "rb") as f:
        data = f.read()
    import json
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    meta = header.pop("__metadata__")
    cases.check("export: header", size % 8 == 0 and data[8:9] == b"{" and meta["job"] == "j", header)
    at, widths, good = 0, {"F32": 4, "U64": 8}, True
    for name, t in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        count = 1
        for n in t["shape"]:
            count *= n
        good &= t["data_offsets"] == [at, at + count * widths[t["dtype"]]] and at % widths[t["dtype"]] == 0
        at = t["data_offsets"][1]
    cases.check("export: tensors lie one after the other, aligned", good and 8 + size + at == len(data), header)
    begin, end = header["features.keys"]["data_offsets"]
    keys = struct.unpack(f"<{(end - begin) // 8}Q", data[8 + size + begin:8 + size + end])
    rows = header["features.values"]["shape"]
    cases.check("export: keys ascend, a row each", list(keys) == sorted(set(keys)) and rows[0] == len(keys) == 8, rows)


def main():
    assert zlib.decompress(zipped(CSV), 31) == CSV.encode()
    test_configuration()
    test_commands()
    test_data()
    with Workplace() as place:
        test_models(place)
    with Workplace() as place:
        train(place)
        test_predict(place)
        test_export(place)
        test_checkpoints(place)
    cases.end()


if __name__ == "__main__":
    main()
