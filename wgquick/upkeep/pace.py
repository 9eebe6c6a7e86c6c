"""How often something is tried: restored at most so many times, looked up after pauses that grow. Pure."""

from __future__ import annotations

from collections import deque

BURST = 10
"""Times that a thing may be restored at once."""
PAUSE = 5.0
"""Seconds in which one more time is earned."""
MOST = 20
WITHIN = 600.0
"""MOST restorations in so many seconds are a fight: then it is given up."""
_FIRST, _LONGEST, _JITTER = 15.0, 300.0, 0.2


class Pace:
    """Of one kind of thing of one interface: when it may be restored again. Times are CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MOST)
        self._earned, self._since = float(BURST), 0.0

    def delay(self, now: float) -> float | None:
        """Seconds until it may be restored, 0 at once; None: it is given up."""
        if len(self._times) == MOST and now - self._times[0] < WITHIN:
            return None
        earned = self._balance(now)
        return 0.0 if earned >= 1 else (1 - earned) * PAUSE

    def spend(self, now: float) -> None:
        """Note that it is restored now."""
        self._earned, self._since = self._balance(now) - 1, now
        self._times.append(now)

    def _balance(self, now: float) -> float:
        return min(float(BURST), self._earned + (now - self._since) / PAUSE)


class Pauses:
    """Pauses that double from 15 seconds to five minutes; `chance` (0 to 1) makes each up to a fifth longer."""

    def __init__(self) -> None:
        self._pause = 0.0

    def next(self, chance: float) -> float:
        """The next pause in seconds."""
        self._pause = min(_LONGEST, self._pause * 2) if self._pause else _FIRST
        return self._pause * (1 + _JITTER * chance)

    def reset(self) -> None:
        """Begin with the shortest again."""
        self._pause = 0.0


class Mtu:
    """Follows what the MTU is to be: down at once, up once that has held for `patience` seconds.

    An MTU that somebody else has set is theirs, until it is what it was again.
    """

    def __init__(self, own: int, patience: float = 10.0) -> None:
        self._own, self._patience = own, patience
        self._higher: tuple[int, float] | None = None

    def change(self, fitting: int, has: int, now: float) -> int | None:
        """The MTU to set now; None to leave it."""
        if has == fitting:
            self._own, self._higher = has, None
        if has != self._own or has == fitting:
            return None
        if fitting < has:
            self._higher = None
            return fitting
        if self._higher is None or self._higher[0] != fitting:
            self._higher = (fitting, now)
        return fitting if now - self._higher[1] >= self._patience else None

    def note(self, mtu: int) -> None:
        """Note that it was set."""
        self._own, self._higher = mtu, None

    @property
    def is_waiting(self) -> bool:
        """Whether a higher one is to be set soon."""
        return self._higher is not None
