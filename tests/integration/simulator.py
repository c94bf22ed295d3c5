#!/usr/bin/env python3
# timeout: 14400
"""Goal: the promises hold under every fault, in a simulated cluster; and the simulator would notice if they did not.

Method: tests/sim (see its README): production code in a world that a seed decides. Thousands of seeds without a
violation; a seed has one trace, whatever else the process has run; and every bug that is planted in production code
is found, with the number of seeds that it takes. SOAK=1: more seeds, and the median over several ranges of them.
"""
import os
import re
import subprocess

from harness import ROOT, Cases

cases = Cases()
BUILD = os.environ.get("BUILD_DIR", "build")
SIM = os.path.join(ROOT, BUILD, "tests", "sim")
SOAK = os.environ.get("SOAK") == "1"
SANITIZED = os.path.basename(BUILD) in ("asan", "tsan")
JOBS = min(os.cpu_count() or 1, 16)
SEEDS = 200 if SANITIZED else 100000 if SOAK else 5000


def sim(*arguments, timeout=3 * 3600 if SOAK else 900):
    """Exit code and output; a run that takes too long has none."""
    try:
        p = subprocess.run([SIM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           stdin=subprocess.DEVNULL, timeout=timeout)
        return p.returncode, p.stdout
    except subprocess.TimeoutExpired:
        return None, f"took longer than {timeout} s"


def hash_of(output):
    found = re.search(r"hash ([0-9a-f]{16})", output)
    return found.group(1) if found else None


def same_seed_same_trace():
    for seed in ("3", "30", "182"):
        first, second = sim("--seed", seed, "--trace"), sim("--seed", seed, "--trace")
        cases.check(f"seed {seed}: one trace", first == second and first[0] == 0 and len(first[1]) > 1000,
                    first[1][-1000:])
    alone = hash_of(sim("--seeds", "1..60", "--jobs", "1")[1])
    parted = hash_of(sim("--seeds", "1..60", "--jobs", "3")[1])
    other = hash_of(sim("--seeds", "2..61", "--jobs", "1")[1])
    cases.check("seeds do not depend on those before them", alone is not None and alone == parted and alone != other,
                f"{alone}, in three parts {parted}, others {other}")


def no_violation():
    code, out = sim("--seeds", f"1..{SEEDS}", "--jobs", str(JOBS))
    print(out.strip().split("\n")[-1], flush=True)
    cases.check(f"{SEEDS} seeds", code == 0, "\n" + out[-6000:])


def planted_bugs():
    ranges, bound = ("5", "20000") if SOAK else ("1", "6000")
    code, out = sim("--plants", "--ranges", ranges, "--bound", bound, "--jobs", str(JOBS))
    if SOAK:
        print(out, flush=True)
    cases.check(f"planted bugs: {out.strip().split(chr(10))[-1]}", code == 0, "\n" + out)


if not os.path.exists(SIM):
    cases.skip("simulator", f"{SIM} is not built")
else:
    same_seed_same_trace()
    no_violation()
    if not SANITIZED:
        planted_bugs()
cases.end()
