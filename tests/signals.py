"""Signals to the test process."""

from __future__ import annotations

import os


def terminate() -> str:
    """A shell command that sends TERM to this process once its main thread does not block TERM (bit 14).

    A worker of pytest-xdist has a second thread, which receives the signal while the main thread blocks it; the
    handler then runs in the main thread too early.
    """
    blocked = "^SigBlk:.*[4-7c-f]...$"
    return f"while grep -q '{blocked}' /proc/{os.getpid()}/status; do :; done; kill -TERM {os.getpid()}"
