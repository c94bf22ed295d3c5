#!/usr/bin/env python3
# timeout: 600
"""Goal: a user of a cluster gets his jobs in, sees them wait, run and end, and can stop them; every answer has the exit
code that is promised, and no command waits for ever.

Method: daemons started by hand with a registry of their own (local:DIR), and the real paramctl. What the commands say
is taken from their JSON; the text forms are looked at once. A trained model is compared by its digest with that of
`paramctl run`. Every command has a time limit here, far above what it takes.
"""
import json
import os
import re
import signal
import subprocess
import time

from harness import Cases, Daemons, Workplace, clicks_csv, clicks_job, run, start, wait_until

LIMIT_S = 90
DONE, ERROR, USAGE, FAILED, ABSENT, TIMED_OUT, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130
cases = Cases()


class Client:
    """paramctl with an environment that names no cluster but the one given."""

    def __init__(self, place, registry):
        self.place, self.registry = place, registry
        self.env = {"PARAMD_REGISTRY": registry or "", "XDG_CONFIG_HOME": os.path.join(place.path, "config")}

    def call(self, *arguments, timeout=LIMIT_S):
        return run(list(arguments), self.place.path, timeout, env=self.env)

    def json(self, *arguments, timeout=LIMIT_S):
        code, out, err = self.call(*arguments, "-o", "json", timeout=timeout)
        try:
            return code, json.loads(out), err
        except ValueError:
            return code, {}, f"not one object: {out}{err}"

    def status(self, job):
        return self.json("status", job)[1]

    def state(self, job):
        return self.status(job).get("state", "")

    def reaches(self, job, states, seconds=40):
        return wait_until(lambda: self.state(job) in states, seconds)

    def start(self, *arguments):
        return start(list(arguments), self.place.path, env=self.env)


def job(name, epochs=2, extra=""):
    text = clicks_job(extra=extra).replace("name: clicks", f"name: {name}").replace("epochs: 2", f"epochs: {epochs}")
    return text.replace("ranks: 4", "ranks: 1")


def finish(process, seconds=LIMIT_S):
    """-> (exit code or None, stdout, stderr)"""
    try:
        out, err = process.communicate(timeout=seconds)
    except Exception as e:  # the case says what was seen
        process.kill()
        process.communicate()
        return None, "", str(e)
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


# ---- which cluster ----

def naming(place):
    """Each way to name the registry, and which of two wins: a name that is not there says which was taken."""
    none = Client(place, None)
    code, _, err = none.call("list")
    cases.check("no cluster: an error that names the ways", code == ERROR and "--registry" in err, f"{code} {err}")
    for name, arguments in (("--registry", ["--registry", "local:by-option"]),
                            ("--set", ["--set", "registry=local:by-option"])):
        code, _, err = Client(place, "local:by-variable").call("list", *arguments)
        cases.check(f"{name} wins over PARAMD_REGISTRY", code == UNREACHABLE and "by-option" in err, f"{code} {err}")
    place.file("config/paramd/paramctl.yaml", "registry: local:by-user-file\ncall_timeout: 1s\n")
    place.file("given.yaml", "registry: local:by-given-file\n")
    code, _, err = Client(place, "local:by-variable").call("list")
    cases.check("PARAMD_REGISTRY wins over the user's file", code == UNREACHABLE and "by-variable" in err, f"{code} {err}")
    code, _, err = Client(place, "local:by-variable").call("list", "--config", "given.yaml")
    cases.check("--config wins over PARAMD_REGISTRY", code == UNREACHABLE and "by-given" in err, f"{code} {err}")
    code, _, err = none.call("list")
    cases.check("the user's file alone", code == UNREACHABLE and "by-user-file" in err, f"{code} {err}")
    place.file("config/paramd/paramctl.yaml", "registri: local:x\n")
    code, _, err = none.call("list")
    cases.check("a wrong name in it is refused with file and line",
                code == ERROR and "paramctl.yaml:1" in err and "registry" in err, f"{code} {err}")
    os.remove(os.path.join(place.path, "config/paramd/paramctl.yaml"))
    code, _, err = none.call("list", "--registry", "zk://127.0.0.1:1/none", "--set", "call_timeout=1s", timeout=30)
    cases.check("a ZooKeeper that does not answer: unreachable", code == UNREACHABLE and "127.0.0.1:1" in err, f"{code} {err}")
    for directory in ("members", "records"):
        os.makedirs(os.path.join(place.path, "empty", directory))
    begin = time.monotonic()
    code, _, err = none.call("list", "--registry", "local:empty", "--set", "call_timeout=1s")
    took = time.monotonic() - begin
    cases.check("a registry without daemons: unreachable, within call_timeout",
                code == UNREACHABLE and took < 10, f"{code} after {took:.1f} s: {err}")


