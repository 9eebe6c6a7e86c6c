"""Plans wgq's own settings (`config.extras`): kill switch, excluded networks, inbound connections.

1. The kill switch is set before the link exists and allows only the endpoints (`guard`).
2. After the routes it is replaced by one with the tunnel's fwmark and port (`kept`).
3. Excluded networks are throw routes in the tunnel's table: the lookup continues in the next tables (`kept`).
4. Connections that come in by other links are answered on these links (`kept`).
"""

from __future__ import annotations

from wgquick.config.tables import is_separate
from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import Destination, Endpoint, Guard, Prefix, contains, pack_address
from wgquick.plan.file_peers import merged
from wgquick.plan.steps import AddThrow, KeepInbound, Note, RemoveGuard, SetGuard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from wgquick.config.settings import Settings
    from wgquick.device import DevicePeer
    from wgquick.net import PublicKey, SocketAddress
    from wgquick.plan.steps import Step, Undo


class TrafficFacts(NamedTuple):
    """The facts that wgq's own settings depend on.

    `lans` are the private networks of the host's other links. `full` are the families (4, 6) with a full tunnel,
    `mark` the device's fwmark, `table` the table for excluded networks (0: none), `port` the device's UDP port.
    `ipv6` is whether the link takes IPv6 addresses.
    """

    lans: tuple[Prefix, ...] = ()
    full: frozenset[int] = frozenset()
    mark: int = 0
    table: int = 0
    port: int = 0
    ipv6: bool = True


def is_wanted(settings: Settings) -> bool:
    """Whether the file has a setting that directs traffic."""
    extras = settings.extras
    return extras.kill_switch or bool(extras.exclude) or extras.keep_inbound


def check(settings: Settings) -> None:
    """WgqError if the settings cannot be applied to this tunnel."""
    extras = settings.extras
    networks = [each for each in extras.exclude if not isinstance(each, str)]
    allowed = {(ip.address, ip.length) for peer in settings.peers for ip in peer.allowed_ips}
    for each in networks:
        if (each.address, each.length) in allowed:
            what = f"{each} is excluded, and a peer has it in AllowedIPs"
            raise WgqError(what, where=settings.path or settings.name, remedy="Remove it from one of them.")
    if not networks or extras.kill_switch or _has_table(settings):
        return
    remedy = "Remove them from AllowedIPs instead: `wgq allowed-ips' computes the remaining networks."
    what = "exclude needs a separate routing table: a peer with 0.0.0.0/0 or ::/0, or Table = NUMBER"
    raise WgqError(what, where=settings.path or settings.name, remedy=remedy)


def _has_table(settings: Settings) -> bool:
    if settings.routes_automatically:
        return any(ip.length == 0 for peer in settings.peers for ip in peer.allowed_ips)
    return is_separate(settings.table)


def guard(settings: Settings, destinations: tuple[Destination, ...], facts: TrafficFacts) -> tuple[Step, ...]:
    """The kill switch, if the file asks for it; `facts.mark` and `facts.port` are 0 before the device has them.

    The journal keeps the destinations for the next up: the kill switch blocks queries.
    """
    if not settings.extras.kill_switch:
        return ()
    return (SetGuard(settings.name, allowed(settings, destinations, facts), destinations),)


def allowed(settings: Settings, destinations: Iterable[Destination], facts: TrafficFacts) -> Guard:
    """What a kill switch allows."""
    destinations = tuple(destinations)
    return Guard(
        facts.mark,
        facts.port,
        sockets(destinations),
        excluded(settings, facts.lans),
        settings.extras.keep_inbound,
        servers=tuple(servers(destinations)),
    )


def _host(address: bytes) -> Prefix:
    return Prefix(address, len(address) * 8)


def resolved(found: Iterable[tuple[Endpoint | PublicKey, SocketAddress]]) -> tuple[Destination, ...]:
    """The destinations for resolved endpoints, and for peers with the endpoints to which they have roamed."""
    return tuple(Destination(address, owner) for owner, address in found)


def owned(destinations: Iterable[Destination]) -> Iterator[tuple[Endpoint | PublicKey, SocketAddress]]:
    """The endpoints and roamed peers with their addresses, without the DNS servers."""
    return ((each.owner, each.address) for each in destinations if each.owner is not None)


def with_servers(destinations: Iterable[Destination], servers: Iterable[SocketAddress]) -> tuple[Destination, ...]:
    """The destinations with these DNS servers in place of others."""
    kept = (each for each in destinations if each.owner is not None)
    return (*kept, *map(Destination, servers))


