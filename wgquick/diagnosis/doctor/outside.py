"""What is wrong on the way out: from the device to the peer's endpoint, and back to the device."""

from __future__ import annotations

import errno
from os import strerror

from wgquick.diagnosis import nets
from wgquick.diagnosis.doctor.cause import LIKELY, POSSIBLE
from wgquick.diagnosis.doctor.evidence import FRESH, dials
from wgquick.diagnosis.doctor.fate import by, fate
from wgquick.diagnosis.doctor.here import cause, unresolved
from wgquick.diagnosis.doctor.inside import rp_filter
from wgquick.diagnosis.doctor.packet import ARRIVING, LEAVING, Packet
from wgquick.lean import TYPE_CHECKING
from wgquick.net import pack_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wgquick.config.settings import PeerSettings
    from wgquick.device import DevicePeer
    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.evidence import Evidence, Outside, Shake, Watched
    from wgquick.net import Endpoint, PublicKey, SocketAddress

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENETDOWN})


def causes(evidence: Evidence) -> Iterator[Cause]:
    """All that is found on the way out."""
    if not evidence.is_up:
        return
    has_file = evidence.settings is not None
    every = evidence.wanted  # which is joined anew each time that it is asked for
    yield from _closed_port(evidence, every, has_file=has_file)
    for key, peer in evidence.live.items():
        wanted = every.get(key)
        if not dials(peer, wanted, has_file=has_file):
            continue
        watched = evidence.watched.get(key)
        works = watched is not None and _works(watched)
        if evidence.is_moved:
            yield from () if works or peer.endpoint is None else (_elsewhere(evidence, key, peer.endpoint),)
            continue
        yield from _endpoint(evidence, key, peer, wanted)
        if key in evidence.outside and not works:
            yield from _way(evidence, key, peer, evidence.outside[key])
        if watched is not None:
            yield from _silence(evidence, key, watched)


def _elsewhere(evidence: Evidence, key: PublicKey, end: SocketAddress) -> Cause:
    """A silent peer of a link that was moved from where its socket is."""
    message = (
        f"nobody answers at {end}; {evidence.name} was moved here from another network namespace, through which "
        "its encrypted packets pass"
    )
    remedy = "look there: is there a way to the endpoint, and does a firewall let it through?"
    return cause("no-answer", message, remedy=remedy, peer=key, confidence=POSSIBLE, other_end="wgq doctor")


def _closed_port(
    evidence: Evidence, wanted: Mapping[PublicKey, PeerSettings], *, has_file: bool
) -> Iterator[Cause]:
    """This host's firewall keeps out those peers that have to begin."""
    callers = [
        (key, peer)
        for key, peer in evidence.live.items()
        if not dials(peer, wanted.get(key), has_file=has_file)
        and not (key in evidence.watched and evidence.watched[key].answers)
    ]
    port = evidence.device.listen_port if evidence.device else 0
    if not callers or not port or not evidence.uplink:
        return
    packet = Packet(4, evidence.uplink, protocol="udp", destination_port=port)
    found = fate(evidence.rulesets, packet, ARRIVING)
    if found.is_dropped and found.is_certain:
        message = f"this host's own firewall drops what comes to UDP port {port}, by {found.where}"
        facts = (f"{len(callers)} peer(s) have to begin, as no Endpoint of theirs is known",)
        remedy = f"let UDP to port {port} in, before that"
        key = callers[0][0] if len(callers) == 1 else None
        yield cause("input-blocked", message, *facts, remedy=remedy, peer=key, confidence=LIKELY)


def _works(watched: Watched) -> bool:
    """Whether something came out of the tunnel from the peer."""
    return watched.answers or watched.has_data


