"""Device control over the kernel's own WireGuard: one boot, in which every claim is tried."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.device_control import CLAIMS
from tests.kernel.vm import PROJECT, kernel

pytestmark = pytest.mark.timeout(600)
MARK = "-- claims --"


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    path = os.pathsep.join([str(PROJECT), *(entry for entry in sys.path if entry)])
    inside = shlex.join(["env", f"PYTHONPATH={path}", sys.executable, "-m", "tests.kernel.device_control"])
    done = subprocess.run(
        [
            *("vng", "--run", str(kernel()), "--disable-kvm", "--user", "root", "--cpus", "2", "--memory", "1G"),
            *("--", f"modprobe wireguard && echo {MARK} && {inside} && echo && echo {MARK}"),
        ],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    _, found, rest = done.stdout.partition(MARK)
    assert found, done.stdout + done.stderr
    answer: dict[str, str] = json.loads(rest.partition(MARK)[0])
    return answer


@pytest.mark.parametrize("claim", [claim.__name__ for claim in CLAIMS])
def test_over_the_kernel_module(outcomes: dict[str, str], claim: str) -> None:
    assert outcomes[claim] == ""
