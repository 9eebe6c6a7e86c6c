"""The state of a peer, from one reading of the device or from several."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wgquick.device import SESSION_AGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wgquick.device import Device, DevicePeer

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


_Counters = tuple[int, int]
"""The bytes received from a peer and sent to it."""


class _Sample(NamedTuple):
    """A peer's counters at a time."""

    time: float
    counters: _Counters


class _Reading(NamedTuple):
    """The counters of a device's peers at a time.

    `last_received` maps each peer to the last sample in which it had received data.
    """

    time: float
    counters: dict[bytes, _Counters]
    last_received: dict[bytes, _Sample]


class History:
    """The last reading of each device."""

    def __init__(self) -> None:
        self._last: dict[str, _Reading] = {}

    def trends(self, device: Device, now: float) -> Mapping[bytes, Trend]:
        """The trends since the last reading, which this one replaces; `now` is CLOCK_MONOTONIC.

        A peer that the last reading does not have is missing.
        """
        counters = {peer.public_key.raw: (peer.rx_bytes, peer.tx_bytes) for peer in device.peers}
        earlier, last_received = self._last.get(device.name), dict[bytes, _Sample]()
        self._last[device.name] = _Reading(now, counters, last_received)
        if earlier is None:
            return {}
        found = {}
        for peer in device.peers:
            key = peer.public_key.raw
            if (before := earlier.counters.get(key)) is not None:
                last, latest = _Sample(earlier.time, before), _Sample(now, counters[key])
                has_received = last.counters[0] != latest.counters[0] or last.counters[1] > latest.counters[1]
                last_received[key] = latest if has_received else earlier.last_received.get(key, last)
                found[key] = _trend(peer, last, last_received[key], latest)
        return found


def _trend(peer: DevicePeer, last: _Sample, last_received: _Sample, latest: _Sample) -> Trend:
    (rx, tx), (last_rx, last_tx) = latest.counters, last.counters
    if latest.time <= last.time or rx < last_rx or tx < last_tx:  # the device was created again
        return UNKNOWN
    span, silence = latest.time - last.time, latest.time - last_received.time
    interval = peer.persistent_keepalive
    keepalives = _EMPTY * (int(silence / interval) + 1) if interval else 0
    return Trend(
        rx_rate=(rx - last_rx) / span,
        tx_rate=(tx - last_tx) / span,
        sends=tx > last_tx,
        unanswered=silence >= _UNANSWERED and tx - last_received.counters[1] > keepalives,
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
    if now - peer.last_handshake < SESSION_AGE:
        return "stale" if trend.unanswered else "up"
    return "stale" if kept_alive or trend.sends else "idle"
