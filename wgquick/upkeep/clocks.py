"""A clock that nobody sets, and whether the machine slept or its clock was set.

CLOCK_BOOTTIME advances while the machine sleeps, CLOCK_MONOTONIC does not. Nobody can set either one
(clock_gettime(2)). The watch wakes up each second anyway, and compares them then. A timer with
TFD_TIMER_CANCEL_ON_SET would be less than a second faster, and would not show sleep.
"""

from __future__ import annotations

import time

_JUMP = 2.0
"""Seconds between two readings by which two clocks must differ more than before. A time daemon slews far less."""


class Clocks:
    """The clocks, compared with their readings when this object was made."""

    def __init__(self) -> None:
        self._epoch = time.time() - _boot_time()
        self._asleep, self._ahead = self._readings()

    def time(self) -> float:
        """Seconds since 1970, by the system's clock at the start and CLOCK_BOOTTIME since then."""
        return self._epoch + _boot_time()

    def ahead(self) -> float:
        """How many seconds the system's clock is ahead of `time`."""
        return time.time() - self.time()

    def jumped(self) -> bool | None:
        """True if the machine slept since the last call, False if only the clock was set, else None."""
        asleep, ahead = self._readings()
        has_slept, was_set = asleep - self._asleep > _JUMP, abs(ahead - self._ahead) > _JUMP
        self._asleep, self._ahead = asleep, ahead
        return has_slept if has_slept or was_set else None

    def _readings(self) -> tuple[float, float]:
        return _boot_time() - time.monotonic(), self.ahead()


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
