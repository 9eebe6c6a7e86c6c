"""Watches a tunnel while it is probed: readings of the device, a capture of its port, and answers to probes.

A peer that answers an echo request works, and needs no further tests. To a silent peer, doctor sends an initiation
from the device's port, as the device would. So it knows within seconds whether the other end receives packets,
knows this end's key and has the same preshared key, with any backend and any age of the session.
"""

from __future__ import annotations

import threading
import time
from contextvars import copy_context
from errno import ETIMEDOUT
from typing import TYPE_CHECKING

from wgquick.datagram import ADMITTED, ARRIVED, ENDING, HOST_UNREACHABLE, SENT, TIME_EXCEEDED, Datagram
from wgquick.device import SESSION_AGE, Device, DevicePeer
from wgquick.diagnosis import nets
from wgquick.diagnosis.counter_signs import merged, signs_of_counters
from wgquick.diagnosis.doctor.evidence import Beyond, Evidence, HandshakeResult, Outside, Watched, dials
from wgquick.diagnosis.doctor.sizing import largest
from wgquick.diagnosis.doctor.targets import targets
from wgquick.diagnosis.handshake_probe import HandshakeProbe
from wgquick.diagnosis.senders import SenderCounter
from wgquick.diagnosis.signatures import signs
from wgquick.errors import OperationError
from wgquick.lean import suppress
from wgquick.net import pack_address
from wgquick.routing import Query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from wgquick.datagram import IcmpError
    from wgquick.diagnosis.doctor.inspector import Capture, Inspector, Prober
    from wgquick.diagnosis.doctor.targets import Target
    from wgquick.diagnosis.senders import CaptureSummary
    from wgquick.diagnosis.signatures import Sign
    from wgquick.net import PublicKey, SocketAddress
    from wgquick.observations import Arrivals, Echo, PathMtu
    from wgquick.ports import Host

_HANDSHAKE_TOS = 0x88  # AF41, which the kernel and wgq-userspace set for handshakes (HANDSHAKE_DSCP)
_ROOT_SERVER = {4: "198.41.0.4", 6: "2001:503:ba3e::2:30"}  # a.root-servers.net
# The largest numbers of what is probed.
_MOST_PROBED = 16  # peers
_MOST_POLLED = 256  # peers whose endpoints are read repeatedly, as reading many takes long
_MOST_SIZED = 4  # peers for which the largest packet is measured
_MOST_SERVERS = 4  # DNS servers
_INITIATIONS = 3
# Seconds.
_LEAST_WATCHING = 1.3  # in which a ping once a second is seen
_PROBING = 1.2  # for the answers of peers that work
_PROBING_AGAIN = 1.2  # for peers that have answered doctor's handshake
_AFTER_INITIATION = 0.9
_ADMISSION = 0.3  # from an answer's arrival until it should have passed this host's firewall
_HANDSHAKE_RETRY = 6.4  # until a device has retried its handshake in vain (REKEY_TIMEOUT and its jitter)
_NEIGHBOUR_ANSWERS = 0.5  # for the answers of gateways
_PATH_ANSWERS = 1.0  # for the answers of one path
_SERVER_ANSWERS = 2.0  # for the answers of DNS servers
_SIZING = 15.0  # at most, for measuring the largest packet of one peer
_SIZING_UNSURE = 1.0  # the same for a peer that may answer no echo request
_BEYOND_ANSWERS = 1.5  # for an answer from beyond the other end
_RECENT_TRAFFIC = 10.0  # in which something came from beyond, so that the tunnel led there
_RECENT_MOVE = 10.0  # since a peer moved
_POLL_INTERVAL = 0.1
_READING_PAUSES = (0.0, 0.002, 0.005)  # before the readings after a packet from a new place: it is decrypted first
_BETWEEN_READINGS = 0.03  # until the next readings of that kind
_SHARE, _FACTOR = 8, 2.5  # one answer may take 1/8 of the remaining time, but at most 2.5 times the usual seconds


