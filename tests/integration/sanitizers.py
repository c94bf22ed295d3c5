#!/usr/bin/env python3
# timeout: 2400
"""Goal: no memory error, no undefined behaviour, no data race, in what the tests run.

Method: builds everything once under address and undefined-behaviour sanitizers and once under the thread sanitizer, into
folders of their own, and runs the unit tests of each; then whole jobs and the table of bad input through the sanitized
paramctl. Under the thread sanitizer the cluster is one process over the memory transport (`--servers 0`), without
suppressions: the distribution's gRPC is not instrumented, so tests that need it skip themselves there.
"""
import glob
import os
import subprocess
import sys

from harness import ROOT, Cases, Workplace, clicks_csv, clicks_job

cases = Cases()
ENV = dict(os.environ, ASAN_OPTIONS="detect_leaks=1:abort_on_error=0", UBSAN_OPTIONS="print_stacktrace=1",
           TSAN_OPTIONS="halt_on_error=0:exitcode=66")


def call(command, timeout, cwd=ROOT, env=None):
    try:
        p = subprocess.run(command, cwd=cwd, env=env or ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           stdin=subprocess.DEVNULL, timeout=timeout)
        return p.returncode, p.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as e:
        return None, (e.stdout or b"").decode(errors="replace") + "\nran out of time"


def build(kind):
    code, out = call(["make", f"-j{os.cpu_count() or 1}", f"BUILD={kind}", "all", "tests"], 1200)
    return cases.check(f"{kind}: builds", code == 0, out[-2000:])


def unit_tests(kind):
    for program in sorted(glob.glob(os.path.join(ROOT, "build", kind, "tests", "test_*"))):
        if program.endswith(".d"):
            continue
        name = f"{kind}: {os.path.basename(program)}"
        code, out = call([program], 300)
        if code == 77:
            cases.skip(name, out.strip().split("\n")[-1])
        else:
            cases.check(name, code == 0 and "Sanitizer" not in out and "runtime error" not in out,
                        f"exit {code}\n{out[-6000:]}")


def jobs(kind, clusters):
    paramctl = os.path.join(ROOT, "build", kind, "paramctl")
    with Workplace() as place:
        place.file("train.csv", clicks_csv(3000))
        place.file("test.csv", clicks_csv(500, seed=2))
        for model in ("fm", "mlp"):
            place.file(f"{model}.yaml", clicks_job(model))
            for mode in ("bsp", "ssp", "asp"):
                for cluster in clusters:
                    sets = ["--set", f"train.consistency={mode}"]
                    if mode == "bsp":
                        sets += ["--set", "train.pipeline_depth=2"]
                    if mode == "ssp":
                        sets += ["--set", "train.staleness=2"]
                    code, out = call([paramctl, "run", "-f", f"{model}.yaml", "--fresh"] + cluster + sets, 300,
                                     cwd=place.path)
                    logs = "".join(open(f, errors="replace").read()
                                   for f in glob.glob(os.path.join(place.path, "runs/*/logs/*")))
                    cases.check(f"{kind}: {model} {mode} {' '.join(cluster)}",
                                code == 0 and "Sanitizer" not in out + logs and "runtime error" not in out + logs,
                                f"exit {code}\n{out[-4000:]}{logs[-4000:]}")


def bad_input():
    script = os.path.join(ROOT, "tests", "integration", "bad_input.py")
    env = dict(ENV, PARAMCTL=os.path.join(ROOT, "build", "asan", "paramctl"))
    code, out = call([sys.executable, script], 900, env=env)
    cases.check("asan: the table of bad input", code == 0 and "Sanitizer" not in out and "runtime error" not in out,
                f"exit {code}\n{out[-4000:]}")


def main():
    if build("asan"):
        unit_tests("asan")
        jobs("asan", [["--servers", "0"], ["--servers", "2", "--workers", "2"]])
        bad_input()
    if build("tsan"):
        unit_tests("tsan")
        jobs("tsan", [["--servers", "0"]])
    cases.end()


main()
