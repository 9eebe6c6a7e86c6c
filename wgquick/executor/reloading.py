"""cmd_reload: changes a live interface to the state that its edited file describes. It applies only the difference.

The journal records the intended state before the first step and the applied state after the last. After a kill in
between, the next reload completes the change, as it compares with the host's state. Or down undoes it, as each undo
is recorded before its step.
"""

from __future__ import annotations

from wgquick.config.extras import joined
from wgquick.config.location import target_of
from wgquick.config.settings import LAN, Extras
from wgquick.errors import RESTART_NEEDED, SignalError, WgqError, not_up, not_wireguard, take_down_first
from wgquick.executor import observe, snapshot, traffic, trial, udp_port
from wgquick.executor.execution import Execution
from wgquick.executor.journal import Journal, NoJournal, source_of, with_source
from wgquick.lean import TYPE_CHECKING, NamedTuple, suppress
from wgquick.net import IPV6_MTU, MAIN_TABLE, Prefix, Route
from wgquick.plan import applied, lost, reload, up
from wgquick.plan import traffic as plan_traffic
from wgquick.plan.desired import desired
from wgquick.plan.difference import Difference, Move, difference, notes
from wgquick.plan.facts import EndpointFacts
from wgquick.plan.steps import (
    AddAddress,
    AddRoute,
    AddRule,
    DeleteAddress,
    DeleteRoute,
    DeleteThrow,
    ForgetInbound,
    Note,
    RemoveGuard,
    SetGuard,
    SetMtu,
    SetMtuUp,
    UndoStep,
)
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from wgquick.config.settings import Settings
    from wgquick.device import Device
    from wgquick.executor.journal import Record
    from wgquick.net import Destination, Endpoint, SocketAddress
    from wgquick.options import Options
    from wgquick.plan.applied import Applied, Known
    from wgquick.plan.current import Current
    from wgquick.plan.desired import Desired
    from wgquick.plan.file_peers import FilePeers
    from wgquick.plan.reload import DeviceChange
    from wgquick.plan.steps import Step, Undo
    from wgquick.ports import Host
    from wgquick.transcript import Line

    Say = Callable[[str], None]

_PASSES = 5
"""The limit of comparisons: removing an address, or a small MTU, makes the kernel remove more than requested."""


class RestartNeededError(WgqError):
    """The file has changes that need a restart; nothing was changed. `reasons` lists them."""

    status = RESTART_NEEDED

    def __init__(self, name: str, reasons: tuple[str, ...], path: str, command: str = "wgq reload") -> None:
        remedy = f"Run `{command} --or-restart {target_of(name, path)}'. Nothing was changed."
        super().__init__(f"{name} needs a restart for {'; and for '.join(reasons)}", where=path, remedy=remedy)
        self.reasons = reasons


class ReloadOptions(NamedTuple):
    """The options of reload.

    `dry_run` only reports the changes. `or_restart` restarts if necessary. `keep_foreign` keeps peers that are in
    neither the file nor the journal. `force` uses the file despite SaveConfig.
    """

    dry_run: bool = False
    or_restart: bool = False
    keep_foreign: bool = False
    force: bool = False


class Outcome(NamedTuple):
    """The result, with `dry_run` the planned one: the moves, or the reasons for a restart, and notes."""

    moves: tuple[Move, ...] = ()
    restart: tuple[str, ...] = ()
    notes: tuple[Line, ...] = ()


class Comparison(NamedTuple):
    """The host's state, the desired state, and the difference; `change` is the device's part of it."""

    now: Current
    wanted: Desired
    difference: Difference
    notes: tuple[Line, ...]
    change: DeviceChange

    @property
    def is_same(self) -> bool:
        """Whether the host is in the desired state already."""
        return not self.difference.moves and not self.difference.restart


