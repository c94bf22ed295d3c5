"""A cluster of real daemons on this machine, for tests: started, killed, stopped and continued by name.

Everything lies under one directory; whatever is still alive at the end is killed, by pid. A daemon that a test kills is
started again by itself unless the test says otherwise, as a service manager would.
"""
import json
import os
import signal
import subprocess
import time

from harness import ROOT, run

SETTINGS = ["peer_timeout=2s", "call_timeout=2s", "replace_wait=1s", "recovery_limit=50", "stall_timeout=60s"]


class Cluster:
    def __init__(self, place, registry, settings=()):
        self.place, self.registry = place, registry
        self.settings = SETTINGS + list(settings)
        self.daemons = {}  # name -> process
        self.count = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.daemons.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()

    def start(self, name):
        """`server-1`, `worker-2` …: the role is what the name begins with."""
        role = name.split("-")[0]
        self.count += 1
        log = open(os.path.join(self.place, f"{name}.log"), "ab")
        arguments = [os.path.join(ROOT, "build", f"paramd-{role}"), "--set", f"registry={self.registry}"]
        sets = self.settings + [f"name={name}"] + ([f"scratch={self.place}/cache"] if role == "worker" else [])
        for s in sets:
            arguments += ["--set", s]
        environment = {k: v for k, v in os.environ.items() if k != "PARAMD_PARENT_FD"}
        self.daemons[name] = subprocess.Popen(arguments, cwd=self.place, stdin=subprocess.DEVNULL, stdout=log,
                                              stderr=log, env=environment)
        log.close()

    def kill(self, name, number=signal.SIGKILL):
        self.daemons[name].send_signal(number)
        if number == signal.SIGKILL:
            self.daemons[name].wait(30)

    def restart_dead(self):
        """Starts again what has ended. -> names"""
        dead = [name for name, process in self.daemons.items() if process.poll() is not None]
        for name in dead:
            self.start(name)
        return dead

    def ctl(self, *arguments, timeout=60):
        return run(list(arguments) + ["--registry", self.registry], self.place, timeout)

    def status(self, job):
        code, out, err = self.ctl("status", job, "-o", "json", timeout=30)
        try:
            return json.loads(out)
        except ValueError:
            return {"state": "unknown", "text": err[-500:]}

    def leader(self):
        """The name of the server that leads, by the newest line that says so; None: nobody does."""
        newest = None
        for name in self.daemons:
            path = os.path.join(self.place, f"{name}.log")
            if not name.startswith("server") or not os.path.exists(path):
                continue
            with open(path, errors="replace") as f:
                for line in f:
                    if "leads term=" in line:
                        term = int(line.split("leads term=")[1].split()[0])
                        if newest is None or term > newest[0]:
                            newest = (term, name)
        return newest[1] if newest else None

    def wait(self, job, states=("DONE", "FAILED", "STOPPED"), timeout=120, supervise=True):
        """Until the job is in one of the states. -> its last status"""
        deadline = time.monotonic() + timeout
        while True:
            status = self.status(job)
            if status.get("state") in states or time.monotonic() > deadline:
                return status
            if supervise:
                self.restart_dead()
            time.sleep(0.1)

    def digest(self, checkpoint):
        code, out, err = run(["checkpoints", "digest", checkpoint], self.place)
        return out.strip() if code == 0 else f"none: {err[-300:]}"
