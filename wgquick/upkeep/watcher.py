"""What `wgq watch` does in one network namespace: it restores, looks names up, and reports (`upkeep.watch`).

All of it runs in one thread. Names are looked up in other threads, because getaddrinfo(3) may be slow. No
notification reports changes of src_valid_mark, DNS and journals. A few system calls check them each second.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from wgquick.config import grammar, location
from wgquick.config.parser import examine
from wgquick.config.settings import LAN
from wgquick.diagnosis import nets
from wgquick.errors import OperationError, WgqError, not_up
from wgquick.executor import journal
from wgquick.executor.lost_state import (
    Recorded,
    Restored,
    allow_queries,
    asked,
    begin_handshakes,
    change_mtu,
    fitting_mtu,
    follow,
    follow_lan,
    is_followed,
    missing,
    own_extras,
    recorded,
    restore_missing,
    set_endpoint,
)
from wgquick.executor.traffic import lans
from wgquick.lean import suppress
from wgquick.net import QUERY_MARK
from wgquick.plan import lost as plan_lost
from wgquick.plan.lost import KINDS
from wgquick.plan.steps import (
    DeleteRule,
    DeleteThrow,
    ForgetInbound,
    ReleaseSysctl,
    RemoveGuard,
    UnsetDns,
    parameter,
)
from wgquick.plan.up import SRC_VALID_MARK
from wgquick.upkeep.clocks import Clocks
from wgquick.upkeep.events import MISSING, RESTORED, Event
from wgquick.upkeep.pace import MOST, WITHIN, Mtu, Pace
from wgquick.upkeep.peers import PATIENCE, Peers, Question

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from wgquick.device import Device
    from wgquick.net import Endpoint, Prefix, PublicKey, SocketAddress
    from wgquick.plan.lost import Lost
    from wgquick.ports import Host

_TICK = 1.0
_DELAY = 0.25  # seconds from the first change to the check: `down` removes several things in a row
_LOCKED = 0.5
_LONG = 5.0
_MTU_PAUSE, _MTU_PATIENCE, _MTU_INTERVAL = 1.0, 10.0, 30.0
_ROAMING = 10.0  # seconds between two looks at the endpoints of a tunnel with a kill switch
_HANGING = 30.0  # seconds until a daemon that did not answer is asked again
_ONCE_PATIENCE = 10.0
_REMOVES = re.compile(r"\b(?:del|delete|flush|replace|change|destroy)\b|\s-[DFX]\b")


class HostChange(Protocol):
    """A change of the host that the kernel reports: the class of the same name in system/monitor.

    `kind` is one of KINDS, link, or all; `ifindex` is 0 without a link.
    """

    @property
    def kind(self) -> str: ...
    @property
    def ifindex(self) -> int: ...
    @property
    def culprit(self) -> str: ...


class Monitor(Protocol):
    """The source of notifications (`system/monitor`)."""

    def descriptors(self) -> list[int]:
        """The file descriptors that become readable with a notification."""

    def read(self) -> list[Any]:
        """The changes since the last call: values like HostChange."""

    def close(self) -> None:
        """Close the sockets."""

    def dns_stamp(self, name: str, ifindex: int) -> tuple[int, ...]:
        """A value that differs after each change of a link's DNS."""

    def suspect(self, kind: str, seen: str = "") -> str:
        """The program that probably made a change; `seen` is the program in the notification, or ""."""


class _Elsewhere(NamedTuple):
    """A change in another namespace, which has no link of this one."""

    kind: str
    ifindex: int = 0
    culprit: str = ""


class WatchOptions(NamedTuple):
    """What to watch: the interfaces `names`, or every interface with a journal if it is empty.

    With `once` the watch ends after one check. With `check_only` it reports what is missing and changes nothing.
    """

    names: frozenset[str] = frozenset()
    once: bool = False
    check_only: bool = False


