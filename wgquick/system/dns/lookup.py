"""Resolves the endpoint of a tunnel that may be dead, through the host's resolver or the uplink's servers."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from wgquick.net import SocketAddress
from wgquick.system.dns.query import ask
from wgquick.system.wireguard import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wgquick.net import Endpoint
    from wgquick.system.dns.query import Server

    Addresses = tuple[SocketAddress, ...]

_PATIENCE = 2.0  # seconds; if the tunnel is dead, the host's resolver takes longer and then fails
_LAST_PATIENCE = 30.0


def addresses(endpoint: Endpoint, mark: int, servers: Callable[[], Sequence[Server]]) -> Addresses | None:
    """All addresses that an endpoint currently resolves to; None if the lookup fails.

    The host's resolver is asked first: it knows /etc/hosts and, if the tunnel is alive, the tunnel's servers. If it
    fails, or has no answer after two seconds, `servers` are asked with packets that have `mark`.
    """
    found: list[Addresses | None] = []
    thread = threading.Thread(target=lambda: found.append(resolve.addresses(endpoint)), daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if found and found[0]:
        return found[0]
    outside = _outside(endpoint, mark, servers)
    if outside:
        return outside
    thread.join(_LAST_PATIENCE)
    return found[0] if found else None


def _outside(endpoint: Endpoint, mark: int, servers: Callable[[], Sequence[Server]]) -> Addresses:
    """The addresses from the uplink's servers. Names without a dot are local and are not asked."""
    name = endpoint.host
    if "." not in name or ":" in name:
        return ()
    try:
        port = int(endpoint.port) if endpoint.port.isdecimal() else socket.getservbyname(endpoint.port, "udp")
    except OSError:
        return ()
    return tuple(SocketAddress(address, port) for address in ask(name, servers(), mark))
