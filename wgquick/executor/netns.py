"""Tunnels in a named network namespace (`# wgq: netns = NAME`).

The link is created in the current namespace, which keeps its UDP socket, and moved into the named one. There it is
the only way outside, so a full tunnel is a plain default route: no fwmark, no rules, no kill switch. All other
steps of `up` and `down` run inside, hooks included, and the journal is the named namespace's.

A record beside the current namespace's journals has the tunnel's namespace, and whether wgq created that namespace.
It is written before the namespace is created and removed after it is deleted. So the next `up` or `down` has what
it needs after a kill at any moment.
"""

from __future__ import annotations

from wgquick.config.location import target_of
from wgquick.directory import remove
from wgquick.errors import OperationError, SignalError, WgqError, not_up, not_wireguard, take_down_first
from wgquick.executor import down as executor_down
from wgquick.executor import trial
from wgquick.executor import up as executor_up
from wgquick.executor.journal import Journal
from wgquick.executor.netns_records import (
    NetnsRecord,
    check_reachable,
    forget,
    is_reachable,
    names,
    record_of,
    write,
)
from wgquick.lean import TYPE_CHECKING, contextmanager, suppress
from wgquick.plan import traffic
from wgquick.transcript import command, note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wgquick.config.settings import Settings
    from wgquick.executor.down import FileForDown
    from wgquick.executor.reloading import Outcome, ReloadOptions
    from wgquick.options import Options
    from wgquick.ports import Host

    Say = Callable[[str], None]


def up(settings: Settings, host: Host, options: Options, say: Say) -> None:
    """cmd_up for a tunnel with `netns`, or one that an earlier `up` moved into a namespace."""
    executor_up.cmd_up(settings, host, options, say, bring_up)


def bring_up(settings: Settings, host: Host, options: Options, say: Say) -> None:
    """Bring the tunnel up, for a caller that holds the interface's lock."""
    name = settings.name
    earlier = record_of(name, host)
    if earlier is not None:
        _clear(name, earlier, host, options, say)
    if not settings.extras.netns:
        executor_up.bring_up(settings, host, options, say)
        return
    check_settings(settings, host, options)
    _check_free(settings, host)
    try:
        _up(settings, host, options, say)
    except BaseException:
        try:
            _leave(name, host, say)
        except (SignalError, KeyboardInterrupt):  # repeat; further signals are ignored
            _leave(name, host, say)
        raise


def check_settings(settings: Settings, host: Host, options: Options) -> None:
    """Raise WgqError, before any change, if the tunnel cannot be in a namespace."""
    if traffic.is_wanted(settings):
        what = "kill-switch, exclude and keep-inbound have no effect with netns: only the tunnel is inside"
        raise WgqError(what, where=settings.path or settings.name, remedy="Remove them, or netns.")
    if settings.dns:
        host.dns_of(settings.extras.netns).detect(options.dns)


def _check_free(settings: Settings, host: Host) -> None:
    name, netns = settings.name, settings.extras.netns
    if host.rtnl.link(name) is not None:
        remedy = f"{take_down_first(name)}\n  Or choose another name with --name."
        raise WgqError(f"`{name}' already exists outside the network namespace {netns}", remedy=remedy)


def _up(settings: Settings, host: Host, options: Options, say: Say) -> None:
    name, netns = settings.name, settings.extras.netns
    with host.lock():
        is_ours = not host.netns.exists(netns)
        is_by_option = bool(settings.option_extras.netns)
        write(name, NetnsRecord(netns, is_ours, is_starting=True, is_by_option=is_by_option), host)
        if is_ours:
            say(command(f"ip netns add {netns}"))
            host.netns.add(netns)
    say(command(f"nsenter --net={host.netns.path_of(netns)}"))
    with host.inside(netns) as inner:
        if is_ours:
            say(command("ip link set up dev lo"))
            inner.rtnl.set_link("lo")
        where = NetnsRecord(
            netns, is_ours, is_starting=True, directory=inner.journal_directory, is_by_option=is_by_option
        )
        write(name, where, host)
        executor_up.cmd_up(settings, inner, options, say)
    write(name, where._replace(is_starting=False, daemon=host.userspace.identity(name)), host)


def check_absent(settings: Settings, host: Host) -> None:
    """Raise WgqError, before any change, if the tunnel is up or its name is taken."""
    earlier = record_of(settings.name, host)
    if earlier is not None:
        _check_not_inside(settings.name, earlier, host)
    if settings.extras.netns:
        _check_free(settings, host)
    elif earlier is None:
        executor_up.check_absent(settings.name, host)


def _check_not_inside(name: str, earlier: NetnsRecord, host: Host) -> None:
    if is_inside(name, host):
        what = f"`{name}' already exists in the network namespace {earlier.netns}"
        raise WgqError(what, remedy=take_down_first(name))


