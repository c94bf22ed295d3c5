#!/usr/bin/env python3
# timeout: 1200
"""Goal: jobs whose data and checkpoints are on a real HDFS train the same bits as on local files, whatever happens to them or to
HDFS meanwhile: killed as a whole, a NameNode failing over or killed, all of it away for a while.

Method: Hadoop's own NameNodes and DataNodes on loopback (hdfs.py). The contract of storage.h there and on local files; then the
shipped Criteo job, whose digest on local files is the reference. Skipped where Hadoop's artifacts cannot be had.
"""
import json
import os
import random
import re
import signal
import subprocess
import threading
import time

from harness import (ROOT, SHARED, Cases, Workplace, children_of, clicks_csv, clicks_job, is_alive, run, run_job, start,
                     wait_until)
from hdfs import Hdfs, why_not

cases = Cases()
r = random.Random(int(os.environ.get("SEED", "4")))
TOOLS = os.path.join(ROOT, os.environ.get("BUILD_DIR", "build"), "integration")
CLUSTER = ["--servers", "2", "--workers", "2"]
EPOCHS = 4


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

class Job:
    """The Criteo job where its data are, else one on generated data; digests on local files."""

    def __init__(self, place):
        self.place, self.criteo = place, os.path.join(SHARED, "criteo")
        if os.path.isdir(self.criteo):
            self.file, self.name, self.local = os.path.join(ROOT, "conf", "criteo-fm.yaml"), "criteo-fm", self.criteo
            self.data = lambda where: ["--var", f"data={where}"]
        else:
            self.local = os.path.join(place.path, "clicks")
            place.file("clicks/train.csv", clicks_csv(30000))
            place.file("clicks/test.csv", clicks_csv(3000, seed=2))
            self.file, self.name = place.file("clicks.yaml", clicks_job()), "clicks"
            self.data = lambda where: ["--set", f"data.train={where}/train.csv", "--set", f"data.eval={where}/test.csv"]
        self.digests = {}

    def arguments(self, where, checkpoints, how="--fresh", epochs=EPOCHS, every=10, more=()):
        return ["-f", self.file, how] + self.data(where) + CLUSTER + [
            "--set", f"train.epochs={epochs}", "--set", f"checkpoint.every_steps={every}",
            "--set", f"checkpoint.uri={checkpoints}"] + list(more)

    def reference(self, epochs=EPOCHS):
        if epochs not in self.digests:
            result = run_job(self.arguments(self.local, "file:local", epochs=epochs), self.place.path, timeout=300)
            cases.check(f"reference of {epochs} epochs, on local files", result["state"] == "DONE", result)
            self.digests[epochs] = result.get("digest", "none")
        return self.digests[epochs]


def same_digest(job, hdfs):
    result = run_job(job.arguments(hdfs.uri("/data"), hdfs.uri("/runs")), job.place.path, timeout=300)
    cases.check("data and checkpoints on HDFS: the local digest", result.get("digest") == job.reference(), result)
    checkpoint = result.get("checkpoint", "none")
    cases.check("its checkpoint is on HDFS", checkpoint.startswith("hdfs://"), result)
    left = [n for n in hdfs.names(f"/runs/{job.name}") or [] if ".tmp-" in n]
    cases.check("no temporary file is left there", not left, left)
    code, out, err = run(["checkpoints", "verify", checkpoint], job.place.path)
    cases.check("`checkpoints verify` there", code == 0, out + err)
    code, out, err = run(["checkpoints", "digest", hdfs.uri(f"/runs/{job.name}")], job.place.path)
    cases.check("`checkpoints digest` of the newest there", out.strip() == job.reference(), out + err)
    code, out, err = run(["export", checkpoint, "-o", "exported"], job.place.path)
    cases.check("`export` from there", code == 0 and os.listdir(os.path.join(job.place.path, "exported")), out + err)
    code, out, err = run(["eval", "-f", job.file, "--checkpoint", checkpoint, "-o", "json"] + job.data(hdfs.uri("/data")),
                         job.place.path)
    found = json.loads(out)["eval"] if code == 0 else {}
    cases.check("`eval` from there finds the same metrics", found and found == result.get("eval"), f"{found} {result} {err}")


def killed_and_resumed(job, hdfs, uri):
    """The whole run is killed at a random moment, three times over, and resumed from HDFS until it ends."""
    how = "--fresh"
    for _ in range(3):
        process = start(["run"] + job.arguments(hdfs.uri("/data"), uri, how), job.place.path)
        wait_until(lambda: process.poll() is not None, 2 + r.random() * 4)
        children = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_until(lambda: not any(is_alive(c) for c in children), 20)
        how = "--resume=auto"
    result = run_job(job.arguments(hdfs.uri("/data"), uri, how), job.place.path, timeout=300)
    cases.check("killed as a whole and resumed, three times: the same digest", result.get("digest") == job.reference(), result)


def while_it_trains(job, hdfs, uri, epochs, disturb, every=10):
    """Runs the job and calls disturb() again and again from the first checkpoint on. -> the result"""
    process = start(["run", "-o", "json"] + job.arguments(hdfs.uri("/data"), uri, epochs=epochs, every=every), job.place.path)
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


def away(job, hdfs):
    """All of HDFS stops answering, twice, for longer than a checkpoint may take. Training does not wait for it."""
    epochs = 8 * EPOCHS
    uri = hdfs.uri("/away")
    seen = []

    def pause(count):
        if count >= 2:
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
    process_arguments = job.arguments
    job.arguments = lambda *a, **k: process_arguments(*a, **k, more=more)
    result, _ = while_it_trains(job, hdfs, uri, epochs, pause, every=20)
    job.arguments = process_arguments
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
        job = Job(place)
        contract("the local file system", f"file:{place.path}/contract")
        with Hdfs(os.path.join(place.path, "one"), settings=["dfs.ls.limit=5"]) as hdfs:
            contract("HDFS", hdfs.uri("/contract of\u00e9 %41+"))
            cases.check("nothing is left of it", hdfs.names("/contract of\u00e9 %41+") == [], hdfs.names("/"))
            refusals(hdfs)
            safe_mode(hdfs)
            hdfs.put_tree(job.local, "/data")
            same_digest(job, hdfs)
            killed_and_resumed(job, hdfs, hdfs.uri("/killed"))
            away(job, hdfs)
        with Hdfs(os.path.join(place.path, "pair"), namenodes=2) as hdfs:
            hdfs.put_tree(job.local, "/data")
            fail_over(job, hdfs)
    cases.end()


main()
