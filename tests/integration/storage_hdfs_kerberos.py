#!/usr/bin/env python3
# timeout: 600
"""Goal: in a Kerberos realm HDFS is read and written as elsewhere, by a ticket, by a keytab that gets new ones for as long as a
job lasts, and by a delegation token; without a ticket, or with one that has expired, the error names the cause, training goes on
and later checkpoints succeed.

Method: MIT's KDC (kerberos.py) and Hadoop's own NameNode and DataNode in full secure mode (hdfs.py), on loopback; the contract of
storage.h, and the shipped Criteo job, whose digest on local files is the reference. Skipped where either cannot be had.
"""
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import urllib.parse

import kerberos
from criteo_job import EPOCHS, CriteoJob
from harness import ROOT, Cases, Workplace, core_of, run, start, wait_until, why_no_cores
from hdfs import Hdfs
from hdfs import why_not as why_no_hdfs
from httpfs import HttpFs, proxy_settings
from httpfs import why_not as why_no_httpfs
from kerberos import NAME, Realm
from webhdfs_faults import Webhdfs

cases = Cases()
TOOLS = os.path.join(ROOT, os.environ.get("BUILD_DIR", "build"), "integration")
KERBEROS = ["--set", "hdfs_auth=kerberos"]


class SecureHdfs(Hdfs):
    """It wants a ticket for HTTP/localhost. `self.admin` is the environment of its super-user."""
    host = "localhost"

    def __init__(self, directory, realm):
        keytab = realm.keytab("hdfs/localhost", "HTTP/localhost")
        with open(os.path.join(realm.directory, "signature"), "w") as f:
            f.write("of cookies that nobody uses")
        settings = {
            "hadoop.security.authentication": "kerberos",
            "hadoop.security.authorization": "true",
            "hadoop.security.auth_to_local": "RULE:[2:$1@$0](hdfs@.*)s/.*/hdfs/ DEFAULT",
            "hadoop.http.filter.initializers": "org.apache.hadoop.security.AuthenticationFilterInitializer",
            "hadoop.http.authentication.type": "kerberos",
            "hadoop.http.authentication.signature.secret.file": f.name,
            "dfs.block.access.token.enable": "true",
            "dfs.data.transfer.protection": "authentication",
            "ignore.secure.ports.for.testing": "true",
        }
        for prefix, principal, file in (("dfs.namenode", "hdfs", "keytab.file"), ("dfs.datanode", "hdfs", "keytab.file"),
                                        ("hadoop.http.authentication", "HTTP", "kerberos.keytab"),
                                        ("dfs.web.authentication", "HTTP", "kerberos.keytab")):
            settings[f"{prefix}.kerberos.principal"] = f"{principal}/localhost@{NAME}"
            settings[f"{prefix}.{file}"] = keytab
        self.keytab = keytab
        self.admin = realm.environment(realm.tickets("hdfs/localhost"))
        super().__init__(directory, settings=[f"{k}={v}" for k, v in settings.items()] + proxy_settings("hdfs"),
                         java=[f"-Djava.security.krb5.conf={realm.configuration}"])

    def httpfs(self, directory, realm):
        """An HttpFS in front of it that wants a ticket for the same name."""
        own = {"hadoop.http.authentication.type": "kerberos"}
        for prefix, principal in (("hadoop.http.authentication", "HTTP"), ("httpfs.hadoop.authentication", "hdfs")):
            own[f"{prefix}.kerberos.principal"] = f"{principal}/localhost@{NAME}"
            own[f"{prefix}.kerberos.keytab"] = self.keytab
        own["httpfs.hadoop.authentication.type"] = "kerberos"
        shared = [s.split("=", 1) for s in self.settings if s.startswith(("hadoop.security", "dfs.data", "dfs.name"))]
        gate = HttpFs(directory, self, own, dict(shared), self.java)
        gate.host = "localhost"
        return gate

    def request(self, method, path, user=None, node=0, **parameters):
        status, body = ask(self, self.admin, method, path, **parameters)
        return status, {}, body


