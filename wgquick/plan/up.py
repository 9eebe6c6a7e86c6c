"""cmd_up as data, in wg-quick(8)'s order. Each function plans one stage from settings and facts."""

from __future__ import annotations

from wgquick.device import DeviceConfig, PeerConfig
from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING
from wgquick.net import MAIN_TABLE, Prefix, Route, Rule, address_text, without_keys
from wgquick.plan.steps import (
    AddAddress,
    AddFirewall,
    AddLink,
    AddRoute,
    AddRule,
    Note,
    SetDevice,
    SetDns,
    SetFwmark,
    SetMtuUp,
    SetSysctl,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wgquick.config.settings import PeerSettings, Settings
    from wgquick.device import Device
    from wgquick.net import AllowedIP, Endpoint, PublicKey
    from wgquick.plan.facts import DefaultFacts, EndpointFacts, MtuFacts, RouteFacts
    from wgquick.plan.steps import Step

# Outer IPv6 and UDP headers, WireGuard's header and tag: 40 + 8 + 32 bytes.
OVERHEAD = 80
ETHERNET_MTU = 1500
DEFAULT_MTU = ETHERNET_MTU - OVERHEAD
SRC_VALID_MARK = "net.ipv4.conf.all.src_valid_mark"
IPV6_DISABLED = "IPv6 is disabled on this host"


def add_if(settings: Settings) -> tuple[Step, ...]:
    """The step that creates the link."""
    return (AddLink(settings.name),)


def announce_config(settings: Settings) -> tuple[Step, ...]:
    """The transcript line of set_config. It comes before the endpoints are resolved, as `wg addconf` does that."""
    return (Note(f"wg addconf {settings.name} /dev/fd/63", is_command=True),)


def set_config(settings: Settings, facts: EndpointFacts) -> tuple[Step, ...]:
    """The device's keys and peers. They are added to those that a PreUp hook set (`wg addconf`)."""
    peers = tuple(_peer_config(peer, facts) for peer in settings.peers)
    config = DeviceConfig(settings.private_key, settings.listen_port, settings.fwmark, peers=peers)
    return (SetDevice(settings.name, config),)


def _peer_config(peer: PeerSettings, facts: EndpointFacts) -> PeerConfig:
    return PeerConfig(
        peer.public_key,
        preshared_key=peer.preshared_key,
        endpoint=facts.resolved.get(peer.endpoint) if peer.endpoint else None,
        persistent_keepalive=peer.persistent_keepalive,
        replace_allowed_ips=peer.replace_allowed_ips,
        allowed_ips=peer.allowed_ips,
    )


def unresolved(name: str, wanted: Iterable[Endpoint], facts: EndpointFacts) -> tuple[Note, ...]:
    """A note for each of these endpoints that has no address yet."""
    missing = dict.fromkeys(endpoint for endpoint in wanted if endpoint not in facts.resolved)
    reason = f"the peer of {name} has no endpoint until `wgq watch' sets it"
    return tuple(Note(f"{without_keys(str(each))} cannot be resolved yet: {reason}") for each in missing)


def unknown(endpoints: Iterable[Endpoint]) -> tuple[Note, ...]:
    """A note for each of these endpoints. Their names have no address now, and a plan does not wait for one."""
    what = "cannot be resolved now: its address is not known yet"
    return tuple(Note(f"{without_keys(str(each))} {what}") for each in dict.fromkeys(endpoints))


def add_addr(settings: Settings, *, ipv6: bool, strict: bool) -> tuple[Step, ...]:
    """The addresses in the file's order. Without IPv6: the IPv4 ones and a note, or WgqError if `strict`."""
    usable = [a for a in settings.addresses if ipv6 or len(a.address) == 4]
    steps: list[Step] = [AddAddress(settings.name, address) for address in usable]
    if not ipv6 and _wants_ipv6(settings):
        if strict:
            raise WgqError(
                IPV6_DISABLED, remedy="Enable it (sysctl net.ipv6.conf.all.disable_ipv6=0), or omit --strict."
            )
        steps.insert(0, Note(f"{IPV6_DISABLED}: skipping the IPv6 addresses and routes of {settings.name}"))
    return tuple(steps)


def _wants_ipv6(settings: Settings) -> bool:
    """Whether the file has an IPv6 address, or IPv6 AllowedIPs with routes (without Table = off)."""
    routed = () if settings.table == "off" else settings.peers
    return any(len(a.address) == 16 for a in settings.addresses) or any(
        len(ip.address) == 16 for peer in routed for ip in peer.allowed_ips
    )


def ignored_peers(settings: Settings, device: Device) -> tuple[Step, ...]:
    """A note for each peer that the device ignored (drivers/net/wireguard/netlink.c, set_peer)."""
    taken = {peer.public_key for peer in device.peers}
    missing = dict.fromkeys(peer.public_key for peer in settings.peers if peer.public_key not in taken)
    return tuple(ignored_peer(settings.name, key) for key in missing)


def ignored_peer(name: str, key: PublicKey) -> Note:
    """The note for a peer that the device ignores."""
    return Note(f"{name} ignores the peer {key}: its PublicKey is the interface's own [peer-is-self]")


def looped(name: str, endpoints: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[Note, ...]:
    """A note for each endpoint to which packets go into the tunnel itself, or through others into it again."""
    end = "so no packet leaves this host [endpoint-in-tunnel]"
    ways = ((each, f" through {' and '.join(passed[1:])}" if passed[1:] else "") for each, passed in endpoints)
    return tuple(Note(f"The endpoint {each} is routed into {name} itself{way}, {end}") for each, way in ways)


def set_mtu(settings: Settings, facts: MtuFacts) -> tuple[Step, ...]:
    """Set the link up with the file's MTU, or the smallest path MTU of the endpoints minus 80 (set_mtu_up)."""
    if settings.mtu is not None:
        return (SetMtuUp(settings.name, settings.mtu),)
    return (SetMtuUp(settings.name, automatic_mtu(facts)),)


def automatic_mtu(facts: MtuFacts) -> int:
    """The smallest path MTU of the endpoints, or else the default route's MTU, minus OVERHEAD."""
    return (min(facts.endpoints, default=facts.default or 0) or ETHERNET_MTU) - OVERHEAD


def set_dns(settings: Settings, mode: str, allowed_ips: Iterable[AllowedIP]) -> tuple[Step, ...]:
    """The link's DNS; search domains alone set nothing, as in wg-quick."""
    if settings.dns_search and not settings.dns:
        return (Note(f"DNS has no server address: {', '.join(settings.dns_search)} alone has no effect"),)
    if not settings.dns or mode == "off":
        return ()
    full = settings.table != "off" and any(ip.length == 0 for ip in allowed_ips)
    return (SetDns(settings.name, mode, settings.dns, settings.dns_search, full),)


def route_order(allowed_ips: Iterable[AllowedIP]) -> list[AllowedIP]:
    """Longest prefix first, then in reverse byte order of the text: `sort -nr -k 2 -t /` under LC_ALL=C."""
    found = sorted(set(allowed_ips), key=lambda ip: address_text(ip[0]), reverse=True)
    found.sort(key=lambda ip: ip[1], reverse=True)
    return found


def add_routes(settings: Settings, facts: RouteFacts, *, strict: bool = False) -> tuple[Step, ...]:
    """A route for each of the device's AllowedIPs, and add_default for each /0 (wg-quick's add_route)."""
    if settings.table == "off":
        return ()
    wanted = [ip for ip in route_order(facts.allowed_ips) if facts.ipv6 or len(ip.address) == 4]
    if not settings.routes_automatically:
        table = MAIN_TABLE if facts.table is None else facts.table
        return tuple(_route(settings, ip, table, settings.table) for ip in wanted)
    return tuple(_automatic_routes(settings, wanted, facts, strict))


def _route(settings: Settings, ip: AllowedIP, table: int, word: str = "") -> AddRoute:
    new = tuple.__new__  # there may be 100,000
    return new(AddRoute, (new(Route, (new(Prefix, ip[:2]), settings.name, table)), word, False))


def _automatic_routes(
    settings: Settings, wanted: list[AllowedIP], facts: RouteFacts, strict: bool
) -> Iterator[Step]:
    covers = Coverage(facts.routes)
    default = facts.default
    for ip in wanted:
        if ip.length == 0 and default is not None:
            yield from add_default(settings, ip, default, strict=strict)
            # The second family uses the fwmark that the first one has set.
            default = default._replace(fwmark=default.fwmark or default.free_table)
        elif not covers(ip):
            yield _route(settings, ip, MAIN_TABLE)


class Coverage:
    """Whether a route through the link already covers an AllowedIP (`ip route show dev X match PREFIX`)."""

    def __init__(self, routes: Iterable[Prefix]) -> None:
        self._networks: dict[tuple[int, int], set[int]] = {}
        for route in routes:
            bits = len(route.address) * 8
            network = int.from_bytes(route.address, "big") >> (bits - route.length)
            self._networks.setdefault((bits, route.length), set()).add(network)

    def __call__(self, ip: AllowedIP) -> bool:
        address, most, _ = ip
        bits = len(address) * 8
        number = int.from_bytes(address, "big")
        for (width, length), networks in self._networks.items():
            if width == bits and length <= most and number >> (bits - length) in networks:
                return True
        return False


def next_priority(rules: Iterable[Rule], family: int) -> int:
    """The priority that the kernel gives a new rule: the second rule's minus one.

    See fib_default_rule_pref() in net/core/fib_rules.c.
    """
    of_family = [rule.priority or 0 for rule in rules if rule.family == family]
    return max(of_family[1] - 1, 0) if len(of_family) > 1 else 0


def add_default(settings: Settings, ip: AllowedIP, facts: DefaultFacts, *, strict: bool) -> Iterator[Step]:
    """A full tunnel of one family: fwmark, the two rules, the route, src_valid_mark and the firewall."""
    table = facts.fwmark or facts.free_table
    if not facts.fwmark:
        yield SetFwmark(settings.name, table)
    priority = next_priority(facts.rules, ip.family)
    yield AddRule(Rule(ip.family, table, priority, fwmark=table))
    yield AddRule(Rule(ip.family, MAIN_TABLE, max(priority - 1, 0), suppress_prefixlength=0))
    yield AddRoute(Route(Prefix(ip.address, 0), settings.name, table), str(table))
    if ip.family == 4:
        yield from set_src_valid_mark(facts, strict=strict)
    addresses = tuple(a.address for a in facts.addresses if a.family == ip.family)
    # The reverse path filter of IPv4 is in the kernel: src_valid_mark is enough for it.
    port = facts.listen_port if ip.family == 6 else 0
    yield AddFirewall(settings.name, facts.firewall, ip.family, addresses, table, port)


def set_src_valid_mark(facts: DefaultFacts, *, strict: bool) -> Iterator[Step]:
    """src_valid_mark = 1 if it is not 1 yet. The reverse path filter needs it for marked packets."""
    if facts.src_valid_mark == "1":
        if facts.src_valid_mark_earlier is not None:
            yield SetSysctl(SRC_VALID_MARK, "1", facts.src_valid_mark_earlier, held=True)
        return
    if facts.src_valid_mark is not None and facts.src_valid_mark_writable:
        yield SetSysctl(SRC_VALID_MARK, "1", facts.src_valid_mark)
        return
    seen = "cannot be read because /proc/sys is hidden: unless it is 1,"
    fault = seen if facts.src_valid_mark is None else "is not 1 and /proc/sys is read-only:"
    consequence = f"{fault} with rp_filter=1 the kernel drops the tunnel's replies"
    if strict:
        raise WgqError(
            f"{SRC_VALID_MARK} {consequence}",
            remedy=f"Set it for the container (docker run --sysctl {SRC_VALID_MARK}=1), or omit --strict.",
        )
    yield Note(f"{SRC_VALID_MARK} {consequence}. Set it for the container: --sysctl {SRC_VALID_MARK}=1")
