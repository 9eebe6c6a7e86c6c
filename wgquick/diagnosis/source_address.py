"""The kernel's choice of a source address: inet_select_addr() for IPv4, ipv6_dev_get_saddr() for IPv6."""

from __future__ import annotations

from wgquick.diagnosis.nets import LOOPBACK_NETS, contains, head, host, is_link_local
from wgquick.lean import TYPE_CHECKING
from wgquick.net import Prefix
from wgquick.routing import HOST, LINK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.routing import LocalAddress, NetworkLink, NextHop, Snapshot, TableRoute

# The kernel's own address labels (net/ipv6/addrlabel.c), the longest prefix first.
_LABELS = sorted(
    (
        (Prefix.parse(text), label)
        for text, label in (
            ("::1/128", 0),
            ("::/0", 1),
            ("fc00::/7", 5),
            ("2002::/16", 2),
            ("::/96", 3),
            ("::ffff:0:0/96", 4),
            ("2001::/32", 6),
            ("2001:10::/28", 7),
            ("3ffe::/16", 12),
            ("fec0::/10", 11),
        )
    ),
    key=lambda each: -each[0].length,
)
_SITE_LOCAL = Prefix.parse("fec0::/10")
_MULTICAST, _ORCHID = Prefix.parse("ff00::/8"), Prefix.parse("2001:10::/28")
_SCOPE_LINK, _SCOPE_SITE, _SCOPE_GLOBAL = 2, 5, 14


def source_of(
    snapshot: Snapshot, destination: bytes, route: TableRoute, hop: NextHop, kind: str, vrf: str
) -> bytes | None:
    """The source for a packet to `destination` on a route; None if no address fits."""
    if len(destination) == 16:
        return route.source or _for_six(snapshot, destination, hop.link)
    if kind == "local":
        return route.source or destination
    if vrf and (vrf_of(snapshot, hop.link) != vrf):
        return _for_four(snapshot, vrf, None, LINK)
    gateway = hop.gateway if hop.gateway and len(hop.gateway) == 4 else None
    return route.source or _for_four(snapshot, hop.link, gateway, route.scope)


def vrf_of(snapshot: Snapshot, name: str) -> str:
    """The VRF of a link: the link itself if it is one; "" if it has none."""
    link = snapshot.links.get(name)
    if link is None or link.vrf_table:
        return name if link else ""
    master = snapshot.links.get(link.master)
    return link.master if master and master.vrf_table else ""


def _for_four(snapshot: Snapshot, name: str, near: bytes | None, scope: int) -> bytes | None:
    """inet_select_addr(): an address of the link, if possible in the gateway's network; else one of any link."""
    link = snapshot.links.get(name)
    if link is None:
        return None
    loopback_scope = LINK if link.route_localnet else HOST
    own = [each for each in _of_four(link) if min(each.scope, loopback_scope) <= scope]
    if own:
        return next((each for each in own if near and _is_near(each, near)), own[0]).address
    vrf = vrf_of(snapshot, name)
    others = [snapshot.links[vrf]] if vrf else []
    others += [other for other in snapshot.links.values() if vrf_of(snapshot, other.name) == vrf]
    return next(
        (
            each.address
            for other in others
            for each in _of_four(other)
            if each.scope != LINK and each.scope <= scope
        ),
        None,
    )


def _of_four(link: NetworkLink) -> Iterator[LocalAddress]:
    return (each for each in link.addresses if len(each.address) == 4 and not each.is_secondary)


def _is_near(own: LocalAddress, address: bytes) -> bool:
    """inet_ifa_match()."""
    return contains(Prefix(own.peer or own.address, own.length), host(address))


def _for_six(snapshot: Snapshot, destination: bytes, name: str) -> bytes | None:
    """ipv6_dev_get_saddr(), RFC 6724."""
    candidates = list(_of_six(snapshot, destination, name))
    if not candidates:
        return None
    return max(candidates, key=lambda each: _score(each[0], each[1], destination, name))[0].address


def _of_six(snapshot: Snapshot, destination: bytes, name: str) -> Iterator[tuple[LocalAddress, str]]:
    """The candidates for the source, with their links, in the kernel's order."""
    vrf = vrf_of(snapshot, name)
    near = contains(_MULTICAST, host(destination)) or scope_of(destination) <= _SCOPE_LINK
    for link in snapshot.links.values():
        if (near and link.name != name) or vrf_of(snapshot, link.name) != vrf:
            continue
        for each in link.addresses:
            if len(each.address) == 16 and not each.is_tentative:
                yield each, link.name


def _score(own: LocalAddress, link: str, destination: bytes, name: str) -> tuple[int, ...]:
    """ipv6_get_saddr_eval(): a value for each rule in order; greater is better."""
    scope, wanted = scope_of(own.address), scope_of(destination)
    return (
        int(own.address == destination),
        -scope if scope >= wanted else scope - 128,
        int(not own.is_deprecated or own.address == LOOPBACK_NETS[6].address),
        int(link == name),
        int(label_of(own.address) == label_of(destination)),
        int(contains(_ORCHID, host(own.address)) == contains(_ORCHID, host(destination))),
        min(_common(own.address, destination), own.length),
    )


def _common(one: bytes, two: bytes) -> int:
    """How many leading bits two addresses share."""
    return 128 - (head(one, 128) ^ head(two, 128)).bit_length()


def scope_of(address: bytes) -> int:
    """The scope of an IPv6 address (__ipv6_addr_src_scope())."""
    if contains(_MULTICAST, host(address)):
        return address[1] & 0x0F
    if not any(address):
        return 0
    if is_link_local(host(address)) or contains(LOOPBACK_NETS[6], host(address)):
        return _SCOPE_LINK
    return _SCOPE_SITE if contains(_SITE_LOCAL, host(address)) else _SCOPE_GLOBAL


def label_of(address: bytes) -> int:
    """The label of an IPv6 address."""
    return next(label for prefix, label in _LABELS if contains(prefix, host(address)))
