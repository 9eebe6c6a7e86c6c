"""The machines for tests: private, and removed completely whatever happens inside."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import UPLINK_GATEWAY, Namespace, host, namespace

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

KINDS = pytest.mark.parametrize("kind", [namespace, host])


def links() -> list[str]:
    return sorted(os.listdir("/sys/class/net"))


def fail() -> None:
    raise LookupError("as asked")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@KINDS
def test_the_network_is_private(kind: Callable[[], AbstractContextManager[Namespace]]) -> None:
    with kind() as inside:
        inside.uplink()
        assert f"default via {UPLINK_GATEWAY} dev up0" in inside.out("ip", "route")
        assert "up0" not in subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout


def resolv_conf() -> bytes | None:
    """The content of this machine's own file; it may be a dangling link of systemd-resolved."""
    path = Path("/etc/resolv.conf")
    return path.read_bytes() if path.exists() else None


def test_a_host_has_its_own_etc_run_and_sys() -> None:
    before = resolv_conf()
    with host() as machine:
        assert machine.call(links) == ["lo"]
        with machine.entered():
            Path("/etc/wireguard/wg0.conf").write_text("secret")
            Path("/etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
            Path("/run/wireguard/wg0.sock").touch()
        assert machine.out("cat", "/etc/wireguard/wg0.conf") == "secret"
    assert not Path("/etc/wireguard/wg0.conf").exists()
    assert not Path("/run/wireguard/wg0.sock").exists()
    assert resolv_conf() == before


@KINDS
def test_processes_inside_end_with_it_even_after_a_failure(
    kind: Callable[[], AbstractContextManager[Namespace]],
) -> None:
    found: list[int] = []

    def fails() -> None:
        with kind() as inside:
            inside.run(["sh", "-c", "trap '' TERM; sleep 71 >/dev/null 2>&1 &"])
            inside.popen(["sleep", "72"])
            found.extend(inside.processes())
            fail()

    with pytest.raises(LookupError):
        fails()
    assert found
    assert not any(alive(pid) for pid in found)
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert f"wgqt-{os.getpid()}-" not in listed


@KINDS
def test_calls_return_results_and_exceptions(kind: Callable[[], AbstractContextManager[Namespace]]) -> None:
    with kind() as inside:
        assert inside.call(divmod, 7, 2) == (3, 1)
        with pytest.raises(LookupError, match="as asked"):
            inside.call(fail)
        with pytest.raises(AssertionError, match="exited 3"):
            inside.run(["sh", "-c", "exit 3"])


def test_a_host_can_be_left_while_other_threads_run() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    directory = Path.cwd()
    with host() as machine, machine.entered():
        thread.start()
    stop.set()
    thread.join()
    assert Path.cwd() == directory
