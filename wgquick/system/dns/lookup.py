"""Looks up the endpoint of a tunnel that may be dead: by the host's resolver, and by the uplink's servers."""

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

_PATIENCE = 2.0  # seconds; the resolver of a host with a dead tunnel takes longer, and has no answer in the end
_LAST_PATIENCE = 30.0


def addresses(endpoint: Endpoint, mark: int, servers: Callable[[], Sequence[Server]]) -> Addresses | None:
    """All addresses of an endpoint now; None if nobody knows one.

    The host's resolver is asked first: it knows /etc/hosts, and where the tunnel is alive it asks the tunnel's
    servers. If it fails, or has no answer after two seconds, `servers` are asked by packets with `mark`.
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
    """A name without a dot is not for a public server."""
    name = endpoint.host
    if "." not in name or ":" in name:
        return ()
    try:
        port = int(endpoint.port) if endpoint.port.isdecimal() else socket.getservbyname(endpoint.port, "udp")
    except OSError:
        return ()
    return tuple(SocketAddress(address, port) for address in ask(name, servers(), mark))
