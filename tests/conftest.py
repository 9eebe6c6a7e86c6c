"""Checks before the tests: the programs of scripts/test, and root where needed; and a clean environment."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import wgquick
from tests.namespaces import PATH as SYSTEM_PATH
from tests.parity.case import Case

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
WITHOUT_MACHINE = ("unit", "property")
ORDER = (
    "kernel",
    "interop",
    "faults",
    "property",
    "parity",
    "netns",
    "documents",
    "unit",
)  # the slow suites begin first
# The only variables that remain of the caller's environment: the programs under test would read many others
# (WG_QUICK_..., WGQ_DNS, LOG_LEVEL, LC_ALL, FORCE_COLOR, ...). The last three choose what is tested.
KEPT = re.compile(
    r"((RUSTUP|CARGO)_)?HOME|TMPDIR|LD_LIBRARY_PATH|.*_proxy|PYTEST_.*|HYPOTHESIS_.*|COV.*"
    r"|PYTHON(HOME|PATH|DONTWRITEBYTECODE|PYCACHEPREFIX|HASHSEED)|WGQ_COMMAND|WGQ_TEST_(PAIRS|KERNEL|MIB|STEPS)|WGQ_CIPHER|WGQ_WHEEL",
    re.IGNORECASE,
)

# The generated examples are the same in each run, so that a failure can be repeated.
# To draw others: --hypothesis-profile=explore
SETTINGS = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("same", SETTINGS)
settings.register_profile("explore", SETTINGS, derandomize=False)
settings.load_profile("same")


def pytest_configure() -> None:
    """PATH holds this installation, the project's cache, the system's folders and, last, cargo's."""
    cargo = os.path.dirname(shutil.which("cargo") or "")
    for name in [name for name in os.environ if not KEPT.fullmatch(name)]:
        del os.environ[name]
    os.environ.setdefault("HOME", pwd.getpwuid(os.geteuid()).pw_dir)
    os.umask(0o022)
    ours = [str(Path(sys.executable).parent), str(PROJECT / ".cache/bin")]
    os.environ["PATH"] = os.pathsep.join([*ours, SYSTEM_PATH, *([cargo] if cargo else [])])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a machine; with several workers, group the tests that belong together."""
    for item in items:
        if _suite(item) not in WITHOUT_MACHINE:
            item.add_marker("machine")
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_place)
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_together(item)))


def _place(item: pytest.Item) -> tuple[int, bool]:
    """The tests of aged tunnels come first in their suite, as they wait for minutes."""
    return ORDER.index(_suite(item)), "aged_tunnels" not in getattr(item, "fixturenames", ())


def _suite(item: pytest.Item) -> str:
    """The folder below tests/ of a test."""
    return item.path.relative_to(PROJECT / "tests").parts[0]


def _together(item: pytest.Item) -> str:
    """The name of the group that runs on one worker: its tests share the VM, the trials or a module's fixtures."""
    match _suite(item):
        case "kernel":  # one VM at a time; most of the time it waits
            return "kernel"
        case "parity" if isinstance(case := _parameters(item).get("case"), Case):
            return f"parity-{case.name}"
        case _:
            return item.nodeid.partition("::")[0]


def _parameters(item: pytest.Item) -> dict[str, object]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Report early that a selected test lacks root or a program, or that grouping does not work."""
    grouped = session.config.getoption("loadgroup", default=False)
    if grouped and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("this pytest-xdist gives no groups to this pytest: several VMs would run at once")
    if not any(item.get_closest_marker("machine") for item in session.items):
        return
    if os.geteuid() != 0:
        raise pytest.UsageError(
            "the tests make network namespaces and interfaces: run scripts/test as root, or with --fast"
        )
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise pytest.UsageError(f"{', '.join(missing)} not found: scripts/test installs what the tests need")


def pytest_report_header() -> str:
    """State which package is tested."""
    return f"wgquick: {wgquick.__version__} from {Path(wgquick.__file__).parent}"
