"""wgq and wg-quick have the same outcome with every file of `cases`, except for allowances.py.

Both tools run each case on twin machines: with nft, and with iptables if it has firewall rules. One takes down what
the other brought up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parity import allowances, comparison
from tests.parity.case import Case, all_cases
from tests.parity.trial import FIREWALLS, WG_QUICK, Trial, strip, trial, wgq

if TYPE_CHECKING:
    from tests.parity.state import State
    from tests.parity.trial import Ran

CASES = all_cases()


def _pairs(cases: list[Case]) -> pytest.MarkDecorator:
    """Each case with both firewalls if it has rules, else with nft only."""
    return pytest.mark.parametrize(
        ("case", "firewall"),
        [
            pytest.param(case, firewall, id=f"{firewall}-{case.name}")
            for firewall in FIREWALLS
            for case in cases
            if firewall == "nft" or case.has_rules
        ],
    )


with_its_firewalls = _pairs(CASES)
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def both(case: Case, firewall: str) -> tuple[Trial, Trial]:
    """The wanted trial and wgq's."""
    wanted = allowances.expected(case, trial(case, firewall, WG_QUICK, WG_QUICK))
    return wanted, allowances.saving_changes_only_what_changed(case, trial(case, firewall, wgq(), wgq()))


@with_its_firewalls
def test_up_leaves_the_same_state(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    assert comparison.states(wanted.up.after, found.up.after) == []


@with_its_firewalls
def test_down_leaves_the_same_state(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    assert comparison.states(wanted.down.after, found.down.after) == []


@with_its_firewalls
def test_the_exit_status_is_the_same(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    assert _statuses(found) == _statuses(wanted)


@with_its_firewalls
def test_up_prints_the_same_transcript(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    assert comparison.lines(wanted.up.transcript, found.up.transcript) == []


@with_its_firewalls
def test_down_prints_the_same_transcript(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    assert comparison.lines(wanted.down.transcript, found.down.transcript) == []


@_pairs([case for case in CASES if case.all("then") or case.all("run")])
def test_events_while_up_leave_the_same_state_and_transcript(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    for one, other in zip(wanted.between, found.between, strict=True):
        assert comparison.states(one.after, other.after) == []
        assert comparison.lines(one.transcript, other.transcript) == []


@by_name
def test_no_other_case_has_firewall_rules(case: Case) -> None:
    """So only these cases are tried with each firewall."""
    wanted, found = both(case, "nft")
    rules = [[each.after["nft"], each.after["iptables"]] for of in (wanted, found) for each in (of.up, of.down)]
    assert case.has_rules or not any(any(lists) for lists in rules)


@with_its_firewalls
@pytest.mark.parametrize("quick_up", [False, True], ids=["wgq up", "wg-quick up"])
def test_one_tool_takes_down_what_the_other_brought_up(case: Case, firewall: str, quick_up: bool) -> None:
    tools = (WG_QUICK, wgq()) if quick_up else (wgq(), WG_QUICK)
    wanted = allowances.expected(case, trial(case, firewall, WG_QUICK, WG_QUICK)).down
    found = allowances.expected(case, trial(case, firewall, *tools)).down
    assert comparison.states(_without_sysctl(wanted), _without_sysctl(found)) == []
    assert comparison.lines(wanted.transcript, found.transcript) == []
    assert found.status == wanted.status


@by_name
def test_strip_prints_the_same_bytes(case: Case) -> None:
    wanted, found = strip(case, WG_QUICK, wgq())
    assert found == wanted


def _statuses(of: Trial) -> list[int]:
    return [of.up.status, *(ran.status for ran in of.between), of.down.status]


def _without_sysctl(down: Ran) -> State:
    """The state after down without src_valid_mark: only the tool that set it knows the earlier value."""
    return down.after | {"sysctl": []}
