"""The events of a capture: WireGuard messages at a UDP port, and ICMP errors about datagrams sent from it."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.net import SocketAddress

ARRIVED = "arrived"
"""Captured on a link, before any firewall."""
ADMITTED = "admitted"
"""Captured behind the firewall's input chain, where the kernel passes it to the socket."""
SENT = "sent"
"""Captured on a link, behind all firewalls of this host."""

INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4
LENGTHS = {INITIATION: 148, RESPONSE: 92, COOKIE: 64}
KEEPALIVE_LENGTH = 32

PORT_UNREACHABLE, HOST_UNREACHABLE, NET_UNREACHABLE = "port-unreachable", "host-unreachable", "net-unreachable"
PROHIBITED, TOO_BIG, TIME_EXCEEDED, OTHER = "prohibited", "too-big", "time-exceeded", "other"
ENDING = frozenset({PORT_UNREACHABLE, HOST_UNREACHABLE, NET_UNREACHABLE, PROHIBITED})
"""The meanings of ICMP errors that say that no packet arrives. wgq-userspace uses the same words."""


class Datagram(NamedTuple):
    """A UDP datagram; `payload` has its first bytes (at most 148), `size` is the length of the whole payload.

    `stage` is ARRIVED, ADMITTED or SENT; `link` the link's name, "" at ADMITTED; `at` is in seconds since 1970.
    """

    at: float
    stage: str
    link: str
    source: SocketAddress
    destination: SocketAddress
    size: int
    payload: bytes

    @property
    def kind(self) -> str:
        """initiation, response, cookie, keepalive or data; "" if it is not a WireGuard message."""
        return kind_of(self.payload, self.size)


class IcmpError(NamedTuple):
    """An ICMP or ICMPv6 error about a datagram that we sent to `destination`.

    `meaning` is PORT_UNREACHABLE to OTHER; `mtu` is the MTU in an error that means TOO_BIG, else 0. `link` is "lo"
    if this host is the `sender`.
    """

    at: float
    link: str
    sender: str
    destination: SocketAddress
    meaning: str
    mtu: int = 0


def kind_of(payload: bytes, size: int) -> str:
    """The kind of a message of `size` bytes by its first bytes (whitepaper, section 5.4); "" for other payloads."""
    if len(payload) < 4 or payload[1:4] != b"\0\0\0":
        return ""
    if payload[0] == DATA:
        return "" if size < KEEPALIVE_LENGTH else "keepalive" if size == KEEPALIVE_LENGTH else "data"
    if size != LENGTHS.get(payload[0]):
        return ""
    return {INITIATION: "initiation", RESPONSE: "response", COOKIE: "cookie"}[payload[0]]
