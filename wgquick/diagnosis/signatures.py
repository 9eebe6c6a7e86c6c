"""Signs in two readings of a device and a capture between them, with any backend.

WireGuard is silent about what it rejects, so the pattern of messages shows the cause: initiations without answers,
answers that lead to no session, keepalives without data.
"""

from __future__ import annotations

from itertools import pairwise

from wgquick.datagram import (
    COOKIE,
    HOST_UNREACHABLE,
    INITIATION,
    KEEPALIVE_LENGTH,
    LENGTHS,
    NET_UNREACHABLE,
    PORT_UNREACHABLE,
    PROHIBITED,
    RESPONSE,
    TIME_EXCEEDED,
    TOO_BIG,
)
from wgquick.device import SESSION_AGE
from wgquick.diagnosis.finding import CERTAIN, CONFIDENCES, LIKELY, POSSIBLE
from wgquick.diagnosis.senders import KNOWN, UNKNOWN_KEY, WRONG_KEY
from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wgquick.device import Device
    from wgquick.diagnosis.senders import CaptureSummary, IcmpErrors, Sender
    from wgquick.net import PublicKey, SocketAddress

_ANSWER_TIME = 1.0
"""Seconds within which a device answers an initiation. Later messages are ignored: the answer may still come."""
_CLOCK_TOLERANCE = 30.0
"""Seconds by which a clock may be behind the last handshake before it counts as stale."""
_WRONG_CLOCK = 3600.0
_SIZES = {
    "initiation": LENGTHS[INITIATION],
    "response": LENGTHS[RESPONSE],
    "cookie": LENGTHS[COOKIE],
    "keepalive": KEEPALIVE_LENGTH,
}
ICMP_ERRORS = {
    PORT_UNREACHABLE: ("endpoint-refuses", "the port is closed", ""),
    HOST_UNREACHABLE: ("endpoint-unreachable", "the host is unreachable", "unreachable"),
    NET_UNREACHABLE: ("endpoint-unreachable", "there is no route to its network", "unreachable"),
    PROHIBITED: ("endpoint-unreachable", "a firewall prohibits it", "blocked by a firewall"),
    TIME_EXCEEDED: ("endpoint-unreachable", "the packet is in a routing loop", "in a routing loop"),
    TOO_BIG: ("mtu-too-large", "a packet is larger than the path's MTU", ""),
}
"""For each `meaning` of an ICMP error (wgquick.datagram) that shows a cause: the code, the words for the error, and
for `endpoint-unreachable` those for what its sender says the endpoint is."""


