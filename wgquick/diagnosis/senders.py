"""Counts the datagrams of a capture on a WireGuard port, by sender and verdict.

Payloads are read and not kept. Memory and time have limits, so a flood of forged messages does no harm. Senders
with a proven key have separate rows; the number of rows for other senders is limited.
"""

from __future__ import annotations

from time import time

from wgquick.datagram import ADMITTED, ARRIVED, SENT, Datagram
from wgquick.diagnosis.initiation import Addressee, Reader
from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    from wgquick.datagram import IcmpError
    from wgquick.net import PublicKey, SecretKey, SocketAddress

    K = TypeVar("K")
    V = TypeVar("V")

KNOWN = "known"
"""From a peer of the device."""
UNKNOWN_KEY = "unknown-key"
"""Authentic, from a key that no peer has."""
WRONG_KEY = "wrong-key"
"""For another public key than this device's."""
FORGED = "forged"
"""For this device's public key, which is not secret, but not authentic: the sender proves no key."""
UNREAD = "unread"
"""Not decrypted: the private key is unknown, or too many messages came in one second."""

_MOST_ROWS = {KNOWN: 1024, UNKNOWN_KEY: 256, WRONG_KEY: 64, FORGED: 64, UNREAD: 64, "": 256}
_MOST_ERRORS = 64
_MOST_SENT = 4096
_REMEMBERED = 4096
_READS_A_SECOND = 200
_CANDIDATES_TRIED = 64
_CHECKED = 16
"""For how many messages with another key the owner of that key is searched."""


class Sender(NamedTuple):
    """The messages of one kind, from one address, with one verdict; `kind` is Datagram's.

    `link` is "" if the messages were seen only behind the firewall: they arrived at another port, and this host's
    NAT translated it.

    `verdict` is KNOWN, UNKNOWN_KEY, WRONG_KEY, FORGED or UNREAD for initiations, else "". `key` is the sender's
    public key. `addressed_to` is the public key that the message is for, if it is one of the candidates. `times`
    messages came between `first` and `last` (seconds since 1970). Of these, `admitted` passed this host's firewall,
    `answered` got a response or a cookie from this host, and `solicited` answer this host's initiations. `clock` is
    the sender's clock at `last`. `went_back` is true if an earlier message with the same key had a later timestamp.
    """

    kind: str
    source: SocketAddress
    link: str
    verdict: str = ""
    key: PublicKey | None = None
    addressed_to: PublicKey | None = None
    times: int = 0
    admitted: int = 0
    answered: int = 0
    solicited: int = 0
    first: float = 0.0
    last: float = 0.0
    clock: float = 0.0
    went_back: bool = False

    @property
    def clock_ahead(self) -> float:
        """How many seconds the sender's clock is ahead of this host's."""
        return self.clock - self.last


class Sent(NamedTuple):
    """The messages of one kind that this host sent to one address."""

    kind: str
    destination: SocketAddress
    link: str
    times: int
    first: float
    last: float


class IcmpErrors(NamedTuple):
    """ICMP errors of one kind, from one sender, about one endpoint."""

    meaning: str
    destination: SocketAddress
    sender: str
    link: str
    times: int
    mtu: int


class CaptureSummary(NamedTuple):
    """The result of a capture of `seconds`, which ended at `ended` (seconds since 1970).

    `others` counts messages beyond the limits of rows, `dropped` those that the capture lost.
    """

    port: int
    seconds: float
    ended: float
    senders: tuple[Sender, ...] = ()
    sent: tuple[Sent, ...] = ()
    icmp_errors: tuple[IcmpErrors, ...] = ()
    others: int = 0
    dropped: int = 0


