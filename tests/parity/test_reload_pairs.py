"""Pairs of cases: a reload from one file to the other leaves the state of up with the other.

WGQ_TEST_PAIRS is the number of pairs (8); `WGQ_TEST_PAIRS=400` tries most of them.
"""

from __future__ import annotations

import os
import random
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import host
from tests.parity import comparison, trial
from tests.parity.case import Case, all_cases

if TYPE_CHECKING:
    from tests.namespaces import Namespace
    from tests.parity.state import State

_HOOKS = ("preup", "postup", "predown", "postdown", "saveconfig")
_NOT_COMPARED = ("hooks", "file", "mode", "resolvconf")  # they depend on the runs


def _eligible(case: Case) -> bool:
    """Whether the case comes up and has no hooks (reload runs none) and no commands."""
    words = {word for word, _ in case.directives}
    return not (case.settings(*_HOOKS) or words & {"then", "run", "path", "mode", "name"} or "fails" in case.name)


def _pairs() -> list[tuple[Case, Case]]:
    cases = [case for case in all_cases() if _eligible(case)]
    every = [(one, other) for one in cases for other in cases if one != other and not _keeps_settings(one, other)]
    return random.Random(51820).sample(every, int(os.environ.get("WGQ_TEST_PAIRS", "8")))


def _keeps_settings(one: Case, other: Case) -> bool:
    """Whether a mark or key of the first file stays, because the second file has none."""
    return any(
        set(one.settings(key)) - {"off", "0", "0x0"} and not other.settings(key) for key in ("fwmark", "privatekey")
    )


def _comparable(found: State, one: Case, other: Case) -> State:
    """The state without what a device cannot forget, and with rules by order instead of priority."""
    state = {section: lines for section, lines in found.items() if section not in _NOT_COMPARED}
    for section in ("rules4", "rules6"):
        state[section] = [re.sub(r"priority=\d+", "priority", line) for line in state[section]]
    if set(one.settings("publickey")) & set(other.settings("publickey")):
        state["device"] = [line for line in state["device"] if not line.startswith("Endpoint")]
    if one.settings("listenport"):
        for section in ("device", "nft", "iptables"):
            state[section] = [re.sub(r"ListenPort.*|dport.*", "port", line) for line in state[section]]
        state["device"] = [line for line in state["device"] if line != "port"]
    state["addresses"] = sorted(state["addresses"])
    state["resolv.conf"] = [line for line in state["resolv.conf"] if not line.startswith("# wgq: has")]
    return state


def _run(machine: Namespace, case: Case, verb: str) -> tuple[int, str]:
    status, output, error = trial._run(machine, case, "nft", [trial.wgq(), verb, case.argument])
    return status, output + error


@pytest.mark.parametrize("pair", _pairs(), ids=lambda pair: f"{pair[0].name} to {pair[1].name}")
def test_a_reload_between_cases_leaves_the_state_of_up(pair: tuple[Case, Case]) -> None:
    one, other = pair
    before = replace(other, content=one.content)
    with host() as reloaded, host() as fresh:
        trial._prepare(reloaded, before, "nft")
        trial._prepare(fresh, other, "nft")
        for machine, case in ((reloaded, before), (fresh, other)):
            status, output = _run(machine, case, "up")
            assert status == 0, output
        reloaded.call(trial._write, other.file, other.content, 0o600)
        first = trial._settled(reloaded, other)
        status, output = _run(reloaded, other, "reload")
        found = _comparable(trial._settled(reloaded, other), one, other)
        if status == 3:
            assert "order of the IPv" in output
            assert comparison.states(_comparable(first, one, other), found) == []
        else:
            assert status == 0, output
            assert comparison.states(_comparable(trial._settled(fresh, other), one, other), found) == [], output
            assert [
                line for line in _run(reloaded, other, "reload")[1].splitlines() if line.startswith("[#]")
            ] == []
        assert _run(reloaded, other, "down")[0] == 0
