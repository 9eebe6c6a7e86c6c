"""A test run that is killed leaves nothing behind: no process, no namespace, no virtual machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.namespaces import __file__ as namespaces

# Starts processes as the tests do, and daemons as `wgq up` does; prints what is there and waits to be killed.
RUN = """
import subprocess, sys, time
from tests.namespaces import host, mortal_family, namespace

daemonize = ["sh", "-c", "setsid -f sleep 600; exec sleep 600"]
with host() as machine, namespace() as ns:
    for inside in (machine, ns):
        inside.popen(daemonize)
    family = subprocess.Popen(mortal_family("sh", "-c", "setsid sleep 600 & wait"))
    time.sleep(0.5)
    tasks = f"/proc/{family.pid}/task/{family.pid}/children"
    print(ns.name, *machine.processes(), *ns.processes(), *open(tasks).read().split(), flush=True)
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
    deadline = time.monotonic() + 10
    while left := [path for path in remains if path.exists()]:
        assert time.monotonic() < deadline, f"{left} outlive the run"
        time.sleep(0.02)
