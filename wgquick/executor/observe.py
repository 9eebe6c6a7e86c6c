"""Reads from the host the facts that the planners need, each as late as wg-quick reads it."""

from __future__ import annotations

from wgquick.config import location
from wgquick.config.grammar import GrammarError
from wgquick.config.parser import endpoint_place, table_fault
from wgquick.config.tables import table_number
from wgquick.device import peer_of
from wgquick.errors import ConfigError, OperationError, UnresolvedError, WgqError
from wgquick.executor import src_valid_mark, udp_port
from wgquick.lean import TYPE_CHECKING, suppress
from wgquick.net import FIRST_TABLE, MAIN_TABLE, TUNNELS, SocketAddress, pack_address
from wgquick.plan.facts import DefaultFacts, DownFacts, EndpointFacts, MtuFacts, RouteFacts
from wgquick.plan.steps import parameter
from wgquick.plan.up import SRC_VALID_MARK

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from wgquick.config.settings import Settings
    from wgquick.device import Device, DevicePeer
    from wgquick.errors import Diagnostic
    from wgquick.net import AllowedIP, Endpoint, Link, Path, Prefix, Rule
    from wgquick.options import Options
    from wgquick.ports import Host, RtNetlink, Sysctl


MOST_TRACED = 64


def endpoints(settings: Settings, host: Host, options: Options) -> EndpointFacts:
    """Resolve every endpoint of the configuration, each once."""
    wanted = dict.fromkeys(peer.endpoint for peer in settings.peers if peer.endpoint)
    if options.no_wait_for_dns:
        return EndpointFacts(host.resolved_now(wanted))
    return EndpointFacts(resolve_all(settings, wanted, host))


def resolve_all(settings: Settings, wanted: Iterable[Endpoint], host: Host) -> dict[Endpoint, SocketAddress]:
    """Resolve endpoints of the file; UnresolvedError has the place of the one that cannot be resolved."""
    try:
        return host.resolve_all(wanted)
    except UnresolvedError as error:
        error.where = _place(settings, error.endpoint)
        raise


def _place(settings: Settings, endpoint: Endpoint) -> str:
    """PATH:LINE:COLUMN, the path alone if the file no longer has the endpoint, or "" without a file."""
    if not settings.path:
        return ""
    with suppress(WgqError):  # the file was removed after it was read
        document = location.read(location.Location(settings.name, settings.path))
        if place := endpoint_place(document, endpoint):
            return f"{settings.path}:{place[0]}:{place[1]}"
    return settings.path


def ipv6(name: str, host: Host) -> bool:
    """Whether the link takes IPv6 addresses."""
    return host.rtnl.takes_ipv6(name)


def default_ipv6(rtnl: RtNetlink, sysctl: Sysctl) -> bool:
    """Whether a new link takes IPv6 addresses."""
    return sysctl.read("net/ipv6/conf/default/disable_ipv6") != "1" and rtnl.takes_ipv6("lo")


def mtu(settings: Settings, device: Device, host: Host) -> MtuFacts:
    """The MTUs of the paths to the device's endpoints; empty if the configuration sets an MTU."""
    if settings.mtu is not None:
        return MtuFacts()
    found = _path_mtus(_route_targets(device.peers), host)
    default = None if found else _default_mtu(host)
    return MtuFacts(found, default)


def _route_targets(peers: Iterable[DevicePeer]) -> list[str]:
    """The endpoints' addresses. Those with a zone are left out, as wg-quick's pattern does not match them."""
    targets = (peer.endpoint for peer in peers)
    return list(dict.fromkeys(e.address for e in targets if isinstance(e, SocketAddress) and not e.scope))


def looped(name: str, peers: Iterable[DevicePeer], fwmark: int, host: Host) -> list[tuple[str, tuple[str, ...]]]:
    """Those of the first MOST_TRACED endpoints to which no packet leaves this host, as it goes round in a loop.

    Each with the tunnels that the packets go through: this one alone, or others that lead into it again.
    """
    found = []
    tunnels = _Tunnels(host)
    for target in _route_targets(peers)[:MOST_TRACED]:
        passed, end, mark = [name], target, fwmark
        while end and (path := host.rtnl.path(end, mark)) is not None:
            if path.link in passed:
                found.append((target, tuple(passed)))
                break
            end, mark = tunnels.beyond(path.link, end)
            passed.append(path.link)
    return found


class _Tunnels:
    """The other tunnels of the host, each read once and only if a packet goes into it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._devices: dict[str, Device | None] = {}

    def beyond(self, link: str, address: str) -> tuple[str, int]:
        """The endpoint to which a link sends packets for an address, and their mark; "" if it is no tunnel."""
        if link not in self._devices:
            found = self._host.rtnl.link(link)
            is_tunnel = found is not None and found.kind in TUNNELS and link in self._host.wireguard.interfaces()
            self._devices[link] = self._host.wireguard.get(link) if is_tunnel else None
        device = self._devices[link]
        if device is None:
            return "", 0
        chosen = peer_of(device.peers, pack_address(address))
        endpoint = chosen[0].endpoint if chosen else None
        return (endpoint.address if endpoint is not None else ""), device.fwmark


def _path_mtus(targets: list[str], host: Host) -> tuple[int, ...]:
    paths = [path for path in map(host.rtnl.path, targets) if path]
    links = {link.name: link for link in host.rtnl.links()} if paths else {}
    return tuple(size for size in (_mtu_of(path, links) for path in paths) if size)


def _default_mtu(host: Host) -> int | None:
    path = host.rtnl.default_path()
    return _mtu_of(path, {link.name: link for link in host.rtnl.links()}) if path else None


def _mtu_of(path: Path, links: dict[str, Link]) -> int:
    link = links.get(path.link)
    return path.mtu or (link.mtu if link else 0)


def allowed_ips(device: Device) -> tuple[AllowedIP, ...]:
    """The AllowedIPs of all peers in the device's order."""
    return tuple(ip for peer in device.peers for ip in peer.allowed_ips)


