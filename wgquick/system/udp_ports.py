"""UDP ports of the calling thread's network namespace: whether a port can be bound, and which programs use it."""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY, SOCK_CLOEXEC, SOCK_DGRAM
from errno import EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT
from time import monotonic, sleep

from wgquick.lean import TYPE_CHECKING, socket, suppress
from wgquick.system.wireguard import uapi

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_PROC_NET = ("/proc/thread-self/net/udp", "/proc/thread-self/net/udp6")
_ANY = ((AF_INET, "0.0.0.0"), (AF_INET6, "::"))  # noqa: S104 - as WireGuard binds
_NO_FAMILY = (EAFNOSUPPORT, EADDRNOTAVAIL)
_LOCAL, _UID, _INODE = 1, 7, 9  # columns of /proc/net/udp, proc(5)
_TUN = "/dev/net/tun"


def refusal(port: int, *, patience: float = 0.3) -> int:
    """The errno with which the kernel refuses to bind this port on all addresses; 0 if it can be bound.

    A used port is retried for `patience` seconds: a daemon keeps its port some milliseconds longer than its link.
    """
    deadline = monotonic() + patience
    while (code := _refusal(port)) == EADDRINUSE and monotonic() < deadline:
        sleep(0.01)
    return code


def _refusal(port: int) -> int:
    for family, address in _ANY:
        try:
            with socket(family, SOCK_DGRAM | SOCK_CLOEXEC) as probe:
                if family == AF_INET6:
                    probe.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except OSError as error:
            if error.errno not in _NO_FAMILY:
                return error.errno or 0
    return 0


def has(name: str, port: int) -> bool:
    """Whether the daemon of the link `name` uses the port; any socket counts if its process is hidden."""
    inodes = {inode for inode, _ in _sockets(port)}
    if not inodes:
        return False
    if dict(_owners(inodes, (uapi.listener(name),))):
        return True
    owners = dict(_owners(inodes, _newest_first()))
    return not owners or any(_serves(process, name) for process in owners)


def programs(port: int) -> tuple[str, ...]:
    """The programs that use the port, as text; for a hidden program, its user.

    The socket of a kernel interface belongs to no process, and stays in the namespace where the link was created.
    """
    found = list(_sockets(port))
    owners = dict(_owners({inode for inode, _ in found}, _newest_first()))
    if owners:
        return tuple(f"{_read(f'/proc/{process}/comm')} (process {process})" for process in owners)
    return tuple(dict.fromkeys(_unseen(uid) for inode, uid in found if inode))


def _unseen(uid: int) -> str:
    if uid:
        return f"a hidden program of user {uid}"
    moved = "a WireGuard interface that was moved to another network namespace"
    return f"a hidden program of user 0, or {moved}"


def _sockets(port: int) -> Iterator[tuple[int, int]]:
    """The inode and user of each socket with this local port; the inode is 0 if it belongs to no process."""
    for path in _PROC_NET:
        for line in _read(path).splitlines()[1:]:
            fields = line.split()
            if int(fields[_LOCAL].rpartition(":")[2], 16) == port:
                yield int(fields[_INODE]), int(fields[_UID])


def _newest_first() -> list[int]:
    """All process IDs, newest first: a tunnel's daemon usually is among the newest."""
    return sorted((int(entry) for entry in os.listdir("/proc") if entry.isdecimal()), reverse=True)


def _owners(inodes: Collection[int], processes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The processes that have one of the sockets, each with that socket's inode."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
    for process in processes if wanted else ():
        for link in _links(process):
            if link in wanted:
                yield process, wanted.pop(link)
        if not wanted:
            return


def _links(process: int) -> Iterator[str]:
    """The targets of a process's open descriptors; empty if it has ended or is hidden."""
    directory = f"/proc/{process}/fd"
    with suppress(OSError):
        for descriptor in os.listdir(directory):
            with suppress(OSError):
                yield os.readlink(f"{directory}/{descriptor}")


def _serves(process: int, name: str) -> bool:
    """Whether a process has the TUN device `name` open."""
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{process}/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/{process}/fd/{descriptor}") == _TUN:
                    lines = _read(f"/proc/{process}/fdinfo/{descriptor}").splitlines()
                    if f"iff:\t{name}" in lines:
                        return True
    return False


def _read(path: str) -> str:
    """The text of a file in /proc; "" if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
