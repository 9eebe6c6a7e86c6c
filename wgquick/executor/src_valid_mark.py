"""Restores src_valid_mark to its value before the full tunnels that need it to be 1.

The journal of each such tunnel records the earlier value. A full tunnel of wg-quick has no journal. If one is up
when wgq's last one goes down, a separate journal keeps the earlier value.
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

_KEPT = ":src_valid_mark"  # not a valid interface name


def earlier(host: Host, name: str) -> str | None:
    """The value before the other tunnels (not `name`) set it; None if no other tunnel holds it."""
    for record in others(host.journal_directory, name):
        for undo in record.undos:
            if isinstance(undo, ReleaseSysctl) and undo.key == SRC_VALID_MARK:
                return undo.earlier
    return None


def release(host: Host, undo: ReleaseSysctl, name: str) -> None:
    """Restore the earlier value, unless another tunnel still needs the 1. Then the last tunnel restores it.

    The lock excludes a tunnel that has read the value but has not added its rule yet.
    """
    with host.lock():
        if not _is_needed(host):
            host.sysctl.write(parameter(undo.key), undo.earlier)
            _kept(host).remove()
        elif earlier(host, name) is None:
            with suppress(OperationError):  # a full /run must not stop down
                _kept(host).record_undo(undo)


def kept(host: Host) -> tuple[Undo, ...]:
    """The undo that the separate journal keeps."""
    record = _kept(host).read()
    return record.undos if record else ()


def forget(host: Host) -> None:
    """Remove the separate journal if no full tunnel is up: wg-quick never resets the 1."""
    if kept(host) and not _is_needed(host):
        _kept(host).remove()


def _kept(host: Host) -> Journal:
    return Journal(host.journal_directory, _KEPT)


def _is_needed(host: Host) -> bool:
    """Whether an IPv4 full tunnel of wgq or wg-quick is still up, judged by its rule."""
    return any(rule.fwmark is not None and not rule.other for rule in host.rtnl.rules(4))