def routes(settings: Settings, device: Device, host: Host, options: Options, *, ipv6: bool) -> RouteFacts:
    """The facts for add_route and add_default. The AllowedIPs are the device's, not the file's.

    `ipv6` was read before the addresses were added. If a small MTU has removed IPv6 from the link since then, the
    kernel refuses the IPv6 routes, as under wg-quick.
    """
    if settings.table == "off":
        return RouteFacts()
    wanted = allowed_ips(device)
    if not settings.routes_automatically:
        return RouteFacts(wanted, ipv6=ipv6, table=table(settings, host) if wanted else None)
    families = (4, 6) if ipv6 else (4,)
    through = tuple(r for family in families for r in _link_routes(settings.name, family, host))
    default = not settings.extras.netns and any(ip.length == 0 and (ipv6 or len(ip.address) == 4) for ip in wanted)
    return RouteFacts(wanted, through, ipv6, default=_default(settings, device, host, options) if default else None)


def table(settings: Settings, host: Host) -> int | None:
    """The number of the file's table, None if the file sets none; WgqError if the host does not know the table."""
    if settings.routes_automatically or settings.table == "off":
        return None
    try:
        return table_number(settings.table, host.table_names())
    except GrammarError as error:
        raise _unknown_table(settings, error) from None


def _unknown_table(settings: Settings, fault: GrammarError) -> WgqError:
    """The fault with its line and column if there is a file."""
    found = _in_its_place(fault, settings) if settings.path else None
    if found is None:
        return WgqError(str(fault), where=settings.path or settings.name, remedy=fault.remedy)
    return ConfigError(settings.path, [found])


def _in_its_place(fault: GrammarError, settings: Settings) -> Diagnostic | None:
    try:
        return table_fault(location.read(location.Location(settings.name, settings.path)), fault)
    except WgqError:  # the file was removed after it was read
        return None


def _link_routes(name: str, family: int, host: Host) -> list[Prefix]:
    return host.rtnl.routes(family=family, table=MAIN_TABLE, device=name)


def _default(settings: Settings, device: Device, host: Host, options: Options) -> DefaultFacts:
    has_ipv6 = any(ip.length == 0 and ip.family == 6 for ip in allowed_ips(device))
    return DefaultFacts(
        fwmark=device.fwmark,
        listen_port=udp_port.chosen(device, host) if has_ipv6 else device.listen_port,
        free_table=FIRST_TABLE if device.fwmark else free_table(host),
        rules=rules(host),
        addresses=tuple(host.rtnl.addresses(settings.name)),
        src_valid_mark=host.sysctl.read(parameter(SRC_VALID_MARK)),
        src_valid_mark_earlier=src_valid_mark.earlier(host, settings.name),
        src_valid_mark_writable=host.sysctl.writable(parameter(SRC_VALID_MARK)),
        firewall=host.firewall.choose(options.firewall),
    )


def free_table(host: Host) -> int:
    """The first table from 51820 that is empty in both families."""
    table = FIRST_TABLE
    while not all(_is_empty(host, family, table) for family in (4, 6)):
        table += 1
    return table


def _is_empty(host: Host, family: int, table: int) -> bool:
    """Whether a table is empty. A kernel without the family answers with an error, which counts as empty."""
    try:
        return host.rtnl.table_is_empty(family, table)
    except OperationError:
        return True


def rules(host: Host) -> tuple[Rule, ...]:
    """The policy rules of both families."""
    return tuple(rule for family in (4, 6) for rule in _family_rules(host, family))


def _family_rules(host: Host, family: int) -> list[Rule]:
    try:
        return host.rtnl.rules(family)
    except OperationError:
        return []


def down(settings: Settings | None, name: str, host: Host, options: Options) -> DownFacts:
    """The state of a tunnel that has no journal."""
    # All network namespaces share /run, so a daemon's socket may belong to another namespace.
    exists = host.rtnl.link(name) is not None and name in host.wireguard.interfaces()
    device = host.wireguard.get(name) if exists else None
    return DownFacts(
        exists=exists,
        fwmark=device.fwmark if device else 0,
        has_default=any(ip.length == 0 for ip in allowed_ips(device)) if device else False,
        rules=rules(host),
        dns_mode=host.dns.detect(options.dns) if settings is not None and settings.dns else "",
        other_marks=_other_marks((name,), host),
    )


def unclaimed_rules(names: Collection[str], host: Host) -> tuple[Rule, ...]:
    """The policy rules, without those for the tables of devices with other names.

    Another device may use this tunnel's table: a link that is set down loses its routes, so its table is free.
    """
    others = _other_marks(names, host)
    return tuple(rule for rule in rules(host) if rule.table not in others)


def _other_marks(names: Collection[str], host: Host) -> frozenset[int]:
    """The fwmarks of the devices with other names, which are also their tables."""
    return frozenset(_mark(other, host) for other in host.wireguard.interfaces() if other not in names) - {0}


def _mark(name: str, host: Host) -> int:
    """A device's fwmark; 0 if its daemon ended or hangs, as that must not stop another tunnel's down."""
    try:
        return host.wireguard.get(name).fwmark
    except OperationError:
        return 0
