"""cmd_down: observe, plan, apply, in wg-quick(8)'s order.

What only `up` or a tunnel without a journal needs is imported where it is used (docs/design.md, Start-up).
"""

from __future__ import annotations

from wgquick.errors import HookError, SignalError, WgqError, not_wireguard
from wgquick.executor import leftovers, trial
from wgquick.executor.execution import Execution, with_moved_rules
from wgquick.executor.journal import Journal
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import TUNNELS
from wgquick.plan import down as plan_down
from wgquick.plan.steps import DeleteLink, RemoveGuard, hooks
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.config.settings import Settings
    from wgquick.errors import ConfigError
    from wgquick.executor.journal import Record
    from wgquick.options import Options
    from wgquick.plan.steps import Step, Undo
    from wgquick.ports import Host

    Say = Callable[[str], None]
    Save = Callable[[Settings], None]
    FileForDown = Callable[[], tuple[Settings | None, ConfigError | None]]
    Hooks = tuple[Step, ...]


class Departure(NamedTuple):
    """How an interface goes down: PreDown and PostDown hooks, whether SaveConfig may apply, and the undos."""

    before: Hooks
    after: Hooks
    savable: bool
    undos: tuple[Undo, ...]


def cmd_down(name: str, read: FileForDown, host: Host, options: Options, *, say: Say, save: Save) -> None:
    """Take the interface down by its journal, or by the host's state if there is no journal.

    `read` returns the file's settings (None without a file) and its faults; it raises WgqError if the file is gone.
    `save` writes the device's state to the file for SaveConfig.
    """
    with host.interface_lock(name):
        try:
            settings = settings_of_file(name, read, host, say)
            take_down(name, settings, host, options, say=say, save=save)
        finally:
            if host.rtnl.link(name) is None:
                trial.supersede(host.journal_directory, name, say)


def settings_of_file(name: str, read: FileForDown, host: Host, say: Say) -> Settings | None:
    """The file's current settings; None if the journal's hooks run instead, or no hooks."""
    try:
        settings, faults = read()
    except WgqError as error:
        if not can_go_down(name, host, without_file=True):
            raise
        say(note(f"{error.what}: taking {name} down by its journal and the host's state"))
        return None
    if faults is None or not can_go_down(name, host, without_file=True):
        return settings
    recorded = can_go_down(name, host, without_file=False)
    say(str(faults))
    say(note(f"Taking {name} down anyway, with {'its journal' if recorded else 'the file'}'s hooks"))
    return None if recorded else settings


def take_down(
    name: str,
    settings: Settings | None,
    host: Host,
    options: Options,
    *,
    say: Say,
    save: Save,
    keeps_guard: bool = False,
    execution: Callable[..., Execution] = Execution,
) -> None:
    """Take the interface down, for a caller that holds the lock. With `keeps_guard` the kill switch stays."""
    journal = Journal(host.journal_directory, name)
    record = journal.read()
    if name in leftovers.clean(host, say) and record is None and host.rtnl.link(name) is None:
        return
    departure = _departure(name, settings, record, host, options, say=say)
    path = settings.path if settings else record.path if record else ""
    run = execution(host, options, say, journal, path, settings)
    _run_pre_down(name, departure.before, run, options, say=say)
    # Settings from standard input have no file to save to.
    if departure.savable and settings is not None and settings.save_config and settings.path:
        _save(name, settings, options, say=say, save=save)
    # PreDown hooks may move rules too.
    undos = with_moved_rules(departure.undos, (name,), host) if departure.before else departure.undos
    undos = plan_down.without_guard(undos) if keeps_guard else undos
    faults = run.undo_all(plan_down.with_remaining_firewalls(undos, name, host.firewall.present(name)))
    host.userspace.clear(name)
    unfinished = WgqError("\n".join(faults), where=name, remedy=f"Run `wgq down {name}' again once that is fixed.")
    if faults and host.rtnl.link(name) is not None:
        raise unfinished
    with host.lock():  # also removes the journal of a killed run
        _forget(journal, keep=bool(faults))
    try:
        run.apply(departure.after)
    except HookError:
        for fault in faults:
            say(note(fault))
        raise
    if faults:
        raise unfinished


def can_go_down(name: str, host: Host, *, without_file: bool) -> bool:
    """Whether down can find what to undo: a journal or, if `without_file`, a device or a gone tunnel's DNS."""
    if Journal(host.journal_directory, name).read() is not None:
        return True
    return without_file and name in (*host.wireguard.interfaces(), *host.dns.stale())


