"""What each verb does with its arguments; used by the short way and by typer alike."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from wgquick import api
from wgquick.cli import privilege, signals
from wgquick.cli.streams import say
from wgquick.config import location
from wgquick.errors import WgqError
from wgquick.executor.options import Options

if TYPE_CHECKING:
    from wgquick.config.settings import Settings


def options(
    backend: str | None = None,
    firewall: str | None = None,
    dns: str | None = None,
    *,
    strict: bool = False,
    force: bool = False,
) -> Options:
    """The options given, or else WGQ_BACKEND, WGQ_FIREWALL and WGQ_DNS."""
    return Options(
        backend or os.environ.get("WGQ_BACKEND") or "auto",
        firewall or os.environ.get("WGQ_FIREWALL") or "auto",
        dns or os.environ.get("WGQ_DNS") or "auto",
        strict,
        force,
    ).checked()


def up(target: str, name: str | None = None, chosen: Options | None = None) -> None:
    """Bring an interface up."""
    chosen = chosen or options()
    privilege.acquire()
    settings = api.load(target, say, name=name)
    with signals.raised():
        api.up(settings, chosen, say)


def down(target: str, name: str | None = None, chosen: Options | None = None) -> None:
    """Take an interface down; a file that is gone or broken leaves the journal and the host to go by."""
    chosen = chosen or options()
    privilege.acquire()
    interface = location.valid_name(name) if name else location.interface_name(target)
    settings = _for_down(interface, target, name)
    with signals.raised():
        api.down(interface, settings, chosen, say)


def _for_down(interface: str, target: str, name: str | None) -> Settings | None:
    """What the file says; None where the journal's hooks are to run instead, or none."""
    try:
        settings, faults = api.load_for_down(target, say, name=name)
    except WgqError as error:
        if not api.can_go_down(interface, without_file=True):
            raise
        say(f"[!] {error.what}: taking {interface} down by its journal and by what the host shows")
        return None
    if faults is None or not api.can_go_down(interface, without_file=True):
        return settings
    recorded = api.can_go_down(interface, without_file=False)
    say(str(faults))
    say(f"[!] Taking {interface} down all the same, with {'its journal' if recorded else 'the file'}'s hooks")
    return None if recorded else settings


def save(target: str, chosen: Options | None = None) -> None:
    """Write an interface's present state to its file; a signal leaves no half of it, with its key, behind."""
    chosen = chosen or options()
    privilege.acquire()
    with signals.raised():
        api.save(target, chosen, say)


def strip(target: str, name: str | None = None) -> None:
    """Print what `wg` understands."""
    if not _is_readable(target, name):
        privilege.acquire()
    if sys.stdout is None:
        raise WgqError("standard output is closed")
    sys.stdout.flush()
    sys.stdout.buffer.write(api.strip(target, say, name=name))
    sys.stdout.buffer.flush()


def _is_readable(target: str, name: str | None) -> bool:
    """Whether this user may read the file; one in a closed directory looks as if it were not there."""
    if target == location.STANDARD_INPUT:
        return True
    try:
        path = location.locate(target, name).path
    except WgqError:
        return os.access(location.DIRECTORY, os.X_OK, effective_ids=True)
    return not path or os.access(path, os.R_OK, effective_ids=True)
