"""The state that the journal records and the host has lost, with the steps that restore it. Pure.

wgq restores only the state that up or reload set up, not additions of users or other programs.
"""

from __future__ import annotations

from wgquick.config.settings import Address, Extras
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import MAIN_TABLE, Guard, Prefix, Route
from wgquick.plan import traffic
from wgquick.plan.down import with_moved_rules
from wgquick.plan.steps import (
    AddAddress,
    AddRoute,
    AddRule,
    AddThrow,
    DeleteRule,
    DeleteThrow,
    ForgetInbound,
    KeepInbound,
    ReleaseSysctl,
    RemoveGuard,
    ReplaceFirewall,
    SetDns,
    SetGuard,
    SetSysctl,
    UnsetDns,
)
from wgquick.plan.up import SRC_VALID_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wgquick.device import Device
    from wgquick.net import Destination, Rule
    from wgquick.plan.applied import Applied
    from wgquick.plan.current import Current
    from wgquick.plan.steps import Undo

    RestoringStep = (
        AddAddress | AddRoute | AddRule | AddThrow | KeepInbound | ReplaceFirewall | SetDns | SetGuard | SetSysctl
    )

KINDS = ("address", "dns", "rule", "route", "sysctl", "firewall")
"""The kinds of state, in the order in which it is restored: routes need the addresses."""


class CurrentExtras(NamedTuple):
    """The current state of wgq's own settings (`plan.traffic`).

    `throws` are the throw routes by table; `guarded` is whether the kill switch exists, `inbound` whether the rules
    of keep-inbound exist. `lans` are the networks that `exclude = lan` means.
    """

    throws: frozenset[tuple[Prefix, int]] = frozenset()
    guarded: bool = True
    inbound: bool = True
    lans: tuple[Prefix, ...] = ()


_MET = CurrentExtras()


class Lost(NamedTuple):
    """One lost item: its kind, its description, and the step that restores it."""

    kind: str
    text: str
    step: RestoringStep


def lost(
    undos: Iterable[Undo], applied: Applied | None, now: Current, extras: CurrentExtras = _MET
) -> tuple[Lost, ...]:
    """The lost state of an interface that is up, in the order of KINDS; empty if it is not up.

    `undos` and `applied` are the journal's. Without `applied` (a journal of an earlier version) addresses, routes,
    firewall rules and DNS are unknown. `extras` counts only if the journal has such undos.
    """
    if now.link is None or not now.link.up or now.device is None:
        return ()
    recorded = tuple(undos)
    if applied is None:
        return (*_rules(recorded, now), *_sysctl(recorded, now), *extras_lost(recorded, now, extras))
    return (
        *_addresses(applied, now),
        *_dns(recorded, applied, now),
        *_rules(recorded, now),
        *_routes(applied, now),
        *_sysctl(recorded, now),
        *_firewall(applied, now),
        *extras_lost(recorded, now, extras, applied),
    )


def missing_rules(recorded: Iterable[Undo], rules: Iterable[Rule]) -> list[Rule]:
    """The journal's rules that the host lacks. A rule may have another priority, as a hook may have moved it."""
    present = tuple(rules)
    found = []
    for undo in recorded:
        if not isinstance(undo, DeleteRule) or undo.rule in present:
            continue
        same = any(each == undo.rule._replace(priority=each.priority) for each in present)
        if len(with_moved_rules((undo,), present)) == 1 and not same:
            found.append(undo.rule)
    return found


def _addresses(applied: Applied, now: Current) -> Iterator[Lost]:
    present = {each.prefix for each in now.addresses}
    for prefix in sorted(applied.addresses - present):
        if prefix.family == 4 or now.ipv6:
            step = AddAddress(now.name, Address(prefix.address, prefix.length, str(prefix)))
            yield Lost("address", str(prefix), step)


def _dns(recorded: tuple[Undo, ...], applied: Applied, now: Current) -> Iterator[Lost]:
    """The DNS counts as lost if none of the tunnel's servers is among the link's servers."""
    dns = applied.dns
    if dns.mode == "off" or not dns.servers or not any(isinstance(undo, UnsetDns) for undo in recorded):
        return
    if now.dns.mode == dns.mode and not set(dns.servers) & set(now.dns.servers):
        step = SetDns(now.name, dns.mode, dns.servers, dns.search, bool(dns.full_tunnel))
        yield Lost("dns", ", ".join(dns.servers), step)


def _rules(recorded: tuple[Undo, ...], now: Current) -> Iterator[Lost]:
    for rule in missing_rules(recorded, now.rules):
        yield Lost("rule", rule_text(rule), AddRule(rule))


