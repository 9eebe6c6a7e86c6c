"""The ordered steps from the host's current state to the desired state, each with the steps that revert it. Pure.

Additions come before removals, so that no packet is lost: a peer gets a network before the network is routed, and
loses it after its route is removed. Only state in the journal is removed. Without a journal only state that
wg-quick(8) would have made is removed.
"""

from __future__ import annotations

from wgquick.config.grammar import mask
from wgquick.config.settings import LAN, Extras
from wgquick.device import DeviceConfig
from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import IPV6_MTU, MAIN_TABLE, AllowedIP, Prefix, Route, Rule, is_link_local, pack_address
from wgquick.plan import down, lost, reload, traffic, up
from wgquick.plan.desired import networks
from wgquick.plan.facts import DefaultFacts
from wgquick.plan.source_order import are_alike
from wgquick.plan.steps import (
    AddAddress,
    AddFirewall,
    AddRoute,
    AddRule,
    AddThrow,
    ChangeDevice,
    DeleteAddress,
    DeleteRoute,
    DeleteRule,
    DeleteThrow,
    ForgetInbound,
    KeepInbound,
    Note,
    ReleaseSysctl,
    RemoveFirewall,
    RemoveGuard,
    ReplaceFirewall,
    SetDns,
    SetGuard,
    SetMtu,
    SetMtuUp,
    SetSysctl,
    UndoStep,
    UnsetDns,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wgquick.config.settings import Address
    from wgquick.device import Device
    from wgquick.net import Destination, FirewallRules, Guard, LinkRoute
    from wgquick.plan.applied import Known
    from wgquick.plan.current import Current, LinkDns
    from wgquick.plan.desired import Desired
    from wgquick.plan.facts import DesiredFacts
    from wgquick.plan.reload import DeviceChange
    from wgquick.plan.steps import Step
    from wgquick.transcript import Line


class Move(NamedTuple):
    """One step, and the steps that revert it."""

    step: Step
    back: tuple[Step, ...] = ()


class Difference(NamedTuple):
    """The moves in order. `restart` has the reasons why the interface has to be restarted."""

    moves: tuple[Move, ...] = ()
    restart: tuple[str, ...] = ()


def difference(
    wanted: Desired,
    now: Current,
    known: Known,
    change: DeviceChange,
    facts: DesiredFacts,
    endpoints: tuple[Destination, ...] = (),
) -> Difference:
    """The difference from `now` to `wanted`; `change` is the device's part.

    `endpoints` are the file's, for a kill switch. WgqError if `up` would fail
    for the same reason.
    """
    if wanted.mtu is not None and wanted.mtu < IPV6_MTU:
        wanted = _without_ipv6(wanted)
    addresses = _Addresses(wanted, now, known)
    routes = _Routes(wanted, now, known)
    rules = _Rules(wanted, now, known, change)
    guard = _Guard(wanted, now, known, change, facts, endpoints)
    extras = _Extras(wanted, now, known, facts)
    moves = (
        *guard.opened(),
        *_mtu(wanted, now, known, is_first=True),
        *addresses.conflicting(),
        *(_addition(rule) for rule in rules.passes if rule not in now.rules),
        *extras.added(),
        *_device(now, change.first, reload.lines(now.name, change.first)),
        *addresses.added(),
        *rules.added(),
        *routes.added(),
        *_sysctl(wanted, now, known, facts),
        *_firewall(wanted, now, known),
        *_dns(wanted, now, known),
        *_firewall_gone(wanted, now, known),
        *rules.removed(),
        *routes.removed(),
        *map(_removal, rules.passes),
        *extras.removed(),
        *addresses.removed(),
        *addresses.added_late(),
        *_device(now, change.last, reload.removal_lines(now.name, change)),
        *_mtu(wanted, now, known, is_first=False),
        *_sysctl_released(wanted, known),
        *guard.closed(),
    )
    reasons = (*addresses.reasons(), *_extras_reasons(wanted, known))
    return Difference(moves, reasons)


class _Extras:
    """The excluded networks and the rules of keep-inbound, which the journal records by their undos."""

    def __init__(self, wanted: Desired, now: Current, known: Known, facts: DesiredFacts) -> None:
        self._name, undos = now.name, known.undos or ()
        current = facts.extras or lost.CurrentExtras()
        throws = {_place_of(undo): undo for undo in undos if isinstance(undo, DeleteThrow)}
        present = current.throws if facts.extras is not None else frozenset(throws)
        self._missing = [each for each in wanted.throws if each not in throws or each not in present]
        self._gone = [undo for throw, undo in throws.items() if throw not in wanted.throws]
        self._inbound = wanted.inbound
        self._keeps = any(isinstance(undo, ForgetInbound) for undo in undos)
        marks = [undo.rule.fwmark for undo in undos if isinstance(undo, DeleteRule) and undo.rule.fwmark]
        self._mark = marks[-1] if marks else now.device.fwmark if now.device else 0
        self._is_kept = self._keeps and current.inbound and not known.is_unfinished and self._mark == wanted.inbound

    def added(self) -> Iterator[Move]:
        for destination, table in self._missing:
            undo = DeleteThrow(str(destination), table)
            yield Move(AddThrow(destination, table), (UndoStep(undo),))
        if self._inbound and not self._is_kept:
            back = KeepInbound(self._name, self._mark) if self._keeps else UndoStep(ForgetInbound(self._name))
            yield Move(KeepInbound(self._name, self._inbound), (back,))

    def removed(self) -> Iterator[Move]:
        if self._keeps and not self._inbound:
            back = (KeepInbound(self._name, self._mark),) if self._mark else ()
            yield Move(UndoStep(ForgetInbound(self._name)), back)
        for undo in self._gone:
            yield Move(UndoStep(undo), (AddThrow(*_place_of(undo)),))


def _place_of(undo: DeleteThrow) -> tuple[Prefix, int]:
    return Prefix.parse(undo.destination), undo.table


class _Guard:
    """The kill switch before, during and after the other moves.

    While these run, it allows the traffic of both the earlier and the new tunnel. It is set first and removed last.
    """

    def __init__(
        self,
        wanted: Desired,
        now: Current,
        known: Known,
        change: DeviceChange,
        facts: DesiredFacts,
        endpoints: tuple[Destination, ...],
    ) -> None:
        self._name, self._is_wanted = now.name, wanted.settings.extras.kill_switch
        undos, device = known.undos or (), now.device
        guard = traffic.last_guard(undos)
        self._is_set = guard is not None
        self._is_idle = device is None or known.undos is None or not (self._is_set or self._is_wanted)
        if device is None or self._is_idle:
            return
        allowed = guard.allowed if guard else traffic.followed((), device.peers)
        last = traffic.followed(endpoints, reload.peers_after(device, change))
        both = traffic.joined(allowed, last)
        own = known.extras or Extras()
        before = lost.guard(undos, own, device, allowed, facts.lans if LAN in own.exclude else ())
        after = traffic.allowed(wanted.settings, last, _facts_after(device, change, facts))
        sockets = traffic.sockets(both)
        servers = tuple(dict.fromkeys((*before.servers, *after.servers)))
        during = after._replace(endpoints=sockets, servers=servers)
        is_renamed = (before.mark, before.port) != (after.mark, after.port)
        if is_renamed or not _is_within(before, during):
            during = during._replace(also=(before._replace(endpoints=sockets),))
        self._before, self._after = SetGuard(now.name, before, allowed), SetGuard(now.name, after, last)
        self._during = SetGuard(now.name, during, both)
        is_unknown = known.is_unfinished or known.extras is None
        moves = any(peer.endpoint is not None for peer in change.first.peers)
        opens = is_renamed or not _is_within(after._replace(endpoints=before.endpoints), before)
        opens = opens or (moves and (is_unknown or set(sockets) != set(before.endpoints)))
        is_removed = self._is_set and facts.extras is not None and not facts.extras.guarded
        if not self._is_set and _are_equal(during, after._replace(endpoints=sockets)) and _is_within(during, after):
            self._during = self._after
        elif is_removed and not opens:
            self._during = self._before
        self._opens = self._is_wanted if is_removed else opens or not self._is_set
        self._then = self._during if self._opens else self._before
        alike = _are_equal(self._then.guard, after) and traffic.are_alike(self._then.allowed, last)
        self._closes = not alike or (is_unknown and self._is_set)

    def opened(self) -> Iterator[Move]:
        if not self._is_idle and self._opens:
            back = self._before if self._is_set else UndoStep(RemoveGuard(self._name, self._during.allowed))
            yield Move(self._during, (back,))

    def closed(self) -> Iterator[Move]:
        if self._is_idle:
            return
        if not self._is_wanted:
            yield Move(UndoStep(RemoveGuard(self._name, self._then.allowed)), (self._then,))
        elif self._closes:
            yield Move(self._after, (self._then,))


def _facts_after(device: Device, change: DeviceChange, facts: DesiredFacts) -> traffic.TrafficFacts:
    first, last = change.first, change.last
    mark = (first.fwmark or device.fwmark) if last.fwmark is None else last.fwmark
    return traffic.TrafficFacts(facts.lans, mark=mark, port=first.listen_port or device.listen_port)


def _sets(guard: Guard) -> tuple[frozenset[object], ...]:
    return frozenset(guard.endpoints), frozenset(guard.networks), frozenset(guard.servers)


def _is_within(one: Guard, other: Guard) -> bool:
    """Whether a kill switch allows nothing that another one with the same mark and port does not."""
    return one.inbound <= other.inbound and all(a <= b for a, b in zip(_sets(one), _sets(other), strict=True))


def _are_equal(one: Guard, other: Guard) -> bool:
    alike = (one.mark, one.port, one.inbound, one.also) == (other.mark, other.port, other.inbound, other.also)
    return alike and _sets(one) == _sets(other)


def _extras_reasons(wanted: Desired, known: Known) -> Iterator[str]:
    """The names of wgq's own settings that a tunnel without a journal cannot get: nothing would remove them."""
    if known.undos is None:
        extras = wanted.settings.extras
        if extras.kill_switch:
            yield "kill-switch"
        if extras.exclude:
            yield "exclude"
        if extras.keep_inbound:
            yield "keep-inbound"


def _without_ipv6(wanted: Desired) -> Desired:
    """The desired state without IPv6 addresses: the kernel removes them at an MTU below 1280."""
    if any(route.destination.family == 6 for route in wanted.routes):
        raise WgqError(
            f"MTU {wanted.mtu} is too small for IPv6, which needs {IPV6_MTU}",
            where=wanted.settings.path or wanted.settings.name,
            remedy="Raise MTU, or remove the IPv6 networks from AllowedIPs.",
        )
    return wanted._replace(addresses=tuple(each for each in wanted.addresses if len(each.address) == 4))


def _mtu(wanted: Desired, now: Current, known: Known, *, is_first: bool) -> Iterator[Move]:
    """A smaller MTU comes first, a larger one last; from 1280 bytes on the link has IPv6."""
    if now.link is None:
        return
    name, current = now.name, now.link.mtu
    # A hook may have changed the MTU since up.
    is_hooks = wanted.mtu == known.mtu and bool(wanted.settings.pre_up or wanted.settings.post_up)
    mtu = current if wanted.mtu is None or is_hooks else wanted.mtu
    if not now.link.up:
        if is_first:
            yield Move(SetMtuUp(name, mtu))
    elif mtu != current and is_first == (mtu < current or current < IPV6_MTU <= mtu):
        yield Move(SetMtu(name, mtu), (SetMtu(name, current),))


def _device(now: Current, config: DeviceConfig, commands: Iterable[Line]) -> Iterator[Move]:
    if config != DeviceConfig() and now.device is not None:
        back = ChangeDevice(now.name, reload.inverse(now.device, config), ())
        yield Move(ChangeDevice(now.name, config, tuple(commands)), (back,))


class _Addresses:
    """The addresses to add and remove, and whether their resulting order is the file's."""

    def __init__(self, wanted: Desired, now: Current, known: Known) -> None:
        self._name = now.name
        self._wanted = {_prefix(address): address for address in wanted.addresses}
        # The kernel lists IPv6 addresses of one scope with the newest first.
        current = [each.prefix for each in now.addresses if not each.far]
        self._present = [p for p in current if p.family == 4] + [p for p in reversed(current) if p.family == 6]
        local = {each.prefix for each in now.addresses if each.is_the_kernels}
        ours = set(current) - local if known.addresses is None else known.addresses
        self._gone = [p for p in self._present if p in ours and p not in self._wanted]
        self._secondary = {each.prefix for each in now.addresses if each.is_secondary}
        missing = [p for p in self._wanted if p not in self._present]
        self._missing = [self._wanted[p] for p in missing]
        self._late: list[Prefix] = []
        self._late = self._after_removals(missing)
        again = {p.address for p in missing if p.family == 6}
        self._conflicting = [p for p in self._gone if p.address in again]

    def conflicting(self) -> Iterator[Move]:
        """Delete IPv6 addresses that get another length: the kernel has each address only once (EEXIST)."""
        return map(self._removal, self._conflicting)

    def _after_removals(self, missing: list[Prefix]) -> list[Prefix]:
        """The IPv4 addresses to add after the removals, as otherwise their order would be wrong.

        In the network of an address that is removed, a new one would be secondary: it would come last, or be
        deleted too.
        """
        of_ipv4 = [p for p in missing if p.family == 4]
        lost = self._lost_networks()
        first = next((n for n, p in enumerate(of_ipv4) if _network(p) in lost), len(of_ipv4))
        if _decisive(self._order(4)) == _decisive([p for p in self._wanted if p.family == 4]):
            return []
        return of_ipv4[first:]

    def _lost_networks(self) -> set[Prefix]:
        return {_network(p) for p in self._gone if p.family == 4 and p not in self._secondary}

    def added(self) -> Iterator[Move]:
        return (self._addition(each) for each in self._missing if _prefix(each) not in self._late)

    def added_late(self) -> Iterator[Move]:
        return (self._addition(each) for each in self._missing if _prefix(each) in self._late)

    def _addition(self, address: Address) -> Move:
        return Move(AddAddress(self._name, address), (DeleteAddress(self._name, _prefix(address)),))

    def removed(self) -> Iterator[Move]:
        return (self._removal(prefix) for prefix in self._gone if prefix not in self._conflicting)

    def _removal(self, prefix: Prefix) -> Move:
        from wgquick.config.settings import Address

        address = Address(prefix.address, prefix.length, str(prefix))
        return Move(DeleteAddress(self._name, prefix), (AddAddress(self._name, address),))

    def reasons(self) -> Iterator[str]:
        """Why a restart is needed: the order of the addresses decides about the source of packets."""
        for family in (4, 6):
            wanted = [p for p in self._wanted if p.family == family]
            comes = [p for p in self._order(family) if p in self._wanted]
            alike = are_alike(wanted, comes) if family == 6 else _decisive(wanted) == _decisive(comes)
            if not alike:
                shown = ", ".join(map(str, wanted))
                yield f"the order of the IPv{family} addresses, which decides the source of packets: {shown}"

    def _order(self, family: int) -> list[Prefix]:
        """The order after the reload: secondary addresses return after their primary address has been deleted."""
        kept = [p for p in self._present if p.family == family and p not in self._gone]
        lost = self._lost_networks()
        missing = [p for p in map(_prefix, self._missing) if p.family == family]
        brief = [p for p in missing if p not in self._late and _network(p) in lost]
        back = [
            p for p in self._wanted if p in brief or (p in kept and p in self._secondary and _network(p) in lost)
        ]
        missing = [*(p for p in missing if p not in self._late), *(p for p in missing if p in self._late)]
        return [*(p for p in (*kept, *missing) if p not in back), *back]


def _decisive(prefixes: list[Prefix]) -> tuple[object, ...]:
    """The part of an IPv4 order that matters: the default source address, and the order in each network."""
    order: dict[Prefix, list[Prefix]] = {}
    for prefix in prefixes:
        order.setdefault(_network(prefix), []).append(prefix)
    return *prefixes[:1], sorted((network, tuple(each)) for network, each in order.items())


def _prefix(address: Address) -> Prefix:
    return Prefix(address.address, address.length)


def _network(prefix: Prefix) -> Prefix:
    return Prefix(mask(prefix.address, prefix.length), prefix.length)


class _Routes:
    """The routes to add and remove. All are computed, as removing an address may expose an AllowedIP."""

    def __init__(self, wanted: Desired, now: Current, known: Known) -> None:
        self._name, self._words = now.name, wanted.words
        plain = {(route.destination, route.table) for route in now.routes if route.is_plain}
        ours = _guessed(wanted, now, plain) if known.routes is None else known.routes
        self._wanted = {(route.destination, route.table): None for route in wanted.routes}
        spared = {(ip.address, ip.length) for ip in _unwanted_allowed_ips(wanted, now, known)}
        gone = (plain & ours).difference(self._wanted)
        self._gone = sorted(each for each in gone if each[0] not in spared)
        missing = [each for each in self._wanted if each not in plain]
        self._missing = self._without_covered(missing, wanted, now, ours) if missing else []
        staying = set(networks(wanted.addresses))
        of_addresses = {r.destination for r in now.routes if r.is_of_an_address and r.table == MAIN_TABLE}
        self._shadowed = {p for p in of_addresses if p.family == 4} - staying

    def _without_covered(
        self,
        missing: list[tuple[Prefix, int]],
        wanted: Desired,
        now: Current,
        ours: frozenset[tuple[Prefix, int]] | set[tuple[Prefix, int]],
    ) -> list[tuple[Prefix, int]]:
        """The missing routes, without those for which another program has added an equivalent route."""
        there = {_place(route) for route in now.routes if not route.is_of_an_address}
        others = [r for r in now.routes if not r.is_of_an_address and (r.destination, r.table) not in ours]
        covers = up.Coverage(route.destination for route in others if route.table == MAIN_TABLE)
        is_automatic = wanted.settings.routes_automatically
        return [
            each
            for each in missing
            if (*each, _metric(each[0])) not in there
            and not (is_automatic and each[1] == MAIN_TABLE and covers(AllowedIP(*each[0])))
        ]

    def added(self) -> Iterator[Move]:
        beside = [each for each in self._missing if each[1] == MAIN_TABLE and each[0] in self._shadowed]
        for each in self._missing:
            if each not in beside:
                yield self._addition(each)
        for each in beside:
            yield self._addition(each, beside=True)

    def _addition(self, each: tuple[Prefix, int], *, beside: bool = False) -> Move:
        route, word = self._route_and_word(each)
        return Move(AddRoute(route, word, beside), (DeleteRoute(route, word),))

    def removed(self) -> Iterator[Move]:
        for each in self._gone:
            route, word = self._route_and_word(each)
            yield Move(DeleteRoute(route, word), (AddRoute(route, word),))

    def _route_and_word(self, each: tuple[Prefix, int]) -> tuple[Route, str]:
        destination, table = each
        word = self._words.get(table, "" if table == MAIN_TABLE else str(table))
        return Route(destination, self._name, table), word


def _place(route: LinkRoute) -> tuple[Prefix, int, int]:
    """The key by which the kernel distinguishes routes: network, table and metric."""
    return route.destination, route.table, route.metric


def _metric(destination: Prefix) -> int:
    """The metric of a route that sets none (IP6_RT_PRIO_USER)."""
    return 0 if destination.family == 4 else 1024


def _guessed(wanted: Desired, now: Current, plain: set[tuple[Prefix, int]]) -> set[tuple[Prefix, int]]:
    """The routes of a tunnel without a journal: those to its AllowedIPs, unless Table is off."""
    if wanted.settings.table == "off" or now.device is None:
        return set()
    allowed = {Prefix(ip.address, ip.length) for peer in now.device.peers for ip in peer.allowed_ips}
    return {each for each in plain if each[0] in allowed}


def _unwanted_allowed_ips(wanted: Desired, now: Current, known: Known) -> Iterator[Prefix]:
    """The AllowedIPs of peers that stay although the file lacks them; routes to them are not removed."""
    for peer in now.device.peers if now.device else ():
        if peer.public_key not in wanted.peers and known.stays(peer.public_key):
            yield from (Prefix(ip.address, ip.length) for ip in peer.allowed_ips)


class _Rules:
    """The two rules of a full tunnel in each family."""

    def __init__(self, wanted: Desired, now: Current, known: Known, change: DeviceChange) -> None:
        self._now = now
        table_rules = [rule for rule in wanted.rules if rule.fwmark is not None]
        self._present = {rule: _present(rule, now.rules) for rule in table_rules}
        used = {each for found in self._present.values() for each in found}
        self.passes = tuple(_passes(now, change))
        self._gone = [rule for rule in owned_rules(now, known) if rule not in used and rule not in self.passes]

    def added(self) -> Iterator[Move]:
        for wanted, found in self._present.items():
            table_rule = next((rule for rule in found if rule.fwmark is not None), None)
            if table_rule is None:
                table_rule = wanted._replace(priority=up.next_priority(self._now.rules, wanted.family))
                yield _addition(table_rule)
            if len(found) < 2:
                priority = max((table_rule.priority or 0) - 1, 0)
                yield _addition(Rule(wanted.family, MAIN_TABLE, priority, suppress_prefixlength=0))

    def removed(self) -> Iterator[Move]:
        return map(_removal, self._gone)


def _passes(now: Current, change: DeviceChange) -> Iterator[Rule]:
    """Temporary rules that keep packets with the device's new mark out of the tunnel until the old rules are gone.

    Such packets lack the old mark, so the old rule would send them into the tunnel. The kernel evaluates the
    temporary rule after the suppress rule of the same priority.
    """
    if not change.first.fwmark:
        return
    for family in (4, 6):
        if now.is_full(family):
            old = next(rule for rule in now.default_rules(family) if rule.fwmark is not None)
            priority = max((old.priority or 0) - 1, 0)
            yield Rule(family, MAIN_TABLE, priority, fwmark=change.first.fwmark, other=True)


def _addition(rule: Rule) -> Move:
    return Move(AddRule(rule), (UndoStep(DeleteRule(rule)),))


def _removal(rule: Rule) -> Move:
    return Move(UndoStep(DeleteRule(rule)), (AddRule(rule),))


def _present(wanted: Rule, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The first equivalent table rule, and the suppress rule below it, if they exist."""
    own = [rule for rule in down.own_rules(rules, wanted.table) if rule.family == wanted.family]
    of_mark = [at for at, rule in enumerate(own) if rule.fwmark == wanted.fwmark]
    if not of_mark:
        return ()
    first, *others = own[of_mark[0] : of_mark[0] + 2]
    return (first, *(rule for rule in others if rule.fwmark is None))


def owned_rules(now: Current, known: Known) -> tuple[Rule, ...]:
    """The journal's rules that exist, moved ones included; without a journal, those for the device's mark."""
    if known.undos is None:
        fwmark = now.device.fwmark if now.device else 0
        return tuple(down.own_rules(now.rules, fwmark)) if fwmark else ()
    undos = down.with_moved_rules(known.undos, now.rules)
    rules = dict.fromkeys(undo.rule for undo in undos if isinstance(undo, DeleteRule))
    return tuple(rule for rule in rules if rule in now.rules)


def _sysctl(wanted: Desired, now: Current, known: Known, facts: DesiredFacts) -> Iterator[Move]:
    held = [undo for undo in known.undos or () if isinstance(undo, ReleaseSysctl)]
    if not wanted.src_valid_mark or (held and now.src_valid_mark == "1"):
        return
    default = DefaultFacts(
        src_valid_mark=now.src_valid_mark,
        src_valid_mark_earlier=facts.src_valid_mark_earlier if known.undos is not None else None,
        src_valid_mark_writable=facts.src_valid_mark_writable,
    )
    for step in up.set_src_valid_mark(default, strict=False):
        if isinstance(step, SetSysctl):
            made = step._replace(earlier=held[0].earlier) if held else step
            yield Move(made, (UndoStep(ReleaseSysctl(made.key, made.earlier)),))


def _sysctl_released(wanted: Desired, known: Known) -> Iterator[Move]:
    if not wanted.src_valid_mark:
        for undo in dict.fromkeys(known.undos or ()):
            if isinstance(undo, ReleaseSysctl):
                yield Move(UndoStep(undo), (SetSysctl(undo.key, "1", undo.earlier),))


def _firewall(wanted: Desired, now: Current, known: Known) -> Iterator[Move]:
    existing = {(rules.kind, rules.family): rules for rules in now.firewall}
    for rules in wanted.firewall:
        key = (rules.kind, rules.family)
        found = existing.get(key)
        undo = RemoveFirewall(now.name, rules.kind, rules.family)
        if found is None:
            yield Move(AddFirewall(now.name, *rules[:5]), (UndoStep(undo),))
            continue
        seen = found if found.fwmark else _recorded(found, known)._replace(whole=found.whole)
        if not _are_alike(rules, seen, wanted, known):
            back = (ReplaceFirewall(now.name, seen),) if seen.whole and seen.fwmark else ()
            yield Move(ReplaceFirewall(now.name, rules), back)


def _recorded(found: FirewallRules, known: Known) -> FirewallRules:
    """The rules as the journal has them if the host does not show their content (iptables)."""
    key = (found.kind, found.family)
    return next((rules for rules in known.firewall if (rules.kind, rules.family) == key), found)


def _are_alike(rules: FirewallRules, seen: FirewallRules, wanted: Desired, known: Known) -> bool:
    """Whether existing rules are equivalent; the kernel's own link-local address may have been added later."""
    own = {address.address for address in wanted.addresses}
    gone = {prefix.address for prefix in known.addresses or ()} - own
    alike = seen.whole and rules.fwmark == seen.fwmark and own & {*rules.addresses} == own & {*seen.addresses}
    others = any(
        address in gone or (address not in own and not is_link_local(address)) for address in seen.addresses
    )
    # wg-quick has no rules for a port.
    return alike and not others and (rules.port == seen.port or (known.undos is None and not seen.port))


def _firewall_gone(wanted: Desired, now: Current, known: Known) -> Iterator[Move]:
    stays = {(rules.kind, rules.family) for rules in wanted.firewall}
    for rules in now.firewall:
        if (rules.kind, rules.family) not in stays and _is_own_firewall(rules, known):
            seen = rules if rules.fwmark else _recorded(rules, known)
            back = (ReplaceFirewall(now.name, seen),) if seen.fwmark else ()
            yield Move(UndoStep(RemoveFirewall(now.name, rules.kind, rules.family)), back)


def _is_own_firewall(rules: FirewallRules, known: Known) -> bool:
    """Whether the journal has the rules; without a journal their name decides, as in wg-quick."""
    if known.undos is None:
        return True
    own = {undo[1:] for undo in known.undos if isinstance(undo, RemoveFirewall)}
    return (rules.kind, rules.family) in own or (rules.kind, 0) in own


def _dns(wanted: Desired, now: Current, known: Known) -> Iterator[Move]:
    current = now.dns if now.dns.servers else known.dns  # not every resolvconf can print its records
    set_again = SetDns(now.name, current.mode, current.servers, current.search, bool(known.dns.full_tunnel))
    if wanted.dns.servers:
        undo = UnsetDns(now.name, wanted.dns.mode)
        if not _is_same_dns(wanted.dns, now.dns, known):
            yield Move(SetDns(now.name, *_given(wanted.dns)), (set_again if current.servers else UndoStep(undo),))
        return
    undos = [undo for undo in known.undos or () if isinstance(undo, UnsetDns)]
    if known.undos is None and now.dns.servers:
        undos = [UnsetDns(now.name, now.dns.mode)]
    for undo in dict.fromkeys(undos):
        yield Move(UndoStep(undo), (set_again,) if current.servers else ())


def _given(dns: LinkDns) -> tuple[str, tuple[str, ...], tuple[str, ...], bool]:
    return dns.mode, dns.servers, dns.search, bool(dns.full_tunnel)


def _is_same_dns(wanted: LinkDns, current: LinkDns, known: Known) -> bool:
    """Whether the link's DNS is equivalent, as resolvers may write addresses and domains differently.

    Not every resolvconf can print its records: then the journal's DNS is compared.
    """
    full = known.dns.full_tunnel
    if current.mode == "resolvconf" and not current.servers:
        current = known.dns
    return (
        wanted.mode == current.mode
        and full in (None, wanted.full_tunnel)
        and [_server(each) for each in wanted.servers] == [_server(each) for each in current.servers]
        and [each.rstrip(".").lower() for each in wanted.search]
        == [each.rstrip(".").lower() for each in current.search]
    )


def _server(text: str) -> object:
    host, _, zone = text.partition("%")
    try:
        return pack_address(host), zone
    except ValueError:
        return text


def notes(change: DeviceChange, wanted: Desired, now: Current) -> Iterator[Note]:
    """The notes of a reload that changes something."""
    for key in change.foreign:
        yield Note(f"Peer {key} is in neither the file nor the journal: removing it (--keep-foreign keeps it)")
    if change.first.private_key is not None and now.device is not None and now.device.private_key is not None:
        yield Note("The private key changes: every peer needs a new handshake")
    yield from map(Note, (*change.notes, *wanted.notes))
