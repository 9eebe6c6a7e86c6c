"""INT, TERM, HUP and QUIT as exceptions, so that what had been done is undone before the program ends.

QUIT is what Ctrl-\\ sends: bash ignores it, and wg-quick cleans up after the command that it ended.
"""

from __future__ import annotations

from wgquick.errors import SignalError
from wgquick.lean import TYPE_CHECKING, contextmanager, signal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import NoReturn

_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def raised() -> Iterator[None]:
    """Inside the block the first such signal raises SignalError; those that follow it are ignored.

    Only a second QUIT is not: it ends even an undo that hangs. After a block that has done its work all are
    ignored: the exit status is to say that it is done.
    """
    before = {number: signal.signal(number, _raise) for number in _CAUGHT if _is_heeded(number)}
    # Hooks and daemons are waited for; a caller that ignores SIGCHLD would have the kernel reap them.
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
        before = dict.fromkeys(before, signal.SIG_IGN) | {signal.SIGCHLD: before[signal.SIGCHLD]}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_heeded(number: signal.Signals) -> bool:
    """A signal that our caller had us ignore (nohup) stays ignored."""
    return signal.getsignal(number) != signal.SIG_IGN


def _raise(number: int, _frame: FrameType | None) -> NoReturn:
    for other in filter(_is_heeded, _CAUGHT):
        signal.signal(other, signal.SIG_DFL if other == signal.SIGQUIT else signal.SIG_IGN)
    from signal import Signals

    raise SignalError(Signals(number).name, number)
