"""Signals for the process of the tests."""

from __future__ import annotations

import os


def terminate() -> str:
    """A shell command that sends TERM to this process as soon as its main thread does not block TERM (bit 14).

    A worker of pytest-xdist has a second thread, which takes the signal while the main thread blocks it; then the
    handler runs in the main thread all the same, before the caller expects it.
    """
    blocked = "^SigBlk:.*[4-7c-f]...$"
    return f"while grep -q '{blocked}' /proc/{os.getpid()}/status; do :; done; kill -TERM {os.getpid()}"
