"""What two readings of a device and a capture between them say together: no backend has to cooperate.

WireGuard answers nothing that it does not accept, so the pattern of messages tells the cause: initiations without
answers, answers that change nothing, keepalives alone.
"""

from __future__ import annotations

from itertools import pairwise

from wgquick.datagram import COOKIE, INITIATION, KEEPALIVE_LENGTH, LENGTHS, RESPONSE
from wgquick.diagnosis.knocks import KNOWN, UNKNOWN_KEY, WRONG_KEY
from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wgquick.device import Device
    from wgquick.diagnosis.knocks import Complaint, Heard, Knock
    from wgquick.net import PublicKey, SocketAddress

CONFIDENCES = CERTAIN, LIKELY, POSSIBLE = "certain", "likely", "possible"

_ANSWER_TIME = 1.0
"""Seconds within which a device answers an initiation; what came later than that before the end is not judged."""
_CLOCK_TOLERANCE = 30.0
"""Seconds by which a clock may be behind the last handshake before that counts as stale."""
_WRONG_CLOCK = 3600.0
_FRESH = 180.0
_SIZES = {
    "initiation": LENGTHS[INITIATION],
    "response": LENGTHS[RESPONSE],
    "cookie": LENGTHS[COOKIE],
    "keepalive": KEEPALIVE_LENGTH,
}
_UNREACHABLE = frozenset({"host-unreachable", "net-unreachable", "prohibited", "time-exceeded"})


class Sign(NamedTuple):
    """One conclusion. `facts` are the observations that it rests on, in words.

    `code` is doctor's, or one of these: `knock-ignored` (the device gets a peer's initiations and answers none),
    `answer-lost` (our answers change nothing: they do not arrive there, or the PresharedKeys differ),
    `nothing-sent` (nothing goes to the peer's endpoint), `peer-busy` (cookies alone come back).

    `no-data-back` tells of data that left while none came: only who sent it knows whether it was to be answered.

    `peer` is the peer's key, None if it is not known which. `address` is the source of a knock, or an endpoint.
    `key` is a stranger's, or the one that a message is made for. `sender` sent an ICMP error with `meaning` and
    `mtu`. `seconds` is how far the sender's clock is ahead of ours. `source` is that of an inner packet.
    """

    code: str
    confidence: str
    peer: PublicKey | None = None
    address: SocketAddress | None = None
    facts: tuple[str, ...] = ()
    key: PublicKey | None = None
    sender: str = ""
    meaning: str = ""
    mtu: int = 0
    seconds: float = 0.0
    source: str = ""


def signs(before: Device, after: Device, heard: Heard) -> list[Sign]:
    """All that is to be concluded, what is certain first. `heard` came between the two readings."""
    watched = _Watched(before, after, heard)
    found = [
        *watched.knocks(),
        *watched.places(),
        *watched.clocks(),
        *watched.answers(),
        *watched.errors(),
        *watched.silences(),
    ]
    return sorted(found, key=lambda sign: CONFIDENCES.index(sign.confidence))