def cmd_reload(
    settings: Settings, host: Host, options: Options, reload_options: ReloadOptions, say: Say
) -> Outcome:
    """Change the interface to the state that the file describes.

    RestartNeededError if that is impossible. After a failure or an interruption the changes are undone and the
    error is raised.
    """
    with host.interface_lock(settings.name):
        reload = Reload(settings, host, options, reload_options, say)
        reload.check_save_config()
        outcome = reload.carry_out(reload.compare(is_plan=reload_options.dry_run))
        if not reload_options.dry_run:
            trial.supersede(host.journal_directory, settings.name, say)
        return outcome


class Reload:
    """One reload of an interface that is up; the caller of `carry_out` holds the interface's lock."""

    def __init__(
        self, settings: Settings, host: Host, options: Options, reload_options: ReloadOptions, say: Say
    ) -> None:
        self._settings, self._host, self._options = settings, host, options
        self._reload_options, self._say = reload_options, say
        self._name = settings.name
        check_exists(self._name, host, settings.path)
        self._journal = Journal(host.journal_directory, self._name)
        self._record = own(self._journal.read(), self._name, host)
        self._before = read_applied(self._record.applied, self._record.peers) if self._record else None
        self._settings = with_recorded_extras(settings, self._record, self._before)
        if self._before is not None and self._before.mechanisms is not None:
            self._options = options.with_mechanisms(self._before.mechanisms)
        self._known = known_by(self._record, self._before, keep_foreign=reload_options.keep_foreign)
        self._resolved: dict[Endpoint, SocketAddress] = {}
        self._aim: tuple[Desired, dict[str, Any]] | None = None
        self.unresolved: tuple[Endpoint, ...] = ()

    @property
    def settings(self) -> Settings:
        """The settings, with what options of `up` have set."""
        return self._settings

    @property
    def options(self) -> Options:
        """The options, with those of `up`."""
        return self._options

    def check_save_config(self, command: str = "wgq reload --force") -> None:
        """Raise WgqError if the file has SaveConfig and `force` is not set; `command` applies the file then."""
        if self._settings.save_config and not self._reload_options.force:
            raise WgqError(
                f"{self._name} has SaveConfig = true: down overwrites the file with the interface's state",
                where=self._settings.path,
                remedy=f"Save the state (wgq save), or apply the file anyway: {command}",
            )

    def compare(self, *, is_plan: bool = False) -> Comparison:
        """The current state and the difference, with resolved endpoints.

        A kill switch allows queries for names that the host cannot resolve otherwise, and only then. A plan changes
        nothing, and asks for each name only once: `unresolved` has the endpoints without an answer.
        """
        return self._compare(may_resolve=True, is_plan=is_plan)

    def carry_out(self, comparison: Comparison) -> Outcome:
        """Apply the changes; RestartNeededError if they need a restart and `or_restart` is not set."""
        reasons = comparison.difference.restart
        if reasons and not self._reload_options.or_restart:
            raise RestartNeededError(self._name, reasons, self._settings.path)
        if self._reload_options.dry_run:
            return Outcome(() if reasons else comparison.difference.moves, reasons, comparison.notes)
        if reasons:
            from wgquick.executor.restoring import undone_on_failure
            from wgquick.executor.up import restart

            self._say(note(f"Restarting {self._name} for {'; and for '.join(reasons)}"))
            with undone_on_failure(self._name, self._settings, self._host, self._options, self._say):
                restart(self._settings, self._host, self._options, self._say, self._resolved)
            return Outcome((), reasons)
        if not comparison.difference.moves:
            self._note(comparison.wanted)
            return Outcome()
        return self._change(comparison)

    def _compare(
        self, run: Execution | None = None, *, may_resolve: bool = False, is_plan: bool = False
    ) -> Comparison:
        """The current state, its difference from the desired state, and the journal after the steps of `run`."""
        if run is not None and self._record is not None:
            self._known = self._known._replace(undos=run.undos)
        plan_traffic.check(self._settings)
        now = snapshot.current(self._name, self._host, self._options, self._record)
        if now.device is None:
            raise not_wireguard(self._name)
        ignored = self._without_itself(now.device)
        if may_resolve:
            wanted = reload.endpoints(self._settings, now.device, self._known.earlier)
            self._resolved = self._asked_outside(wanted, now.device, opens=not is_plan)
            missing = [each for each in wanted if each not in self._resolved]
            if not is_plan:
                self._resolved |= self._resolve(missing)
            elif plan_traffic.last_guard(self._known.undos or ()) is None:
                self._resolved |= self._host.resolved_now(missing)
            self.unresolved = tuple(each for each in wanted if each not in self._resolved) if is_plan else ()
            for each in up.unknown(self.unresolved):
                self._say(each.line)
        facts = snapshot.facts(
            self._settings, now, self._host, self._options, resolved=self._resolved, known=self._known
        )
        aim = desired(self._settings, facts, strict=self._options.strict)
        change = reload.change(
            self._settings,
            aim.fwmark,
            now.device,
            self._known.earlier,
            self._resolved,
            hooked=self._known.hooked,
            keep_foreign=self._known.keep_foreign,
        )
        if self._known.overridden:
            digest, spared = self._journal.digest(), self._known.overridden
            change = reload.parts(change, now.device, lambda part: digest(part) not in spared)
        # The kernel sets the fwmark before it refuses a port (drivers/net/wireguard/netlink.c, wg_set_device).
        udp_port.check_change(self._name, change.first.listen_port, self._host)
        guard = plan_traffic.last_guard(self._known.undos or ())
        earlier = guard.allowed if guard else self._destinations(now.device)
        servers = traffic.servers(self._settings, guard, self._host)
        endpoints = plan_traffic.of_file(self._settings, self._resolved, earlier, servers)
        found = difference(aim, now, self._known, change, facts, endpoints)
        comes = guard is None and self._settings.extras.kill_switch
        blocked = traffic.blocked(self._name, self._host) if comes else ()
        lines = tuple(each.line for each in (*ignored, *blocked, *notes(change, aim, now)))
        return Comparison(now, aim, found, lines, change)

    def _without_itself(self, device: Device) -> tuple[Note, ...]:
        """Remove the peer with the interface's own key from the settings, as up does; returns the notes for it.

        WgqError if the new private key is a peer's: the device would silently remove that peer
        (drivers/net/wireguard/netlink.c, wg_set_device).
        """
        settings, live = self._settings, {peer.public_key for peer in device.peers}
        new = reload.new_private_key(settings, device)
        key = new or device.private_key
        if key is None or not (new or any(peer.public_key not in live for peer in settings.peers)):
            return ()
        own = key.public_key()
        others = tuple(peer for peer in settings.peers if peer.public_key != own)
        if len(others) == len(settings.peers):
            return ()
        if new:
            raise WgqError(
                f"the new PrivateKey is that of the peer {own}",
                where=settings.path or settings.name,
                remedy="Give the interface a key of its own (wgq genkey), or remove that peer.",
            )
        self._settings = settings._replace(peers=others)
        return (up.ignored_peer(settings.name, own),)

    def _destinations(self, device: Device) -> tuple[Destination, ...]:
        """The endpoints for a kill switch that comes: names have the live addresses."""
        if not self._settings.extras.kill_switch:
            return ()
        live = {peer.public_key: peer.endpoint for peer in device.peers}
        found = []
        for peer in self._settings.peers:
            if peer.endpoint is not None:
                is_known = plan_traffic.is_name(peer.endpoint.host)
                address = live.get(peer.public_key) if is_known else self._host.resolve(peer.endpoint)
                found += [(peer.endpoint, address)] if address is not None else []
        return plan_traffic.resolved(found)

    def _asked_outside(
        self, wanted: Sequence[Endpoint], device: Device, *, opens: bool
    ) -> dict[Endpoint, SocketAddress]:
        """The addresses of endpoints under a kill switch, which blocks the host's resolver; {} without one."""
        guard = plan_traffic.last_guard(self._known.undos or ())
        if guard is None or not wanted:
            return {}
        found = self._host.resolved_now(wanted)
        missing = [each for each in wanted if each not in found]
        servers = traffic.servers(self._settings, guard, self._host) if missing else ()
        if not servers:
            return found
        if set(servers) <= set(plan_traffic.asked(guard.allowed)):
            return found | traffic.asked_outside(self._settings, missing, device, self._host)
        if not opens:
            return found
        undos, own = self._record.undos if self._record else (), self._known.extras or Extras()
        lans = traffic.lans(self._name, self._host) if LAN in own.exclude else ()
        run = Execution(self._host, self._options, self._say, self._journal, undos=undos)
        steps = [
            SetGuard(self._name, lost.guard(undos, own, device, allowed, lans), allowed)
            for allowed in (plan_traffic.with_servers(guard.allowed, servers), guard.allowed)
        ]
        try:
            run.apply(steps[:1])
            return found | traffic.asked_outside(self._settings, missing, device, self._host)
        finally:
            run.apply(steps[1:])

    def _resolve(self, wanted: Sequence[Endpoint]) -> dict[Endpoint, SocketAddress]:
        """The addresses of endpoints; with `no_wait_for_dns` only of those that can be resolved now."""
        if not self._options.no_wait_for_dns:
            return observe.resolve_all(self._settings, wanted, self._host)
        found = self._host.resolved_now(wanted)
        for each in up.unresolved(self._name, wanted, EndpointFacts(found)):
            self._say(each.line)
        return found

    def _change(self, comparison: Comparison) -> Outcome:
        undos = self._record.undos if self._record else ()
        journal = self._journal if self._record else NoJournal(self._name)
        run = Execution(
            self._host, self._options, self._say, journal, self._settings.path, self._settings, undos=undos
        )
        made: list[Move] = []
        try:
            self._intend(comparison.wanted)
            wanted = self._apply(run, comparison, made)
            self._finish(run, wanted)
        except BaseException:
            try:
                self._roll_back(run, made, comparison.now)
            except (SignalError, KeyboardInterrupt):  # repeat; further signals are ignored
                self._roll_back(run, made, comparison.now)
            raise
        lines = (*comparison.notes, *self._loops(comparison, made))
        for each in lines:
            self._say(each)
        return Outcome(tuple(made), (), lines)

    def _loops(self, comparison: Comparison, made: Sequence[Move]) -> Iterator[Line]:
        """The notes for endpoints that are routed into the tunnel itself, of those that the moves concern."""
        device = comparison.now.device
        peers = reload.peers_after(device, comparison.change) if device is not None else ()
        if not any(isinstance(move.step, _ROUTING) for move in made):
            given = {peer.public_key for peer in comparison.change.first.peers if peer.endpoint is not None}
            peers = tuple(peer for peer in peers if peer.public_key in given)
        if device is not None and peers:
            mark = device.fwmark if comparison.wanted.fwmark is None else comparison.wanted.fwmark
            for each in up.looped(self._name, observe.looped(self._name, peers, mark, self._host)):
                yield each.line

    def _apply(self, run: Execution, comparison: Comparison, made: list[Move]) -> Desired:
        """Apply the moves, and compare again while the kernel may have changed more than requested."""
        before = comparison.now
        for _ in range(_PASSES):
            if first := _until_ipv6(comparison):
                _make(run, first, made)
                comparison = self._compare(run)
                continue
            if any(isinstance(move.step, AddRule) for move in comparison.difference.moves):
                comparison = self._apply_locked(run, made)
            else:
                _make(run, comparison.difference.moves, made)
            if not any(isinstance(move.step, _FAR_REACHING) for move in comparison.difference.moves):
                break
            self._known = self._known._replace(
                dns=comparison.wanted.dns,
                firewall=comparison.wanted.firewall,
                extras=comparison.wanted.settings.extras,
                is_unfinished=False,
            )
            comparison = self._compare(run)
        if any(isinstance(move.step, _FAR_REACHING) for move in made):
            _make(run, tuple(self._others_routes(before, made)), made)
        return comparison.wanted

    def _others_routes(self, before: Current, made: Sequence[Move]) -> Iterator[Move]:
        """The moves that add routes of hooks and users again: the last IPv4 address of a link takes all with it."""
        deleted = {move.step.route[::2] for move in made if isinstance(move.step, DeleteRoute)}
        for step in self._lost_routes(before):
            if step.route[::2] not in deleted:
                yield Move(step, (DeleteRoute(*step[:2]),))

    def _apply_locked(self, run: Execution, made: list[Move]) -> Comparison:
        """Compare again and apply the moves under the lock, so that no other tunnel gets the same table."""
        with self._host.lock():
            comparison = self._compare(run)
            _make(run, [move for move in comparison.difference.moves if not _takes_lock(move)], made)
        _make(run, [move for move in comparison.difference.moves if _takes_lock(move)], made)
        return comparison

    def _roll_back(self, run: Execution, made: list[Move], before: Current) -> None:
        """Revert the moves, the last first, even if some fail; then restore what the kernel removed."""
        faults = [run.put_back(step) for move in reversed(made) for step in move.back]
        faults += [run.put_back(step) for step in self._lost(before)]
        if self._record is not None:
            self._journal.apply(self._record.applied)
        for fault in filter(None, faults):
            self._say(note(fault))

    def _lost(self, before: Current) -> Iterator[Step]:
        """The steps for state that has disappeared: the kernel deletes routes and secondary addresses itself."""
        from wgquick.config.settings import Address

        present = {each.prefix for each in self._host.rtnl.link_addresses(self._name)}
        for each in before.addresses:
            if each.prefix not in present and not each.far and not each.is_the_kernels:
                yield AddAddress(self._name, Address(each.prefix.address, each.prefix.length, str(each.prefix)))
        yield from self._lost_routes(before)

    def _lost_routes(self, before: Current) -> Iterator[AddRoute]:
        routes = {(route.destination, route.table) for route in self._host.rtnl.link_routes(self._name)}
        for route in before.routes:
            if route.is_plain and (route.destination, route.table) not in routes:
                word = "" if route.table == MAIN_TABLE else str(route.table)
                yield AddRoute(Route(route.destination, self._name, route.table), word)

    def _intend(self, wanted: Desired) -> None:
        if self._record is not None:
            self._journal.intend(self._applied(wanted))

    def _applied(self, wanted: Desired) -> dict[str, Any]:
        """The state in the journal's form; cached, as it is usually the same before and after the moves."""
        if self._aim is None or self._aim[0] is not wanted:
            state = applied.recorded(self._of_desired(wanted))
            self._aim = wanted, with_source(self._journal, state, self._settings)
        return self._aim[1]

    def _of_desired(self, wanted: Desired) -> Applied:
        new = applied.of_desired(wanted, self._journal.digest(), self._known.hooked)
        return new._replace(overridden=self._known.overridden, mechanisms=self._options.mechanisms)

    def _finish(self, run: Execution, wanted: Desired) -> None:
        """Record the applied state. A damaged journal is only appended to."""
        if self._record is None:
            return
        record = self._record._replace(
            path=self._settings.path or self._record.path,
            applied=self._applied(wanted),
            intended=None,
            undos=with_one_guard(run.undos),
        )
        if self._record.unread:
            self._journal.apply(record.applied)
        else:
            self._journal.rewrite(record)

    def _note(self, wanted: Desired) -> None:
        """Record the file if only its text has changed, such as a comment or the name of an endpoint."""
        if self._record is None:
            return
        if self._before is not None and self._record.intended is None and self._record.applied is not None:
            new = self._of_desired(wanted)
            is_same = new._replace(mtu=self._before.mtu, firewall=self._before.firewall) == self._before
            if is_same and source_of(self._journal, self._settings) == self._record.applied.get("source"):
                return
        self._journal.apply(self._applied(wanted))


