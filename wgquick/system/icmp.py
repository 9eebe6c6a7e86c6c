"""ICMP echo requests and errors (RFC 792, RFC 4443); no I/O."""

from __future__ import annotations

from struct import Struct, unpack

from wgquick.datagram import (
    HOST_UNREACHABLE,
    NET_UNREACHABLE,
    OTHER,
    PORT_UNREACHABLE,
    PROHIBITED,
    TIME_EXCEEDED,
    TOO_BIG,
)

REQUEST, REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
"""The types of an echo request and of its reply, by family."""
HEADER = Struct("!BBHHH")
"""Type, code, checksum, identifier and sequence number."""
UNREACHABLE, EXPIRED = {4: 3, 6: 1}, {4: 11, 6: 3}
"""The types of a destination unreachable and of a time exceeded error, by family."""
_TOO_BIG_6 = 2
_CODES = {
    4: {
        0: NET_UNREACHABLE,
        1: HOST_UNREACHABLE,
        3: PORT_UNREACHABLE,
        4: TOO_BIG,
        6: NET_UNREACHABLE,
        7: HOST_UNREACHABLE,
        9: PROHIBITED,
        10: PROHIBITED,
        11: NET_UNREACHABLE,
        12: HOST_UNREACHABLE,
        13: PROHIBITED,
    },
    6: {
        0: NET_UNREACHABLE,
        1: PROHIBITED,
        3: HOST_UNREACHABLE,
        4: PORT_UNREACHABLE,
        5: PROHIBITED,
        6: PROHIBITED,
    },
}
"""The meanings of the codes of UNREACHABLE."""


def echo_request(family: int, identifier: int, sequence: int, data: bytes) -> bytes:
    """An echo request; the kernel sets the checksum of ICMPv6."""
    head = HEADER.pack(REQUEST[family], 0, 0, identifier, sequence)
    if family == 4:
        head = HEADER.pack(REQUEST[4], 0, _checksum(head + data), identifier, sequence)
    return head + data


def meaning(family: int, kind: int, code: int) -> str:
    """The meaning of an ICMP error (`datagram.IcmpError`) by its type and code."""
    if kind == UNREACHABLE[family]:
        return _CODES[family].get(code, OTHER)
    if kind == EXPIRED[family]:
        return TIME_EXCEEDED
    return TOO_BIG if (family, kind) == (6, _TOO_BIG_6) else OTHER


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
