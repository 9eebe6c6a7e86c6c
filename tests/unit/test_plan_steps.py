"""Each class of steps is complete: its record, its sign, and an undo's place when a tunnel goes down."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from wgquick.net import Rule
from wgquick.plan import down
from wgquick.plan.steps import Change, DeleteRule, Undo, UndoStep, from_record, recorded, sign

UNDOS = get_args(Undo)
VALUES = {"str": "some", "int": 4, "Rule": Rule(4, 51820, 32765, fwmark=51820)}


def example(undo: type[Any]) -> Undo:
    """An undo of this class."""
    made: Undo = undo(*(VALUES[each] for each in undo.__annotations__.values()))
    return made


@pytest.mark.parametrize("undo", UNDOS)
def test_every_undo_survives_the_journal(undo: type[Any]) -> None:
    kind, *fields = json.loads(json.dumps(recorded(example(undo))))
    assert (kind, from_record(kind, fields)) == (undo.__name__, example(undo))
    for damaged in (fields[1:], [*fields, 1], [None, *fields[1:]]):
        with pytest.raises(ValueError, match=r"^$"):
            from_record(kind, damaged)


@pytest.mark.parametrize("order", [down.in_down_order, down.in_rollback_order])
def test_down_and_rollback_have_a_place_for_every_undo(order: Any) -> None:
    found = order(map(example, UNDOS))
    assert {type(each) for each in found} == set(UNDOS)


@pytest.mark.parametrize("step", [*get_args(Change), *UNDOS])
def test_the_sign_of_a_step_follows_from_its_name(step: type[Any]) -> None:
    adds = step.__name__.startswith(("Add", "Keep")) or step.__name__ in ("SetDevice", "SetDns", "SetGuard")
    removes = step.__name__.startswith(("Delete", "Remove", "Unset", "Forget"))
    made = UndoStep(DeleteRule(VALUES["Rule"])) if step is UndoStep else step(*step.__annotations__)  # type: ignore[arg-type]
    assert sign(made) == ("+" if adds else "-" if removes or step is UndoStep else "~")