class _Tunnel:
    """The state of one interface since its journal was last written."""

    def __init__(self, given: Recorded, peers: Peers, mtu_patience: float) -> None:
        self.given = given
        self.due: float | None = 0.0  # when to check for losses
        self.spared: frozenset[str] | None = None  # what hooks removed; None before the first check
        self.paces = {kind: Pace() for kind in KINDS}
        self.culprits: dict[str, str] = {}
        self.given_up: set[str] = set()
        self.reported: set[str] = set()
        self.peers = peers
        self.names = _names(given)
        self.next_look = 0.0
        self.dns: tuple[int, ...] = ()
        self.mtu = Mtu(given.applied.mtu if given.applied else 0, patience=mtu_patience)
        self.next_mtu, self.last_mtu = 0.0, float("-inf")
        self.rest_until = 0.0
        self.lans: tuple[Prefix, ...] | None = None
        self.has_lan = LAN in own_extras(given).exclude
        self.is_awakened = False  # the machine slept: the sessions have expired

    def is_concerned(self, change: HostChange) -> bool:
        """Whether the change may have removed something of this interface."""
        match change.kind:
            case "rule":
                return any(isinstance(undo, DeleteRule) for undo in self.given.record.undos)
            case "firewall":
                extra = any(isinstance(undo, ForgetInbound | RemoveGuard) for undo in self.given.record.undos)
                return extra or (self.given.applied is not None and bool(self.given.applied.firewall))
            case _:
                return change.ifindex in (0, self.given.ifindex)

    def check_paths(self, change: HostChange, at: float) -> None:
        """Check the MTU soon if the change may give an endpoint another link or route."""
        is_path = change.kind in ("link", "route", "all") and change.ifindex != self.given.ifindex
        if is_path and self.given.applied is not None and self.given.applied.has_automatic_mtu:
            self.next_mtu = min(self.next_mtu, max(at, self.last_mtu + _MTU_PAUSE))

    @property
    def has_dns(self) -> bool:
        return any(isinstance(undo, UnsetDns) for undo in self.given.record.undos)

    @property
    def has_sysctl(self) -> bool:
        return any(isinstance(undo, ReleaseSysctl) for undo in self.given.record.undos)

    def excludes(self, networks: Iterable[Prefix], device: Device) -> bool:
        """Whether the journal has the throw routes for these networks of `lan`."""
        undos = self.given.record.undos
        wanted = plan_lost.throws(undos, own_extras(self.given), device, networks)
        return set(wanted) == {undo for undo in undos if isinstance(undo, DeleteThrow)}

    @property
    def has_guard(self) -> bool:
        return any(isinstance(undo, RemoveGuard) for undo in self.given.record.undos)

    @property
    def next_work(self) -> float:
        """The time of the next check (CLOCK_MONOTONIC)."""
        dues = [self.next_look, self.next_mtu, *([] if self.due is None else [self.due])]
        return max(self.rest_until, min(dues))

    def check_by(self, at: float) -> None:
        """Check for losses at `at`, or earlier."""
        self.due = at if self.due is None else min(self.due, at)


def _names(given: Recorded) -> dict[PublicKey, Endpoint]:
    """The endpoints with a host name, by peer."""
    from wgquick.net import PublicKey

    found = {}
    for key, peer in (given.record.peers or {}).items():
        with suppress(grammar.GrammarError):
            if peer.endpoint and nets.literal((endpoint := grammar.endpoint(peer.endpoint)).host) is None:
                found[PublicKey(key)] = endpoint
    return found