def watched(
    evidence: Evidence,
    host: Host,
    inspector: Inspector,
    known: tuple[bytes, ...],
    deadline: float,
    *,
    listen: float = 0.0,
) -> Evidence:
    """The evidence with the peers' activity; `deadline` is a monotonic time, `listen` the minimum seconds."""
    device = evidence.device
    if device is None:
        return evidence
    began = time.monotonic()
    prober = inspector.Prober(evidence.name)
    poller = _Poller(evidence.name, host)
    listener = _Listener(evidence, device, inspector, poller.hear)
    try:
        run = _Run(evidence, device, host, inspector, prober, listener, deadline)
        run.choose_targets(known)
        with poller, listener:
            run.probe(_PROBING)
            run.probe_unbound()
            run.send_initiations()
            run.look_up_neighbours()
            run.probe_again()
            run.probe_beyond()
            run.query_dns_servers()
            run.measure_sizes()
            run.keep_listening(began, listen, poller)
        return run.result(poller)
    finally:
        prober.close()


def captured(evidence: Evidence, inspector: Inspector, listen: float) -> Evidence:
    """The evidence about an interface that is not up, with a capture on the port of its file or device.

    The file has all that is needed: the port, and the private key to decrypt initiations.
    """
    settings, device = evidence.settings, evidence.device
    if not evidence.listen_port:
        return evidence
    own = device.private_key if device else None
    key = own if own is not None and any(own.raw) else settings.private_key if settings else None
    peers = tuple(DevicePeer(public, wanted.preshared_key) for public, wanted in evidence.wanted.items())
    absent = Device(evidence.name, key, evidence.listen_port, 0, evidence.peers or peers)
    listener = _Listener(evidence, absent, inspector, lambda _: None)
    with listener:
        time.sleep(listen)
    return evidence._replace(signs=listener.signs(absent), listened=listener.seconds, heard=listener.heard())


