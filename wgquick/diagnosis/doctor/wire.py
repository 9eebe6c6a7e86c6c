"""What the wire tells: who knocks in vain, what a firewall here drops, and which errors come back."""

from __future__ import annotations

from wgquick.diagnosis.doctor.evidence import dials
from wgquick.diagnosis.doctor.fate import by
from wgquick.diagnosis.doctor.here import cause
from wgquick.diagnosis.doctor.packet import ARRIVING, LEAVING, Packet
from wgquick.diagnosis.finding import ERROR, WARNING
from wgquick.diagnosis.knocks import KNOWN, UNREAD
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.evidence import Evidence
    from wgquick.diagnosis.knocks import Knock
    from wgquick.diagnosis.signatures import Sign


def causes(evidence: Evidence) -> Iterator[Cause]:
    """What each sign means here."""
    for sign in evidence.signs:
        made = _MEANINGS.get(sign.code)
        if sign.code in _ON_THE_WAY and not _matters(evidence, sign):
            continue
        if made is not None and (found := made(evidence, sign)) is not None:
            yield found
    if evidence.listen:
        yield from _listened(evidence)


def _listened(evidence: Evidence) -> Iterator[Cause]:
    """Who was asked to listen says what came, also if nothing is wrong with it."""
    port, heard, name = evidence.listen_port, evidence.heard, evidence.name
    if not port:
        message = f"there is no port to listen at: {name} is not up, and its file has no ListenPort"
        yield cause("knock-none", message, remedy=f"write a ListenPort, or bring it up: wgq up {name}")
        return
    yield from _comers(evidence, heard.knocks if heard else ())
    if heard is not None and not heard.knocks:
        message = f"in {evidence.listened:.0f} s nothing came to UDP port {port}"
        remedy = (
            f"at the other end the Endpoint must be this host's address and port {port}; routers and firewalls "
            f"before this host have to let UDP port {port} through to it"
        )
        yield cause("knock-none", message, remedy=remedy)


def _comers(evidence: Evidence, knocks: Iterable[Knock]) -> Iterator[Cause]:
    """The peers that knock, and those that send in a session."""
    ends = {(each.endpoint.address, each.endpoint.port): each for each in evidence.peers if each.endpoint}
    for knock in knocks:
        times = f"{knock.times} of the kind {knock.kind} came in {evidence.listened:.0f} s"
        if knock.kind == "initiation" and knock.verdict in (KNOWN, UNREAD) and knock.admitted:
            whose = "with this peer's key" if knock.key else "with a key that only the private key can read"
            message = f"{knock.source} knocks at UDP port {evidence.listen_port} {whose}"
            yield cause("knock-known", message, f"{times}, {knock.answered} answered", peer=knock.key)
        elif knock.kind in ("data", "keepalive"):
            sender = ends.get((knock.source.address, knock.source.port))
            if sender is not None:
                message = f"{knock.source} sends to UDP port {evidence.listen_port} in a session"
                yield cause("knock-known", message, times, peer=sender.public_key)


_ON_THE_WAY = frozenset({"endpoint-refuses", "endpoint-unreachable", "output-blocked"})


def _matters(evidence: Evidence, sign: Sign) -> bool:
    """Whether a peer ought to be reached and is not: a client that has left is nobody's fault."""
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
    message = f"{sign.address} knocks with the key {sign.key}, which no peer of {evidence.name} has"
    remedy = f"write a [Peer] section with PublicKey = {sign.key}, or correct the key of the one that is meant"
    return _cause(sign, "knock-unknown-key", message, remedy, severity=ERROR if never else WARNING)


def _wrong_key(evidence: Evidence, sign: Sign) -> Cause:
    own = evidence.own_key or evidence.file_key
    has = f"has {sign.key} for this end's public key" if sign.key else "has another public key for this end"
    message = f"{sign.address} knocks and {has}: it is {own}"
    return _cause(sign, "knock-wrong-key", message, f"at the other end: PublicKey = {own}")


def _stale(_: Evidence, sign: Sign) -> Cause:
    message = f"{sign.address} knocks with a clock that is {_behind(sign.seconds)}: WireGuard takes it for a replay"
    return _cause(sign, "knock-stale-clock", message, "set the clock at the other end")


def _behind(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'behind' if seconds < 0 else 'ahead of'} this host's"


