"""src_valid_mark's way back to what it was before the full tunnels that need it at 1.

Each such tunnel's journal names the earlier value. Where the last of them goes down while one of wg-quick's, which
has no journal, still needs the 1, the earlier value is kept in a journal of its own.
"""

from __future__ import annotations

from wgquick.errors import OperationError
from wgquick.executor.journal import Journal, others
from wgquick.lean import TYPE_CHECKING, suppress
from wgquick.plan.steps import ReleaseSysctl, parameter
from wgquick.plan.up import SRC_VALID_MARK

if TYPE_CHECKING:
    from wgquick.plan.steps import Undo
    from wgquick.ports import Host

_KEPT = ":src_valid_mark"  # no name that an interface of ours may have


def earlier(host: Host, name: str) -> str | None:
    """What it was before the tunnels that hold it now, `name` aside; None where no other does."""
    for record in others(host.journal_directory, name):
        for undo in record.undos:
            if isinstance(undo, ReleaseSysctl) and undo.key == SRC_VALID_MARK:
                return undo.earlier
    return None


def release(host: Host, undo: ReleaseSysctl, name: str) -> None:
    """Put the earlier value back, or where another tunnel still needs the 1 leave that to whichever is the last.

    Under the lock no tunnel that is coming up has seen the value but not yet added its rule.
    """
    with host.lock():
        if not _is_needed(host):
            host.sysctl.write(parameter(undo.key), undo.earlier)
            _kept(host).remove()
        elif earlier(host, name) is None:
            with suppress(OperationError):  # a full /run is no reason not to go down
                _kept(host).promise(undo)


def kept(host: Host) -> tuple[Undo, ...]:
    """The undo that was left to a tunnel without a journal."""
    record = _kept(host).read()
    return record.undos if record else ()


def forget(host: Host) -> None:
    """Drop what was kept where no full tunnel is up any more: wg-quick leaves the 1 for good."""
    if kept(host) and not _is_needed(host):
        _kept(host).remove()


def _kept(host: Host) -> Journal:
    return Journal(host.journal_directory, _KEPT)


def _is_needed(host: Host) -> bool:
    """Whether a full tunnel of IPv4 is still up, be it wgq's or wg-quick's: its rule is."""
    return any(rule.fwmark is not None and not rule.other for rule in host.rtnl.rules(4))
