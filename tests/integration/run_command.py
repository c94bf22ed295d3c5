#!/usr/bin/env python3
# timeout: 600
"""Goal: `paramctl run`, eval and predict behave as their user expects, also when he changes his mind or kills things.

Method: small jobs on generated data; every case looks at exit code, stdout, files and processes.
"""
import json
import os
import signal
import subprocess
import time

from harness import (PARAMCTL, Cases, Workplace, children_of, clicks_csv, clicks_job, is_alive, run, run_job, start,
                     wait_until)

cases = Cases()
LONG = clicks_job(extra="").replace("epochs: 2", "epochs: 4000").replace("name: clicks", "name: long")
CLUSTER = ["--servers", "2", "--workers", "2"]


def result_and_files(place):
    code, out, err = run(["run", "-f", "job.yaml", "-o", "json"] + CLUSTER, place.path)
    lines = out.strip().split("\n")
    cases.check("run: exactly one JSON object on stdout", code == 0 and len(lines) == 1, out + err)
    result = json.loads(lines[0])
    wanted = ["job", "state", "epochs", "steps", "examples", "seconds", "examples_per_second", "train", "eval",
              "checkpoint", "digest"]
    cases.check("run: it has the members that are promised", all(k in result for k in wanted), result)
    cases.check("run: examples are epochs × rows", result["examples"] == 2 * 6000 and result["epochs"] == 2, result)
    base = os.path.join(place.path, "runs", "clicks")
    cases.check("run: the run directory has job, metrics and logs",
                all(os.path.exists(os.path.join(base, f)) for f in ("job.yaml", "metrics.jsonl", "logs/server-0.log",
                                                                      "logs/worker-1.log")), os.listdir(base))
    with open(os.path.join(base, "metrics.jsonl")) as f:
        kinds = {json.loads(line)["kind"] for line in f}
    cases.check("run: metrics.jsonl parses and has evaluations", "eval" in kinds, kinds)
    code, out, err = run(["run", "-f", os.path.join(base, "job.yaml"), "--fresh", "-o", "json"] + CLUSTER, place.path)
    cases.check("run: the resolved job trains the same model",
                code == 0 and json.loads(out)["digest"] == result["digest"], out + err)
    return json.loads(out)


def inherited(place):
    """What a process inherits is not its own choice: closed descriptors, a large environment."""
    words = ["-f", "job.yaml", "--fresh", "-o", "json"] + CLUSTER
    done = subprocess.run(["sh", "-c", 'exec "$0" "$@" 0<&- 1<&- 2<&-', PARAMCTL, "run"] + words, cwd=place.path, timeout=120)
    lock = os.path.getsize(os.path.join(place.path, "runs", "clicks", "lock"))
    cases.check("run: without stdin, stdout and stderr", done.returncode == 0 and lock == 0, (done, lock))
    many = dict(os.environ, PARAMD_TEST_LAST="seen", **{f"PARAMD_TEST_{i}": "x" for i in range(300)})
    process = start(["run", "-f", "long.yaml"] + CLUSTER, place.path, env=many)
    try:
        cases.check("run: four daemons start", wait_until(lambda: len(daemons_of(process.pid)) == 4, 20), "they do not")
        for pid in daemons_of(process.pid):
            with open(f"/proc/{pid}/environ", "rb") as f:
                there = f.read().split(b"\0")
            cases.check("run: daemons have the whole environment",
                        b"PARAMD_TEST_LAST=seen" in there and sum(v.startswith(b"PARAMD_TEST_") for v in there) == 301, there)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def daemons_of(pid):
    """The children that have become a daemon."""
    found = []
    for child in children_of(pid):
        try:
            with open(f"/proc/{child}/cmdline", "rb") as f:
                found += [child] if b"paramd-" in f.read().split(b"\0")[0] else []
        except FileNotFoundError:
            pass
    return found


