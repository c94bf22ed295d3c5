#!/usr/bin/env python3
# timeout: 600
"""Goal: the shipped Criteo job with its data and checkpoints on HDFS, and on S3, has the digest of the run on local files; also
when it is killed as a whole at random steps and resumed from the store.

Method: Hadoop's own NameNode and DataNode (hdfs.py), and versitygw (s3_servers.py), on loopback; two servers and two workers. What
the store then holds is looked at with `paramctl checkpoints`, `eval` and `export`. A store that is not installed is skipped.
"""
import json
import os
import random
import re

from criteo_job import CLUSTER, EVERY, CriteoJob
from harness import Cases, Workplace, killed_and_resumed, run, run_job, wait_until
from hdfs import Hdfs, why_not
from s3_servers import Unavailable, VersityGW

cases = Cases()
r = random.Random(int(os.environ.get("SEED", "4")))
CLUSTERS = [CLUSTER, ["--servers", "1", "--workers", "2"], ["--servers", "2", "--workers", "1"], ["--servers", "0"]]


def same_digest(title, job, store):
    result = run_job(job.arguments(store.uri("/data"), store.uri("/runs")), job.place.path, timeout=300)
    cases.check(f"{title}: data and checkpoints there: the local digest", result.get("digest") == job.reference(), result)
    checkpoint = result.get("checkpoint", "none")
    cases.check(f"{title}: its checkpoint is there", checkpoint.startswith(store.uri("/runs/")), result)
    left = [n for n in store.names(f"/runs/{job.name}") or [] if ".tmp-" in n]
    cases.check(f"{title}: no temporary file is left there", not left, left)
    code, out, err = run(["checkpoints", "verify", checkpoint], job.place.path)
    cases.check(f"{title}: `checkpoints verify`", code == 0, out + err)
    code, out, err = run(["checkpoints", "digest", store.uri(f"/runs/{job.name}")], job.place.path)
    cases.check(f"{title}: `checkpoints digest` of the newest", out.strip() == job.reference(), out + err)
    code, out, err = run(["export", checkpoint, "-o", store.uri("/exported")], job.place.path)
    cases.check(f"{title}: `export` from there to there", code == 0 and "model.safetensors" in (store.names("/exported") or []),
                out + err)
    code, out, err = run(["eval", "-f", job.file, "--checkpoint", checkpoint, "-o", "json", *job.data(store.uri("/data"))],
                         job.place.path)
    found = json.loads(out)["eval"] if code == 0 else {}
    cases.check(f"{title}: `eval` finds the metrics of the run on local files",
                found and found == job.on_local_files().get("eval"), f"{found} {result} {err}")


def killed_at_random_steps(title, job, store):
    """Each time when the store has a checkpoint of a random step that is not the last, and a moment later."""
    last = job.on_local_files().get("steps", 0)
    seen = [0]

    def newest():
        steps = [int(n.split("-")[1]) for n in store.names(f"/killed/{job.name}") or [] if re.fullmatch(r"\d+-\d+", n)]
        return max(steps, default=0)

    def when(process):
        step = min(newest() + r.randrange(EVERY, last // 4), last - EVERY)
        wait_until(lambda: process.poll() is not None or newest() >= step, 60)
        wait_until(lambda: process.poll() is not None, r.random() * 0.3)
        seen.append(newest())

    result = killed_and_resumed(r, job.settings(store.uri("/data"), store.uri("/killed")), job.place.path, CLUSTERS, when,
                                timeout=300)
    steps = f"at {seen[1:]} of {last} steps"
    cases.check(f"{title}: killed whole {steps}: the local digest", result.get("digest") == job.reference(), result)
    cases.check(f"{title}: … and it began from what was there",
                seen == sorted(seen) and result.get("examples", 1 << 60) < job.on_local_files().get("examples", 0), result)


def on(title, job, store):
    store.put_tree(job.local, "/data")
    same_digest(title, job, store)
    killed_at_random_steps(title, job, store)


def main():
    with Workplace() as place:
        job = CriteoJob(place, cases)
        try:
            with VersityGW() as server:
                server.enter()
                on("S3", job, server)
        except Unavailable as e:
            cases.skip("S3", str(e))
        reason = why_not()
        if reason:
            cases.skip("HDFS", reason)
        else:
            with Hdfs(os.path.join(place.path, "hdfs")) as hdfs:
                on("HDFS", job, hdfs)
    cases.end()


main()