def asked(destinations: Iterable[Destination]) -> tuple[SocketAddress, ...]:
    """The DNS servers."""
    return tuple(each.address for each in destinations if each.owner is None)


def servers(destinations: Iterable[Destination]) -> Iterator[Prefix]:
    """The DNS servers as networks, as a kill switch needs them."""
    return (_host(pack_address(server.address)) for server in asked(destinations))


def has_names(settings: Settings) -> bool:
    """Whether a peer's endpoint is a name, so that `wgq watch` may have to look it up."""
    return any(peer.endpoint is not None and is_name(peer.endpoint.host) for peer in settings.peers)


def is_name(host: str) -> bool:
    """Whether an endpoint's host is a name, not an address."""
    try:
        pack_address(host.partition("%")[0])
    except ValueError:
        return True
    return False


def followed(destinations: tuple[Destination, ...], peers: Iterable[DevicePeer]) -> tuple[Destination, ...]:
    """The destinations with the endpoints to which peers have roamed, in place of earlier ones of these peers.

    A device changes an endpoint only for an authenticated packet, so no stranger opens the kill switch.
    """
    of_file = [each for each in destinations if isinstance(each.owner, Endpoint)]
    allowed = {(each.address.address, each.address.port) for each in of_file}
    roamed = [
        Destination(peer.endpoint, peer.public_key)
        for peer in peers
        if peer.endpoint is not None and (peer.endpoint.address, peer.endpoint.port) not in allowed
    ]
    return with_servers((*of_file, *roamed), asked(destinations))


def last_guard(undos: Iterable[Undo]) -> RemoveGuard | None:
    """The latest undo of a kill switch; None if there is none."""
    return next((undo for undo in reversed(tuple(undos)) if isinstance(undo, RemoveGuard)), None)


def of_file(
    settings: Settings,
    found: Mapping[Endpoint, SocketAddress],
    earlier: Iterable[Destination],
    servers: Iterable[SocketAddress],
) -> tuple[Destination, ...]:
    """A file's endpoints, newly resolved or from earlier destinations, and `servers`.

    Of several sections of a peer only the last endpoint counts, as on the device.
    """
    known = dict(owned(earlier))
    wanted = dict.fromkeys(peer.endpoint for peer in merged(settings).values() if peer.endpoint)
    addresses = {endpoint: found.get(endpoint) or known.get(endpoint) for endpoint in wanted}
    known_now = ((endpoint, address) for endpoint, address in addresses.items() if address is not None)
    return with_servers(resolved(known_now), servers)


def joined(one: tuple[Destination, ...], other: tuple[Destination, ...]) -> tuple[Destination, ...]:
    """The destinations of both; of one name's addresses that of `other` is the last."""
    return tuple(dict.fromkeys((*(each for each in one if each not in other), *other)))


def are_alike(one: Iterable[Destination], other: Iterable[Destination]) -> bool:
    """Whether both have the same destinations."""
    return set(one) == set(other)


def sockets(destinations: Iterable[Destination]) -> tuple[tuple[Prefix, int], ...]:
    """The addresses of endpoints and roamed peers as (network, port), as a kill switch needs them."""
    found = ((_host(pack_address(address.address)), address.port) for _, address in owned(destinations))
    return tuple(dict.fromkeys(found))


def kept(settings: Settings, facts: TrafficFacts) -> tuple[Step, ...]:
    """The steps for excluded networks and inbound connections."""
    steps: list[Step] = []
    if facts.table:
        families = facts.full or ((4, 6) if facts.ipv6 else (4,))
        networks = excluded(settings, facts.lans)
        steps += [AddThrow(each, facts.table) for each in networks if each.family in families]
    if settings.extras.keep_inbound:
        if facts.full and facts.mark:
            steps.append(KeepInbound(settings.name, facts.mark))
        else:
            steps.append(Note(f"{settings.name} is not a full tunnel: keep-inbound has no effect"))
    return tuple(steps)


def excluded(settings: Settings, lans: tuple[Prefix, ...]) -> tuple[Prefix, ...]:
    """The excluded networks, with `lan` replaced by `lans`, without networks inside other ones."""
    every: list[Prefix] = []
    for each in settings.extras.exclude:
        every += lans if isinstance(each, str) else (each,)
    return without_nested(every)


def without_nested(networks: Iterable[Prefix]) -> tuple[Prefix, ...]:
    """The networks without those inside other ones, the largest first."""
    ordered = sorted(dict.fromkeys(networks), key=lambda network: network.length)
    largest: list[Prefix] = []
    for network in ordered:
        if not any(contains(other, network) for other in largest):
            largest.append(network)
    return tuple(largest)
