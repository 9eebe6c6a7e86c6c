"""`wgq doctor`: what it does with its arguments."""

from __future__ import annotations

from wgquick import api
from wgquick.cli import privilege, verbs
from wgquick.lean import TYPE_CHECKING
from wgquick.show import doctor as show

if TYPE_CHECKING:
    from wgquick.cli.verbs import Given


def doctor(targets: list[str], given: Given) -> int:
    """Say why a tunnel does not work; 1 if there is an error."""
    privilege.acquire()
    found = api.doctor(targets[0] if targets else None)
    text = show.json_text(found) if given.get("json") else "\n".join(show.text(*each) for each in found.items())
    verbs.write(text)
    return int(any(each.severity == "error" for causes in found.values() for each in causes))
