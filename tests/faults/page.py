"""The parts of docs/doctor.md that are made: the codes, and the matrix with its results.

    python -m tests.faults.page            try every case on both userspace backends, and write the page's parts

It needs what the tests need, and takes some minutes.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import pytest_configure
from tests.faults.conftest import tried
from tests.faults.matrix import FAULTS, HEALTHY
from tests.faults.world import BACKENDS
from tests.kernel.faults import CHECKS as IN_THE_VM
from wgquick.diagnosis.doctor.codes import CODES

if TYPE_CHECKING:
    from tests.faults.conftest import Outcomes
    from tests.faults.matrix import Case

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


def codes() -> str:
    """The table of the codes, in the order in which causes are told."""
    lines = [f"| `{name}` | {code.severity} | {code.meaning} |" for name, code in CODES.items()]
    return "\n".join(["| code | | what is wrong |", "|---|---|---|", *lines])


def matrix(outcomes: Outcomes) -> str:
    """The tables of the faults, with what doctor said first, and of the healthy tunnels."""
    columns = "| named first | wgq-userspace | wireguard-go | kernel |\n|---|---|---|---|---|"
    faults = [f"| {case.name} | `{case.code}` | {_results(case, outcomes)} |" for case in FAULTS]
    healthy = [f"| {case.name} | nothing | {_results(case, outcomes)} |" for case in HEALTHY]
    return "\n".join([f"| fault {columns}", *faults, "", f"| healthy tunnel {columns}", *healthy])


def _results(case: Case, outcomes: Outcomes) -> str:
    cells = [_cell(case, outcomes, backend) for backend in BACKENDS]
    return " | ".join([*cells, "yes" if case.name in IN_THE_VM else "-"])


def _cell(case: Case, outcomes: Outcomes, backend: str) -> str:
    outcome = outcomes.get(f"{case.name}, {backend}")
    if outcome is None:
        return "-"
    is_right = outcome.code == case.code if case.code else not outcome.loud
    return (
        f"yes, {outcome.seconds:.1f} s" if is_right and not outcome.fault else f"no: `{outcome.code or 'nothing'}`"
    )


def filled(text: str, name: str, part: str) -> str:
    """The page with one of its parts replaced, which stands between two comments."""
    pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    assert pattern.search(text), name
    return pattern.sub(lambda match: f"{match[1]}{part}\n{match[2]}", text)


def main() -> None:
    """Try the cases and write the page; an AssertionError if a case could not be made."""
    pytest_configure()
    every = [(case, backend) for case in (*FAULTS, *HEALTHY) for backend in case.backends]
    with tempfile.TemporaryDirectory() as folder:
        outcomes = tried(every, Path(folder))
    faults = [f"{name}\n{outcome.fault}" for name, outcome in outcomes.items() if outcome.fault]
    assert not faults, "\n".join(faults)
    text = filled(PAGE.read_text(), "codes", codes())
    PAGE.write_text(filled(text, "matrix", matrix(outcomes)))


if __name__ == "__main__":
    main()
