#!/usr/bin/env python3
# timeout: 600
"""Goal: over a real HttpFS, which passes all bytes through itself, HDFS keeps the contract of storage.h, errors are those of HDFS,
and a job trains the same bits as on local files, also when the HttpFS is killed under it and comes back.

Method: Hadoop's own HttpFS (httpfs.py) in front of Hadoop's own NameNode and DataNode (hdfs.py), on loopback; the shipped Criteo
job, whose digest on local files is the reference. Skipped where they cannot be had. With Kerberos: storage_hdfs_kerberos.py.
"""
import json
import os
import re
import subprocess
import threading

from criteo_job import EPOCHS, CriteoJob
from harness import ROOT, Cases, Workplace, run, run_job, start, wait_until
from hdfs import Hdfs
from httpfs import PROXY, HttpFs, why_not

cases = Cases()
TOOLS = os.path.join(ROOT, os.environ.get("BUILD_DIR", "build"), "integration")


def tool(name, *arguments, timeout=300):
    done = subprocess.run([os.path.join(TOOLS, name), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def contract(gate, hdfs):
    code, said = tool("storage_contract", gate.uri("/contract of\u00e9 %41+"))
    passed = re.search(r"(\d+) passed, 0 failed", said)
    cases.check(f"HttpFS keeps the contract ({passed and passed.group(1)} cases)", code == 0 and passed, said)
    cases.check("nothing is left of it", hdfs.names("/contract of\u00e9 %41+") == [], hdfs.names("/"))


def both_ways(gate, hdfs):
    """What is written over one is read over the other."""
    for title, there, back in (("HttpFS", gate, hdfs), ("WebHDFS", hdfs, gate)):
        code, said = tool("storage_commit", "write", there.uri(f"/by {title}"))
        again, read = tool("storage_commit", "read", back.uri(f"/by {title}"))
        cases.check(f"written over {title}, read over the other", code == 0 and again == 0, said + read)


def refusals(gate, hdfs):
    hdfs.request("PUT", "/closed", op="MKDIRS", permission="700")
    hdfs.request("PUT", "/full", op="MKDIRS")
    hdfs.request("PUT", "/full", op="SETQUOTA", namespacequota=str(2**63 - 1), storagespacequota="1000")
    hdfs.put("/a file", b"1")
    for title, uri, sets, wanted in (
            ("no permission", "/closed/x", ["hdfs_user=alice"], "AccessControlException"),
            ("a quota is used up", "/full/x", [], "DSQuotaExceededException"),
            ("a file as directory", "/a file/x", [], "ParentNotDirectoryException")):
        arguments = [a for s in sets for a in ("--set", s)]
        code, said = tool("storage_commit", "write", gate.uri(uri), *arguments)
        cases.check(f"an error names its cause: {title}", code == 1 and wanted in said and gate.uri(uri) in said, said)


def safe_mode(gate, hdfs):
    hdfs.command("safemode", "on")
    timer = threading.Timer(2, hdfs.command, ["safemode", "off"])
    timer.start()
    code, said = tool("storage_commit", "write", gate.uri("/safe"))
    timer.join()
    cases.check("safe mode is waited for", code == 0, said)


def job_over_it(gate, hdfs, job):
    hdfs.put_tree(job.local, "/data")
    result = run_job(job.arguments(gate.uri("/data"), gate.uri("/runs")), job.place.path, timeout=300)
    cases.check("data and checkpoints over HttpFS: the local digest", result.get("digest") == job.reference(), result)
    checkpoint = result.get("checkpoint", "none")
    code, out, err = run(["checkpoints", "verify", checkpoint], job.place.path)
    cases.check("… `checkpoints verify`", code == 0 and checkpoint.startswith(gate.uri("/runs/")), out + err)


def killed_under_a_job(gate, hdfs, job):
    epochs = 3 * EPOCHS
    process = start(["run", "-o", "json", *job.arguments(gate.uri("/data"), gate.uri("/killed"), epochs)], job.place.path)
    wait_until(lambda: process.poll() is not None or
               any(re.fullmatch(r"\d+-\d+", n) for n in hdfs.names(f"/killed/{job.name}") or []), 60)
    was_running = process.poll() is None
    gate.kill()
    gate.start()
    out, err = process.communicate(timeout=300)
    result = json.loads(out) if out else {}
    cases.check("HttpFS is killed under a job and comes back: the local digest", was_running and
                result.get("digest") == job.reference(epochs) and result.get("checkpoint", "").startswith("hdfs://"),
                f"{result} {err.decode(errors='replace')[-3000:]}")


def main():
    reason = why_not()
    if reason:
        print(reason)
        raise SystemExit(77)
    with Workplace() as place, Hdfs(os.path.join(place.path, "hdfs"), settings=PROXY) as hdfs, \
            HttpFs(os.path.join(place.path, "httpfs"), hdfs) as gate:
        job = CriteoJob(place, cases)
        contract(gate, hdfs)
        both_ways(gate, hdfs)
        refusals(gate, hdfs)
        safe_mode(gate, hdfs)
        job_over_it(gate, hdfs, job)
        killed_under_a_job(gate, hdfs, job)
    cases.end()


main()