class _Run:
    """The state while doctor watches: which peers are probed, and the results so far."""

    def __init__(
        self,
        evidence: Evidence,
        device: Device,
        host: Host,
        inspector: Inspector,
        prober: Prober,
        listener: _Listener,
        deadline: float,
    ) -> None:
        self._evidence, self._device, self._host = evidence, device, host
        self._inspector, self._prober, self._listener, self._deadline = inspector, prober, listener, deadline
        wanted, has_file = evidence.wanted, evidence.settings is not None
        dialled = [p for p in device.peers if dials(p, wanted.get(p.public_key), has_file=has_file)]
        self._dialled = {peer.public_key for peer in dialled}
        fresh = [p for p in device.peers if p not in dialled and evidence.now - p.last_handshake < SESSION_AGE]
        self._probed = (*dialled, *fresh)[:_MOST_PROBED]
        self._aims: dict[PublicKey, list[Target]] = {}
        self._echoes: dict[str, Echo] = {}
        self._outside = dict(evidence.outside)
        self._handshake_results: dict[PublicKey, HandshakeResult] = {}
        self._fitting: dict[PublicKey, int] = {}
        self._unbound: dict[PublicKey, Echo] = {}
        self._paths: dict[PublicKey, PathMtu] = {}
        self._asked_servers: dict[str, bool] = {}
        self._unread: list[str] = []
        self._beyond: tuple[Beyond, ...] = ()
        self._ends = {peer.public_key: peer.endpoint for peer in device.peers}

    def choose_targets(self, known: tuple[bytes, ...]) -> None:
        """Choose the addresses to probe; `known` are addresses of the other end."""
        servers = self._evidence.settings.dns if self._evidence.settings else ()
        own = self._evidence.addresses
        self._aims = {peer.public_key: targets(peer, own, servers, known) for peer in self._probed}

    def _live(self) -> Device:
        try:
            return self._host.wireguard.get(self._evidence.name)
        except OperationError as error:
            if error.errno == ETIMEDOUT:
                self._note_unread("the device's state after the probes")
            return self._device

    def _note_unread(self, what: str) -> None:
        """Note what was not examined for lack of time."""
        self._unread += [] if what in self._unread else [what]

    def _patience(self, seconds: float) -> float:
        """The seconds to wait for an answer: more than `seconds` if doctor has plenty of time."""
        left = self._deadline - time.monotonic()
        return max(0.0, min(left, max(seconds, min(seconds * _FACTOR, left / _SHARE))))

    def _echoes_of(self, peer: DevicePeer) -> tuple[Echo, ...]:
        """The results of the probes of a peer's addresses so far."""
        aims = self._aims.get(peer.public_key, ())
        return tuple(self._echoes[aim.address] for aim in aims if aim.address in self._echoes)

    def _silent(self) -> list[DevicePeer]:
        """The probed peers that this end connects to and that have not answered."""
        dialled = (peer for peer in self._probed if peer.public_key in self._dialled)
        return [peer for peer in dialled if not any(echo.answered for echo in self._echoes_of(peer))]

    def probe(self, seconds: float, peers: Sequence[DevicePeer] | None = None) -> None:
        """Probe the peers' addresses."""
        aims = {p.public_key: self._aims[p.public_key] for p in (self._probed if peers is None else peers)}
        addresses = list(dict.fromkeys(aim.address for each in aims.values() for aim in each))
        if not addresses:
            return
        until = time.monotonic() + self._patience(seconds)
        for echo in self._prober.probe(addresses, until, lambda answered: _is_enough(answered, aims)):
            self._echoes[echo.address] = echo

    def probe_unbound(self) -> None:
        """Probe an answering address of each peer by this host's own routes, as rules may divert such packets."""
        ways, name = self._evidence.ways, self._evidence.name
        for peer in self._probed[:_MOST_SIZED]:
            for echo in self._echoes_of(peer):
                way = ways.get(echo.address) or next(
                    iter(self._inspector.ways([Query(pack_address(echo.address))]))
                )
                if echo.answered == "icmp" and way.link == name:
                    (found,) = self._prober.unbound([echo.address], self._patience(_PROBING))
                    self._unbound[peer.public_key] = found
                    break

    def send_initiations(self) -> None:
        """Send an initiation to each peer, and more until each has answered.

        After a change of the preshared key at the other end, the session continues for two minutes and then fails.
        So peers that answer get an initiation too.
        """
        key = self._device.private_key
        if key is None or not any(key.raw) or self._evidence.is_moved:
            return
        dialled = [peer for peer in self._probed if peer.public_key in self._dialled and peer.endpoint]
        waiting = {peer.public_key: peer for peer in dialled}
        probes: dict[PublicKey, list[HandshakeProbe]] = {public: [] for public in waiting}
        for _ in range(_INITIATIONS):
            if not waiting:
                break
            if time.monotonic() + _AFTER_INITIATION > self._deadline:
                for peer in waiting.values():
                    self._note_unread(f"whether {peer.endpoint} answers a handshake")
                break
            for peer in waiting.values():
                probe = HandshakeProbe(key, peer.public_key, peer.preshared_key, time.time())
                probes[peer.public_key].append(probe)
                self._listener.expect(probe)
                self._send(peer, probe)
            self._await_answers(list(waiting), probes)
            for public in list(waiting):
                if self._is_settled(public, probes[public]):
                    del waiting[public]
        self._handshake_results = {public: self._listener.outcome(each) for public, each in probes.items()}

    def _send(self, peer: DevicePeer, probe: HandshakeProbe) -> None:
        end, device = peer.endpoint, self._device
        if end is None:
            return
        port, mark, message = device.listen_port, device.fwmark, probe.message
        link, counters = self._evidence.link, self._evidence.counters_before
        tos = _HANDSHAKE_TOS if counters is not None or (link and link.kind == "wireguard") else 0
        sent = self._inspector.send_outside(port, end.address, end.port, mark, message, end.scope, tos)
        before = self._outside.get(peer.public_key, Outside())
        self._outside[peer.public_key] = before._replace(sent=sent)

    def _is_settled(self, public: PublicKey, probes: Sequence[HandshakeProbe]) -> bool:
        """Whether an initiation was answered, caused an ICMP error, or could not be sent."""
        outside = self._outside[public]
        return bool(
            self._listener.outcome(probes).outcome or outside.sent or self._listener.has_error(self._ends[public])
        )

    def _await_answers(
        self, waiting: Sequence[PublicKey], probes: Mapping[PublicKey, list[HandshakeProbe]]
    ) -> None:
        until, settled = time.monotonic() + self._patience(_AFTER_INITIATION), 0.0
        while (now := time.monotonic()) < until and not (settled and now > settled):
            if not settled and all(self._is_settled(public, probes[public]) for public in waiting):
                settled = now + _ADMISSION  # the event for an admitted answer may come later
            time.sleep(0.02)

    def look_up_neighbours(self) -> None:
        """Look up the neighbours on the way to peers that do not answer: gateways, or the peers themselves."""
        silent = {
            peer.public_key: peer.endpoint
            for peer in self._silent()
            if peer.endpoint and not self._handshake_results.get(peer.public_key, HandshakeResult()).outcome
        }
        asked = {
            (way.link, way.gateway or silent[key].address, way.source if ":" not in way.source else "")
            for key in silent
            if (way := self._outside.get(key, Outside()).way) and way.kind == "unicast" and way.link
        }
        if asked and time.monotonic() + _NEIGHBOUR_ANSWERS < self._deadline:
            found = dict(zip(asked, self._inspector.neighbours(asked, _NEIGHBOUR_ANSWERS), strict=True))
            for key, end in silent.items():
                outside = self._outside.get(key, Outside())
                if outside.way is not None:
                    place = (outside.way.link, outside.way.gateway or end.address)
                    near = next((found[each] for each in asked if each[:2] == place), None)
                    self._outside[key] = outside._replace(neighbour=near)

    def probe_again(self) -> None:
        """Probe again the peers that answered doctor's handshake: the device's next handshake may succeed."""
        results = self._handshake_results
        again = [
            peer
            for peer in self._silent()
            if peer.public_key in results
            and results[peer.public_key].outcome == "answered"
            and results[peer.public_key].was_admitted
        ]
        if again:
            live = {peer.public_key: peer for peer in self._live().peers}
            ages = [time.time() - live.get(peer.public_key, peer).last_handshake for peer in again]
            self.probe(_PROBING_AGAIN if max(ages) < SESSION_AGE else _HANDSHAKE_RETRY, again)
            live = {peer.public_key: peer for peer in self._live().peers}
            for peer in self._silent():
                age = time.time() - live.get(peer.public_key, peer).last_handshake
                if peer in again and age > SESSION_AGE:
                    self._note_unread(f"whether data passes to {peer.endpoint}: there is no session yet")

    def probe_beyond(self) -> None:
        """Find out whether the other end of a full tunnel passes packets on, if it answers itself."""
        peer = next(
            (p for p in self._probed if self._is_full(p) and any(e.answered for e in self._echoes_of(p))), None
        )
        if peer is None:
            return
        evidence, seen = self._evidence, self._prober.seen()
        place = _Surroundings(evidence, peer)
        aims = {family: place.targets(family, seen) for family in (4, 6)}
        asked = [each for family in aims.values() for each in family]
        if not asked:
            return
        if time.monotonic() + _BEYOND_ANSWERS > self._deadline:
            self._note_unread("whether the other end of the full tunnel passes packets on")
            return
        ways = self._inspector.ways(Query(pack_address(each)) for each in asked)
        inside = [each for each, way in zip(asked, ways, strict=True) if way.link == evidence.name]
        families = {6 if ":" in each else 4 for each in inside}
        if families:
            servers = place.servers(inside, seen)
            seen = self._prober.beyond(
                inside, servers, self._patience(_BEYOND_ANSWERS), lambda seen: families <= place.back(seen)
            )
            lately = self._inspector.heard_from(_RECENT_TRAFFIC) if families - place.back(seen) else ()
            back = place.back(seen, lately)
            self._beyond = tuple(
                place.silence(peer.public_key, family, aims[family][0], seen)._replace(works=bool(back))
                for family in sorted(families - back)
            )

    def _is_full(self, peer: DevicePeer) -> bool:
        """Whether this end connects to the peer, and routes the Internet's addresses to it."""
        far = [nets.host(pack_address(each)) for each in _ROOT_SERVER.values()]
        is_full = any(nets.contains(ip, each) for ip in peer.allowed_ips for each in far)
        return is_full and peer.public_key in self._dialled

    def query_dns_servers(self) -> None:
        """Query the DNS servers in the tunnel, if a peer answers."""
        settings = self._evidence.settings
        peers = self._evidence.peers
        servers = [
            server
            for server in (settings.dns if settings else ())[:_MOST_SERVERS]
            if nets.is_private(packed := pack_address(server))
            or any(nets.contains(ip, nets.host(packed)) for peer in peers for ip in peer.allowed_ips)
        ]
        if (
            servers
            and self._evidence.dns_mode not in ("", "off")
            and any(e.answered for e in self._echoes.values())
        ):
            if time.monotonic() + _SERVER_ANSWERS > self._deadline:
                self._note_unread("whether the tunnel's DNS servers answer")
                return
            answered = self._prober.answering_servers(servers, self._patience(_SERVER_ANSWERS))
            self._asked_servers = {server: server in answered for server in servers}

    def measure_sizes(self) -> None:
        """Find the largest packet that passes, if one of the link's MTU does not."""
        mtu = self._evidence.link.mtu if self._evidence.link else 0
        working = [peer for peer in self._probed if any(each.answered for each in self._echoes_of(peer))]
        working = working[:_MOST_SIZED]
        for at, peer in enumerate(working):
            echo = max(self._echoes_of(peer), key=lambda each: (each.answered == "icmp", bool(each.answered)))
            is_sure = echo.answered == "icmp"
            left = (self._deadline - _PATH_ANSWERS - time.monotonic()) / (len(working) - at)
            until = time.monotonic() + min(left, _SIZING if is_sure else _SIZING_UNSURE)
            with self._prober.sizer(echo.address) as sizer:
                fitting = largest(sizer, mtu, until, time.monotonic)
            if fitting:
                self._fitting[peer.public_key] = fitting
                self._measure_path(peer)
            elif fitting is None and is_sure:
                self._note_unread(f"whether packets of {mtu} bytes pass to {echo.address}")

    def _measure_path(self, peer: DevicePeer) -> None:
        """Measure the path outside the tunnel, which may be the cause."""
        end = peer.endpoint
        with suppress(OperationError):
            if end is not None:
                mark = self._device.fwmark
                path = self._inspector.path_mtu(end.address, mark=mark, scope=end.scope, patience=_PATH_ANSWERS)
                self._paths[peer.public_key] = path

    def keep_listening(self, began: float, listen: float, poller: _Poller) -> None:
        """Keep listening for `listen` seconds, or until peers without a session have retried their handshake."""
        stale = (peer for peer in self._device.peers if self._evidence.now - peer.last_handshake > SESSION_AGE)
        is_waiting = any(peer.public_key not in self._dialled for peer in stale) or self._has_silent_callers()
        until = began + max(listen, _LEAST_WATCHING)
        if not listen and is_waiting:
            until = began + _HANDSHAKE_RETRY
        if self._evidence.counters_before is None and self._has_callers():
            until = max(
                until, min(time.monotonic() + _PROBING_AGAIN, self._deadline)
            )  # no counters show how often they move
        if poller.has_seen_a_move() or self._has_roamed():  # may alternate
            until = max(until, min(time.monotonic() + _PROBING_AGAIN, self._deadline))
        until = max(began + listen, min(until, self._deadline))
        while (left := until - time.monotonic()) > 0:
            self._prober.seen()
            time.sleep(min(0.1, left))

    def _has_silent_callers(self) -> bool:
        """Whether a peer with a recent session, which connects to this end, answers no probe."""
        callers = (peer for peer in self._probed if peer.public_key not in self._dialled)
        return any(not any(echo.answered for echo in self._echoes_of(peer)) for peer in callers)

    def _has_callers(self) -> bool:
        """Whether a peer that connects to this end has sent packets meanwhile."""
        before = {peer.public_key: peer.rx_bytes for peer in self._device.peers}
        callers = (peer for peer in self._live().peers if peer.public_key not in self._dialled)
        return any(peer.rx_bytes > before.get(peer.public_key, 0) for peer in callers)

    def _has_roamed(self) -> bool:
        """Whether a peer's endpoint changed just now, by the daemon's counters."""
        counters = self._evidence.counters_before
        moved = (events.last("roamed") for events in counters.peers.values()) if counters else ()
        return any(event is not None and event.age < _RECENT_MOVE and event.times > 1 for event in moved)

    def result(self, poller: _Poller) -> Evidence:
        """The evidence with all results."""
        after = self._live()
        live = {peer.public_key: peer for peer in after.peers}
        found = {
            peer.public_key: Watched(
                peer,
                live.get(peer.public_key, peer),
                self._echoes_of(peer),
                self._handshake_results.get(peer.public_key),
                poller.endpoints.get(peer.public_key, ()),
                poller.handshakes.get(peer.public_key, 0),
                self._fitting.get(peer.public_key),
                self._unbound.get(peer.public_key),
                self._paths.get(peer.public_key),
            )
            for peer in self._device.peers
        }
        seen = self._prober.seen()
        return self._evidence._replace(
            outside=self._outside,
            signs=tuple(merged(self._listener.signs(after), self._counter_signs(after))),
            unread=(*self._evidence.unread, *self._unread),
            listened=self._listener.seconds,
            heard=self._listener.heard(),
            asked_servers=self._asked_servers,
            beyond=self._beyond,
            passed_on=self._passed_on(),
            came_out=seen.destinations,
            went_in=seen.returned,
            rejections=seen.rejections,
            has_sent=seen.has_sent,
            watched=found,
        )

    def _counter_signs(self, after: Device) -> list[Sign]:
        """The signs in the counters of wgq-userspace, which include the time before doctor."""
        try:
            counters = self._host.wireguard.diagnostics(self._evidence.name)
        except OperationError as error:
            if error.errno == ETIMEDOUT:
                self._note_unread("the daemon's counters")
            return []
        return signs_of_counters(after, counters, time.time()) if counters else []

    def _passed_on(self) -> tuple[tuple[str, str], ...]:
        own = self._evidence.local
        pairs = self._prober.seen().destinations
        return tuple(sorted(pair for pair in pairs if _is_for_others(pack_address(pair[1]), own)))


