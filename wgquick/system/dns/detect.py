"""Chooses how to set a host's DNS: by resolvconf if it is installed, as wg-quick(8) does, or another way."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def choose(
    preference: str, *, resolvconf: Callable[[], bool] | None = None, resolved: Callable[[], bool] | None = None
) -> str:
    """The mode for `auto`; any other preference is the mode.

    `resolvconf` tells whether that program is installed, `resolved` whether that daemon runs.
    """
    if preference != "auto":
        return preference
    if (resolvconf or _has_resolvconf)():
        return "resolvconf"
    return "resolved" if (resolved or _has_resolved)() else "file"


def _has_resolvconf() -> bool:
    from wgquick.system.dns.resolvconf import program

    return program() is not None


def _has_resolved() -> bool:
    from wgquick.system.dns.resolved import is_running

    return is_running()
