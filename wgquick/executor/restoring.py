"""Restores the state that an interface had before a trial.

That state contains keys, so it is only in the memory of the trial's watchdogs, and never in a file.
"""

from __future__ import annotations

from wgquick.config.settings import Extras, Settings
from wgquick.errors import HookError, SignalError, WgqError, not_wireguard
from wgquick.executor import down, netns, netns_records, reloading, snapshot, src_valid_mark, up
from wgquick.executor.execution import Execution
from wgquick.executor.journal import Journal, NoJournal
from wgquick.lean import TYPE_CHECKING, NamedTuple, contextmanager
from wgquick.net import MAIN_TABLE
from wgquick.plan import restore
from wgquick.plan.facts import DesiredFacts
from wgquick.plan.steps import parameter
from wgquick.plan.up import SRC_VALID_MARK
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wgquick.executor.journal import Record
    from wgquick.executor.netns_records import NetnsRecord
    from wgquick.options import Options
    from wgquick.plan.applied import Applied, Known
    from wgquick.plan.file_peers import FilePeers
    from wgquick.ports import Host

    Say = Callable[[str], None]
    Up = Callable[[Settings, Host, Options, Say], None]

_ROUNDS = 6
"""The maximum number of rounds: for rules, for the order of addresses, and for what the kernel removes itself."""


class Before(NamedTuple):
    """The state of an interface before a trial; `wanted` is None if it was not up.

    `record` and `hash_key` are its journal. `file` has the hooks and the table for bringing it up again. `where` is
    its network namespace, None for the current one, and `namespace` an open descriptor of that namespace or -1.
    """

    name: str
    file: Settings
    options: Options
    wanted: restore.Wanted | None = None
    record: Record | None = None
    hash_key: bytes = b""
    where: NetnsRecord | None = None
    namespace: int = -1


def look(name: str, file: Settings | None, host: Host, options: Options) -> Before:
    """The current state; WgqError if the interface exists and cannot be restored."""
    where = netns_records.record_of(name, host)
    if where is None or not netns.is_inside(name, host):
        return _look(name, file, host, options)
    with host.inside(where.netns) as inner:
        found = _look(name, file, inner, options)
    return found._replace(where=where, namespace=host.netns.opened(where.netns))


def _look(name: str, file: Settings | None, host: Host, options: Options) -> Before:
    if host.rtnl.link(name) is None:
        return Before(name, file or Settings(name), options)
    reloading.check_exists(name, host)
    journal = Journal(host.journal_directory, name)
    record = reloading.own(journal.read(), name, host)
    current = snapshot.current(name, host, options, record)
    if current.device is None or current.link is None:
        raise not_wireguard(name)
    applied = reloading.read_applied(record.applied) if record else None
    known = reloading.known_by(record, applied, keep_foreign=False)
    undos = record.undos if record else ()
    wanted = restore.wanted(current, current.device, known, undos, applied)
    if file is None:  # the file was deleted
        file = Settings(name, record.path if record else "")
    # The file may have changed since.
    if record is None:
        file = file._replace(extras=Extras())
    elif applied is not None and applied.extras is not None:
        file = file._replace(extras=applied.extras)
    file = file._replace(table="" if file.extras.netns else _table(applied, wanted))
    return Before(
        name,
        reloading.with_recorded_extras(file, record, applied),
        options._replace(
            backend="kernel" if current.link.kind == "wireguard" else "userspace",
            firewall=current.firewall[0].kind if current.firewall else options.firewall,
            dns=wanted.dns.mode if wanted.dns.servers else options.dns,
        ),
        wanted,
        record,
        journal.hash_key() if record else b"",
    )


