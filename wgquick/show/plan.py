"""A plan as text and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.plan.planned import Plan, Planned

_SHOWN = 3
_WIDEST = 72


def json_text(plan: Plan) -> str:
    """`{"verb", "interface", "changes", "restart", "notes"}`; no secrets.

    A change is `{"sign", "step", "text", "reason", "interrupts", "undo", "known_after"}`: `plan.planned.Planned`.
    """
    found: dict[str, Any] = {
        "verb": plan.verb,
        "interface": plan.interface,
        "changes": [_change(each) for each in plan.changes],
        "restart": list(plan.restart),
        "notes": [note.text for note in plan.notes],
    }
    return json.dumps(found, indent=2) + "\n"


def _change(change: Planned) -> dict[str, Any]:
    return {
        "sign": change.sign,
        "step": change.step,
        "text": list(change.text),
        "reason": str(change.reason),
        "interrupts": [str(key) for key in change.interrupts],
        "undo": list(change.undo),
        "known_after": change.known_after,
    }


def text(plan: Plan) -> str:
    """A line for each command: its sign, the command, and after `#` its place in the file; "" for no changes."""
    lines = [(f"{each.sign} {command}", each) for each in plan.changes for command in each.text]
    width = min(max((len(line) for line, _ in lines), default=0), _WIDEST)
    return "".join(_line(line, "; ".join(_remarks(each)), width) for line, each in lines)


def _line(command: str, remarks: str, width: int) -> str:
    return f"{command:{width}}  # {remarks}\n" if remarks else f"{command}\n"


def _remarks(change: Planned) -> Iterator[str]:
    path, line = change.reason
    if path:
        name = path.rpartition("/")[2]
        yield f"{name}:{line}" if line else f"not in {name}"
    if "Firewall" in change.step:
        yield "firewall rules"
    if change.known_after and not change.has_open_number:
        yield f"known {'on' if change.known_after == 'the host' else 'after'} {change.known_after}"
    if change.interrupts:
        shown = ", ".join(str(key) for key in change.interrupts[:_SHOWN])
        more = len(change.interrupts) - _SHOWN
        yield f"ends the session with {shown}{f' and {more} more' if more > 0 else ''}"