def tool(name, *arguments, env, timeout=300):
    done = subprocess.run([os.path.join(TOOLS, name), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=dict(os.environ, **env), timeout=timeout, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def commit(hdfs, verb, env, sets=KERBEROS, host="localhost"):
    return tool("storage_commit", verb, f"hdfs://{host}:{hdfs.ports[0]}/commit", *sets, env=env)


# ---- tickets ----

def with_a_ticket(realm, hdfs):
    env = realm.environment(realm.tickets("alice"))
    code, said = tool("storage_contract", hdfs.uri("/contract"), *KERBEROS, env=env)
    passed = re.search(r"(\d+) passed, 0 failed", said)
    cases.check(f"by a ticket HDFS keeps the contract ({passed and passed.group(1)} cases)", code == 0 and passed, said)
    code, said = commit(hdfs, "write", env)
    cases.check("written and committed", code == 0, said)
    code, said = commit(hdfs, "read", env)
    cases.check("read back", code == 0, said)


def refusals(realm, hdfs):
    """The error is Kerberos's own. -> nothing"""
    alice, short = realm.environment(realm.tickets("alice")), realm.environment(realm.tickets("alice", life="1s"))
    wait_until(lambda: commit(hdfs, "read", short)[0] != 0, 30)
    garbage = os.path.join(realm.directory, "garbage")
    with open(garbage, "w") as f:
        f.write("no tickets")
    for title, env, sets, host, wanted in (
            ("no tickets at all", realm.environment(), KERBEROS, "localhost", "No credentials"),
            ("the file of tickets is none", realm.environment(garbage), KERBEROS, "localhost", "No credentials"),
            ("the ticket has expired", short, KERBEROS, "localhost", "Ticket expired"),
            ("the realm does not know the NameNode by this name", alice, KERBEROS, "127.0.0.1", "HTTP/127.0.0.1@"),
            ("a ticket, and hdfs_auth is not set", alice, [], "localhost", "hdfs_auth=kerberos")):
        code, said = commit(hdfs, "read", env, sets, host)
        cases.check(f"an error names its cause: {title}",
                    code == 1 and wanted in said and "401" in said and "hdfs://" in said and "\n" not in said.strip(), said)
    hdfs.request("PUT", "/closed", op="MKDIRS", permission="700")
    code, said = tool("storage_commit", "write", hdfs.uri("/closed/x"), *KERBEROS, env=alice)
    cases.check("what the user must not is refused, by its name",
                code == 1 and "AccessControl" in said and "user=alice" in said, said)


def realm_away(realm, hdfs):
    """Who has a ticket for the NameNode needs no KDC; others wait for it."""
    served, fresh = realm.environment(realm.tickets("alice")), realm.environment(realm.tickets("alice"))
    commit(hdfs, "read", served)
    realm.stop()
    code, said = commit(hdfs, "read", served)
    cases.check("the KDC is away: who has been here goes on", code == 0, said)
    code, said = commit(hdfs, "read", fresh, [*KERBEROS, "--set", "storage_timeout=3s"])
    cases.check("… and an error names it", code == 1 and "any KDC" in said, said)
    process = subprocess.Popen([os.path.join(TOOLS, "storage_commit"), "read", hdfs.uri("/commit"), *KERBEROS],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ, **fresh))
    wait_until(lambda: process.poll() is not None, 1.5)
    realm.start()
    said = process.communicate(timeout=120)[0].decode(errors="replace")
    cases.check("… and is waited for", process.returncode == 0, said)


def by_keytab(realm, hdfs):
    """Tickets of four seconds: some of them go by while the contract is tried."""
    keytab = realm.keytab("service")
    realm.run("kadmin.local", "-r", NAME, "modprinc", "-maxlife", "4 seconds", "service")
    env = realm.environment(os.path.join(realm.directory, "by-keytab"), keytab)
    code, said = tool("storage_contract", hdfs.uri("/contract"), *KERBEROS, env=env)
    cases.check("by a keytab, with tickets of four seconds, HDFS keeps the contract", code == 0 and "0 failed" in said, said)
    code, said = commit(hdfs, "write", dict(env, KRB5CCNAME="MEMORY:paramd"))
    cases.check("by a keytab, without a file of tickets", code == 0, said)


def ask(server, env, method, path, **parameters):
    """By the tickets of `env` -> (status, body)"""
    url = f"http://localhost:{server.ports[0]}/webhdfs/v1{urllib.parse.quote(path)}?{urllib.parse.urlencode(parameters)}"
    done = subprocess.run(["curl", "-s", "--negotiate", "-u", ":", "-X", method, "-w", "\n%{http_code}", url],
                          env=dict(os.environ, **env), stdout=subprocess.PIPE, check=True, timeout=60)
    body, status = done.stdout.rsplit(b"\n", 1)
    return int(status), body


def by_token(realm, hdfs, env):
    """As docs/storage.md gets one."""
    _, body = ask(hdfs, env, "GET", "/", op="GETDELEGATIONTOKEN", renewer="alice")
    token = json.loads(body)["Token"]["urlString"]
    path = os.path.join(realm.directory, "token")
    with open(path, "w") as f:
        f.write(token + "\n")
    sets = ["--set", f"hdfs_token_file={path}"]
    for verb in ("write", "read"):
        code, said = commit(hdfs, verb, realm.environment(), sets)
        cases.check(f"{verb} by a delegation token, without a ticket", code == 0, said)
    ask(hdfs, env, "PUT", "/", op="CANCELDELEGATIONTOKEN", token=token)
    code, said = commit(hdfs, "read", realm.environment(), sets)
    cases.check("a token that holds no more: the error names the cause and the file, and not the token",
                code == 1 and "InvalidToken" in said and path in said and token not in said, said)


def over_httpfs(realm, hdfs, place):
    """It wants the ticket for the bytes too, or a delegation token of its own."""
    reason = why_no_httpfs()
    if reason:
        cases.skip("HttpFS", reason)
        return
    env = realm.environment(realm.tickets("alice"))
    with hdfs.httpfs(os.path.join(place.path, "httpfs"), realm) as gate:
        code, said = tool("storage_contract", gate.uri("/contract"), *KERBEROS, env=env)
        cases.check("by a ticket HttpFS keeps the contract", code == 0 and "0 failed" in said, said)
        code, said = commit(gate, "read", realm.environment())
        cases.check("HttpFS: an error names its cause: no tickets at all", code == 1 and "No credentials" in said, said)
        by_token(realm, gate, env)


def shown_to_name_nodes_only(realm):
    """Where a DataNode has a name that the realm knows, it is not sent a ticket all the same."""
    realm.add("HTTP/127.0.0.1")
    env = realm.environment(realm.tickets("alice"))
    with Webhdfs(negotiate=True) as server:
        code, said = tool("storage_commit", "write", f"hdfs://localhost:{server.port('name')}/new", *KERBEROS, env=env)
        cases.check("no DataNode sees a ticket", code == 0 and server.shown == 0 and "data CREATE" in " ".join(server.seen),
                    f"{said} {server.shown} {server.seen}")


def no_core(realm, place):
    """A ticket's key is in memory while it is used; the server never answers."""
    reason = why_no_cores()
    if reason:
        cases.skip("no core", reason)
        return
    os.environ.update(realm.environment(realm.tickets("alice")))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        hung = [os.path.join(TOOLS, "storage_commit"), "read", f"hdfs://localhost:{silent.getsockname()[1]}/x"]
        left = core_of(hung, place, silent.accept)
        if left is None:
            cases.skip("no core", "programs leave none here")
        else:
            cases.check("who uses a ticket leaves no core, others do", core_of([*hung, *KERBEROS], place, silent.accept) is None)


def key_changed(realm, hdfs):
    """The NameNode cannot read tickets by the new key: its words are shown. The last case, as it cannot again."""
    realm.run("kadmin.local", "-r", NAME, "cpw", "-randkey", "HTTP/localhost")
    code, said = commit(hdfs, "read", realm.environment(realm.tickets("alice")))
    cases.check("a ticket that the NameNode cannot read: its words",
                code == 1 and "403" in said and "Checksum failed" in said, said)


# ---- jobs ----

def data_by_ticket(realm, hdfs, job):
    """Data on HDFS too: with a ticket as elsewhere; when it goes, what the job ends with names the cause."""
    tickets = realm.tickets("alice")
    env = realm.environment(tickets)
    hdfs.put_tree(job.local, "/data")
    code, out, err = run(["run", "-o", "json", *job.arguments(hdfs.uri("/data"), hdfs.uri("/there")), *KERBEROS], job.place.path,
                         timeout=300, env=env)
    result = json.loads(out) if out else {}
    cases.check("data and checkpoints by a ticket: the local digest", result.get("digest") == job.reference(), f"{result} {err}")
    code, out, err = run(["run", *job.arguments(hdfs.uri("/data"), hdfs.uri("/none")), *KERBEROS], job.place.path, timeout=300,
                         env=realm.environment())
    cases.check("a job without a ticket does not begin, and names the cause",
                code not in (0, None) and "No credentials" in out + err, f"{code} {out} {err}")


def whole_job(realm, hdfs, job):
    """The tickets are destroyed when the first checkpoint is there, and are back after two that failed."""
    tickets = realm.tickets("alice")
    env = realm.environment(tickets)
    epochs = 3 * EPOCHS
    process = start(["run", "-o", "json", *job.arguments(job.local, hdfs.uri("/runs"), epochs, 10), *KERBEROS], job.place.path, env)
    log = Lines(process)
    directory = f"/runs/{job.name}"
    wait_until(lambda: process.poll() is not None or any(re.fullmatch(r"\d+-\d+", n) for n in hdfs.names(directory) or []), 60)
    os.rename(tickets, tickets + ".away")
    seen = wait_until(lambda: process.poll() is not None or log.count("No credentials") >= 1, 60)
    os.rename(tickets + ".away", tickets)
    out = log.end()
    result = json.loads(out) if out else {}
    cases.check("the tickets go while a job trains: it warns by the cause", seen and log.count("No credentials"), log.text())
    cases.check("… and ends with the local digest, its checkpoint on HDFS", result.get("digest") == job.reference(epochs) and
                result.get("checkpoint", "").startswith("hdfs://"), f"{result} {log.text()}")
    job.place.file("user/paramd/paramctl.yaml", "hdfs_auth: kerberos\n")
    user = {"XDG_CONFIG_HOME": os.path.join(job.place.path, "user")}
    code, out, err = run(["checkpoints", "verify", result.get("checkpoint", "none")], job.place.path, env={**env, **user})
    cases.check("… which `checkpoints verify` finds whole", code == 0, out + err)
    code, out, err = run(["checkpoints", "ls", hdfs.uri(directory), *KERBEROS], job.place.path, env=env)
    cases.check("… and `checkpoints ls --set` lists",
                code == 0 and result.get("checkpoint", "/none").rsplit("/", 1)[1] in out, out + err)
    code, out, err = run(["checkpoints", "ls", hdfs.uri(directory)], job.place.path, env={**realm.environment(), **user})
    cases.check("`checkpoints ls` without a ticket names the cause", code not in (0, None) and "No credentials" in err, out + err)


class Lines:
    """What a process prints to stderr, while it runs."""

    def __init__(self, process):
        self.process, self.lines = process, []
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line.decode(errors="replace"))

    def count(self, text):
        return sum(text in line for line in list(self.lines))

    def text(self):
        return "".join(self.lines)[-4000:]

    def end(self):
        out = self.process.stdout.read()
        self.process.wait()
        self.thread.join()
        return out


def main():
    reason = kerberos.why_not() or why_no_hdfs() or ("there is no curl" if shutil.which("curl") is None else None)
    if reason:
        print(reason)
        raise SystemExit(77)
    with Workplace() as place, Realm(os.path.join(place.path, "realm")) as realm, \
            SecureHdfs(os.path.join(place.path, "hdfs"), realm) as hdfs:
        job = CriteoJob(place, cases)
        hdfs.request("PUT", "/", op="SETPERMISSION", permission="777")
        with_a_ticket(realm, hdfs)
        refusals(realm, hdfs)
        realm_away(realm, hdfs)
        by_keytab(realm, hdfs)
        by_token(realm, hdfs, realm.environment(realm.tickets("alice")))
        over_httpfs(realm, hdfs, place)
        data_by_ticket(realm, hdfs, job)
        whole_job(realm, hdfs, job)
        shown_to_name_nodes_only(realm)
        no_core(realm, place)
        key_changed(realm, hdfs)
    cases.end()


main()