class Watcher:
    """Watches the interfaces of a network namespace; `work` must be called in that namespace."""

    def __init__(
        self, host: Host, monitor: Monitor, asked: WatchOptions, wake: asyncio.Event, outside: Host | None = None
    ) -> None:
        """`wake` is set when there is an answer to a lookup, which `outside` makes where the loop runs."""
        self._host, self._monitor, self._asked, self._wake = host, monitor, asked, wake
        self._outside = outside or host
        self._tunnels: dict[str, _Tunnel] = {}
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._answers: list[tuple[str, Question, tuple[SocketAddress, ...] | None]] = []
        self._asking = 0
        self._changes: list[HostChange] = []
        self._surface: tuple[tuple[int, ...], ...] = ()
        self._directory: tuple[int, ...] | None = None
        self._loop = asyncio.get_running_loop()
        self._next_tick = 0.0
        self._clocks = Clocks()

    def descriptors(self) -> list[int]:
        """The file descriptors that become readable with a notification."""
        return self._monitor.descriptors()

    def close(self) -> None:
        """Close the source of notifications."""
        self._monitor.close()

    def limit(self, names: frozenset[str]) -> None:
        """Watch only these interfaces from now on."""
        if names != self._asked.names:
            self._asked, self._next_tick = self._asked._replace(names=names), 0.0
            self._surface, self._directory = (), None

    def is_due(self) -> bool:
        """Whether `work` has something to do; the caller need not be in the namespace."""
        now = time.monotonic()
        if (jumped := self._clocks.jumped()) is not None:
            self._look_at_everything(now, was_asleep=jumped)
        tunnels = self._tunnels.values()
        if self._answers or any(tunnel.next_work <= now for tunnel in tunnels):
            return True
        if now < self._next_tick:
            return False
        seen = tuple(self._monitor.dns_stamp(t.given.name, t.given.ifindex) for t in tunnels if t.has_dns)
        surface = (journal.stamp(self._host.journal_directory), *seen)
        if surface != self._surface or self._directory is None or any(t.has_sysctl for t in tunnels):
            self._surface = surface
            return True
        self._next_tick = _following(now)
        return False

    @property
    def is_asking(self) -> bool:
        """Whether a lookup has no answer yet, or its answer is not used yet."""
        return self._asking > 0 or bool(self._answers)

    @property
    def changes(self) -> list[HostChange]:
        """The changes that the last `work` has read."""
        return self._changes

    def check_paths(self, changes: Iterable[HostChange]) -> None:
        """Check the MTUs soon if these changes in the namespace of the outer packets concern them."""
        at = time.monotonic() + _DELAY
        for kind in {change.kind for change in changes}:
            for tunnel in self._tunnels.values():
                tunnel.check_paths(_Elsewhere(kind), at)

    def sleep(self) -> float:
        """Seconds until `work` has something to do, if there is no notification."""
        if self._answers:
            return 0.0
        now = time.monotonic()
        dues = [self._next_tick, *(t.next_work for t in self._tunnels.values())]
        return max(0.0, min(dues) - now)

    def work(self) -> Iterator[Event]:
        """Do what is due, and report it."""
        self._take_changes()
        now = time.monotonic()
        if (jumped := self._clocks.jumped()) is not None:
            self._look_at_everything(now, was_asleep=jumped)
        if now >= self._next_tick:
            self._next_tick = _following(now)
            self._look_around(now)
            yield from self._follow_lan()
        for tunnel in sorted(self._tunnels.values(), key=lambda each: each.rest_until):
            began = time.monotonic()
            if began < tunnel.rest_until:
                continue
            try:
                if tunnel.due is not None and now >= tunnel.due:
                    yield from self._check(tunnel)
                if now >= tunnel.next_look:
                    yield from self._look_at_peers(tunnel)
                if now >= tunnel.next_mtu:
                    yield from self._follow_mtu(tunnel)
            except WgqError:  # the interface is gone, or its daemon hangs; the other interfaces must not wait
                ended = time.monotonic()
                tunnel.rest_until = ended + (_TICK if ended - began < _TICK else _HANGING)
        while self._answers:
            yield from self._answer(*self._answers.pop())

    # Losses.

    def _take_changes(self) -> None:
        """Schedule a check for each change, and remember its culprit. Lost messages are a change of kind all."""
        at = time.monotonic() + _DELAY
        self._changes = self._monitor.read()
        for change in self._changes:
            for tunnel in self._tunnels.values():
                tunnel.check_paths(change, at)
                if tunnel.is_concerned(change):
                    tunnel.check_by(at)
                    if change.culprit:
                        tunnel.culprits[change.kind] = change.culprit

    def _look_at_everything(self, now: float, *, was_asleep: bool) -> None:
        """Check everything after sleep or a set clock. After sleep the sessions have expired too."""
        self._next_tick = now
        for tunnel in self._tunnels.values():
            tunnel.check_by(now)
            tunnel.peers.check_by(now)
            tunnel.next_look = tunnel.next_mtu = now
            tunnel.is_awakened = tunnel.is_awakened or was_asleep

    def _look_around(self, now: float) -> None:
        """Check what no notification reports: journals, src_valid_mark, DNS."""
        directory = journal.stamp(self._host.journal_directory)
        if directory != self._directory:
            self._directory = directory
            self._read_changed()
        is_mark_lost = any(t.has_sysctl for t in self._tunnels.values()) and (
            self._host.sysctl.read(parameter(SRC_VALID_MARK)) == "0"
        )
        for name, tunnel in self._tunnels.items():
            if is_mark_lost and tunnel.has_sysctl and "sysctl" not in tunnel.given_up:
                tunnel.check_by(now)
            if tunnel.has_dns:
                stamp = self._monitor.dns_stamp(name, tunnel.given.ifindex)
                if tunnel.dns and stamp != tunnel.dns:
                    tunnel.check_by(now + _DELAY)
                tunnel.dns = stamp

    def _read_changed(self) -> None:
        """Read the journals that have changed, and forget the interfaces without one."""
        found = journal.stamps(self._host.journal_directory)
        wanted = {n: s for n, s in found.items() if not self._asked.names or n in self._asked.names}
        for name in self._tunnels.keys() - wanted.keys():
            del self._tunnels[name]
        for name, stamp in wanted.items():
            if self._stamps.get(name) != stamp:
                self._read(name)
        self._stamps = {name: stamp for name, stamp in wanted.items() if name in self._tunnels}
        if len(self._stamps) < len(wanted):  # not up yet, or it could not be read: try again
            self._directory = None

    def _read(self, name: str) -> None:
        """Read an interface's changed journal, and start again with it."""
        try:
            given = recorded(name, self._host)
        except WgqError:
            given = None
        if given is None:  # the interface is not up
            self._tunnels.pop(name, None)
            return
        known = self._tunnels.get(name)
        is_same = known is not None and known.given.ifindex == given.ifindex
        peers = known.peers if known and is_same else Peers(0.0 if self._asked.once else PATIENCE)
        tunnel = _Tunnel(given, peers, 0.0 if self._asked.once else _MTU_PATIENCE)
        tunnel.lans = known.lans if known and is_same else None
        self._tunnels[name] = tunnel

    def _check(self, tunnel: _Tunnel) -> Iterator[Event]:
        found = missing(tunnel.given, self._host)
        tunnel.due = None
        if tunnel.spared is None:
            is_removed = bool(found) and _hooks_remove(tunnel.given)
            tunnel.spared = frozenset(each.text for each in found if is_removed)
        spared = tunnel.spared
        found = tuple(each for each in found if each.text not in spared)
        if self._asked.check_only:
            yield from self._tell(tunnel, MISSING, [each for each in found if each.text not in tunnel.reported])
            tunnel.reported = {each.text for each in found}
            return
        now, kinds = time.monotonic(), set()
        for kind in dict.fromkeys(each.kind for each in found):
            delay = tunnel.paces[kind].delay(now)
            if delay is None:
                yield from self._give_up(tunnel, kind)
            elif delay:
                tunnel.check_by(now + delay)
            else:
                kinds.add(kind)
        if kinds:
            yield from self._restore_missing(tunnel, kinds, spared, now)

    def _restore_missing(
        self, tunnel: _Tunnel, kinds: Collection[str], spared: Collection[str], now: float
    ) -> Iterator[Event]:
        done = restore_missing(tunnel.given.name, kinds, spared, self._host)
        if done is None:  # another run holds the lock; its result is right
            tunnel.check_by(now + _LOCKED)
            return
        for kind in {each.kind for each in (*done.restored, *done.refused)}:
            tunnel.paces[kind].spend(now)
        yield from self._tell(tunnel, RESTORED, done.restored)
        if done.refused:
            self._note(tunnel, done)
            tunnel.check_by(now + _TICK)

    def _note(self, tunnel: _Tunnel, done: Restored) -> None:
        """Remember why a restoration failed, for the event gave-up."""
        for each in done.refused:
            tunnel.culprits[f"refused {each.kind}"] = done.reason

    def _give_up(self, tunnel: _Tunnel, kind: str) -> Iterator[Event]:
        """Report once that wgq gives up. The next up or reload starts again."""
        if kind in tunnel.given_up:
            return
        tunnel.given_up.add(kind)
        reason = tunnel.culprits.get(f"refused {kind}", "")
        what = f"{kind}: restored {MOST} times in {WITHIN / 60:.0f} minutes"
        text = f"{kind} cannot be restored: {reason}" if reason else what
        yield self._event(tunnel, "gave-up", text, culprit=self._culprit(tunnel, kind))

    def _culprit(self, tunnel: _Tunnel, kind: str) -> str:
        """The program in the notification, else the link's manager, else a program that is known to do this."""
        seen = tunnel.culprits.get(kind, "")
        if seen or kind not in ("rule", "route", "address"):
            return self._monitor.suspect(kind, seen)
        return self._host.manager(tunnel.given.name, tunnel.given.ifindex) or self._monitor.suspect(kind)

    def _tell(self, tunnel: _Tunnel, form: str, found: Iterable[Lost]) -> Iterator[Event]:
        for each in found:
            seen = tunnel.culprits.get(each.kind, "")
            yield self._event(tunnel, form.format(each.kind), each.text, culprit=seen)

    @staticmethod
    def _event(tunnel: _Tunnel, event: str, text: str = "", peer: str = "", culprit: str = "") -> Event:
        return Event(time.time(), event, tunnel.given.name, text, peer, culprit)

    def _follow_mtu(self, tunnel: _Tunnel) -> Iterator[Event]:
        """Adapt the MTU. It is also checked every 30 seconds: no notification reports route MTUs and path MTUs."""
        name, now = tunnel.given.name, time.monotonic()
        tunnel.last_mtu, tunnel.next_mtu = now, _later(now, _MTU_INTERVAL)
        if self._asked.check_only:
            return
        fitting = fitting_mtu(tunnel.given, self._host.wireguard.get(name), self._host)
        link = self._host.rtnl.link(name)
        if fitting is None or link is None or not link.up:
            return
        wanted = tunnel.mtu.change(fitting, link.mtu, now)
        if wanted is not None and change_mtu(name, wanted, self._host):
            tunnel.mtu.note(wanted)
            yield self._event(tunnel, "mtu-changed", f"{link.mtu} to {wanted}")
        elif wanted is not None or tunnel.mtu.is_waiting:
            tunnel.next_mtu = now + _MTU_PAUSE

    def _follow_lan(self) -> Iterator[Event]:
        """Exclude what `lan` means now. No notification reports a new address, so this is checked each second."""
        having = [tunnel for tunnel in self._tunnels.values() if tunnel.has_lan]
        if not having or self._asked.check_only:
            return
        networks = lans("", self._host)  # the tunnels' own links never count
        for tunnel in having:
            is_first, name = tunnel.lans is None, tunnel.given.name
            if tunnel.lans == networks:
                continue
            with suppress(WgqError):
                if is_first and tunnel.excludes(networks, self._host.wireguard.get(name)):
                    tunnel.lans = networks
                elif follow_lan(name, self._host) is not None:
                    tunnel.lans = networks
                    yield self._event(tunnel, "exclude-changed", "lan is " + ", ".join(map(str, networks)))

    # The peers.

    def _look_at_peers(self, tunnel: _Tunnel) -> Iterator[Event]:
        device = self._host.wireguard.get(tunnel.given.name)
        clock, now = self._clocks.time(), time.monotonic()
        for event, key in tunnel.peers.changes(device, clock, now, self._clocks.ahead()):
            yield self._event(tunnel, event, peer=str(key))
        if not self._asked.check_only:
            if tunnel.is_awakened:
                begin_handshakes(device, tunnel.peers.wanted(device), self._host)
                tunnel.is_awakened = False
            for key, address in tunnel.peers.second(device, clock, now):
                yield from self._set_endpoint(tunnel, key, address)
            for question in tunnel.peers.questions(device, tunnel.names, clock, now):
                self._open(tunnel)
                self._ask(tunnel.given.name, question, device.fwmark or (QUERY_MARK if tunnel.has_guard else 0))
            if not is_followed(tunnel.given, device):
                for text in follow(tunnel.given.name, self._host):
                    yield self._event(tunnel, "endpoint-allowed", text)
        names: Mapping[PublicKey, Endpoint] = {} if self._asked.check_only else tunnel.names
        pause = tunnel.peers.next_look(device, names, clock, now)
        tunnel.next_look = _later(now, min(pause, _ROAMING) if tunnel.has_guard else pause)

    def _servers(self) -> frozenset[str]:
        """The DNS servers that the tunnels have set."""
        applied = (tunnel.given.applied for tunnel in self._tunnels.values())
        return frozenset(server for each in applied if each is not None for server in each.dns.servers)

    def _open(self, tunnel: _Tunnel) -> None:
        """Make the kill switch allow queries to the DNS servers that the host has now."""
        if tunnel.has_guard:
            servers = self._outside.outside_servers(self._servers())
            if servers and set(servers) != asked(tunnel.given):
                allow_queries(tunnel.given.name, servers, self._host)

    def _ask(self, name: str, question: Question, mark: int) -> None:
        """Look up a name in a daemon thread, which does not delay the program's exit."""
        given = self._servers()

        def work() -> None:
            found = self._outside.addresses(question.endpoint, mark, given)
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._take, name, question, found)

        def begin() -> None:
            try:
                threading.Thread(target=work, daemon=True).start()
            except RuntimeError:
                self._asking -= 1

        self._asking += 1
        self._loop.call_soon(begin)  # a thread begins in the namespace of the one that starts it

    def _take(self, name: str, question: Question, found: tuple[SocketAddress, ...] | None) -> None:
        self._asking -= 1
        self._answers.append((name, question, found))
        self._wake.set()

    def _answer(self, name: str, question: Question, found: tuple[SocketAddress, ...] | None) -> Iterator[Event]:
        tunnel = self._tunnels.get(name)
        if tunnel is None or not found:
            return
        try:
            device = self._host.wireguard.get(name)
        except OperationError:
            return
        current = _endpoint(device, question.peer)
        answers = self._reachable_first(found, name, device.fwmark)
        chosen = tunnel.peers.choice(question.peer, current, answers, time.monotonic())
        if chosen is not None:
            yield from self._set_endpoint(tunnel, question.peer, chosen)
            tunnel.next_look = 0.0

    def _reachable_first(self, found: tuple[SocketAddress, ...], name: str, mark: int) -> tuple[SocketAddress, ...]:
        """The addresses; those without a route outside the tunnel come last."""
        if len(found) == 1:
            return found

        def is_far(address: SocketAddress) -> bool:
            path = None if address.scope else self._host.rtnl.path(address.address, mark)
            return not address.scope and (path is None or path.link == name)

        return tuple(sorted(found, key=is_far))

    def _set_endpoint(self, tunnel: _Tunnel, key: PublicKey, address: SocketAddress) -> Iterator[Event]:
        endpoint = tunnel.names.get(key)
        if endpoint is None or not set_endpoint(tunnel.given.name, key, endpoint, address, self._host):
            return
        tunnel.next_mtu = 0.0
        yield self._event(tunnel, "endpoint-resolved", f"{endpoint} is {address}", str(key))


