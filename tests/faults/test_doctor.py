"""Doctor's first finding for each fault, and no finding for healthy tunnels."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import pytest

from tests.faults.matrix import CASES, FAULTS, HEALTHY
from tests.faults.trial import judged
from wgquick.diagnosis.doctor.codes import CODES

if TYPE_CHECKING:
    from tests.faults.conftest import Outcomes
    from tests.faults.matrix import Case

LIMIT = 10.0
PATIENCE = 5.0  # seconds that a busy machine may add


@pytest.mark.timeout(1800)  # the first test waits for all cases
@pytest.mark.parametrize(
    ("case", "backend"),
    [pytest.param(case, backend, id=f"{case.name}, {backend}") for case, backend in CASES if case.code],
)
def test_the_first_finding_is_the_injected_fault(outcomes: Outcomes, case: Case, backend: str) -> None:
    outcome = outcomes[f"{case.name}, {backend}"]
    assert judged(case, backend, outcome) == ""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("case", "backend"),
    [pytest.param(case, backend, id=f"{case.name}, {backend}") for case, backend in CASES if not case.code],
)
def test_a_healthy_tunnel_has_no_finding(outcomes: Outcomes, case: Case, backend: str) -> None:
    outcome = outcomes[f"{case.name}, {backend}"]
    assert judged(case, backend, outcome) == ""


@pytest.mark.timeout(1800)
def test_most_findings_take_less_than_ten_seconds(outcomes: Outcomes) -> None:
    """With some patience, as several cases run at once; a single one may have waited for the processor."""
    assert median(outcome.seconds for outcome in outcomes.values()) < LIMIT + PATIENCE


def test_the_matrix_has_40_faults_and_20_healthy_tunnels() -> None:
    assert len(FAULTS) >= 40
    assert len(HEALTHY) >= 20
    assert {case.code for case in FAULTS} <= set(CODES)
