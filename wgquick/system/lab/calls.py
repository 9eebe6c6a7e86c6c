"""System calls that the standard library of Python 3.11 lacks: unshare(2), mount(2), prctl(2)."""

from __future__ import annotations

import ctypes
import os
import signal

NEW_MOUNTS = 0x00020000
NEW_UTS = 0x04000000
NEW_USER = 0x10000000
NEW_PIDS = 0x20000000
NEW_NETWORK = 0x40000000
_PR_SET_PDEATHSIG = 1
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18

_LIBC = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this process (for NEW_PIDS: its children) into new namespaces; OSError if that is refused."""
    _check(_LIBC.unshare(flags))


def mount(kind: str, target: str, options: str = "") -> None:
    """Mount a file system of that kind; OSError names the target if that is refused."""
    _check(_LIBC.mount(kind.encode(), os.fsencode(target), kind.encode(), 0, options.encode()), target)


def keep_mounts_private() -> None:
    """Let no mount of this process's namespace reach another one."""
    _check(_LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "/")


def die_with_parent(*, really: bool = True) -> None:
    """Have this process killed as soon as the thread that forked it is gone, or not any more."""
    _check(_LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL if really else 0), 0, 0, 0))


def _check(result: int, path: str = "") -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path or None)