def _is_for_others(address: bytes, own: frozenset[bytes]) -> bool:
    """Whether a packet must be forwarded: not broadcast, multicast or link-local, and not for this host."""
    if address in own or nets.is_on_link(address):
        return False
    return not (address[0] >= 224 if len(address) == 4 else address[0] == 255)


def _is_enough(answered: set[str], aims: Mapping[PublicKey, Sequence[Target]]) -> bool:
    """Whether each peer has answered at one of its addresses."""
    return all(not each or any(aim.address in answered for aim in each) for each in aims.values())


class _Surroundings:
    """Which addresses are beyond the other end of a full tunnel."""

    def __init__(self, evidence: Evidence, peer: DevicePeer) -> None:
        end = peer.endpoint
        singles = [ip for ip in peer.allowed_ips if nets.is_single(ip)]
        self._near: list[nets.Network] = [*evidence.addresses, *singles]
        self._near += [nets.host(address) for address in evidence.local]
        self._near += [nets.host(pack_address(end.address))] if end else []
        self._peer = peer
        self._families = {each.family for each in evidence.addresses if not nets.is_link_local(each)}
        self._servers = evidence.settings.dns if evidence.settings else ()
        self._queried: set[str] = set()

    def _is_beyond(self, text: str) -> bool:
        address = pack_address(text)
        if nets.is_on_link(address) or nets.is_multicast(address):
            return False
        if any(nets.contains(near, nets.host(address)) for near in self._near):
            return False
        return any(nets.contains(ip, nets.host(address)) for ip in self._peer.allowed_ips)

    def targets(self, family: int, seen: Arrivals) -> list[str]:
        """The addresses to probe: one to which this host sends now, a server of the file, and one that is known."""
        if family not in self._families:
            return []
        known = (*self.sent(family, seen)[:1], *self._servers, _ROOT_SERVER[family])
        return [each for each in dict.fromkeys(known) if (":" in each) == (family == 6) and self._is_beyond(each)]

    def sent(self, family: int, seen: Arrivals) -> tuple[str, ...]:
        """The public addresses beyond to which this host sends packets, without those reported as unused."""
        empty = {address for address, error in seen.refusals if error == HOST_UNREACHABLE}
        every = {to for _, to in seen.returned} - empty - self._queried
        found = {to for to in every if (":" in to) == (family == 6) and self._is_beyond(to)}
        return tuple(sorted(each for each in found if not nets.is_private(pack_address(each))))

    def servers(self, addresses: Iterable[str], seen: Arrivals) -> list[str]:
        """The DNS servers among the addresses. From now on, packets to them may be doctor's own queries."""
        found = [each for each in addresses if each in self._servers or each in _ROOT_SERVER.values()]
        self._queried = set(found) - {to for _, to in seen.returned}
        return found

    def back(self, seen: Arrivals, lately: Iterable[str] = ()) -> set[int]:
        """The families (4, 6) in which packets came back from beyond, now or `lately`."""
        sources = (*(source for source, _ in seen.destinations), *lately)
        return {6 if ":" in source else 4 for source in sources if self._is_beyond(source)}

    def silence(self, key: PublicKey, family: int, target: str, seen: Arrivals) -> Beyond:
        """The silence beyond the other end, with the ICMP errors about packets to `target`."""
        errors = {error for address, error in seen.refusals if address == target}
        sent = self.sent(family, seen)
        of_forwarding = {TIME_EXCEEDED, HOST_UNREACHABLE}
        return Beyond(key, family, target, bool(errors & of_forwarding), bool(errors - of_forwarding), sent)


