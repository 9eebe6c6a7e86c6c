"""Signs in the counters of wgq-userspace, which knows what a capture can only infer."""

from __future__ import annotations

from errno import EACCES, EHOSTUNREACH, ENETDOWN, ENETUNREACH, EPERM
from os import strerror

from wgquick.datagram import TOO_BIG
from wgquick.diagnosis.finding import CERTAIN, CONFIDENCES, LIKELY, POSSIBLE
from wgquick.diagnosis.signatures import ICMP_ERRORS, Sign, number_of
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wgquick.counters import Diagnostics, Event, Events
    from wgquick.device import Device, DevicePeer
    from wgquick.net import PublicKey

RECENT = 180.0
"""Seconds after which an event is ignored as old. A device gives up a handshake after half of that time."""

_NO_ROUTE = frozenset({EHOSTUNREACH, ENETDOWN, ENETUNREACH})


def signs_of_counters(device: Device, counters: Diagnostics, now: float) -> list[Sign]:
    """The signs in the daemon's recent events. `now` is the time of both readings, in seconds since 1970.

    Events before a peer's last handshake are ignored.
    """
    found = [*_of_device(device, counters.device)]
    for peer in device.peers:
        found += _of_peer(peer, counters.peer(peer.public_key), now)
    return found


def merged(signs: Iterable[Sign], more: Iterable[Sign]) -> list[Sign]:
    """All signs. Of two with the same code, peer and key, only the one with more confidence stays."""
    found: dict[tuple[str, PublicKey | None, PublicKey | None], Sign] = {}
    for sign in (*signs, *more):
        same = (sign.code, sign.peer, sign.key)
        if same not in found or CONFIDENCES.index(sign.confidence) < CONFIDENCES.index(found[same].confidence):
            found[same] = sign
    return list(found.values())


def _of_device(device: Device, events: Events) -> Iterator[Sign]:
    peers = {peer.public_key for peer in device.peers}
    by_address = {peer.endpoint.address: peer.public_key for peer in device.peers if peer.endpoint}
    for event in events.of("unknown_key"):
        if event.static_key is not None and event.static_key not in peers and event.age < RECENT:
            facts = (f"{_occurrences(event, 'initiation')} with the key {event.static_key}, which no peer has",)
            yield Sign("knock-unknown-key", CERTAIN, None, event.sender, facts, event.static_key)
    for event in events.of("mac1_invalid")[:1]:
        if event.age < RECENT:
            peer = by_address.get(event.sender.address) if event.sender else None
            facts = (f"{_occurrences(event, 'handshake message')} for another public key than this interface's",)
            sure = LIKELY if peer or event.times > 1 else POSSIBLE
            yield Sign("knock-wrong-key", sure, peer, event.sender, facts)


def _of_peer(peer: DevicePeer, events: Events, now: float) -> Iterator[Sign]:
    key = peer.public_key
    since = min(RECENT, now - peer.last_handshake)
    refused = events.last("source_not_allowed")
    if refused is not None and refused.age < RECENT and refused.source and not refused.is_automatic:
        what = f"with a source that is not in its AllowedIPs, most recently {refused.source}"
        facts: tuple[str, ...] = (f"{_occurrences(refused, 'packet')} {what}",)
        yield Sign("source-not-allowed", CERTAIN, key, refused.sender, facts, source=refused.source)
    stale = events.last("stale_timestamp")
    if stale is not None and stale.age < since and stale.clock is not None:
        ahead = stale.clock - (now - stale.age)
        behind = (stale.newest or stale.clock) - stale.clock
        facts = (
            f"{_occurrences(stale, 'initiation')} rejected as replays",
            f"their timestamp is {behind} s older than that of an earlier handshake",
        )
        yield Sign("knock-stale-clock", CERTAIN, key, stale.sender, facts, seconds=ahead)
    wrong = events.last("response_undecryptable")
    if wrong is not None and wrong.age < since:
        facts = (f"{_occurrences(wrong, 'response')} that cannot be decrypted: the preshared keys differ",)
        yield Sign("answer-refused", CERTAIN, key, wrong.sender, facts)
    answered = events.last("response_sent")
    if answered is not None and answered.age < since and answered.times > 1 and not peer.last_handshake:
        facts = (f"{number_of(answered.times, 'response')} sent, but there never was a handshake",)
        yield Sign("answer-lost", LIKELY, key, answered.receiver or peer.endpoint, facts)
    missing = events.last("no_endpoint")
    if missing is not None and missing.age < since and peer.endpoint is None:
        facts = (f"{_occurrences(missing, 'packet')} for a peer without an endpoint",)
        yield Sign("endpoint-missing", CERTAIN, key, facts=facts)
    yield from _of_sending(peer, events, since)


def _of_sending(peer: DevicePeer, events: Events, since: float) -> Iterator[Sign]:
    """Errors of the kernel and of routers about packets to the peer."""
    for event in events.of("send_error"):
        code = "output-blocked" if event.send_errno in (EPERM, EACCES) else "endpoint-no-route"
        if event.age < since and (code == "output-blocked" or event.send_errno in _NO_ROUTE):
            facts = (f"sending to {event.receiver} fails: {strerror(event.send_errno)}",)
            yield Sign(code, CERTAIN, peer.public_key, event.receiver, facts)
    for event in events.of("icmp"):
        is_size = event.icmp == TOO_BIG
        if event.age < (RECENT if is_size else since) and event.icmp in ICMP_ERRORS:
            code, words, _ = ICMP_ERRORS[event.icmp]
            facts = (f"an ICMP error from {event.router} about packets to {event.receiver}: {words}",)
            yield Sign(
                code,
                LIKELY if is_size else CERTAIN,
                peer.public_key,
                event.receiver,
                facts,
                sender=event.router,
                meaning=event.icmp,
                mtu=event.mtu,
            )


def _occurrences(event: Event, what: str) -> str:
    sender = f" from {event.sender}" if event.sender else ""
    return f"{number_of(event.times, what)}{sender} (the last {event.age:.0f} s ago)"
