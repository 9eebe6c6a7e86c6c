"""The addresses inside the tunnel to probe: the peer's own if known, else likely ones."""

from __future__ import annotations

from wgquick.diagnosis import nets
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import address_text, pack_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wgquick.device import DevicePeer
    from wgquick.net import Prefix

_GUESSES = 5


class Target(NamedTuple):
    """An address to probe; `is_known` is true for the peer's own address, false for a guess."""

    address: str
    is_known: bool


def targets(
    peer: DevicePeer, own: Sequence[Prefix], servers: Iterable[str], known: Iterable[bytes] = ()
) -> list[Target]:
    """At most five addresses of a peer, the most certain first; `known` are addresses from the other end's file."""
    mine = {prefix.address for prefix in own}
    found: dict[str, Target] = {}
    for address, is_known in (
        *((address, True) for address in known),
        *((ip.address, True) for ip in peer.allowed_ips if ip.length == len(ip.address) * 8),
        *((address, False) for address in _servers(servers)),
        *((address, False) for address in _neighbours(own)),
        *((address, False) for address in _firsts(peer)),
    ):
        family = len(address)
        if address not in mine and _allows(peer, address) and any(len(each) == family for each in mine):
            text = address_text(address)
            found.setdefault(text, Target(text, is_known))
    sure = [each for each in found.values() if each.is_known]
    return sure[:_GUESSES] or list(found.values())[:_GUESSES]


def _allows(peer: DevicePeer, address: bytes) -> bool:
    return any(nets.contains(ip, nets.host(address)) for ip in peer.allowed_ips)


def _servers(servers: Iterable[str]) -> Iterator[bytes]:
    for text in servers:
        try:
            yield pack_address(text)
        except ValueError:
            continue


def _neighbours(own: Iterable[Prefix]) -> Iterator[bytes]:
    """The first addresses of the tunnel's own networks."""
    for prefix in own:
        if not (nets.is_single(prefix) or nets.is_link_local(prefix)):
            yield from _from(prefix)


def _firsts(peer: DevicePeer) -> Iterator[bytes]:
    for ip in peer.allowed_ips:
        if 0 < ip.length < len(ip.address) * 8:
            yield from list(_from(ip))[:2]


def _from(network: nets.Network) -> Iterator[bytes]:
    width = nets.bits(network.address)
    first = nets.head(network.address, network.length) << (width - network.length)
    last = first + (1 << (width - network.length)) - 1
    start = first if network.length >= width - 1 else first + 1
    end = last if network.length >= width - 1 else last - (width == 32)
    for number in range(start, min(start + _GUESSES, end + 1)):
        yield number.to_bytes(width // 8, "big")
