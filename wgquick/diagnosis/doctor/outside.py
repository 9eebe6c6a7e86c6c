"""What is wrong on the way out: from the device to the peer's endpoint, and back to the device."""

from __future__ import annotations

import errno
from os import strerror

from wgquick.diagnosis import nets
from wgquick.diagnosis.doctor.cause import LIKELY, POSSIBLE
from wgquick.diagnosis.doctor.evidence import FRESH, dials
from wgquick.diagnosis.doctor.here import cause, unresolved
from wgquick.lean import TYPE_CHECKING
from wgquick.net import pack_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.config.settings import PeerSettings
    from wgquick.device import DevicePeer
    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.evidence import Evidence, Outside, Watched
    from wgquick.net import Endpoint, PublicKey, SocketAddress

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENETDOWN})


def causes(evidence: Evidence) -> Iterator[Cause]:
    """All that is found on the way out."""
    if not evidence.is_up:
        return
    has_file = evidence.settings is not None
    for key, peer in evidence.live.items():
        wanted = evidence.wanted.get(key)
        if not dials(peer, wanted, has_file=has_file):
            continue
        yield from _endpoint(evidence, key, peer, wanted)
        if key in evidence.outside:
            yield from _way(evidence, key, peer, evidence.outside[key])
        if key in evidence.watched and not _works(evidence.watched[key], evidence.now):
            yield from _silence(evidence, key, evidence.watched[key])


def _works(watched: Watched, now: float) -> bool:
    """Whether the peer was heard of: it answered, or sent something."""
    return watched.answers or watched.received > 0 or watched.has_new_handshake


def _endpoint(evidence: Evidence, key: PublicKey, peer: DevicePeer, wanted: PeerSettings | None) -> Iterator[Cause]:
    given = wanted.endpoint if wanted else None
    if peer.endpoint is None and given is not None:
        message = f"the device has no endpoint for this peer, the file says {given}"
        remedy = f"wg set {evidence.name} peer {key} endpoint {given}"
        yield cause("endpoint-missing", message, remedy=remedy, peer=key)
    if given is None:
        return
    watched = evidence.watched.get(key)
    if watched is not None and _works(watched, evidence.now):
        return
    if nets.literal(given.host) is None:
        found = evidence.resolved.get(given, ())
        if found is None:
            if not _is_fresh(peer, evidence.now):
                yield unresolved(given, key)
            return
        now = {address.address for address in found}
        if found and peer.endpoint is not None and peer.endpoint.address not in now:
            facts = (f"the device sends to {peer.endpoint}", f"{given.host} is {', '.join(sorted(now))} now")
            message = f"the address of {given.host} has changed since the tunnel was brought up"
            remedy = f"wg set {evidence.name} peer {key} endpoint {given}"
            yield cause("endpoint-moved", message, *facts, remedy=remedy, peer=key)
    elif peer.endpoint is not None and _differs(peer.endpoint, given):
        facts = (f"the device sends to {peer.endpoint}", f"the file says {given}")
        message = "the device sends to another endpoint than the file's, and nobody answers there"
        remedy = f"wg set {evidence.name} peer {key} endpoint {given}"
        yield cause("endpoint-moved", message, *facts, remedy=remedy, peer=key, confidence=LIKELY)


def _differs(live: SocketAddress, given: Endpoint) -> bool:
    """Whether a literal endpoint is another one; a service's name is no port to compare."""
    address = nets.literal(given.host)
    same_port = not given.port.isdecimal() or int(given.port) == live.port
    return address != pack_address(live.address) or not same_port


def _is_fresh(peer: DevicePeer, now: float) -> bool:
    return now - peer.last_handshake < FRESH


def _way(evidence: Evidence, key: PublicKey, peer: DevicePeer, outside: Outside) -> Iterator[Cause]:
    name, end, way = evidence.name, peer.endpoint, outside.way
    if end is None:
        return
    mark = f" mark {hex(evidence.fwmark)}" if evidence.fwmark else ""
    asked = f"`ip route get {end.address}{mark}'"
    if way is not None and (way.errno or way.kind in ("blackhole", "unreachable", "prohibit")):
        said = strerror(way.errno) if way.errno else f"{way.kind} {way.destination}"
        remedy = "give the host a route to it (a default route, an address of that family), or use another endpoint"
        yield cause(
            "endpoint-no-route",
            f"no route leads to the endpoint {end}",
            f"{asked}: {said}",
            remedy=remedy,
            peer=key,
        )
    elif way is not None and way.link == name:
        facts = (f"{asked}: dev {name}, by the route {way.destination}",)
        message = f"what is sent to the endpoint {end} is routed into {name} itself: a loop"
        remedy = f"take {end.address} out of AllowedIPs, or give it a route outside of the tunnel"
        yield cause("endpoint-in-tunnel", message, *facts, remedy=remedy, peer=key)
    elif outside.sent == errno.EPERM:
        message = f"this host's own firewall drops what is sent to the endpoint {end}"
        remedy = f"let UDP to {end} out: look at the output chains of `nft list ruleset' and iptables"
        yield cause("output-blocked", message, "sending fails: Operation not permitted", remedy=remedy, peer=key)
    elif outside.sent is not None and outside.sent in _NO_ROUTE:
        message = f"nothing can be sent to the endpoint {end}: {strerror(outside.sent)}"
        yield cause("endpoint-no-route", message, remedy="give the host a route to it", peer=key)


def _silence(evidence: Evidence, key: PublicKey, watched: Watched) -> Iterator[Cause]:
    """Nothing at all comes from the peer."""
    end = watched.after.endpoint
    if end is None or not watched.sent:
        return
    seconds = evidence.now - watched.after.last_handshake
    last = (
        f"the last handshake was {int(seconds)} s ago" if watched.after.last_handshake else "there was no handshake"
    )
    facts = (last, f"{watched.sent} bytes went out meanwhile, and {watched.received} came in")
    message = (
        f"nobody answers at {end}: a firewall on the way or there drops UDP to port {end.port}, the other end is "
        "off, has another port or key, or does not know this end's key"
    )
    remedy = f"compare the keys: this end's is {evidence.own_key}, and it expects {key}"
    yield cause("no-answer", message, *facts, remedy=remedy, peer=key, confidence=POSSIBLE, other_end="wgq doctor")
