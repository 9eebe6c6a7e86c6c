"""Comparison of two outcomes."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.parity.state import State


def states(wanted: State, found: State) -> list[str]:
    """The lines that differ, each with its section; empty if the states are equal."""
    return [
        f"{section}: {line}"
        for section in sorted(wanted.keys() | found.keys())
        for line in lines(wanted.get(section, []), found.get(section, []))
    ]


def lines(wanted: Iterable[str], found: Iterable[str]) -> list[str]:
    """`- wanted` and `+ found` lines, without equal ones."""
    compared = difflib.ndiff(list(wanted), list(found))
    return [line for line in compared if line.startswith(("- ", "+ "))]
