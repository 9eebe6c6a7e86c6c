"""What doctor concludes when answers are slow, lost or too late; the clocks are simulated."""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import contextmanager, nullcontext
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.waiting import until
from wgquick.config.settings import PeerSettings, Settings
from wgquick.datagram import ARRIVED, SENT, Datagram
from wgquick.device import Device, DevicePeer
from wgquick.diagnosis.doctor import sizing, watching
from wgquick.diagnosis.doctor.evidence import Evidence, File, Outside
from wgquick.diagnosis.doctor.judge import diagnose
from wgquick.diagnosis.doctor.watching import _Listener, _Poller, watched
from wgquick.diagnosis.handshake_probe import HandshakeProbe
from wgquick.diagnosis.keys import public_key_of
from wgquick.net import AllowedIP, Endpoint, Prefix, SecretKey, SocketAddress
from wgquick.observations import Arrivals, Echo, LinkState, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MTU, LIMIT = 1420, 5.0


class Path:
    """A path that loses packets above a size and some of the others, and answers after a time."""

    def __init__(self, limit: int, delay: Callable[[int], float], loss: float = 0.0) -> None:
        self._limit, self._delay, self._loss = limit, delay, loss
        self._random = Random(1)
        self._arrivals: list[tuple[float, int]] = []
        self._last = 0.0
        self._asked = 0
        self.now = 1000.0

    def clock(self) -> float:
        self.now += 1e-4
        return self.now

    def ask(self, sizes: Iterable[int]) -> None:
        for each in sizes:
            self._asked += 1
            self._last = max(self._last, self.now + self._delay(self._asked))
            if each <= self._limit and self._random.random() >= self._loss:
                self._arrivals.append((self._last, each))

    def answered(self, seconds: float) -> frozenset[int]:
        later = [at for at, _ in self._arrivals if at > self.now]
        self.now = min([self.now + seconds, *later])
        return frozenset(size for at, size in self._arrivals if at <= self.now)


def measured(path: Path, mtu: int = MTU, limit: float = LIMIT) -> int | None:
    return sizing.largest(path, mtu, path.now + limit, path.clock)


@pytest.mark.parametrize("delay", [0.001, 0.05, 0.4, 1.0])
@pytest.mark.parametrize("limit", [201, 516, 1000, 1240, 1399, 1419])
def test_the_largest_packet_is_found_however_slow_answers_are(limit: int, delay: float) -> None:
    found = measured(Path(limit, lambda _: delay), limit=15.0)
    assert found is not None
    assert limit - 16 < found <= limit


@pytest.mark.parametrize("delay", [0.001, 0.4, 2.0])
def test_a_packet_of_the_links_mtu_passes(delay: float) -> None:
    path = Path(MTU, lambda _: delay)
    began = path.now
    assert measured(path) == 0
    assert path.now - began < delay + 0.1


def test_a_machine_that_becomes_slow_is_waited_for() -> None:
    """The first answers come at once, the later ones after two seconds."""
    found = measured(Path(1240, lambda asked: 0.001 if asked < 9 else 2.0), limit=15.0)
    assert found is not None
    assert 1200 <= found <= 1240


@pytest.mark.parametrize("seed", range(50))
def test_random_loss_is_no_limit_of_size(seed: int) -> None:
    path = Path(MTU, lambda _: 0.02, loss=0.3)
    path._random.seed(seed)
    assert measured(path) == 0


def test_without_answers_nothing_is_concluded() -> None:
    assert measured(Path(0, lambda _: 0.0)) is None
    assert measured(Path(1240, lambda _: 60.0)) is None
    assert measured(Path(1240, lambda _: 0.0), limit=0.0) is None


def test_a_result_that_the_deadline_cuts_short_passes() -> None:
    found = measured(Path(1240, lambda _: 0.2), limit=3.0)
    assert found is None or 150 < found <= 1240


OWN, OTHER = (SecretKey(bytes([248, *([at] * 30), 64])) for at in (1, 2))
ADDRESS = SocketAddress("198.51.100.2", 51820)
PEER = DevicePeer(
    public_key_of(OTHER),
    endpoint=ADDRESS,
    last_handshake=1.0,
    allowed_ips=(AllowedIP(bytes([10, 66, 0, 1]), 32),),
)


class Machine:
    """A host and inspector with one peer, which answers echo requests if `answers` is true, and nothing else."""

    def __init__(self, answers: bool) -> None:
        self._answers = answers
        self.wireguard, self.dns = self, self

    def get(self, name: str) -> Device:
        return Device(name, OWN, 51820, 0, (PEER,))

    def diagnostics(self, _: str) -> None:
        return None

    def Prober(self, _: str) -> Machine:  # noqa: N802
        return self

    @contextmanager
    def Capture(self, *_: object) -> Iterator[Machine]:  # noqa: N802
        yield self

    def read(self, seconds: float) -> Iterator[Datagram]:
        time.sleep(seconds)
        yield from ()

    def close(self) -> None:
        pass

    def seen(self) -> Arrivals:
        return Arrivals(frozenset(), frozenset())

    def probe(self, addresses: Iterable[str], *_: object) -> list[Echo]:
        return [Echo(each, "icmp" if self._answers else "") for each in addresses]

    def unbound(self, addresses: Iterable[str], _: float) -> list[Echo]:
        return [Echo(each, "icmp") for each in addresses]

    def ways(self, wanted: Iterable[object]) -> list[Way]:
        return [Way("wg0") for _ in wanted]

    def send_outside(self, *_: object) -> int:
        return 0

    @contextmanager
    def sizer(self, _: str) -> Iterator[Path]:
        yield Path(0, lambda _: 0.0)


