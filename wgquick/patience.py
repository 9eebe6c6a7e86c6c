"""A deadline for everything that a thread waits for: programs, daemons, locks. By default there is none."""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic

from wgquick.lean import TYPE_CHECKING, contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEVER = float("inf")
_LEAST = 0.01  # seconds, as 0 would mean not to block at all
_deadline: ContextVar[float] = ContextVar("deadline", default=_NEVER)


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Wait for nothing beyond a monotonic time, or beyond an earlier one that is set already.

    A thread that is started inside has no deadline unless it runs in a copy of the context.
    """
    before = _deadline.set(min(_deadline.get(), deadline))
    try:
        yield
    finally:
        _deadline.reset(before)


def is_limited() -> bool:
    """Whether there is a deadline."""
    return _deadline.get() < _NEVER


def left(most: float = _NEVER) -> float:
    """The seconds to wait: `most`, or until the deadline if that comes sooner, but at least a hundredth."""
    return max(_LEAST, min(most, _deadline.get() - monotonic()))


def is_over() -> bool:
    """Whether the deadline has passed."""
    return monotonic() >= _deadline.get()
