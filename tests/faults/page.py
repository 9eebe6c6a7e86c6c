"""Generates parts of docs/doctor.md: the codes, and the matrix with its results.

    python -m tests.faults.page            try every case on every backend, and write the page's parts
    python -m tests.faults.page legacy     only the cases with that word in their name, on the userspace backends
    python -m tests.faults.page kernel 3,40:60  only those cases of the matrix, in the VM; 40: is also possible
    python -m tests.faults.page kernel new 30   in the VM, the first 30 cases without a result there

It needs the programs of the tests, and takes some minutes.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import pytest_configure
from tests.faults.conftest import tried
from tests.faults.matrix import FAULTS, HEALTHY
from tests.faults.trial import Outcome, judged
from tests.faults.world import BACKENDS
from tests.interop.pairs import KERNEL
from tests.kernel import vm
from wgquick.diagnosis.doctor.codes import CODES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.faults.conftest import Outcomes
    from tests.faults.matrix import Case

VM_LIMIT = 7200.0
PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"


def codes() -> str:
    """The table of the codes, in the order in which doctor prints causes."""
    lines = [f"| `{name}` | {code.severity} | {code.meaning} |" for name, code in CODES.items()]
    return "\n".join(["| code | | what is wrong |", "|---|---|---|", *lines])


def matrix(outcomes: Outcomes, before: str) -> str:
    """The tables of the faults, each with doctor's first finding, and of the healthy tunnels.

    Cases that were not tried keep their earlier result.
    """
    columns = "| named first | wgq-userspace | wireguard-go | kernel |\n|---|---|---|---|---|"
    known = {name: cells for name, _, *cells in map(_cells, before.splitlines())}
    faults = [f"| {case.name} | `{case.code}` | {_results(case, outcomes, known)} |" for case in FAULTS]
    healthy = [f"| {case.name} | nothing | {_results(case, outcomes, known)} |" for case in HEALTHY]
    return "\n".join([f"| fault {columns}", *faults, "", f"| healthy tunnel {columns}", *healthy])


def _cells(row: str) -> list[str]:
    return [each.strip() for each in row.strip("| ").split(" | ")] if row.startswith("| ") else ["", ""]


def _results(case: Case, outcomes: Outcomes, known: Mapping[str, list[str]]) -> str:
    backends = (*BACKENDS, KERNEL)
    before = known.get(case.name, ["-"] * len(backends))
    return " | ".join(_cell(case, outcomes, *each) for each in zip(backends, before, strict=True))


def _cell(case: Case, outcomes: Outcomes, backend: str, before: str) -> str:
    """The verdict on one outcome; without seconds for the VM, where the cases share one processor."""
    if backend in case.absent:
        return f"- ({case.absent[backend]})"
    outcome = outcomes.get(f"{case.name}, {backend}")
    if outcome is None or outcome.fault:
        return before
    if judged(case, backend, outcome):
        return f"no: `{outcome.code or 'nothing'}`"
    return "yes" if backend == KERNEL else f"yes, {outcome.seconds:.1f} s"


def _new(text: str, count: int) -> str:
    """The numbers of the first cases without a result with the kernel's WireGuard."""
    last = {
        name: cells[-1] for name, _, *cells in map(_cells, text.splitlines()) if len(cells) == len(BACKENDS) + 1
    }
    every = enumerate((*FAULTS, *HEALTHY))
    return ",".join([str(at) for at, case in every if last.get(case.name, "-").strip("- |") == ""][:count])


def filled(text: str, name: str, part: str) -> str:
    """The page with one of its parts, which are between two comments, replaced."""
    pattern = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    assert pattern.search(text), name
    return pattern.sub(lambda match: f"{match[1]}{part}\n{match[2]}", text)


def main() -> None:
    """Try the cases and write the page. AssertionError names cases that failed, whose results stay."""
    words = sys.argv[1:]
    pytest_configure()
    text = PAGE.read_text()
    is_kernel = words[:1] == ["kernel"]
    cases = [case for case in (*FAULTS, *HEALTHY) if not words or any(word in case.name for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        outcomes: Outcomes = {}
        if not is_kernel:
            outcomes = tried([(case, backend) for case in cases for backend in BACKENDS], Path(folder))
        if is_kernel or not words:
            part = _new(text, int(words[2])) if words[1:2] == ["new"] else words[1] if words[1:] else ":"
            lines = vm.run("tests.kernel.fault_matrix", part, limit=VM_LIMIT)
            outcomes |= {name: Outcome(*fields) for name, fields in map(json.loads, lines)}
    PAGE.write_text(filled(filled(text, "codes", codes()), "matrix", matrix(outcomes, text)))
    faults = [f"{name}\n{outcome.fault}" for name, outcome in outcomes.items() if outcome.fault]
    assert not faults, "\n".join(faults)


if __name__ == "__main__":
    main()
