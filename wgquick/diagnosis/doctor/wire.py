"""Causes from a capture and the daemon's counters: rejected handshakes, local firewalls, ICMP errors."""

from __future__ import annotations

from wgquick.device import SESSION_AGE
from wgquick.diagnosis.counter_signs import RECENT
from wgquick.diagnosis.doctor.comparison import cause, other_preshared_key, two_hosts
from wgquick.diagnosis.doctor.evidence import dials
from wgquick.diagnosis.doctor.firewall_verdict import by, firewall_verdict
from wgquick.diagnosis.doctor.outside import other_addresses
from wgquick.diagnosis.doctor.packet import ARRIVING, LEAVING, Packet
from wgquick.diagnosis.finding import CERTAIN, ERROR, INFO, LIKELY, POSSIBLE, WARNING
from wgquick.diagnosis.senders import KNOWN, UNREAD
from wgquick.diagnosis.signatures import ICMP_ERRORS
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.evidence import Evidence
    from wgquick.diagnosis.senders import Sender
    from wgquick.diagnosis.signatures import Sign


_FEW = 3  # data messages that may belong to an earlier session


def causes(evidence: Evidence) -> Iterator[Cause]:
    """The causes for the signs of the evidence."""
    for sign in evidence.signs:
        made = _MEANINGS.get(sign.code)
        if sign.code in _ON_THE_WAY and not _should_be_reachable(evidence, sign):
            continue
        if made is not None and (found := made(evidence, sign)) is not None:
            yield found
    yield from _dropped_data(evidence)
    if evidence.listen:
        yield from _listened(evidence)


def _dropped_data(evidence: Evidence) -> Iterator[Cause]:
    """Data of a session arrives on a link, a rule drops it, and the device receives nothing."""
    ends = {(each.endpoint.address, each.endpoint.port): each for each in evidence.peers if each.endpoint}
    before, after = evidence.link, evidence.link_after
    refused = (
        before and after and after.rx_frame_errors > before.rx_frame_errors
    )  # the kernel's does not count these
    for sender in evidence.heard.senders if evidence.heard else ():
        source = sender.source
        peer = ends.get((source.address, source.port))
        watched = evidence.watched.get(peer.public_key) if peer else None
        if sender.kind != "data" or peer is None or watched is None or watched.received:
            continue
        port = evidence.listen_port
        packet = Packet(source.family, sender.link, "", source.address, "", "udp", source.port, port, "established")
        found = firewall_verdict(evidence.rulesets, packet, ARRIVING)
        is_known = found.is_dropped and found.is_certain
        has_session = evidence.now - watched.before.last_handshake < SESSION_AGE and sender.times > _FEW
        may_drop = bool(found.is_dropped or found.suspect)
        if is_known or (has_session and may_drop and not refused):
            where = by(evidence.rulesets, packet, ARRIVING)
            message = f"this host's firewall drops packets from {source} to UDP port {port}{where}"
            sure = CERTAIN if is_known else LIKELY
            fact = f"{sender.times} data messages arrived on {sender.link}, and {evidence.name} got none"
            remedy = f"accept UDP to port {port} in an earlier rule"
            yield cause("input-blocked", message, fact, remedy=remedy, peer=peer.public_key, confidence=sure)


def _listened(evidence: Evidence) -> Iterator[Cause]:
    """With --listen: the received messages, even if nothing is wrong."""
    port, heard, name = evidence.listen_port, evidence.heard, evidence.name
    if not port:
        message = f"there is no port to listen on: {name} is not up, and its file has no ListenPort"
        yield cause("knock-none", message, remedy=f"add ListenPort to the file, or run `wgq up {name}'")
        return
    yield from _senders(evidence, heard.senders if heard else ())
    if heard is not None and not heard.senders:
        message = f"nothing arrived at UDP port {port} in {evidence.listened:.0f} s"
        remedy = (
            f"at the other end, Endpoint must be this host's address and port {port}; routers and firewalls on the "
            f"way must forward UDP port {port} to this host"
        )
        yield cause("knock-none", message, remedy=remedy)


def _senders(evidence: Evidence, senders: Iterable[Sender]) -> Iterator[Cause]:
    """The peers that send handshakes, and those that send data in a session."""
    ends = {(each.endpoint.address, each.endpoint.port): each for each in evidence.peers if each.endpoint}
    for sender in senders:
        times = f"{sender.times} messages ({sender.kind}) in {evidence.listened:.0f} s"
        if sender.kind == "initiation" and sender.verdict in (KNOWN, UNREAD) and sender.admitted:
            key = "with this peer's key" if sender.key else "(reading their key needs the private key)"
            message = f"{sender.source} sends handshakes to UDP port {evidence.listen_port} {key}"
            yield cause("knock-known", message, f"{times}, {sender.answered} answered", peer=sender.key)
        elif sender.kind in ("data", "keepalive"):
            peer = ends.get((sender.source.address, sender.source.port))
            if peer is not None:
                message = f"{sender.source} sends data to UDP port {evidence.listen_port} in a session"
                yield cause("knock-known", message, times, peer=peer.public_key)