class SenderCounter:
    """Counts the datagrams of a capture, one by one.

    `private` is the device's private key, None if unknown. `peers` are the public keys of its peers. `candidates`
    are other public keys that a message may be for by mistake, such as those of other interfaces.
    """

    def __init__(
        self, private: SecretKey | None, peers: Iterable[PublicKey] = (), candidates: Iterable[PublicKey] = ()
    ) -> None:
        self._reader = Reader(private) if private else None
        self._ours = Addressee(self._reader.public) if self._reader else None
        self._peers = frozenset(peers)
        wanted = dict.fromkeys((*candidates, *self._peers))
        self._candidates = [(key, Addressee(key)) for key in list(wanted)[:_CANDIDATES_TRIED]]
        self._rows: dict[tuple[object, ...], Sender] = {}
        self._sizes: dict[str, int] = {}
        self._sent: dict[tuple[str, SocketAddress], Sent] = {}
        self._complaints: dict[tuple[str, SocketAddress, str], IcmpErrors] = {}
        self._others = 0
        self._seen: dict[tuple[str, bytes], tuple[object, ...] | None] = {}
        self._waiting: dict[bytes, tuple[object, ...]] = {}
        self._ours_sent: dict[bytes, None] = {}
        self._greatest: dict[PublicKey, float] = {}
        self._reads: tuple[int, int] = (0, 0)
        self._checked = 0

    def take(self, heard: Datagram | IcmpError) -> None:
        """Count one datagram or ICMP error."""
        if not isinstance(heard, Datagram):
            self._complain(heard)
        elif kind := heard.kind:
            # One message may be captured several times: on a bridge and its port, on a VLAN and its link.
            digest = (heard.stage, heard.payload[:64])
            if digest in self._seen:
                self._name_link(self._seen[digest], heard.link)
                return
            row = {ARRIVED: self._arrived, ADMITTED: self._admitted, SENT: self._left}[heard.stage](kind, heard)
            _remember(self._seen, digest, row)
        else:
            self._others += heard.stage == ARRIVED

    def result(self, port: int, seconds: float, dropped: int = 0) -> CaptureSummary:
        """The result, the most frequent rows first."""
        rows = sorted(self._rows.values(), key=lambda row: -row.times)
        sent = sorted(self._sent.values(), key=lambda row: -row.times)
        icmp_errors = sorted(self._complaints.values(), key=lambda row: -row.times)
        return CaptureSummary(
            port, seconds, time(), tuple(rows), tuple(sent), tuple(icmp_errors), self._others, dropped
        )

    def _arrived(self, kind: str, heard: Datagram) -> tuple[object, ...] | None:
        blank = Sender(kind, heard.source, heard.link, first=heard.at)
        if kind == "initiation":
            blank = self._judged(blank, heard)
        place = (kind, heard.source, blank.verdict, blank.key)
        row = self._rows.get(place)
        if row is None:
            if self._sizes.get(blank.verdict, 0) >= _MOST_ROWS[blank.verdict]:
                self._others += 1
                return None
            self._sizes[blank.verdict] = self._sizes.get(blank.verdict, 0) + 1
            row = blank
        self._rows[place] = row._replace(
            link=heard.link or row.link,
            times=row.times + 1,
            last=heard.at,
            clock=blank.clock,
            went_back=row.went_back or blank.went_back,
            addressed_to=row.addressed_to or blank.addressed_to,
            solicited=row.solicited + (kind == "response" and heard.payload[8:12] in self._ours_sent),
        )
        if kind == "initiation":
            _remember(self._waiting, heard.payload[4:8], place)
        return place

    def _judged(self, blank: Sender, heard: Datagram) -> Sender:
        """The row with the verdict on an initiation and the sender's key."""
        if self._reader is None or self._ours is None:
            return blank._replace(verdict=UNREAD)
        if not self._ours.fits(heard.payload):
            return blank._replace(verdict=WRONG_KEY, addressed_to=self._owner(heard.payload))
        if not self._may_read(heard.at):
            return blank._replace(verdict=UNREAD)
        handshake = self._reader.read(heard.payload)
        if handshake is None:
            return blank._replace(verdict=FORGED)
        verdict = KNOWN if handshake.sender in self._peers else UNKNOWN_KEY
        before = self._greatest.get(handshake.sender, handshake.clock)
        _remember(self._greatest, handshake.sender, max(before, handshake.clock))
        return blank._replace(
            verdict=verdict, key=handshake.sender, clock=handshake.clock, went_back=handshake.clock < before
        )

    def _may_read(self, at: float) -> bool:
        """Whether another initiation may be decrypted in this second: each takes two X25519 operations."""
        second, count = self._reads
        self._reads = (int(at), count + 1 if int(at) == second else 1)
        return self._reads[1] <= _READS_A_SECOND

    def _owner(self, message: bytes) -> PublicKey | None:
        if self._checked >= _CHECKED:
            return None
        self._checked += 1
        return next((key for key, addressee in self._candidates if addressee.fits(message)), None)

    def _admitted(self, kind: str, heard: Datagram) -> tuple[object, ...] | None:
        """Count a message from the raw socket. It may come before the packet socket's copy.

        If NAT translates the port, there is no other copy.
        """
        arrived = (ARRIVED, heard.payload[:64])
        if arrived not in self._seen:
            _remember(self._seen, arrived, self._arrived(kind, heard))
        place = self._seen[arrived]
        if place is not None:
            self._rows[place] = self._rows[place]._replace(admitted=self._rows[place].admitted + 1)
        return place

    def _name_link(self, place: tuple[object, ...] | None, link: str) -> None:
        """Add the link, which only the packet socket reports, to a row from the raw socket."""
        if place is not None and link and not self._rows[place].link:
            self._rows[place] = self._rows[place]._replace(link=link)

    def _left(self, kind: str, heard: Datagram) -> tuple[object, ...] | None:
        place = (kind, heard.destination)
        row = self._sent.get(place)
        if row is not None:
            self._sent[place] = row._replace(times=row.times + 1, last=heard.at, link=heard.link)
        elif len(self._sent) < _MOST_SENT:
            self._sent[place] = Sent(kind, heard.destination, heard.link, 1, heard.at, heard.at)
        if kind == "initiation":
            _remember(self._ours_sent, heard.payload[4:8], None)
        elif kind in ("response", "cookie"):
            receiver = heard.payload[8:12] if kind == "response" else heard.payload[4:8]
            answers = self._waiting.pop(receiver, None)
            if answers is not None:
                self._rows[answers] = self._rows[answers]._replace(answered=self._rows[answers].answered + 1)
        return None

    def _complain(self, error: IcmpError) -> None:
        place = (error.meaning, error.destination, error.sender)
        row = self._complaints.get(place)
        if row is not None:
            mtu = min(row.mtu, error.mtu) or row.mtu or error.mtu
            self._complaints[place] = row._replace(times=row.times + 1, mtu=mtu)
        elif len(self._complaints) < _MOST_ERRORS:
            self._complaints[place] = IcmpErrors(*place, error.link, 1, error.mtu)


def _remember(kept: dict[K, V], key: K, value: V) -> None:
    """Add an entry, and delete the oldest one if there are too many."""
    kept[key] = value
    if len(kept) > _REMEMBERED:
        del kept[next(iter(kept))]