def over_existing(place, result):
    code, out, err = run(["run", "-f", "job.yaml"] + CLUSTER, place.path)
    cases.check("run over existing checkpoints is refused, naming both ways on",
                code == 1 and "--resume" in err and "--fresh" in err, f"{code} {err}")
    again = run_job(["-f", "job.yaml", "--resume"] + CLUSTER, place.path)
    cases.check("run --resume of a finished job ends at once with the same digest",
                again.get("digest") == result["digest"], again)
    more = run_job(["-f", "job.yaml", "--resume", "--set", "train.epochs=3"] + CLUSTER, place.path)
    cases.check("run --resume with more epochs goes on", more.get("state") == "DONE" and more.get("epochs") == 3, more)
    whole = run_job(["-f", "job.yaml", "--fresh", "--set", "train.epochs=3"] + CLUSTER, place.path)
    cases.check("… to the digest of an undisturbed run", whole.get("digest") == more.get("digest"), whole)
    text = run(["checkpoints", "ls", "runs/clicks"], place.path)
    cases.check("checkpoints ls of a run's directory lists its job's",
                text[0] == 0 and "runs/clicks/clicks/" in text[1], text)
    text = run(["eval", "--checkpoint", "runs/clicks", "-o", "json"], place.path)
    cases.check("eval without a job file takes the checkpoint's",
                text[0] == 0 and json.loads(text[1])["eval"]["auc"] == whole["eval"]["auc"], text)
    code, out, err = run(["run", "-f", "job.yaml", "--resume", "--set", "model.dim=4"], place.path)
    cases.check("run --resume with another model is refused by name", code in (1, 3) and "model.dim" in err,
                f"{code} {err}")


def other_workers(place):
    """A job that leaves train.ranks out resumes with those of its checkpoint, whatever --workers says."""
    whole = run_job(["-f", "free.yaml", "--set", "train.epochs=3"] + CLUSTER, place.path)
    run_job(["-f", "free.yaml", "--fresh"] + CLUSTER, place.path)
    fewer = run_job(["-f", "free.yaml", "--resume", "--set", "train.epochs=3"], place.path)
    cases.check("run --resume with fewer workers keeps the ranks, to the same digest",
                "digest" in whole and fewer.get("digest") == whole["digest"], fewer)
    code, out, err = run(["run", "-f", "free.yaml", "--resume", "--workers", "3"], place.path)
    cases.check("run --resume with more workers than ranks is refused, saying how many there can be",
                code == 1 and "train.ranks 2" in err and "2 workers or fewer" in err, f"{code} {err}")
    code, out, err = run(["run", "-f", "free.yaml", "--resume", "--set", "train.ranks=1"], place.path)
    cases.check("run --resume with other ranks is refused by name",
                code == 1 and "train.ranks: was 2 and is now 1" in err and "--fresh" in err, f"{code} {err}")


def eval_and_predict(place):
    result = run_job(["-f", "job.yaml", "--fresh"] + CLUSTER, place.path)
    code, out, err = run(["eval", "-f", "job.yaml", "--checkpoint", result["checkpoint"], "-o", "json"], place.path)
    found = json.loads(out)["eval"] if code == 0 else {}
    cases.check("eval: the metrics that training saw",
                code == 0 and all(abs(found[k] - v) < 1e-12 for k, v in result["eval"].items() if k in found), out + err)
    code, out, err = run(["predict", "-f", "job.yaml", "--checkpoint", result["checkpoint"], "test.csv"], place.path)
    lines = [json.loads(line) for line in out.strip().split("\n")] if code == 0 else []
    cases.check("predict: a probability for every row",
                len(lines) == 1500 and all(0 < line["prediction"] < 1 for line in lines), err[-300:])
    rows = '{"user": "u1", "item": "i1", "hour": "3", "price": 12.5}\n{"user": "never", "item": null}\n'
    code, out, err = run(["predict", "-f", "job.yaml", "--checkpoint", "runs/clicks"], place.path, stdin=rows)
    cases.check("predict: JSON lines on stdin", code == 0 and len(out.strip().split("\n")) == 2, out + err)
    code, out, err = run(["predict", "-f", "job.yaml", "--checkpoint", "runs/clicks"], place.path, stdin="{oops\n")
    cases.check("predict: a bad line is named", code == 1 and "stdin:1" in err, err)
    code, out, err = run(["data", "describe", "-f", "job.yaml", "-o", "json"], place.path)
    cases.check("data describe: JSON", code == 0 and "user" in out, out[:300] + err)
    code, out, err = run(["export", "runs/clicks", "-o", "out"], place.path)
    cases.check("export: a safetensors file", code == 0 and os.path.exists(os.path.join(place.path, "out/model.safetensors")),
                err)


