"""cmd_up and cmd_down: observe, plan, apply, in wg-quick(8)'s order."""

from __future__ import annotations

from wgquick.errors import HookError, OperationError, SignalError, WgqError
from wgquick.executor import bygone, mark, observe, traffic, udp_port
from wgquick.executor.execution import Execution, with_moved_rules
from wgquick.executor.journal import Journal, NoJournal
from wgquick.lean import TYPE_CHECKING, NamedTuple, suppress
from wgquick.plan import applied
from wgquick.plan import down as plan_down
from wgquick.plan import traffic as plan_traffic
from wgquick.plan import up as plan_up
from wgquick.plan.steps import DeleteLink, RemoveGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wgquick.config.settings import Settings
    from wgquick.errors import ConfigError
    from wgquick.executor.journal import Record
    from wgquick.net import Endpoint, PublicKey, SocketAddress
    from wgquick.options import Options
    from wgquick.plan.facts import EndpointFacts
    from wgquick.plan.steps import Step, Undo
    from wgquick.ports import Host

    Say = Callable[[str], None]
    Save = Callable[[Settings], None]
    FileForDown = Callable[[], tuple[Settings | None, ConfigError | None]]
    Hooks = tuple[Step, ...]

_KINDS = ("wireguard", "tun")


def cmd_up(settings: Settings, host: Host, options: Options, say: Say) -> None:
    """Bring the interface up; whatever fails, and whatever interrupts, is undone before it is raised."""
    with host.interface_lock(settings.name):
        _up(settings, host, options, say)


def _up(settings: Settings, host: Host, options: Options, say: Say, found: EndpointFacts | None = None) -> None:
    """`found` are the endpoints where a kill switch that stands already lets no question for them out."""
    name = settings.name
    if host.rtnl.link(name) is not None:
        raise WgqError(f"`{name}' already exists", remedy=_way_with_existing(name, host))
    plan_traffic.check(settings)
    journal = Journal(host.journal_directory, name)
    earlier = traffic.standing(journal.read())
    _recover(name, journal, host, options, say, keeps_guard=settings.extras.kill_switch)
    bygone.clean(host, say)
    if not settings.pre_up and any(peer.allowed_ips for peer in settings.peers):
        observe.table(settings, host)  # a PreUp hook may still add its name to rt_tables
    run = Execution(host, options, say, journal, settings.path, settings)
    try:
        later = (*plan_up.hooks(settings, "PreDown"), *plan_up.hooks(settings, "PostDown"))
        journal.start(settings.path, later, contained=host.is_contained)
        if settings.extras.kill_switch:
            found = found or traffic.endpoints(settings, earlier, host)
            traffic.guard(settings, found, host, run)
        hooked = _bring_up(settings, found, host, options, run)
        journal.apply(applied.recorded(applied.of_steps(settings, run.taken, journal.digest(), hooked)))
        journal.complete(True)
    except BaseException:
        try:
            run.roll_back()
        except (SignalError, KeyboardInterrupt):  # begun anew, as what is gone already is fine; the next is ignored
            run.roll_back()
        raise


def _way_with_existing(name: str, host: Host) -> str:
    if name in host.wireguard.interfaces():
        return f"Take it down first: wgq down {name}"
    return "It is no WireGuard interface: rename the file, and so the interface."


