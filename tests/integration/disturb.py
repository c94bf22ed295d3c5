"""Jobs on clusters of real daemons that are disturbed while they run, and how their results are judged.

Three small jobs: `depth0` and `depth2` train in bsp, and their digest has to be that of an undisturbed run of one
server and one worker. `count` counts in asp: a key for each example, whose weight grows by exactly 1 whenever the
example is trained on, so that after E epochs each weight is E. It is a factorization machine with two terms an example, whose
vectors hold the logit near -1e6 all along: so the gradient is -1 to the last bit, and with a learning rate of 1 and one
example a push all sums are whole numbers, in any order.

A Run is one submission that is disturbed once or more; Field runs many of them, on several clusters side by side.
"""
import json
import os
import queue
import random
import re
import shutil
import struct
import subprocess
import threading
import time

from cluster import Cluster
from harness import PARAMCTL, clicks_csv, clicks_job, run, run_job

BOUND = 120  # seconds a disturbed run may take; an undisturbed one takes about two
EPOCHS = {"depth0": 12, "depth2": 12, "count": 5}
COUNTED = 240  # examples of the counting job
LAST_STEP = {"depth0": 16 * 12, "depth2": 16 * 12, "count": COUNTED // 4 * 5}
SERVERS, WORKERS = ("server-1", "server-2"), ("worker-1", "worker-2")
DAEMONS = SERVERS + WORKERS

COUNT_JOB = """
name: count
data: {format: libsvm, train: count.svm, shuffle: full}
model: {type: fm, dim: 1}
tables: {features: {init: {constant: 1000}}}
optimizer:
  linear: {type: sgd, learning_rate: 1}
  embedding: {type: sgd, learning_rate: 1.0e-30}
train: {batch_size: 4, epochs: 5, ranks: 4, drain_every: 10, consistency: asp}
checkpoint: {every_steps: 20}
"""


class Jobs:
    """Writes job files and data into a place, trains undisturbed once, and judges disturbed results."""

    def __init__(self, place, more=""):
        self.place = place
        place.file("train.csv", clicks_csv(2000))
        place.file("test.csv", clicks_csv(300, seed=2))
        place.file("count.svm", "".join(f"1 {i}:1 1000000:-1\n" for i in range(1, COUNTED + 1)))
        for depth in (0, 2):
            text = clicks_job("fm").replace("name: clicks", f"name: depth{depth}")
            text = text.replace("batch_size: 256", "batch_size: 128").replace("epochs: 2", f"epochs: {EPOCHS['depth0']}")
            text = text.replace("ranks: 4", f"ranks: 4, pipeline_depth: {depth}")
            self.write(f"depth{depth}", text + more)
        self.write("count", COUNT_JOB + more)
        self.digests = {}

    def write(self, name, text):
        for data in ("train.csv", "test.csv", "count.svm"):
            text = text.replace(data, f"{self.place.path}/{data}")
        self.place.file(f"{name}.yaml", text + "resources: {servers: 2, workers: 2, shards: 2}\n")

    def path(self, name):
        return os.path.join(self.place.path, f"{name}.yaml")

    def reference(self, name, cases):
        if name == "count" or name in self.digests:
            return
        result = run_job(["-f", f"{name}.yaml", "--fresh", "--servers", "1", "--workers", "1"], self.place.path)
        self.digests[name] = result.get("digest")
        cases.check(f"reference of {name}", result.get("state") == "DONE" and self.digests[name], result)

    def judge(self, name, result):
        """None when the result is right, else what is wrong with it."""
        if result.get("state") != "DONE":
            return f"{result.get('state')}: {result.get('why', '')} {result.get('text', '')}"
        if name == "count":
            return self.wrong_counts(result["checkpoint"])
        right = self.digests[name]
        return None if result.get("digest") == right else f"{result.get('digest')} not {right}"

    def wrong_counts(self, checkpoint):
        out = checkpoint.removeprefix("file:") + ".export"
        code, _, err = run(["export", checkpoint, "-o", out], self.place.path)
        if code != 0:
            return f"export ends with {code}: {err}"
        tensors = read_tensors(os.path.join(out, "model.safetensors"))
        shutil.rmtree(out)
        epochs, total = EPOCHS["count"], COUNTED * EPOCHS["count"]
        # A row is w and v. The key that all examples have stands at -1 in them, so it counts downwards.
        weights = sorted(tensors["features.values"][::2])
        wrong = {w for w in weights[1:] if w != epochs} | {v for v in tensors["features.values"][1::2] if v != 1000}
        if len(weights) != COUNTED + 1 or wrong or weights[0] != -total or tensors["bias"][0] != total:
            return (f"{len(weights)} rows, wrong ones {sorted(wrong)[:5]}, common {weights[0]}, "
                    f"bias {tensors['bias'][0]}, {total} expected")
        return None


def read_tensors(path):
    """-> {name: tuple of numbers}, of a safetensors file."""
    with open(path, "rb") as f:
        data = f.read()
    size = struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for name, tensor in json.loads(data[8:8 + size]).items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            kind = {"U64": "Q", "F32": "f"}[tensor["dtype"]]
            count = (end - begin) // struct.calcsize(kind)
            tensors[name] = struct.unpack(f"<{count}{kind}", data[8 + size + begin:8 + size + end])
    return tensors


class Run:
    """One submission. What dies is started again after `restart_after` seconds, as a service manager would."""

    number = 0

    def __init__(self, cluster, jobs, name, seed="", how=("--fresh",), store=None):
        self.cluster, self.jobs, self.name = cluster, jobs, name
        self.random = random.Random(seed)
        self.restart_after = self.random.choice((0, 0, 0.3, 1, 2))
        Run.number += 1
        self.store = store or os.path.join(cluster.place, f"store{Run.number}")
        self.logged = {n: cluster.log_size(n) for n in cluster.daemons}
        self.began = time.monotonic()
        arguments = ["submit", "-f", jobs.path(name), *how, "--wait", "--timeout", str(BOUND), "-o", "json",
                     "--registry", cluster.registry, "--set", f"checkpoint.uri=file:{self.store}"]
        self.process = subprocess.Popen([PARAMCTL] + arguments, cwd=cluster.place, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    # ---- waiting, while what dies is started again ----

    def is_over(self):
        return self.process.poll() is not None

    def until(self, condition, seconds, every=0.02):
        """-> whether it came to be, while the job ran"""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.is_over():
            self.cluster.restart_dead(self.restart_after)
            if condition():
                return True
            time.sleep(every)
        return False

    def sleep(self, seconds):
        self.until(lambda: False, seconds)

    # ---- where the job stands, without asking it ----

    def checkpoints(self):
        """-> {step: whether it is committed}; names are GENERATION-STEP."""
        found = {}
        try:
            with os.scandir(os.path.join(self.store, self.name)) as entries:
                for entry in entries:
                    if match := re.fullmatch(r"\d+-(\d+)", entry.name):
                        found[int(match[1])] = os.path.exists(os.path.join(entry.path, "MANIFEST.json"))
        except OSError:
            pass
        return found

    def await_step(self, step, seconds=30):
        return self.until(lambda: any(s >= step for s in self.checkpoints()), seconds, every=0.005)

    def await_checkpoint(self, step, seconds=30):
        """Until one is being written."""
        return self.until(lambda: any(s >= step and not done for s, done in self.checkpoints().items()), seconds,
                          every=0.002)

    def log(self):
        """What the daemons logged since the job was submitted."""
        return "".join(self.cluster.log(n, self.logged.get(n, 0)) for n in self.cluster.daemons)

    def await_log(self, words, seconds):
        """Until one of the words is in a new line of a daemon's log."""
        before = {n: self.cluster.log_size(n) for n in self.cluster.daemons}
        return self.until(lambda: any(w in self.cluster.log(n, at) for n, at in before.items() for w in words), seconds)

    # ---- the end ----

    def end(self):
        """-> None, or what is wrong; self.result has what `submit --wait` says, self.seconds what it took."""
        self.until(lambda: False, BOUND + 10)
        if not self.is_over():
            self.process.kill()
        out, err = self.process.communicate()
        self.seconds = time.monotonic() - self.began
        try:
            self.result = json.loads(out)
        except ValueError:
            self.result = {"state": "none"}
        self.result["text"] = f"exit {self.process.returncode}: {err.decode(errors='replace')[-600:]}"
        wrong = self.jobs.judge(self.name, self.result)
        self.recovered_ms = [int(ms) for ms in re.findall(r"goes on at step=\d+ after_ms=(\d+)", self.log())]
        if wrong is None:
            shutil.rmtree(self.store, ignore_errors=True)
        else:
            self.cluster.ctl("kill", self.name)
        return wrong


class Field:
    """Runs on several clusters side by side: most of the time they wait for time-outs."""

    def __init__(self, jobs, cases, registries, settings, keep=None, prepare=None):
        """prepare(cluster, index) is called before a cluster's daemons are started."""
        self.jobs, self.cases, self.keep, self.prepare = jobs, cases, keep, prepare
        self.registries, self.settings = registries, settings
        self.tasks, self.lock, self.seen = queue.Queue(), threading.Lock(), {}

    def add(self, kind, name, seed, disturb):
        """disturb(run) is called when the job has been submitted."""
        self.tasks.put((kind, name, seed, disturb))

    def play(self):
        threads = [threading.Thread(target=self.work, args=(i, r)) for i, r in enumerate(self.registries)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    def work(self, index, registry):
        try:
            self.work_on(index, registry)
        except Exception as e:  # the other clusters go on
            with self.lock:
                self.cases.check(f"cluster {index} goes on", False, repr(e))

    def work_on(self, index, registry):
        place = os.path.join(self.jobs.place.path, f"cluster{index}")
        os.makedirs(place)
        with Cluster(place, registry, self.settings) as cluster:
            if self.prepare:
                self.prepare(cluster, index)
            for name in DAEMONS:
                cluster.start(name)
            while True:
                try:
                    kind, name, seed, disturb = self.tasks.get_nowait()
                except queue.Empty:
                    return
                self.one(cluster, kind, name, seed, disturb)

    def one(self, cluster, kind, name, seed, disturb):
        cluster.restart_dead()
        run_ = Run(cluster, self.jobs, name, f"{kind} {name} {seed}")
        wrong, how = None, ""
        try:
            how = disturb(run_)
        except Exception as e:  # the other clusters go on
            wrong = f"the disturbance failed: {e!r}"
        wrong = run_.end() or wrong
        status = run_.result
        with self.lock:
            self.cases.check(f"{kind}, {name}, seed {seed} ({how}): {status.get('recoveries', '?')} recoveries, "
                             f"{status.get('moves', '?')} moves, {run_.seconds:.1f} s", wrong is None, wrong)
            self.seen.setdefault(kind.split(",")[0], []).append((wrong is None, run_.seconds, max(run_.recovered_ms, default=0)))
            if self.keep:
                title = re.sub(r"\W+", "-", f"{kind} {name} {seed}")
                shutil.copytree(cluster.place, os.path.join(self.keep, title), dirs_exist_ok=True)
            if wrong is not None:
                self.show(cluster, run_)

    def show(self, cluster, run_):
        for n in cluster.daemons:
            lines = cluster.log(n, run_.logged.get(n, 0)).splitlines()[-25:]
            print(f"  {n}:\n" + "".join(f"    {line}\n" for line in lines))

    def summary(self):
        """Per kind: runs, failures with the bound that they show, and the longest recovery."""
        for kind, runs in self.seen.items():
            failures = sum(not good for good, _, _ in runs)
            bound = f" (below {300 / len(runs):.0f} % at 95 % confidence)" if not failures and len(runs) > 9 else ""
            print(f"{kind}: {len(runs)} runs, {failures} failures{bound}; longest recovery "
                  f"{max(ms for _, _, ms in runs) / 1000:.1f} s after the loss was seen, longest run "
                  f"{max(s for _, s, _ in runs):.1f} s of {BOUND} s")
