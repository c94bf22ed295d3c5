"""A cluster of real daemons on this machine, for tests: started, killed, stopped and continued by name.

Everything lies under one directory; whatever is still alive at the end is killed, by pid. A daemon that a test kills is
started again by itself unless the test says otherwise, as a service manager would.
"""
import json
import os
import signal
import subprocess
import time

from harness import PARAMCTL, run

SETTINGS = ["peer_timeout=2s", "call_timeout=2s", "replace_wait=1s", "recovery_limit=50", "stall_timeout=60s"]


class Cluster:
    def __init__(self, place, registry, settings=()):
        self.place, self.registry = place, registry
        self.settings = SETTINGS + list(settings)
        self.daemons = {}  # name -> process
        self.ended = {}    # name -> when it was first seen to have ended
        self.prefix = {}   # name -> command that starts it, such as one that enters a network namespace
        self.own = {}      # name -> settings of its own

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
        log = open(os.path.join(self.place, f"{name}.log"), "ab")
        program = os.path.join(os.path.dirname(os.path.abspath(PARAMCTL)), f"paramd-{role}")
        arguments = self.prefix.get(name, []) + [program, "--set", f"registry={self.registry}"]
        sets = self.settings + [f"name={name}"] + ([f"scratch={self.place}/cache"] if role == "worker" else [])
        sets += self.own.get(name, [])
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

    def restart_dead(self, after=0):
        """Starts again what has ended, so many seconds after that was seen. -> names"""
        now = time.monotonic()
        dead = [name for name, process in self.daemons.items()
                if process.poll() is not None and now - self.ended.setdefault(name, now) >= after]
        for name in dead:
            del self.ended[name]
            self.start(name)
        return dead

    def log(self, name, offset=0):
        try:
            with open(os.path.join(self.place, f"{name}.log"), "rb") as f:
                f.seek(offset)
                return f.read().decode(errors="replace")
        except OSError:
            return ""

    def log_size(self, name):
        try:
            return os.path.getsize(os.path.join(self.place, f"{name}.log"))
        except OSError:
            return 0

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
            if not name.startswith("server"):
                continue
            for line in self.log(name).splitlines():
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