FULL = PEER._replace(allowed_ips=(*PEER.allowed_ips, AllowedIP(bytes(4), 0)))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (False, ("whether 198.51.100.2:51820 answers a handshake",)),
        (
            True,
            (
                "whether 198.51.100.2:51820 answers a handshake",
                "whether the other end of the full tunnel passes packets on",
                "whether packets of 1420 bytes pass to 10.66.0.1",
                "whether the tunnel's DNS servers answer",
            ),
        ),
    ],
)
def test_a_part_without_time_is_reported(answers: bool, expected: tuple[str, ...]) -> None:
    """The deadline has already passed: each examination that needs time reports that it did not take place."""
    machine = cast("Any", Machine(answers))
    wanted = PeerSettings(PEER.public_key, endpoint=Endpoint("198.51.100.2", "51820"))
    evidence = Evidence(
        "wg0",
        time.time(),
        file=File("/etc/wireguard/wg0.conf", Settings("wg0", dns=("10.66.0.1",), peers=(wanted,))),
        link=LinkState(7, "wg0", "wireguard", MTU),
        device=Device("wg0", OWN, 51820, 0, (FULL,)),
        own_key=public_key_of(OWN),
        addresses=(Prefix(bytes([10, 66, 0, 2]), 24),),
        outside={PEER.public_key: Outside(Way("eth0"))},
        dns_mode="file",
    )
    found = watched(evidence, machine, machine, (), time.monotonic())
    assert set(found.unread) == set(expected)
    causes = {each.code: each.message for each in diagnose(found)}
    assert all(each in causes["not-examined"] for each in expected)


class Flood:
    """A capture with initiations of this host's, without end, each from another link."""

    def __init__(self, probes: Iterable[HandshakeProbe]) -> None:
        self._probes, self._links = itertools.cycle(probes), itertools.count()

    def read(self, seconds: float) -> Iterator[Datagram]:
        for _ in range(1000):
            message = next(self._probes).message
            yield Datagram(0.0, SENT, f"eth{next(self._links)}", ADDRESS, ADDRESS, len(message), message)


def test_results_can_be_read_while_packets_arrive() -> None:
    """The capture's thread adds to the set of links that the reader goes through."""
    device = Device("wg0", OWN, 51820, 0, ())
    probes = [HandshakeProbe(OWN, public_key_of(OTHER), None, time.time()) for _ in range(2)]
    inspector = cast("Any", SimpleNamespace(Capture=lambda *_: nullcontext(Flood(probes))))
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        listener = _Listener(Evidence("wg0", time.time()), device, inspector, lambda _: None)
        for probe in probes:
            listener.expect(probe)
        with listener:
            deadline = time.monotonic() + 60
            while len(listener.outcome(probes).left_by or ()) < 1000:
                assert time.monotonic() < deadline
    finally:
        sys.setswitchinterval(usual)


class TwoHosts(Machine):
    """Two hosts with one key send in turn; one has the endpoint for two milliseconds.

    These pass only while the reader of the device sleeps, however busy the machine is.
    """

    OTHER = SocketAddress("203.0.113.9", 51820)

    def __init__(self) -> None:
        super().__init__(answers=True)
        self._left = 0.0

    def sleep(self, seconds: float) -> None:
        self._left -= seconds

    def get(self, name: str) -> Device:
        return Device(name, OWN, 51820, 0, (PEER._replace(endpoint=self.OTHER if self._left > 0 else ADDRESS),))

    def read(self, seconds: float) -> Iterator[Datagram]:
        self._left = 0.002
        for _ in range(100):
            yield self._message(self.OTHER)
            time.sleep(0.001)
            if self._left <= 0:
                break
        yield self._message(ADDRESS)

    def _message(self, source: SocketAddress) -> Datagram:
        message = bytes([4, 0, 0, 0]) + bytes(28)
        return Datagram(0.0, ARRIVED, "eth0", source, ADDRESS, len(message), message)


def test_an_endpoint_that_one_host_has_for_milliseconds_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is read as soon as a message comes from a new place; here there are no other readings."""
    hosts = cast("Any", TwoHosts())
    monkeypatch.setattr(watching, "_POLL_INTERVAL", 3600)
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=time.monotonic, sleep=hosts.sleep))
    poller = _Poller("wg0", hosts)
    with poller, _Listener(Evidence("wg0", time.time()), hosts.get("wg0"), hosts, poller.hear):
        until(lambda: len(poller.endpoints.get(PEER.public_key, ())) >= 12, "both endpoints seen six times")
