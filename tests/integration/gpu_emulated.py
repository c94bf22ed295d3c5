#!/usr/bin/env python3
"""Goal: training on GPUs gives the same bits whatever cluster of workers and GPUs there is, about what the processor
gives, in every precision; a GPU that is not there, or a backend that cannot be loaded, is an error that says so.

Method: the backend's own sources on an emulated GPU (tests/emulation), two of them, in whole runs on generated data. What a
real GPU gives is seen by gpu.sh, of which only the ways to end without one are tried here.
"""
import os
import random
import subprocess

from harness import PARAMCTL, ROOT, Cases, Workplace, killed_and_resumed, run, run_job, wait_until

cases = Cases()
EMULATED = os.path.join(os.path.dirname(PARAMCTL), "tests", "paramd-cuda-emulated.so")

JOB = """
name: clicks
data: {format: csv, train: train.csv, eval: train.csv, label: click}
features: {a: categorical, b: categorical, x: numeric, tags: {pooling: mean}}
model: {type: deepfm, dim: 8, hidden: [16, 8], dropout: 0.1}
train: {epochs: 3, batch_size: 50, ranks: 2}
optimizer: {dense: {learning_rate: 0.01}}
"""


def csv(rows=500):
    r = random.Random(3)
    lines = ["click,a,b,x,tags"]
    for _ in range(rows):
        a, b, x = r.randrange(6), r.randrange(40), r.gauss(0, 1)
        click = r.random() < (0.85 if a % 2 else 0.15)
        lines.append(f"{click:d},{a},{b},{x:.3f},{a}|{r.randrange(9) + 10}")
    return "\n".join(lines) + "\n"


def train(place, *arguments, **more):
    """-> the result, and what was said; {} where it failed."""
    return run_job(["-f", "job.yaml", "--fresh", *arguments], place.path, **more)


def same_bits(place):
    digests = {}
    for name, arguments in (("one worker, one GPU", ["--servers", "0", "--set", "device=cuda"]),
                            ("one worker, two GPUs", ["--servers", "1", "--set", "device=cuda:0,1"]),
                            ("two workers, two GPUs", ["--servers", "2", "--workers", "2", "--set",
                                                       "resources.gpus_per_worker=1"]),
                            ("two workers, one GPU", ["--servers", "3", "--workers", "2", "--set", "device=cuda:1"])):
        result = train(place, *arguments)
        digests[name] = result.get("digest")
        auc = result.get("eval", {}).get("auc", 0)
        cases.check(f"{name}: it learns", auc > 0.8, result)
    cases.check("the same bits on every cluster of GPUs", len(set(digests.values())) == 1 and None not in
                digests.values(), digests)


def resumed(place):
    """With fp16, whose loss scale changes where gradients overflow: it is part of what is resumed."""
    r = random.Random()
    arguments = ["--set", "train.precision=fp16", "--set", "train.epochs=12", "--set", "checkpoint.every_steps=10",
                 "--set", "train.drain_every=5", "--set", "train.max_skipped=100"]
    clusters = [["--servers", "2", "--set", "device=cuda:0,1"], ["--servers", "1", "--workers", "2", "--set", "device=cuda"]]
    undisturbed = train(place, "--servers", "0", "--set", "device=cuda", *arguments)

    def when(process):
        wait_until(lambda: process.poll() is not None, 0.8 + r.random())

    result = killed_and_resumed(r, ["-f", "job.yaml", *arguments], place.path, clusters, when, kills=2)
    cases.check("fp16, killed and resumed: the same bits", result.get("digest") is not None and
                result.get("digest") == undisturbed.get("digest"), (undisturbed.get("digest"), result))


def faulty(place):
    """A GPU that fails so that its process can use it no more: that worker starts again, and nothing else changes."""
    undisturbed = train(place, "--servers", "0", "--set", "device=cuda")
    fault = place.file("fault", "")
    code, out, err = run(["run", "-o", "json", "-f", "job.yaml", "--fresh", "--workers", "2", "--set", "device=cuda"],
                         place.path, env={"PARAMD_EMULATED_FAULT": fault})
    cases.check("a GPU fails: its worker starts again", code == 0 and not os.path.exists(fault) and
                "exit code 75" in out + err, (code, out[-300:], err[-600:]))
    digest = undisturbed.get("digest")
    cases.check("a GPU fails: the same bits", digest is not None and digest in out, (digest, out[-600:]))


def precisions(place):
    reference = train(place, "--servers", "0", "--set", "device=cpu").get("eval", {}).get("log_loss", 0)
    for precision, near in (("float32", 2e-4), ("tf32", 5e-3), ("bf16", 2e-2), ("fp16", 5e-3)):
        result = train(place, "--servers", "0", "--set", "device=cuda", "--set", f"train.precision={precision}")
        loss = result.get("eval", {}).get("log_loss", 9)
        cases.check(f"{precision} is near the processor's float32", abs(loss - reference) < near, (loss, reference))


def refused(place):
    for name, arguments, text, env in (
            ("a GPU that is not there", ["--set", "device=cuda:7"], "there is no GPU 7", {}),
            ("more GPUs than there are", ["--set", "resources.gpus_per_worker=3"], "the driver sees 2", {}),
            ("no such device", ["--set", "device=gpu"], "it can be auto, cpu, cuda", {}),
            ("no backend", ["--set", "device=cuda"], "could not be loaded", {"PARAMD_CUDA_BACKEND": "/nowhere.so"}),
            ("a precision of the processor", ["--set", "train.precision=bf16"], "needs a GPU", {})):
        code, _, err = run(["run", "-f", "job.yaml", "--fresh", "--servers", "0", *arguments], place.path, env=env)
        cases.check(f"{name} is refused by name", code not in (0, None) and text in err, (code, err[-400:]))
    code, _, err = run(["run", "-f", "job.yaml", "--fresh", "--servers", "0", "--set", "device=auto"], place.path,
                       env={"PARAMD_CUDA_BACKEND": "/nowhere.so"})
    cases.check("auto is the processor where there is no GPU", code == 0, err[-400:])


def without_gpu():
    """gpu.sh skips where there is no GPU; where there is one that cannot be used, it fails."""
    for name, seen, code, said in (("no GPU is a reason to skip", "", 77, "no GPU: "),
                                   ("a GPU that cannot be used is none", "1", 1, "there is a GPU, but ")):
        done = subprocess.run([os.path.join(ROOT, "tests", "integration", "gpu.sh")], capture_output=True, text=True,
                              env=dict(os.environ, GPU_IS_SEEN=seen, PARAMD_CUDA_BACKEND="/nowhere.so"))
        last = (done.stdout.splitlines() or [""])[-1]
        cases.check(name, done.returncode == code and said in last and "/nowhere.so" in last, (done.returncode, last))


def main():
    if not os.path.exists(EMULATED):
        print("the emulated GPU is not part of this build")
        raise SystemExit(77)
    os.environ["PARAMD_CUDA_BACKEND"] = EMULATED
    with Workplace() as place:
        place.file("train.csv", csv())
        place.file("job.yaml", JOB)
        same_bits(place)
        faulty(place)
        precisions(place)
        resumed(place)
        refused(place)
    without_gpu()
    cases.end()


main()
