"""Removes the leftovers of tunnels of an earlier boot or an earlier container.

Links, routes, rules and firewall rules disappear with their network namespace. /etc/resolv.conf, the records of
resolvconf and the journal directories may remain. The DNS servers in them may be unreachable.
"""

from __future__ import annotations

from wgquick.errors import OperationError
from wgquick.executor.journal import others
from wgquick.lean import TYPE_CHECKING, suppress
from wgquick.plan.steps import UnsetDns
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wgquick.executor.journal import Record
    from wgquick.ports import Host


def clean(host: Host, say: Callable[[str], None]) -> frozenset[str]:
    """Remove the leftovers; returns the names of the tunnels that had DNS. `say` gets a line for each."""
    return frozenset((*_clean_directories(host, say), *_clean_file(host, say)))


def _clean_file(host: Host, say: Callable[[str], None]) -> tuple[str, ...]:
    try:
        names = host.dns.repair()
    except OperationError as error:
        say(note(f"{error.what}: it still has the DNS of a tunnel that is gone"))
        return ()
    for name in names:
        say(note(f"Removed the DNS of {name}, which is gone, from /etc/resolv.conf"))
    return names


def _clean_directories(host: Host, say: Callable[[str], None]) -> set[str]:
    names: set[str] = set()
    for directory in host.other_directories():
        records = tuple(others(directory, ""))
        contained = bool(records) and all(record.contained for record in records)
        if host.is_gone(directory, contained=contained):
            names |= _unset_dns(records, host, say)
            host.remove_directory(directory)
    return names


def _unset_dns(records: Iterable[Record], host: Host, say: Callable[[str], None]) -> set[str]:
    """Remove resolvconf's records. The name alone identifies them, so records of an existing link stay."""
    undos = {undo for record in records for undo in record.undos if isinstance(undo, UnsetDns)}
    names = {undo.name for undo in undos if undo.mode == "resolvconf" and host.rtnl.link(undo.name) is None}
    for name in sorted(names):
        say(note(f"{name} is gone with its network namespace: removing its DNS"))
        with suppress(OperationError):
            host.dns.unset("resolvconf", name)
    return names
