"""wgq compared with wg-quick on the kernel's WireGuard, in one boot of a VM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kernel import cases
from tests.kernel.cases import Job
from tests.parity import allowances, comparison
from tests.parity.trial import FIREWALLS, IN_PROCESS, WG_QUICK

if TYPE_CHECKING:
    from tests.kernel.conftest import Results
    from tests.parity.case import Case
    from tests.parity.trial import Trial

pytestmark = pytest.mark.timeout(7200)  # the first test waits for the kernel's build, the boot and every trial

compared = pytest.mark.parametrize(
    ("case", "firewall"), [pytest.param(*pair, id=f"{pair[0].name}-{pair[1]}") for pair in cases.compared()]
)


def both(results: Results, case: Case, firewall: str) -> tuple[Trial, Trial]:
    """The wanted trial and wgq's."""
    wanted = allowances.expected(case, results.of(Job(case, firewall, WG_QUICK, WG_QUICK)))
    found = results.of(Job(case, firewall, IN_PROCESS, IN_PROCESS))
    return wanted, allowances.saving_changes_only_what_changed(case, found)


@compared
def test_up_leaves_the_same_state(results: Results, case: Case, firewall: str) -> None:
    wanted, found = both(results, case, firewall)
    assert comparison.states(wanted.up.after, found.up.after) == []


@compared
def test_down_leaves_the_same_state(results: Results, case: Case, firewall: str) -> None:
    wanted, found = both(results, case, firewall)
    assert comparison.states(wanted.down.after, found.down.after) == []


@compared
def test_status_and_transcript_are_the_same(results: Results, case: Case, firewall: str) -> None:
    wanted, found = both(results, case, firewall)
    for one, other in ((wanted.up, found.up), (wanted.down, found.down)):
        assert comparison.lines(one.transcript, other.transcript) == []
        assert one.status == other.status


@compared
def test_the_kernel_runs_the_tunnel(results: Results, case: Case, firewall: str) -> None:
    _, found = both(results, case, firewall)
    assert found.up.status or any(
        line.startswith("wg0 ") and " wireguard " in line for line in found.up.after["links"]
    )
    assert found.up.after["sockets"] == []


def test_save_writes_the_same_settings(results: Results) -> None:
    wanted, found = both(results, cases.parity_case("save-on-request"), "nft")
    for one, other in zip(wanted.between, found.between, strict=True):
        assert comparison.states(one.after, other.after) == []


@pytest.mark.parametrize("name", cases.CROSSED)
@pytest.mark.parametrize(
    "pair", [(WG_QUICK, IN_PROCESS), (IN_PROCESS, WG_QUICK)], ids=["wgq down", "wg-quick down"]
)
def test_one_tool_takes_down_what_the_other_brought_up(results: Results, name: str, pair: tuple[str, str]) -> None:
    crossed = results.of(Job(cases.parity_case(name), "nft", *pair))
    assert crossed.down.status == 0
    assert comparison.states(_plain(crossed.before), _plain(crossed.down.after)) == []


@pytest.mark.parametrize("name", cases.KILLED)
@pytest.mark.parametrize("firewall", FIREWALLS)
def test_down_after_a_kill_restores_the_machine(results: Results, name: str, firewall: str) -> None:
    killed = results.of(Job(cases.killed_case(name), firewall, IN_PROCESS, IN_PROCESS))
    assert killed.up.status == -9
    assert any(line.startswith("wg0 ") for line in killed.up.after["links"])
    assert comparison.states(killed.before, killed.down.after) == []


def _plain(state: dict[str, list[str]]) -> dict[str, list[str]]:
    """The state without the file, which down saves, and without src_valid_mark, which only its setter restores."""
    return state | {"file": [], "sysctl": []}
