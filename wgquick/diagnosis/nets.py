"""Tests of addresses and networks: packed addresses with prefix lengths."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING
from wgquick.net import Prefix, pack_address
from wgquick.net import contains as contains
from wgquick.net import head as head

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.net import Network as Network

LINK_LOCAL = {4: Prefix.parse("169.254.0.0/16"), 6: Prefix.parse("fe80::/10")}
LOOPBACK_NETS = {4: Prefix.parse("127.0.0.0/8"), 6: Prefix.parse("::1/128")}
_PRIVATE = [
    *LINK_LOCAL.values(),
    *map(Prefix.parse, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")),
]
_HOME = [Prefix.parse(text) for text in ("192.168.0.0/24", "192.168.1.0/24", "172.17.0.0/16")]
_ON_LINK = (LINK_LOCAL[6], *LOOPBACK_NETS.values())


def bits(address: bytes) -> int:
    """The width of a packed address: 32 or 128."""
    return len(address) * 8


def overlap(one: Network, two: Network) -> bool:
    """Whether the two have an address in common; of two networks one then contains the other."""
    return contains(one, two) or contains(two, one)


def host(address: bytes) -> Prefix:
    """An address as a network of one address."""
    return Prefix(address, bits(address))


def whole(network: Network) -> Prefix:
    """The network of an address: the same prefix without host bits."""
    width = bits(network.address)
    first = head(network.address, network.length) << (width - network.length)
    return Prefix(first.to_bytes(width // 8, "big"), network.length)


def is_single(network: Network) -> bool:
    """Whether it is a network of one address: /32 or /128."""
    return network.length == bits(network.address)


def is_private(address: bytes) -> bool:
    """Whether the address is private (RFC 1918, 4193, 6598, link-local). Those for documentation are not."""
    return any(contains(network, host(address)) for network in _PRIVATE)


def is_link_local(network: Network) -> bool:
    """Whether it is an IPv6 link-local address."""
    return contains(LINK_LOCAL[6], network)


def no_host(address: bytes) -> str:
    """What an address is if no host can have it; "" if one can."""
    if not any(address):
        return "the unspecified address"
    if address == b"\xff" * 4:
        return "the broadcast address"
    is_multicast = address[0] == 0xFF if len(address) == 16 else 224 <= address[0] < 240
    return "a multicast address" if is_multicast else ""


def is_on_link(address: bytes) -> bool:
    """Whether a tunnel's routes never apply to the address: loopback, or IPv6 link-local."""
    return any(contains(network, host(address)) for network in _ON_LINK)


def is_multicast(address: bytes) -> bool:
    """Whether packets to the address go to a group: no single host answers them."""
    return address[0] == 0xFF if len(address) == 16 else address[0] >> 4 == 0xE


def is_of_homes(network: Network) -> bool:
    """Whether it lies in a network that home routers or Docker use by default."""
    return any(contains(home, network) for home in _HOME)


def literal(text: str) -> bytes | None:
    """The packed address of an endpoint's host, without its zone; None if the host is a name."""
    try:
        return pack_address(text.partition("%")[0])
    except ValueError:
        return None


class NetworkSet:
    """Networks by prefix length. A test needs one lookup for each length in the set."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._heads: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            self.add(network)

    def add(self, network: Network) -> None:
        """Add a network."""
        key = (len(network.address), network.length)
        self._heads.setdefault(key, set()).add(head(network.address, network.length))

    def covers(self, network: Network) -> bool:
        """Whether one of the networks contains this one."""
        return any(
            head(network.address, length) in heads
            for (width, length), heads in self._heads.items()
            if width == len(network.address) and length <= network.length
        )