# ---- one job at a time ----

def first_job(place, client, digest):
    code, result, err = client.json("submit", "-f", "a.yaml", "--wait")
    cases.check("submit --wait: one JSON object, exit 0", code == DONE and result.get("state") == "DONE", f"{code} {err}")
    cases.check("submit --wait: the digest of `run`", result.get("digest") == digest, result)
    cases.check("relative paths of a cluster on one machine are made absolute",
                result.get("checkpoint", "").startswith("file:" + place.path), result)
    status = client.status("a")
    wanted = ["job", "state", "why", "mode", "owner", "submitted_unix_ms", "generation", "step", "last_step", "epoch",
              "epochs", "examples", "seconds", "objective", "checkpoint", "checkpoint_step", "recoveries", "moves",
              "eval", "evals", "members", "warnings"]
    cases.check("status: JSON with every member", all(k in status for k in wanted), status)
    cases.check("status: of an ended job", status.get("state") == "DONE" and status["step"] == status["last_step"] == 48,
                status)
    code, out, err = client.call("status", "a")
    cases.check("status: text", code == DONE and "a: DONE" in out and "step 48 of 48" in out, out + err)
    code, out, err = client.call("submit", "-f", "a.yaml", "--wait")
    cases.check("over checkpoints: refused, naming both ways on",
                code == ERROR and "--resume" in err and "--fresh" in err, f"{code} {err}")
    code, result, err = client.json("submit", "-f", "a.yaml", "--wait", "--resume", "--set", "train.epochs=3")
    cases.check("submit --resume with more epochs goes on", code == DONE and result.get("epochs") == 3, f"{code} {err}")
    code, _, err = client.call("status", "a", "-w", "--timeout", "30")
    cases.check("status -w of a job that is over ends with its exit code", code == DONE, f"{code} {err}")


