"""Two boots per session: the outcomes of the trials by job, and of the checks by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.kernel import vm
from tests.parity.trial import Ran, Trial

if TYPE_CHECKING:
    from tests.kernel.cases import Job


class Results:
    """The trials of one boot."""

    def __init__(self, lines: list[str]) -> None:
        self._trials: dict[str, dict[str, Any]] = {key: trial for key, _, trial in map(json.loads, lines)}

    def of(self, job: Job) -> Trial:
        """The trial of a job."""
        found = self._trials[job.key]
        between = [Ran(**ran) for ran in found["between"]]
        return Trial(found["before"], Ran(**found["up"]), between, Ran(**found["down"]))


@pytest.fixture(scope="session")
def results() -> Results:
    return Results(vm.run("tests.kernel.guest"))


@pytest.fixture(scope="session")
def outcomes() -> dict[str, str]:
    """The error of each check by name; an empty text if there is none."""
    lines = vm.run("tests.kernel.checks")
    return {name: outcome for name, _, outcome in map(json.loads, lines)}
