"""Waiting: for a condition, and until a process is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait for a condition. After `seconds`, an AssertionError names it.

    The default is for a machine with much other work: it ends a test that hangs and measures nothing.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in {seconds} s: not {what}"
        time.sleep(0.02)


def stop(pid: int) -> None:
    """Stop a process, and wait until each of its threads stands still.

    kill(2) returns earlier: one thread takes SIGSTOP, and the others run on until they see that, which takes
    milliseconds (do_signal_stop() in kernel/signal.c).
    """
    os.kill(pid, signal.SIGSTOP)
    until(lambda: set(_states(pid)) <= set("TZX"), f"process {pid} stopped")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process, and resume it afterwards."""
    stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> Iterator[str]:
    """The state of each thread, a letter of proc_pid_stat(5)."""
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_text().rpartition(")")[2].split()[0]
