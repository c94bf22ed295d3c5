#!/usr/bin/env python3
# timeout: 900
"""Goal: the shipped example jobs learn what single-process trainers learn on real data.

Method: `paramctl run` with two servers and two workers on the data sets beside the project (../shared/data); the metrics
must reach bounds a little under those of well-tuned single-process trainers. Skipped where the data are not there.
"""
import os

from harness import ROOT, SHARED, Cases, Workplace, run, run_job

cases = Cases()
CLUSTER = ["--servers", "2", "--workers", "2"]


def metrics(place, job, data, more=()):
    result = run_job(["-f", os.path.join(ROOT, "conf", job), "--fresh", "--var", f"data={os.path.join(SHARED, data)}"]
                     + CLUSTER + list(more), place.path, timeout=300)
    print(f"        {job}: {result.get('eval')} {result.get('seconds')} s, "
          f"{result.get('examples_per_second')} examples/s")
    return result, result.get("eval", {})


def main():
    if not os.path.isdir(SHARED):
        print("real data are not beside the project (../shared/data)")
        raise SystemExit(77)
    with Workplace() as place:
        result, e = metrics(place, "criteo-lr.yaml", "criteo")
        cases.check("criteo lr: auc at least 0.760", e.get("auc", 0) >= 0.760, result)
        result, e = metrics(place, "criteo-fm.yaml", "criteo")
        cases.check("criteo fm: auc at least 0.769", e.get("auc", 0) >= 0.769, result)
        cases.check("criteo fm: log loss at most 0.4430", e.get("log_loss", 9) <= 0.4430, result)
        fm, found = result, e
        for job, most in (("criteo-deepfm.yaml", 0.441), ("criteo-dcn.yaml", 0.441), ("criteo-ffm.yaml", 0.441)):
            result, e = metrics(place, job, "criteo")
            cases.check(f"{job}: auc at least 0.771", e.get("auc", 0) >= 0.771, result)
            cases.check(f"{job}: log loss at most {most}", e.get("log_loss", 9) <= most, result)
        result, e = fm, found
        code, out, err = run(["eval", "-f", os.path.join(ROOT, "conf", "criteo-fm.yaml"), "--checkpoint",
                              result.get("checkpoint", "none"), "--var", f"data={os.path.join(SHARED, 'criteo')}",
                              "-o", "json"], place.path)
        cases.check("criteo fm: `eval` finds the same metrics", code == 0 and f"{e.get('auc')}" in out, out + err)
        for job in ("movielens-fm.yaml", "movielens-fm-libffm.yaml"):
            result, e = metrics(place, job, "movielens")
            cases.check(f"{job}: auc at least 0.763", e.get("auc", 0) >= 0.763, result)
        result, lr = metrics(place, "flights-lr.yaml", "hflights")
        result, fm = metrics(place, "flights-fm.yaml", "hflights")
        cases.check("flights: fm clearly above lr", fm.get("auc", 0) >= lr.get("auc", 1) + 0.003, result)
    cases.end()


main()