def logs(client):
    code, out, err = client.call("logs", "a")
    cases.check("logs: lines with time and level",
                code == DONE and re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (info|warn|error) ", out), out + err)
    code, out, err = client.call("logs", "a", "-f", "-o", "json")
    lines = [json.loads(line) for line in out.splitlines()]
    cases.check("logs -f of a job that is over ends; JSON, a line an object",
                code == DONE and lines and all("text" in line and "unix_ms" in line for line in lines), out + err)
    numbers = [line["number"] for line in lines]
    cases.check("logs: numbers ascend", numbers == sorted(set(numbers)), numbers)


def lists(client):
    code, listed, err = client.json("list")
    cases.check("list: no live job, JSON", code == DONE and listed.get("jobs") == [], f"{code} {listed} {err}")
    code, listed, err = client.json("list", "--all")
    jobs = listed.get("jobs", [])
    past = [j for j in jobs if j["job"] == "a" and j["state"] == "DONE"]
    cases.check("list --all: the history, newest first", code == DONE and len(past) == 2 and
                past[0]["sequence"] > past[1]["sequence"], jobs)
    cases.check("history: outcome, duration, metrics and checkpoint",
                past and all(j["ended_unix_ms"] >= j["submitted_unix_ms"] > 0 and
                             j["seconds"] > 0 and "log_loss" in j["eval"] and j["checkpoint"] for j in past), past)
    code, found, err = client.json("members")
    roles = sorted(m["role"] for m in found.get("members", []))
    cases.check("members: JSON, all free", code == DONE and roles == ["server"] * 2 + ["worker"] * 2 and
                all(m["state"] == "free" and m["cores"] > 0 for m in found["members"]), found)
    code, out, err = client.call("list", "--all", "--members")
    cases.check("list: text with three tables", code == DONE and all(w in out for w in ("JOB", "OUTCOME", "MEMBER")), out)


def wrong_names(client):
    for arguments in (["status", "nobody"], ["status", "nobody", "-w"], ["logs", "nobody"], ["logs", "nobody", "-f"],
                      ["stop", "nobody"], ["kill", "nobody"], ["checkpoint", "now", "nobody"]):
        code, out, err = client.call(*arguments, timeout=30)
        cases.check(" ".join(arguments) + ": not found", code == ABSENT and "'nobody'" in err, f"{code} {out}{err}")


def failing(place, client):
    place.file("broken.csv", "label,user\n1,u\n")
    code, result, err = client.json("submit", "-f", "a.yaml", "--fresh", "--wait", "--set", "name=broken",
                                    "--set", "data.train=broken.csv", timeout=60)
    cases.check("a job that fails: exit 3, and why", code == FAILED and result.get("state") == "FAILED" and
                "item" in result.get("why", ""), f"{code} {result} {err}")
    code, _, err = client.call("status", "broken", "-w", timeout=30)
    cases.check("status -w of it: exit 3", code == FAILED, f"{code} {err}")


# ---- long jobs ----

def held(client):
    """Ctrl-C and time-outs of watching commands, a second submission, checkpoint now."""
    process = client.start("submit", "-f", "long.yaml", "--fresh", "--wait")
    cases.check("a job runs", client.reaches("long", ["RUNNING"]), client.status("long"))
    code, _, err = client.call("submit", "-f", "long.yaml", "--fresh", "--set", "train.epochs=9")
    cases.check("the name of a live job is taken: refused", code == ERROR and "'long'" in err, f"{code} {err}")
    code, _, err = client.call("status", "long", "-w", "--timeout", "1", timeout=30)
    cases.check("status -w --timeout: exit 5", code == TIMED_OUT and "RUNNING" in err, f"{code} {err}")
    code, _, err = client.call("logs", "long", "-f", "--timeout", "1", timeout=30)
    cases.check("logs -f --timeout: exit 5", code == TIMED_OUT, f"{code} {err}")
    code, said, err = client.json("checkpoint", "now", "long")
    step = said.get("step", 0)
    cases.check("checkpoint now: says the step", code == DONE and step > 0, f"{code} {said} {err}")
    cases.check("checkpoint now: it comes", wait_until(lambda: client.status("long").get("checkpoint_step", 0) >= step, 20),
                client.status("long"))
    busy = [m for m in client.json("members")[1].get("members", []) if m["job"] == "long"]
    cases.check("members: who does what", sorted(m["role"] for m in busy) == ["server", "worker"] and
                any(m["ranks"] == [0] for m in busy), busy)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    cases.check("Ctrl-C of submit --wait: exit 130, says how to stop the job",
                code == INTERRUPTED and "paramctl stop long" in err, f"{code} {err[-400:]}")
    cases.check("… and the job goes on", client.state("long") == "RUNNING")


def stopped_and_resumed(client):
    watcher = client.start("status", "long", "-w")
    time.sleep(0.5)
    code, out, err = client.call("stop", "long")
    cases.check("stop: taken", code == DONE, f"{code} {out}{err}")
    cases.check("stop: the job is STOPPED", client.reaches("long", ["STOPPED"]), client.status("long"))
    code, _, err = finish(watcher)
    cases.check("status -w of a job that is stopped: exit 130", code == INTERRUPTED, f"{code} {err}")
    whole = client.json("submit", "-f", "b.yaml", "--fresh", "--wait")[1]
    code, _, err = client.call("submit", "-f", "b.yaml", "--fresh")
    cases.check("submit without --wait: exit 0 at once", code == DONE, err)
    wait_until(lambda: client.status("b").get("step", 0) > 200, 20)
    client.call("stop", "b")
    client.reaches("b", ["STOPPED", "DONE"])
    middle = client.status("b")
    code, result, err = client.json("submit", "-f", "b.yaml", "--resume", "--wait")
    cases.check("stop leaves a checkpoint from which --resume goes on to the undisturbed digest",
                code == DONE and middle.get("state") == "STOPPED" and result.get("digest") == whole.get("digest"),
                f"{code} stopped at {middle.get('step')} {result} {whole} {err}")
    client.call("submit", "-f", "long.yaml", "--fresh")
    client.reaches("long", ["RUNNING"])
    code, _, err = client.call("kill", "long")
    cases.check("kill: taken, the job is over", code == DONE and client.reaches("long", ["STOPPED", "FAILED"]), err)
    return whole.get("digest")


def queue(client, digest):
    """Three jobs, room for two: the third waits, says why, and runs when the first has ended."""
    for name in ("q1", "q2", "q3"):
        code, _, err = client.call("submit", "-f", "long.yaml" if name == "q1" else "a.yaml", "--fresh", "--set",
                                   f"name={name}", *(["--set", "train.epochs=200"] if name == "q2" else []))
        cases.check(f"queue: {name} is taken", code == DONE, err)
        if name != "q3":
            client.reaches(name, ["RUNNING"])
    cases.check("queue: two run side by side", client.state("q1") == "RUNNING" and client.state("q2") == "RUNNING")
    third = client.status("q3")
    cases.check("queue: the third waits and says for what",
                third.get("state") == "QUEUED" and ("server" in third["why"] or "worker" in third["why"]), third)
    listed = client.json("list")[1].get("jobs", [])
    cases.check("queue: list has the three in order", [j["job"] for j in listed] == ["q1", "q2", "q3"], listed)
    code, out, _ = client.call("list")
    cases.check("queue: the text says why", "QUEUED" in out and third.get("why", "?") in out, out)
    client.call("stop", "q1")
    cases.check("queue: the third runs to its end", client.reaches("q3", ["DONE"]), client.status("q3"))
    code, _, err = client.call("status", "q2", "-w")
    cases.check("queue: the second, too", code == DONE, err)
    code, out, _ = client.call("checkpoints", "digest", client.status("q3").get("checkpoint", "none"))
    cases.check("queue: the third has the right digest", digest in out, out)


def all_of_the_queue(client, digests):
    """Three jobs at once, room for two: all run to their ends, with the models that they make alone."""
    for name, file in (("r1", "b.yaml"), ("r2", "b.yaml"), ("r3", "a.yaml")):
        client.call("submit", "-f", file, "--fresh", "--set", f"name={name}")
    waited = wait_until(lambda: [client.state(n) for n in ("r1", "r2", "r3")] == ["RUNNING", "RUNNING", "QUEUED"], 20)
    cases.check("three jobs, room for two: two run, one waits", waited, client.json("list")[1])
    ended = wait_until(lambda: all(client.state(n) == "DONE" for n in digests), LIMIT_S)
    found = {n: client.call("checkpoints", "digest", client.status(n).get("checkpoint", "none"))[1].strip()
             for n in digests}
    cases.check("three jobs, room for two: all end with the right digests", ended and found == digests, found)


def leader_killed(place, client, daemons):
    """What watches goes on with the next leader and says that it waited."""
    leader = "s0" if "leads" in daemons.log("s0") else "s1"
    client.call("submit", "-f", "long.yaml", "--fresh")
    client.reaches("long", ["RUNNING"])
    watcher, follower = client.start("status", "long", "-w"), client.start("logs", "long", "-f")
    time.sleep(1)
    daemons.kill(leader)
    cases.check("another server leads and the job runs again",
                wait_until(lambda: client.state("long") == "RUNNING" and client.status("long")["step"] > 0, 40),
                client.status("long"))
    client.call("stop", "long")
    code, _, err = finish(watcher)
    cases.check("status -w survives the leader", code == INTERRUPTED, f"{code} {err[-600:]}")
    code, _, err = finish(follower)
    cases.check("logs -f survives the leader and says so", code == DONE and "another server leads" in err,
                f"{code} {err[-600:]}")
    cases.check("history survives the leader",
                any(j["job"] == "a" and j["step"] == 72 for j in client.json("list", "--all")[1].get("jobs", [])))


def idle_daemons_leave(daemons):
    """SIGTERM of daemons without work: they end at once, with a leader or without one."""
    remaining = {name: p for name, p in daemons.processes.items()}
    for name, process in sorted(remaining.items()):  # servers first: no leader is left for the workers
        process.terminate()
        try:
            code = process.wait(20)
        except subprocess.TimeoutExpired:
            code = None
        cases.check(f"SIGTERM of {name}, which is idle: it ends", code == 0,
                    f"{code} {daemons.log(name)[-400:]}")
        del daemons.processes[name]


def main():
    with Workplace() as place:
        place.file("train.csv", clicks_csv(6000))
        place.file("test.csv", clicks_csv(1500, seed=2))
        place.file("a.yaml", job("a"))
        place.file("b.yaml", job("b", epochs=60))
        place.file("long.yaml", job("long", epochs=4000))
        naming(place)
        registry = f"local:{place.path}/registry"
        client = Client(place, registry)
        code, out, err = Client(place, None).call("run", "-f", "a.yaml", "-o", "json", "--run-dir", "alone", "--set",
                                                  "checkpoint.uri=file:alone")
        digest = json.loads(out)["digest"]
        with Daemons(place, registry, ["peer_timeout=2s"]) as daemons:
            for role in ("server", "worker"):
                for i in (0, 1):
                    daemons.start(role, f"{role[0]}{i}")
            wait_until(lambda: len(client.json("members")[1].get("members", [])) == 4, 20)
            first_job(place, client, digest)
            logs(client)
            lists(client)
            wrong_names(client)
            failing(place, client)
            held(client)
            whole = stopped_and_resumed(client)
            queue(client, digest)
            all_of_the_queue(client, {"r1": whole, "r2": whole, "r3": digest})
            leader_killed(place, client, daemons)
            idle_daemons_leave(daemons)
        code, _, err = client.call("list", "--set", "call_timeout=1s", timeout=30)
        cases.check("a cluster whose daemons are gone: unreachable", code == UNREACHABLE, f"{code} {err}")
    cases.end()


main()