def _input(evidence: Evidence, sign: Sign) -> Cause:
    port, where = evidence.listen_port, ""
    if sign.address is not None:
        end = sign.address
        packet = Packet(end.family, evidence.uplink, "", end.address, "", "udp", end.port, port)
        where = by(evidence.rulesets, packet, ARRIVING)
    message = (
        f"packets for UDP port {port} arrive from {sign.address}, and this host drops them before {evidence.name}"
        f"{where}"
    )
    remedy = f"let UDP to port {port} into this host: look at the input chains of `nft list ruleset' and iptables"
    return _cause(sign, "input-blocked", message, remedy)


def _refused(evidence: Evidence, sign: Sign) -> Cause:
    message = f"{sign.address} answers, and {evidence.name} does not accept the answer: the preshared keys differ"
    return _cause(sign, "answer-refused", message, "write the same PresharedKey at both ends")


def _lost(evidence: Evidence, sign: Sign) -> Cause:
    message = (
        f"{sign.address} knocks and {evidence.name} answers, again and again: the preshared keys differ, or the "
        "answers do not arrive there"
    )
    remedy = "write the same PresharedKey at both ends; let UDP in at the other end"
    return _cause(sign, "answer-refused", message, remedy, other_end="wgq doctor")


def _closed(_: Evidence, sign: Sign) -> Cause:
    message = f"nobody listens at {sign.address}: the host there answers that the port is closed"
    remedy = "bring the tunnel up there, or correct the Endpoint's port: it is the other end's ListenPort"
    return _cause(sign, "endpoint-refuses", message, remedy, other_end="wgq doctor")


def _unreachable(_: Evidence, sign: Sign) -> Cause:
    words = {"prohibited": "forbidden by a firewall", "time-exceeded": "sent in circles"}
    message = f"{sign.sender} says that {sign.address} is {words.get(sign.meaning, 'not to be reached')}"
    return _cause(sign, "endpoint-unreachable", message, "correct the Endpoint, or mend the way to it")


def _output(evidence: Evidence, sign: Sign) -> Cause:
    where = ""
    if sign.address is not None:
        end = sign.address
        port = evidence.listen_port
        out = next((each.way.link for each in evidence.outside.values() if each.way), evidence.uplink)
        packet = Packet(end.family, "", out, "", end.address, "udp", port, end.port, mark=evidence.fwmark)
        where = by(evidence.rulesets, packet, LEAVING)
    message = f"this host's own firewall rejects what is sent to {sign.address}{where}"
    return _cause(sign, "output-blocked", message, "let it out: look at the output chains")


def _too_big(evidence: Evidence, sign: Sign) -> Cause | None:
    """A router says so; if large packets pass all the same, in fragments, nothing is lost."""
    watched = evidence.watched.get(sign.peer) if sign.peer else None
    if watched is None or watched.answers or not evidence.link:
        return None
    overhead = 80 if sign.address and sign.address.family == 6 else 60
    if not sign.mtu or sign.mtu - overhead >= evidence.link.mtu:
        return None
    message = f"packets of {evidence.name}'s MTU, {evidence.link.mtu} bytes, do not fit the way to {sign.address}"
    return _cause(sign, "mtu-too-large", message, f"write MTU = {sign.mtu - overhead} into the file, at both ends")


def _source(_: Evidence, sign: Sign) -> Cause:
    message = f"packets of this peer are dropped: their source {sign.source} is not in its AllowedIPs"
    remedy = f"add {sign.source} to the peer's AllowedIPs, or correct the Address at the other end"
    return _cause(sign, "source-not-allowed", message, remedy)


def _two_places(_: Evidence, sign: Sign) -> Cause:
    message = "two hosts use this peer's private key: each takes the session from the other"
    return _cause(sign, "one-key-two-places", message, "give each host a key of its own, and a [Peer] section here")


def _clock(_: Evidence, sign: Sign) -> Cause | None:
    if sign.peer is not None or sign.key is not None:
        return None  # theirs
    message = f"this host's clock is {_behind(-sign.seconds)}: all peers' clocks say so"
    return _cause(sign, "clock-wrong", message, "set the clock (timedatectl, chronyc makestep)")


_MEANINGS = {
    "knock-unknown-key": _unknown_key,
    "knock-wrong-key": _wrong_key,
    "knock-stale-clock": _stale,
    "input-blocked": _input,
    "answer-refused": _refused,
    "answer-lost": _lost,
    "endpoint-refuses": _closed,
    "endpoint-unreachable": _unreachable,
    "output-blocked": _output,
    "mtu-too-large": _too_big,
    "source-not-allowed": _source,
    "one-key-two-places": _two_places,
    "clock-wrong": _clock,
}