def _clear(name: str, earlier: NetnsRecord, host: Host, options: Options, say: Say) -> None:
    """Remove the leftovers of a killed `up` or a deleted namespace; WgqError if the tunnel is up."""
    _check_not_inside(name, earlier, host)
    exists = is_reachable(earlier, host)
    say(note(f"Cleaning up after an earlier {name} that was not taken down"))
    _remove_stray(name, earlier, host)
    if not exists:
        _end_unreachable(name, earlier, host, say)
    if exists:
        with host.inside(earlier.netns) as inner:
            if Journal(inner.journal_directory, name).read() is not None:
                executor_down.cmd_down(
                    name, lambda: (None, None), inner, options, say=_silent, save=lambda _settings: None
                )
    _leave(name, host, say)


def _end_unreachable(name: str, where: NetnsRecord, host: Host, say: Say) -> None:
    """Remove a tunnel and its namespace after the namespace's name was deleted.

    The kernel's link disappears with the namespace. A daemon keeps both until it ends.
    """
    host.userspace.end(name, where.daemon)
    try:
        host.dns_of(where.netns).unset("file", name)
    except OperationError as error:
        say(note(f"{error.what}"))
    if where.directory:
        Journal(where.directory, name).remove()
        with suppress(OSError):  # not empty
            remove(where.directory)


def _remove_stray(name: str, where: NetnsRecord, host: Host) -> None:
    """Remove a daemon's link that a killed `up` had not moved yet.

    No other link has the name: `up` refuses a name that the current namespace has, and holds the interface's lock.
    """
    link = host.rtnl.link(name) if where.is_starting else None
    if link is not None and link.kind == "tun":
        host.rtnl.delete_link(name)
        host.userspace.await_exit(name)


def _silent(_line: str) -> None:
    """A `say` for leftovers."""


def _is_there(name: str, inner: Host) -> bool:
    return Journal(inner.journal_directory, name).read() is not None or inner.rtnl.link(name) is not None


def down(
    name: str,
    read: FileForDown,
    host: Host,
    options: Options,
    *,
    say: Say,
    save: Callable[[Settings, Host], None],
) -> bool:
    """cmd_down for a tunnel in a namespace; returns False, and does nothing, if it is in the current one."""
    if record_of(name, host) is None:
        return False
    with host.interface_lock(name):
        where = record_of(name, host)
        if where is None:
            raise not_wireguard(name)
        try:
            take_down(name, where, read, host, options, say=say, save=save)
        finally:
            if not is_inside(name, host):
                trial.supersede(host.journal_directory, name, say)
    return True


def take_down(
    name: str,
    where: NetnsRecord,
    read: FileForDown,
    host: Host,
    options: Options,
    *,
    say: Say,
    save: Callable[[Settings, Host], None],
) -> None:
    """Take the tunnel down, and delete its namespace if necessary, also after a PostDown hook failed."""
    _remove_stray(name, where, host)
    try:
        if not is_reachable(where, host):
            say(note(f"The network namespace {where.netns} is gone already: removing what {name} left behind"))
            _end_unreachable(name, where, host, say)
            return
        say(command(f"nsenter --net={host.netns.path_of(where.netns)}"))
        with host.inside(where.netns) as inner:
            if _is_there(name, inner):
                executor_down.cmd_down(name, read, inner, options, say=say, save=lambda found: save(found, inner))
            else:
                say(note(f"{name} is gone already"))
    finally:
        _leave(name, host, say)


def reload(settings: Settings, host: Host, options: Options, reload_options: ReloadOptions, say: Say) -> Outcome:
    """cmd_reload inside the tunnel's namespace; RestartNeededError if the file names another one."""
    with host.interface_lock(settings.name):
        outcome = change(settings, host, options, reload_options, say)
        if not reload_options.dry_run:
            trial.supersede(host.journal_directory, settings.name, say)
        return outcome


def change(settings: Settings, host: Host, options: Options, reload_options: ReloadOptions, say: Say) -> Outcome:
    """Reload the tunnel, for a caller that holds the interface's lock."""
    from wgquick.executor.reloading import Outcome, RestartNeededError, cmd_reload

    name = settings.name
    where = record_of(name, host)
    there = where.netns if where else ""
    wanted = _wanted(settings, where)
    if where is not None:
        check_reachable(name, where, host)
    if wanted == there:
        with host.inside(there) as inner:
            inside = settings._replace(extras=settings.extras._replace(netns=there))
            return cmd_reload(inside, inner, options, reload_options, say)
    reasons = _reasons(wanted, there)
    if where is None and host.rtnl.link(name) is None:
        raise not_up(name, target=target_of(name, settings.path))
    if not reload_options.or_restart:
        raise RestartNeededError(name, reasons, settings.path)
    if not reload_options.dry_run:
        restart(settings, host, options, say)
    return Outcome((), reasons)


