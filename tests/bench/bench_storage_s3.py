#!/usr/bin/env python3
"""A large object to and from a real S3 server on loopback, beside curl's raw upload and download to the same server in
the same run.

    tests/bench/bench_storage_s3.py [MEBIBYTES]

curl sends a file of the same size in one PUT, whose body is not signed. Rounds alternate, so that both see the
same machine; the best of three of each is reported, with the extra memory of our process.
"""
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
from s3_servers import Unavailable, VersityGW, environment  # noqa: E402

MIB = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
BUILD = os.path.dirname(os.environ.get("PARAMCTL", os.path.join(ROOT, "build", "paramctl")))


def pour(server):
    """-> {"write": (MiB/s, extra MiB), "read": …}"""
    done = subprocess.run([os.path.join(BUILD, "integration", "storage_pour"), str(MIB), "s3://bucket/poured"], check=True,
                          env=environment(server.endpoint), stdout=subprocess.PIPE, text=True)
    return {f[0]: (float(f[2]), float(f[3])) for f in (line.split() for line in done.stdout.splitlines())}


def curl(server, path, *arguments):
    """-> MiB/s"""
    method = "PUT" if "-T" in arguments else "GET"
    headers = server.client.sign(method, f"/bucket/{path}", "", {}, b"", "UNSIGNED-PAYLOAD")
    lines = [a for name, value in headers.items() for a in ("-H", f"{name}: {value}")]
    start = time.monotonic()
    subprocess.run(["curl", "-sS", "-f", *lines, *arguments, f"{server.endpoint}/bucket/{path}"], check=True)
    return MIB / (time.monotonic() - start)


def main():
    try:
        with VersityGW() as server:
            path = os.path.join(server.path, "file")
            with open(path, "wb") as f:
                block = os.urandom(1 << 20)
                for _ in range(MIB):
                    f.write(block)
            ours, up, down = [], [], []
            for _ in range(3):
                up.append(curl(server, "raw", "-T", path))
                down.append(curl(server, "raw", "-o", "/dev/null"))
                ours.append(pour(server))
            for verb, theirs in (("write", up), ("read", down)):
                best = max(o[verb][0] for o in ours)
                print(f"s3 {verb} {MIB} MiB: {best:.0f} MiB/s, curl {max(theirs):.0f} MiB/s, ratio {best / max(theirs):.2f}, "
                      f"extra memory {max(o[verb][1] for o in ours):.0f} MiB")
    except Unavailable as e:
        print(f"skipped: {e}")


main()
