"""cmd_up and cmd_down: observe, plan, apply, in wg-quick(8)'s order."""

from __future__ import annotations

from wgquick.errors import HookError, OperationError, SignalError, WgqError
from wgquick.executor import leftovers, observe, src_valid_mark, traffic, trial, udp_port
from wgquick.executor.execution import Execution, with_moved_rules
from wgquick.executor.journal import Journal, NoJournal, with_source
from wgquick.lean import TYPE_CHECKING, NamedTuple, suppress
from wgquick.plan import applied
from wgquick.plan import down as plan_down
from wgquick.plan import traffic as plan_traffic
from wgquick.plan import up as plan_up
from wgquick.plan.steps import DeleteLink, RemoveGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wgquick.config.settings import Settings
    from wgquick.device import Device
    from wgquick.errors import ConfigError
    from wgquick.executor.journal import Record
    from wgquick.net import Endpoint, SocketAddress
    from wgquick.options import Options
    from wgquick.plan.applied import Digest
    from wgquick.plan.facts import EndpointFacts
    from wgquick.plan.steps import Step, Undo
    from wgquick.ports import Host

    Say = Callable[[str], None]
    Save = Callable[[Settings], None]
    FileForDown = Callable[[], tuple[Settings | None, ConfigError | None]]
    Hooks = tuple[Step, ...]

_KINDS = ("wireguard", "tun")


def cmd_up(settings: Settings, host: Host, options: Options, say: Say) -> None:
    """Bring the interface up. After a failure or an interruption the changes are undone and the error is raised."""
    with host.interface_lock(settings.name):
        bring_up(settings, host, options, say)
        trial.supersede(host.journal_directory, settings.name, say)


def bring_up(
    settings: Settings,
    host: Host,
    options: Options,
    say: Say,
    found: EndpointFacts | None = None,
    *,
    execution: Callable[..., Execution] = Execution,
) -> None:
    """Bring the interface up, for a caller that holds the interface's lock.

    `found` has the resolved endpoints if an active kill switch already blocks DNS queries. `execution` creates the
    object that applies the steps.
    """
    name = settings.name
    check_absent(name, host)
    plan_traffic.check(settings)
    journal = Journal(host.journal_directory, name)
    earlier = traffic.standing(journal.read())
    recovery = execution(host, options, _say_nothing, journal)
    _recover(name, journal, host, options, say, run=recovery, keeps_guard=settings.extras.kill_switch)
    leftovers.clean(host, say)
    if not settings.pre_up and any(peer.allowed_ips for peer in settings.peers):
        observe.table(settings, host)  # a PreUp hook may still add its name to rt_tables
    run = execution(host, options, say, journal, settings.path, settings)
    try:
        later = (*plan_up.hooks(settings, "PreDown"), *plan_up.hooks(settings, "PostDown"))
        journal.start(settings.path, later, contained=host.is_contained)
        if settings.extras.kill_switch:
            waits = not options.no_wait_for_dns
            found = found or traffic.first_endpoints(settings, earlier, host, run, waits=waits)
            traffic.guard(settings, found, host, run)
        device = _stages(settings, found, host, options, run)
        state = _applied(settings, run, device, journal.digest())
        run.apply(plan_up.looped(name, observe.looped(name, device, state.fwmark or device.fwmark, host)))
        reached = applied.recorded(state._replace(means=options.means))
        journal.apply(with_source(journal, reached, settings))
        journal.complete(True)
    except BaseException:
        try:
            run.roll_back()
        except (SignalError, KeyboardInterrupt):  # undos may be repeated; further signals are ignored
            run.roll_back()
        raise


def check_absent(name: str, host: Host) -> None:
    """Raise WgqError if a link has this name."""
    if host.rtnl.link(name) is not None:
        raise WgqError(f"`{name}' already exists", remedy=_remedy_for_existing(name, host))


def _remedy_for_existing(name: str, host: Host) -> str:
    if name in host.wireguard.interfaces():
        return f"Take it down first: wgq down {name}"
    return "It is not a WireGuard interface: rename the file to name the interface differently."


