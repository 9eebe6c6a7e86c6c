"""The clocks: what time it is though somebody sets the clock, and whether the machine has slept.

CLOCK_BOOTTIME runs on while a machine sleeps, CLOCK_MONOTONIC does not, and neither is ever set (clock_gettime(2)).
The watch compares them each second, when it is awake anyway. A timer with TFD_TIMER_CANCEL_ON_SET would tell less
than a second earlier, and not whether the machine has slept.
"""

from __future__ import annotations

import time

_JUMP = 2.0
"""Seconds by which two clocks must part between two looks: a time daemon that slews stays far below."""


class Clocks:
    """Readings of the clocks since this was made."""

    def __init__(self) -> None:
        self._epoch = time.time() - _boot_time()
        self._asleep, self._ahead = self._readings()

    def time(self) -> float:
        """The time since the epoch, as the clock had gone on from the start; sleep counts."""
        return self._epoch + _boot_time()

    def ahead(self) -> float:
        """Seconds that the system's clock is ahead of `time`."""
        return time.time() - self.time()

    def jumped(self) -> bool | None:
        """Whether the machine has slept (True) or the clock was set (False) since the last call; else None."""
        asleep, ahead = self._readings()
        has_slept, was_set = asleep - self._asleep > _JUMP, abs(ahead - self._ahead) > _JUMP
        self._asleep, self._ahead = asleep, ahead
        return has_slept if has_slept or was_set else None

    def _readings(self) -> tuple[float, float]:
        return _boot_time() - time.monotonic(), self.ahead()


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
