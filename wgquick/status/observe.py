"""Reads the host for `wgq status`: device, link, journal and file, joined to values."""

from __future__ import annotations

import os
import time
from errno import ENODEV
from typing import TYPE_CHECKING, NamedTuple

from wgquick.config import location
from wgquick.config.parser import examine
from wgquick.diagnosis.keys import public_key_of
from wgquick.errors import OperationError, WgqError, not_up, not_wireguard
from wgquick.executor import netns_records, trial
from wgquick.executor.journal import Journal, others
from wgquick.executor.observe import rules
from wgquick.executor.traffic import last_guard
from wgquick.net import MAIN_NAME
from wgquick.options import DIRECTORY
from wgquick.plan.file_peers import merged
from wgquick.plan.steps import RemoveGuard, UnsetDns
from wgquick.status import drift
from wgquick.status.errors import is_being_tried, last_error
from wgquick.status.names import Names, names
from wgquick.status.peers import UNKNOWN, History, state
from wgquick.status.values import DnsStatus, Drift, InterfaceStatus, PeerStatus, Status, TrialStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wgquick.config.settings import PeerSettings, Settings
    from wgquick.counters import Diagnostics
    from wgquick.device import Device, DevicePeer
    from wgquick.executor.journal import Record
    from wgquick.net import Endpoint, Link, Prefix, PublicKey, SocketAddress
    from wgquick.plan.file_peers import FilePeers
    from wgquick.ports import Host
    from wgquick.status.peers import Trend

    NameMatcher = Callable[[Endpoint, SocketAddress], bool]

_LONGEST_NAME = 15  # IFNAMSIZ, linux/if.h
_LOOKUP_AGE = 60.0
"""Seconds for which resolved endpoint names are cached."""


class File(NamedTuple):
    """An interface's file. If it has faults or cannot be read, `settings` is None and `fault` says why."""

    path: str
    settings: Settings | None
    names: Names
    fault: str = ""


