"""Standard input, output and error, which may be closed."""

from __future__ import annotations

import os
import sys


def open_missing() -> None:
    """Open descriptors 0, 1 and 2 if the caller closed them: else a journal or socket would get the number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # uses the lowest free number


def say(text: str) -> None:
    """Print a line of the transcript or an error. A failure (closed pipe, full disk) does not stop the work.

    A hook's line is printed as its bytes in the file, whatever the locale, as with wg-quick.
    """
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
        sys.stderr.buffer.write(f"{text}\n".encode("utf-8", "surrogateescape"))
        sys.stderr.buffer.flush()
    except OSError:
        _silence(2)  # also for hooks and for the flush at exit


def discard_output() -> None:
    """Discard further output after its reader has gone: else the interpreter's flush at exit fails."""
    _silence(1)


def _silence(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
