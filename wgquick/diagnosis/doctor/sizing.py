"""Finds the largest packet that passes a tunnel, by the order of answers rather than by time.

A small request follows each large one. The path keeps their order, so the answer to the small one shows that the
large one could have been answered, however slow the machine is. Without small answers there is no conclusion.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from wgquick.diagnosis.doctor.inspector import Sizer

_SMALLEST = 200  # bytes
_TINY = 300  # an MTU that is not measured
_STEPS, _PADDING = 24, 16  # WireGuard pads packets to multiples of 16 bytes (whitepaper, section 5.4.6)
_CHANCE = 0.002  # the accepted probability that all large requests were lost by accident
_PAUSE = 0.25  # seconds until requests are repeated
_GRACE = 0.1  # seconds for answers that were overtaken by others
_GAP, _LONGEST_GAP = 0.02, 0.3
"""Seconds between a large and a small request: a backend may put packets that it has at once into one (UDP GSO),
which a firewall then drops as a whole."""
_LOOK = 0.02
_DECIDING = 0.6  # the part of the time to find out whether a large packet passes at all
_SURE, _ROUNDS = 2, 8  # rounds with an answer to a small request that decide, and the most rounds


def largest(sizer: Sizer, mtu: int, deadline: float, clock: Callable[[], float]) -> int | None:
    """The largest packet that passes, in bytes; 0 if one of the link's MTU does, None if too little was answered.

    It measures until `deadline` of the `clock`. If that cuts it short, a packet of the returned size passes too.
    """
    if mtu < _TINY:
        return 0
    sizing = _Sizing(sizer, deadline, clock)
    passes = sizing.passes(mtu)
    if passes is not False:
        return 0 if passes else None
    step = max((mtu - _SMALLEST) // _STEPS, _PADDING)
    low = sizing.largest(range(_SMALLEST, mtu, step)) or sizing.small
    return sizing.largest(range(_padded(low + 1), min(low + step, mtu), _PADDING)) or low


def _padded(size: int) -> int:
    return -(-size // _PADDING) * _PADDING


class _Sizing:
    """The small requests so far: each has a size of its own, which tells its answer from the others'."""

    def __init__(self, sizer: Sizer, deadline: float, clock: Callable[[], float]) -> None:
        self._sizer, self._deadline, self._clock = sizer, deadline, clock
        self._pause, self._gap = _PAUSE, _GAP
        self._markers: list[int] = []
        self._answered: Collection[int] = ()
        self.small = 0
        """The largest small request that was answered."""

    def passes(self, large: int) -> bool | None:
        """Whether a packet of that size passes; None if too few small ones were answered to tell."""
        began = self._clock()
        while self._clock() < began + (self._deadline - began) * _DECIDING:
            self._ask([large], enough=large)
            if large in self._answered:
                return True
            if not self.small and (came := self._small()):
                self.small, self._pause = max(came), max(_PAUSE, 2 * (self._clock() - began))
            if _is_unlikely([each in self._answered for each in self._markers]):
                return False
        return None

    def largest(self, sizes: Sequence[int]) -> int:
        """The largest of the sizes that is answered; 0 if none is."""
        decided = 0
        for _ in range(_ROUNDS):
            left = [each for each in sizes if each not in self._answered]
            if decided >= _SURE or not left or self._clock() >= self._deadline:
                break
            decided += self._ask(left)
        return max((each for each in sizes if each in self._answered), default=0)

    def _small(self) -> list[int]:
        return [each for each in self._markers if each in self._answered]

    def _ask(self, sizes: Sequence[int], enough: int = 0) -> bool:
        """Send requests and then a small one, and wait: for that one, or for one of the size `enough`.

        Returns whether the small one was answered.
        """
        self._sizer.ask(sizes)
        self._wait(self._clock() + self._gap, enough)
        if enough in self._answered:
            return True
        marker = _SMALLEST - len(self._markers) - 1
        self._markers.append(marker)
        self._sizer.ask([marker])
        self._wait(self._clock() + self._pause, enough or marker, marker)
        if marker not in self._answered:
            self._gap = min(2 * self._gap, _LONGEST_GAP)
            return False
        self._wait(self._clock() + _GRACE, enough)
        return True

    def _wait(self, until: float, *enough: int) -> None:
        """Wait until a time, the deadline, or an answer to one of these sizes."""
        while self._clock() < min(until, self._deadline) and not any(each in self._answered for each in enough):
            self._answered = self._sizer.answered(_LOOK)


def _is_unlikely(answered: Sequence[bool]) -> bool:
    """Whether it is unlikely that all large requests were lost by accident, given the answers to the small ones.

    Small ones after the last answer may still be on their way, and do not count.
    """
    count, asked = sum(answered), len(answered)
    while asked and not answered[asked - 1]:
        asked -= 1
    lost = (asked - count + 1) / (asked + 2)  # Laplace's rule of succession
    return asked > 0 and lost**asked < _CHANCE
