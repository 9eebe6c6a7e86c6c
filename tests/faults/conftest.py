"""The matrix runs once per session, several cases at a time: most of the time is spent waiting."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.faults.matrix import CASES
from tests.faults.trial import Outcome, attempt
from tests.imports import import_wgquick

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.matrix import Case

AT_ONCE = 4
Outcomes = dict[str, Outcome]


def tried(cases: list[tuple[Case, str]], folder: Path) -> Outcomes:
    """The outcomes of the cases, by `name, backend`; each process makes its own machines."""
    import_wgquick()
    workers = [_start(cases[at::AT_ONCE], folder / f"{at}.json") for at in range(AT_ONCE)]
    found: Outcomes = {}
    for at, worker in enumerate(workers):
        os.waitpid(worker, 0)
        lines = (folder / f"{at}.json").read_text().splitlines()
        found |= {name: Outcome(*fields) for name, fields in map(json.loads, lines)}
    return found


def _start(cases: list[tuple[Case, str]], file: Path) -> int:
    if worker := os.fork():
        return worker
    try:
        with file.open("w") as output:
            for case, backend in cases:
                print(json.dumps([f"{case.name}, {backend}", attempt(case, backend)]), file=output, flush=True)
    finally:
        os._exit(0)


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return tried(CASES, tmp_path_factory.mktemp("matrix"))
