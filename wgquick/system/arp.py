"""Asks by ARP probes who has IPv4 addresses on Ethernet links (RFC 5227, packet(7)). No host records a probe."""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_ARP, _IPV4, _ETHERNET = 0x0806, 0x0800, 1
_REQUEST, _REPLY = 1, 2
_HEADER = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826, after the Ethernet header
_AFTER = 14
_BROADCAST, _NOBODY = b"\xff" * 6, bytes(6)
_REPEAT = 0.2  # seconds


def probe(wanted: Iterable[tuple[str, str]], seconds: float) -> dict[tuple[str, str], set[str]]:
    """The link-layer addresses of the hosts that have each address on its link, except this host.

    It listens until the time is over, as several hosts may answer. Links other than Ethernet get no answer.
    """
    found: dict[tuple[str, str], set[str]] = {each: set() for each in wanted}
    with ExitStack() as opened:
        sockets: dict[socket.socket, str] = {}
        for link in {link for link, _ in found}:
            with suppress(OSError):
                made = opened.enter_context(
                    socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
                )
                made.bind((link, _ARP))
                sockets[made] = link
        deadline, asked = time.monotonic() + (seconds if sockets else 0.0), 0.0
        while (now := time.monotonic()) < deadline:
            if now > asked + _REPEAT:
                asked = now
                for made, link in sockets.items():
                    _ask(made, [address for each, address in found if each == link])
            for made in select.select(list(sockets), [], [], min(_REPEAT, deadline - now))[0]:
                _receive(made, sockets[made], found)
    return found


def _ask(made: socket.socket, addresses: Iterable[str]) -> None:
    own = made.getsockname()[4]
    for each in addresses:
        body = _HEADER.pack(_ETHERNET, _IPV4, 6, 4, _REQUEST, own, bytes(4), _NOBODY, socket.inet_aton(each))
        with suppress(OSError):  # the link is down
            made.send(_BROADCAST + own + struct.pack("!H", _ARP) + body)


def _receive(made: socket.socket, link: str, found: dict[tuple[str, str], set[str]]) -> None:
    with suppress(OSError):
        frame = made.recv(128)
        if len(frame) >= _AFTER + _HEADER.size:
            *_, operation, sender, address, _, _ = _HEADER.unpack_from(frame, _AFTER)
            place = (link, socket.inet_ntoa(address))
            if operation == _REPLY and place in found and sender != made.getsockname()[4]:
                found[place].add(sender.hex(":"))
