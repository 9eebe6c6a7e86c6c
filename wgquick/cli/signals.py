"""Turns INT, TERM, HUP and QUIT into exceptions, so that changes are undone before the program ends.

QUIT is what Ctrl-\\ sends: bash ignores it, and wg-quick cleans up after the command that QUIT has ended.
"""

from __future__ import annotations

from wgquick.errors import ENDING_SIGNALS, SignalError
from wgquick.lean import TYPE_CHECKING, contextmanager, signal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import NoReturn


@contextmanager
def raised() -> Iterator[None]:
    """Inside the block the first such signal raises SignalError, and later ones are ignored.

    A second QUIT is not ignored: it ends even a hanging undo. After a successful block all signals are ignored, so
    that the exit status reports the success.
    """
    before = {number: signal.signal(number, _raise) for number in ENDING_SIGNALS if _is_handled(number)}
    # wgq waits for hooks and daemons. If our caller ignores SIGCHLD, the kernel would reap them.
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
        before = dict.fromkeys(before, signal.SIG_IGN) | {signal.SIGCHLD: before[signal.SIGCHLD]}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_handled(number: signal.Signals) -> bool:
    """Whether to handle a signal: one that our caller ignores (nohup) stays ignored."""
    return signal.getsignal(number) != signal.SIG_IGN


def _raise(number: int, _frame: FrameType | None) -> NoReturn:
    for other in filter(_is_handled, ENDING_SIGNALS):
        signal.signal(other, signal.SIG_DFL if other == signal.SIGQUIT else signal.SIG_IGN)
    from signal import Signals

    raise SignalError(Signals(number).name, number)
