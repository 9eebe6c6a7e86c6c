"""cmd_ensure: brings an interface from any state to the state that its file describes.

It reads the file, decides and changes the interface under the interface's lock. So the second of two calls at the
same time sees the result of the first and the current file.
"""

from __future__ import annotations

from wgquick.executor import netns, netns_records, trial, up
from wgquick.executor.journal import Journal
from wgquick.executor.reloading import Reload, RestartNeededError
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.plan.steps import DeleteLink
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.config.settings import Settings
    from wgquick.executor.reloading import ReloadOptions
    from wgquick.net import Link
    from wgquick.options import Options
    from wgquick.ports import Host

COMMAND = "wgq up --ensure"


class Ensured(NamedTuple):
    """The result: `action` is "none", "up", "reload" or "restart"; `restart` has the reasons for a restart."""

    action: str = "none"
    restart: tuple[str, ...] = ()


def cmd_ensure(
    name: str,
    read: Callable[[], Settings],
    host: Host,
    options: Options,
    reload_options: ReloadOptions,
    say: Callable[[str], None],
    *,
    before_up: Callable[[Settings], None] = lambda _: None,
) -> Ensured:
    """Bring the interface up, or change it to the state that the file describes, or do nothing.

    `before_up` is called before an interface that does not exist is brought up. If a restart is needed and
    `reload_options` lack `or_restart`, RestartNeededError is raised before any change. After a failure or an
    interruption all changes are undone and the error is raised.
    """
    with host.interface_lock(name):
        settings = read()
        if settings.extras.netns or netns_records.record_of(name, host) is not None:
            done = _elsewhere(settings, host, options, reload_options, say, before_up)
            if done.action != "none":
                trial.supersede(host.journal_directory, name, say)
            return done
        return _here(settings, host, options, reload_options, say, before_up)


def _here(
    settings: Settings,
    host: Host,
    options: Options,
    reload_options: ReloadOptions,
    say: Callable[[str], None],
    before_up: Callable[[Settings], None],
) -> Ensured:
    name = settings.name
    link = host.rtnl.link(name)
    if link is None or name not in host.wireguard.interfaces():
        before_up(settings)
        up.bring_up(settings, host, options, say)
        trial.supersede(host.journal_directory, name, say)
        return Ensured("up")
    if is_unfinished(name, link, host):
        say(note(f"{name} was not brought up completely: starting over"))
        up.restart(settings, host, options, say, {})
        return Ensured("up")
    done = _changed(settings, host, options, reload_options, say)
    if done.action != "none":
        trial.supersede(host.journal_directory, name, say)
    return done


def _elsewhere(
    settings: Settings,
    host: Host,
    options: Options,
    reload_options: ReloadOptions,
    say: Callable[[str], None],
    before_up: Callable[[Settings], None],
) -> Ensured:
    """Like `_here`, for an interface that is in another network namespace, or will be."""
    name = settings.name
    where = netns_records.record_of(name, host)
    is_up = netns.is_inside(name, host) or (where is None and host.rtnl.link(name) is not None)
    if not is_up:
        before_up(settings)
        netns.bring_up(settings, host, options, say)
        return Ensured("up")
    if reasons := netns.moved(settings, host):
        if not reload_options.or_restart:
            raise RestartNeededError(name, reasons, settings.path, COMMAND)
        netns.restart(settings, host, options, say)
        return Ensured("restart", reasons)
    there = where.netns if where else ""
    inside = settings._replace(extras=settings.extras._replace(netns=there))
    with host.inside(there) as inner, inner.interface_lock(name):
        return _here(inside, inner, options, reload_options, say, before_up)


def is_unfinished(name: str, link: Link, host: Host) -> bool:
    """Whether a killed `up` left the link; nothing uses it yet."""
    record = Journal(host.journal_directory, name).read()
    if record is None or record.complete or record.unread:
        return False
    return record.ifindex == link.ifindex or (not record.ifindex and DeleteLink(name) in record.undos)


def _changed(
    settings: Settings, host: Host, options: Options, reload_options: ReloadOptions, say: Callable[[str], None]
) -> Ensured:
    name = settings.name
    reload = Reload(settings, host, options, reload_options, say)
    comparison = reload.compare()
    if not comparison.is_same:
        reload.check_save_config(f"{COMMAND} --force {name}")
    try:
        outcome = reload.carry_out(comparison)
    except RestartNeededError as needed:
        raise RestartNeededError(name, needed.reasons, settings.path, COMMAND) from None
    if comparison.is_same:
        say(note(f"{name} is up as {settings.path or 'its configuration'} says: nothing to do"))
        return Ensured()
    return Ensured("restart" if outcome.restart else "reload", outcome.restart)
