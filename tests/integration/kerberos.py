"""A Kerberos realm of its own for the integration tests: MIT's KDC on a free port of 127.0.0.1, its files in one directory.

    with Realm(place.path + "/realm") as realm:
        realm.keytab("hdfs/localhost", "HTTP/localhost")    # makes the principals -> a file with their keys
        tickets = realm.tickets("alice", life="30s")        # makes her when she is not there, logs her in -> a file
        os.environ.update(realm.environment(tickets))       # for programs that use the tickets

Nothing outside of the directory is read or changed: neither /etc/krb5.conf nor a KDC of the machine. Host names are taken as
they are written. What is needed comes with deploy/install-storage-tests.sh.
"""
import os
import secrets
import shutil
import socket
import subprocess
import time

from zookeeper import die_with_parent, free_port

NAME = "PARAMD.TEST"
PROGRAMS = ("krb5kdc", "kdb5_util", "kadmin.local", "kinit")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"

CLIENTS = """[libdefaults]
    default_realm = {name}
    dns_lookup_realm = false
    dns_lookup_kdc = false
    dns_canonicalize_hostname = false
    rdns = false
    udp_preference_limit = 1
    forwardable = true
[realms]
    {name} = {{
        kdc = 127.0.0.1:{port}
    }}
[domain_realm]
    localhost = {name}
"""
SERVER = """[kdcdefaults]
    kdc_listen = 127.0.0.1:{port}
    kdc_tcp_listen = 127.0.0.1:{port}
[realms]
    {name} = {{
        database_name = {directory}/principals
        key_stash_file = {directory}/stash
        acl_file = {directory}/acl
        max_life = 1h
        max_renewable_life = 2h
    }}
"""


def why_not():
    """None when a realm can be started here, else the reason, for a test that is skipped."""
    missing = [p for p in PROGRAMS if shutil.which(p, path=PATH) is None]
    return f"there is no {', '.join(missing)}: deploy/install-storage-tests.sh fetches them" if missing else None


class Realm:
    def __init__(self, directory):
        self.directory = os.path.abspath(directory)
        self.port = free_port()
        self.passwords = {}
        self.process = None
        self.count = 0
        os.makedirs(self.directory)
        self.write("clients.conf", CLIENTS)
        self.write("server.conf", SERVER)

    def write(self, name, text):
        with open(os.path.join(self.directory, name), "w") as f:
            f.write(text.format(name=NAME, port=self.port, directory=self.directory))

    @property
    def configuration(self):
        """What clients read, Java's too."""
        return os.path.join(self.directory, "clients.conf")

    def environment(self, tickets=None, keytab=None):
        chosen = {"KRB5_CONFIG": self.configuration,
                  "KRB5CCNAME": "FILE:" + (tickets or os.path.join(self.directory, "no-tickets"))}
        if keytab:
            chosen["KRB5_CLIENT_KTNAME"] = "FILE:" + keytab
        return chosen

    def run(self, *command, said=None, tickets=None):
        environment = dict(os.environ, PATH=PATH, KRB5_KDC_PROFILE=os.path.join(self.directory, "server.conf"),
                           **self.environment(tickets))
        done = subprocess.run(command, env=environment, input=said, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stdout}"

    def __enter__(self):
        self.run("kdb5_util", "create", "-s", "-r", NAME, "-P", secrets.token_hex(8))
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        with open(os.path.join(self.directory, "log"), "ab") as log:
            environment = dict(os.environ, PATH=PATH, KRB5_CONFIG=self.configuration,
                               KRB5_KDC_PROFILE=os.path.join(self.directory, "server.conf"))
            self.process = subprocess.Popen([shutil.which("krb5kdc", path=PATH), "-n"], env=environment, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, preexec_fn=die_with_parent)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, f"the KDC does not start; see {self.directory}/log"
                time.sleep(0.05)
        raise RuntimeError(f"the KDC does not answer; see {self.directory}/log")

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def add(self, principal):
        if principal not in self.passwords:
            self.passwords[principal] = secrets.token_hex(8)
            self.run("kadmin.local", "-r", NAME, "addprinc", "-pw", self.passwords[principal], principal)

    def keytab(self, *principals):
        """-> a file with their keys. Their passwords stay as they are."""
        self.count += 1
        path = os.path.join(self.directory, f"keytab-{self.count}")
        for principal in principals:
            self.add(principal)
            self.run("kadmin.local", "-r", NAME, "ktadd", "-norandkey", "-k", path, principal)
        return path

    def tickets(self, principal, life="1h", path=None):
        """-> a file of tickets; `path`: that one is filled anew."""
        self.add(principal)
        self.count += 1
        path = path or os.path.join(self.directory, f"tickets-{self.count}")
        self.run("kinit", "-l", life, principal, said=self.passwords[principal] + "\n", tickets=path)
        return path
