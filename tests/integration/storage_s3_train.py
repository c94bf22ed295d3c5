#!/usr/bin/env python3
# timeout: 900
"""Goal: training with data, evaluation data and checkpoints on S3 goes on when the store goes away, and gives the bits of the
local run; the second epoch does not touch the network; what dead attempts left is cleaned up; no secret is in any file or
process.

Method: one small job against the store of s3_faults.py, where requests are counted and which misbehaves on request.
storage_train.py has the real stores.
"""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

from harness import ROOT, Cases, Workplace, children_of, clicks_csv, clicks_job, core_of, run, run_job, start, wait_until
from harness import why_no_cores
from s3_faults import Store
from s3_servers import ACCESS_KEY, SECRET_KEY, enter

cases = Cases()
ROWS = 12000
SETS = ["--set", "data.train=s3://bucket/data/train", "--set", "data.eval=s3://bucket/data/test.csv",
        "--set", "checkpoint.uri=s3://bucket/runs/clicks"]
TOKEN = "T0ken-Canary"


def data_files():
    lines = clicks_csv(ROWS).splitlines(keepends=True)
    head, rows = lines[0], lines[1:]
    third = len(rows) // 3
    parts = {f"data/train/part-0000{i}": head + "".join(rows[i * third:(i + 1) * third]) for i in range(3)}
    return {**parts, "data/train/_SUCCESS": "", "data/test.csv": clicks_csv(1000, seed=2)}


def reference(place, files, name, epochs):
    for key, text in files.items():
        place.file(key, text)
    place.file(f"{name}.yaml", clicks_job("fm").replace("name: clicks", f"name: {name}").replace("epochs: 2", f"epochs: {epochs}"))
    result = run_job(["-f", f"{name}.yaml", "--fresh", "--servers", "1", "--workers", "1", "--set", "data.train=data/train",
                      "--set", "data.eval=data/test.csv"], place.path)
    cases.check(f"{name}: reference", result["state"] == "DONE", result)
    return result


def second_epoch(place, store):
    """Requests for data are as many for one epoch as for three."""
    counts = []
    for epochs in (1, 3):
        store.begin({})
        result = run_job(["-f", "clicks.yaml", "--fresh", "--servers", "2", "--workers", "2", *SETS, "--set",
                          f"train.epochs={epochs}"], place.path)
        cases.check(f"{epochs} epochs", result["state"] == "DONE", result)
        counts.append(sum(s.startswith("GET /bucket/data/train/") for s in store.seen))
    cases.check("the second epoch does not touch the network", 0 < counts[1] <= counts[0], str(counts))


def store_goes_away(place, store, first):
    """For some seconds nothing but 503, from the third checkpoint on."""
    def outage():
        wait_until(lambda: sum(k.endswith("MANIFEST.json") for k in store.objects) >= 3, 60)
        store.away = True
        time.sleep(6)
        store.away = False
    for key in [k for k in store.objects if k.startswith("runs/")]:
        del store.objects[key]
    thread = threading.Thread(target=outage)
    thread.start()
    result = run_job(["-f", "long.yaml", "--fresh", "--servers", "2", "--workers", "2", *SETS, "--set", "storage_timeout=3s"],
                     place.path)
    thread.join()
    cases.check("the store away for some seconds: the bits of the local run", result["digest"] == first["digest"], result)


def clean_up(place, store):
    """What dead attempts left goes when it is old, and nothing else."""
    code, out, _ = run(["checkpoints", "ls", "s3://bucket/runs/clicks/long", "-o", "json"], place.path)
    good = [c["checkpoint"].removeprefix("s3://bucket/") for c in json.loads(out) if c["state"] == "good"]
    old = time.time() - 30 * 3600
    newest = good[0]
    generation = int(newest.rsplit("/", 1)[1].split("-")[0])
    dead = f"runs/clicks/long/{generation + 1}-7"
    left = {f"{newest}/table0-0000-4096.9.0000": old, f"{newest}/table0-0000-4096.8.0000": time.time(),
            f"{dead}/table0-0000-4096.1.0000": old, "runs/clicks/other/1-1/table0": old, "runs/clicks/long/notes": old}
    for key, when in left.items():
        store.write(key, b"left", {})
        store.info[key]["time"] = when
    for key, when in ((f"{dead}/x", old), (f"{newest}/y", time.time()), ("runs/clicks/other/1-1/z", old)):
        store.uploads[key] = (key, {}, {}, when)
    code, out, err = run(["checkpoints", "gc", "s3://bucket/runs/clicks/long"], place.path)
    gone = [k for k in left if k not in store.objects]
    cases.check("gc removes what dead attempts left, when it is old",
                code == 0 and gone == [f"{newest}/table0-0000-4096.9.0000", f"{dead}/table0-0000-4096.1.0000"]
                and sorted(store.uploads) == sorted([f"{newest}/y", "runs/clicks/other/1-1/z"]),
                f"{out} {err} gone={gone} uploads={list(store.uploads)}")
    code, out, err = run(["checkpoints", "verify", "s3://bucket/runs/clicks/long"], place.path)
    cases.check("what is whole stays whole", code == 0, err)


