"""Standard input, output and error, as far as there are any."""

from __future__ import annotations

import os
import sys


def open_missing() -> None:
    """Have 0, 1 and 2 open: where the caller closed one, a journal or a socket would get its number."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free


def say(text: str) -> None:
    """A line of the transcript, or an error; nobody who reads it (a closed pipe, a full disk) stops no work.

    A hook's line goes out as the bytes that it is in the file, whatever the locale, as under wg-quick.
    """
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
        sys.stderr.buffer.write(f"{text}\n".encode("utf-8", "surrogateescape"))
        sys.stderr.buffer.flush()
    except OSError:
        _silence(2)  # for the hooks too, and for the flush at exit


def forsake_output() -> None:
    """Whoever read our output has gone; the interpreter would complain at exit when it flushes."""
    _silence(1)


def _silence(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