def _stages(
    settings: Settings, found: EndpointFacts | None, host: Host, options: Options, run: Execution
) -> Device:
    """Run all stages; returns the device after them.

    `found` holds the resolved endpoints if the kill switch needed them before.
    """
    name, strict = settings.name, options.strict
    run.apply(plan_up.add_if(settings))
    run.apply(plan_up.hooks(settings, "PreUp"))
    udp_port.check_free(name, settings.listen_port, host)
    run.apply(plan_up.announce_config(settings))
    found = found or observe.endpoints(settings, host, options)
    run.apply(plan_up.set_config(settings, found))
    run.apply(plan_up.unresolved(name, (peer.endpoint for peer in settings.peers if peer.endpoint), found))
    ipv6 = observe.ipv6(name, host)
    run.apply(plan_up.add_addr(settings, ipv6=ipv6, strict=strict))
    device = host.wireguard.get(name)
    run.apply(plan_up.ignored_peers(settings, device))
    run.apply(plan_up.set_mtu(settings, observe.mtu(settings, device, host)))
    udp_port.check_bound(name, settings.listen_port or device.listen_port, host)
    mode = host.dns.detect(options.dns) if settings.dns else "off"
    run.apply(plan_up.set_dns(settings, mode, observe.allowed_ips(device)))
    with host.lock():
        src_valid_mark.forget(host)
        routes = observe.routes(settings, device, host, options, ipv6=ipv6)
        run.apply(plan_up.add_routes(settings, routes, strict=strict))
    if plan_traffic.is_wanted(settings):
        traffic.keep(settings, found, routes, host, run)
    run.apply(plan_up.hooks(settings, "PostUp"))
    if settings.post_up:
        with suppress(OperationError):  # a hook may have removed the interface
            device = host.wireguard.get(name)
        traffic.follow_hooks(settings, device, host, run)
    return device


def _applied(settings: Settings, run: Execution, device: Device, digest: Digest) -> applied.Applied:
    """The state after up, with what hooks set on the device in addition to, or in place of, the file's values."""
    given = {peer.public_key for peer in settings.peers}
    hooked = [peer.public_key for peer in device.peers if peer.public_key not in given]
    found = applied.of_steps(settings, run.taken, digest, hooked)
    if not settings.post_up:
        return found
    from wgquick.plan import reload

    overridden: set[str] = set()

    def note(part: bytes) -> bool:
        overridden.add(digest(part))
        return True

    change = reload.change(settings, settings.fwmark, device, found.peers, {}, hooked=found.hooked)
    reload.parts(change, device, note)
    return found._replace(overridden=frozenset(overridden))


def _recover(
    name: str,
    journal: Journal,
    host: Host,
    options: Options,
    say: Say,
    *,
    run: Execution,
    keeps_guard: bool = False,
) -> None:
    """Undo the changes of a killed run with `run`. With `keeps_guard` its kill switch stays."""
    record = journal.read()
    if record is None:
        return
    if renamed := _renamed(record, host):
        raise WgqError(f"{name} is still up, renamed to {renamed}", remedy=f"Take it down first: wgq down {name}")
    say(f"[!] Cleaning up after an earlier {name} that was not taken down")
    undos = _leftovers(record, host, options)
    if keeps_guard:
        undos = traffic.without_guard(undos)
    faults = run.undo_all(undos)
    host.userspace.clear(name)
    if faults:
        raise WgqError("\n".join(faults), where=name, remedy=f"Run `wgq down {name}' once that is fixed.")


def _renamed(record: Record, host: Host) -> str:
    """The current name of the journal's link if the link was renamed, else ""."""
    links = (link for link in host.rtnl.links() if record.ifindex and link.ifindex == record.ifindex)
    return next((link.name for link in links if link.name != record.name and link.kind in _KINDS), "")


def _say_nothing(_line: str) -> None:
    """A `say` for leftovers: some may be gone already, so lines about their removal could be wrong."""


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
        say(f"[!] {error.what}: taking {name} down by its journal and the host's state")
        return None
    if faults is None or not can_go_down(name, host, without_file=True):
        return settings
    recorded = can_go_down(name, host, without_file=False)
    say(str(faults))
    say(f"[!] Taking {name} down all the same, with {'its journal' if recorded else 'the file'}'s hooks")
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
    undos = traffic.without_guard(undos) if keeps_guard else undos
    faults = run.undo_all(plan_down.with_standing_firewalls(undos, name, host.firewall.present(name)))
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
            say(f"[!] {fault}")
        raise
    if faults:
        raise unfinished


def restart(
    settings: Settings,
    host: Host,
    options: Options,
    say: Say,
    resolved: Mapping[Endpoint, SocketAddress],
    *,
    execution: Callable[..., Execution] = Execution,
) -> None:
    """Take the interface down and bring it up as its current file describes; the caller holds the interface's lock.

    SaveConfig is ignored: the file decides, not the interface's state. With `kill_switch` the kill switch is set
    before the tunnel is removed. `resolved` has the endpoints that were resolved while the tunnel was up.
    """
    found, wants_guard = None, settings.extras.kill_switch
    if wants_guard:
        journal = Journal(host.journal_directory, settings.name)
        record = journal.read()
        undos = record.undos if record else ()
        found = traffic.endpoints(settings, traffic.standing(record), host, resolved)
        kept = journal if record else NoJournal(settings.name)
        traffic.guard(settings, found, host, execution(host, options, say, kept, undos=undos))
    bare = settings._replace(save_config=False)
    take_down(
        settings.name,
        bare,
        host,
        options,
        say=say,
        save=lambda _: None,
        keeps_guard=wants_guard,
        execution=execution,
    )
    bring_up(settings, host, options, say, found, execution=execution)