_ON_THE_WAY = frozenset({"endpoint-refuses", "endpoint-unreachable", "output-blocked"})


def _should_be_reachable(evidence: Evidence, sign: Sign) -> bool:
    """Whether a peer should be reachable and is not. A client that has left is not an error."""
    live = evidence.live.get(sign.peer) if sign.peer else None
    if live is None:
        return True
    watched = evidence.watched.get(live.public_key)
    wanted = evidence.wanted.get(live.public_key)
    return dials(live, wanted, has_file=evidence.settings is not None) and not (watched and watched.answers)


def _cause(sign: Sign, code: str, message: str, remedy: str, **more: str) -> Cause:
    return cause(code, message, *sign.facts, remedy=remedy, peer=sign.peer, confidence=sign.confidence, **more)


def _unknown_key(evidence: Evidence, sign: Sign) -> Cause:
    never = [peer for peer in evidence.peers if not peer.last_handshake]
    message = f"{sign.address} sends handshakes with the key {sign.key}, which no peer of {evidence.name} has"
    remedy = f"add a [Peer] with PublicKey = {sign.key}, or correct the PublicKey of the peer that has it"
    return _cause(sign, "knock-unknown-key", message, remedy, severity=ERROR if never else WARNING)


def _wrong_key(evidence: Evidence, sign: Sign) -> Cause:
    own = evidence.own_key or evidence.file_key
    which = f"the public key {sign.key}" if sign.key else "another public key"
    message = f"{sign.address} sends handshakes for {which}, but this interface's is {own}"
    return _cause(sign, "knock-wrong-key", message, f"at the other end, write PublicKey = {own}")


def _stale(_: Evidence, sign: Sign) -> Cause:
    message = f"handshakes from {sign.address} are rejected as replays: its clock is {_behind(sign.seconds)}"
    return _cause(sign, "knock-stale-clock", message, "set the clock at the other end")


def _behind(seconds: float, other: str = "this host's") -> str:
    return f"{abs(seconds):.0f} s {'behind' if seconds < 0 else 'ahead of'} {other}"


def _input(evidence: Evidence, sign: Sign) -> Cause:
    port, where = evidence.listen_port, ""
    if sign.address is not None:
        end = sign.address
        packet = Packet(end.family, evidence.uplink, "", end.address, "", "udp", end.port, port)
        where = by(evidence.rulesets, packet, ARRIVING)
    message = (
        f"this host drops packets from {sign.address} to UDP port {port}, before {evidence.name} gets them{where}"
    )
    remedy = f"accept UDP to port {port} in the input chains: see `nft list ruleset' and `iptables -S INPUT'"
    return _cause(sign, "input-blocked", message, remedy)


def _refused(_: Evidence, sign: Sign) -> Cause:
    return other_preshared_key(sign.address, sign.peer, *sign.facts, confidence=sign.confidence)


def _answers_leave_elsewhere(evidence: Evidence, sign: Sign) -> Cause | None:
    """Answers that leave through another link than the one that the handshakes arrive on."""
    address = sign.address.address if sign.address else ""
    way = evidence.ways_back.get(address)
    senders = evidence.heard.senders if evidence.heard else ()
    link = next((each.link for each in senders if each.source.address == address and each.link), "")
    if way is not None and link and way.link not in ("", link):
        message = f"handshakes from {sign.address} arrive on {link}, and the answers leave through {way.link}"
        remedy = f"let answers leave through {link}: add a route to {address}, or a rule for {link}'s own address"
        return _cause(sign, "route-shadowed", message, remedy)
    return None


def _answers_lost(evidence: Evidence, sign: Sign) -> Cause:
    if (found := _answers_leave_elsewhere(evidence, sign)) is not None:
        return found
    message = (
        f"{sign.address} repeats its handshake although {evidence.name} answers: the preshared keys differ, or the "
        "answers do not arrive"
    )
    remedy = "write the same PresharedKey at both ends, or allow UDP at the other end"
    return _cause(sign, "answer-refused", message, remedy, other_end="wgq doctor")


