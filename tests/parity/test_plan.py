"""Every case: a plan says what up and down then do; after up, plan, diff and ensure find nothing to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.imports import import_wgquick
from tests.namespaces import host
from tests.parity import trial
from tests.parity.case import Case, all_cases

if TYPE_CHECKING:
    from tests.namespaces import Namespace


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    """Each command is a fork of this process: eight starts of Python take most of a test's time."""
    import_wgquick()


def _run(machine: Namespace, case: Case, *words: str) -> tuple[int, str, str]:
    return trial._run(machine, case, "nft", [trial.IN_PROCESS, *words, case.argument])


def _commands(output: str) -> list[str]:
    found: dict[str, Any] = json.loads(output)
    return [line for change in found["changes"] for line in change["text"]]


def _printed(text: str) -> list[str]:
    return [line.removeprefix("[#] ") for line in text.splitlines() if line.startswith("[#] ")]


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_a_plan_is_what_up_does_and_is_empty_after_it(case: Case) -> None:
    with host() as machine:
        trial._prepare(machine, case, "nft")
        status, planned, fault = _run(machine, case, "plan", "up", "--json")
        ended, _, transcript = _run(machine, case, "up")
        if ended:
            assert status in (1, 2)
            return
        assert status == 2, fault
        if not case.settings("preup", "postup"):  # a hook may decide something, or print what looks like a command
            assert _commands(planned) == _printed(transcript)
        for words in (("plan", "up"), ("plan", "reload", "--force"), ("diff",)):
            status, found, fault = _run(machine, case, *words, "--json")
            assert (status, _commands(found) if found else fault) == (0, [])
        status, _, transcript = _run(machine, case, "up", "--ensure")
        assert (status, _printed(transcript)) == (0, [])
        assert "nothing to do" in transcript
        status, planned, fault = _run(machine, case, "plan", "down", "--json")
        assert status == 2, fault
        ended, _, transcript = _run(machine, case, "down")
        if not ended and not case.settings("predown", "postdown"):
            lines = [line for line in _commands(planned) if not line.startswith("sysctl -q net.ipv4.conf.all.src")]
            assert lines == _printed(transcript)
