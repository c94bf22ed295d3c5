#!/usr/bin/env python3
# timeout: 600
"""Goal: make bench-gpu works the first time that it meets a GPU: both halves run, are put side by side, and what fails is told.

Method: tests/bench/bench_gpu.py with --device cpu, which runs the code of a GPU with PyTorch on the processor and paramd on the
emulated GPU, with a batch of 8: every line has its figures. Then programs in bench_gpu's place that say what a broken one
would. Skipped where PyTorch is not there; PyTorch's compiler may be missing, then the line says why.
"""
import os
import re
import subprocess
import sys

from harness import PARAMCTL, ROOT, Cases, Workplace
from torch_models import find_torch

WHY_NOT = find_torch()
BENCH = os.path.join(ROOT, "tests", "bench", "bench_gpu.py")
BUILD = os.path.dirname(os.path.abspath(PARAMCTL))
NUMBER = r"(\d+(?:\.\d+)?)"
STEP = re.compile(rf"(\w+) +step {NUMBER} ms, products alone {NUMBER} ms \({NUMBER} %\)")
MEMORY = re.compile(rf" +copy {NUMBER} GB/s, gather {NUMBER} GB/s, gather_back {NUMBER} GB/s")
TORCH = re.compile(rf" +PyTorch eager {NUMBER} ms \({NUMBER} times as long\)(?:, (.*))?")
cases = Cases()


def bench(*arguments, build=BUILD):
    done = subprocess.run([sys.executable, BENCH, "8", "--rounds", "1", *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, env=dict(os.environ, PARAMCTL=os.path.join(build, "paramctl")))
    lines = [line for line in done.stdout.splitlines() if " warn device " not in line]
    return done.returncode, lines, done.stdout[-1500:]


def blocks(lines):
    """Lines by precision: [(first line, [three lines a shape])]"""
    found = []
    for line in lines:
        if line.startswith("# "):
            found.append((line, []))
        elif found:
            found[-1][1].append(line)
    return found


def whole():
    code, lines, text = bench("--device", "cpu", "--precisions", "float32,bf16", "--eager")
    cases.check("both halves run", code == 0, (code, text))
    found = blocks(lines)
    cases.check("a block for each precision", len(found) == 2 and "float32, batch 8" in found[0][0] and
                "bf16, batch 8" in found[1][0], text)
    for first, rest in found:
        precision = first.split(", ")[-2]
        for i, shape in enumerate(("deepfm_16", "deepfm_64", "dlrm_16", "dlrm_64")):
            three = rest[3 * i:3 * i + 3]
            at = [pattern.fullmatch(line) for pattern, line in zip((STEP, MEMORY, TORCH), three)]
            good = len(at) == 3 and all(at) and at[0].group(1) == shape
            if not cases.check(f"{precision}, {shape}: three lines of figures", good, three):
                continue
            step, products, share = (float(at[0].group(k)) for k in (2, 3, 4))
            eager, ratio = float(at[2].group(1)), float(at[2].group(2))
            cases.check(f"{precision}, {shape}: shares and ratios are of what stands there",
                        step > 0 and eager > 0 and abs(share - 100 * products / step) <= 1 and
                        abs(ratio - eager / step) <= 0.01, three)


def compiled():
    code, lines, text = bench("--device", "cpu", "--precisions", "float32", "--shapes", "dlrm_16")
    at = [m for m in map(TORCH.fullmatch, lines) if m]
    said = at[0].group(3) if at else None
    cases.check("compiled, or why not", code == 0 and said is not None and
                re.fullmatch(rf"compiled {NUMBER} ms \({NUMBER} times as long\)|not compiled \(\w+: .+\)", said), (code, text))


def broken(place):
    """name, what bench_gpu writes and how it ends, (how bench_gpu.py then ends, what it says)"""
    for name, script, code_wanted, said in (
            ("no GPU", "echo 'bench_gpu: device cuda: no driver'; exit 77", 77, "bench_gpu: device cuda: no driver"),
            ("a failure", "echo '# a GPU'; echo 'dlrm_16_step 1.5 ms'; exit 1", 1, "bench_gpu ended with 1; it wrote"),
            ("a crash", "kill -SEGV $$", 1, "bench_gpu ended with -11"),
            ("a missing figure", "echo '# a GPU'; echo 'dlrm_16_step 1.5 ms'", 1, "did not write dlrm_16_products"),
            ("no output", "exit 0", 1, "did not write dlrm_16_step"),
            ("another line", "echo '# a GPU'; echo 'watch out'", 1, "'watch out', which is no figure"),
            ("nothing to run", None, 1, "make benches builds it")):
        program = os.path.join(place.path, "bench", "bench_gpu")
        place.file("bench/bench_gpu", f"#!/bin/sh\n{script}\n")
        os.chmod(program, 0o755)
        if script is None:
            os.remove(program)
        code, _, text = bench("--precisions", "float32", "--shapes", "dlrm_16", build=place.path)
        cases.check(f"{name} is told", code == code_wanted and said in text, (code, text))


def main():
    if WHY_NOT:
        print(WHY_NOT)
        raise SystemExit(77)
    if not os.path.exists(os.path.join(BUILD, "bench", "bench_gpu")):
        cases.skip("both halves", "bench_gpu is not built (make benches)")
    elif not os.path.exists(os.path.join(BUILD, "tests", "paramd-cuda-emulated.so")):
        cases.skip("both halves", "the emulated GPU is not part of this build")
    else:
        whole()
        compiled()
    with Workplace() as place:
        broken(place)
    cases.end()


main()