def _bring_up(
    settings: Settings, found: EndpointFacts | None, host: Host, options: Options, run: Execution
) -> tuple[PublicKey, ...]:
    """All the stages; returns the peers that the hooks have added.

    `found` are the endpoints if they had to be looked up before.
    """
    name, strict = settings.name, options.strict
    run.apply(plan_up.add_if(settings))
    run.apply(plan_up.hooks(settings, "PreUp"))
    udp_port.check_free(name, settings.listen_port, host)
    run.apply(plan_up.announce_config(settings))
    found = found or observe.endpoints(settings, host)
    run.apply(plan_up.set_config(settings, found))
    ipv6 = observe.ipv6(name, host)
    run.apply(plan_up.add_addr(settings, ipv6=ipv6, strict=strict))
    device = host.wireguard.get(name)
    run.apply(plan_up.ignored_peers(settings, device))
    run.apply(plan_up.set_mtu(settings, observe.mtu(settings, device, host)))
    udp_port.check_bound(name, device.listen_port, host)
    mode = host.dns.detect(options.dns) if settings.dns else "off"
    run.apply(plan_up.set_dns(settings, mode, observe.allowed_ips(device)))
    with host.lock():
        mark.forget(host)
        routes = observe.routes(settings, device, host, options, ipv6=ipv6)
        run.apply(plan_up.add_routes(settings, routes, strict=strict))
    if plan_traffic.is_wanted(settings):
        traffic.keep(settings, found, routes, host, run)
    run.apply(plan_up.hooks(settings, "PostUp"))
    if settings.post_up:
        with suppress(OperationError):  # a hook may have taken the interface away
            device = host.wireguard.get(name)
    given = {peer.public_key for peer in settings.peers}
    return tuple(peer.public_key for peer in device.peers if peer.public_key not in given)


def _recover(
    name: str, journal: Journal, host: Host, options: Options, say: Say, *, keeps_guard: bool = False
) -> None:
    """Take back what a run that was killed has left, before a new one begins; the kill switch may stay."""
    record = journal.read()
    if record is None:
        return
    if renamed := _renamed(record, host):
        raise WgqError(f"{name} is still up, and called {renamed}", remedy=f"Take it down first: wgq down {name}")
    say(f"[!] Cleaning up after an earlier {name} that was not taken down")
    undos = _leftovers(record, host, options)
    if keeps_guard:
        undos = traffic.without_guard(undos)
    faults = Execution(host, options, _unsaid, journal).take_back(undos)
    host.userspace.clear(name)
    if faults:
        raise WgqError("\n".join(faults), where=name, remedy=f"Run `wgq down {name}' once that is mended.")


def _renamed(record: Record, host: Host) -> str:
    """What the journal's link is called now, where it was given another name; else ""."""
    links = (link for link in host.rtnl.links() if record.ifindex and link.ifindex == record.ifindex)
    return next((link.name for link in links if link.name != record.name and link.kind in _KINDS), "")


def _unsaid(_line: str) -> None:
    """Leftovers may be gone already, so that lines for taking them away could be untrue."""


class Departure(NamedTuple):
    """How one interface goes down: the hooks before and after, whether it may be saved, and the undos."""

    before: Hooks
    after: Hooks
    savable: bool
    undos: tuple[Undo, ...]


def cmd_down(name: str, read: FileForDown, host: Host, options: Options, *, say: Say, save: Save) -> None:
    """Take the interface down: what the journal says, or what the host shows if there is no journal.

    `read` gives today's file: its settings, None if there is none, and its faults; WgqError if the file is gone.
    `save` writes the device's state to the file for SaveConfig.
    """
    with host.interface_lock(name):
        _down(name, _todays(name, read, host, say), host, options, say=say, save=save)


def _todays(name: str, read: FileForDown, host: Host, say: Say) -> Settings | None:
    """What today's file says; None if the journal's hooks are to run instead, or none."""
    try:
        settings, faults = read()
    except WgqError as error:
        if not can_go_down(name, host, without_file=True):
            raise
        say(f"[!] {error.what}: taking {name} down by its journal and by what the host shows")
        return None
    if faults is None or not can_go_down(name, host, without_file=True):
        return settings
    recorded = can_go_down(name, host, without_file=False)
    say(str(faults))
    say(f"[!] Taking {name} down all the same, with {'its journal' if recorded else 'the file'}'s hooks")
    return None if recorded else settings


