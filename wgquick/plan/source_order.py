"""Tells whether two orders of a link's IPv6 addresses lead to the same sources of packets.

The kernel compares the sources' scopes, their labels, and the number of leading bits that they share with the
destination. If all are equal, it takes the newest address (ipv6_get_saddr_eval in net/ipv6/addrconf.c, RFC 6724).
So the order of fd00::1 and fd01::1 matters, and that of fd00::1 and 2001:db8::1 does not.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING
from wgquick.net import Prefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BITS = 128
# The kernel's default labels except 1, the label of all other addresses (net/ipv6/addrlabel.c).
_LABELS = tuple(
    (Prefix.parse(text), label)
    for text, label in (
        ("::1/128", 0),
        ("::ffff:0:0/96", 4),
        ("::/96", 3),
        ("2001::/32", 6),
        ("2001:10::/28", 7),
        ("3ffe::/16", 12),
        ("2002::/16", 2),
        ("fec0::/10", 11),
        ("fc00::/7", 5),
    )
)


def are_alike(order: list[Prefix], other: list[Prefix]) -> bool:
    """Whether both orders, the oldest address first, give each destination the same source."""
    if order == other:
        return True
    if set(order) != set(other):
        return False
    numbers = [(_number(prefix.address), prefix.length) for prefix in order]
    others = [(_number(prefix.address), prefix.length) for prefix in other]
    for scope in (False, True):  # a link-local destination takes a link-local source
        ours = [each for each in numbers if _is_link_local(each[0]) == scope]
        theirs = [each for each in others if _is_link_local(each[0]) == scope]
        if any(_source(ours, to) != _source(theirs, to) for to in _destinations(ours)):
            return False
    return True


def _destinations(sources: list[tuple[int, int]]) -> Iterator[int]:
    """Destinations for all cases: one for each label, and for each source one for each number of shared bits."""
    yield from (_number(prefix.address) for prefix, _ in _LABELS)
    for address, _ in sources:
        yield from (address ^ 1 << bit for bit in range(_BITS))


def _source(sources: Iterable[tuple[int, int]], to: int) -> tuple[int, int] | None:
    """The source of packets to a destination; the last one of equally good ones."""
    best, found = (-1, -1), None
    for source in sources:
        address, length = source
        shared = min(_BITS - (address ^ to).bit_length(), length)
        score = int(_label(address) == _label(to)), shared
        if score >= best:
            best, found = score, source
    return found


def _label(address: int) -> int:
    for prefix, label in _LABELS:
        if (address ^ _number(prefix.address)) >> (_BITS - prefix.length) == 0:
            return label
    return 1


def _number(address: bytes) -> int:
    return int.from_bytes(address, "big")


def _is_link_local(address: int) -> bool:
    return address >> 118 == 0xFE80 >> 6
