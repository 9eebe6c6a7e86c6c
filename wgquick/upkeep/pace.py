"""Rate limits: how often something is restored, looked up again, or gets another MTU. Pure."""

from __future__ import annotations

from collections import deque

BURST = 10
"""How many restorations may follow each other without a pause."""
PAUSE = 5.0
"""Seconds after which one more restoration is allowed."""
MOST = 20
WITHIN = 600.0
"""Seconds. After MOST restorations in this time another program is working against wgq, and wgq gives up."""
_FIRST, _LONGEST, _JITTER = 15.0, 300.0, 0.2


class Pace:
    """Limits the restorations of one kind (rule, route, ...) on one interface. Times are CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MOST)
        self._earned, self._since = float(BURST), 0.0

    def delay(self, now: float) -> float | None:
        """Seconds until the next restoration is allowed; 0 if it is allowed now, None if wgq gives up."""
        if len(self._times) == MOST and now - self._times[0] < WITHIN:
            return None
        earned = self._balance(now)
        return 0.0 if earned >= 1 else (1 - earned) * PAUSE

    def spend(self, now: float) -> None:
        """Count a restoration at `now`."""
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
        """Start again with the shortest pause."""
        self._pause = 0.0


class Mtu:
    """Decides when to set the MTU. A smaller one is set at once, a larger one after it fits for `patience` seconds.

    An MTU that somebody else set is left alone until it is the earlier one, or the one that fits.
    """

    def __init__(self, own: int, patience: float = 10.0) -> None:
        self._own, self._patience = own, patience
        self._higher: tuple[int, float] | None = None

    def change(self, fitting: int, current: int, now: float) -> int | None:
        """The MTU to set now, or None. `fitting` is the MTU that fits the path, `current` is the link's."""
        if current == fitting:
            self._own, self._higher = current, None
        if current != self._own or current == fitting:
            return None
        if fitting < current:
            self._higher = None
            return fitting
        if self._higher is None or self._higher[0] != fitting:
            self._higher = (fitting, now)
        return fitting if now - self._higher[1] >= self._patience else None

    def note(self, mtu: int) -> None:
        """Remember that wgq set this MTU."""
        self._own, self._higher = mtu, None

    @property
    def is_waiting(self) -> bool:
        """Whether a larger MTU waits until it has fitted for `patience` seconds."""
        return self._higher is not None
