"""Waits for handshakes and makes the device start them, without a packet inside the tunnel.

wgq-userspace starts a handshake on request. Other devices start one when they have to send a keepalive and have no
session, so persistent keepalive is turned on for a moment. While a session is young nothing makes them start
another handshake. In this case the existing session counts.
"""

from __future__ import annotations

import time

from wgquick.device import DeviceConfig, PeerConfig
from wgquick.errors import NoHandshakeError, WgqError
from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wgquick.device import Device, DevicePeer
    from wgquick.net import PublicKey, SocketAddress
    from wgquick.ports import WireGuard

PATIENCE = 15.0
"""Seconds, enough for three handshake attempts of WireGuard."""
_YOUNG = 120
"""Seconds between a handshake and the earliest rekey (REKEY_AFTER_TIME of the WireGuard protocol)."""
_KEEPALIVE = 25
_SHORTEST_PAUSE = 0.02
_ASK_AGAIN = 1.0
_TURN_ON_AGAIN = 30.0  # WireGuard gives up after 90 seconds
_AT_ONCE = 50
_NAMED = 3


class Awaited(NamedTuple):
    """The peers whose handshakes are awaited, and whether one is enough; `names` are used in messages."""

    peers: tuple[PublicKey, ...]
    one: bool
    names: Mapping[PublicKey, str] = {}


def chosen(name: str, peers: Mapping[PublicKey, bool], words: str, names: Mapping[str, str]) -> Awaited:
    """The peers for `words`: `any` or `all` peers with an endpoint, or keys and names separated by commas.

    `peers` maps each peer to whether it has an endpoint; `names` maps base64 keys to the file's names. WgqError if
    there is no such peer.
    """
    called = {key: named for key in peers if (named := names.get(str(key)))}
    if words in ("any", "all"):
        found = tuple(key for key, has_endpoint in peers.items() if has_endpoint)
        if not found:
            raise WgqError(
                "no peer has an endpoint, so this side cannot start a handshake",
                where=name,
                remedy=f"Name the peers that are to connect: `wgq wait --for PEER {name}',"
                f" or `wgq up --wait --wait-for PEER {name}'.",
            )
        return Awaited(found, words == "any", called)
    keys = tuple(dict.fromkeys(_peer(name, peers, word.strip(), called) for word in words.split(",")))
    return Awaited(keys, False, called)


def _peer(name: str, peers: Iterable[PublicKey], word: str, names: Mapping[PublicKey, str]) -> PublicKey:
    found = [key for key in peers if word and word in (str(key), names.get(key))]
    if len(found) == 1:
        return found[0]
    if found:
        raise WgqError(f"`{word}' is the name of {len(found)} peers", where=name, remedy="Write the public key.")
    known = ", ".join(sorted(set(names.values()))[:_NAMED])
    remedy = "Write any, all, a public key, or the name that a comment in the file gives the peer"
    raise WgqError(f"`{word}' is not a peer", where=name, remedy=f"{remedy} ({known})." if known else f"{remedy}.")


def handshakes(
    name: str, wireguard: WireGuard, awaited: Awaited, earlier: Device | None, *, timeout: float
) -> tuple[PublicKey, ...]:
    """Return the peers with a handshake since `earlier` was read (None: since the device exists).

    NoHandshakeError if the awaited handshakes do not happen within `timeout` seconds.
    """
    wait = Wait(name, wireguard, awaited, earlier)
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        device = wireguard.get(name)
        wait.look(device)
        if wait.is_over:
            return tuple(wait.done)
        if time.monotonic() >= deadline:
            raise wait.failure(device, timeout)
        if not wait.provoke(device):
            time.sleep(max(_SHORTEST_PAUSE, time.monotonic() - began))  # spend at most half of the time reading