def _following(now: float) -> float:
    """The next tick, which is at the same time in all namespaces."""
    return now - now % _TICK + _TICK


def _later(now: float, pause: float) -> float:
    """The time after a pause: with a long one the next tick, so that one wake-up serves many interfaces."""
    return _following(now + pause) if pause >= _LONG else now + pause


def _endpoint(device: Device, key: PublicKey) -> SocketAddress | None:
    return next((peer.endpoint for peer in device.peers if peer.public_key == key), None)


def _hooks_remove(given: Recorded) -> bool:
    """Whether the file's hooks remove things. If so, they removed what is missing at the first check."""
    if not given.record.path:
        return False
    try:
        document = location.read(location.Location(given.name, given.record.path))
    except WgqError:
        return False
    settings = examine(document, given.name).settings
    hooks = (*settings.pre_up, *settings.post_up) if settings else ()
    return any(_REMOVES.search(hook) for hook in hooks)


def check_up(names: Iterable[str], host: Host) -> None:
    """Raise WgqError if one of the interfaces is not up, or if another program brought it up."""
    for name in names:
        if recorded(name, host) is None:
            if host.rtnl.link(name) is None:
                raise not_up(name)
            remedy = f"Take it down and bring it up: wgq down {name} && wgq up {name}"
            raise WgqError(f"`{name}' was not brought up by wgq", remedy=remedy)
