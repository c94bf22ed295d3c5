#!/usr/bin/env python3
"""A large file to and from a real HDFS on loopback, beside curl's raw upload and download to the same DataNode in the same run.

    tests/bench/bench_storage_hdfs.py [MEBIBYTES]

curl is given a DataNode's address and sends, or gets, a file of the same size in one request. Rounds alternate, so that
both see the same machine; the best of three of each is reported, with the extra memory of our process.
"""
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
from hdfs import Hdfs, why_not  # noqa: E402

MIB = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
ROUNDS = 3
BUILD = os.path.dirname(os.environ.get("PARAMCTL", os.path.join(ROOT, "build", "paramctl")))


def pour(hdfs):
    """-> {"write": (MiB/s, extra MiB), "read": …}"""
    done = subprocess.run([os.path.join(BUILD, "integration", "storage_pour"), str(MIB), hdfs.uri("/poured")], check=True,
                          stdout=subprocess.PIPE, text=True)
    return {f[0]: (float(f[2]), float(f[3])) for f in (line.split() for line in done.stdout.splitlines())}


def curl(hdfs, operation, *arguments):
    """-> MiB/s"""
    method, more = ("PUT", {"overwrite": "true"}) if operation == "CREATE" else ("GET", {})
    _, _, body = hdfs.request(method, "/raw", op=operation, noredirect="true", **more)
    start = time.monotonic()
    subprocess.run(["curl", "-sS", "-f", *arguments, json.loads(body)["Location"]], check=True)
    return MIB / (time.monotonic() - start)


def main():
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")
        return
    with tempfile.TemporaryDirectory(prefix="paramd-bench-") as place, Hdfs(place + "/hdfs", heap="512m") as hdfs:
        path = os.path.join(place, "file")
        with open(path, "wb") as f:
            block = os.urandom(1 << 20)
            for _ in range(MIB):
                f.write(block)
        ours, up, down = [], [], []
        for _ in range(ROUNDS):
            up.append(curl(hdfs, "CREATE", "-T", path))
            down.append(curl(hdfs, "OPEN", "-o", "/dev/null"))
            ours.append(pour(hdfs))
        for verb, theirs in (("write", up), ("read", down)):
            best = max(o[verb][0] for o in ours)
            print(f"hdfs {verb} {MIB} MiB: {best:.0f} MiB/s, curl {max(theirs):.0f} MiB/s, ratio {best / max(theirs):.2f}, "
                  f"extra memory {max(o[verb][1] for o in ours):.0f} MiB")


main()
