"""Decides from readings of a device which peers are up, and which endpoint names to look up again. Pure."""

from __future__ import annotations

from random import random
from typing import TYPE_CHECKING, NamedTuple

from wgquick.device import SESSION_AGE
from wgquick.upkeep.pace import Pauses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from wgquick.device import Device, DevicePeer
    from wgquick.net import Endpoint, PublicKey, SocketAddress

STALE = 135.0
"""Seconds after which a session is stale: one in use is renewed earlier (reresolve-dns.sh of wireguard-tools)."""
PATIENCE = 5.0
"""Seconds that a new peer without a handshake has before its name is looked up."""
_NEXT_ANSWER = 5.0
"""Seconds until the next address of a name is tried: WireGuard sends an initiation every five seconds."""
_LONGEST_WAIT = 30.0
"""Seconds between two readings of the device at most."""
_WAIT_FOR_HANDSHAKE = 10.0
"""The same if a peer without a session should have one."""
_SLACK = 0.1
_NEW_ADDRESS, _WAIT_FOR_ANSWER = 10.0, 1.0
"""For ten seconds after an address is set, the device is read each second."""


class Question(NamedTuple):
    """A name to look up for a peer."""

    peer: PublicKey
    endpoint: Endpoint


class _Known:
    """The remembered state of one peer. `due` and `tried` are CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self.is_up: bool | None = None
        self.handshake = -1.0
        self.happened = 0.0  # the handshake's time by the caller's clock
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
        """The changes since the last reading, as (peer-up or peer-down, public key).

        `clock` is the time in seconds since 1970 by a clock that is never set, here and below. Handshake times are
        by the system's clock, which is `ahead` seconds ahead of `clock`. `now` is CLOCK_MONOTONIC.
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
            is_up = self._age(peer, clock) < SESSION_AGE
            if known.is_up is not None and is_up != known.is_up:
                yield ("peer-up" if is_up else "peer-down"), peer.public_key
            known.is_up = is_up

    def questions(
        self, device: Device, names: Mapping[PublicKey, Endpoint], clock: float, now: float
    ) -> Iterator[Question]:
        """The names to look up now; `names` has the endpoints with a host name, by peer.

        A name is looked up if the session is stale and the peer is in use: it has a keepalive, packets were sent to
        it, or it never had a handshake. Then a pause follows.
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
        """The address to set; None if there are no answers or the current address is one of them.

        The next answer is tried after five seconds.
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
        """The next address for each peer that has no handshake with the one before."""
        for peer in device.peers:
            known = self._known.get(peer.public_key)
            if known is not None and known.answers and now >= known.due and self._age(peer, clock) >= STALE:
                address, known.tried = known.answers.pop(0), now
                known.due = now + (_NEXT_ANSWER if known.answers else known.pauses.next(self._chance()))
                yield peer.public_key, address

    def next_look(self, device: Device, names: Mapping[PublicKey, Endpoint], clock: float, now: float) -> float:
        """Seconds until the device must be read again."""
        wait = _LONGEST_WAIT
        for peer in device.peers:
            age, known = self._age(peer, clock), self._known.get(peer.public_key)
            if age < STALE:
                wait = min(wait, STALE - age + _SLACK)
            elif age < SESSION_AGE:
                wait = min(wait, SESSION_AGE - age + _SLACK)
            elif peer.persistent_keepalive or (known is not None and known.sends):
                wait = min(wait, _WAIT_FOR_HANDSHAKE)
            if known is not None and age >= STALE and now - known.tried < _NEW_ADDRESS:
                wait = min(wait, _WAIT_FOR_ANSWER)
            if known is not None and age >= STALE and peer.public_key in names and known.due > now:
                wait = min(wait, known.due - now + _SLACK)
        return wait

    def check_by(self, now: float) -> None:
        """Look up the names of stale peers at once, and start again with short pauses."""
        for known in self._known.values():
            known.pauses.reset()
            known.due = min(known.due, now)

    def wanted(self, device: Device) -> list[PublicKey]:
        """The peers with an endpoint that need a session: they have a keepalive, or packets were sent to them."""
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
