"""Validates the address and options that describe the packet for `wgq trace`."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from wgquick.errors import WgqError
from wgquick.net import family_of, pack_address
from wgquick.routing import ICMP, ICMPV6, TCP, UDP, Query

if TYPE_CHECKING:
    from collections.abc import Mapping

_HIGHEST = 0xFFFFFFFF
_WITH_PORTS = {"tcp": TCP, "udp": UDP}


def query_of(target: str, given: Mapping[str, str | bool]) -> Query:
    """The query; WgqError with a remedy if an argument is not valid."""
    words = {name: str(value) for name, value in given.items()}
    host, _, zone = target.partition("%")
    destination = _address(host, "the destination")
    output = words.get("oif", "")
    if zone and output and zone != output:
        raise WgqError(f"`{target}' is on {zone}, but --oif is {output}", remedy="Omit one of the two links.")
    family = family_of(destination)
    source = _address(words["from"], "--from") if "from" in words else None
    if source is not None and len(source) != len(destination):
        raise WgqError(
            f"--from is not an IPv{family} address like the destination", remedy="Use one family for both."
        )
    protocol, port = _port(words.get("port", ""), family)
    return Query(
        destination,
        source,
        _number(words.get("mark", "0"), "--mark"),
        words.get("iif", ""),
        output or zone,
        _user(words["uid"]) if "uid" in words else os.getuid(),
        protocol,
        0,
        port,
    )


def _address(text: str, what: str) -> bytes:
    try:
        return pack_address(text)
    except (ValueError, UnicodeError):
        remedy = "Give a numeric address, such as 192.0.2.1 or 2001:db8::1; `getent ahosts NAME' resolves a name."
        raise WgqError(f"{what} `{text}' is not an IP address", remedy=remedy) from None


def _number(text: str, what: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= _HIGHEST:
        raise WgqError(
            f"{what} `{text}' is not a number from 0 to 0xffffffff", remedy="Write it as 51820 or 0xca6c."
        )
    return number


def _user(text: str) -> int:
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        pass
    if text.isascii() and text.isdigit() and int(text) < _HIGHEST:
        return int(text)
    raise WgqError(f"--uid `{text}' is not a user of this host", remedy="Give a name or a number.")


def _port(text: str, family: int) -> tuple[int, int]:
    """Protocol and port of tcp/443, udp/53, 443 (TCP) or icmp; an ICMP echo request for ""."""
    echo = ICMP if family == 4 else ICMPV6
    if text in ("", "icmp"):
        return echo, 0
    name, slash, port = text.lower().partition("/")
    if not slash and name not in _WITH_PORTS:
        name, port = "tcp", name
    protocol = _WITH_PORTS.get(name)
    number = _service(port, name) if protocol else None
    if protocol is None or number is None:
        raise WgqError(f"--port `{text}' is not a port", remedy="Write it as tcp/443, udp/53 or icmp.")
    return protocol, number


def _service(port: str, protocol: str) -> int | None:
    if port.isascii() and port.isdigit():
        return int(port) if 0 < int(port) < 65536 else None
    try:
        return socket.getservbyname(port, protocol)
    except (OSError, UnicodeError):
        return None