class _Watched:
    """The readings and the capture, by peer and endpoint."""

    def __init__(self, before: Device, after: Device, heard: Heard) -> None:
        self._before = {peer.public_key: peer for peer in before.peers}
        self._after = {peer.public_key: peer for peer in after.peers}
        self._heard = heard
        both = (*before.peers, *after.peers)
        self._by_endpoint = {_plain(peer.endpoint): peer.public_key for peer in both if peer.endpoint}
        self._shaken = {key for key in self._after if self._has_new_handshake(key)}
        self._sent: dict[tuple[str, _Plain], int] = {}
        for row in heard.sent:
            self._sent[row.kind, _plain(row.destination)] = row.times
        self._came: dict[_Plain | PublicKey, list[Knock]] = {}
        for knock in heard.knocks:
            self._came.setdefault(_plain(knock.source), []).append(knock)
            if knock.key is not None:
                self._came.setdefault(knock.key, []).append(knock)

    def _peer_at(self, address: SocketAddress) -> PublicKey | None:
        return self._by_endpoint.get(_plain(address))

    def _rows(self, kind: str) -> list[Knock]:
        return [knock for knock in self._heard.knocks if knock.kind == kind]

    def _has_new_handshake(self, key: PublicKey) -> bool:
        before = self._before.get(key)
        return self._after[key].last_handshake > (before.last_handshake if before else 0.0)

    def knocks(self) -> Iterator[Sign]:
        """Of the initiations that came."""
        for knock in self._rows("initiation"):
            came = _came("initiation", knock)
            if knock.verdict == UNKNOWN_KEY:
                facts = (came, f"its static key is {knock.key}, which no peer has")
                yield Sign("knock-unknown-key", CERTAIN, None, knock.source, facts, knock.key)
            elif knock.verdict == WRONG_KEY:
                yield self._wrong_key(knock, came)
            elif knock.verdict == KNOWN and knock.key is not None:
                yield from self._known(knock, knock.key, came)

    def _wrong_key(self, knock: Knock, came: str) -> Sign:
        peer = self._peer_at(knock.source)
        made = "made for another public key than this interface's (MAC1)"
        named = (f"the key that they are made for is {knock.addressed_to}",) if knock.addressed_to else ()
        sure = CERTAIN if knock.addressed_to else LIKELY if peer or knock.times > 1 else POSSIBLE
        return Sign("knock-wrong-key", sure, peer, knock.source, (came, made, *named), knock.addressed_to)

    def _known(self, knock: Knock, key: PublicKey, came: str) -> Iterator[Sign]:
        if self._heard.ended - knock.first < _ANSWER_TIME or key in self._shaken:
            return
        if knock.answered:
            # With a session in use, what came may be a trial of the other end's doctor, which leaves it alone.
            if self._heard.ended - self._after[key].last_handshake < _FRESH:
                return
            again = "and it began anew each time" if knock.answered > 1 else "and no session came of it"
            sure = LIKELY if knock.answered > 1 else POSSIBLE
            sent = f"{_times(knock.answered, 'answer')} left, {again}"
            yield Sign("answer-lost", sure, key, knock.source, (came, sent))
            return
        before = self._before.get(key)
        shaken = before.last_handshake if before else 0.0
        if not knock.admitted:
            passed = "none of them gets to the port: this host's firewall or reverse path filter drops them"
            yield Sign("input-blocked", CERTAIN if knock.times > 1 else LIKELY, key, knock.source, (came, passed))
        elif knock.went_back or (shaken and knock.clock < shaken - _CLOCK_TOLERANCE):
            told = "its clock is behind that of an earlier handshake, which WireGuard takes for a replay"
            sure = CERTAIN if knock.went_back else LIKELY
            yield Sign("knock-stale-clock", sure, key, knock.source, (came, told), seconds=knock.clock_ahead)
        elif knock.link:  # else the answer leaves from another port
            passed = f"{knock.admitted} of them got past the firewall, and no answer leaves"
            yield Sign("knock-ignored", POSSIBLE, key, knock.source, (came, passed))

    def places(self) -> Iterator[Sign]:
        """One key that knocks from two places by turns: a host that moved stays where it is."""
        by_key: dict[PublicKey, list[Knock]] = {}
        for knock in self._rows("initiation"):
            if knock.key is not None and knock.verdict == KNOWN:
                by_key.setdefault(knock.key, []).append(knock)
        for key, rows in by_key.items():
            rows.sort(key=lambda knock: knock.first)
            for one, other in pairwise(rows):
                if other.first < one.last:
                    facts = (f"initiations of one key come by turns from {one.source} and {other.source}",)
                    sure = LIKELY if one.source.address != other.source.address else POSSIBLE
                    yield Sign("one-key-two-places", sure, key, other.source, facts)
                    break

    def clocks(self) -> Iterator[Sign]:
        """A clock that is off: theirs, or ours if all that come say the same."""
        ahead: dict[PublicKey, Knock] = {}
        for knock in self._rows("initiation"):
            if knock.key is not None:
                ahead[knock.key] = knock
        off = {key: knock for key, knock in ahead.items() if abs(knock.clock_ahead) > _WRONG_CLOCK}
        values = [knock.clock_ahead for knock in off.values()]
        if len(off) > 1 and len(off) == len(ahead) and max(values) - min(values) < _WRONG_CLOCK:
            facts = (f"the clocks of all {len(off)} that knock differ from this host's by {values[0]:+.0f} s",)
            yield Sign("clock-wrong", LIKELY, facts=facts, seconds=values[0])
            return
        for key, knock in off.items():
            facts = (f"its clock differs from this host's by {knock.clock_ahead:+.0f} s",)
            peer = key if knock.verdict == KNOWN else None
            yield Sign("clock-wrong", POSSIBLE, peer, knock.source, facts, key, seconds=knock.clock_ahead)

    def answers(self) -> Iterator[Sign]:
        """Of the responses and cookies that came."""
        for knock in self._rows("response"):
            peer = self._peer_at(knock.source)
            if not knock.solicited or (peer is not None and peer in self._shaken):
                continue
            if peer is None and self._shaken:
                continue
            if self._heard.ended - knock.first < _ANSWER_TIME:
                continue
            came = _came("response", knock)
            if not knock.admitted:
                passed = "none of them gets to the port: this host's firewall or reverse path filter drops them"
                yield Sign("input-blocked", CERTAIN, peer, knock.source, (came, passed))
            else:
                passed = "no handshake comes of them"
                sure = LIKELY if peer is None else CERTAIN
                yield Sign("answer-refused", sure, peer, knock.source, (came, passed))
        responded = {_plain(knock.source) for knock in self._rows("response")}
        for knock in self._rows("cookie"):
            peer = self._peer_at(knock.source)
            if _plain(knock.source) not in responded and not (peer is not None and peer in self._shaken):
                facts = (f"{_times(knock.times, 'cookie')} from {knock.source}, which is under load",)
                yield Sign("peer-busy", POSSIBLE, peer, knock.source, facts)

    def errors(self) -> Iterator[Sign]:
        """Of the ICMP errors."""
        for each in self._heard.complaints:
            peer = self._peer_at(each.destination)
            if peer is not None and peer in self._shaken and each.meaning != "too-big":
                continue
            code = {"port-unreachable": "endpoint-refuses", "too-big": "mtu-too-large"}.get(each.meaning)
            if code is None and each.meaning in _UNREACHABLE:
                code = "endpoint-unreachable"
            if code is None:
                continue
            if each.link == "lo" and each.meaning in ("prohibited", "port-unreachable") and not self._went(each):
                code = "output-blocked"  # a REJECT of this host's own
            yield Sign(
                code,
                LIKELY if each.meaning == "too-big" else CERTAIN,
                peer,
                each.destination,
                (_said(each),),
                sender=each.sender,
                meaning=each.meaning,
                mtu=each.mtu,
            )

    def _went(self, complaint: Complaint) -> bool:
        end = _plain(complaint.destination)
        return any((kind, end) in self._sent for kind in (*_SIZES, "data"))

    def silences(self) -> Iterator[Sign]:
        """Of the peers with an endpoint that nothing, or nothing more than keepalives, comes from."""
        complained = {_plain(each.destination) for each in self._heard.complaints if each.meaning != "too-big"}
        for key, after in self._after.items():
            if after.endpoint is None:
                continue
            end, before = _plain(after.endpoint), self._before.get(key, after)
            came = (*self._came.get(end, ()), *self._came.get(key, ()))
            tried = self._sent.get(("initiation", end), 0)
            if self._heard.ended - after.last_handshake < _FRESH:
                yield from self._one_way(key, after.endpoint, came, after.rx_bytes - before.rx_bytes)
            elif not came and tried and end not in complained:
                facts = (f"{_times(tried, 'initiation')} to {after.endpoint} left, and nothing came back",)
                yield Sign("no-answer", LIKELY if tried > 1 else POSSIBLE, key, after.endpoint, facts)
            elif not came and not after.last_handshake and after.tx_bytes == before.tx_bytes:
                facts = (f"nothing left for {after.endpoint} in {self._heard.seconds:.0f} s",)
                yield Sign("nothing-sent", POSSIBLE, key, after.endpoint, facts)

    def _one_way(
        self, key: PublicKey, endpoint: SocketAddress, came: Sequence[Knock], received: int
    ) -> Iterator[Sign]:
        """Data goes in a session that both ends have, and none comes."""
        data = self._sent.get(("data", _plain(endpoint)), 0)
        known = {(knock.kind, knock.source): knock.times * _SIZES.get(knock.kind, 0) for knock in came}
        if not data or any(knock.kind == "data" for knock in came) or received > sum(known.values()):
            return
        kept = sum(knock.times for knock in came if knock.kind == "keepalive")
        back = f"{_times(kept, 'keepalive')} came back, and no data" if kept else "nothing came back"
        facts = (f"{_times(data, 'data message')} left for {endpoint}", back)
        yield Sign("no-data-back", LIKELY if kept else POSSIBLE, key, endpoint, facts)


_Plain = tuple[str, int]


def _plain(address: SocketAddress) -> _Plain:
    """An address without its scope, which a device and a capture may tell differently."""
    return address.address, address.port


def _came(what: str, knock: Knock) -> str:
    on = f" on {knock.link}" if knock.link else ""
    return f"{_times(knock.times, what)} from {knock.source}{on}"


def _times(count: int, what: str) -> str:
    return f"one {what}" if count == 1 else f"{count} {what}s"


_MEANINGS = {
    "port-unreachable": "nobody listens on that port",
    "host-unreachable": "the host cannot be reached",
    "net-unreachable": "there is no route to its network",
    "prohibited": "a firewall prohibits it",
    "time-exceeded": "it went in circles until its time to live was up",
}


def _said(complaint: Complaint) -> str:
    if complaint.meaning == "too-big":
        what = f"a packet is larger than the path's MTU of {complaint.mtu} bytes"
    else:
        what = _MEANINGS[complaint.meaning]
    by = "this host itself" if complaint.link == "lo" else complaint.sender
    return f"{by} says of what is sent to {complaint.destination}: {what} (ICMP, {complaint.times} times)"
