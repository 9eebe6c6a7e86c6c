"""Sessions end when the machine is restored from a snapshot or has been suspended."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.clocks import Clocks
from tests.interop.pairs import GO, WGQ, End, join, machines, pair
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = 3600
PARTNERS = (GO, WGQ)
NETLINK_KOBJECT_UEVENT, UEVENTS, NLM_F_REQUEST = 15, 1, 1
DRIVERS = "/sys/bus/platform/drivers"
FORKED = "random: crng reseeded due to virtual machine fork"
LOG = "/run/kmsg"


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    return Clocks(tmp_path)


@contextlib.contextmanager
def restorable(partner: str) -> Iterator[tuple[End, End, int]]:
    """Two ends with a session, and the kernel log of the left machine, which has a generation ID."""
    with machines(WGQ, partner) as (left, right):
        join(left, right)
        left.machine.run(["mount", "-t", "tmpfs", "tmpfs", DRIVERS])
        left.machine.run(["mkdir", "-p", f"{DRIVERS}/vmgenid/VMGENCTR:00"])
        left.machine.run(["mkfifo", LOG])
        left.machine.run(["mount", "--bind", LOG, "/dev/kmsg"])
        with left.machine.entered():
            log = os.open(LOG, os.O_RDWR)  # for both, so that a reader never sees the end of the file
        try:
            for end in (left, right):
                end.start()
            right.configure(left.peer())
            left.configure(right.peer(version=4))
            talk(left, right)
            yield left, right, log
        finally:
            os.close(log)
        left.assert_alive()


def uevent(variable: str) -> bytes:
    path = "/devices/platform/VMGENCTR:00"
    lines = [f"change@{path}", "ACTION=change", f"DEVPATH={path}", "SUBSYSTEM=platform", variable]
    return b"".join(line.encode() + b"\0" for line in lines)


def from_the_kernel(end: End, variable: str) -> None:
    """Have the kernel itself send a uevent in the end's network namespace (`uevent_net_broadcast`)."""
    payload = uevent(variable)
    with end.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT) as sending:
        sending.sendto(struct.pack("=IHHII", 16 + len(payload), 16, NLM_F_REQUEST, 0, 0) + payload, (0, 0))


def from_a_process(end: End, variable: str) -> None:
    with end.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT) as sending:
        sending.sendto(uevent(variable), (0, UEVENTS))


def talk(left: End, right: End) -> None:
    """Establish a session and count messages; the pause is needed because a second initiation would be too soon."""
    left.ping(right)
    left.count_messages()
    time.sleep(0.05)


def renewed(left: End, right: End) -> bool:
    """Whether a ping is answered after another handshake that the left end began."""
    return left.try_ping(right) and left.sent("initiation") > 0


@pytest.mark.parametrize("partner", PARTNERS)
def test_a_restored_machine_sends_nothing_with_the_old_keys(partner: str) -> None:
    with restorable(partner) as (left, right, _):
        from_the_kernel(left, "NEW_VMGENID=1")
        until(lambda: renewed(left, right), "a new handshake")
        right.ping(left)


def test_a_kernel_log_line_about_the_generation_id_ends_sessions() -> None:
    with restorable(WGQ) as (left, right, log):
        os.write(log, f"6,299,1269000,-;something else\n5,300,1269598,-;{FORKED}\n".encode())
        until(lambda: renewed(left, right), "a new handshake")


def test_only_the_kernel_can_end_a_session() -> None:
    with restorable(WGQ) as (left, right, log):
        from_the_kernel(left, "NEW_VMGENID=0")
        from_a_process(left, "NEW_VMGENID=1")
        os.write(log, f"13,300,1269598,-;{FORKED}\n".encode())
        for _ in range(3):
            left.get()
            left.ping(right)
        assert left.sent("initiation") == 0


@pytest.mark.parametrize("partner", PARTNERS)
def test_after_sleep_the_first_packet_begins_a_handshake(clocks: Clocks, partner: str) -> None:
    with pair(clocks.program, partner) as (left, right):
        talk(left, right)
        clocks.advance(asleep=7)
        left.get()  # the daemon reads its clocks, as it does when the kernel sets them
        until(lambda: renewed(left, right), "a new handshake")
        right.ping(left)


def test_time_that_passes_awake_ends_no_session(clocks: Clocks) -> None:
    with pair(clocks.program, WGQ) as (left, right):
        talk(left, right)
        clocks.advance(age=60)
        clocks.advance(day=-HOUR)
        for _ in range(3):
            left.get()
            left.ping(right)
        assert left.sent("initiation") == 0
