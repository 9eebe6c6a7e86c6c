"""Puts back what is lost, under the interface's lock: a down, reload or up beside it is never fought."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from wgquick.errors import WgqError
from wgquick.executor import snapshot
from wgquick.executor.journal import Journal
from wgquick.options import Options
from wgquick.plan import applied as plan_applied
from wgquick.plan.promise import KINDS, Lost, lost
from wgquick.plan.steps import AddAddress, AddRoute, add_addresses, add_routes

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from wgquick.executor.journal import Record
    from wgquick.plan.applied import Applied
    from wgquick.plan.steps import Run
    from wgquick.ports import Host


class Promise(NamedTuple):
    """The journal of an interface that is up, and the link that it is of."""

    record: Record
    applied: Applied | None
    ifindex: int

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.record.name


class _Run(NamedTuple):
    """What the steps that mend need of a run: the host alone."""

    host: Host


class Mended(NamedTuple):
    """What was put back, and what could not be, with the reason of the last refusal."""

    restored: tuple[Lost, ...] = ()
    refused: tuple[Lost, ...] = ()
    reason: str = ""


def promise(name: str, host: Host) -> Promise | None:
    """The journal's promise; None where up has not finished, down has begun, or the journal is of another link."""
    record = Journal(host.journal_directory, name).read()
    if record is None or not record.complete:
        return None
    link = host.rtnl.link(name)
    if link is None or link.ifindex != record.ifindex:
        return None
    try:
        applied = plan_applied.from_record(record.applied) if record.applied is not None else None
    except (ValueError, KeyError, TypeError):
        applied = None
    return Promise(record, applied, link.ifindex)


def missing(given: Promise, host: Host) -> tuple[Lost, ...]:
    """What the interface has lost."""
    now = snapshot.current(given.name, host, Options(), given.record)
    return lost(given.record.undos, given.applied, now)


def mend(name: str, kinds: Collection[str], spared: Collection[str], host: Host) -> Mended | None:
    """Put back what is missing of these kinds, less what is spared; None where another run has the lock."""
    with host.interface_lock_if_free(name) as is_held:
        if not is_held:
            return None
        given = promise(name, host)
        found = [each for each in missing(given, host) if each.kind in kinds] if given else []
        wanted = [each for each in found if each.text not in spared]
        if given is None or not wanted:
            return Mended()
        reason = ""
        with host.lock():
            for kind in KINDS:
                reason = _put_back([each for each in wanted if each.kind == kind], host) or reason
        still = {each.text for each in missing(given, host)}
        return Mended(
            tuple(each for each in wanted if each.text not in still),
            tuple(each for each in wanted if each.text in still),
            reason,
        )


def _put_back(found: Sequence[Lost], host: Host) -> str:
    """Take the steps of one kind, addresses and routes in one batch; returns why one was refused."""
    steps = [each.step for each in found]
    if not steps:
        return ""
    try:
        if isinstance(steps[0], AddAddress):
            add_addresses(cast("Sequence[AddAddress]", steps), host)
        elif isinstance(steps[0], AddRoute):
            add_routes(cast("Sequence[AddRoute]", steps), host)
        else:
            for step in steps:
                step.do(cast("Run", _Run(host)))
    except WgqError as error:
        return error.what
    return ""
