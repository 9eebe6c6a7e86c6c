"""Applies wgq's own settings during up: reads the facts and applies the steps of `plan.traffic`."""

from __future__ import annotations

from wgquick.config.grammar import mask
from wgquick.config.settings import LAN
from wgquick.errors import SignalError
from wgquick.executor import observe, udp_port
from wgquick.executor.journal import others
from wgquick.lean import TYPE_CHECKING
from wgquick.net import QUERY_MARK, TUNNELS, Prefix, SocketAddress, contains
from wgquick.plan import traffic as plan
from wgquick.plan.facts import EndpointFacts
from wgquick.plan.steps import Note, RemoveGuard, SetGuard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wgquick.config.settings import Settings
    from wgquick.device import Device
    from wgquick.executor.execution import Execution
    from wgquick.executor.journal import Record
    from wgquick.net import Endpoint, PublicKey
    from wgquick.plan.facts import RouteFacts
    from wgquick.ports import Host

_PRIVATE = tuple(
    Prefix.parse(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7")
)


def endpoints(
    settings: Settings,
    earlier: RemoveGuard | None,
    host: Host,
    resolved: Mapping[Endpoint, SocketAddress] | None = None,
) -> EndpointFacts:
    """Resolve every endpoint. An active kill switch blocks DNS queries: then names use the earlier answers.

    `resolved` has newer answers.
    """
    known, newer = _known(earlier), resolved or {}
    wanted = dict.fromkeys(peer.endpoint for peer in settings.peers if peer.endpoint)
    found = {each: newer.get(each) or known[each] for each in wanted if each in newer or each in known}
    missing = [each for each in wanted if each not in found]
    return EndpointFacts(found | observe.resolve_all(settings, missing, host))


def _known(earlier: RemoveGuard | None) -> dict[Endpoint | PublicKey, SocketAddress]:
    return dict(plan.owned(earlier.allowed)) if earlier else {}


def first_endpoints(
    settings: Settings, earlier: RemoveGuard | None, host: Host, run: Execution, *, waits: bool = True
) -> EndpointFacts:
    """Resolve every endpoint before `up` sets the kill switch. If that fails, set it with the remembered endpoints.

    An existing kill switch allows DNS queries meanwhile. Otherwise the tunnel could never come up again. Without
    `waits` the kill switch is set first and allows them too, and names that do not resolve at once are left out.
    """
    known = _known(earlier)
    wanted = [peer.endpoint for peer in settings.peers if peer.endpoint]
    found = EndpointFacts({each: known[each] for each in wanted if each in known})
    is_opened = (earlier is not None or not waits) and len(found.resolved) < len(set(wanted))
    try:
        if is_opened:
            _set_guard(settings, found, host, run, dns=True)
        if not waits:
            missing = [each for each in dict.fromkeys(wanted) if each not in found.resolved]
            return EndpointFacts({**found.resolved, **host.resolved_now(missing)})
        return endpoints(settings, earlier, host)
    except BaseException as error:
        if is_opened or not isinstance(error, (SignalError, KeyboardInterrupt)):
            _set_guard(settings, found, host, run)
        raise


def _set_guard(settings: Settings, found: EndpointFacts, host: Host, run: Execution, *, dns: bool = False) -> None:
    """Set the kill switch in its form before the link exists.

    `dns` allows DNS queries to the uplinks' servers, or to all servers if the uplinks' are unknown.
    """
    asked = host.outside_servers(_given(settings, host)) if dns else ()
    resolvers = tuple(plan.servers(plan.with_servers((), asked)))
    facts = plan.TrafficFacts(lans=excluded_lans(settings, host))
    asks = servers(settings, plan.last_guard(run.undos), host)
    destinations = plan.of_file(settings, found.resolved, (), asks)
    run.apply(
        step._replace(guard=step.guard._replace(dns=dns, resolvers=resolvers))
        if isinstance(step, SetGuard)
        else step
        for step in plan.guard(settings, destinations, facts)
    )


def servers(settings: Settings, earlier: RemoveGuard | None, host: Host) -> tuple[SocketAddress, ...]:
    """The DNS servers that `wgq watch` may ask for the names of endpoints; none if no endpoint is a name.

    They are those of the existing kill switch, or else those that the host would use without tunnels.
    """
    if not (settings.extras.kill_switch or earlier) or not plan.has_names(settings):
        return ()
    return (plan.asked(earlier.allowed) if earlier else ()) or host.outside_servers(_given(settings, host))


def _given(settings: Settings, host: Host) -> set[str]:
    """The DNS servers that tunnels have set."""
    return {server for each in others(host.journal_directory, "") for server in _dns_of(each)} | {*settings.dns}


def asked_outside(
    settings: Settings, endpoints: Iterable[Endpoint], device: Device, host: Host
) -> dict[Endpoint, SocketAddress]:
    """The addresses of endpoints from the uplinks' DNS servers, with packets that a kill switch may allow."""
    given, found = _given(settings, host), {}
    for endpoint in endpoints:
        answers = host.addresses(endpoint, device.fwmark or QUERY_MARK, given) or ()
        reachable = [each for each in answers if each.scope or _is_outside(each, device, host)]
        if answers:
            found[endpoint] = (*reachable, *answers)[0]
    return found


def _is_outside(address: SocketAddress, device: Device, host: Host) -> bool:
    path = host.rtnl.path(address.address, device.fwmark)
    return path is not None and path.link != device.name


def _dns_of(record: Record) -> Iterable[str]:
    """The DNS servers that a tunnel has set."""
    match record.applied:
        case {"dns": [_, [*servers], *_]}:
            return servers
        case _:
            return ()


def last_guard(record: Record | None) -> RemoveGuard | None:
    """The latest undo of a kill switch that an earlier run left in place, or None. Only down removes it."""
    return plan.last_guard(record.undos if record else ())


def guard(settings: Settings, found: EndpointFacts, host: Host, run: Execution) -> None:
    """Set the kill switch before the link exists, and print the other tunnels that it blocks."""
    _set_guard(settings, found, host, run)
    run.apply(blocked(settings.name, host))


def blocked(name: str, host: Host) -> tuple[Note, ...]:
    """A note with the other tunnels that the kill switch of `name` blocks, if there are any."""
    others = sorted(
        each for each in host.wireguard.interfaces() if each != name and not host.firewall.is_guarded(each)
    )
    return (Note(f"The kill switch of {name} blocks the packets of {', '.join(others)}"),) if others else ()


def keep(settings: Settings, found: EndpointFacts, routes: RouteFacts, host: Host, run: Execution) -> None:
    """Apply the settings that need the tunnel's fwmark and table, after its routes are added."""
    device, earlier = host.wireguard.get(settings.name), plan.last_guard(run.undos)
    is_full = routes.default is not None
    wide = (ip.family for ip in routes.allowed_ips if is_full and ip.length == 0)
    full = frozenset(family for family in wide if family == 4 or routes.ipv6)
    table = device.fwmark if full else routes.table or 0
    port = device.listen_port or udp_port.chosen(device, host)
    facts = plan.TrafficFacts(excluded_lans(settings, host), full, device.fwmark, table, port, routes.ipv6)
    run.apply(plan.kept(settings, facts))
    destinations = plan.of_file(settings, found.resolved, (), servers(settings, earlier, host))
    run.apply(plan.guard(settings, plan.followed(destinations, device.peers), facts))


def follow_hooks(settings: Settings, device: Device, run: Execution) -> None:
    """Make the kill switch allow the endpoints, the mark and the port that PostUp hooks have set on the device."""
    earlier = plan.last_guard(run.undos)
    last = next((step for step in reversed(run.taken) if isinstance(step, SetGuard)), None)
    if earlier is None or last is None:
        return
    destinations = plan.followed(earlier.allowed, device.peers)
    port = device.listen_port or last.guard.port
    wanted = last.guard._replace(mark=device.fwmark, port=port, endpoints=plan.sockets(destinations))
    if wanted != last.guard:
        run.apply([SetGuard(settings.name, wanted, destinations)])


def excluded_lans(settings: Settings, host: Host) -> tuple[Prefix, ...]:
    """What `lan` means, if the settings have it."""
    return lans(settings.name, host) if LAN in settings.extras.exclude else ()


def lans(name: str, host: Host) -> tuple[Prefix, ...]:
    """The private networks of the host's links other than `name`. Routes from DHCP are not trusted."""
    found: dict[Prefix, None] = {}
    for link in host.rtnl.links():
        if link.name == name or link.kind in TUNNELS or not link.up:
            continue
        for address in host.rtnl.addresses(link.name):
            network = Prefix(mask(address.address, address.length), address.length)
            if any(contains(private, network) for private in _PRIVATE):
                found[network] = None
    return tuple(found)
