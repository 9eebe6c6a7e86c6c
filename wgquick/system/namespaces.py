"""Identifies network namespaces, and tells whether a recorded one still exists.

The identifier is BOOT-COOKIE-INODE. The cookie (Linux 5.14) is unique until the next boot. The inode, which /proc
shows, may be reused.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_UNIX, SOCK_DGRAM, SOL_SOCKET

from wgquick.lean import TYPE_CHECKING, socket, suppress

if TYPE_CHECKING:
    from collections.abc import Iterator

_SO_NETNS_COOKIE = 71
_HOSTS_PROCESSES = 0xEFFFFFFC  # PROC_PID_INIT_INO, linux/proc_ns.h: the inode of the first PID namespace
_BOOT = "/proc/sys/kernel/random/boot_id"
_UNKNOWN = "unknown"


def current() -> str:
    """The identifier of the calling thread's network namespace."""
    return f"{_boot()}-{_cookie():x}-{os.stat('/proc/thread-self/ns/net').st_ino}"


def is_word(text: str) -> bool:
    """Whether a text is such an identifier."""
    parts = text.split("-")
    return len(parts) == 3 and parts[2].isdecimal()


def is_contained() -> bool:
    """Whether this process sees only a container's processes, and so not all users of a namespace."""
    return os.stat("/proc/self/ns/pid").st_ino != _HOSTS_PROCESSES


def is_gone(word: str, *, contained: bool) -> bool:
    """Whether the network namespace of an identifier no longer exists; False if this is unknown from here.

    `contained`: whether the identifier was recorded in a container. A container cannot see the host's namespaces,
    and a container's recorded namespace is from an earlier run of it.
    """
    boot, cookie, inode = word.split("-")
    here = current().split("-")
    if boot != here[0] and _UNKNOWN not in (boot, here[0]):
        return True
    if inode == here[2]:  # unique among existing namespaces
        return cookie != here[1]
    return (contained or not is_contained()) and not _is_used(inode)


def _boot() -> str:
    """The first part of the boot ID, or a placeholder if /proc/sys is hidden."""
    try:
        with open(_BOOT, encoding="ascii") as file:
            return file.read(8)
    except OSError:
        return _UNKNOWN


def _cookie() -> int:
    with socket(AF_UNIX, SOCK_DGRAM) as probe:
        try:
            (cookie,) = struct.unpack("=Q", probe.getsockopt(SOL_SOCKET, _SO_NETNS_COOKIE, 8))
        except OSError:
            return 0
    return int(cookie)


def _is_used(inode: str) -> bool:
    """Whether a thread, a descriptor or a mount has the namespace; True if a process cannot be examined."""
    names = (f"net:[{inode}]", f"\nino:\t{inode}\n")
    processes = filter(str.isdecimal, os.listdir("/proc"))
    try:
        return any(name in found for process in processes for found in _of(process) for name in names)
    except PermissionError:
        return True


def _of(process: str) -> Iterator[str]:
    """The texts that may name a namespace: of threads, descriptors and mounts; none if the process has ended."""
    with suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):
        for thread in os.listdir(f"/proc/{process}/task"):
            yield os.readlink(f"/proc/{process}/task/{thread}/ns/net")
        for descriptor in os.listdir(f"/proc/{process}/fdinfo"):
            with suppress(FileNotFoundError):
                yield _text(f"/proc/{process}/fdinfo/{descriptor}")
        yield _text(f"/proc/{process}/mountinfo")


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
