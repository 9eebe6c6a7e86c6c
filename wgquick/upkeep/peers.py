"""Decides from readings of a device who is up, and whose endpoint's name is to be looked up again. Pure."""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING, NamedTuple

from wgquick.upkeep.pace import Pauses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from wgquick.device import Device, DevicePeer
    from wgquick.net import Endpoint, PublicKey, SocketAddress

SESSION = 180.0
"""Seconds after its handshake a session ends (REJECT_AFTER_TIME): the peer is down."""
STALE = 135.0
"""Seconds after which a session in use would have been renewed (as reresolve-dns.sh of wireguard-tools has it)."""
PATIENCE = 5.0
"""Seconds that a peer without a handshake has from when it is first seen."""
_NEXT_ANSWER = 5.0
"""Seconds that an address has to prove itself: WireGuard tries every five."""
_SELDOM, _OFTEN = 30.0, 10.0
_SLACK = 0.1
_HOPE, _HOPEFUL = 10.0, 1.0  # after an address was set, a device is read each second for so long


class Question(NamedTuple):
    """A name to look up for a peer."""

    peer: PublicKey
    endpoint: Endpoint


class _Known:
    """What is remembered of one peer. Times are CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self.is_up: bool | None = None
        self.handshake = -1.0
        self.happened = 0.0  # when that was, by the caller's clock
        self.tx = 0
        self.sends = False
        self.due = 0.0
        self.pauses = Pauses()
        self.answers: list[SocketAddress] = []
        self.tried = float("-inf")


class Peers:
    """The peers of one interface over several readings."""

    def __init__(self, patience: float = PATIENCE, chance: Callable[[], float] = random) -> None:
        self._known: dict[PublicKey, _Known] = {}
        self._patience = patience
        self._chance = chance

    def changes(
        self, device: Device, clock: float, now: float, ahead: float = 0.0
    ) -> Iterator[tuple[str, PublicKey]]:
        """peer-up and peer-down since the last reading.

        `clock` is the time since the epoch by a clock that nobody sets, here and below; handshakes have the times
        of the system's clock, which is `ahead` of it by so many seconds now.
        """
        here = {peer.public_key for peer in device.peers}
        self._known = {key: known for key, known in self._known.items() if key in here}
        for peer in device.peers:
            known = self._known.setdefault(peer.public_key, _Known())
            if peer.last_handshake != known.handshake:
                if known.handshake >= 0:
                    known.pauses.reset()
                    known.answers.clear()
                known.handshake, known.sends = peer.last_handshake, False
                known.happened = peer.last_handshake - ahead
                known.due = now if peer.last_handshake else now + self._patience
            elif peer.tx_bytes > known.tx:
                known.sends = True
            known.tx = peer.tx_bytes
            is_up = self._age(peer, clock) < SESSION
            if known.is_up is not None and is_up != known.is_up:
                yield ("peer-up" if is_up else "peer-down"), peer.public_key
            known.is_up = is_up

    def questions(
        self, device: Device, names: Mapping[PublicKey, Endpoint], clock: float, now: float
    ) -> Iterator[Question]:
        """The names to look up now; `names` are those of the endpoints that are not numeric, by peer.

        A peer is asked about if its session is stale and it is wanted: it is kept alive, has something to send, or
        has never shaken hands. The next time comes after a pause.
        """
        for peer in device.peers:
            known, endpoint = self._known.get(peer.public_key), names.get(peer.public_key)
            if known is None or endpoint is None or now < known.due or self._age(peer, clock) < STALE:
                continue
            if peer.last_handshake and not (peer.persistent_keepalive or known.sends):
                continue
            known.due = now + known.pauses.next(self._chance())
            yield Question(peer.public_key, endpoint)

    def choice(
        self, peer: PublicKey, current: SocketAddress | None, answers: Iterable[SocketAddress], now: float
    ) -> SocketAddress | None:
        """The address to set; None leaves the peer alone, as where its address is among the answers.

        Of several the next is tried after five seconds.
        """
        found, known = list(dict.fromkeys(answers)), self._known.get(peer)
        if known is None or not found:
            return None
        if current in found:
            return None
        known.answers, known.tried = found[1:], now
        if known.answers:
            known.due = now + _NEXT_ANSWER
        return found[0]

    def second(self, device: Device, clock: float, now: float) -> Iterator[tuple[PublicKey, SocketAddress]]:
        """The next answers for peers that the one before has not helped."""
        for peer in device.peers:
            known = self._known.get(peer.public_key)
            if known is not None and known.answers and now >= known.due and self._age(peer, clock) >= STALE:
                address, known.tried = known.answers.pop(0), now
                known.due = now + (_NEXT_ANSWER if known.answers else known.pauses.next(self._chance()))
                yield peer.public_key, address

    def next_look(self, device: Device, names: Mapping[PublicKey, Endpoint], clock: float, now: float) -> float:
        """Seconds until the device is to be read again."""
        wait = _SELDOM
        for peer in device.peers:
            age, known = self._age(peer, clock), self._known.get(peer.public_key)
            if age < STALE:
                wait = min(wait, STALE - age + _SLACK)
            elif age < SESSION:
                wait = min(wait, SESSION - age + _SLACK)
            elif peer.persistent_keepalive or (known is not None and known.sends):
                wait = min(wait, _OFTEN)
            if known is not None and age >= STALE and now - known.tried < _HOPE:
                wait = min(wait, _HOPEFUL)
            if known is not None and age >= STALE and peer.public_key in names and known.due > now:
                wait = min(wait, known.due - now + _SLACK)
        return wait

    def hurry(self, now: float) -> None:
        """Have the names of stale peers looked up at once, and after short pauses again."""
        for known in self._known.values():
            known.pauses.reset()
            known.due = min(known.due, now)

    def wanted(self, device: Device) -> list[PublicKey]:
        """The peers with an endpoint that are to have a session: they are kept alive, or were sent something."""
        sends = {key for key, known in self._known.items() if known.sends}
        return [
            peer.public_key
            for peer in device.peers
            if peer.endpoint and (peer.persistent_keepalive or peer.public_key in sends)
        ]

    def _age(self, peer: DevicePeer, clock: float) -> float:
        """Seconds since the last handshake."""
        known = self._known.get(peer.public_key)
        if not peer.last_handshake or known is None:
            return float("inf")
        return max(0.0, clock - known.happened)
