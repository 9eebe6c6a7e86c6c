"""The kernel's checks of an incoming packet: the reverse path filter, and whether it is forwarded.

Only IPv4 has rp_filter (net/ipv4/fib_frontend.c, fib_validate_source()); IPv6 leaves it to the firewall.
"""

from __future__ import annotations

from errno import EHOSTUNREACH, EINVAL, EXDEV

from wgquick.diagnosis.fib import Flow, by_rules, is_untouched, walk
from wgquick.diagnosis.nets import LOOPBACK_NETS, contains, host
from wgquick.diagnosis.source_address import vrf_of
from wgquick.lean import TYPE_CHECKING
from wgquick.net import Prefix, address_text
from wgquick.routing import LOCAL_TABLE, LOOPBACK, Query

if TYPE_CHECKING:
    from wgquick.diagnosis.fib import Walk
    from wgquick.routing import NextHop, Snapshot

_NEVER_SOURCES = (Prefix.parse("224.0.0.0/4"), Prefix.parse("255.255.255.255/32"))
STRICT = 1


def arrive(snapshot: Snapshot, query: Query, preferred: NextHop | None = None) -> Walk:
    """The route of an incoming packet, or the error if it is rejected (ip_route_input_slow())."""
    found = walk(snapshot, query, preferred)
    if query.input_link not in snapshot.links:
        return found
    if query.family == 6:
        if found.kind == "unicast" and not found.error and not snapshot.forwards6:
            off = "IPv6 forwarding is off (net.ipv6.conf.all.forwarding)"
            return found._replace(error=EHOSTUNREACH, reason=off, is_unforwarded=True)
        return found
    link = snapshot.links[query.input_link]
    if fault := _odd_address(query, local=link.route_localnet):
        return found._replace(error=EINVAL, reason=fault)
    is_for_us = found.kind in ("local", "broadcast") and not found.error
    if not is_for_us and not link.forwards:
        off = f"IPv4 forwarding is off (net.ipv4.conf.{link.name}.forwarding)"
        return found._replace(error=EHOSTUNREACH, reason=off, is_unforwarded=True)
    if found.error:
        return found
    if not is_for_us and found.kind != "unicast":
        return found._replace(error=EINVAL, reason=f"{found.kind} destinations are not forwarded")
    output = "" if is_for_us else found.link
    refused = refusal(
        snapshot, query.source or bytes(4), query.destination, link.name, query.mark, output, query.tos
    )
    if refused:
        return found._replace(error=refused[0], reason=refused[1])
    return found._replace(link=LOOPBACK) if is_for_us and found.kind == "broadcast" else found


def _odd_address(query: Query, *, local: bool) -> str:
    source = query.source or bytes(4)
    if source[0] == 0 or any(contains(each, host(source)) for each in _NEVER_SOURCES):
        return f"{address_text(source)} is not a valid source"
    if query.destination[0] == 0:
        return f"{address_text(query.destination)} is not a valid destination"
    if not local and (
        contains(LOOPBACK_NETS[4], host(source)) or contains(LOOPBACK_NETS[4], host(query.destination))
    ):
        return "127.0.0.0/8 is accepted only on lo"
    return ""


def refusal(
    snapshot: Snapshot,
    source: bytes,
    destination: bytes,
    link: str,
    mark: int = 0,
    output: str = "",
    tos: int = 0,
) -> tuple[int, str] | None:
    """Why the kernel rejects an incoming IPv4 packet for its source, as (errno, reason); None if it accepts it.

    `output` is the link that the packet would be forwarded to, "" if it is for this host. `mark` is the mark that
    the firewall gives the packet; the check ignores it unless src_valid_mark is set.
    """
    came = snapshot.links[link]
    mode = came.rp_filter
    has_own_rules = not is_untouched(snapshot.rules[4]) or _has_own_local_routes(snapshot)
    if not mode and not has_own_rules:
        if not came.accept_local and _is_own(snapshot, source):
            return EINVAL, f"{address_text(source)} is an address of this host"
        return None
    query = Query(source, destination, mark if came.src_valid_mark else 0, tos=tos)
    _, found, error = by_rules(snapshot, Flow(query, output or LOOPBACK, "", vrf_of(snapshot, link), False, 0))
    filtered = f"rp_filter is {mode} on {link}"
    if found is None or error:
        return (EXDEV, f"{filtered}, and there is no route back to {address_text(source)}") if mode else None
    if found.route.kind != "unicast" and not (found.route.kind == "local" and came.accept_local):
        return EINVAL, f"{address_text(source)} is {_article(found.route.kind)} address of this host"
    links = [hop.link for hop in found.route.hops]
    if link in links or any(vrf_of(snapshot, each) == link for each in links):
        return None
    if found.route.kind == "local" and link == LOOPBACK:
        return None
    has_no_address = not any(len(each.address) == 4 for each in came.addresses)
    if mode == STRICT or (mode and has_no_address):
        back = f"the route back to {address_text(source)} uses {' or '.join(links) or found.route.kind}"
        hint = ""
        if mark and not came.src_valid_mark:
            marked = snapshot._replace(links={**snapshot.links, link: came._replace(src_valid_mark=True)})
            if refusal(marked, source, destination, link, mark, output, tos) is None:
                hint = ", because src_valid_mark is 0"
        return EXDEV, f"{filtered}, and {back}{hint}"
    return None


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'au' else 'a'} {kind}"


def _has_own_local_routes(snapshot: Snapshot) -> bool:
    """Whether a local route is outside the local table (fib_has_custom_local_routes)."""
    return any(route.kind == "local" and route.table != LOCAL_TABLE for route in snapshot.routes[4])


def _is_own(snapshot: Snapshot, address: bytes) -> bool:
    return any(own.address == address for link in snapshot.links.values() for own in link.addresses)
