"""Gets the kernel's notifications of changed links, addresses, routes, rules and nftables (netlink(7) multicast).

Only a message's header and link are decoded, so that a burst of ten thousand routes stays cheap. The caller reads
the host's state again. pyroute2 would decode each message.
"""

from __future__ import annotations

import os
import socket
from errno import ENOBUFS
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from wgquick.errors import OperationError
from wgquick.system.dns import RESOLV_CONF
from wgquick.system.netlink import codec

if TYPE_CHECKING:
    from collections.abc import Iterator

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
# RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV6_RULE (linux/rtnetlink.h)
_ROUTE_GROUPS = sum(1 << (group - 1) for group in (1, 5, 7, 8, 9, 11, 19))
_NFTABLES_GROUP = 1 << 6  # NFNLGRP_NFTABLES
_NEW_LINK, _DELETED_LINK, _DELETED_ADDRESS = 16, 17, 21  # RTM_*
_NEW_ROUTE, _DELETED_ROUTE, _DELETED_RULE = 24, 25, 33
_GENERATION = 10 << 8 | 15  # NFT_MSG_NEWGEN of nf_tables
_PROCESS, _PROCESS_NAME = 2, 3  # NFTA_GEN_*
_OUTPUT_LINK = 4  # RTA_OIF
_REPLACED = 0x100  # NLM_F_REPLACE
_IFINFO, _IFADDR, _ROUTE_HEADER, _NFGENMSG = Struct("=BxHiII"), Struct("=BBBBi"), 12, 4
_SO_RCVBUFFORCE = 33
_BUFFER = 4 * 1024 * 1024
_MOST = 256
_FIREWALLD = "firewalld"
_NETWORKD = "/run/systemd/netif/state"


class HostChange(NamedTuple):
    """A possible loss: `kind` is link, address, route, rule, firewall, or "all" after lost messages.

    `ifindex` is the link's, 0 if the change is about no link. `culprit` is the program that made it, "" if it is
    unknown.
    """

    kind: str
    ifindex: int = 0
    culprit: str = ""


class Monitor:
    """The sockets, in the network namespace of the thread that creates them; close it after use.

    `resolv_conf` is the namespace's file.
    """

    def __init__(self, resolv_conf: str = RESOLV_CONF) -> None:
        self._resolv_conf = resolv_conf
        self._sockets = [_opened(_NETLINK_ROUTE, _ROUTE_GROUPS)]
        try:
            self._sockets.append(_opened(_NETLINK_NETFILTER, _NFTABLES_GROUP))
        except OperationError:  # a kernel without nf_tables
            self._sockets = self._sockets[:1]

    def close(self) -> None:
        """Close the sockets."""
        for each in self._sockets:
            each.close()

    def descriptors(self) -> list[int]:
        """The descriptors that become readable when there is something to `read`."""
        return [each.fileno() for each in self._sockets]

    def read(self) -> list[HostChange]:
        """The changes that have arrived, from at most a few hundred datagrams."""
        found: dict[HostChange, None] = {}
        for each in self._sockets:
            for _ in range(_MOST):
                try:
                    data = each.recv(65536)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != ENOBUFS:
                        raise
                    found[HostChange("all")] = None
                    continue
                found |= dict.fromkeys(_changes(data, each.proto))
        return list(found)

    @staticmethod
    def suspect(kind: str, seen: str = "") -> str:
        """The program that probably made a change; `seen` is the program in the notification, or ""."""
        if kind == "firewall":
            runs = _FIREWALLD if seen and not seen.startswith(_FIREWALLD) and _is_running(_FIREWALLD) else ""
            return f"{seen}, perhaps for {runs}, which runs here" if runs else seen
        if seen or kind not in ("rule", "route", "address"):
            return seen
        return "systemd-networkd, which runs here" if os.path.exists(_NETWORKD) else ""

    def dns_stamp(self, name: str, ifindex: int) -> tuple[int, ...]:
        """A value that changes with a link's DNS: of resolv.conf, or of the resolvers' own files."""
        places = (
            self._resolv_conf,
            f"/run/systemd/resolve/netif/{ifindex}",
            "/run/resolvconf/interface",
            "/run/resolvconf/interfaces",
            f"/run/resolvconf/interfaces/{name}",
        )
        found: list[int] = []
        for place in places:
            try:
                seen = os.stat(place)
                found += (seen.st_ino, seen.st_mtime_ns)
            except OSError:
                found.append(0)
        return tuple(found)


def _opened(protocol: int, groups: int) -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        try:
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        made.bind((0, groups))
    except OSError as error:
        made.close()
        what = f"cannot subscribe to the kernel's notifications: {error.strerror}"
        raise OperationError(what, errno=error.errno or 0) from None
    return made


def _changes(data: bytes, protocol: int) -> Iterator[HostChange]:
    at = 0
    while at + codec.HEADER.size <= len(data):
        length, kind, flags, _, port = codec.HEADER.unpack_from(data, at)
        if length < codec.HEADER.size:
            return
        body = data[at + codec.HEADER.size : at + length]
        found = _firewall(kind, body) if protocol == _NETLINK_NETFILTER else _change(kind, flags, body, port)
        if found is not None:
            yield found
        at += length + (-length % 4)


def _change(kind: int, flags: int, body: bytes, port: int) -> HostChange | None:
    if kind in (_NEW_LINK, _DELETED_LINK):
        return HostChange("link", _IFINFO.unpack_from(body)[2])
    if kind == _DELETED_ADDRESS:
        return HostChange("address", _IFADDR.unpack_from(body)[4], _program(port))
    if kind == _DELETED_RULE:
        return HostChange("rule", 0, _program(port))
    if kind == _NEW_ROUTE and flags & _REPLACED:
        return HostChange("route", 0, _program(port))
    if kind == _DELETED_ROUTE:
        output = codec.attributes(body, _ROUTE_HEADER).get(_OUTPUT_LINK)
        return HostChange("route", codec.U32.unpack(output)[0] if output else 0, _program(port))
    return None


def _firewall(kind: int, body: bytes) -> HostChange | None:
    if kind != _GENERATION:
        return None
    attributes = codec.attributes(body, _NFGENMSG)
    process = int.from_bytes(attributes.get(_PROCESS, b""))
    name = attributes.get(_PROCESS_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    return HostChange("firewall", 0, "" if process == os.getpid() else name)


def _is_running(program: str) -> bool:
    """Whether a process runs this program, or a script of this name."""
    return any(_runs(number, program.encode()) for number in os.listdir("/proc") if number.isdecimal())


def _runs(process: str, program: bytes) -> bool:
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            return program in (os.path.basename(word) for word in file.read().split(b"\0")[:2])
    except OSError:
        return False


def _program(port: int) -> str:
    """The program of a netlink port, which usually is the process ID; "" if it has ended or is this process."""
    if port in (0, os.getpid()):
        return ""
    try:
        with open(f"/proc/{port}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
