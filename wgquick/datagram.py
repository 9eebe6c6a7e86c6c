"""What a capture reports of the wire: WireGuard messages at a UDP port, and ICMP errors about what left it."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.net import SocketAddress

ARRIVED = "arrived"
"""On a link, before any firewall."""
ADMITTED = "admitted"
"""Past the firewall's input chain, where the kernel hands it to the socket."""
SENT = "sent"
"""On a link, past every firewall of this host."""

INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4
LENGTHS = {INITIATION: 148, RESPONSE: 92, COOKIE: 64}
KEEPALIVE_LENGTH = 32


class Datagram(NamedTuple):
    """A UDP datagram; `payload` is its beginning (at most 148 bytes), `size` the length of the whole payload.

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
        """initiation, response, cookie, keepalive or data; "" for what is no WireGuard message."""
        return kind_of(self.payload, self.size)


class IcmpError(NamedTuple):
    """An ICMP or ICMPv6 error about a datagram that we sent to `destination`.

    `meaning` is one of port-unreachable, host-unreachable, net-unreachable, prohibited, too-big, time-exceeded and
    other; `mtu` is the one that too-big names, else 0. `link` is "lo" where this host itself is the `sender`.
    """

    at: float
    link: str
    sender: str
    destination: SocketAddress
    meaning: str
    mtu: int = 0


def kind_of(payload: bytes, size: int) -> str:
    """The kind of a message of `size` bytes from its beginning (whitepaper, section 5.4); "" if it is none."""
    if len(payload) < 4 or payload[1:4] != b"\0\0\0":
        return ""
    if payload[0] == DATA:
        return "" if size < KEEPALIVE_LENGTH else "keepalive" if size == KEEPALIVE_LENGTH else "data"
    if size != LENGTHS.get(payload[0]):
        return ""
    return {INITIATION: "initiation", RESPONSE: "response", COOKIE: "cookie"}[payload[0]]