def _table(applied: Applied | None, wanted: restore.Wanted) -> str:
    """The `Table =` of the file with which the interface was brought up, or one that gives the same routes."""
    current = {(r.destination, r.table) for r in wanted.current.routes if r.is_plain and not r.is_of_an_address}
    routes = current if applied is None else applied.routes
    tables = {table for _, table in routes}
    if not tables:
        return "off" if any(peer.allowed_ips for peer in wanted.device.peers) else ""
    if wanted.rules or len(tables) > 1:
        return ""
    is_default = any(destination.length == 0 for destination, _ in routes)
    return "" if tables == {MAIN_TABLE} and not is_default else str(min(tables))


@contextmanager
def undone_on_failure(name: str, file: Settings, host: Host, options: Options, say: Say) -> Iterator[None]:
    """Restore the interface if the block, a restart, fails; the caller holds the interface's lock."""
    before = look(name, file, host, options)
    try:
        yield
    except BaseException:
        try:
            try:
                go_back(before, file, host, say)
            except (SignalError, KeyboardInterrupt):  # repeat; further signals are ignored
                go_back(before, file, host, say)
            say(note(f"The restart failed: {name} is as it was before"))
        except WgqError as error:
            say(note(error))
        raise


def go_back(before: Before, tried: Settings | None, host: Host, say: Say, *, by_restart: bool = False) -> None:
    """Restore the state; the caller holds the interface's lock.

    `tried` has the current hooks of the interface (None: the journal's). `by_restart` takes it down and brings
    it up again. WgqError if something could not be restored; the caller may try again.
    """
    name, earlier, current = before.name, before.where, netns_records.record_of(before.name, host)
    if earlier is None and current is None:
        _go_back(before, tried, host, say, by_restart=by_restart)
        return
    stays = (
        earlier is not None
        and current is not None
        and earlier.netns == current.netns
        and netns.is_inside(name, host)
    )
    if not stays:
        if current is not None:
            _take_down_there(before, current, tried, host, say)
        elif down.can_go_down(name, host, without_file=True):
            _take_down(before, tried, host, say)
    if earlier is None or before.wanted is None:
        _go_back(before, tried, host, say)
        return
    if not stays:
        host.netns.restore(earlier.netns, before.namespace)
        file = before.file._replace(extras=before.file.extras._replace(netns=earlier.netns))
        _bring_up(restore.settings_for_up(before.wanted, file), host, before.options, say, netns.bring_up)
    netns.begin(name, earlier, host)
    with host.inside(earlier.netns) as inner:
        _go_back(before, tried, inner, say, by_restart=by_restart and stays)
    netns.keep(name, earlier, host)


def _take_down_there(before: Before, where: NetnsRecord, tried: Settings | None, host: Host, say: Say) -> None:
    """Take the interface down in its network namespace, as `_take_down` does in the current one."""
    settings = tried._replace(save_config=False) if tried else None
    options = before.options._replace(force=True)
    try:
        netns.take_down(
            before.name, where, lambda: (settings, None), host, options, say=say, save=lambda _settings, _host: None
        )
    except HookError as error:
        say(note(f"{error.what}; the rollback continues"))


def _go_back(before: Before, tried: Settings | None, host: Host, say: Say, *, by_restart: bool = False) -> None:
    """Restore the state in one network namespace."""
    if before.wanted is None:
        if down.can_go_down(before.name, host, without_file=True):
            _take_down(before, tried, host, say)
        return
    if by_restart or _needs_restart(before, before.wanted, host):
        _bring_up_again(before, before.wanted, tried, host, say)
    _restore(before, before.wanted, host)


def _needs_restart(before: Before, wanted: restore.Wanted, host: Host) -> bool:
    """Whether the link is missing, incomplete or of another kind, or is a new one with wgq's own settings."""
    link = host.rtnl.link(before.name)
    earlier = wanted.current.link
    if (
        link is None
        or earlier is None
        or link.kind != earlier.kind
        or before.name not in host.wireguard.interfaces()
    ):
        return True
    if link.ifindex != earlier.ifindex and before.file.extras._replace(netns="") != Extras():
        return True  # a restart has set up the kill switch and the other extras again
    record = Journal(host.journal_directory, before.name).read()
    if record is None or record.ifindex != link.ifindex:
        return False
    return not record.complete and not record.unread


