"""Plans wgq's own settings (`config.extras`): kill switch, excluded networks, inbound connections.

1. The kill switch is set before the link exists and allows only the endpoints (`guard`).
2. After the routes it is replaced by one with the tunnel's fwmark and port (`kept`).
3. Excluded networks are throw routes in the tunnel's table: the lookup continues in the next tables (`kept`).
4. Connections that come in by other links are answered on these links (`kept`).
"""

from __future__ import annotations

from wgquick.config.grammar import mask
from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import Guard, Prefix, SocketAddress, pack_address
from wgquick.plan.given import merged
from wgquick.plan.steps import AddThrow, KeepInbound, Note, RemoveGuard, SetGuard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from wgquick.config.settings import Settings
    from wgquick.device import DevicePeer
    from wgquick.net import Endpoint
    from wgquick.plan.steps import Step, Undo

_NO_TABLES = ("off", "main", "local", "default")


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
    """WgqError if the settings cannot be met."""
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
    return settings.table not in _NO_TABLES


def guard(settings: Settings, text: str, facts: TrafficFacts) -> tuple[Step, ...]:
    """The kill switch, if the file asks for it; `facts.mark` and `facts.port` are 0 before the device has them.

    `text` has the endpoints and DNS servers (`remembered`), also for the next up: the kill switch blocks queries.
    """
    return (SetGuard(settings.name, allowed(settings, text, facts), text),) if settings.extras.kill_switch else ()


def allowed(settings: Settings, text: str, facts: TrafficFacts) -> Guard:
    """What a kill switch allows; `text` has the endpoints and DNS servers (`remembered`)."""
    networks, servers_of_text = excluded(settings, facts.lans), tuple(servers(text))
    inbound = settings.extras.keep_inbound
    return Guard(facts.mark, facts.port, sockets(text), networks, inbound, servers=servers_of_text)


def _host(address: bytes) -> Prefix:
    return Prefix(address, len(address) * 8)


ROAMED = "@"
"""The mark of a peer in the text of `remembered`: its public key follows, in place of an endpoint of the file."""
_SERVER = "?"
"""In place of an endpoint: a DNS server that `wgq watch` may ask for the names of endpoints."""


def remembered(resolved: Iterable[tuple[object, SocketAddress]]) -> str:
    """The resolved endpoints in the journal's form: HOST:PORT=ADDRESS/PORT/SCOPE, separated by blanks."""
    return " ".join(f"{endpoint}={found.address}/{found.port}/{found.scope}" for endpoint, found in resolved)


def recalled(text: str) -> Iterator[tuple[str, SocketAddress]]:
    """The endpoints and addresses in a text from `remembered`."""
    return ((endpoint, address) for endpoint, address in _words(text) if endpoint != _SERVER)


def _words(text: str) -> Iterator[tuple[str, SocketAddress]]:
    for word in text.split():
        endpoint, _, found = word.rpartition("=")
        address, port, scope = found.split("/")
        yield endpoint, SocketAddress(address, int(port), int(scope))


def with_servers(text: str, asked: Iterable[SocketAddress]) -> str:
    """A text from `remembered` with these DNS servers in place of others."""
    return remembered((*recalled(text), *((_SERVER, server) for server in asked)))


def asked(text: str) -> tuple[SocketAddress, ...]:
    """The DNS servers in a text from `with_servers`."""
    return tuple(server for word, server in _words(text) if word == _SERVER)


def servers(text: str) -> Iterator[Prefix]:
    """The same as networks, as a kill switch needs them."""
    return (_host(pack_address(server.address)) for server in asked(text))


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


def followed(text: str, peers: Iterable[DevicePeer]) -> str:
    """A text from `remembered` with the endpoints to which peers have roamed, in place of earlier ones of these.

    A device changes an endpoint only for an authenticated packet, so no stranger opens the kill switch.
    """
    of_file = [(name, address) for name, address in recalled(text) if not name.startswith(ROAMED)]
    allowed = {(address.address, address.port) for _, address in of_file}
    roamed = [
        (f"{ROAMED}{peer.public_key}", peer.endpoint)
        for peer in peers
        if peer.endpoint is not None and (peer.endpoint.address, peer.endpoint.port) not in allowed
    ]
    return with_servers(remembered((*of_file, *roamed)), asked(text))


def standing(undos: Iterable[Undo]) -> RemoveGuard | None:
    """The latest undo of a kill switch; None if there is none."""
    return next((undo for undo in reversed(tuple(undos)) if isinstance(undo, RemoveGuard)), None)


def of_file(
    settings: Settings, resolved: Mapping[Endpoint, SocketAddress], text: str, servers: Iterable[SocketAddress]
) -> str:
    """A file's endpoints, newly resolved or from an earlier text, and `servers`, as a text from `remembered`.

    Of several sections of a peer only the last endpoint counts, as on the device.
    """
    known = dict(recalled(text))
    wanted = dict.fromkeys(peer.endpoint for peer in merged(settings).values() if peer.endpoint)
    found = {endpoint: resolved.get(endpoint) or known.get(str(endpoint)) for endpoint in wanted}
    known_now = ((endpoint, address) for endpoint, address in found.items() if address is not None)
    return with_servers(remembered(known_now), servers)


def joined(one: str, other: str) -> str:
    """A text from `remembered` with the endpoints of both; of one name's addresses that of `other` is the last."""
    return " ".join(dict.fromkeys((*(each for each in one.split() if each not in other.split()), *other.split())))


def are_alike(one: str, other: str) -> bool:
    """Whether two texts from `remembered` have the same endpoints."""
    return set(one.split()) == set(other.split())


def sockets(text: str) -> tuple[tuple[Prefix, int], ...]:
    """The addresses of a text from `remembered` as (network, port), as a kill switch needs them."""
    found = ((_host(pack_address(address.address)), address.port) for _, address in recalled(text))
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
        if not any(lies_in(network, other) for other in largest):
            largest.append(network)
    return tuple(largest)


def lies_in(network: Prefix, other: Prefix) -> bool:
    """Whether a network lies in another, or is that network."""
    return (
        network.family == other.family
        and network.length >= other.length
        and mask(network.address, other.length) == other.address
    )
