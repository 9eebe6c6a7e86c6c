"""The uplinks' DNS servers: those that the host would use without tunnels."""

from __future__ import annotations

import os
from ipaddress import ip_address
from socket import if_nametoindex
from typing import TYPE_CHECKING

from wgquick.errors import OperationError
from wgquick.lean import suppress
from wgquick.system.dns import RESOLV_CONF, resolv_conf
from wgquick.system.dns.query import Server

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_DIRECTORIES = ("/run/resolvconf/keys", "/run/resolvconf/interfaces", "/run/resolvconf/interface")
_FALLBACKS = ("/run/NetworkManager/no-stub-resolv.conf", "/run/systemd/resolve/resolv.conf")
_MOST = 6


def servers(tunnels: Collection[str], given: Collection[str]) -> tuple[Server, ...]:
    """The servers that no tunnel has set, the most likely first, without loopback addresses.

    `tunnels` are the names of the WireGuard interfaces, `given` the servers that they have set.
    """
    found = (*_of_resolved(tunnels), *_of_resolvconf(tunnels), *_of_file(given), *_of_fallbacks(given))
    usable = (server for server in found if not ip_address(server.address).is_loopback)
    return tuple(dict.fromkeys(usable))[:_MOST]


def _of_resolved(tunnels: Collection[str]) -> tuple[Server, ...]:
    """The servers in systemd-resolved, of links and global."""
    from wgquick.system.dns.resolved import every_server, is_running

    if not is_running():
        return ()
    indices = set()
    for name in tunnels:
        with suppress(OSError):
            indices.add(if_nametoindex(name))
    try:
        every = every_server()
    except OperationError:
        return ()
    return tuple(
        Server(address, index if ip_address(address).is_link_local else 0)
        for index, address in every
        if index not in indices
    )


def _of_resolvconf(tunnels: Collection[str]) -> Iterator[Server]:
    """The servers of openresolv or Debian's resolvconf, which have a file for each interface: `up0', `up0.inet'."""
    for directory in _DIRECTORIES:
        with suppress(OSError):
            for name in sorted(os.listdir(directory)):
                if not set(name.split(".")) & set(tunnels):
                    yield from _in_text(_content(f"{directory}/{name}"))


def _of_file(given: Collection[str]) -> Iterator[Server]:
    """The servers in resolv.conf before the tunnels, if that is known, or else the current ones."""
    content = _content(RESOLV_CONF)
    record = resolv_conf.parse(content)
    if record is None:
        yield from _in_text(content, given)
    elif record.kind == "file":
        yield from _in_text(record.before)
    elif record.kind == "link":
        path = os.path.join(os.path.dirname(RESOLV_CONF), os.fsdecode(record.before))
        yield from _in_text(_content(path), given)


def _of_fallbacks(given: Collection[str]) -> Iterator[Server]:
    for path in _FALLBACKS:
        yield from _in_text(_content(path), given)


def _in_text(content: bytes, given: Collection[str] = ()) -> Iterator[Server]:
    """The servers in a resolv.conf (resolv.conf(5)), without those that tunnels have set."""
    for line in content.decode(errors="replace").splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver" or words[1] in given:
            continue
        address, _, zone = words[1].partition("%")
        with suppress(ValueError, OSError):
            yield Server(str(ip_address(address)), if_nametoindex(zone) if zone else 0)


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