def _forget(journal: Journal, *, keep: bool) -> None:
    """Remove the journal. With `keep` it stays for the next down, which undoes the rest and runs no hooks."""
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
    # A killed run never reached its PostUp hooks, so no hooks run, as after a failed up. A kill leaves whole lines
    # in the journal. In a damaged journal (`unread`) the end may be lost, so hooks run as they do without a
    # journal.
    ended = record.complete or record.unread > 0
    before, after = _hooks(settings, record, say) if ended else ((), ())
    if link is not None:
        recorded = with_moved_rules(record.undos, (name,), host)
        undos = (*recorded, *_unrecorded(name, settings, record, host, options, say=say))
        return Departure(before, after, ended, plan_down.in_down_order(undos))
    if renamed := _renamed(record, host):
        say(f"[!] {name} was renamed to {renamed}")
        undos = plan_down.as_renamed(record.undos, renamed)
        return Departure((), after, False, plan_down.in_down_order(undos))
    say(f"[!] {name} is gone already: removing what it left behind")
    return Departure((), after, False, _leftovers(record, host, options))


def _unrecorded(
    name: str, settings: Settings | None, record: Record, host: Host, options: Options, *, say: Say
) -> tuple[Undo, ...]:
    """The undos found on the host for a journal that is damaged, ends early or does not name its link."""
    if record.unread:
        say(f"[!] {record.unread} line(s) of the journal are not understood: using the host's state as well")
    elif record.ifindex and record.complete:
        return ()
    facts = observe.down(settings, name, host, options)
    shared = facts.fwmark in facts.other_marks  # the rules may belong to the other device
    return plan_down.from_facts(settings, name, facts._replace(fwmark=0) if shared else facts)


def _without_journal(
    name: str, settings: Settings | None, record: Record | None, host: Host, options: Options
) -> Departure:
    """The departure by the host's state, as in wg-quick; a stale journal's leftovers are undone too."""
    facts = observe.down(settings, name, host, options)
    guards = (RemoveGuard(name),) if (record is None and host.firewall.is_guarded(name)) else ()
    if not facts.exists and not guards:
        raise WgqError(f"`{name}' is not a WireGuard interface")
    before = plan_up.hooks(settings, "PreDown") if settings else ()
    after = plan_up.hooks(settings, "PostDown") if settings else ()
    stale = _leftovers(record, host, options) if record else ()
    found = plan_down.from_facts(settings, name, facts)
    undos = plan_down.in_down_order((*found, *stale, *src_valid_mark.kept(host), *guards))
    return Departure(before, after, True, undos)


def _leftovers(record: Record, host: Host, options: Options) -> tuple[Undo, ...]:
    """The undos of a journal after its link is gone, without rules that another tunnel uses now."""
    facts = observe.down(None, record.name, host, options)
    spared = plan_down.spare_others(record.undos, facts)
    return plan_down.in_down_order(undo for undo in spared if not isinstance(undo, DeleteLink))


def _hooks(settings: Settings | None, record: Record, say: Say) -> tuple[Hooks, Hooks]:
    """The PreDown and PostDown hooks of the current file, as in wg-quick, or else of the journal."""
    if settings is not None:
        return plan_up.hooks(settings, "PreDown"), plan_up.hooks(settings, "PostDown")
    if record.hidden_hooks:
        say(f"[!] {record.hidden_hooks} hook(s) with a key are not in the journal and do not run")
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
            remedies = f"{error.remedy}\n  {remedy}" if error.remedy else remedy
            raise HookError(error.what, error.status, where=error.where, remedy=remedies) from None
        say(f"[!] {error.what}: continuing, as --force asks")


def _save(name: str, settings: Settings, options: Options, *, say: Say, save: Save) -> None:
    """Save the interface for SaveConfig. Unless `force`, a failure stops down before anything is removed."""
    try:
        save(settings)
    except SignalError:
        raise
    except WgqError as error:
        if not options.force:
            remedy = f"{error.remedy}. `wgq down --force {name}' does not save.".removeprefix(". ")
            raise WgqError(error.what, where=error.where, remedy=remedy) from None
        say(f"[!] {error.what}: continuing, as --force asks")


def can_go_down(name: str, host: Host, *, without_file: bool) -> bool:
    """Whether down can find what to undo: a journal or, if `without_file`, a device or a gone tunnel's DNS."""
    if Journal(host.journal_directory, name).read() is not None:
        return True
    return without_file and name in (*host.wireguard.interfaces(), *host.dns.stale())
