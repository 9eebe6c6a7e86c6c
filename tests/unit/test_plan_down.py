"""The decisions of cmd_down: exactly this tunnel's state is removed, in wg-quick's order."""

from __future__ import annotations

from wgquick.config.settings import Settings
from wgquick.net import Rule
from wgquick.plan import down
from wgquick.plan.facts import DownFacts
from wgquick.plan.steps import DeleteLink, DeleteRule, ReleaseSysctl, RemoveFirewall, Undo, UnsetDns

LOCAL, MAIN = Rule(4, 255, 0, other=True), Rule(4, 254, 32766, other=True)


def table_rule(table: int, priority: int, family: int = 4) -> Rule:
    return Rule(family, table, priority, fwmark=table)


def suppress_rule(priority: int, family: int = 4) -> Rule:
    return Rule(family, 254, priority, suppress_prefixlength=0)


def deleted(steps: tuple[Undo, ...]) -> list[Rule]:
    return [step.rule for step in steps if isinstance(step, DeleteRule)]


ALL = (
    DeleteLink("wg0"),
    UnsetDns("wg0", "resolvconf"),
    DeleteRule(table_rule(51820, 32765, 6)),
    DeleteRule(suppress_rule(32764, 6)),
    RemoveFirewall("wg0", "nft", 6),
    DeleteRule(table_rule(51820, 32765)),
    DeleteRule(suppress_rule(32764)),
    ReleaseSysctl("net.ipv4.conf.all.src_valid_mark", "0"),
    RemoveFirewall("wg0", "nft", 4),
)


def kinds(steps: tuple[Undo, ...]) -> list[str]:
    return list(dict.fromkeys(type(step).__name__ for step in steps))


def test_down_removes_rules_and_link_before_dns_and_firewall() -> None:
    steps = down.in_down_order(ALL)
    assert kinds(steps) == ["DeleteRule", "DeleteLink", "UnsetDns", "RemoveFirewall", "ReleaseSysctl"]
    assert [rule.family for rule in deleted(steps)] == [4, 4, 6, 6]


def test_a_failed_up_removes_dns_and_firewall_first() -> None:
    steps = down.in_rollback_order(ALL)
    assert kinds(steps) == ["UnsetDns", "RemoveFirewall", "DeleteRule", "DeleteLink", "ReleaseSysctl"]


def test_without_a_journal_suppress_rules_of_others_stay() -> None:
    """wg-quick deletes every `main suppress_prefixlength 0` rule."""
    mine, partner = table_rule(51820, 32765), suppress_rule(32764)
    others = (table_rule(51821, 32763), suppress_rule(32762), suppress_rule(100))
    facts = DownFacts(fwmark=51820, has_default=True, rules=(LOCAL, others[2], *others[:2], partner, mine, MAIN))
    assert deleted(down.from_facts(Settings("wg0"), "wg0", facts)) == [mine, partner]


def test_both_rules_of_a_tunnel_may_have_priority_0() -> None:
    """If the host's second rule has priority 1, a rule without a priority gets 0, and so does the next one."""
    mine, partner = table_rule(51820, 0), suppress_rule(0)
    rules = (LOCAL._replace(priority=0), mine, partner, suppress_rule(1))
    facts = DownFacts(fwmark=51820, has_default=True, rules=rules)
    assert deleted(down.from_facts(Settings("wg0"), "wg0", facts)) == [mine, partner]


def test_existing_firewall_rules_count_not_the_added_ones() -> None:
    undos = (DeleteLink("wg0"), RemoveFirewall("wg0", "nft", 4), RemoveFirewall("wg0", "nft", 6))
    existing = (("nft", 0), ("iptables", 6))
    expected = (DeleteLink("wg0"), RemoveFirewall("wg0", "nft", 0), RemoveFirewall("wg0", "iptables", 6))
    assert down.with_remaining_firewalls(undos, "wg0", existing) == expected
    assert down.with_remaining_firewalls(undos, "wg0", ()) == (DeleteLink("wg0"),)


def test_without_a_journal_a_given_table_keeps_the_rules() -> None:
    facts = DownFacts(fwmark=7, has_default=True, rules=(table_rule(7, 32765), suppress_rule(32764)))
    assert down.from_facts(Settings("wg0", table="7"), "wg0", facts) == (DeleteLink("wg0"),)


def test_a_stale_journal_spares_rules_of_the_next_tunnel() -> None:
    """After `wg-quick down`, the next full tunnel gets the same table and priorities."""
    existing = (LOCAL, suppress_rule(32764), table_rule(51820, 32765), MAIN)
    facts = DownFacts(exists=False, rules=existing, other_marks=frozenset({51820}))
    remaining = [table_rule(51820, 32765, 6), suppress_rule(32764, 6)]  # the host has no IPv6 rules
    assert deleted(down.spare_others(ALL, facts)) == remaining
    assert deleted(down.spare_others(ALL, facts._replace(other_marks=frozenset({7})))) == deleted(ALL)


JOURNAL = (DeleteRule(table_rule(51820, 32765)), DeleteRule(suppress_rule(32764)))


def test_rules_that_a_hook_moved_are_deleted_too() -> None:
    """wg-quick deletes rules by their table, so hooks that move them do not clean up."""
    moved, partner, host_own = table_rule(51820, 100), suppress_rule(99), suppress_rule(50)
    found = down.with_moved_rules(JOURNAL, (LOCAL, host_own, partner, moved, MAIN))
    assert deleted(found) == [*deleted(JOURNAL), moved, partner]


def test_the_suppress_rule_at_the_recorded_priority_is_deleted() -> None:
    moved, host_own = table_rule(51820, 100), suppress_rule(50)
    found = down.with_moved_rules(JOURNAL, (LOCAL, host_own, moved, suppress_rule(32764), MAIN))
    assert deleted(found) == [*deleted(JOURNAL), moved]


def test_a_stale_journals_rules_go_beside_another_tunnel() -> None:
    """If the link of a full tunnel is deleted by hand, its table is empty, and the next tunnel takes it."""
    others = (suppress_rule(32762), table_rule(51820, 32763))
    facts = DownFacts(exists=False, rules=(LOCAL, *others, *deleted(JOURNAL), MAIN), other_marks=frozenset({51820}))
    assert deleted(down.spare_others(JOURNAL, facts)) == deleted(JOURNAL)


def test_a_stale_journal_spares_another_tables_suppress_rule() -> None:
    others = (suppress_rule(32764), table_rule(7, 32765))
    facts = DownFacts(exists=False, rules=(LOCAL, *others, MAIN), other_marks=frozenset({7}))
    assert deleted(down.spare_others(JOURNAL, facts)) == [table_rule(51820, 32765)]


def test_moved_rules_of_a_stale_journal_are_deleted_too() -> None:
    moved, partner = table_rule(51820, 100), suppress_rule(99)
    facts = DownFacts(exists=False, rules=(LOCAL, partner, moved, MAIN))
    assert deleted(down.spare_others(JOURNAL, facts)) == [*deleted(JOURNAL), moved, partner]


def test_unmoved_rules_are_deleted_as_in_the_journal() -> None:
    present = (LOCAL, suppress_rule(32762), table_rule(51821, 32763), *deleted(JOURNAL), MAIN)
    assert down.with_moved_rules(JOURNAL, present) == JOURNAL
