#!/usr/bin/env python3
"""Goal: a training step of deepfm and dlrm on a GPU takes no longer than PyTorch's, and the kernels that move memory move it
about as fast as a copy within the device does.

Method: bench_gpu (same directory of the build) gives paramd's figures; PyTorch, where there is a Python that has it, does the
same step beside it in the same run: rows and a batch from pinned memory to the GPU, forward, backward, gradients of rows and of
dense parameters back to pinned memory, in eager mode and compiled. Batch 16384, 13 numbers, 26 fields, dim 16 and 64. Medians
of 30. paramd sends the next batch, without its rows, while it computes; PyTorch's step waits for its own. Skipped, with the
reason, where there is no GPU; nothing is fetched.

--device cpu runs the same code where there is no GPU: PyTorch on the processor, paramd on the emulated GPU of the tests (or
what PARAMD_CUDA_BACKEND names). It shows that the program works; its figures mean nothing.

bench_gpu.py [BATCH] [--device cuda|cpu] [--rounds N] [--precisions P,…] [--shapes S,…] [--eager]
"""
import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
from torch_models import find_torch  # noqa: E402

BUILD = os.path.dirname(os.path.abspath(os.environ.get("PARAMCTL", os.path.join(ROOT, "build", "paramctl"))))
FIELDS, DENSE, VOCABULARY, WARM_UP = 26, 13, 20000, 8
SHAPES = ["deepfm_16", "deepfm_64", "dlrm_16", "dlrm_64"]
PARTS = ["step", "products", "copy", "gather", "gather_back"]


class Failed(Exception):
    """paramd's half could not be had; the text says why."""


def parse_figures(text, shapes):
    """-> the first line, and {name: value}; what is missing of it is named."""
    lines = text.splitlines() or [""]
    figures = {}
    for line in lines[1:]:
        words = line.split()
        try:
            figures[words[0]] = float(words[1])
        except (IndexError, ValueError):
            raise Failed(f"bench_gpu wrote '{line}', which is no figure")
    missing = [f"{s}_{part}" for s in shapes for part in PARTS if f"{s}_{part}" not in figures]
    if missing:
        raise Failed(f"bench_gpu did not write {', '.join(missing)}")
    return lines[0], figures


def paramd(o, precision):
    """-> what was measured, and {name: value}; exits with 77 where there is no GPU."""
    env = dict(os.environ)
    if o.device == "cpu":
        env.setdefault("PARAMD_CUDA_BACKEND", os.path.join(BUILD, "tests", "paramd-cuda-emulated.so"))
    if env.get("GPU_LIBRARIES"):
        env["LD_LIBRARY_PATH"] = f"{env['GPU_LIBRARIES']}:{env.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    program = [os.path.join(BUILD, "bench", "bench_gpu"), str(o.batch), precision, str(o.rounds), *o.shapes]
    try:
        done = subprocess.run(program, stdout=subprocess.PIPE, text=True, env=env, timeout=600)
    except OSError as e:
        raise Failed(f"{program[0]} cannot be run ({e.strerror}); make benches builds it")
    except subprocess.TimeoutExpired as e:
        raise Failed(f"bench_gpu did not end within {e.timeout:.0f} s; it wrote: {e.stdout}")
    if done.returncode == 77:
        print(done.stdout.strip())
        sys.exit(77)
    if done.returncode != 0:
        raise Failed(f"bench_gpu ended with {done.returncode}; it wrote:\n{done.stdout.rstrip()}")
    return parse_figures(done.stdout, o.shapes)


# ---- the same step in PyTorch ----

def network(torch, widths):
    layers = []
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        layers += [torch.nn.Linear(a, b)] + ([torch.nn.ReLU()] if i + 2 < len(widths) else [])
    return torch.nn.Sequential(*layers)


