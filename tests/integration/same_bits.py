#!/usr/bin/env python3
# timeout: 1500
"""Goal: promise 1, the same bits. One job has one digest, whatever cluster trains it and however it is disturbed.

Method: a generated data set and `train.ranks: 4`; the digest of a run with one server, one worker and one thread is compared
with those of other clusters, transports, checkpoint intervals, and of runs that are killed as a whole at random
moments and resumed with other clusters. Each pipeline depth and each model has a digest of its own.
"""
import json
import os
import random
import time

from harness import Cases, Workplace, clicks_csv, clicks_job, killed_and_resumed, run, run_job, start, wait_until

cases = Cases()
r = random.Random(int(os.environ.get("SEED", "20")))

CLUSTERS = [
    ("2 servers", ["--servers", "2", "--workers", "1"]),
    ("3 servers, 2 workers", ["--servers", "3", "--workers", "2"]),
    ("in process", ["--servers", "0"]),
    ("4 workers", ["--servers", "1", "--workers", "4"]),
    ("3 shards a server", ["--servers", "2", "--workers", "2", "--set", "resources.shards=3"]),
    ("1 shard a server", ["--servers", "1", "--workers", "2", "--set", "resources.shards=1"]),
    ("2 threads", ["--servers", "1", "--workers", "1", "--set", "resources.threads=2"]),
    ("tcp", ["--servers", "2", "--workers", "2", "--set", "unix_sockets=false"]),
    ("checkpoints every 7", ["--servers", "1", "--workers", "2", "--set", "checkpoint.every_steps=7"]),
    ("no checkpoints but the last", ["--servers", "1", "--workers", "1", "--set", "checkpoint.every_steps=100000"]),
]


def killed_at_random_moments(place, job, sets, seed):
    r = random.Random(seed)
    clusters = [["--servers", "1", "--workers", "2"], ["--servers", "2", "--workers", "1"],
                ["--servers", "3", "--workers", "3"], ["--servers", "0"]]

    def when(process):
        wait_until(lambda: process.poll() is not None, 0.3 + r.random() * 1.5)

    return killed_and_resumed(r, ["-f", job] + sets, place.path, clusters, when)


def asked_for_checkpoints(place, job, name, sets):
    """`checkpoint now` again and again while it trains. -> the result, and how many were taken"""
    process = start(["run", "-o", "json", "-f", job, "--fresh", "--servers", "2", "--workers", "2", "--set",
                     "checkpoint.every_steps=100000"] + sets, place.path)
    taken = 0
    while process.poll() is None:
        code, out, err = run(["checkpoint", "now", name], place.path)
        taken += code == 0
        time.sleep(0.1)
    out, err = process.communicate()
    try:
        return json.loads(out), taken
    except ValueError:
        return {"digest": None, "text": err[-500:]}, taken


def long_jobs(place, kills):
    """Jobs that take long enough to be disturbed in the middle."""
    for model, depth in (("fm", 0), ("fm", 2), ("mlp", 0), ("lr", 2)):
        name = f"long-{model}-{depth}"
        place.file(f"{name}.yaml", clicks_job(model).replace("name: clicks", f"name: {name}").replace(
            "epochs: 2", "epochs: 25"))
        sets = ["--set", f"train.pipeline_depth={depth}"]
        first = run_job(["-f", f"{name}.yaml", "--fresh", "--servers", "1", "--workers", "1"] + sets, place.path)
        if not cases.check(f"{name}: reference", first["state"] == "DONE", first):
            continue
        result, taken = asked_for_checkpoints(place, f"{name}.yaml", name, sets)
        cases.check(f"{name}: a checkpoint asked for in the middle ({taken} taken)",
                    taken > 0 and result["digest"] == first["digest"], result)
        for _ in range(kills):
            seed = r.randrange(1 << 30)
            result = killed_at_random_moments(place, f"{name}.yaml", sets, seed)
            cases.check(f"{name}: killed and resumed (seed {seed})", result.get("digest") == first["digest"], result)


def digests_of(place, model, depth, clusters, kills):
    job = f"{model}-{depth}.yaml"
    place.file(job, clicks_job(model).replace("name: clicks", f"name: {model}-{depth}"))
    sets = ["--set", f"train.pipeline_depth={depth}"]
    first = run_job(["-f", job, "--fresh", "--servers", "1", "--workers", "1", "--set", "resources.threads=1"] + sets,
                    place.path)
    name = f"{model} depth {depth}"
    if not cases.check(f"{name}: reference", first["state"] == "DONE" and len(first.get("digest", "")) == 64, first):
        return None
    code, out, err = run(["checkpoints", "digest", first["checkpoint"]], place.path)
    cases.check(f"{name}: `checkpoints digest` agrees", out.strip() == first["digest"], out + err)
    for title, arguments in clusters:
        result = run_job(["-f", job, "--fresh"] + arguments + sets, place.path)
        cases.check(f"{name}: {title}", result.get("digest") == first["digest"], result)
    for _ in range(kills):
        seed = r.randrange(1 << 30)
        result = killed_at_random_moments(place, job, sets, seed)
        cases.check(f"{name}: killed and resumed (seed {seed})", result.get("digest") == first["digest"], result)
    return first["digest"]


def main():
    with Workplace() as place:
        place.file("train.csv", clicks_csv(12000))
        place.file("test.csv", clicks_csv(2000, seed=2))
        found = set()
        for model, depth, clusters, kills in (("fm", 0, CLUSTERS, 1), ("fm", 2, CLUSTERS, 1),
                                              ("lr", 0, CLUSTERS[:5], 0), ("mlp", 0, CLUSTERS[:8], 0),
                                              ("mlp", 2, CLUSTERS[:3], 0), ("lr", 2, CLUSTERS[:2], 0),
                                              ("deepfm", 0, CLUSTERS[:8], 1), ("dlrm", 0, CLUSTERS[:8], 1),
                                              ("ffm", 0, CLUSTERS[:4], 0), ("dcn", 2, CLUSTERS[:4], 0),
                                              ("wide_deep", 0, CLUSTERS[:2], 0)):
            digest = digests_of(place, model, depth, clusters, kills)
            cases.check(f"{model} depth {depth}: a digest of its own", digest and digest not in found, digest)
            found.add(digest)
        long_jobs(place, int(os.environ.get("KILLS", "2")))
    cases.end()


main()
