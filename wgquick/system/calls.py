"""System calls that the standard library of Python 3.11 lacks: unshare(2), setns(2), mount(2), prctl(2)."""

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
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SLAVE, _MS_SHARED = 0x1000, 0x4000, 1 << 18, 1 << 19, 1 << 20
_MNT_DETACH = 2

_LIBC = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this process (for NEW_PIDS: its children) into new namespaces; OSError if the kernel refuses."""
    _check(_LIBC.unshare(flags))


def enter_network(descriptor: int, path: str = "") -> None:
    """Move the calling thread into the network namespace of this descriptor; OSError names the path."""
    _check(_LIBC.setns(descriptor, NEW_NETWORK), path)


def effective_capabilities() -> int:
    """CapEff of this process (proc(5)), as a bit set."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)


def bind(source: str, target: str) -> None:
    """`mount --bind`: show `source`, a file or a directory, at `target`; OSError names the target."""
    _check(_LIBC.mount(os.fsencode(source), os.fsencode(target), None, _MS_BIND, None), target)


def share_mounts(path: str) -> None:
    """Let mounts below a directory reach the other mount namespaces, as ip-netns(8) does."""
    _check(_LIBC.mount(b"", os.fsencode(path), None, _MS_SHARED | _MS_REC, None), path)


def keep_mounts_inside() -> None:
    """Let mounts of this mount namespace not reach others; later mounts of others still arrive here."""
    _check(_LIBC.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None), "/")


def unmount(path: str) -> None:
    """Unmount lazily; OSError names the path if that is refused."""
    _check(_LIBC.umount2(os.fsencode(path), _MNT_DETACH), path)


def mount(kind: str, target: str, options: str = "") -> None:
    """Mount a file system of a kind; OSError with the target if the kernel refuses."""
    _check(_LIBC.mount(kind.encode(), os.fsencode(target), kind.encode(), 0, options.encode()), target)


def keep_mounts_private() -> None:
    """Make all mounts of this process's namespace private."""
    _check(_LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "/")


def die_with_parent(*, really: bool = True) -> None:
    """Have the kernel kill this process when the thread that forked it ends; `really` False cancels this."""
    _check(_LIBC.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL if really else 0), 0, 0, 0))


def _check(result: int, path: str = "") -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path or None)