def is_inside(name: str, host: Host) -> bool:
    """Whether the tunnel's link is in the namespace of its record."""
    where = record_of(name, host)
    if where is None or not is_reachable(where, host):
        return False
    with host.inside(where.netns) as inner:
        return inner.rtnl.link(name) is not None


@contextmanager
def located(name: str, host: Host) -> Iterator[Host]:
    """The host of a tunnel: its network namespace if it is in one, with the calling thread inside, else `host`."""
    where = record_of(name, host)
    if where is None or not is_inside(name, host):
        yield host
        return
    with host.inside(where.netns) as inner:
        yield inner


def begin(name: str, earlier: NetnsRecord, host: Host) -> None:
    """Record that the tunnel may be started again in its namespace: a kill may leave a daemon's link outside."""
    write(name, (record_of(name, host) or earlier)._replace(is_starting=True), host)


def keep(name: str, earlier: NetnsRecord, host: Host) -> None:
    """Record that the tunnel is back in its namespace, and whether wgq deletes the namespace, as before."""
    others = (record_of(other, host) for other in names(host) if other != name)
    has_passed = any(other is not None and other.netns == earlier.netns and other.is_ours for other in others)
    found = record_of(name, host) or earlier
    is_ours = found.is_ours or (earlier.is_ours and not has_passed)
    daemon = host.userspace.identity(name)
    write(
        name,
        found._replace(is_ours=is_ours, is_starting=False, daemon=daemon, is_by_option=earlier.is_by_option),
        host,
    )


def moved(settings: Settings, host: Host) -> tuple[str, ...]:
    """Why a tunnel that is up needs a restart; empty if it is in the namespace that the file names."""
    where = record_of(settings.name, host)
    there = where.netns if where else ""
    wanted = _wanted(settings, where)
    return () if wanted == there else _reasons(wanted, there)


def _wanted(settings: Settings, where: NetnsRecord | None) -> str:
    """The namespace that the tunnel must be in: the one that an option chose, or else the file's."""
    if where is not None and where.is_by_option and not settings.option_extras.netns:
        return where.netns
    return settings.extras.netns


def _reasons(wanted: str, there: str) -> tuple[str, ...]:
    if not wanted:
        return (f"the current network namespace (now {there})",)
    return (f"the network namespace {wanted} (now {there or 'the current one'})",)


def restart(settings: Settings, host: Host, options: Options, say: Say) -> None:
    """Take the tunnel down where it is, and bring it up in the file's namespace; the caller holds the lock."""
    from wgquick.executor.restoring import undone_on_failure

    name, bare = settings.name, settings._replace(save_config=False)
    check_settings(settings, host, options)
    say(note(f"Restarting {name} for {moved(settings, host)[0]}"))
    where = record_of(name, host)
    with undone_on_failure(name, settings, host, options, say):
        if where is None:
            executor_down.take_down(name, bare, host, options, say=say, save=lambda _settings: None)
        else:
            take_down(name, where, lambda: (bare, None), host, options, say=say, save=lambda _settings, _host: None)
        bring_up(settings, host, options, say)


def _leave(name: str, host: Host, say: Say) -> None:
    """Delete the namespace if wgq created it and this was its last tunnel; remove the record.

    While the tunnel still exists, nothing is removed.
    """
    with host.lock():
        where = record_of(name, host)
        if where is None:
            return
        exists = is_reachable(where, host)
        is_others = not exists and host.netns.exists(where.netns)  # another program created this one
        links: list[str] = []
        if exists:
            with host.inside(where.netns) as inner:
                if _is_there(name, inner):
                    return
                links = [link.name for link in inner.rtnl.links() if link.name not in _BORN_WITH]
        if where.is_ours and not is_others and not _pass_on(name, where, host):
            if links:
                say(note(f"The network namespace {where.netns} stays, as it has other links: {' '.join(links)}"))
            else:
                if exists:
                    say(command(f"ip netns delete {where.netns}"))
                host.netns.delete(where.netns)
        forget(name, host)


_BORN_WITH = ("lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0")
"""The links of a new namespace: lo, and those of loaded tunnel modules."""


def _pass_on(name: str, where: NetnsRecord, host: Host) -> bool:
    """Let another tunnel in the namespace delete it in its `down`; False if there is none."""
    for other in names(host):
        found = record_of(other, host) if other != name else None
        if found is not None and found.netns == where.netns:
            write(other, found._replace(is_ours=True), host)
            return True
    return False