class Observer:
    """Reads the status repeatedly. It caches earlier readings, unchanged files, and resolved names."""

    def __init__(self, host: Host, *, look_up: bool = True) -> None:
        """Without `look_up` no names are resolved, and an Endpoint given by name never counts as roamed."""
        self._host = host
        self._look_up = look_up
        self._history = History()
        self._files: dict[str, tuple[object, File]] = {}
        self._name_matchers: dict[str, tuple[float, Sequence[Endpoint], NameMatcher]] = {}
        self._programs: dict[tuple[str, int], str] = {}

    def read(self, asked: Sequence[str] = (), *, missing: bool = False) -> Status:
        """The named interfaces, or all.

        OperationError if a named one is not a WireGuard interface; with `missing` it is skipped.
        """
        there = asked or dict.fromkeys((*self._host.wireguard.interfaces(), *netns_records.names(self._host)))
        must_be = bool(asked) and not missing
        found = tuple(filter(None, (self._located(name, must_be=must_be) for name in there)))
        trials = tuple(each for each in self._trials() if not asked or each.interface in asked)
        return Status(time.time(), found, () if asked else self._remaining_kill_switches(tuple(there)), trials)

    def _trials(self) -> Iterator[TrialStatus]:
        for name, found, has_watchdog in trial.all_seen(self._host.journal_directory):
            yield TrialStatus(name, found.verb, found.phase, found.left, has_watchdog, found.message)

    def _located(self, name: str, *, must_be: bool) -> InterfaceStatus | None:
        """The interface, read in the network namespace into which wgq has put it."""
        here = self._host
        where = netns_records.record_of(name, here) if location.is_valid_name(name) else None
        if where is not None and must_be:
            netns_records.check_reachable(name, where, here)
        if where is None:
            return self._interface(name, must_be=must_be)
        if not netns_records.is_reachable(where, here):
            gone = f"the network namespace {where.netns} is gone: `wgq down {name}' removes what it left behind"
            return self._interface(name, must_be=must_be) or InterfaceStatus(name, error=gone, netns=where.netns)
        with here.inside(where.netns) as self._host:
            try:
                found = self._interface(name, must_be=must_be)
            finally:
                self._host = here
        return found._replace(netns=where.netns) if found else None

    def _remaining_kill_switches(self, there: Sequence[str]) -> tuple[str, ...]:
        """The deleted interfaces with a remaining kill switch, from their journals."""
        records = others(self._host.journal_directory, "")
        return tuple(each.name for each in records if each.name not in there and last_guard(each))

    def _interface(self, name: str, *, must_be: bool) -> InterfaceStatus | None:
        link = self._host.rtnl.link(name) if 0 < len(name) <= _LONGEST_NAME else None
        try:
            device = self._device(name)
        except OperationError as error:
            if error.errno != ENODEV:
                return InterfaceStatus(name, error=error.what, up=link.up if link else None)
            if must_be:
                raise self._not_there(name, link) from None
            return None
        try:
            return self._joined(device, link)
        except OperationError as error:
            if error.errno != ENODEV or must_be:  # removed while it was read
                raise
            return None

    def _device(self, name: str) -> Device:
        if not 0 < len(name) <= _LONGEST_NAME:
            raise OperationError("this is not a valid interface name", errno=ENODEV)
        return self._host.wireguard.get(name)

    def _not_there(self, name: str, link: Link | None) -> OperationError:
        if link is not None:
            return not_wireguard(name)
        if any(each.interface == name for each in self._trials()):
            return not_up(name, why="it is on trial", remedy="`wgq status' says until when.")
        has_file = location.is_valid_name(name) and os.path.exists(f"{DIRECTORY}/{name}.conf")
        return not_up(name, remedy="" if has_file else "`wgq status' lists the interfaces that are up.")

    def _joined(self, device: Device, link: Link | None) -> InterfaceStatus:
        name, now, host = device.name, time.time(), self._host
        record = self._record(name, link)
        file = self._file(name, record)
        settings = file.settings if file else None
        addresses = host.rtnl.addresses(name) if link else []
        is_guarded = self._is_guarded(name, record)
        shown, fault = link or self._renamed(name), file.fault if file else ""
        if shown is not None and link is None:
            fault = f"the link was renamed to {shown.name} after it was brought up"
        return InterfaceStatus(
            name=name,
            public_key=str(public_key_of(device.private_key)) if device.private_key else None,
            backend=self._program(name, link),
            up=shown.up if shown else None,
            since=(record.since if record else 0) or host.started(name),
            by=self._by(device, link, record, file),
            file=file.path if file else None,
            listen_port=device.listen_port,
            fwmark=device.fwmark,
            mtu=link.mtu if link else None,
            mtu_given=settings.mtu is not None if settings else None,
            table=_table(device, settings, host),
            addresses=tuple(map(str, addresses)),
            dns=self._dns(name, record, settings),
            kill_switch=is_guarded,
            drift=self._drift(device, link, addresses, settings, record, is_guarded),
            error=fault or None,
            peers=tuple(self._peers(device, link, record, file, now)),
        )

    def _program(self, name: str, link: Link | None) -> str:
        """The backend of the device. The result is cached, as the search may read every process."""
        key = (name, link.ifindex if link else 0)
        if key not in self._programs:
            self._programs[key] = self._host.wireguard.program(name)
        return self._programs[key]

    def _record(self, name: str, link: Link | None) -> Record | None:
        """The journal, if it belongs to this link."""
        record = Journal(self._host.journal_directory, name).read()
        if record is None or link is None or record.ifindex not in (0, link.ifindex):
            return None
        return record

    def _renamed(self, name: str) -> Link | None:
        """The journal's link under another name, found by its index, which the kernel does not use again."""
        record = Journal(self._host.journal_directory, name).read()
        index = record.ifindex if record is not None else 0
        return next((each for each in self._host.rtnl.links() if index and each.ifindex == index), None)

    def _file(self, name: str, record: Record | None) -> File | None:
        path = record.path if record else f"{DIRECTORY}/{name}.conf"
        try:
            found = os.stat(path)
        except OSError:
            return None
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        earlier = self._files.get(path)
        if earlier is None or earlier[0] != stamp:
            self._files[path] = earlier = (stamp, _read(name, path))
        return earlier[1]

    def _by(self, device: Device, link: Link | None, record: Record | None, file: File | None) -> str | None:
        if record is not None:
            return "wgq"
        if link is None:
            return None
        if found := self._host.manager(device.name, link.ifindex):
            return found
        key = file.settings.private_key if file and file.settings else None
        return "wg-quick" if key is not None and key == device.private_key else None

    def _dns(self, name: str, record: Record | None, settings: Settings | None) -> DnsStatus | None:
        try:
            mode = self._dns_mode(record, settings)
            current = self._host.dns.current(mode, name) if mode else None
        except WgqError:
            return None
        return DnsStatus(mode, *current) if current is not None else None

    def _dns_mode(self, record: Record | None, settings: Settings | None) -> str:
        if record is not None:
            return next((undo.mode for undo in record.undos if isinstance(undo, UnsetDns)), "")
        return self._host.dns.detect("auto") if settings and settings.dns else ""

    def _peers(
        self, device: Device, link: Link | None, record: Record | None, file: File | None, now: float
    ) -> Iterator[PeerStatus]:
        wanted = merged(file.settings) if file and file.settings else None
        known = file.names if file else Names({})
        endpoints = [peer.endpoint for peer in (wanted or {}).values() if peer.endpoint]
        sources = _Sources(
            now=now,
            link_up=link is None or link.up,
            wanted=wanted,
            given=record.peers if record else None,
            names=known.of,
            trends=self._history.trends(device, time.monotonic()),
            counters=self._counters(device.name),
            matches_name=self._name_matcher(device.name, endpoints),
        )
        there = {peer.public_key: peer for peer in device.peers}
        keys = dict.fromkeys((*(wanted or ()), *there))
        for key in keys:
            peer = there.get(key)
            yield sources.absent(str(key), (wanted or {})[key]) if peer is None else sources.present(peer)
        shown = set(map(str, keys)) if known.disabled else set()
        yield from (sources.absent(text) for text in known.disabled if text not in shown)

    def _drift(
        self,
        device: Device,
        link: Link | None,
        addresses: list[Prefix],
        settings: Settings | None,
        record: Record | None,
        is_guarded: bool | None,
    ) -> tuple[Drift, ...] | None:
        """None without a file. Rules are compared with the journal, as up may have chosen the table."""
        if settings is None:
            return None
        found = drift.differences(settings, device, link, addresses)
        if record is None or link is None:
            return found

        def has_default(family: int, table: int) -> bool:
            routes = self._host.rtnl.routes(family=family, table=table, device=device.name)
            return any(route.length == 0 for route in routes)

        if is_guarded is False and _records_guard(record):
            found = (*found, Drift("kill-switch-missing", "the kill switch is missing"))
        return (*found, *drift.of_routing(record.undos, rules(self._host), has_default))

    def _is_guarded(self, name: str, record: Record | None) -> bool | None:
        """Whether the kill switch exists; nft is asked only if the journal has one."""
        if record is None or not _records_guard(record):
            return False
        try:
            return self._host.firewall.is_guarded(name)
        except WgqError:
            return None

    def _counters(self, name: str) -> Diagnostics | None:
        try:
            return self._host.wireguard.diagnostics(name)
        except OperationError:  # the daemon has ended or hangs
            return None

    def _name_matcher(self, name: str, endpoints: list[Endpoint]) -> NameMatcher:
        """A function that says whether an Endpoint resolves to an address; names are cached for a minute."""
        known = self._name_matchers.get(name)
        if known is None or known[1] != endpoints or time.monotonic() - known[0] > _LOOKUP_AGE:
            known = (
                time.monotonic(),
                endpoints,
                self._host.name_matcher(endpoints) if self._look_up else _anywhere,
            )
            self._name_matchers[name] = known
        return known[2]


