"""What `wgq up --ensure` did, as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.executor.ensuring import Ensured


def json_text(name: str, done: Ensured, commands: Iterable[str]) -> str:
    """`{"verb", "interface", "action", "commands", "restart"}`; no secrets.

    `action` is "none", "up", "reload" or "restart"; `commands` are the transcript's; `restart` is why a restart was
    needed or, with the action "none", is needed.
    """
    found = {
        "verb": "up",
        "interface": name,
        "action": done.action,
        "commands": list(commands),
        "restart": list(done.restart),
    }
    return json.dumps(found, indent=2) + "\n"