def _down(
    name: str,
    settings: Settings | None,
    host: Host,
    options: Options,
    *,
    say: Say,
    save: Save,
    keeps_guard: bool = False,
) -> None:
    journal = Journal(host.journal_directory, name)
    record = journal.read()
    if name in bygone.clean(host, say) and record is None and host.rtnl.link(name) is None:
        return
    departure = _departure(name, settings, record, host, options, say=say)
    path = settings.path if settings else record.path if record else ""
    run = Execution(host, options, say, journal, path, settings)
    _hear_before(name, departure.before, run, options, say=say)
    # What came from standard input has no file to save to.
    if departure.savable and settings is not None and settings.save_config and settings.path:
        _save(name, settings, options, say=say, save=save)
    # PreDown hooks, too, may move rules.
    undos = with_moved_rules(departure.undos, (name,), host) if departure.before else departure.undos
    undos = traffic.without_guard(undos) if keeps_guard else undos
    faults = run.take_back(plan_down.with_standing_firewalls(undos, name, host.firewall.present(name)))
    host.userspace.clear(name)
    unfinished = WgqError("\n".join(faults), where=name, remedy=f"Run `wgq down {name}' again once that is mended.")
    if faults and host.rtnl.link(name) is not None:
        raise unfinished
    with host.lock():  # whose file a run that was killed may have left: now it goes too
        _forget(journal, keep=bool(faults))
    try:
        run.apply(departure.after)
    except HookError:
        for fault in faults:
            say(f"[!] {fault}")
        raise
    if faults:
        raise unfinished


def restart(
    settings: Settings, host: Host, options: Options, say: Say, resolved: Mapping[Endpoint, SocketAddress]
) -> None:
    """Take the interface down and bring it up as its file says now; the caller holds the interface's lock.

    What the interface has is not saved to the file first: the file is what counts. A kill switch that the file
    wants stands before the tunnel goes. `resolved` are endpoints that were looked up while the tunnel was there.
    """
    found, wants_guard = None, settings.extras.kill_switch
    if wants_guard:
        journal = Journal(host.journal_directory, settings.name)
        record = journal.read()
        undos = record.undos if record else ()
        found = traffic.endpoints(settings, traffic.standing(record), host, resolved)
        kept = journal if record else NoJournal(settings.name)
        traffic.guard(settings, found, host, Execution(host, options, say, kept, promised=undos))
    bare = settings._replace(save_config=False)
    _down(settings.name, bare, host, options, say=say, save=lambda _: None, keeps_guard=wants_guard)
    _up(settings, host, options, say, found)


def _forget(journal: Journal, *, keep: bool) -> None:
    """The link is gone and the hooks are due once, as in wg-quick; what is left to undo is for the next down."""
    if keep:
        journal.complete(False)
    else:
        journal.remove()


def _departure(
    name: str, settings: Settings | None, record: Record | None, host: Host, options: Options, *, say: Say
) -> Departure:
    link = host.rtnl.link(name)
    if record is None or (link is not None and record.ifindex not in (0, link.ifindex)):
        return _without_journal(name, settings, record, host, options)
    # A run that was killed before it ended never reached its PostUp: as after a failed up, no hooks run. A kill
    # leaves whole lines: of a journal with others that say is lost, and hooks run as they do without a journal.
    ended = record.complete or record.unread > 0
    before, after = _hooks(settings, record, say) if ended else ((), ())
    if link is not None:
        recorded = with_moved_rules(record.undos, (name,), host)
        undos = (*recorded, *_unrecorded(name, settings, record, host, options, say=say))
        return Departure(before, after, ended, plan_down.in_down_order(undos))
    if renamed := _renamed(record, host):
        say(f"[!] {name} is called {renamed} now")
        undos = plan_down.as_renamed(record.undos, renamed)
        return Departure((), after, False, plan_down.in_down_order(undos))
    say(f"[!] {name} is gone already: taking back what came with it")
    return Departure((), after, False, _leftovers(record, host, options))


