"""The changes of a reload as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wgquick import api

if TYPE_CHECKING:
    from wgquick.executor.reloading import Outcome, ReloadOptions
    from wgquick.plan.difference import Move
    from wgquick.transcript import Line


def json_text(name: str, outcome: Outcome, reload_options: ReloadOptions) -> str:
    """`{"verb", "interface", "dry_run", "changes": [{"step", "text", "undo"}], "restart", "notes"}`; no secrets."""
    found: dict[str, Any] = {
        "verb": "reload",
        "interface": name,
        "dry_run": reload_options.dry_run,
        "changes": [_change(move) for move in outcome.moves],
        "restart": list(outcome.restart),
        "notes": list(outcome.notes),
    }
    return json.dumps(found, indent=2) + "\n"


def _change(move: Move) -> dict[str, Any]:
    done, undone = api.move_lines(move)
    return {"step": type(move.step).__name__, "text": _texts(done), "undo": _texts(undone)}


def _texts(lines: tuple[Line, ...]) -> list[str]:
    return [line.text for line in lines]
