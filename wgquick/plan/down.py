"""cmd_down as data: the undos, from the journal or, without a journal, from the host's state."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING
from wgquick.net import MAIN_TABLE
from wgquick.plan.steps import (
    DeleteLink,
    DeleteRule,
    DeleteThrow,
    ForgetInbound,
    ReleaseSysctl,
    RemoveFirewall,
    RemoveGuard,
    UnsetDns,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.config.settings import Settings
    from wgquick.net import Rule
    from wgquick.plan.facts import DownFacts
    from wgquick.plan.steps import Undo

# cmd_down calls del_if (rules, link), then unset_dns and remove_firewall. After a failed cmd_up HAVE_SET_DNS and
# HAVE_SET_FIREWALL are set, so del_if removes DNS and firewall first.
# Steps that wg-quick does not have come last, the kill switch after all others.
_OWN = (ForgetInbound, DeleteThrow, RemoveGuard)
_DOWN_ORDER = (DeleteRule, DeleteLink, UnsetDns, RemoveFirewall, ReleaseSysctl, *_OWN)
_ROLLBACK_ORDER = (UnsetDns, RemoveFirewall, DeleteRule, DeleteLink, ReleaseSysctl, *_OWN)


def in_down_order(undos: Iterable[Undo]) -> tuple[Undo, ...]:
    """The undos in the order in which wg-quick's cmd_down works."""
    return _ordered(undos, _DOWN_ORDER)


def in_rollback_order(undos: Iterable[Undo]) -> tuple[Undo, ...]:
    """The undos in the order in which a failed wg-quick cmd_up cleans up."""
    return _ordered(undos, _ROLLBACK_ORDER)


def without_guard(undos: Iterable[Undo]) -> tuple[Undo, ...]:
    """All undos but the kill switch's."""
    return tuple(undo for undo in undos if not isinstance(undo, RemoveGuard))


def _ordered(undos: Iterable[Undo], order: tuple[type, ...]) -> tuple[Undo, ...]:
    """Sorted by kind, then in del_if's order: each family's table rule before its suppress rule. No duplicates."""

    def rank(step: Undo) -> tuple[int, int, int]:
        kind = order.index(type(step))
        match step:
            case DeleteRule(rule):
                return kind, rule.family, 0 if rule.fwmark is not None else 1
            case RemoveFirewall(_, _, family):
                return kind, family, 0
            case DeleteLink() | UnsetDns() | ReleaseSysctl() | DeleteThrow() | ForgetInbound() | RemoveGuard():
                return kind, 0, 0

    once = {(type(step), step): step for step in map(_whole, undos)}  # tuples of different classes may be equal
    return tuple(sorted(once.values(), key=rank))


def _whole(step: Undo) -> Undo:
    """One transaction removes the nft tables of both families, as in wg-quick, and the kill switch."""
    match step:
        case RemoveFirewall(name, "nft", _):
            return RemoveFirewall(name, "nft", 0)
        case RemoveGuard(name):
            return RemoveGuard(name)
        case DeleteLink() | DeleteRule() | UnsetDns() | ReleaseSysctl() | DeleteThrow() | ForgetInbound():
            return step
        case RemoveFirewall():  # iptables has a transaction for each family
            return step


def from_facts(settings: Settings | None, name: str, facts: DownFacts) -> tuple[Undo, ...]:
    """The undos of a tunnel without a journal, as wg-quick's del_if and unset_dns find them."""
    undos: list[Undo] = [DeleteLink(name)] if facts.exists else []
    if facts.has_default and facts.fwmark and (settings is None or settings.routes_automatically):
        undos += [DeleteRule(rule) for rule in own_rules(facts.rules, facts.fwmark)]
    if settings is not None and settings.dns and facts.dns_mode not in ("", "off"):
        undos.append(UnsetDns(name, facts.dns_mode))
    return in_down_order(undos)


def own_rules(rules: Iterable[Rule], fwmark: int) -> list[Rule]:
    """The rules for the table of a device's fwmark, each with the suppress rule that add_default put below it.

    The kernel gave the suppress rule the next lower priority. A suppress rule elsewhere belongs to another tunnel
    or to the host, and stays (wg-quick deletes them all).
    """
    present = tuple(rules)
    return [
        rule
        for table_rule in present
        if _looks_up(table_rule, fwmark)
        for rule in (table_rule, *_partner(table_rule, present))
    ]


