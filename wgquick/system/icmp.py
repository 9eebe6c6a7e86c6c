"""ICMP echo requests (RFC 792, RFC 4443), for raw sockets; no I/O."""

from __future__ import annotations

from struct import Struct, unpack

REQUEST, REPLY = {4: 8, 6: 128}, {4: 0, 6: 129}
"""The types of an echo request and of its reply, by family."""
HEADER = Struct("!BBHHH")
"""Type, code, checksum, identifier and sequence number."""


def echo_request(family: int, identifier: int, sequence: int, data: bytes) -> bytes:
    """An echo request; the kernel sets the checksum of ICMPv6."""
    head = HEADER.pack(REQUEST[family], 0, 0, identifier, sequence)
    if family == 4:
        head = HEADER.pack(REQUEST[4], 0, _checksum(head + data), identifier, sequence)
    return head + data


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