def _departure(
    name: str, settings: Settings | None, record: Record | None, host: Host, options: Options, *, say: Say
) -> Departure:
    link = host.rtnl.link(name)
    if record is None or (link is not None and record.ifindex not in (0, link.ifindex)):
        return _without_journal(name, settings, record, host, options)
    # A killed run never reached its PostUp hooks, so no hooks run, as after a failed up. A kill leaves whole lines
    # in the journal. In a damaged journal (`unread`) the end may be lost, so hooks run as they do without a
    # journal.
    ended = record.complete or record.unread > 0
    before, after = _hooks(settings, record, say) if ended else ((), ())
    if link is not None:
        recorded = with_moved_rules(record.undos, (name,), host)
        undos = (*recorded, *_unrecorded(name, settings, record, host, options, say=say))
        return Departure(before, after, ended, plan_down.in_down_order(undos))
    if current := renamed(record, host):
        say(note(f"{name} was renamed to {current}"))
        undos = plan_down.as_renamed(record.undos, current)
        return Departure((), after, False, plan_down.in_down_order(undos))
    say(note(f"{name} is gone already: removing what it left behind"))
    return Departure((), after, False, undos_without_link(record, host, options))


def _unrecorded(
    name: str, settings: Settings | None, record: Record, host: Host, options: Options, *, say: Say
) -> tuple[Undo, ...]:
    """The undos found on the host for a journal that is damaged, ends early or does not name its link."""
    if record.unread:
        say(note(f"{record.unread} line(s) of the journal cannot be parsed: using the host's state as well"))
    elif record.ifindex and record.complete:
        return ()
    from wgquick.executor import observe

    facts = observe.down(settings, name, host, options)
    shared = facts.fwmark in facts.other_marks  # the rules may belong to the other device
    return plan_down.from_facts(settings, name, facts._replace(fwmark=0) if shared else facts)


def _without_journal(
    name: str, settings: Settings | None, record: Record | None, host: Host, options: Options
) -> Departure:
    """The departure by the host's state, as in wg-quick; a stale journal's leftovers are undone too."""
    from wgquick.executor import observe, src_valid_mark

    facts = observe.down(settings, name, host, options)
    guards = (RemoveGuard(name),) if (record is None and host.firewall.is_guarded(name)) else ()
    if not facts.exists and not guards:
        raise not_wireguard(name, is_missing=host.rtnl.link(name) is None)
    before = hooks(settings, "PreDown") if settings else ()
    after = hooks(settings, "PostDown") if settings else ()
    stale = undos_without_link(record, host, options) if record else ()
    found = plan_down.from_facts(settings, name, facts)
    undos = plan_down.in_down_order((*found, *stale, *src_valid_mark.kept(host), *guards))
    return Departure(before, after, True, undos)


def undos_without_link(record: Record, host: Host, options: Options) -> tuple[Undo, ...]:
    """The undos of a journal after its link is gone, without rules that another tunnel uses now."""
    from wgquick.executor import observe

    facts = observe.down(None, record.name, host, options)
    spared = plan_down.spare_others(record.undos, facts)
    return plan_down.in_down_order(undo for undo in spared if not isinstance(undo, DeleteLink))


def renamed(record: Record, host: Host) -> str:
    """The current name of the journal's link if the link was renamed, else ""."""
    links = (link for link in host.rtnl.links() if record.ifindex and link.ifindex == record.ifindex)
    return next((link.name for link in links if link.name != record.name and link.kind in TUNNELS), "")


def _hooks(settings: Settings | None, record: Record, say: Say) -> tuple[Hooks, Hooks]:
    """The PreDown and PostDown hooks of the current file, as in wg-quick, or else of the journal."""
    if settings is not None:
        return hooks(settings, "PreDown"), hooks(settings, "PostDown")
    if record.hidden_hooks:
        say(note(f"{record.hidden_hooks} hook(s) with a key are not in the journal and do not run"))
    return (
        tuple(hook for hook in record.hooks if hook.stage == "PreDown"),
        tuple(hook for hook in record.hooks if hook.stage == "PostDown"),
    )


def _run_pre_down(name: str, before: Hooks, run: Execution, options: Options, *, say: Say) -> None:
    """Run the PreDown hooks. Unless `force`, a failing hook stops down before anything is removed."""
    try:
        run.apply(before)
    except HookError as error:
        if not options.force:
            remedy = f"Nothing was removed. `wgq down --force {name}' ignores the failure."
            raise HookError(
                error.what, error.status, where=error.where, remedy=_both(error.remedy, remedy)
            ) from None
        say(note(f"{error.what}; --force is set, so down continues"))


def _both(*remedies: str) -> str:
    """The remedies, each on a line; empty ones are left out."""
    return "\n  ".join(filter(None, remedies))


def _save(name: str, settings: Settings, options: Options, *, say: Say, save: Save) -> None:
    """Save the interface for SaveConfig. Unless `force`, a failure stops down before anything is removed."""
    try:
        save(settings)
    except SignalError:
        raise
    except WgqError as error:
        if not options.force:
            remedy = f"`wgq down --force {name}' does not save."
            raise WgqError(error.what, where=error.where, remedy=_both(error.remedy, remedy)) from None
        say(note(f"{error.what}; --force is set, so down continues"))


def _forget(journal: Journal, *, keep: bool) -> None:
    """Remove the journal. With `keep` it stays for the next down, which undoes the rest and runs no hooks."""
    if keep:
        journal.complete(False)
    else:
        journal.remove()