def _looks_up(rule: Rule, table: int) -> bool:
    return not rule.other and rule.fwmark is not None and rule.table == table


def _partner(table_rule: Rule, rules: Iterable[Rule]) -> list[Rule]:
    """The suppress rule of a table rule: the nearest one below, unless another tunnel's table rule is between."""
    below = [r for r in rules if r.family == table_rule.family and _below(r, table_rule)]
    below.sort(key=lambda rule: rule.priority or 0, reverse=True)
    for rule in below:
        if rule.fwmark is not None and not rule.other:
            break
        if rule.suppress_prefixlength == 0 and rule.table == MAIN_TABLE and not rule.other:
            return [rule]
    return []


def _below(rule: Rule, other: Rule) -> bool:
    """Whether the first rule has a lower priority than the second. The kernel does not go below 0."""
    one, two = rule.priority or 0, other.priority or 0
    return one < two or (one == two == 0 and rule != other)


def with_moved_rules(undos: Iterable[Undo], rules: Iterable[Rule]) -> tuple[Undo, ...]:
    """The undos, and those for the same rules at the priorities to which a hook has moved them.

    wg-quick finds its rules by their table alone, so such a hook needs no matching PreDown.
    """
    steps, present = tuple(undos), tuple(rules)
    own = [step.rule for step in steps if isinstance(step, DeleteRule)]
    moved = [
        rule
        for mine in own
        if mine.fwmark is not None and not mine.other
        for rule in present
        if _is_moved(rule, mine)
    ]
    lost = {rule.family for rule in own if rule.suppress_prefixlength == 0 and rule not in present}
    found = (each for rule in moved for each in (rule, *(_partner(rule, present) if rule.family in lost else ())))
    return (*steps, *map(DeleteRule, found))


def with_remaining_firewalls(
    undos: Iterable[Undo], name: str, firewalls: Iterable[tuple[str, int]]
) -> tuple[Undo, ...]:
    """The undos; those for firewall rules are replaced by undos for all existing ones (remove_firewall)."""
    others = (step for step in undos if not isinstance(step, RemoveFirewall))
    return in_down_order((*others, *(RemoveFirewall(name, kind, family) for kind, family in firewalls)))


def as_renamed(undos: Iterable[Undo], name: str) -> tuple[Undo, ...]:
    """The undos, with the link's current `name` in DeleteLink; unchanged if `name` is ""."""
    return tuple(DeleteLink(name) if name and isinstance(undo, DeleteLink) else undo for undo in undos)


def _is_moved(rule: Rule, mine: Rule) -> bool:
    return rule != mine and rule == mine._replace(priority=rule.priority)


def spare_others(undos: Iterable[Undo], facts: DownFacts) -> tuple[Undo, ...]:
    """The undos of a journal after its link is gone, with moved rules and without rules of other tunnels.

    After `wg-quick down` the next tunnel gets the same table and the same priorities.
    """
    steps = tuple(undos)
    theirs = _others_rules(steps, facts)
    kept = (step for step in steps if not (isinstance(step, DeleteRule) and step.rule in theirs))
    return with_moved_rules(kept, (rule for rule in facts.rules if rule not in theirs))


def _others_rules(undos: Iterable[Undo], facts: DownFacts) -> set[Rule]:
    """The rules of other tunnels: those for other tables, and most of those for a table that another tunnel uses.

    In such a table only the journal's own rule is this tunnel's, and only if a second rule exists. A single rule
    belongs to the other tunnel, even at the priority of this tunnel's rule.
    """
    own = {step.rule for step in undos if isinstance(step, DeleteRule)}
    tables = {rule.table for rule in own if rule.fwmark is not None}
    marked = [rule for rule in facts.rules if rule.fwmark is not None and not rule.other]

    def is_ours(rule: Rule) -> bool:
        if rule.table not in facts.other_marks:
            return rule.table in tables
        return rule in own and any(_is_moved(other, rule) for other in marked)

    theirs = [rule for rule in marked if not is_ours(rule)]
    return {each for rule in theirs for each in (rule, *_partner(rule, facts.rules))}
