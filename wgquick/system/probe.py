"""Sends the packet of a query, and reports what nftables does with it and with the packets that it causes."""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from wgquick.net import address_text
from wgquick.routing import ICMP, ICMPV6, TCP, UDP, Probe
from wgquick.system.firewall.nft_trace import Tracer
from wgquick.system.icmp import echo_request

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wgquick.routing import Flow, Query

SECONDS = 1.0
"""Seconds to wait for replies."""
LONGEST = 6.0
"""Seconds to wait for the outer packet: a pending handshake is retried after five seconds."""
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def send(query: Query, flows: Sequence[Flow]) -> Probe:
    """Send one packet from this host, and return what nftables drops of the flows."""
    with Tracer(flows) as tracer, _sending(query) as error:
        dropped = tracer.dropped(SECONDS, SECONDS if error else LONGEST)
        unseen = tuple(flow.what for flow in tracer.unseen)
        return Probe(error, tuple(dropped), unseen)


@contextmanager
def _sending(query: Query) -> Iterator[int]:
    """Send the packet; yields the errno, 0 on success. The socket stays open in the block, for a reply."""
    with _as_user(query.uid):
        opened = _socket(query)
    with opened:
        yield _send(opened, query)


def _socket(query: Query) -> socket.socket:
    family = _FAMILIES[query.family]
    if query.protocol == TCP:
        return socket.socket(family, socket.SOCK_STREAM)
    if query.protocol == UDP:
        return socket.socket(family, socket.SOCK_DGRAM)
    return socket.socket(family, socket.SOCK_RAW, ICMP if query.family == 4 else ICMPV6)


@contextmanager
def _as_user(uid: int) -> Iterator[None]:
    """Run as a user: a socket belongs to the thread's filesystem user ID (setfsuid(2)) at its creation."""
    if uid == os.geteuid():
        yield
        return
    library = ctypes.CDLL(None)
    before = library.setfsuid(uid)
    try:
        yield
    finally:
        library.setfsuid(before)


def _send(opened: socket.socket, query: Query) -> int:
    opened.setblocking(False)
    address = address_text(query.destination)
    try:
        if query.mark:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, query.mark)
        if query.output_link:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, query.output_link.encode() + b"\0")
        if query.source:
            opened.bind((address_text(query.source), 0))
        if query.protocol == TCP:
            with suppress(BlockingIOError):
                opened.connect((address, query.destination_port))
        elif query.protocol == UDP:
            opened.sendto(b"\0", (address, query.destination_port))
        else:
            opened.sendto(_echo(query.family), (address, 0))
    except OSError as error:
        return error.errno or 0
    return 0


def _echo(family: int) -> bytes:
    return echo_request(family, os.getpid() & 0xFFFF, 1, b"wgq trace")