def rule_text(rule: Rule) -> str:
    """A rule as `ip rule' shows it."""
    if rule.fwmark is not None:
        return f"ip -{rule.family} rule: not fwmark {hex(rule.fwmark)} lookup {rule.table}"
    return f"ip -{rule.family} rule: lookup main suppress_prefixlength 0"


def _routes(applied: Applied, now: Current) -> Iterator[Lost]:
    present = {(route.destination, route.table) for route in now.routes}
    for prefix, table in sorted(applied.routes - present):
        if prefix.family == 4 or now.ipv6:
            word = "" if table == MAIN_TABLE else str(table)
            text = f"{prefix} table {word}" if word else str(prefix)
            yield Lost("route", text, AddRoute(Route(prefix, now.name, table), word))


def _sysctl(recorded: tuple[Undo, ...], now: Current) -> Iterator[Lost]:
    keeps = any(isinstance(undo, ReleaseSysctl) and undo.key == SRC_VALID_MARK for undo in recorded)
    if keeps and now.src_valid_mark == "0":
        yield Lost("sysctl", f"{SRC_VALID_MARK}=1", SetSysctl(SRC_VALID_MARK, "1", "0"))


def _firewall(applied: Applied, now: Current) -> Iterator[Lost]:
    existing = {(rules.kind, rules.family) for rules in now.firewall if rules.whole}
    for rules in applied.firewall:
        if (rules.kind, rules.family) not in existing:
            text = f"{rules.kind} rules of IPv{rules.family}"
            yield Lost("firewall", text, ReplaceFirewall(now.name, rules))


def _excluded(extras: Extras) -> Iterator[Prefix]:
    """The excluded networks other than `lan`."""
    return (each for each in extras.exclude if not isinstance(each, str))


def throws(
    recorded: Iterable[Undo], extras: Extras, device: Device, lans: Iterable[Prefix]
) -> tuple[DeleteThrow, ...]:
    """The undos of the throw routes that a tunnel needs if `lan` means `lans`; none without a table for them."""
    undos = tuple(recorded)
    full = {undo.rule.family for undo in undos if isinstance(undo, DeleteRule) and undo.rule.fwmark}
    tables = {undo.table for undo in undos if isinstance(undo, DeleteThrow)}
    table = device.fwmark if full else next(iter(tables), 0)
    networks = traffic.without_nested((*lans, *_excluded(extras))) if table else ()
    return tuple(DeleteThrow(str(each), table) for each in networks if not full or each.family in full)


def guard(
    recorded: Iterable[Undo],
    extras: Extras,
    device: Device,
    destinations: tuple[Destination, ...],
    lans: Iterable[Prefix] = (),
) -> Guard:
    """The kill switch that a journal's undos and settings describe; `lan` means `lans`.

    `destinations` are the endpoints and DNS servers.
    """
    undos = tuple(recorded)
    throws = (Prefix.parse(undo.destination) for undo in undos if isinstance(undo, DeleteThrow))
    networks = traffic.without_nested((*throws, *lans, *_excluded(extras)))
    # Without a full tunnel there are no rules to forget, but answers to inbound connections still pass.
    keeps_inbound = any(isinstance(undo, ForgetInbound) for undo in undos) or extras.keep_inbound
    sockets, servers = traffic.sockets(destinations), tuple(traffic.servers(destinations))
    return Guard(device.fwmark, device.listen_port, sockets, networks, keeps_inbound, servers=servers)


def extras_lost(
    recorded: tuple[Undo, ...], now: Current, extras: CurrentExtras, applied: Applied | None = None
) -> Iterator[Lost]:
    """The lost state of wgq's own settings; the kill switch is rebuilt from the journal."""
    mark = now.device.fwmark if now.device else 0
    throws = {(Prefix.parse(undo.destination), undo.table) for undo in recorded if isinstance(undo, DeleteThrow)}
    for prefix, table in sorted(throws - extras.throws):
        yield Lost("route", f"throw {prefix} table {table}", AddThrow(prefix, table))
    keeps_inbound = any(isinstance(undo, ForgetInbound) for undo in recorded)
    guards = [undo for undo in recorded if isinstance(undo, RemoveGuard)]
    if guards and not extras.guarded and now.device:
        own = (applied and applied.extras) or Extras()
        wanted = guard(recorded, own, now.device, guards[-1].allowed, extras.lans)
        yield Lost("firewall", "the kill switch", SetGuard(now.name, wanted, guards[-1].allowed))
    if keeps_inbound and not extras.inbound and mark:
        yield Lost("firewall", "the rules of keep-inbound", KeepInbound(now.name, mark))