class Wait:
    """One wait: the peers with a handshake so far, and the requests that make the device start handshakes."""

    def __init__(self, name: str, wireguard: WireGuard, awaited: Awaited, earlier: Device | None) -> None:
        self._name = name
        self._wireguard = wireguard
        self._awaited = awaited
        self._earlier = {peer.public_key: peer.last_handshake for peer in earlier.peers} if earlier else {}
        self._began = time.time()
        self._provoked = float("-inf")
        self._can_ask = True
        self.done: dict[PublicKey, None] = {}

    @property
    def is_over(self) -> bool:
        """Whether enough peers have had a handshake."""
        return bool(self.done) if self._awaited.one else len(self.done) == len(self._awaited.peers)

    def look(self, device: Device, *, young_counts: bool = True) -> None:
        """Record new handshakes. A changed time counts, earlier or later, as the clock may have been set.

        `young_counts`: a session that is too young for another handshake counts as well.
        """
        for peer in self._of(device):
            before = self._earlier.get(peer.public_key, 0.0)
            counts = young_counts and not self._can_ask and self._began - before < _YOUNG
            if peer.last_handshake and (peer.last_handshake != before or counts):
                self.done[peer.public_key] = None

    def _of(self, device: Device) -> list[DevicePeer]:
        return [peer for peer in device.peers if peer.public_key in self._awaited.peers]

    def provoke(self, device: Device) -> bool:
        """Make the device start handshakes if it is time; True if the device has to be read again at once."""
        now = time.monotonic()
        if now - self._provoked < (_ASK_AGAIN if self._can_ask else _TURN_ON_AGAIN):
            return False
        self._provoked = now
        silent = [peer for peer in self._of(device) if peer.endpoint and peer.public_key not in self.done]
        if self._can_ask and silent:
            self._can_ask = self._wireguard.begin_handshakes(self._name, [peer.public_key for peer in silent])
            if not self._can_ask:
                self._provoked = float("-inf")
                return True
        if not self._can_ask:
            _turn_keepalive_on(self._name, self._wireguard, silent)
        return False

    def failure(self, device: Device, timeout: float) -> NoHandshakeError:
        """The error that names the peers without a handshake."""
        endpoints = {peer.public_key: peer.endpoint for peer in device.peers}
        silent = [key for key in self._awaited.peers if key not in self.done]
        called = [_called(key, self._awaited.names, endpoints.get(key)) for key in silent[:_NAMED]]
        more = [f"{len(silent) - _NAMED} more"] if len(silent) > _NAMED else []
        *most, last = [*called, *more]
        who = f"{', '.join(most)} {'or' if self._awaited.one else 'and'} {last}" if most else last
        return NoHandshakeError(
            f"no handshake with {who} within {timeout:g} s",
            where=self._name,
            remedy=f"`wgq doctor {self._name}' looks for the reason.",
        )


def _called(key: PublicKey, names: Mapping[PublicKey, str], endpoint: SocketAddress | None) -> str:
    return names.get(key, str(key)) + (f" ({endpoint})" if endpoint else "")


def begin(name: str, wireguard: WireGuard, peers: Sequence[DevicePeer]) -> None:
    """Make the device start handshakes with these peers."""
    if not wireguard.begin_handshakes(name, [peer.public_key for peer in peers]):
        _turn_keepalive_on(name, wireguard, peers)


def _turn_keepalive_on(name: str, wireguard: WireGuard, peers: Sequence[DevicePeer]) -> None:
    """Turn persistent keepalive off, on, and back to its setting, so that a keepalive is sent at once.

    One request has all changes of a peer, so a killed run leaves the interval unchanged.
    """
    for at in range(0, len(peers), _AT_ONCE):
        changes = tuple(change for peer in peers[at : at + _AT_ONCE] for change in _keepalives(peer))
        wireguard.set(name, DeviceConfig(peers=changes))


def _keepalives(peer: DevicePeer) -> Iterable[PeerConfig]:
    interval = peer.persistent_keepalive
    for seconds in (0, interval) if interval else (_KEEPALIVE, 0):
        yield PeerConfig(peer.public_key, update_only=True, persistent_keepalive=seconds)