_FAR_REACHING = (DeleteAddress, SetMtu, SetMtuUp)
_ROUTING = (AddRoute, AddRule, DeleteThrow)


def _until_ipv6(comparison: Comparison) -> tuple[Move, ...]:
    """The moves up to the one that gives the link IPv6 again, as the kernel then draws an address; () without one.

    The rules of a full tunnel name that address.
    """
    link, moves = comparison.now.link, comparison.difference.moves
    for at, move in enumerate(moves):
        if isinstance(move.step, (SetMtu, SetMtuUp)) and link is not None and link.mtu < IPV6_MTU <= move.step.mtu:
            return moves[: at + 1]
    return ()


def _takes_lock(move: Move) -> bool:
    """Whether the step itself takes the namespace's lock."""
    from wgquick.plan.steps import ReleaseSysctl

    return isinstance(move.step, UndoStep) and isinstance(move.step.undone, ReleaseSysctl)


def _make(run: Execution, moves: Sequence[Move], made: list[Move]) -> None:
    """Apply the moves; `made` gets the started ones, including one that fails."""
    before = len(run.taken)
    try:
        run.apply(move.step for move in moves)
    finally:
        made += moves[: len(run.taken) - before]


def check_exists(name: str, host: Host, path: str = "") -> None:
    """Raise WgqError unless `name` is a WireGuard interface; `path` is its file."""
    if host.rtnl.link(name) is None:  # a renamed link's daemon keeps the old name
        raise not_up(name, target=target_of(name, path))
    if name not in host.wireguard.interfaces():
        raise not_wireguard(name)