class _Listener:
    """Captures the port in a thread; answers to doctor's own initiations are kept separate.

    `hear` is called with the source of each data message.
    """

    def __init__(
        self, evidence: Evidence, device: Device, inspector: Inspector, hear: Callable[[SocketAddress], None]
    ) -> None:
        self._name, self._inspector, self._device = evidence.name, inspector, device
        self._hear = hear
        candidates = [key for key in (evidence.file_key,) if key is not None]
        self._counter = SenderCounter(device.private_key, [peer.public_key for peer in device.peers], candidates)
        self._stop = threading.Event()
        self._lock = threading.Lock()  # of what the thread finds
        self._probes: dict[bytes, HandshakeProbe] = {}
        self._arrived: dict[bytes, tuple[str, str]] = {}
        self._admitted: set[bytes] = set()
        self._left: set[tuple[bytes, str]] = set()
        self._errors: set[tuple[str, int]] = set()
        self._thread: threading.Thread | None = None
        self._began = time.monotonic()
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._opened = self._inspector.Capture(self._device.listen_port, self._name)
        try:
            capture = self._opened.__enter__()
        except OperationError:
            return
        self._thread = threading.Thread(target=self._listen, args=(capture,), daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._opened.__exit__(None, None, None)
        self.seconds = time.monotonic() - self._began

    def _listen(self, capture: Capture) -> None:
        while not self._stop.is_set():
            for event in capture.read(0.1):
                with self._lock:
                    self._take(event)

    def _take(self, event: Datagram | IcmpError) -> None:
        if isinstance(event, Datagram):
            if self._is_own(event):
                return
            if event.stage == ARRIVED and event.kind in ("data", "keepalive"):
                self._hear(event.source)
        elif event.meaning in ENDING:
            self._errors.add((event.destination.address, event.destination.port))
        self._counter.take(event)

    def has_error(self, end: SocketAddress | None) -> bool:
        """Whether an ICMP error reported that the endpoint is unreachable."""
        with self._lock:
            return end is not None and (end.address, end.port) in self._errors

    def expect(self, probe: HandshakeProbe) -> None:
        """Recognise the answer to this initiation."""
        with self._lock:
            self._probes[probe.index] = probe

    def _is_own(self, heard: Datagram) -> bool:
        """Whether the datagram is doctor's own initiation or an answer to one; records answers."""
        if heard.kind == "initiation":
            is_own = heard.stage == SENT and heard.payload[4:8] in self._probes
            if is_own:
                self._left.add((heard.payload[4:8], heard.link))
            return is_own
        if heard.kind not in ("response", "cookie"):
            return False
        index = heard.payload[8:12] if heard.kind == "response" else heard.payload[4:8]
        probe = self._probes.get(index)
        if probe is None:
            return False
        if heard.stage == ADMITTED:
            self._admitted.add(index)
        elif heard.stage == ARRIVED:
            outcome = "cookie" if heard.kind == "cookie" else "refused"
            if heard.kind == "response" and probe.accepts(heard.payload):
                outcome = "answered"
            self._arrived[index] = (outcome, heard.link)
        return True

    def outcome(self, probes: Sequence[HandshakeProbe]) -> HandshakeResult:
        """The result of these initiations."""
        own = {probe.index for probe in probes}
        with self._lock:
            for probe in probes:
                if found := self._arrived.get(probe.index):
                    return HandshakeResult(found[0], len(probes), found[1], probe.index in self._admitted)
            links = frozenset(link for index, link in self._left if index in own)
        return HandshakeResult(tries=len(probes), left_by=None if self._thread is None else links)

    def heard(self) -> CaptureSummary | None:
        """The capture; None if it could not be started."""
        if self._thread is None:
            return None
        return self._counter.result(self._device.listen_port, self.seconds)

    def signs(self, after: Device) -> tuple[Sign, ...]:
        """The signs in the other packets."""
        heard = self.heard()
        return tuple(signs(self._device, after, heard)) if heard else ()


class _Poller:
    """Reads the device repeatedly, in a thread, and at once after a data message from where no peer is.

    Of two hosts with one key, one may have the endpoint for milliseconds only, just before the other sends.
    """

    def __init__(self, name: str, host: Host) -> None:
        self._name, self._host = name, host
        self._stop = threading.Event()
        self._lock = threading.Lock()  # of what the thread finds
        self._is_due = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._look,), daemon=True)
        self._places: set[tuple[str, int]] = set()
        self.endpoints: dict[PublicKey, tuple[str, ...]] = {}
        self.handshakes: dict[PublicKey, int] = {}
        self._last: dict[PublicKey, float] = {}

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._is_due.set()
        self._thread.join()

    def hear(self, source: SocketAddress) -> None:
        """A data message came from this address."""
        with self._lock:
            if (source.address, source.port) not in self._places:
                self._is_due.set()

    def _look(self) -> None:
        is_due = self._is_due.wait(_POLL_INTERVAL)
        while not self._stop.is_set():
            for pause in _READING_PAUSES if is_due else (0.0,):
                time.sleep(pause)
                if not self._read():
                    return
            self._is_due.clear()
            time.sleep(_BETWEEN_READINGS)
            is_due = self._is_due.wait(_POLL_INTERVAL - _BETWEEN_READINGS)

    def _read(self) -> bool:
        """Note what the device has now. Returns False if it has too many peers to read it repeatedly."""
        try:
            peers = self._host.wireguard.get(self._name).peers
        except OperationError:
            return True
        if len(peers) > _MOST_POLLED:
            return False
        with self._lock:
            self._places = {(peer.endpoint.address, peer.endpoint.port) for peer in peers if peer.endpoint}
            for peer in peers:
                self._note(peer)
        return True

    def has_seen_a_move(self) -> bool:
        """Whether an endpoint has changed since the start."""
        with self._lock:
            return any(len(seen) > 1 for seen in self.endpoints.values())

    def _note(self, peer: DevicePeer) -> None:
        key, seen = peer.public_key, self.endpoints.get(peer.public_key, ())
        if peer.endpoint and (not seen or seen[-1] != str(peer.endpoint)):
            self.endpoints[key] = (*seen, str(peer.endpoint))
        if key in self._last and peer.last_handshake > self._last[key]:
            self.handshakes[key] = self.handshakes.get(key, 0) + 1
        self._last[key] = peer.last_handshake
