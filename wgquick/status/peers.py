"""The state of a peer, from one reading of the device or from several."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.device import Device, DevicePeer

SESSION = 180
"""Seconds after its handshake at which a session expires (REJECT_AFTER_TIME of the WireGuard protocol)."""
_UNANSWERED = 15
"""Seconds after which WireGuard treats unanswered data as a lost session (KEEPALIVE_TIMEOUT + REKEY_TIMEOUT)."""
_EMPTY = 32
"""The bytes of a keepalive, which is never answered."""


class Trend(NamedTuple):
    """What several readings show about a peer. The rates are bytes per second, None after the first reading.

    `sends` is true if packets were sent to the peer since the previous reading. `unanswered` is true if data was
    sent to it for 15 seconds and nothing came back.
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
    """Earlier readings: for each peer the last one, and the last one with received data."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, bytes], _Mark] = {}
        self._heard: dict[tuple[str, bytes], _Mark] = {}

    def trends(self, device: Device, now: float) -> dict[bytes, Trend]:
        """The trends from this reading and earlier ones; `now` is CLOCK_MONOTONIC. The reading is kept."""
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
        if (
            last is None or mark.time <= last.time or mark.rx < last.rx or mark.tx < last.tx
        ):  # the device was created again
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
    """One of STATES; `now` is the time of the reading in seconds since 1970.

    A device does not report its last attempt. So with one reading, a peer with PersistentKeepalive and an endpoint
    but without a session counts as one that does not answer.
    """
    if not link_up or not peer.allowed_ips:
        return "disabled"
    kept_alive = bool(peer.persistent_keepalive and peer.endpoint)
    if not peer.last_handshake:
        return "connecting" if peer.tx_bytes or trend.sends or kept_alive else "never"
    if now - peer.last_handshake < SESSION:
        return "stale" if trend.unanswered else "up"
    return "stale" if kept_alive or trend.sends else "idle"