def own(record: Record | None, name: str, host: Host) -> Record | None:
    """The journal if it belongs to this link, else None; WgqError if `up` was killed before it finished."""
    link = host.rtnl.link(name)
    if record is None or link is None or record.ifindex != link.ifindex:
        return None
    if not record.complete and not record.unread:
        raise WgqError(f"{name} was not brought up completely", remedy=take_down_first(name))
    return record


def with_recorded_extras(settings: Settings, record: Record | None, before: Applied | None) -> Settings:
    """The settings with the extras that options of `up` have set. Only `down` removes these.

    A journal of an earlier version does not tell them from the file's.
    """
    extras = settings.extras
    if before is not None and before.option_extras is not None:
        of_up = before.option_extras
        return settings._replace(
            extras=joined(joined(extras, of_up), settings.option_extras),
            option_extras=joined(of_up, settings.option_extras),
        )
    undos = record.undos if record else ()
    excluded = tuple(Prefix.parse(undo.destination) for undo in undos if isinstance(undo, DeleteThrow))
    return settings._replace(
        extras=extras._replace(
            kill_switch=extras.kill_switch or any(isinstance(undo, RemoveGuard) for undo in undos),
            exclude=extras.exclude or excluded,
            keep_inbound=extras.keep_inbound or any(isinstance(undo, ForgetInbound) for undo in undos),
        )
    )


def with_one_guard(undos: tuple[Undo, ...]) -> tuple[Undo, ...]:
    """The undos with only the latest one of the kill switch."""
    latest = plan_traffic.last_guard(undos)
    return tuple(undo for undo in undos if not isinstance(undo, RemoveGuard) or undo is latest)


def read_applied(raw: dict[str, Any] | None, peers: FilePeers | None = None) -> Applied | None:
    """The applied state; None if the journal does not have it or a later version wrote it."""
    if raw is not None:
        with suppress(ValueError, KeyError, TypeError):
            return applied.from_record(raw, peers)
    return None


def known_by(record: Record | None, before: Applied | None, *, keep_foreign: bool) -> Known:
    """The journal's content for the interface; `before` is its applied state."""
    if record is None:
        return applied.Known(keep_foreign=keep_foreign)
    found = applied.known(record.undos, before, read_applied(record.intended), record.peers)
    return found._replace(keep_foreign=found.keep_foreign or keep_foreign)
