"""Traffic where it belongs: what the settings of wgq's own (`config.extras`) ask of the host.

1. The kill switch stands before the link exists, with the endpoints alone (`guard`).
2. Behind the routes it is put in place again, with the tunnel's mark and port (`kept`).
3. Excluded networks are throw routes in the tunnel's table: the look-up goes on to the tables below (`kept`).
4. Connections that come in on other links are answered there (`kept`).
"""

from __future__ import annotations

from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import Guard, Prefix, pack_address
from wgquick.plan.steps import AddThrow, KeepInbound, Note, SetGuard
from wgquick.plan.up import routes_automatically

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.config.settings import Settings
    from wgquick.net import SocketAddress
    from wgquick.plan.steps import Step

_NO_TABLES = ("off", "main", "local", "default")


class TrafficFacts(NamedTuple):
    """What of the host the settings of wgq's own depend on.

    `lans` are the private networks of the host's other links. `full` are the families (4, 6) with a full tunnel,
    `mark` the device's, `table` that of the excluded networks (0: none), `port` the device's UDP port.
    """

    lans: tuple[Prefix, ...] = ()
    full: frozenset[int] = frozenset()
    mark: int = 0
    table: int = 0
    port: int = 0


def is_wanted(settings: Settings) -> bool:
    """Whether the file has a setting of wgq's own."""
    return any(settings.extras)


def check(settings: Settings) -> None:
    """WgqError if the settings cannot be met."""
    extras = settings.extras
    networks = [each for each in extras.exclude if not isinstance(each, str)]
    allowed = {(ip.address, ip.length) for peer in settings.peers for ip in peer.allowed_ips}
    for each in networks:
        if (each.address, each.length) in allowed:
            what = f"{each} is excluded, and a peer has it in AllowedIPs"
            raise WgqError(what, where=settings.path or settings.name, remedy="Take it out of one of the two.")
    if not networks or extras.kill_switch or _has_table(settings):
        return
    remedy = "Take them out of AllowedIPs instead: `wgq allowed-ips' computes what is left."
    what = "exclude needs a table of the tunnel's own: a peer with 0.0.0.0/0 or ::/0, or Table = NUMBER"
    raise WgqError(what, where=settings.path or settings.name, remedy=remedy)


def _has_table(settings: Settings) -> bool:
    if routes_automatically(settings):
        return any(ip.length == 0 for peer in settings.peers for ip in peer.allowed_ips)
    return settings.table not in _NO_TABLES


def guard(
    settings: Settings, endpoints: Iterable[SocketAddress], remembered: str, facts: TrafficFacts
) -> tuple[Step, ...]:
    """The kill switch, if the file wants it; `facts.mark` and `facts.port` are 0 before the device has them.

    `remembered` is for the next up, which cannot look names up.
    """
    extras = settings.extras
    if not extras.kill_switch:
        return ()
    sockets = dict.fromkeys((_host(pack_address(each.address)), each.port) for each in endpoints)
    wanted = Guard(facts.mark, facts.port, tuple(sockets), _excluded(settings, facts), extras.keep_inbound)
    return (SetGuard(settings.name, wanted, remembered),)


def _host(address: bytes) -> Prefix:
    return Prefix(address, len(address) * 8)


def kept(settings: Settings, facts: TrafficFacts) -> tuple[Step, ...]:
    """The excluded networks, and the answers to connections that come in beside the tunnel."""
    steps: list[Step] = []
    if facts.table:
        excluded = _excluded(settings, facts)
        steps += [AddThrow(each, facts.table) for each in excluded if each.family in facts.full or not facts.mark]
    if settings.extras.keep_inbound:
        if facts.full and facts.mark:
            steps.append(KeepInbound(settings.name, facts.mark))
        else:
            steps.append(Note(f"[!] {settings.name} is no full tunnel: keep-inbound has nothing to do"))
    return tuple(steps)


def _excluded(settings: Settings, facts: TrafficFacts) -> tuple[Prefix, ...]:
    """The networks, those connected for `lan`, without the ones that lie in others."""
    every: list[Prefix] = []
    for each in settings.extras.exclude:
        every += facts.lans if isinstance(each, str) else (each,)
    ordered = sorted(dict.fromkeys(every), key=lambda network: network.length)
    largest: list[Prefix] = []
    for network in ordered:
        if not any(_lies_in(network, other) for other in largest):
            largest.append(network)
    return tuple(largest)


def _lies_in(network: Prefix, other: Prefix) -> bool:
    shift = len(network.address) * 8 - other.length
    one, two = (int.from_bytes(each.address, "big") >> shift for each in (network, other))
    return network.family == other.family and one == two
