#!/usr/bin/env python3
"""Large files to and from real stores on loopback, beside curl's raw upload and download to the same server in the same run.

    tests/bench/bench_storage.py [MEBIBYTES [STORE…]]      STORE: versitygw, swift, hdfs

Goal: 0.8 of curl's speed, and less than 256 MiB of memory beside the model.

Method: of each store, rounds of curl (one PUT, then one GET, of a file of random bytes; S3's body is not signed), storage_pour
(one object written and read in order) and bench_checkpoint (a shard's checkpoint, and its restoring); all see the same machine.
Medians of three rounds. Ratios are of curl's upload, and for reading of its download, too. curl's upload in parts of 8 MiB, one
after the other, is what a server makes of a multipart upload: versitygw copies all parts together at the end, Swift does not.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "integration"))
from hdfs import Hdfs, why_not  # noqa: E402
from s3_servers import Swift, Unavailable, VersityGW, environment  # noqa: E402

MIB = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
ROUNDS = 3
BUILD = os.path.dirname(os.environ.get("PARAMCTL", os.path.join(ROOT, "build", "paramctl")))
PART_MIB = 8


def ours(program, uri, env=None):
    """-> {"write": (MiB/s, extra MiB), "read": …}"""
    done = subprocess.run([os.path.join(BUILD, program), str(MIB), uri], check=True, env=env, stdout=subprocess.PIPE, text=True)
    return {f[0]: (float(f[2]), float(f[3])) for f in (line.split() for line in done.stdout.splitlines())}


def timed(*arguments):
    """-> MiB/s of curl"""
    start = time.monotonic()
    subprocess.run(["curl", "-sS", "-f", *arguments], check=True, stdout=subprocess.DEVNULL)
    return MIB / (time.monotonic() - start)


def signed(server, method, path, query=""):
    headers = server.client.sign(method, f"/bucket/{path}", query, {}, b"", "UNSIGNED-PAYLOAD")
    return [a for name, value in headers.items() for a in ("-H", f"{name}: {value}")]


def in_parts(server, path):
    """-> (MiB/s of the parts, MiB/s with the completion)"""
    text = server.client.request("POST", "bucket", "raw-parts", {"uploads": ""})[2]
    upload = next(e.text for e in xml.etree.ElementTree.fromstring(text) if e.tag.endswith("UploadId"))
    etags, start = [], time.monotonic()
    with open(path, "rb") as f:
        for n in range(1, MIB // PART_MIB + 1):
            query = f"partNumber={n}&uploadId={upload}"
            said = subprocess.run(["curl", "-sS", "-f", "-D", "-", "-X", "PUT", "--data-binary", "@-", *signed(
                server, "PUT", "raw-parts", query), f"{server.endpoint}/bucket/raw-parts?{query}"],
                                  input=f.read(PART_MIB << 20), check=True, stdout=subprocess.PIPE).stdout.decode()
            etags += [line.split(": ", 1)[1].strip() for line in said.splitlines() if line.lower().startswith("etag")]
    sent = time.monotonic() - start
    body = "".join(f"<Part><PartNumber>{i}</PartNumber><ETag>{e}</ETag></Part>" for i, e in enumerate(etags, 1))
    connection = server.client.connect()
    connection.timeout = 600
    status, _, said = server.client.request("POST", "bucket", "raw-parts", {"uploadId": upload},
                                            f"<CompleteMultipartUpload>{body}</CompleteMultipartUpload>".encode(), connection)
    assert status == 200, said
    return MIB / sent, MIB / (time.monotonic() - start)


def report(store, rounds):
    for what in rounds[0]:
        if what.startswith("curl"):
            print(f"{store} {what}: {statistics.median(r[what] for r in rounds):.0f} MiB/s")
            continue
        for verb in ("write", "read"):
            beside = [f"{statistics.median(r[what][verb][0] / r[raw] for r in rounds):.2f} of {raw}"
                      for raw in dict.fromkeys(("curl write", f"curl {verb}"))]
            print(f"{store} {what} {verb} {MIB} MiB: {statistics.median(r[what][verb][0] for r in rounds):.0f} MiB/s, "
                  f"{', '.join(beside)}, extra memory {max(r[what][verb][1] for r in rounds):.0f} MiB")
    sys.stdout.flush()


def on_s3(server, path):
    env, raw = environment(server.endpoint), f"{server.endpoint}/bucket/raw"
    found = {"curl write": timed("-T", path, *signed(server, "PUT", "raw"), raw),
             "curl read": timed("-o", "/dev/null", *signed(server, "GET", "raw"), raw)}
    found["curl parts"], found["curl parts and completion"] = in_parts(server, path)
    found["pour"] = ours("integration/storage_pour", "s3://bucket/poured", env)
    found["checkpoint"] = ours("bench/bench_checkpoint", "s3://bucket/runs", env)
    for key in ("raw", "raw-parts", "poured"):
        server.client.request("DELETE", "bucket", key)
    return found


def on_hdfs(hdfs, path):
    def place(method, **parameters):
        return json.loads(hdfs.request(method, "/raw", noredirect="true", **parameters)[2])["Location"]
    found = {"curl write": timed("-T", path, place("PUT", op="CREATE", overwrite="true")),
             "curl read": timed("-o", "/dev/null", place("GET", op="OPEN"))}
    found["pour"] = ours("integration/storage_pour", hdfs.uri("/poured"))
    found["checkpoint"] = ours("bench/bench_checkpoint", hdfs.uri("/runs"))
    for name in ("/raw", "/poured"):
        hdfs.request("DELETE", name, op="DELETE")
    return found


def main():
    wanted = sys.argv[2:] or ["versitygw", "swift", "hdfs"]
    with tempfile.TemporaryDirectory(prefix="paramd-bench-") as place:
        path = os.path.join(place, "file")
        with open(path, "wb") as f:
            block = os.urandom(1 << 20)
            for _ in range(MIB):
                f.write(block)
        for kind in (VersityGW, Swift):
            try:
                if kind.name in wanted:
                    with kind() as server:
                        report(kind.name, [on_s3(server, path) for _ in range(ROUNDS)])
            except Unavailable as e:
                print(f"skipped: {e}")
        if "hdfs" in wanted and why_not():
            print(f"skipped: {why_not()}")
        elif "hdfs" in wanted:
            with Hdfs(place + "/hdfs", heap="512m") as hdfs:
                report("hdfs", [on_hdfs(hdfs, path) for _ in range(ROUNDS)])


main()
