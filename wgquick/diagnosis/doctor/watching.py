"""Watches a tunnel while it is probed: what the device tells, what the wire shows, and who answers.

A peer that answers an echo request is well, and that is all that is done. To a silent one an initiation is sent as
the device would send it, from its own port. So it is known within seconds whether the other end hears this one,
knows its key and has the same preshared key, whatever the backend, and however young the last session is.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from wgquick.datagram import ADMITTED, ARRIVED, SENT, Datagram
from wgquick.device import Device, DevicePeer
from wgquick.diagnosis import nets
from wgquick.diagnosis.counted import counted, merged
from wgquick.diagnosis.doctor.evidence import FRESH, Evidence, Outside, Shake, Watched, dials
from wgquick.diagnosis.doctor.targets import targets
from wgquick.diagnosis.knocks import Ledger
from wgquick.diagnosis.shake import Attempt
from wgquick.diagnosis.signatures import signs
from wgquick.errors import OperationError
from wgquick.lean import suppress
from wgquick.net import pack_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wgquick.diagnosis.doctor.senses import Capture, Prober, Senses
    from wgquick.diagnosis.doctor.targets import Target
    from wgquick.diagnosis.knocks import Heard
    from wgquick.diagnosis.signatures import Sign
    from wgquick.net import PublicKey, SocketAddress
    from wgquick.observations import Echo, PathMtu
    from wgquick.ports import Host

_PEERS = 16  # that are probed, of a hub with many
_FEW = 256  # peers whose endpoints are watched: a hub's answer is long
_FIRST = 1.2  # seconds for peers that are well
_TRIES, _PAUSE = 3, 0.9  # initiations, and seconds after each
_SECOND = 1.2
_RETRY = 5.6  # seconds after which a device surely tries its handshake again (REKEY_TIMEOUT and its jitter)
_PATH = 1.0  # seconds for the answers of one
_SIZED = 4  # peers whose largest packet is looked for
_SETTLED = 0.3
_GLANCE = 0.1
_RECENT = 10.0  # seconds since a peer moved
_FINAL = frozenset({"port-unreachable", "host-unreachable", "net-unreachable", "prohibited"})


def watched(
    evidence: Evidence,
    host: Host,
    senses: Senses,
    known: tuple[bytes, ...],
    deadline: float,
    *,
    listen: float = 0.0,
) -> Evidence:
    """The evidence with what the peers did; `deadline` is a monotonic time, `listen` are seconds at least."""
    device = evidence.device
    if device is None:
        return evidence
    began = time.monotonic()
    prober = senses.Prober(evidence.name)
    ear = _Ear(evidence, device, senses)
    glances = _Glances(evidence.name, host)
    try:
        run = _Run(evidence, device, host, senses, prober, ear, deadline)
        run.aim(known)
        with glances, ear:
            run.reach(_FIRST)
            run.shake()
            run.reach_again()
            run.measure()
            run.linger(began, listen, glances)
        return run.result(glances)
    finally:
        prober.close()


def overheard(evidence: Evidence, senses: Senses, listen: float) -> Evidence:
    """The evidence of an interface that is not up, with who knocks at the port that its file or device has.

    The file has what it takes: the port, and the private key that reads who knocks.
    """
    settings, device = evidence.settings, evidence.device
    if not evidence.listen_port:
        return evidence
    own = device.private_key if device else None
    key = own if own is not None and any(own.raw) else settings.private_key if settings else None
    peers = tuple(DevicePeer(public, wanted.preshared_key) for public, wanted in evidence.wanted.items())
    absent = Device(evidence.name, key, evidence.listen_port, 0, evidence.peers or peers)
    ear = _Ear(evidence, absent, senses)
    with ear:
        time.sleep(listen)
    return evidence._replace(signs=ear.signs(absent), listened=ear.seconds, heard=ear.heard())


class _Run:
    """One watching: who is probed, and what came of it so far."""

    def __init__(
        self,
        evidence: Evidence,
        device: Device,
        host: Host,
        senses: Senses,
        prober: Prober,
        ear: _Ear,
        deadline: float,
    ) -> None:
        self._evidence, self._device, self._host = evidence, device, host
        self._senses, self._prober, self._ear, self._deadline = senses, prober, ear, deadline
        wanted, has_file = evidence.wanted, evidence.settings is not None
        dialled = [p for p in device.peers if dials(p, wanted.get(p.public_key), has_file=has_file)]
        self._dialled = {peer.public_key for peer in dialled}
        fresh = [p for p in device.peers if p not in dialled and evidence.now - p.last_handshake < FRESH]
        self._probed = (*dialled, *fresh)[:_PEERS]
        self._aims: dict[PublicKey, list[Target]] = {}
        self._echoes: dict[str, Echo] = {}
        self._outside = dict(evidence.outside)
        self._shakes: dict[PublicKey, Shake] = {}
        self._fitting: dict[PublicKey, int] = {}
        self._paths: dict[PublicKey, PathMtu] = {}
        self._ends = {peer.public_key: peer.endpoint for peer in device.peers}

    def aim(self, known: tuple[bytes, ...]) -> None:
        """Choose the addresses to probe; `known` are the other end's."""
        servers = self._evidence.settings.dns if self._evidence.settings else ()
        own = self._evidence.addresses
        self._aims = {peer.public_key: targets(peer, own, servers, known) for peer in self._probed}

    def _live(self) -> Device:
        try:
            return self._host.wireguard.get(self._evidence.name)
        except OperationError:
            return self._device

    def _met(self, peer: DevicePeer) -> tuple[Echo, ...]:
        aims = self._aims.get(peer.public_key, ())
        return tuple(self._echoes[aim.address] for aim in aims if aim.address in self._echoes)

    def _silent(self) -> list[DevicePeer]:
        dialled = (peer for peer in self._probed if peer.public_key in self._dialled)
        return [peer for peer in dialled if not any(echo.answered for echo in self._met(peer))]

    def reach(self, seconds: float, peers: Sequence[DevicePeer] | None = None) -> None:
        """Probe the peers' addresses."""
        aims = {p.public_key: self._aims[p.public_key] for p in (self._probed if peers is None else peers)}
        addresses = list(dict.fromkeys(aim.address for each in aims.values() for aim in each))
        if not addresses:
            return
        until = min(self._deadline, time.monotonic() + seconds)
        for echo in self._prober.reach(addresses, until, lambda answered: _is_enough(answered, aims)):
            self._echoes[echo.address] = echo

    def shake(self) -> None:
        """Send an initiation to each peer, and more to those that are silent, until each has answered.

        A session goes on for two minutes after the other end has been given another preshared key, and then fails:
        so a peer that answers is sent one too.
        """
        key = self._device.private_key
        if key is None or not any(key.raw) or self._evidence.is_moved:
            return
        dialled = [peer for peer in self._probed if peer.public_key in self._dialled and peer.endpoint]
        waiting = {peer.public_key: peer for peer in dialled}
        attempts: dict[PublicKey, list[Attempt]] = {public: [] for public in waiting}
        silent = {peer.public_key for peer in self._silent()}
        for _ in range(_TRIES):
            if not waiting or time.monotonic() + _PAUSE > self._deadline:
                break
            for peer in waiting.values():
                attempt = Attempt(key, peer.public_key, peer.preshared_key, time.time())
                attempts[peer.public_key].append(attempt)
                self._ear.expect(attempt)
                self._send(peer, attempt)
            self._await_answers(list(waiting), attempts)
            for public in list(waiting):
                if self._is_settled(public, attempts[public]) or public not in silent:
                    del waiting[public]
        self._shakes = {public: self._ear.outcome(each) for public, each in attempts.items()}

    def _send(self, peer: DevicePeer, attempt: Attempt) -> None:
        end, device = peer.endpoint, self._device
        if end is None:
            return
        port, mark, message = device.listen_port, device.fwmark, attempt.message
        sent = self._senses.send_outside(port, end.address, end.port, mark, message, end.scope)
        before = self._outside.get(peer.public_key, Outside())
        self._outside[peer.public_key] = before._replace(sent=sent)

    def _is_settled(self, public: PublicKey, attempts: Sequence[Attempt]) -> bool:
        """Whether an initiation was answered, by an ICMP error at least, or could not be sent."""
        outside = self._outside[public]
        return bool(self._ear.outcome(attempts).outcome or outside.sent or self._ear.has_error(self._ends[public]))

    def _await_answers(self, waiting: Sequence[PublicKey], attempts: Mapping[PublicKey, list[Attempt]]) -> None:
        until, settled = time.monotonic() + _PAUSE, 0.0
        while (now := time.monotonic()) < until and not (settled and now > settled):
            if not settled and all(self._is_settled(public, attempts[public]) for public in waiting):
                settled = now + _SETTLED  # whether an answer is admitted may be heard later
            time.sleep(0.02)

    def reach_again(self) -> None:
        """The other end answers, so that the device may get through now, at its next try at the latest."""
        shakes = self._shakes
        again = [
            peer
            for peer in self._silent()
            if peer.public_key in shakes
            and shakes[peer.public_key].outcome == "answered"
            and shakes[peer.public_key].was_admitted
        ]
        if again:
            live = {peer.public_key: peer for peer in self._live().peers}
            ages = [time.time() - live.get(peer.public_key, peer).last_handshake for peer in again]
            self.reach(_SECOND if max(ages) < FRESH else _RETRY, again)

    def measure(self) -> None:
        """Look for the largest packet that passes, where that of the link's MTU does not."""
        mtu = self._evidence.link.mtu if self._evidence.link else 0
        for peer in self._probed[:_SIZED]:
            answered = [echo.address for echo in self._met(peer) if echo.answered == "icmp"]
            if answered and mtu and time.monotonic() + 2 < self._deadline:
                fitting = _fitting(self._prober, answered[0], mtu)
                if fitting:
                    self._fitting[peer.public_key] = fitting
                    self._measure_path(peer)

    def _measure_path(self, peer: DevicePeer) -> None:
        """Where it is too narrow: outside of the tunnel, or only inside."""
        end = peer.endpoint
        with suppress(OperationError):
            if end is not None:
                mark = self._device.fwmark
                path = self._senses.path_mtu(end.address, mark=mark, scope=end.scope, patience=_PATH)
                self._paths[peer.public_key] = path

    def linger(self, began: float, listen: float, glances: _Glances) -> None:
        """Listen on: as long as is asked for, or until whoever knocks in vain has knocked again."""
        stale = (peer for peer in self._device.peers if self._evidence.now - peer.last_handshake > FRESH)
        is_waiting = any(peer.public_key not in self._dialled for peer in stale)
        until = began + listen
        if not listen and is_waiting:
            until = min(began + _RETRY, self._deadline)
        if self._evidence.counted_before is None and self._has_callers():
            until = max(until, min(time.monotonic() + _SECOND, self._deadline))  # nobody counts how often they move
        if any(len(seen) > 1 for seen in glances.endpoints.values()) or self._has_roamed():  # to and fro?
            until = max(until, min(time.monotonic() + _SECOND, self._deadline))
        while (left := until - time.monotonic()) > 0:
            self._prober.seen()
            time.sleep(min(0.1, left))

    def _has_callers(self) -> bool:
        """Whether a peer that begins by itself has sent something meanwhile."""
        before = {peer.public_key: peer.rx_bytes for peer in self._device.peers}
        callers = (peer for peer in self._live().peers if peer.public_key not in self._dialled)
        return any(peer.rx_bytes > before.get(peer.public_key, 0) for peer in callers)

    def _has_roamed(self) -> bool:
        """Whether a peer's endpoint changed just now, by the daemon's counters."""
        counted = self._evidence.counted_before
        moved = (events.last("roamed") for events in counted.peers.values()) if counted else ()
        return any(event is not None and event.age < _RECENT and event.times > 1 for event in moved)

    def result(self, glances: _Glances) -> Evidence:
        """All of it."""
        after = self._live()
        live = {peer.public_key: peer for peer in after.peers}
        found = {
            peer.public_key: Watched(
                peer,
                live.get(peer.public_key, peer),
                self._met(peer),
                self._shakes.get(peer.public_key),
                glances.endpoints.get(peer.public_key, ()),
                glances.handshakes.get(peer.public_key, 0),
                self._fitting.get(peer.public_key),
                self._paths.get(peer.public_key),
            )
            for peer in self._device.peers
        }
        return self._evidence._replace(
            outside=self._outside,
            signs=tuple(merged(self._ear.signs(after), self._counted(after))),
            listened=self._ear.seconds,
            heard=self._ear.heard(),
            passed_on=self._passed_on(),
            watched=found,
        )

    def _counted(self, after: Device) -> list[Sign]:
        """What wgq-userspace itself has seen, also before doctor came."""
        try:
            told = self._host.wireguard.diagnostics(self._evidence.name)
        except OperationError:
            return []
        return counted(after, told, time.time()) if told else []

    def _passed_on(self) -> tuple[tuple[str, str], ...]:
        own = self._evidence.local
        pairs = self._prober.seen().destinations
        return tuple(sorted(pair for pair in pairs if _is_for_others(pack_address(pair[1]), own)))


