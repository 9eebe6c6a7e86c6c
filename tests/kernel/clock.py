"""Runs inside the VM, and sets its clock back and forth; our end begins every handshake.

It prints one JSON array per far end: its program, the seconds, and the error, or an
empty text.
"""

from __future__ import annotations

import json
import time
import traceback

from tests.interop.pairs import KERNEL, WGQ, pair, until
from tests.interop.traffic import Transfer, bulk

FAR_ENDS = (KERNEL, WGQ)
HOUR, YEAR = 3600, 365 * 24 * 3600
STEPS = (-HOUR, YEAR, -2 * YEAR, HOUR)
SIZE = 8 << 20  # the processors are emulated


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


def main() -> None:
    for far in FAR_ENDS:
        began, outcome = time.monotonic(), ""
        try:
            a_tunnel_works_while_the_clock_is_set(far)
        except Exception:
            outcome = traceback.format_exc()[-3000:]
        print(json.dumps([far, round(time.monotonic() - began, 1), outcome]), flush=True)


if __name__ == "__main__":
    main()