def _records_guard(record: Record) -> bool:
    return any(isinstance(undo, RemoveGuard) for undo in record.undos)


def _anywhere(_endpoint: Endpoint, _address: SocketAddress) -> bool:
    return True


class _Sources(NamedTuple):
    """The information about a device's peers that comes from other sources than the device."""

    now: float
    link_up: bool
    wanted: Mapping[PublicKey, PeerSettings] | None
    given: FilePeers | None
    names: Mapping[str, str]
    trends: Mapping[bytes, Trend]
    counters: Diagnostics | None
    matches_name: NameMatcher

    def present(self, peer: DevicePeer) -> PeerStatus:
        """A peer that the device has; there may be 10,000."""
        public, endpoint, handshake = peer.public_key, peer.endpoint, peer.last_handshake
        text, trend = str(public), self.trends.get(public.raw, UNKNOWN)
        events = self.counters.peers.get(public) if self.counters else None
        if events and is_being_tried(events):
            trend = trend._replace(sends=True)
        settings = self.wanted.get(public) if self.wanted else None
        configured = settings.endpoint if settings else None
        age = max(0.0, self.now - handshake) if handshake else None
        fields = (
            text,
            self.names.get(text, ""),
            state(peer, self.now, link_up=self.link_up, trend=trend),
            self._is_wanted(peer, settings),
            True,
            str(endpoint) if endpoint else None,
            str(configured) if configured else None,
            not self.matches_name(configured, endpoint) if configured and endpoint else None,
            tuple(map(str, peer.allowed_ips)),
            handshake or None,
            age,
            peer.rx_bytes,
            peer.tx_bytes,
            trend.rx_rate,
            trend.tx_rate,
            peer.persistent_keepalive,
            last_error(events, self.now, age) if events else None,
        )
        return PeerStatus(*fields)

    def _is_wanted(self, peer: DevicePeer, settings: PeerSettings | None) -> bool:
        """Whether this side should connect, by the file, else by the journal, else by PersistentKeepalive."""
        if not peer.allowed_ips:
            return False
        if self.wanted is not None:
            return settings is not None and settings.endpoint is not None
        if self.given is not None:
            earlier = self.given.get(peer.public_key.raw)
            return earlier is not None and bool(earlier.endpoint)
        return bool(peer.persistent_keepalive and peer.endpoint)

    def absent(self, text: str, settings: PeerSettings | None = None) -> PeerStatus:
        """A peer that only the file has; without settings, one that is commented out."""
        endpoint = settings.endpoint if settings else None
        networks = settings.allowed_ips if settings else ()
        return PeerStatus(
            public_key=text,
            name=self.names.get(text, ""),
            state="disabled",
            wanted=bool(endpoint and networks),
            on_device=False,
            endpoint=None,
            configured_endpoint=str(endpoint) if endpoint else None,
            roamed=None,
            allowed_ips=tuple(map(str, networks)),
            latest_handshake=None,
            handshake_age=None,
            rx_bytes=0,
            tx_bytes=0,
            rx_rate=None,
            tx_rate=None,
            persistent_keepalive=(settings.persistent_keepalive if settings else None) or 0,
        )


def _read(name: str, path: str) -> File:
    """The file, or why it cannot be used."""
    try:
        document = location.read(location.Location(name, path))
    except WgqError as error:
        return File(path, None, Names({}), error.what)
    settings = examine(document, name).settings
    fault = "" if settings else f"{path} has errors: `wgq check {path}' lists them"
    return File(path, settings, names(document), fault)


def _table(device: Device, settings: Settings | None, host: Host) -> str | None:
    """The table of the rule for the device's mark, as a full tunnel has one; else the file's Table."""
    marked = [rule.table for rule in rules(host) if device.fwmark and rule.fwmark == device.fwmark]
    if marked:
        return str(marked[0])
    if settings is None:
        return None
    return MAIN_NAME if settings.routes_automatically else settings.table