def torch_model(torch, name, dim):
    class DeepFM(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.deep = network(torch, [DENSE + FIELDS * dim, 400, 400, 400, 1])
            self.bias = torch.nn.Parameter(torch.zeros(1))

        def forward(self, rows, ids, dense):
            taken = rows.index_select(0, ids.reshape(-1)).reshape(ids.shape[0], FIELDS, dim + 1)
            w, v = taken[:, :, 0], taken[:, :, 1:]
            sums = v.sum(1)
            pairs = 0.5 * (sums * sums - (v * v).sum(1)).sum(1)
            return self.bias + w.sum(1) + pairs + self.deep(torch.cat([dense, v.flatten(1)], 1)).squeeze(1)

    class DLRM(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bottom = network(torch, [DENSE, 512, 256, 64, dim])
            self.top = network(torch, [dim + (FIELDS + 1) * FIELDS // 2, 512, 512, 256, 1])
            i, j = torch.tril_indices(FIELDS + 1, FIELDS + 1, -1)
            self.register_buffer("i", i)
            self.register_buffer("j", j)

        def forward(self, rows, ids, dense):
            v = rows.index_select(0, ids.reshape(-1)).reshape(ids.shape[0], FIELDS, dim)
            x = self.bottom(dense).relu()
            all_ = torch.cat([x.unsqueeze(1), v], 1)
            dots = torch.bmm(all_, all_.transpose(1, 2))[:, self.i, self.j]
            return self.top(torch.cat([x, dots], 1)).squeeze(1)

    return (DeepFM if name == "deepfm" else DLRM)(), dim + (name == "deepfm")


class Place:
    """All in which a GPU and the processor differ here."""

    def __init__(self, torch, device):
        self.torch, self.device, self.is_gpu = torch, torch.device(device), device == "cuda"

    def pinned(self, tensor):
        return tensor.pin_memory() if self.is_gpu else tensor

    def synchronize(self):
        if self.is_gpu:
            self.torch.cuda.synchronize()

    def low(self, precision):
        kind = {"bf16": self.torch.bfloat16, "fp16": self.torch.float16}.get(precision)
        return self.torch.autocast(self.device.type, dtype=kind) if kind else contextlib.nullcontext()


def compile_model(torch, model):
    if not hasattr(torch, "compiler"):
        raise RuntimeError(f"PyTorch {torch.__version__} has no torch.compiler; 2.1 has")
    torch.compiler.reset()  # or the ninth model would be left uncompiled, silently
    return torch.compile(model)


def torch_step_ms(torch, o, shape, precision, compiled):
    name, dim = shape.split("_")
    place = Place(torch, o.device)
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    model, width = torch_model(torch, name, int(dim))
    model = model.to(place.device)
    forward = compile_model(torch, model) if compiled else model
    raw = (torch.rand(o.batch, FIELDS) ** 4 * VOCABULARY).long() + torch.arange(FIELDS) * VOCABULARY
    keys, ids = raw.unique(return_inverse=True)
    host = [place.pinned(t) for t in (torch.randn(len(keys), width) * 0.05, ids.int(), torch.randn(o.batch, DENSE),
                                      (torch.rand(o.batch) < 0.3).float())]
    back = [place.pinned(torch.empty_like(t, device="cpu")) for t in (host[0], *model.parameters())]
    times = []
    for _ in range(WARM_UP + o.rounds):
        place.synchronize()
        start = time.perf_counter()
        rows, there, dense, labels = (t.to(place.device, non_blocking=True) for t in host)
        rows = rows.detach().requires_grad_(True)
        with place.low(precision):
            logits = forward(rows, there, dense)
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum").backward()
        with torch.no_grad():
            for to, t in zip(back, (rows, *model.parameters())):
                to.copy_(t.grad, non_blocking=True)
        model.zero_grad(set_to_none=True)
        place.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    if not all(bool(t.isfinite().all()) and bool(t.any()) for t in back):
        raise RuntimeError("its gradients are zero or not finite")
    return statistics.median(times[WARM_UP:])


def first_line(e):
    """A compiler that is not there says so in many ways, some over pages."""
    lines = str(e).strip().splitlines() or [""]
    return f"{type(e).__name__}: {lines[0][:160]}"


def torch_figures(torch, o, shape, precision, ours):
    """PyTorch's figures beside a step of `ours` ms; what it cannot do does not take paramd's figures away."""
    parts = []
    for how in ["eager"] + ([] if o.eager else ["compiled"]):
        try:
            ms = torch_step_ms(torch, o, shape, precision, how == "compiled")
            parts.append(f"{how} {ms:.3f} ms ({ms / ours:.2f} times as long)")
        except Exception as e:
            parts.append(f"not {how} ({first_line(e)})")
    return ", ".join(parts)


def parse_arguments():
    p = argparse.ArgumentParser()
    p.add_argument("batch", nargs="?", type=int, default=16384)
    p.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    p.add_argument("--rounds", type=int, default=30)
    p.add_argument("--precisions", type=lambda s: s.split(","), default=["float32", "tf32", "bf16"])
    p.add_argument("--shapes", type=lambda s: s.split(","), default=SHAPES)
    p.add_argument("--eager", action="store_true", help="PyTorch without its compiler")
    o = p.parse_args()
    unknown = [s for s in o.shapes if s not in SHAPES]
    if unknown:
        p.error(f"no shape '{unknown[0]}'; there are {', '.join(SHAPES)}")
    return o


def show(o, torch, precision):
    what, ours = paramd(o, precision)
    print(what, flush=True)
    for shape in o.shapes:
        part = {name: ours[f"{shape}_{name}"] for name in PARTS}
        share = 100 * part["products"] / part["step"]
        print(f"{shape:10s} step {part['step']:.3f} ms, products alone {part['products']:.3f} ms ({share:.0f} %)", flush=True)
        print("           " + ", ".join(f"{name} {part[name]:.0f} GB/s" for name in PARTS[2:]), flush=True)
        if torch:
            print(f"           PyTorch {torch_figures(torch, o, shape, precision, part['step'])}", flush=True)


def main():
    why_not = find_torch()
    o = parse_arguments()
    torch = None
    if not why_not:
        import torch
        if o.device == "cuda" and not torch.cuda.is_available():
            torch, why_not = None, f"PyTorch {torch.__version__} sees no GPU"
    failed = False
    for precision in o.precisions:
        try:
            show(o, torch, precision)
        except Failed as e:
            failed = True
            print(f"FAILED  {precision}: {e}", flush=True)
    print(f"without PyTorch's figures: {why_not}" if why_not else f"PyTorch {torch.__version__}")
    return 1 if failed else 0


sys.exit(main())