def _take_down(before: Before, tried: Settings | None, host: Host, say: Say, *, keeps_guard: bool = False) -> None:
    """Take the interface down with its hooks, even if one fails. SaveConfig is ignored."""
    settings = tried._replace(save_config=False) if tried else None
    options = before.options._replace(force=True)
    try:
        down.take_down(before.name, settings, host, options, say=say, save=lambda _: None, keeps_guard=keeps_guard)
    except HookError as error:  # a PostDown hook, which runs after everything is removed
        say(note(f"{error.what}; the rollback continues"))


def _bring_up_again(before: Before, wanted: restore.Wanted, tried: Settings | None, host: Host, say: Say) -> None:
    settings = restore.settings_for_up(wanted, before.file)
    if host.rtnl.link(before.name) is not None:
        _take_down(before, tried, host, say, keeps_guard=settings.extras.kill_switch)
    _bring_up(settings, host, before.options, say, up.bring_up)


def _bring_up(settings: Settings, host: Host, options: Options, say: Say, up: Up) -> None:
    """Bring the interface up, without hooks if one of them fails."""
    try:
        up(settings, host, options, say)
    except HookError as error:
        say(note(f"{error.what}; the rollback continues without hooks"))
        up(settings._replace(pre_up=(), post_up=()), host, options, say)


def _restore(before: Before, wanted: restore.Wanted, host: Host) -> None:
    """Apply the difference until there is none, and restore the journal."""
    name = before.name
    journal = Journal(host.journal_directory, name)
    record = journal.read()
    link = host.rtnl.link(name)
    if link is not None and record is not None and record.ifindex != link.ifindex:
        record = None
    run = Execution(
        host, before.options, lambda _: None, journal if record else NoJournal(name), settings=before.file,
        undos=record.undos if record else (),
    )  # fmt: skip
    if before.record is not None and before.record.applied is not None and record is not None:
        journal.intend(before.record.applied)  # if all watchdogs are killed, the state is between the two
    known = _known(record)
    given = tuple(_given(record))
    faults: list[str] = []
    for _ in range(_ROUNDS):
        now = snapshot.current(name, host, before.options, record)
        if now.device is None:
            raise not_wireguard(name)
        known = known._replace(undos=run.undos if record else None)
        facts = _facts(host, before.file, known)
        moves = restore.moves(wanted, now, now.device, facts, known, given=given, file=before.file)
        if not moves:
            break
        faults = [fault for move in moves if (fault := run.put_back(move.step))]
        if not all(restore.is_of_rules(move) for move in moves):  # rules have a separate round
            known = known._replace(
                dns=wanted.dns,
                firewall=wanted.applied.firewall if wanted.applied else (),
                extras=before.file.extras,
                is_unfinished=False,
            )
    else:
        raise WgqError("\n".join(faults) or "the earlier state could not be restored", where=name)
    if before.record is not None and link is not None:
        old = before.record._replace(ifindex=link.ifindex)
        undos = reloading.with_one_guard(run.undos)
        journal.restore(old._replace(undos=undos) if record else old, before.hash_key)


def _known(record: Record | None) -> Known:
    applied = reloading.read_applied(record.applied) if record else None
    return reloading.known_by(record, applied, keep_foreign=False)


def _given(record: Record | None) -> list[FilePeers]:
    """The peers' settings of the trial's files."""
    if record is None:
        return []
    both = map(reloading.read_applied, (record.applied, record.intended))
    return [each.peers for each in both if each is not None]


def _facts(host: Host, file: Settings, known: Known) -> DesiredFacts:
    return DesiredFacts(
        src_valid_mark_earlier=src_valid_mark.earlier(host, file.name),
        src_valid_mark_writable=host.sysctl.writable(parameter(SRC_VALID_MARK)),
        lans=snapshot.lans(file, known, host),
        extras=snapshot.extras(known.undos, file.name, host) if known.undos else None,
    )
