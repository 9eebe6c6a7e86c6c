"""`wgq exec`: a command in the network namespace of an interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgquick import api
from wgquick.cli import privilege

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def execute(name: str, command: Sequence[str]) -> NoReturn:
    """Replace this process by the command."""
    privilege.acquire()
    api.execute(name, command)