def _unrecorded(
    name: str, settings: Settings | None, record: Record, host: Host, options: Options, *, say: Say
) -> tuple[Undo, ...]:
    """What the host shows beyond a journal that is damaged, ends early or does not name its link."""
    if record.unread:
        say(f"[!] {record.unread} line(s) of the journal are not understood: going by what the host shows as well")
    elif record.ifindex and record.complete:
        return ()
    facts = observe.down(settings, name, host, options)
    shared = facts.fwmark in facts.other_marks  # the rules are then as likely the other's
    return plan_down.from_facts(settings, name, facts._replace(fwmark=0) if shared else facts)


def _without_journal(
    name: str, settings: Settings | None, record: Record | None, host: Host, options: Options
) -> Departure:
    """As wg-quick would; a stale journal's leftovers go as well."""
    facts = observe.down(settings, name, host, options)
    guards = (RemoveGuard(name),) if (record is None and host.firewall.is_guarded(name)) else ()
    if not facts.exists and not guards:
        raise WgqError(f"`{name}' is not a WireGuard interface")
    before = plan_up.hooks(settings, "PreDown") if settings else ()
    after = plan_up.hooks(settings, "PostDown") if settings else ()
    stale = _leftovers(record, host, options) if record else ()
    found = plan_down.from_facts(settings, name, facts)
    undos = plan_down.in_down_order((*found, *stale, *mark.kept(host), *guards))
    return Departure(before, after, True, undos)


def _leftovers(record: Record, host: Host, options: Options) -> tuple[Undo, ...]:
    """The undos of a journal whose link is gone, less the rules that another tunnel has taken over since."""
    facts = observe.down(None, record.name, host, options)
    spared = plan_down.spare_others(record.undos, facts)
    return plan_down.in_down_order(undo for undo in spared if not isinstance(undo, DeleteLink))


def _hooks(settings: Settings | None, record: Record, say: Say) -> tuple[Hooks, Hooks]:
    """The PreDown and PostDown hooks: today's file's, as in wg-quick, or else the journal's."""
    if settings is not None:
        return plan_up.hooks(settings, "PreDown"), plan_up.hooks(settings, "PostDown")
    if record.hidden_hooks:
        say(f"[!] {record.hidden_hooks} hook(s) that hold a key are not in the journal, and do not run")
    return (
        tuple(hook for hook in record.hooks if hook.stage == "PreDown"),
        tuple(hook for hook in record.hooks if hook.stage == "PostDown"),
    )


def _hear_before(name: str, before: Hooks, run: Execution, options: Options, *, say: Say) -> None:
    """PreDown hooks; a failing one stops down before anything was taken away, unless `force`."""
    try:
        run.apply(before)
    except HookError as error:
        if not options.force:
            remedy = f"Nothing was taken away. `wgq down --force {name}' goes on all the same."
            told = f"{error.remedy}\n  {remedy}" if error.remedy else remedy
            raise HookError(error.what, error.status, where=error.where, remedy=told) from None
        say(f"[!] {error.what}: going on, as --force asks")


def _save(name: str, settings: Settings, options: Options, *, say: Say, save: Save) -> None:
    """SaveConfig; where that fails down stops as after a failing PreDown hook, unless `force`."""
    try:
        save(settings)
    except SignalError:
        raise
    except WgqError as error:
        if not options.force:
            remedy = f"{error.remedy}. `wgq down --force {name}' goes on without saving.".removeprefix(". ")
            raise WgqError(error.what, where=error.where, remedy=remedy) from None
        say(f"[!] {error.what}: going on, as --force asks")


def can_go_down(name: str, host: Host, *, without_file: bool) -> bool:
    """Whether down has a journal to go by, or, where that is enough, a device or the DNS of one that is gone."""
    if Journal(host.journal_directory, name).read() is not None:
        return True
    return without_file and name in (*host.wireguard.interfaces(), *host.dns.stale())
