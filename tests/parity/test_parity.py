"""wgq does with every file of `cases` what wg-quick does with it; allowances.py says where it may not.

Each case goes through both tools on twin machines, with nft and with iptables, and with the verbs crossed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.parity import allowances, comparison
from tests.parity.case import Case, all_cases
from tests.parity.trial import FIREWALLS, WG_QUICK, Trial, strip, trial, wgq

if TYPE_CHECKING:
    from tests.parity.state import State

CASES = all_cases()

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
with_each_firewall = pytest.mark.parametrize("firewall", FIREWALLS)


def both(case: Case, firewall: str) -> tuple[Trial, Trial]:
    """What is wanted and what was found."""
    wanted = allowances.expected(case, trial(case, firewall, WG_QUICK, WG_QUICK))
    return wanted, allowances.saving_changes_only_what_changed(case, trial(case, firewall, wgq(), wgq()))


@by_name
@with_each_firewall
def test_up_leaves_the_same_state(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    assert comparison.states(wanted.up.after, found.up.after) == []


@by_name
@with_each_firewall
def test_down_leaves_the_same_state(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    assert comparison.states(wanted.down.after, found.down.after) == []


@by_name
@with_each_firewall
def test_the_exit_status_is_the_same(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    assert _statuses(found) == _statuses(wanted)


@by_name
@with_each_firewall
def test_up_prints_the_same_transcript(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    assert comparison.lines(wanted.up.transcript, found.up.transcript) == []


@by_name
@with_each_firewall
def test_down_prints_the_same_transcript(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    assert comparison.lines(wanted.down.transcript, found.down.transcript) == []


@pytest.mark.parametrize("case", [case for case in CASES if case.all("save")], ids=lambda case: case.name)
@with_each_firewall
def test_save_writes_the_same_settings(case: Case, firewall: str) -> None:
    wanted, found = both(case, firewall)
    for one, other in zip(wanted.between, found.between, strict=True):
        assert comparison.states(one.after, other.after) == []


@by_name
@with_each_firewall
def test_wg_quick_takes_down_what_wgq_brought_up(case: Case, firewall: str) -> None:
    wanted = _left(case, trial(case, firewall, WG_QUICK, WG_QUICK))
    found = _left(case, trial(case, firewall, wgq(), WG_QUICK))
    assert comparison.states(wanted, found) == []


@by_name
@with_each_firewall
def test_wgq_takes_down_what_wg_quick_brought_up(case: Case, firewall: str) -> None:
    reference, crossed = trial(case, firewall, WG_QUICK, WG_QUICK), trial(case, firewall, WG_QUICK, wgq())
    assert comparison.states(_left(case, reference), _left(case, crossed)) == []
    assert crossed.down.status == reference.down.status


@by_name
def test_strip_prints_the_same_bytes(case: Case) -> None:
    assert strip(case, wgq()) == strip(case, WG_QUICK)


def _statuses(of: Trial) -> list[int]:
    return [of.up.status, *(ran.status for ran in of.between), of.down.status]


def _left(case: Case, crossed: Trial) -> State:
    """What down left, but for src_valid_mark: only the tool that set it knows what it was."""
    return allowances.expected(case, crossed).down.after | {"sysctl": []}
