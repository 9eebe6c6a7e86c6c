"""A gigabyte arrives although the clock is set by hours, or hours pass, during the transfer."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.aged_tunnels import REJECT_AFTER, REKEY_AFTER
from tests.interop.clocks import Clocks
from tests.interop.pairs import GO, WGQ, End, pair
from tests.interop.traffic import Transfer, bulk
from tests.namespaces import mortal
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB, GIB = 1 << 20, 1 << 30
HOUR = 3600
# Each step in hours, and the age of the session then: too old to be used at all, or old enough to be renewed.
STEPS = [(step, (REJECT_AFTER, REKEY_AFTER)[n % 2] + 5) for n, step in enumerate([-3, 8, -30, 1, -1, -700])]
SET = "with the set clock"
PAIRS = [(SET, GO), (GO, SET), (SET, WGQ), (WGQ, SET)]


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    return Clocks(tmp_path)


def programs(roles: tuple[str, str], clocks: Clocks) -> list[str]:
    return [clocks.program if role == SET else role for role in roles]


@contextlib.contextmanager
def talking(end: End, other: End) -> Iterator[None]:
    """The end sends all the time, so that a due handshake begins with the next packet."""
    pings = end.machine.popen(mortal("ping", "-n", "-q", "-i", "0.05", other.inner()), stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        pings.kill()
        pings.wait()


def handshake_times(*ends: End) -> list[tuple[str, str]]:
    """The time of each end's last handshake, in seconds and nanoseconds."""
    peers = [end.get()[1][0].values for end in ends]
    return [(peer["last_handshake_time_sec"], peer["last_handshake_time_nsec"]) for peer in peers]


def advance_and_await_a_handshake(clocks: Clocks, *ends: End, **by: int) -> None:
    """Set the clocks and wait until both ends have a new handshake."""
    before = handshake_times(*ends)
    clocks.advance(**by)
    until(lambda: not set(before) & set(handshake_times(*ends)), "a new handshake")


@pytest.mark.parametrize("roles", PAIRS, ids=" to ".join)
def test_a_gigabyte_arrives_while_either_clock_is_set(roles: tuple[str, str], clocks: Clocks) -> None:
    with pair(*programs(roles, clocks)) as ends:
        left, right = ends
        left.begin(right)
        for end in ends:
            end.count_messages()
        ours, theirs = (left, right) if roles[0] == SET else (right, left)
        with (
            Transfer(ours, theirs, GIB, rate=100 * MIB) as transfer,
            Transfer(theirs, ours, GIB, rate=100 * MIB),
            talking(ours, theirs),
        ):
            for number, (step, age) in enumerate(STEPS):
                transfer.reaches((number + 1) / (len(STEPS) + 1))
                advance_and_await_a_handshake(clocks, ours, theirs, day=step * HOUR, age=age)
        # An initiation with an older time stamp would get no answer, and would be repeated after five seconds.
        assert ours.sent("initiation") == theirs.sent("response") == len(STEPS)
        assert theirs.sent("initiation") == ours.sent("response") == 0
        ahead = sum(step for step, _ in STEPS) * HOUR
        assert abs(ours.handshake(theirs) - ahead - time.time()) < HOUR
        assert abs(theirs.handshake(ours) - time.time()) < HOUR


@pytest.mark.parametrize("roles", [(SET, GO), (WGQ, SET)], ids=" to ".join)
def test_a_gigabyte_arrives_after_a_restart_in_the_past(roles: tuple[str, str], clocks: Clocks) -> None:
    with pair(*programs(roles, clocks)) as ends:
        left, right = ends
        left.ping(right)
        ours, theirs = (left, right) if roles[0] == SET else (right, left)
        # The restarted daemon has forgotten its time stamps, and its clock is behind: the other end has to begin.
        with Transfer(left, right, GIB, patience=60) as transfer:
            transfer.reaches(1 / 3)
            assert ours.daemon is not None
            ours.daemon.kill()
            ours.daemon.wait()
            clocks.advance(-3 * HOUR)
            ours.start()
            ours.configure(theirs.peer(version=4))


def test_a_gigabyte_arrives_through_two_hours_of_rekeys(clocks: Clocks) -> None:
    times = 60
    with pair(clocks.program, clocks.program) as (left, right):
        bulk(left, right, 256 * MIB)
        for end in (left, right):
            end.count_messages()
        before = left.resident(), right.resident()
        with Transfer(left, right, GIB, rate=100 * MIB) as transfer, talking(left, right):
            for number in range(times):
                transfer.reaches(number / times)
                advance_and_await_a_handshake(clocks, left, right, age=REKEY_AFTER + 1)
        # If the right end waits for an answer during a jump, it sees a long silence and begins a handshake too.
        assert times <= left.sent("initiation") + right.sent("initiation") <= 4 * times
        for end, was in zip((left, right), before, strict=True):
            assert end.resident() < was + 500_000
