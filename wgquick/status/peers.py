"""The state of a peer, from one reading of the device or from several."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.device import Device, DevicePeer

SESSION = 180
"""Seconds after its handshake a session ends (REJECT_AFTER_TIME of the WireGuard protocol)."""
_UNANSWERED = 15
"""Seconds after which WireGuard takes unanswered data for a lost session (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT)."""
_EMPTY = 32
"""Bytes of a keepalive, which nobody answers."""


class Trend(NamedTuple):
    """What several readings tell of a peer; the rates are bytes a second, None after the first reading.

    `sends`: it was sent something since the reading before. `unanswered`: for 15 seconds it has been sent more than
    keepalives, and has sent nothing.
    """

    rx_rate: float | None = None
    tx_rate: float | None = None
    sends: bool = False
    unanswered: bool = False


UNKNOWN = Trend()


class _Mark(NamedTuple):
    """A peer's counters at a time."""

    time: float
    rx: int
    tx: int


class History:
    """Earlier readings: the last one, and the last one in which a peer had sent something."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, bytes], _Mark] = {}
        self._heard: dict[tuple[str, bytes], _Mark] = {}

    def trends(self, device: Device, now: float) -> dict[bytes, Trend]:
        """What this reading tells with those before; `now` is CLOCK_MONOTONIC. The reading is kept."""
        found = {}
        for peer in device.peers:
            key = (device.name, peer.public_key.raw)
            mark = _Mark(now, peer.rx_bytes, peer.tx_bytes)
            last = self._last.get(key)
            if last is None or last.rx != mark.rx or last.tx > mark.tx:
                self._heard[key] = mark
            found[peer.public_key.raw] = self._trend(peer, last, self._heard[key], mark)
            self._last[key] = mark
        return found

    def _trend(self, peer: DevicePeer, last: _Mark | None, heard: _Mark, mark: _Mark) -> Trend:
        if last is None or mark.time <= last.time or mark.rx < last.rx or mark.tx < last.tx:  # it was made anew
            return UNKNOWN
        span, silence = mark.time - last.time, mark.time - heard.time
        interval = peer.persistent_keepalive
        keepalives = _EMPTY * (int(silence / interval) + 1) if interval else 0
        return Trend(
            rx_rate=(mark.rx - last.rx) / span,
            tx_rate=(mark.tx - last.tx) / span,
            sends=mark.tx > last.tx,
            unanswered=silence >= _UNANSWERED and mark.tx - heard.tx > keepalives,
        )


def state(peer: DevicePeer, now: float, *, link_up: bool, trend: Trend = UNKNOWN) -> str:
    """One of STATES; `now` is the time of the reading in seconds since the epoch.

    A device does not say when it last tried. So one reading takes a peer that is to be kept alive, and has had no
    handshake for longer than a session lasts, for one that does not answer.
    """
    if not link_up or not peer.allowed_ips:
        return "disabled"
    kept_alive = bool(peer.persistent_keepalive and peer.endpoint)
    if not peer.last_handshake:
        return "connecting" if peer.tx_bytes or trend.sends or kept_alive else "never"
    if now - peer.last_handshake < SESSION:
        return "stale" if trend.unanswered else "up"
    return "stale" if kept_alive or trend.sends else "idle"