class Sign(NamedTuple):
    """What a capture or the daemon's counters show. Doctor makes a `Cause` of it, with the rest of the evidence.

    `facts` are the observations behind it, one sentence each. `code` is a code of doctor, or one of these:
    `knock-ignored` (the device gets a peer's initiations and answers none), `answer-lost` (this host answers, but
    no session follows: the answers are lost, or the preshared keys differ), `nothing-sent` (nothing is sent to the
    peer's endpoint), `peer-busy` (only cookies come back).

    `no-data-back` means that data was sent and none came back; the capture cannot know whether any was expected.

    `peer` is the peer's key, None if unknown. `address` is the source of a handshake, or an endpoint. `key` is the
    unknown sender's key, or the key that a message is for. `sender` sent an ICMP error with `meaning` and `mtu`.
    `seconds` is how far the sender's clock is ahead of this host's. `source` is the source of an inner packet.
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


def signs(before: Device, after: Device, heard: CaptureSummary) -> list[Sign]:
    """All signs, the certain ones first. `heard` is the capture between the two readings."""
    watched = _Watched(before, after, heard)
    found = [
        *watched.initiations(),
        *watched.places(),
        *watched.clocks(),
        *watched.answers(),
        *watched.errors(),
        *watched.silences(),
    ]
    return sorted(found, key=lambda sign: CONFIDENCES.index(sign.confidence))


class _Watched:
    """The readings and the capture, by peer and endpoint."""

    def __init__(self, before: Device, after: Device, heard: CaptureSummary) -> None:
        self._before = {peer.public_key: peer for peer in before.peers}
        self._after = {peer.public_key: peer for peer in after.peers}
        self._heard = heard
        both = (*before.peers, *after.peers)
        self._by_endpoint = {_plain(peer.endpoint): peer.public_key for peer in both if peer.endpoint}
        self._shaken = {key for key in self._after if self._has_new_handshake(key)}
        self._sent: dict[tuple[str, _Plain], int] = {}
        for row in heard.sent:
            self._sent[row.kind, _plain(row.destination)] = row.times
        self._came: dict[_Plain | PublicKey, list[Sender]] = {}
        for sender in heard.senders:
            self._came.setdefault(_plain(sender.source), []).append(sender)
            if sender.key is not None:
                self._came.setdefault(sender.key, []).append(sender)

    def _peer_at(self, address: SocketAddress) -> PublicKey | None:
        return self._by_endpoint.get(_plain(address))

    def _rows(self, kind: str) -> list[Sender]:
        return [sender for sender in self._heard.senders if sender.kind == kind]

    def _has_new_handshake(self, key: PublicKey) -> bool:
        before = self._before.get(key)
        return self._after[key].last_handshake > (before.last_handshake if before else 0.0)

    def initiations(self) -> Iterator[Sign]:
        """Signs in received initiations."""
        for sender in self._rows("initiation"):
            came = _came("initiation", sender)
            if sender.verdict == UNKNOWN_KEY:
                facts = (came, f"their static key is {sender.key}, which no peer has")
                yield Sign("knock-unknown-key", CERTAIN, None, sender.source, facts, sender.key)
            elif sender.verdict == WRONG_KEY:
                yield self._wrong_key(sender, came)
            elif sender.verdict == KNOWN and sender.key is not None:
                yield from self._known(sender, sender.key, came)

    def _wrong_key(self, sender: Sender, came: str) -> Sign:
        peer = self._peer_at(sender.source)
        made = "they are for another public key than this interface's (MAC1)"
        named = (f"that public key is {sender.addressed_to}",) if sender.addressed_to else ()
        sure = CERTAIN if sender.addressed_to else LIKELY if peer or sender.times > 1 else POSSIBLE
        return Sign("knock-wrong-key", sure, peer, sender.source, (came, made, *named), sender.addressed_to)

    def _known(self, sender: Sender, key: PublicKey, came: str) -> Iterator[Sign]:
        if self._heard.ended - sender.first < _ANSWER_TIME or key in self._shaken:
            return
        if sender.answered:
            # If a session is in use, this may be a probe of the other end's doctor, which starts no session.
            if self._heard.ended - self._after[key].last_handshake < SESSION_AGE:
                return
            again = "but it repeats its handshake" if sender.answered > 1 else "but no session followed"
            sure = LIKELY if sender.answered > 1 else POSSIBLE
            sent = f"{number_of(sender.answered, 'answer')} sent, {again}"
            yield Sign("answer-lost", sure, key, sender.source, (came, sent))
            return
        before = self._before.get(key)
        shaken = before.last_handshake if before else 0.0
        if not sender.admitted:
            dropped = "none reached the port: this host's firewall or reverse path filter drops them"
            yield Sign(
                "input-blocked", CERTAIN if sender.times > 1 else LIKELY, key, sender.source, (came, dropped)
            )
        elif sender.went_back or (shaken and sender.clock < shaken - _CLOCK_TOLERANCE):
            stale = "their timestamp is older than that of an earlier handshake: WireGuard rejects them as replays"
            sure = CERTAIN if sender.went_back else LIKELY
            yield Sign("knock-stale-clock", sure, key, sender.source, (came, stale), seconds=sender.clock_ahead)
        elif sender.link:  # without a link, the answer leaves from another port
            passed = f"{sender.admitted} of them passed the firewall, but no answer was sent"
            yield Sign("knock-ignored", POSSIBLE, key, sender.source, (came, passed))

    def places(self) -> Iterator[Sign]:
        """One key that sends from two addresses alternately. A host that moves changes its address only once."""
        by_key: dict[PublicKey, list[Sender]] = {}
        for sender in self._rows("initiation"):
            if sender.key is not None and sender.verdict == KNOWN:
                by_key.setdefault(sender.key, []).append(sender)
        for key, rows in by_key.items():
            rows.sort(key=lambda sender: sender.first)
            for one, other in pairwise(rows):
                if other.first < one.last:
                    facts = (f"initiations with one key come alternately from {one.source} and {other.source}",)
                    sure = LIKELY if one.source.address != other.source.address else POSSIBLE
                    yield Sign("one-key-two-places", sure, key, other.source, facts)
                    break

    def clocks(self) -> Iterator[Sign]:
        """A wrong clock: a peer's, or this host's if all peers' clocks differ from it by the same time."""
        ahead: dict[PublicKey, Sender] = {}
        for sender in self._rows("initiation"):
            if sender.key is not None:
                ahead[sender.key] = sender
        off = {key: sender for key, sender in ahead.items() if abs(sender.clock_ahead) > _WRONG_CLOCK}
        values = [sender.clock_ahead for sender in off.values()]
        if len(off) > 1 and len(off) == len(ahead) and max(values) - min(values) < _WRONG_CLOCK:
            facts = (f"the clocks of all {len(off)} senders differ from this host's by {values[0]:+.0f} s",)
            yield Sign("clock-wrong", LIKELY, facts=facts, seconds=values[0])
            return
        for key, sender in off.items():
            facts = (f"its clock differs from this host's by {sender.clock_ahead:+.0f} s",)
            peer = key if sender.verdict == KNOWN else None
            yield Sign("clock-wrong", POSSIBLE, peer, sender.source, facts, key, seconds=sender.clock_ahead)

    def answers(self) -> Iterator[Sign]:
        """Signs in received responses and cookies."""
        for sender in self._rows("response"):
            peer = self._peer_at(sender.source)
            if not sender.solicited or (peer is not None and peer in self._shaken):
                continue
            if peer is None and self._shaken:
                continue
            if self._heard.ended - sender.first < _ANSWER_TIME:
                continue
            came = _came("response", sender)
            if not sender.admitted:
                dropped = "none reached the port: this host's firewall or reverse path filter drops them"
                yield Sign("input-blocked", CERTAIN, peer, sender.source, (came, dropped))
            else:
                refused = "no session follows"
                sure = LIKELY if peer is None else CERTAIN
                yield Sign("answer-refused", sure, peer, sender.source, (came, refused))
        responded = {_plain(sender.source) for sender in self._rows("response")}
        for sender in self._rows("cookie"):
            peer = self._peer_at(sender.source)
            if _plain(sender.source) not in responded and not (peer is not None and peer in self._shaken):
                facts = (f"{number_of(sender.times, 'cookie')} from {sender.source}, which is under load",)
                yield Sign("peer-busy", POSSIBLE, peer, sender.source, facts)

    def errors(self) -> Iterator[Sign]:
        """Signs in ICMP errors."""
        for each in self._heard.icmp_errors:
            peer = self._peer_at(each.destination)
            if peer is not None and peer in self._shaken and each.meaning != TOO_BIG:
                continue
            if each.meaning not in ICMP_ERRORS:
                continue
            code, words, _ = ICMP_ERRORS[each.meaning]
            if each.link == "lo" and each.meaning in (PROHIBITED, PORT_UNREACHABLE) and not self._went(each):
                code = "output-blocked"  # a REJECT rule of this host
            yield Sign(
                code,
                LIKELY if each.meaning == TOO_BIG else CERTAIN,
                peer,
                each.destination,
                (_icmp_fact(each, words),),
                sender=each.sender,
                meaning=each.meaning,
                mtu=each.mtu,
            )

    def _went(self, complaint: IcmpErrors) -> bool:
        end = _plain(complaint.destination)
        return any((kind, end) in self._sent for kind in (*_SIZES, "data"))

    def silences(self) -> Iterator[Sign]:
        """Signs of peers with an endpoint that send nothing, or only keepalives."""
        complained = {_plain(each.destination) for each in self._heard.icmp_errors if each.meaning != TOO_BIG}
        for key, after in self._after.items():
            if after.endpoint is None:
                continue
            end, before = _plain(after.endpoint), self._before.get(key, after)
            came = (*self._came.get(end, ()), *self._came.get(key, ()))
            tried = self._sent.get(("initiation", end), 0)
            if self._heard.ended - after.last_handshake < SESSION_AGE:
                yield from self._one_way(key, after.endpoint, came, after.rx_bytes - before.rx_bytes)
            elif not came and tried and end not in complained:
                facts = (f"{number_of(tried, 'initiation')} sent to {after.endpoint}, and nothing came back",)
                yield Sign("no-answer", LIKELY if tried > 1 else POSSIBLE, key, after.endpoint, facts)
            elif not came and not after.last_handshake and after.tx_bytes == before.tx_bytes:
                facts = (f"nothing was sent to {after.endpoint} in {self._heard.seconds:.0f} s",)
                yield Sign("nothing-sent", POSSIBLE, key, after.endpoint, facts)

    def _one_way(
        self, key: PublicKey, endpoint: SocketAddress, came: Sequence[Sender], received: int
    ) -> Iterator[Sign]:
        """Data is sent in a session that both ends have, and none comes back."""
        data = self._sent.get(("data", _plain(endpoint)), 0)
        known = {(sender.kind, sender.source): sender.times * _SIZES.get(sender.kind, 0) for sender in came}
        if not data or any(sender.kind == "data" for sender in came) or received > sum(known.values()):
            return
        kept = sum(sender.times for sender in came if sender.kind == "keepalive")
        back = f"{number_of(kept, 'keepalive')} came back, but no data" if kept else "nothing came back"
        facts = (f"{number_of(data, 'data message')} sent to {endpoint}", back)
        yield Sign("no-data-back", LIKELY if kept else POSSIBLE, key, endpoint, facts)


_Plain = tuple[str, int]


def _plain(address: SocketAddress) -> _Plain:
    """An address and port without the scope, in which a device and a capture may differ."""
    return address.address, address.port


def _came(what: str, sender: Sender) -> str:
    on = f" on {sender.link}" if sender.link else ""
    return f"{number_of(sender.times, what)} from {sender.source}{on}"


def number_of(count: int, what: str) -> str:
    """A number and a noun: "one initiation", "3 initiations"."""
    return f"one {what}" if count == 1 else f"{count} {what}s"


def _icmp_fact(complaint: IcmpErrors, words: str) -> str:
    what = f"{words} of {complaint.mtu} bytes" if complaint.meaning == TOO_BIG else words
    by = "this host itself" if complaint.link == "lo" else complaint.sender
    times = f"{complaint.times} ICMP error{'s' if complaint.times != 1 else ''}"
    return f"{times} from {by} about packets to {complaint.destination}: {what}"