def interrupted(place):
    for name, number in (("Ctrl-C", signal.SIGINT), ("SIGTERM", signal.SIGTERM)):
        process = start(["run", "-f", "long.yaml", "--fresh"] + CLUSTER, place.path)
        wait_until(lambda: len(children_of(process.pid)) == 4, 10)
        time.sleep(1.5)
        children = children_of(process.pid)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=40)
        except Exception as e:  # the case says what was seen
            process.kill()
            err = str(e).encode()
        cases.check(f"{name}: exit code 130", process.returncode == 130, err[-500:])
        cases.check(f"{name}: no process is left", wait_until(lambda: not any(map(is_alive, children)), 5), children)
        cases.check(f"{name}: a checkpoint to resume from", b"--resume" in err, err[-500:])
    process = start(["run", "-f", "long.yaml", "--fresh"] + CLUSTER, place.path)
    wait_until(lambda: len(children_of(process.pid)) == 4, 10)
    time.sleep(0.5)
    children = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cases.check("kill -9 of paramctl: no process is left",
                wait_until(lambda: not any(map(is_alive, children)), 10), children)


def child_of(pid, name):
    """The child of paramctl that was started under this name, or None."""
    for child in children_of(pid):
        try:
            with open(f"/proc/{child}/cmdline", "rb") as f:
                if f'name="{name}"'.encode() in f.read():
                    return child
        except OSError:
            pass
    return None


def runs(place, name):
    """Whether the run under way has trained: metrics.jsonl has a sample."""
    path = os.path.join(place.path, "runs", name, "metrics.jsonl")
    return os.path.exists(path) and os.path.getsize(path) > 0


def start_lost(place, *arguments):
    """A run, well under way."""
    path = os.path.join(place.path, "runs", "lost", "metrics.jsonl")
    if os.path.exists(path):
        os.remove(path)
    process = start(["run", "-f", "lost.yaml", "--fresh", "-o", "json", *arguments], place.path)
    wait_until(lambda: runs(place, "lost"), 20)
    return process


def process_lost(place):
    """Any process is killed with -9 in the middle: it is started again, the job recovers, to the same bits."""
    place.file("lost.yaml", LONG.replace("epochs: 4000", "epochs: 40").replace("name: long", "name: lost"))
    whole = run_job(["-f", "lost.yaml", "--fresh", "--servers", "1", "--workers", "1"], place.path)
    one = ["--servers", "1", "--workers", "1"]
    for name, cluster, count in (("server-0", CLUSTER, "recoveries"), ("server-1", CLUSTER, "recoveries"),
                                 ("worker-1", CLUSTER, "moves"), ("server-0", one, "recoveries"),
                                 ("worker-0", one, "moves")):
        process = start_lost(place, *cluster)
        victim = child_of(process.pid, name)
        os.kill(victim, signal.SIGKILL)
        back = wait_until(lambda: child_of(process.pid, name) not in (None, victim), 10)
        others = set(children_of(process.pid))
        out, err = process.communicate(timeout=90)
        result = json.loads(out) if out else {}
        case = f"kill -9 of {name}, {' '.join(cluster)}"
        cases.check(f"{case}: the same digest", result.get("digest") == whole["digest"], err[-600:])
        cases.check(f"{case}: said, and counted", b"signal 9" in err and b"goes on at step" in err and
                    result.get(count, 0) >= 1, f"{result} {err[-600:]}")
        cases.check(f"{case}: it was started again, and nothing is left", back and not any(map(is_alive, others)), others)


def dies_for_ever(place):
    """What dies again and again ends the run with the reason."""
    process = start_lost(place, *CLUSTER)
    seen, end = set(), time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        child = child_of(process.pid, "worker-1")
        seen |= set(children_of(process.pid))
        if child:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.05)
    out, err = process.communicate(timeout=30)
    cases.check("a process that dies again and again: exit 3, with the reason and the log's name",
                process.returncode == 3 and b"within a minute" in err and b"worker-1.log" in err,
                f"{process.returncode} {err[-600:]}")
    cases.check("… and no process is left", not any(map(is_alive, seen)), seen)
    process = start_lost(place, *CLUSTER)
    victim = child_of(process.pid, "server-1")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: child_of(process.pid, "server-1") not in (None, victim), 10)
    children = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cases.check("kill -9 of paramctl after a restart: no process is left", len(children) == 4 and
                wait_until(lambda: not any(map(is_alive, children)), 10), children)


def main():
    with Workplace() as place:
        place.file("train.csv", clicks_csv(6000))
        place.file("test.csv", clicks_csv(1500, seed=2))
        place.file("job.yaml", clicks_job())
        place.file("free.yaml", clicks_job().replace("ranks: 4, ", "").replace("name: clicks", "name: free"))
        place.file("long.yaml", LONG)
        result = result_and_files(place)
        other_workers(place)
        over_existing(place, result)
        inherited(place)
        eval_and_predict(place)
        interrupted(place)
        process_lost(place)
        dies_for_ever(place)
    cases.end()


main()
