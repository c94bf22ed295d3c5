#!/usr/bin/env python3
# timeout: 900
"""Goal: whatever a WebHDFS answers, at whichever request, a commit happens once and is whole, or the error names the cause and
what was there before stands; and a token is never shown.

Method: the WebHDFS of webhdfs_faults.py keeps the contract of storage.h; then storage_commit writes and reads with each kind of
fault at each request in turn, against a server of its own for each.
"""
import concurrent.futures
import os
import re
import subprocess

from harness import ROOT, Authority, Cases, Workplace
from webhdfs_faults import EXCEPTIONS, Webhdfs

cases = Cases()
TOOLS = os.path.join(ROOT, os.environ.get("BUILD_DIR", "build"), "integration")
SETS = ["--set", "storage_stall_timeout=2s", "--set", "storage_timeout=20s"]
PASSING = ["500", "503", "reset", "500-after", "reset-after", "truncated", "slow", "standby", "retriable", "safemode", "dead",
           "false"]
LASTING = ["refused", "token", "html"]
MANIFEST = b'{"small": 3000, "large": 9437189}\n'
SIZES = {"/new/small": 3000, "/new/large": 9437189, "/new/MANIFEST.json": len(MANIFEST)}


def tool(name, *arguments, sets=(), timeout=120):
    """-> (exit code, what it printed)"""
    done = subprocess.run([os.path.join(TOOLS, name), *arguments, *SETS, *sets], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=timeout, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def commit(server, verb, sets=()):
    return tool("storage_commit", verb, server.uri("/new"), sets=sets)


def is_whole(server):
    return server.files.get("/new/MANIFEST.json") == MANIFEST and \
        all(len(server.files.get(path, b"")) == size for path, size in SIZES.items())


def write_with(fault, at, sets=()):
    """-> why it is wrong, or None"""
    with Webhdfs() as server:
        server.directories |= {"/old", "/new"}
        server.files["/old/MANIFEST.json"] = b"old"
        server.begin({at: fault})
        code, said = commit(server, "write", sets)
        what = f"{fault} at {at}: exit {code}: {said.strip()[-300:]}; {server.seen[-4:]}"
        if server.files.get("/old/MANIFEST.json") != b"old":
            return f"the one before is gone; {what}"
        if server.renamed.get("/new/MANIFEST.json", 0) > 1:
            return f"committed twice; {what}"
        left = [path for path in server.files if ".tmp-" in path]
        if left:
            return f"{left} is left behind; {what}"
        if code == 0:
            return None if is_whole(server) else f"committed, and not whole; {what}"
        if "/new/MANIFEST.json" in server.files and not is_whole(server):
            return f"a manifest of what is not whole; {what}"
        if fault in EXCEPTIONS and EXCEPTIONS[fault] not in said or "hdfs://" not in said:
            return f"the error names no cause; {what}"
        if fault in PASSING and not (at and "large" in "".join(server.seen[at - 2:at])):
            return f"given up, though it would have passed; {what}"
        server.begin({})
        code, said = commit(server, "write")
        return None if code == 0 and is_whole(server) else f"not even the next time: {said}; {what}"


def read_with(fault, at):
    with Webhdfs() as server:
        commit(server, "write")
        server.begin({at: fault})
        code, said = commit(server, "read")
        what = f"{fault} at {at}: exit {code}: {said.strip()[-300:]}; {server.seen[-4:]}"
        if code != 0 and fault in PASSING:
            return f"given up, though it would have passed; {what}"
        if code != 0 and (fault in EXCEPTIONS and EXCEPTIONS[fault] not in said or "hdfs://" not in said):
            return f"the error names no cause; {what}"
        return None


def at_each_request(title, attempt, requests, kinds):
    """One case a kind of fault. Most of the time is waiting."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = {kind: pool.map(attempt, [kind] * requests, range(1, requests + 1)) for kind in kinds}
        for kind, outcomes in found.items():
            wrong = [w for w in outcomes if w]
            cases.check(f"{title}: {kind} at each of {requests} requests", not wrong, "\n        ".join([""] + wrong))


def contract():
    for kind, flags in (("webhdfs", []), ("httpfs", ["--weak"])):
        with Webhdfs(batch=3, kind=kind) as server:
            code, said = tool("storage_contract", *flags, server.uri("/contract"))
            passed = re.search(r"(\d+) passed, 0 failed", said)
            cases.check(f"a {kind} of ours keeps the contract ({passed and passed.group(1)} cases)", code == 0 and passed, said)
            left = [path for path in server.files if "/contract" in path]
            cases.check("nothing is left of it", not left, left)


def over_tls():
    try:
        with Workplace() as place:
            ours, other = Authority(place), Authority(place, "other")
            with Webhdfs(authority=ours) as server:
                for title, ca, good in (("the authority that is named", ours.ca, True), ("another one", other.ca, False)):
                    code, said = tool("storage_commit", "write", server.uri("/new"), sets=["--set", "hdfs_tls=true", "--set",
                                                                                           f"storage_ca_file={ca}"])
                    cases.check(f"TLS, a certificate by {title}", code == 0 if good else code == 1 and "certificate" in said, said)
    except FileNotFoundError as e:
        cases.skip("TLS", str(e))


def without_ticket():
    """Kerberos, as far as it goes without a realm: the error names the cause, and nothing is sent to a DataNode."""
    with Webhdfs(negotiate=True) as server:
        os.environ["KRB5CCNAME"] = "FILE:/nowhere/tickets"
        code, said = tool("storage_commit", "write", server.uri("/new"), sets=["--set", "hdfs_auth=kerberos"])
        cases.check("Kerberos without a ticket is named", code == 1 and "401" in said and "kinit" in said, said)
        code, said = tool("storage_commit", "write", server.uri("/new"))
        cases.check("a NameNode that wants Kerberos is named", code == 1 and "hdfs_auth" in said, said)
        sent = [s for s in server.seen if s.startswith("data")]
        cases.check("no byte goes to a DataNode", not sent, server.seen)


def count_requests():
    with Webhdfs() as server:
        code, said = commit(server, "write")
        writing = server.count
        cases.check("written and committed", code == 0 and is_whole(server), said)
        server.begin({})
        code, said = commit(server, "read")
        cases.check("read back", code == 0, said)
        return writing, server.count


def all_the_time():
    """Faults that do not pass: the error names the cause, within the time it has."""
    kinds = ("standby", "safemode", "refused", "html", "reset")
    with concurrent.futures.ThreadPoolExecutor(len(kinds)) as pool:
        outcomes = pool.map(lambda kind: write_with(kind, 0, ["--set", "storage_timeout=5s"]), kinds)
        for kind, wrong in zip(kinds, outcomes):
            wrong = wrong if wrong and "would have passed" not in wrong else None
            cases.check(f"write: {kind} at all requests", not wrong, wrong)


def secrets():
    token = "CANARY" + "x7Kq" * 8
    with Workplace() as place, Webhdfs() as server:
        path = place.file("token", token + "\n")
        sets = ["--set", f"hdfs_token_file={path}"]
        code, said = tool("storage_commit", "write", server.uri("/new"), sets=sets)
        cases.check("a delegation token is sent", code == 0 and token in server.tokens and len(server.tokens) == 1,
                    f"{code} {server.tokens}")
        shown = said
        for kind in ("token", "refused", "html", "500", "reset", "dead"):
            server.begin({0: kind})
            code, said = tool("storage_commit", "write", server.uri("/new"), sets=sets + ["--set", "storage_timeout=2s"])
            shown += said
            cases.check(f"an error with a token: {kind}", code == 1 and "hdfs://" in said, said)
        cases.check("the token is never shown", token not in shown and "CANARY" not in shown, shown)
        code, said = tool("storage_commit", "write", server.uri("/new"), sets=["--set", "hdfs_token_file=/nowhere/token"])
        cases.check("a token's file that is not there is named", code == 1 and "/nowhere/token" in said, said)


def main():
    contract()
    over_tls()
    without_ticket()
    writing, reading = count_requests()
    at_each_request("write", write_with, writing, PASSING + LASTING)
    at_each_request("read", read_with, reading, ["500", "reset", "truncated", "slow", "standby", "dead", "refused"])
    all_the_time()
    secrets()
    cases.end()


main()
