"""Each class of steps is complete: its record, its sign, and an undo's place when a tunnel goes down."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from tests.keys import public
from wgquick.net import Destination, Endpoint, Rule, SocketAddress
from wgquick.plan import down
from wgquick.plan.steps import Change, DeleteRule, RemoveGuard, Undo, UndoStep, from_record, recorded, sign

UNDOS = get_args(Undo)
ALLOWED = (
    Destination(SocketAddress("192.0.2.1", 51820), Endpoint("vpn.example", "51820")),
    Destination(SocketAddress("2001:db8::1", 51820), Endpoint("2001:db8::1", "51820")),
    Destination(SocketAddress("fe80::1", 51820, 3), Endpoint("fe80::1%eth0", "wireguard")),
    Destination(SocketAddress("192.0.2.2", 51820), public()),
    Destination(SocketAddress("192.0.2.53", 53)),
)
VALUES = {
    "str": "some",
    "int": 4,
    "Rule": Rule(4, 51820, 32765, fwmark=51820),
    "tuple[Destination, ...]": ALLOWED,
}


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


def test_the_destinations_of_earlier_journals_are_read() -> None:
    text = "vpn.example:51820=192.0.2.1/51820/0 ?=192.0.2.53/53/0"
    assert from_record("RemoveGuard", ["wg0", text]) == RemoveGuard("wg0", (ALLOWED[0], ALLOWED[-1]))


@pytest.mark.parametrize("text", ["word", "a.example:1=192.0.2.1/one/0", "@key=192.0.2.1/1/0", "?=192.0.2.1/1"])
def test_damaged_destinations_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_record("RemoveGuard", ["wg0", text])


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
