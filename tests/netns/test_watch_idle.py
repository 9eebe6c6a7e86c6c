"""What a watch of a hundred interfaces costs while nothing happens."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import before_other_work, host
from tests.netns.tunnels import config, write
from tests.netns.watches import watching
from wgquick import api
from wgquick.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

COUNT, SECONDS = 100, 20.0
MOST = 0.5
"""Seconds of processor time in SECONDS: it uses 0.2 on a busy processor, and about twice that on an idle one."""
INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
TICKS = os.sysconf("SC_CLK_TCK")


def bring_up(count: int) -> None:
    for number in range(count):
        settings = api.load(f"/etc/wireguard/wg{number}.conf")
        netns = "" if number % 5 else f"vpn{number % 2}"
        inside = settings._replace(extras=settings.extras._replace(netns=netns))
        api.up(inside, Options(backend="userspace"))


def processor_time(process: int) -> float:
    """Seconds of processor time, in user and kernel mode (proc(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def used_in(seconds: float, process: int) -> float:
    """The processor time that a process uses in `seconds`."""
    before = processor_time(process)
    time.sleep(seconds)
    return processor_time(process) - before


def resident(process: int) -> int:
    """The maximum resident memory of a process, in kB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def write_files(machine: Namespace) -> None:
    for number in range(COUNT):
        text = config("", f"AllowedIPs = 10.100.{number}.0/24", address=f"10.9.{number}.1/32")
        write(machine, text, f"wg{number}")


@pytest.fixture
def _more_instances() -> Iterator[None]:
    """Raise the limit, as root's inotify instances are needed by daemons of other tests."""
    usual = INSTANCES.read_text()
    INSTANCES.write_text(str(int(usual) + COUNT))
    yield
    INSTANCES.write_text(usual)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_more_instances")
def test_an_idle_watch_of_a_hundred_interfaces_costs_little(tmp_path: Path) -> None:
    """MOST seconds of processor time, and 60 MB; a fifth are in two other network namespaces."""
    with before_other_work(), host() as machine:  # the first check takes seconds
        machine.uplink()
        write_files(machine)
        machine.call(bring_up, COUNT)
        with watching(machine, tmp_path) as watch:
            time.sleep(10)  # the first checks of all peers and paths
            used: list[float] = []
            while min(used, default=MOST + 1) > MOST:  # other work makes the same wake-ups dearer
                assert len(used) < 3, f"{used} s of processor time in {SECONDS:.0f} s each"
                used.append(used_in(SECONDS, watch.process.pid))
            assert resident(watch.process.pid) < 60_000
            assert watch.events() == []