def canaries(place, stores):
    """No secret in any file of the runs, nor in what was written to the store, nor in arguments or environments shown."""
    found = []
    for directory, _, names in os.walk(place.path):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                with open(path, "rb") as f:
                    if SECRET_KEY.encode() in f.read():
                        found.append(path)
    for store in stores:
        found += [key for key, data in store.objects.items() if SECRET_KEY.encode() in data]
    cases.check("no secret in any file or object", not found, str(found[:5]))


def secrets_of_processes(place):
    """While it runs: not in arguments; and no core can be had."""
    process = start(["run", "-f", "long.yaml", "--fresh", "--servers", "1", "--workers", "1", *SETS], place.path)
    time.sleep(3)
    shown, dumpable = [], []
    for pid in [process.pid, *children_of(process.pid)]:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                shown += [pid] if SECRET_KEY.encode() in f.read() else []
            # The files of a process that leaves no core belong to root; as root, ask for its own mark.
            if os.getuid() != 0 and os.stat(f"/proc/{pid}/mem").st_uid != 0:
                dumpable.append(pid)
        except FileNotFoundError:
            pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cases.check("no secret in arguments, no cores", not shown and not dumpable, f"{shown} {dumpable}")
    code, out, err = run(["config", "show", "-f", "long.yaml", *SETS], place.path)
    cases.check("no secret in config show", code == 0 and SECRET_KEY not in out + err, err)


def dumped(pid):
    """What gcore writes: memory that can be written, but what is marked as not to be dumped."""
    held = []
    with open(f"/proc/{pid}/smaps") as f:
        mappings = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) .*?^VmFlags:(.*?)$", f.read(), re.M | re.S)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for first, end, rights, flags in mappings:
            if "w" in rights and " dd" not in flags:
                memory.seek(int(first, 16))
                try:
                    held.append(memory.read(int(end, 16) - int(first, 16)))
                except OSError:     # a thread's stack that went meanwhile
                    pass
    return b"".join(held)


def memory_of_root(place, store):
    """Root may dump a process that leaves no core; the secret key, when it came from a file, is not in that."""
    if os.geteuid() != 0:
        return cases.skip("the secret key in what root dumps", "not root here")
    given = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith("AWS_")}
    path = place.file("credentials", f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    commit = os.path.join(ROOT, os.environ.get("BUILD_DIR", "build"), "integration", "storage_commit")
    store.begin({})
    store.away = True
    process = subprocess.Popen([commit, "read", "s3://bucket/new", "--set", f"s3_credentials_file={path}", "--set",
                                f"s3_endpoint={store.endpoint}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen = wait_until(lambda: store.seen, 60)
    held = dumped(process.pid)
    process.kill()
    process.wait()
    store.away = False
    os.unlink(path)
    os.environ.update(given)
    cases.check("the secret key is not in what root dumps", seen and b"s3://bucket/new" in held and SECRET_KEY.encode() not in held,
                f"{seen} {len(held)}")


def cores(place, store):
    """A program that holds a secret, or only was given one in its environment, leaves no core where any other does."""
    reason = why_no_cores()
    if reason:
        return cases.skip("no secret in cores", reason)
    commit = os.path.join(ROOT, os.environ.get("BUILD_DIR", "build"), "integration", "storage_commit")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        hung = [commit, "read", f"hdfs://127.0.0.1:{silent.getsockname()[1]}/x"]
        given = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith("AWS_")}
        core = core_of(hung, place, silent.accept)
        os.environ.update(given)
        if core is None:
            return cases.skip("no secret in cores", "programs leave none here")
        cases.check("what holds no secret leaves a core", SECRET_KEY.encode() not in core)
        core = core_of(hung, place, silent.accept)
        cases.check("a secret in the environment: no core", core is None or SECRET_KEY.encode() not in core)
    store.begin({})
    store.away = True
    core = core_of([commit, "read", "s3://bucket/new"], place, lambda: wait_until(lambda: store.seen, 60))
    store.away = False
    cases.check("a secret in use: no core", core is None and store.seen, str(store.seen))


def main():
    files = data_files()
    with Workplace() as place:
        reference(place, files, "clicks", 2)
        long = reference(place, files, "long", 20)
        with Store() as store:
            enter(store.endpoint)
            for key, text in files.items():
                store.write(key, text.encode(), {})
            second_epoch(place, store)
            store_goes_away(place, store, long)
            secrets_of_processes(place)
            cores(place, store)
            memory_of_root(place, store)
            clean_up(place, store)
            canaries(place, [store])
    cases.end()


main()
