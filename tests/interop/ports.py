"""UDP ports in use."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.namespaces import Namespace


PORT = 51821

# Sockets that conflict with a bind to 0.0.0.0 or [::]: family, options that are set to 1, address.
TAKEN = {
    "any-ipv4": (socket.AF_INET, (), "0.0.0.0"),
    "one-ipv4": (socket.AF_INET, (), "127.0.0.1"),
    "any": (socket.AF_INET6, (), "::"),
    "any-ipv6": (socket.AF_INET6, ((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),), "::"),
    "one-ipv6": (socket.AF_INET6, (), "::1"),
    "shared": (socket.AF_INET, ((socket.SOL_SOCKET, socket.SO_REUSEPORT),), "0.0.0.0"),
}


def take(machine: Namespace, kind: str, port: int = PORT) -> socket.socket:
    """Open a UDP socket of this kind on the machine's port."""
    family, options, address = TAKEN[kind]
    with machine.entered():
        taken = socket.socket(family, socket.SOCK_DGRAM)
    for level, option in options:
        taken.setsockopt(level, option, 1)
    try:
        taken.bind((address, port))
    except OSError:
        taken.close()
        raise
    return taken
