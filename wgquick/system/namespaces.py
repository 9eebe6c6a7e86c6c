"""Network namespaces by name: which one this is, and whether one that was written down earlier is gone.

A word BOOT-COOKIE-INODE names one. The cookie (Linux 5.14) is not used again before the next boot, unlike the
number of the inode, which is what /proc shows of a namespace.
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
    """The word for the calling thread's network namespace."""
    return f"{_boot()}-{_cookie():x}-{os.stat('/proc/thread-self/ns/net').st_ino}"


def is_word(text: str) -> bool:
    """Whether a text is such a word."""
    parts = text.split("-")
    return len(parts) == 3 and parts[2].isdecimal()


def is_contained() -> bool:
    """Whether this process sees a container's processes only, and so not who else uses a namespace."""
    return os.stat("/proc/self/ns/pid").st_ino != _HOSTS_PROCESSES


def is_gone(word: str, *, contained: bool) -> bool:
    """Whether the network namespace of a word does not exist any more; False if that cannot be told from here.

    `contained`: whether the word was written down in a container. From inside one, a namespace of the host cannot
    be seen; one of a container is of an earlier run of this one.
    """
    boot, cookie, inode = word.split("-")
    here = current().split("-")
    if boot != here[0] and _UNKNOWN not in (boot, here[0]):
        return True
    if inode == here[2]:  # which no two namespaces have at once
        return cookie != here[1]
    return (contained or not is_contained()) and not _is_used(inode)


def _boot() -> str:
    """The beginning of this boot's identifier, or a word if /proc/sys is hidden."""
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
    """Whether a thread is in the namespace, or a descriptor or a mount holds it; also if a process hides that."""
    names = (f"net:[{inode}]", f"\nino:\t{inode}\n")
    processes = filter(str.isdecimal, os.listdir("/proc"))
    try:
        return any(name in found for process in processes for found in _of(process) for name in names)
    except PermissionError:
        return True


def _of(process: str) -> Iterator[str]:
    """What could name namespaces: the threads' own, descriptors, mounts. Nothing of a process that has ended."""
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