def _closed(evidence: Evidence, sign: Sign) -> Cause:
    message = f"the port of {sign.address} is closed: WireGuard is not up there, or has another ListenPort"
    remedy = (
        "bring the tunnel up at the other end, or write its ListenPort into Endpoint here; if that address is a "
        "router's, forward the UDP port to the other end"
    )
    if sign.sender and sign.address and sign.sender != sign.address.address:
        message = f"{sign.sender}, a router or firewall on the way, reports the port of {sign.address} as closed"
        remedy = (
            f"allow UDP to port {sign.address.port} there, or use a ListenPort and Endpoint port that it allows"
        )
    return _with_others(evidence, sign, _cause(sign, "endpoint-refuses", message, remedy, other_end="wgq doctor"))


def _with_others(evidence: Evidence, sign: Sign, found: Cause) -> Cause:
    """With the other addresses of the endpoint's name."""
    return found._replace(evidence=(*found.evidence, *other_addresses(evidence, sign.peer, sign.address)))


def _unreachable(evidence: Evidence, sign: Sign) -> Cause:
    _, _, words = ICMP_ERRORS[sign.meaning]
    message = f"{sign.sender} reports that {sign.address} is {words}"
    remedy = "correct the Endpoint, or the route or firewall on the way to it"
    return _with_others(evidence, sign, _cause(sign, "endpoint-unreachable", message, remedy))


def _output(evidence: Evidence, sign: Sign) -> Cause:
    where = ""
    if sign.address is not None:
        end = sign.address
        port = evidence.listen_port
        out = next((each.way.link for each in evidence.outside.values() if each.way), evidence.uplink)
        packet = Packet(end.family, "", out, "", end.address, "udp", port, end.port, mark=evidence.fwmark)
        where = by(evidence.rulesets, packet, LEAVING)
    message = f"this host's firewall rejects packets to {sign.address}{where}"
    remedy = f"allow UDP to {sign.address} in the output chains: see `nft list ruleset' and `iptables -S OUTPUT'"
    return _cause(sign, "output-blocked", message, remedy)


def _too_big(evidence: Evidence, sign: Sign) -> Cause | None:
    """A router reports that packets are too big. Nothing is lost if large packets still pass, in fragments."""
    watched = evidence.watched.get(sign.peer) if sign.peer else None
    if watched is None or watched.answers or not evidence.link:
        return None
    overhead = 80 if sign.address and sign.address.family == 6 else 60
    if not sign.mtu or sign.mtu - overhead >= evidence.link.mtu:
        return None
    message = (
        f"packets of {evidence.name}'s MTU, {evidence.link.mtu} bytes, are too large for the path to {sign.address}"
    )
    remedy = f"set MTU = {sign.mtu - overhead} in the files of both ends"
    return _cause(sign, "mtu-too-large", message, remedy)


def _source(evidence: Evidence, sign: Sign) -> Cause:
    message = f"packets from this peer are dropped: their source {sign.source} is not in its AllowedIPs"
    remedy = f"add {sign.source} to the peer's AllowedIPs, or correct the Address at the other end"
    found = _cause(sign, "source-not-allowed", message, remedy)
    if not _is_from_probes(evidence, sign):
        return found
    fact = (
        "a router beyond the other end may use this source to report that no host has an address that doctor probed"
    )
    return found._replace(severity=INFO, confidence=POSSIBLE, evidence=(*found.evidence, fact))


def _is_from_probes(evidence: Evidence, sign: Sign) -> bool:
    """Whether such packets came only while doctor probed, and the peer works."""
    watched = evidence.watched.get(sign.peer) if sign.peer else None
    if watched is None or sign.peer is None or not watched.answers or evidence.counters_before is None:
        return False
    before = evidence.counters_before.peer(sign.peer).last("source_not_allowed")
    return before is None or before.age > RECENT


def _two_places(_: Evidence, sign: Sign) -> Cause:
    return two_hosts(sign.peer, *sign.facts, confidence=sign.confidence)


def _clock(_: Evidence, sign: Sign) -> Cause | None:
    if sign.peer is not None or sign.key is not None:
        return None  # the peer's clock, not this host's
    message = f"this host's clock is {_behind(-sign.seconds, 'those of all peers')}"
    return _cause(sign, "clock-wrong", message, "set the clock (timedatectl, chronyc makestep)")


_MEANINGS = {
    "knock-unknown-key": _unknown_key,
    "knock-wrong-key": _wrong_key,
    "knock-stale-clock": _stale,
    "input-blocked": _input,
    "answer-refused": _refused,
    "answer-lost": _answers_lost,
    "knock-ignored": _answers_leave_elsewhere,
    "endpoint-refuses": _closed,
    "endpoint-unreachable": _unreachable,
    "output-blocked": _output,
    "mtu-too-large": _too_big,
    "source-not-allowed": _source,
    "one-key-two-places": _two_places,
    "clock-wrong": _clock,
}
