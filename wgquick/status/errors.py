"""The last error of a peer, from the counters of wgq-userspace (wgquick.counters)."""

from __future__ import annotations

from os import strerror
from typing import TYPE_CHECKING

from wgquick.status.values import Error

if TYPE_CHECKING:
    from wgquick.counters import Event, Events

RECENT = 300.0
"""Seconds for which an error of data is shown. An error of a handshake is shown until the next handshake."""
_TRIES = 10.0
"""Seconds after an initiation during which the daemon is still trying: two attempts."""

_OF_HANDSHAKES = (
    "stale_timestamp",
    "response_undecryptable",
    "cookie_undecryptable",
    "handshake_given_up",
    "no_endpoint",
    "send_error",
    "icmp",
)
_OF_DATA = ("source_not_allowed", "undecryptable", "send_error", "icmp")


def last_error(events: Events, now: float, handshake_age: float | None) -> Error | None:
    """The newest error; `now` is seconds since 1970, `handshake_age` is None if there was no handshake yet."""
    limit = float("inf") if handshake_age is None else handshake_age
    found = [event for event in events.of(*_OF_HANDSHAKES) if event.age < limit]
    found += [event for event in events.of(*_OF_DATA) if event.age < RECENT and not event.is_automatic]
    if not found:
        return None
    newest = min(found, key=lambda event: event.age)
    return Error(newest.name.replace("_", "-"), _words(newest), round(now - newest.age, 3))


def is_being_tried(events: Events) -> bool:
    """Whether the daemon is trying to start a handshake with the peer."""
    sent = events.last("initiation_sent")
    return sent is not None and sent.age < _TRIES


def _words(event: Event) -> str:
    match event.name:
        case "stale_timestamp":
            return "its handshake is rejected as a replay: its clock went back"
        case "response_undecryptable":
            return "its answer cannot be decrypted: the preshared keys differ"
        case "cookie_undecryptable":
            return "its cookie cannot be decrypted"
        case "handshake_given_up":
            return "no answer to handshakes for 90 seconds"
        case "no_endpoint":
            return "packets for it are dropped, as it has no endpoint"
        case "send_error":
            return f"cannot send to {event.receiver}: {strerror(event.send_errno)}"
        case "icmp":
            meaning = event.icmp.replace("-", " ")
            return f"ICMP error from {event.router} about packets to {event.receiver}: {meaning}"
        case "source_not_allowed":
            return f"it sends from {event.source}, which is not in its AllowedIPs"
        case _:
            return "it sends data that cannot be decrypted"
