"""The desired state of an interface: the result of the steps of `up`. Pure."""

from __future__ import annotations

from wgquick.config.grammar import mask
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import FirewallRules, Prefix
from wgquick.plan import traffic, up
from wgquick.plan.current import LinkDns
from wgquick.plan.facts import DefaultFacts, RouteFacts
from wgquick.plan.file_peers import claimed, merged
from wgquick.plan.steps import (
    AddAddress,
    AddFirewall,
    AddRoute,
    AddRule,
    AddThrow,
    KeepInbound,
    Note,
    SetDns,
    SetMtuUp,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.config.settings import Address, PeerSettings, Settings
    from wgquick.net import AllowedIP, PublicKey, Route, Rule
    from wgquick.plan.facts import DesiredFacts
    from wgquick.plan.steps import Step


class Desired(NamedTuple):
    """The desired state of an interface.

    For the device: `settings` with its keys and port, the joined `peers`, and `fwmark`; None keeps the current
    value. `mtu` is None if it is automatic and cannot be measured. `addresses` are in the file's order. `routes`
    name their tables; `words` maps table numbers to the file's spelling. `rules` have no priority, as the kernel
    chooses it. `src_valid_mark` is whether that parameter must be 1. `throws` are the excluded networks with their
    table; `inbound` is the mark of keep-inbound (0: not kept). `notes` are up's notes.
    """

    settings: Settings
    peers: dict[PublicKey, PeerSettings]
    fwmark: int | None = None
    mtu: int | None = None
    has_automatic_mtu: bool = True
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    words: dict[int, str] = {}  # noqa: RUF012 - never changed
    rules: tuple[Rule, ...] = ()
    firewall: tuple[FirewallRules, ...] = ()
    dns: LinkDns = LinkDns("off")
    src_valid_mark: bool = False
    throws: tuple[tuple[Prefix, int], ...] = ()
    inbound: int = 0
    notes: tuple[str, ...] = ()

    @property
    def full(self) -> frozenset[int]:
        """The families (4, 6) in which the interface is a full tunnel with its own rules."""
        return frozenset(rule.family for rule in self.rules if rule.fwmark is not None)


def desired(settings: Settings, facts: DesiredFacts, *, strict: bool = False) -> Desired:
    """The desired state of a file; WgqError if `strict` and the host lacks IPv6 or src_valid_mark."""
    wanted = allowed_ips(settings)
    steps: list[Step] = [
        *up.add_addr(settings, ipv6=facts.ipv6, strict=strict),
        *(up.set_mtu(settings, facts.mtu) if facts.mtu is not None else ()),
        *up.set_dns(settings, facts.dns_mode, wanted),
        *up.add_routes(settings, _route_facts(settings, wanted, facts), strict=strict),
    ]
    routes = [step for step in steps if isinstance(step, AddRoute)]
    steps = [step for step in steps if not isinstance(step, AddRoute)]
    rules = tuple(step.rule._replace(priority=None) for step in steps if isinstance(step, AddRule))
    mtus = [step.mtu for step in steps if isinstance(step, SetMtuUp)]
    fwmark = _fwmark(settings, rules, facts)
    steps += _kept(settings, rules, facts.device_fwmark if fwmark is None else fwmark, facts)
    dns = [LinkDns(*step[1:]) for step in steps if isinstance(step, SetDns)]
    return Desired(
        settings,
        merged(settings),
        fwmark,
        mtus[0] if mtus else None,
        settings.mtu is None,
        tuple(step.address for step in steps if isinstance(step, AddAddress)),
        tuple(step.route for step in routes),
        {step.route.table: step.table_word for step in routes if step.table_word},
        rules,
        tuple(FirewallRules(*step[1:]) for step in steps if isinstance(step, AddFirewall)),
        dns[0] if dns else LinkDns("off"),
        any(rule.family == 4 and rule.fwmark is not None for rule in rules),
        tuple((step.destination, step.table) for step in steps if isinstance(step, AddThrow)),
        next((step.mark for step in steps if isinstance(step, KeepInbound)), 0),
        tuple(step.text for step in steps if isinstance(step, Note)),
    )


def _kept(settings: Settings, rules: Iterable[Rule], fwmark: int, facts: DesiredFacts) -> tuple[Step, ...]:
    """The steps of up for excluded networks and inbound connections."""
    full = frozenset(rule.family for rule in rules if rule.fwmark is not None)
    table = fwmark if full else (facts.table or 0) if allowed_ips(settings) else 0
    return traffic.kept(settings, traffic.TrafficFacts(facts.lans, full, fwmark, table, ipv6=facts.ipv6))


def allowed_ips(settings: Settings) -> tuple[AllowedIP, ...]:
    """The AllowedIPs that the file gives to its peers, without those that wg(8)'s `-` form removes."""
    return tuple(dict.fromkeys(ip for peer in merged(settings).values() for ip in claimed(peer)))


def _route_facts(settings: Settings, wanted: tuple[AllowedIP, ...], facts: DesiredFacts) -> RouteFacts:
    usable = [a for a in settings.addresses if facts.ipv6 or len(a.address) == 4]
    default = None
    if not settings.extras.netns and any(ip.length == 0 and (facts.ipv6 or ip.family == 4) for ip in wanted):
        own = _as_listed(usable)
        default = DefaultFacts(
            fwmark=full_tunnel_mark(settings, facts),
            listen_port=settings.listen_port or facts.listen_port,
            free_table=facts.free_table,
            addresses=(*own, *(each for each in facts.link_addresses if each not in own)),
            src_valid_mark=facts.src_valid_mark,
            src_valid_mark_earlier=facts.src_valid_mark_earlier,
            src_valid_mark_writable=facts.src_valid_mark_writable,
            firewall=facts.firewall,
        )
    return RouteFacts(wanted, (*networks(usable), *facts.connected), facts.ipv6, facts.table, default)


def _as_listed(addresses: Iterable[Address]) -> tuple[Prefix, ...]:
    """The addresses in the kernel's order: secondary IPv4 addresses last, the newest IPv6 address first."""
    prefixes = [Prefix(address.address, address.length) for address in addresses]
    of_ipv4 = [prefix for prefix in prefixes if prefix.family == 4]
    primary = {Prefix(mask(p.address, p.length), p.length): p for p in reversed(of_ipv4)}
    first = [prefix for prefix in of_ipv4 if prefix in primary.values()]
    secondary = [prefix for prefix in of_ipv4 if prefix not in first]
    return (*first, *secondary, *(prefix for prefix in reversed(prefixes) if prefix.family == 6))


def full_tunnel_mark(settings: Settings, facts: DesiredFacts) -> int:
    """The fwmark of a full tunnel: the file's or the device's; 0 if a new one has to be chosen."""
    is_kept = settings.fwmark is None or facts.has_automatic_fwmark
    return settings.fwmark or (facts.device_fwmark if is_kept else 0)


def networks(addresses: Iterable[Address]) -> tuple[Prefix, ...]:
    """The networks to which the kernel makes routes for these addresses (fib_add_ifaddr, addrconf_prefix_route)."""
    return tuple(
        Prefix(mask(address.address, address.length), address.length)
        for address in addresses
        if address.length < 32 or len(address.address) == 16
    )


def _fwmark(settings: Settings, rules: Iterable[Rule], facts: DesiredFacts) -> int | None:
    """A full tunnel's fwmark, or the file's, or the device's unless it was chosen for a full tunnel."""
    of_full = next((rule.fwmark for rule in rules if rule.fwmark is not None), None)
    if of_full is not None or settings.fwmark is not None:
        return of_full or settings.fwmark
    return 0 if facts.has_automatic_fwmark else None