def _endpoint(evidence: Evidence, key: PublicKey, peer: DevicePeer, wanted: PeerSettings | None) -> Iterator[Cause]:
    given = wanted.endpoint if wanted else None
    if peer.endpoint is None and given is not None:
        message = f"the device has no endpoint for this peer, the file says {given}"
        remedy = f"wg set {evidence.name} peer {key} endpoint {given}"
        yield cause("endpoint-missing", message, remedy=remedy, peer=key)
    if given is None:
        return
    watched = evidence.watched.get(key)
    if watched is not None and _works(watched):
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
        out = way.link if way else ""
        port = evidence.device.listen_port if evidence.device else 0
        packet = Packet(end.family, "", out, "", end.address, "udp", port, end.port, mark=evidence.fwmark)
        where = by(evidence.rulesets, packet, LEAVING)
        message = f"this host's own firewall drops what is sent to the endpoint {end}{where}"
        remedy = f"let UDP to {end} out: look at the output chains of `nft list ruleset' and iptables"
        yield cause("output-blocked", message, "sending fails: Operation not permitted", remedy=remedy, peer=key)
    elif outside.sent is not None and outside.sent in _NO_ROUTE:
        message = f"nothing can be sent to the endpoint {end}: {strerror(outside.sent)}"
        yield cause("endpoint-no-route", message, remedy="give the host a route to it", peer=key)


def _silence(evidence: Evidence, key: PublicKey, watched: Watched) -> Iterator[Cause]:
    """Nothing comes out of the tunnel from this peer: what its handshake says."""
    end, shake = watched.after.endpoint, watched.shake
    if end is None or shake is None:
        return
    if shake.outcome == "refused":
        fact = "a response to this end's initiation does not decrypt"
        message = f"{end} answers, and the answer is not accepted: the preshared keys differ"
        yield cause("answer-refused", message, fact, remedy="write the same PresharedKey at both ends", peer=key)
    elif _works(watched):
        return
    elif shake.outcome == "cookie":
        message = f"{end} is under load and answers with cookies alone"
        yield cause("peer-busy", message, remedy="try again later; see what floods it", peer=key)
    elif shake.outcome == "answered" and not shake.was_admitted:
        yield _not_admitted(evidence, key, end, shake)
    elif not shake.outcome and shake.tries and not evidence.outside[key].sent:
        yield _no_answer(evidence, key, end, watched)


def _not_admitted(evidence: Evidence, key: PublicKey, end: SocketAddress, shake: Shake) -> Cause:
    """Answers come in on a link and never get to a socket."""
    outside = evidence.outside.get(key)
    back = outside.back.link if outside and outside.back else ""
    port = evidence.device.listen_port if evidence.device else 0
    fact = f"answers of {end} come in on {shake.link}, and do not get to UDP port {port}"
    if end.family == 4 and back != shake.link and rp_filter(evidence, shake.link):
        message = f"the reverse path filter drops the answers of {end}: they come in on {shake.link}"
        facts = (fact, f"the route back to it leads to {back or 'nowhere'}", "rp_filter is 1 (strict)")
        remedy = f"sysctl net.ipv4.conf.{shake.link}.rp_filter=2 (and net.ipv4.conf.all.rp_filter)"
        return cause("rp-filter", message, *facts, remedy=remedy, peer=key)
    packet = Packet(end.family, shake.link, "", end.address, "", "udp", end.port, port, "established")
    where = by(evidence.rulesets, packet, ARRIVING)
    message = f"this host's own firewall drops the answers of {end}{where}"
    return cause("input-blocked", message, fact, remedy=f"let UDP to port {port} in", peer=key)


def _no_answer(evidence: Evidence, key: PublicKey, end: SocketAddress, watched: Watched) -> Cause:
    shake = watched.shake
    tries = shake.tries if shake else 0
    age = evidence.now - watched.after.last_handshake
    last = (
        f"the last handshake was {int(age)} s ago"
        if watched.after.last_handshake
        else "there never was a handshake"
    )
    facts = (
        f"{tries} initiations left for {end}, and neither an answer nor an ICMP error came back",
        last,
        "excluded: this end's route, its own firewall, its port, and what of its keys can be compared here",
    )
    message = (
        f"nobody answers at {end}. What is left: a firewall on the way or there drops UDP to port {end.port}; the "
        "other end is off; it has another private key than this end expects; or it does not know this end's key"
    )
    remedy = f"there, the interface's public key must be {key}, and a peer's {evidence.own_key}"
    return cause(
        "no-answer", message, *facts, remedy=remedy, peer=key, confidence=LIKELY, other_end="wgq doctor --listen 30"
    )
