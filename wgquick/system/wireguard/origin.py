"""Finds the program that brought up a link without a journal, and when its daemon started."""

from __future__ import annotations

import os

from wgquick.system.wireguard import uapi

_UNIT = "/run/systemd/units/invocation:wg-quick@{}.service"
_NETWORK_MANAGER = "/run/NetworkManager/devices/{}"
_NETWORKD = "/run/systemd/netif/links/{}"


def manager(name: str, ifindex: int) -> str:
    """wg-quick if its unit is active, NetworkManager or systemd-networkd if they manage the link; else ""."""
    if os.path.lexists(_UNIT.format(name)):  # systemd keeps this link while the unit is active
        return "wg-quick"
    if "managed=true" in _lines(_NETWORK_MANAGER.format(ifindex)):
        return "NetworkManager"
    state = _lines(_NETWORKD.format(ifindex))
    return "systemd-networkd" if any(line.startswith("NETWORK_FILE=") for line in state) else ""


def started(name: str) -> float | None:
    """When the interface's daemon created its socket, in seconds since the epoch; None for kernel interfaces."""
    try:
        return os.stat(uapi.socket_path(name)).st_mtime
    except OSError:
        return None


def program(name: str) -> str:
    """The name of the program that serves the interface's socket; "userspace" if it is hidden."""
    process = server(name)
    return "".join(_lines(f"/proc/{process}/comm")) or "userspace" if process else "userspace"


def server(name: str) -> int:
    """The process that serves the interface's socket; 0 if it is hidden.

    The process that created the socket comes first. wireguard-go's has ended and left the socket to a child.
    """
    held = {f"socket:[{inode}]" for inode in _inodes(uapi.socket_path(name))}
    try:
        others = [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    except OSError:
        others = []
    for process in (uapi.listener(name), *others):
        if process and _holds(process, held):
            return process
    return 0


def _inodes(path: str) -> set[str]:
    """The inodes of the sockets bound to a path (/proc/net/unix, unix(7))."""
    rows = (line.split(maxsplit=7) for line in _lines("/proc/net/unix"))
    return {row[6] for row in rows if len(row) == 8 and row[7] == path}


def _holds(process: int, sockets: set[str]) -> bool:
    """Whether a process has one of the sockets open."""
    directory = f"/proc/{process}/fd"
    try:
        return any(os.readlink(f"{directory}/{each}") in sockets for each in os.listdir(directory))
    except OSError:  # it has ended or belongs to another user
        return False


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().split("\n")
    except OSError:
        return []
