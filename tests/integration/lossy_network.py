#!/usr/bin/env python3
# timeout: 300
"""Goal: what the network loses, delays or doubles changes no bit in bsp, and no run hangs or fails for it.

Method: paramctl starts its servers through a wrapper that puts a proxy in front of each: the server advertises the
proxy's address, so every push-pull and every read passes it. The digest of the run must be that of an undisturbed one,
and the proxies must have done harm, or nothing was tested.
"""
import os
import re
import shutil
import stat

import harness
from harness import PARAMCTL, Cases, Workplace, clicks_csv, clicks_job, wait_until

BUILD = os.path.dirname(PARAMCTL)
PROXY = os.path.join(BUILD, "integration", "proxy")

WRAPPER = """#!/usr/bin/env python3
import os, socket, subprocess, sys
def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
inside, outside = free_port(), free_port()
log = open(os.path.join({place!r}, "proxy-%d.log" % os.getpid()), "w")
subprocess.Popen([{proxy!r}, "--listen", "127.0.0.1:%d" % outside, "--target", "127.0.0.1:%d" % inside,
                  "--seed", str(os.getpid())] + {faults!r}, stdout=log, stderr=log, close_fds=False)
real = os.path.join({build!r}, "paramd-server")
os.execv(real, [real] + sys.argv[1:] + ["--set", "listen=127.0.0.1:%d" % inside, "--set",
                                        "advertise=127.0.0.1:%d" % outside, "--set", "unix_sockets=false"])
"""

CASES = [
    ("replies lost", ["--lose-reply", "0.03"]),
    ("requests lost", ["--lose-request", "0.03"]),
    ("doubled", ["--double", "0.2", "--delay-ms", "5"]),
    ("delayed", ["--delay", "0.2", "--delay-ms", "10"]),
    ("all of it", ["--lose-request", "0.02", "--lose-reply", "0.02", "--double", "0.1", "--delay", "0.05",
                   "--delay-ms", "15"]),
]

cases = Cases()


def make_programs(place, faults):
    """A directory with paramctl, whose paramd-server is the wrapper."""
    directory = os.path.join(place.path, "bin")
    shutil.rmtree(directory, ignore_errors=True)
    os.makedirs(directory)
    shutil.copy2(PARAMCTL, directory)
    os.symlink(os.path.join(BUILD, "paramd-worker"), os.path.join(directory, "paramd-worker"))
    wrapper = place.file("bin/paramd-server", WRAPPER.format(place=place.path, proxy=PROXY, faults=faults, build=BUILD))
    os.chmod(wrapper, os.stat(wrapper).st_mode | stat.S_IXUSR)
    return os.path.join(directory, "paramctl")


def proxy_logs(place):
    found = {}
    for name in os.listdir(place.path):
        if re.fullmatch(r"proxy-\d+\.log", name):
            with open(os.path.join(place.path, name)) as f:
                found[name] = f.read()
    return found


def harm_done(place):
    """What the proxies count when they end, which is a moment after paramctl; their logs are removed."""
    wait_until(lambda: all("calls=" in text for text in proxy_logs(place).values()), 10)
    harm = 0
    for name, text in proxy_logs(place).items():
        harm += sum(int(n) for n in re.findall(r"(?:lost_requests|lost_replies|doubled|delayed)=(\d+)", text))
        os.remove(os.path.join(place.path, name))
    return harm


def digest(place, arguments, program=None):
    """-> (digest or "", what was printed)"""
    harness.PARAMCTL = program or PARAMCTL
    result = harness.run_job(["-f", "job.yaml", "--fresh"] + arguments, place.path, timeout=90)
    harness.PARAMCTL = PARAMCTL
    return result.get("digest", "") if result["state"] == "DONE" else "", result


def main():
    if not os.access(PROXY, os.X_OK):
        cases.skip("proxy", f"{PROXY} is not built")
        cases.end()
    with Workplace() as place:
        place.file("train.csv", clicks_csv(12000))
        place.file("test.csv", clicks_csv(2000, seed=2))
        for depth in (0, 2):
            place.file("job.yaml", clicks_job())
            cluster = ["--servers", "2", "--workers", "2", "--set", f"train.pipeline_depth={depth}"]
            calm, text = digest(place, cluster)
            if not cases.check(f"depth {depth}: undisturbed", calm, text):
                continue
            for name, faults in CASES:
                found, text = digest(place, cluster, make_programs(place, faults))
                cases.check(f"depth {depth}: {name}", found == calm, text)
                harm = harm_done(place)
                cases.check(f"depth {depth}: {name}: {harm} calls disturbed", harm > 0)
    cases.end()


main()
