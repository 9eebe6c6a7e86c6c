"""cmd_up: observe, plan, apply, in wg-quick(8)'s order."""

from __future__ import annotations

from wgquick.errors import OperationError, SignalError, WgqError, take_down_first
from wgquick.executor import down, leftovers, observe, src_valid_mark, traffic, trial, udp_port
from wgquick.executor.execution import Execution
from wgquick.executor.journal import Journal, NoJournal, with_source
from wgquick.lean import TYPE_CHECKING, suppress
from wgquick.plan import applied
from wgquick.plan import traffic as plan_traffic
from wgquick.plan import up as plan_up
from wgquick.plan.down import without_guard
from wgquick.plan.steps import hooks
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wgquick.config.settings import Settings
    from wgquick.device import Device
    from wgquick.net import Endpoint, SocketAddress
    from wgquick.options import Options
    from wgquick.plan.applied import Digest
    from wgquick.plan.facts import EndpointFacts
    from wgquick.ports import Host

    Say = Callable[[str], None]
    BringUp = Callable[[Settings, Host, Options, Say], None]


def cmd_up(settings: Settings, host: Host, options: Options, say: Say, bring: BringUp | None = None) -> None:
    """Bring the interface up. After a failure or an interruption the changes are undone and the error is raised.

    `bring` is what to do under the lock (None: `bring_up`).
    """
    with host.interface_lock(settings.name):
        (bring or bring_up)(settings, host, options, say)
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
    earlier = traffic.last_guard(journal.read())
    recovery = execution(host, options, _say_nothing, journal)
    _recover(name, journal, host, options, say, run=recovery, keeps_guard=settings.extras.kill_switch)
    leftovers.clean(host, say)
    if not settings.pre_up and any(peer.allowed_ips for peer in settings.peers):
        observe.table(settings, host)  # a PreUp hook may still add its name to rt_tables
    run = execution(host, options, say, journal, settings.path, settings)
    try:
        later = (*hooks(settings, "PreDown"), *hooks(settings, "PostDown"))
        journal.start(settings.path, later, contained=host.is_contained)
        if settings.extras.kill_switch:
            waits = not options.no_wait_for_dns
            found = found or traffic.first_endpoints(settings, earlier, host, run, waits=waits)
            traffic.guard(settings, found, host, run)
        device = _stages(settings, found, host, options, run)
        state = _applied(settings, run, device, journal.digest())
        run.apply(plan_up.looped(name, observe.looped(name, device.peers, state.fwmark or device.fwmark, host)))
        reached = applied.recorded(state._replace(mechanisms=options.mechanisms))
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
        return take_down_first(name)
    return "It is not a WireGuard interface: rename the file to name the interface differently."


def _stages(
    settings: Settings, found: EndpointFacts | None, host: Host, options: Options, run: Execution
) -> Device:
    """Run all stages; returns the device after them.

    `found` holds the resolved endpoints if the kill switch needed them before.
    """
    name, strict = settings.name, options.strict
    run.apply(plan_up.add_if(settings))
    run.apply(hooks(settings, "PreUp"))
    udp_port.check_free(name, settings.listen_port, host)
    run.apply(plan_up.announce_config(settings))
    found = found or observe.endpoints(settings, host, options)
    run.apply(plan_up.set_config(settings, found))
    if options.no_wait_for_dns:
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
    run.apply(hooks(settings, "PostUp"))
    if settings.post_up:
        with suppress(OperationError):  # a hook may have removed the interface
            device = host.wireguard.get(name)
        traffic.follow_hooks(settings, device, run)
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
    if current := down.renamed(record, host):
        raise WgqError(f"{name} is still up, renamed to {current}", remedy=take_down_first(name))
    say(note(f"Cleaning up after an earlier {name} that was not taken down"))
    undos = down.undos_without_link(record, host, options)
    if keeps_guard:
        undos = without_guard(undos)
    faults = run.undo_all(undos)
    host.userspace.clear(name)
    if faults:
        raise WgqError("\n".join(faults), where=name, remedy=f"Run `wgq down {name}' once that is fixed.")


def _say_nothing(_line: str) -> None:
    """A `say` for leftovers: some may be gone already, so lines about their removal could be wrong."""


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
        found = traffic.endpoints(settings, traffic.last_guard(record), host, resolved)
        kept = journal if record else NoJournal(settings.name)
        traffic.guard(settings, found, host, execution(host, options, say, kept, undos=undos))
    bare = settings._replace(save_config=False)
    down.take_down(
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
