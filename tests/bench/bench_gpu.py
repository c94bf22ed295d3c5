#!/usr/bin/env python3
"""Goal: a training step of deepfm and dlrm on a GPU takes no longer than PyTorch's, and the kernels that move memory move it
about as fast as a copy within the device does.

Method: bench_gpu (same directory of the build) gives paramd's figures; PyTorch, where this Python has it, does the same step
beside it in the same run: rows and a batch from pinned memory to the GPU, forward, backward, gradients of rows and of dense
parameters back, in eager mode and compiled. Batch 16384, 13 numbers, 26 fields, dim 16 and 64. Medians of 30. Skipped, with
the reason, where there is no GPU; nothing is fetched.

bench_gpu.py [BATCH]
"""
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.dirname(os.path.abspath(os.environ.get("PARAMCTL", os.path.join(ROOT, "build", "paramctl"))))
FIELDS, DENSE, VOCABULARY, ROUNDS, WARM_UP = 26, 13, 20000, 30, 8
SHAPES = [(model, dim) for model in ("deepfm", "dlrm") for dim in (16, 64)]


def paramd(batch, precision):
    """-> {name: (value, unit)}, the first line; or exits with 77"""
    done = subprocess.run([os.path.join(BUILD, "bench", "bench_gpu"), str(batch), precision], stdout=subprocess.PIPE,
                          text=True)
    lines = done.stdout.splitlines()
    if done.returncode != 0:
        print("\n".join(lines))
        sys.exit(done.returncode)
    return {l.split()[0]: (float(l.split()[1]), l.split()[2]) for l in lines[1:]}, lines[0]


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


def torch_step_ms(torch, name, dim, batch, precision, compiled):
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    model, width = torch_model(torch, name, dim)
    model = model.cuda()
    forward = torch.compile(model) if compiled else model
    raw = (torch.rand(batch, FIELDS) ** 4 * VOCABULARY).long() + torch.arange(FIELDS) * VOCABULARY
    keys, ids = raw.unique(return_inverse=True)
    host = [t.pin_memory() for t in (torch.randn(len(keys), width) * 0.05, ids, torch.randn(batch, DENSE),
                                     (torch.rand(batch) < 0.3).float())]
    back = torch.empty(len(keys), width).pin_memory()
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    times = []
    for _ in range(WARM_UP + ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        rows, there, dense, labels = (t.cuda(non_blocking=True) for t in host)
        rows.requires_grad_(True)
        with torch.autocast("cuda", dtype=low or torch.bfloat16, enabled=low is not None):
            logits = forward(rows, there, dense)
        torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum").backward()
        back.copy_(rows.grad, non_blocking=True)
        gradients = [p.grad.cpu() for p in model.parameters()]
        model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
        del gradients
    return statistics.median(times[WARM_UP:])


def main():
    batch = int(sys.argv[1]) if len(sys.argv) > 1 else 16384
    try:
        import torch
        why_not = "" if torch.cuda.is_available() else "PyTorch sees no GPU"
    except ImportError:
        torch, why_not = None, "this Python has no PyTorch"
    for precision in ("float32", "tf32", "bf16"):
        ours, what = paramd(batch, precision)
        print(what)
        for name, dim in SHAPES:
            key = f"{name}_{dim}"
            step, products = ours[f"{key}_step"][0], ours[f"{key}_products"][0]
            line = f"{key:10s} step {step:7.3f} ms, products alone {products:7.3f} ms ({100 * products / step:.0f} %)"
            if not why_not:
                eager = torch_step_ms(torch, name, dim, batch, precision, False)
                line += f"; PyTorch eager {eager:7.3f} ms"
                try:
                    line += f", compiled {torch_step_ms(torch, name, dim, batch, precision, True):7.3f} ms"
                except Exception as e:  # a compiler that is not there says so in many ways
                    line += f", not compiled ({type(e).__name__})"
            print(line, flush=True)
            print("           " + ", ".join(f"{part} {ours[f'{key}_{part}'][0]:.0f} GB/s"
                                           for part in ("copy", "gather", "gather_back")))
    if why_not:
        print(f"without PyTorch's figures: {why_not}")


main()