def _is_for_others(address: bytes, own: frozenset[bytes]) -> bool:
    """Whether a packet is to be passed on: no broadcast, multicast or link-local one, and not for this host."""
    if address in own or nets.is_on_link(address):
        return False
    return not (address[0] >= 224 if len(address) == 4 else address[0] == 255)


def _is_enough(answered: set[str], aims: Mapping[PublicKey, Sequence[Target]]) -> bool:
    """Whether each peer has answered at one of its addresses."""
    return all(not each or any(aim.address in answered for aim in each) for each in aims.values())


def _fitting(prober: Prober, address: str, mtu: int) -> int:
    """The largest packet that passes; 0 if one of the link's MTU does, or if none of any size does by now."""
    if mtu in prober.passes(address, [mtu, mtu], 0.5) or mtu in prober.passes(address, [mtu, mtu], 1.0):
        return 0
    smallest = 1000 if ":" in address else 576
    step = max((mtu - smallest) // 24, 4)
    passed = prober.passes(address, [*range(smallest, mtu, step)], 0.8)
    if not passed:
        return 0
    low = max(passed)
    return max((low, *prober.passes(address, [*range(low + 1, min(low + step, mtu))], 0.5)))


class _Ear:
    """Overhears the port in a thread of its own; answers to doctor's own initiations are kept apart."""

    def __init__(self, evidence: Evidence, device: Device, senses: Senses) -> None:
        self._name, self._senses, self._device = evidence.name, senses, device
        candidates = [key for key in (evidence.file_key,) if key is not None]
        self._ledger = Ledger(device.private_key, [peer.public_key for peer in device.peers], candidates)
        self._stop = threading.Event()
        self._attempts: dict[bytes, Attempt] = {}
        self._arrived: dict[bytes, tuple[str, str]] = {}
        self._admitted: set[bytes] = set()
        self._errors: set[tuple[str, int]] = set()
        self._thread: threading.Thread | None = None
        self._began = time.monotonic()
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._opened = self._senses.Capture(self._device.listen_port, self._name)
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
                if isinstance(event, Datagram):
                    if self._is_own(event):
                        continue
                elif event.meaning in _FINAL:
                    self._errors.add((event.destination.address, event.destination.port))
                self._ledger.take(event)

    def has_error(self, end: SocketAddress | None) -> bool:
        """Whether an ICMP error came that says that an endpoint cannot be reached."""
        return end is not None and (end.address, end.port) in self._errors

    def expect(self, attempt: Attempt) -> None:
        """Hear the answer to this initiation."""
        self._attempts[attempt.index] = attempt

    def _is_own(self, heard: Datagram) -> bool:
        """Whether the datagram is an initiation of doctor's or an answer to one; notes what came."""
        if heard.kind == "initiation":
            return heard.stage == SENT and heard.payload[4:8] in self._attempts
        if heard.kind not in ("response", "cookie"):
            return False
        index = heard.payload[8:12] if heard.kind == "response" else heard.payload[4:8]
        attempt = self._attempts.get(index)
        if attempt is None:
            return False
        if heard.stage == ADMITTED:
            self._admitted.add(index)
        elif heard.stage == ARRIVED:
            outcome = "cookie" if heard.kind == "cookie" else "refused"
            if heard.kind == "response" and attempt.accepts(heard.payload):
                outcome = "answered"
            self._arrived[index] = (outcome, heard.link)
        return True

    def outcome(self, attempts: Sequence[Attempt]) -> Shake:
        """What came of these initiations."""
        for attempt in attempts:
            if found := self._arrived.get(attempt.index):
                return Shake(found[0], len(attempts), found[1], attempt.index in self._admitted)
        return Shake(tries=len(attempts))

    def heard(self) -> Heard | None:
        """What came; None if nothing could be heard."""
        if self._thread is None:
            return None
        return self._ledger.result(self._device.listen_port, self.seconds)

    def signs(self, after: Device) -> tuple[Sign, ...]:
        """What the rest of the wire tells."""
        heard = self.heard()
        return tuple(signs(self._device, after, heard)) if heard else ()


class _Glances:
    """Looks at the device again and again, in a thread of its own."""

    def __init__(self, name: str, host: Host) -> None:
        self._name, self._host = name, host
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.endpoints: dict[PublicKey, tuple[str, ...]] = {}
        self.handshakes: dict[PublicKey, int] = {}
        self._last: dict[PublicKey, float] = {}

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(_GLANCE):
            try:
                peers = self._host.wireguard.get(self._name).peers
            except OperationError:
                continue
            if len(peers) > _FEW:
                return
            for peer in peers:
                self._note(peer)

    def _note(self, peer: DevicePeer) -> None:
        key, seen = peer.public_key, self.endpoints.get(peer.public_key, ())
        if peer.endpoint and (not seen or seen[-1] != str(peer.endpoint)):
            self.endpoints[key] = (*seen, str(peer.endpoint))
        if key in self._last and peer.last_handshake > self._last[key]:
            self.handshakes[key] = self.handshakes.get(key, 0) + 1
        self._last[key] = peer.last_handshake
