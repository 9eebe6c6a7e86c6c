"""What every test stands on: root, and the programs that scripts/test has put in place."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import wgquick

PROJECT = Path(__file__).parents[1]
PROGRAMS = (
    "bash",
    "boringtun-cli",
    "gotatun",
    "ip",
    "iptables",
    "nft",
    "nsenter",
    "unshare",
    "wg",
    "wg-quick",
    "wgq-userspace",
    "wireguard-go",
)


def pytest_configure() -> None:
    """Programs of this installation and of the project's cache come first; a missing one is said at once."""
    extra = ["/usr/local/sbin", "/usr/sbin", "/sbin"]
    ours = [str(Path(sys.executable).parent), str(PROJECT / ".cache/bin")]
    os.environ["PATH"] = os.pathsep.join([*ours, os.environ["PATH"], *extra])
    if os.geteuid() != 0:
        raise pytest.UsageError("the tests make network namespaces and interfaces: run scripts/test as root")
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise pytest.UsageError(f"{', '.join(missing)} not found: scripts/test installs what the tests need")


def pytest_report_header() -> str:
    """Says whether the installed package is tested or the source tree."""
    return f"wgquick: {wgquick.__version__} from {Path(wgquick.__file__).parent}"
