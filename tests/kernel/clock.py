"""Checks that set the VM's clock back and forth, so nothing else runs meanwhile; our end begins every handshake."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from tests.interop.pairs import KERNEL, WGQ, pair
from tests.interop.traffic import Transfer, bulk
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

FAR_ENDS = (KERNEL, WGQ)
HOUR, YEAR = 3600, 365 * 24 * 3600
STEPS = (-HOUR, YEAR, -2 * YEAR, HOUR)
SIZE = 8 << 20  # for an emulated processor


def set_forward(seconds: int) -> None:
    """Set the clock of the whole VM; a negative number sets it back."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)


def a_tunnel_works_while_the_clock_is_set(far: str) -> None:
    """Data arrives, the session continues, and each new handshake is accepted as newer than the last."""
    with pair(WGQ, far) as (left, right):
        left.ping(right)
        with Transfer(left, right, SIZE) as transfer:
            for number, seconds in enumerate(STEPS):
                transfer.reaches(number / len(STEPS))
                before = left.handshake(right)
                set_forward(seconds)
                left.ping(right)
                assert left.handshake(right) == before
        for seconds in STEPS:
            set_forward(seconds)
            # A session's age does not depend on the clock: a new handshake begins only when it is needed.
            left.ping(right)
            left.forget(right)
            left.ping(right)
            until(lambda: abs(left.handshake(right) - time.time()) < HOUR / 2, "a handshake of the new time")
            bulk(right, left, SIZE // 8)


CHECKS: dict[str, Callable[[], None]] = {
    f"a_tunnel_works_while_the_clock_is_set: {WGQ} to {far}": partial(a_tunnel_works_while_the_clock_is_set, far)
    for far in FAR_ENDS
}
