#!/usr/bin/env python3
# timeout: 1200
"""Goal: a real HDFS keeps the contract of storage.h, and jobs whose data and checkpoints are there train the same bits as on
local files, whatever happens to it meanwhile: a NameNode failing over or killed, a DataNode dying, all of it away for a while.

Method: Hadoop's own NameNodes and DataNodes on loopback (hdfs.py). The contract of storage.h there and on local files; then the
shipped Criteo job, whose digest on local files is the reference. Skipped where Hadoop's artifacts cannot be had.
"""
import json
import os
import re
import signal
import subprocess
import threading
import time

from criteo_job import EPOCHS, CriteoJob
from harness import ROOT, Cases, Workplace, run, start
from hdfs import Hdfs, why_not

cases = Cases()
TOOLS = os.path.join(ROOT, os.environ.get("BUILD_DIR", "build"), "integration")


def tool(name, *arguments, timeout=300):
    done = subprocess.run([os.path.join(TOOLS, name), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def contract(title, uri):
    code, said = tool("storage_contract", uri)
    passed = re.search(r"(\d+) passed, 0 failed", said)
    cases.check(f"{title} keeps the contract ({passed and passed.group(1)} cases)", code == 0 and passed, said)


# ---- what the store says ----

def refusals(hdfs):
    """The error names the URI and HDFS's own reason."""
    hdfs.request("PUT", "/closed", op="MKDIRS", permission="700")
    hdfs.request("PUT", "/full", op="MKDIRS")
    hdfs.request("PUT", "/full", op="SETQUOTA", namespacequota=str(2**63 - 1), storagespacequota="1000")
    for title, uri, sets, wanted in (
            ("no permission", "/closed/x", ["hdfs_user=alice"], "AccessControlException"),
            ("a quota is used up", "/full/x", [], "DSQuotaExceededException"),
            ("a file as directory", "/a file/x", [], "ParentNotDirectoryException")):
        hdfs.put("/a file", b"1")
        arguments = [a for s in sets for a in ("--set", s)]
        code, said = tool("storage_commit", "write", hdfs.uri(uri), *arguments)
        cases.check(f"an error names its cause: {title}", code == 1 and wanted in said and uri in said, said)


def safe_mode(hdfs):
    """A NameNode that has just started is in safe mode: it is waited for."""
    hdfs.command("safemode", "on")
    timer = threading.Timer(2, hdfs.command, ["safemode", "off"])
    timer.start()
    code, said = tool("storage_commit", "write", hdfs.uri("/safe"))
    timer.join()
    cases.check("safe mode is waited for", code == 0, said)


# ---- jobs ----

def while_it_trains(job, hdfs, uri, epochs, disturb, every=10, more=()):
    """Runs the job and calls disturb() again and again from the first checkpoint on. -> the result"""
    process = start(["run", "-o", "json", *job.arguments(hdfs.uri("/data"), uri, epochs, every, more)], job.place.path)
    count = 0
    directory = uri[uri.index("/", 7):] + "/" + job.name
    while process.poll() is None:
        if any(re.fullmatch(r"\d+-\d+", n) for n in names_anywhere(hdfs, directory)):
            disturb(count)
            count += 1
        else:
            time.sleep(0.2)
    out, err = process.communicate()
    try:
        result = json.loads(out)
    except ValueError:
        result = {"state": "none"}
    result["text"] = err.decode(errors="replace")[-3000:]
    return result, count


def names_anywhere(hdfs, path):
    for node in range(len(hdfs.ports)):
        try:
            found = hdfs.names(path, node)
        except (OSError, KeyError, ValueError):
            continue
        if found is not None:
            return found
    return []


def fail_over(job, hdfs):
    """The NameNodes change places every other second, in epochs and in checkpoints; then the active one is killed."""
    epochs = 3 * EPOCHS

    def change(count):
        hdfs.command("active", (count + 1) % 2)
        time.sleep(1.5)

    result, count = while_it_trains(job, hdfs, hdfs.uri("/over"), epochs, change)
    cases.check(f"NameNodes that fail over ({count} times): the same digest",
                count > 0 and result.get("digest") == job.reference(epochs), result)
    hdfs.command("active", 0)
    state = {}

    def kill_once(count):
        if count == 0:
            hdfs.command("stop-namenode", 0)
            time.sleep(1)
            hdfs.command("active", 1)
            state["killed"] = True
        time.sleep(0.5)

    result, _ = while_it_trains(job, hdfs, hdfs.uri("/killed"), epochs, kill_once)
    cases.check("the active NameNode is killed, the other one takes over: the same digest",
                "killed" in state and result.get("digest") == job.reference(epochs), result)


def dead_datanode(job, hdfs):
    """It dies while a job trains, and the NameNode goes on naming it: it is the nearest one, so always at first."""
    code, said = tool("storage_commit", "write", hdfs.uri("/before"))
    cases.check("write to two DataNodes", code == 0, said)

    def kill_once(count):
        if count == 0:
            hdfs.command("stop-datanode", 0)
        time.sleep(0.5)

    result, count = while_it_trains(job, hdfs, hdfs.uri("/half-runs"), EPOCHS, kill_once)
    cases.check("a DataNode dies in the middle of a job: the same digest", count > 0 and result.get("digest") == job.reference() and
                result.get("checkpoint", "").startswith("hdfs://"), result)
    for verb, path, what in (("read", "/before", "what was written before"), ("write", "/after", "anew, files above 8 MiB too"),
                             ("read", "/after", "that")):
        code, said = tool("storage_commit", verb, hdfs.uri(path))
        cases.check(f"the redirect leads to a dead DataNode: {verb} {what}", code == 0, said)


def away(job, hdfs):
    """All of HDFS stops answering for longer than a checkpoint may take. Training does not wait for it."""
    epochs = 3 * EPOCHS
    uri = hdfs.uri("/away")
    seen = []

    def pause(count):
        if count >= 1:
            time.sleep(0.3)
            return
        before = steps_of(job)
        hdfs.process.send_signal(signal.SIGSTOP)
        time.sleep(6)
        after = steps_of(job)
        hdfs.process.send_signal(signal.SIGCONT)
        seen.append((before, after))
        time.sleep(2)

    more = ["--set", "checkpoint.timeout=2s", "--set", "storage_stall_timeout=1s", "--set", "storage_timeout=3s"]
    result, _ = while_it_trains(job, hdfs, uri, epochs, pause, every=20, more=more)
    cases.check(f"training went on while HDFS was away (steps before and after: {seen})",
                seen and any(b is not None and a is not None and a > b for b, a in seen), result)
    cases.check("… and ended with the same digest, its checkpoint on HDFS",
                result.get("digest") == job.reference(epochs) and result.get("checkpoint", "").startswith("hdfs://"), result)


def steps_of(job):
    code, out, _ = run(["status", job.name, "-o", "json"], job.place.path, timeout=20)
    try:
        return json.loads(out).get("step") if code == 0 else None
    except ValueError:
        return None


def main():
    reason = why_not()
    if reason:
        print(reason)
        raise SystemExit(77)
    with Workplace() as place:
        job = CriteoJob(place, cases)
        contract("the local file system", f"file:{place.path}/contract")
        with Hdfs(os.path.join(place.path, "one"), settings=["dfs.ls.limit=5"]) as hdfs:
            contract("HDFS", hdfs.uri("/contract of\u00e9 %41+"))
            cases.check("nothing is left of it", hdfs.names("/contract of\u00e9 %41+") == [], hdfs.names("/"))
            refusals(hdfs)
            safe_mode(hdfs)
            hdfs.put_tree(job.local, "/data")
            away(job, hdfs)
        with Hdfs(os.path.join(place.path, "pair"), namenodes=2) as hdfs:
            hdfs.put_tree(job.local, "/data")
            fail_over(job, hdfs)
        with Hdfs(os.path.join(place.path, "two"), datanodes=2, settings=["dfs.replication=2"]) as hdfs:
            hdfs.put_tree(job.local, "/data")
            dead_datanode(job, hdfs)
    cases.end()


main()
