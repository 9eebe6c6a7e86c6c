"""A killed test run leaves no process, no namespace and no virtual machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.namespaces import __file__ as namespaces
from tests.waiting import until

# Starts processes as the tests do, and daemons as `wgq up` does; prints their ids and waits to be killed.
RUN = """
import subprocess, time
from tests.namespaces import host, mortal_family, namespace

daemonize = ["sh", "-c", "setsid -f sleep 600; exec sleep 600"]

def name(pid):
    try:
        return open(f"/proc/{pid}/comm").read()
    except OSError:
        return ""

def asleep(inside):
    return [pid for pid in inside.processes() if name(pid) == "sleep\\n"]

with host() as machine, namespace() as ns:
    for inside in (machine, ns):
        inside.popen(daemonize)
    family = subprocess.Popen(mortal_family("sh", "-c", "setsid sleep 600 & wait"))
    tasks = f"/proc/{family.pid}/task/{family.pid}/children"
    counts = []
    while counts != [2, 2, 1]:
        time.sleep(0.02)
        found = asleep(machine), asleep(ns), open(tasks).read().split()
        counts = [len(pids) for pids in found]
    print(ns.name, *found[0], *found[1], *found[2], flush=True)
    time.sleep(600)
"""


def test_a_killed_test_run_leaves_no_process_and_no_namespace() -> None:
    project = Path(namespaces).parents[1]
    with subprocess.Popen([sys.executable, "-c", RUN], cwd=project, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        name, *pids = run.stdout.readline().split()
        run.kill()
    assert len(pids) == 2 + 2 + 1
    remains = [Path("/run/netns", name), *(Path("/proc", pid) for pid in pids)]
    until(lambda: not any(path.exists() for path in remains), f"the end of {remains}")
