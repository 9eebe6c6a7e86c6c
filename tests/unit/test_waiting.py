"""Which handshakes are awaited, when they count, and how a device is made to begin them."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from wgquick.cli.main import parse
from wgquick.device import Device, DevicePeer
from wgquick.errors import NoHandshakeError, WgqError
from wgquick.executor.waiting import Awaited, chosen, handshakes
from wgquick.net import PublicKey, SocketAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wgquick.device import DeviceConfig

ONE, TWO, THREE = (PublicKey(bytes([n]) * 32) for n in (1, 2, 3))
PEERS = {ONE: True, TWO: True, THREE: False}
NAMES = {str(ONE): "laptop", str(TWO): "phone", str(THREE): "phone"}
THERE = SocketAddress("192.0.2.1", 51820)


def test_any_and_all_mean_peers_with_an_endpoint() -> None:
    assert chosen("wg0", PEERS, "any", {})[:2] == ((ONE, TWO), True)
    assert chosen("wg0", PEERS, "all", {})[:2] == ((ONE, TWO), False)
    remedy = "`wgq wait --for PEER wg0', or `wgq up --wait --wait-for PEER wg0'"
    with pytest.raises(WgqError, match=f"no peer has an endpoint.*\n.*: {remedy}"):
        chosen("wg0", {THREE: False}, "any", {})


def test_peers_can_be_given_by_key_or_by_name() -> None:
    assert chosen("wg0", PEERS, f"laptop, {THREE},laptop", NAMES)[:2] == ((ONE, THREE), False)
    with pytest.raises(WgqError, match="2 peers"):
        chosen("wg0", PEERS, "phone", NAMES)
    for word in ("tablet", "", ",", "laptop,"):
        with pytest.raises(WgqError, match="is not a peer"):
            chosen("wg0", PEERS, word, NAMES)


class FakeDevice:
    """A device with prepared answers to handshakes; it records its requests."""

    def __init__(self, *peers: DevicePeer, knows_request: bool = False) -> None:
        self.device = Device("wg0", peers=peers)
        self.knows_request = knows_request
        self.requests: list[tuple[PublicKey, ...]] = []
        self.changes: list[DeviceConfig] = []
        self.answer: Callable[[PublicKey], None] = lambda _key: None

    def get(self, _name: str) -> Device:
        return self.device

    def begin_handshakes(self, _name: str, peers: Sequence[PublicKey]) -> bool:
        self.requests.append(tuple(peers))
        if self.knows_request:
            for key in peers:
                self.answer(key)
        return self.knows_request

    def set(self, _name: str, config: DeviceConfig) -> None:
        self.changes.append(config)
        for key in {peer.public_key for peer in config.peers}:
            self.answer(key)

    def complete(self, key: PublicKey) -> None:
        """Complete a handshake with this peer."""
        peers = [
            each._replace(last_handshake=each.last_handshake + 10) if each.public_key == key else each
            for each in self.device.peers
        ]
        self.device = self.device._replace(peers=tuple(peers))

    def wait(self, *keys: PublicKey, one: bool = False, earlier: bool = True, timeout: float = 0.1) -> Any:
        before = self.device if earlier else None
        return handshakes("wg0", self, Awaited(keys, one), before, timeout=timeout)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only while `handshakes` sleeps, so that a busy machine does not end a wait early."""
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    simulated = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep, time=time.time)
    monkeypatch.setattr("wgquick.executor.waiting.time", simulated)


def peer(key: PublicKey = ONE, *, ago: float | None = None, **fields: Any) -> DevicePeer:
    """A peer with an endpoint, and a handshake `ago` seconds before now."""
    last = 0.0 if ago is None else time.time() - ago
    return DevicePeer(**{"public_key": key, "endpoint": THERE, "last_handshake": last, **fields})


def test_a_handshake_on_request_counts() -> None:
    fake = FakeDevice(peer(ago=1), knows_request=True)
    fake.answer = fake.complete
    assert fake.wait(ONE) == (ONE,)
    assert (fake.requests, fake.changes) == ([(ONE,)], [])


def test_an_earlier_handshake_does_not_count_if_requests_work() -> None:
    with pytest.raises(NoHandshakeError):
        FakeDevice(peer(ago=1), knows_request=True).wait(ONE)


@pytest.mark.parametrize(("interval", "turned"), [(0, [25, 0]), (25, [0, 25]), (7, [0, 7])])
def test_a_keepalive_is_sent_and_its_interval_stays(interval: int, turned: list[int]) -> None:
    fake = FakeDevice(peer(persistent_keepalive=interval))
    fake.answer = fake.complete
    assert fake.wait(ONE) == (ONE,)
    (change,) = fake.changes
    assert [each.persistent_keepalive for each in change.peers] == turned
    assert all(each.update_only and each.endpoint is None and not each.allowed_ips for each in change.peers)


def test_a_young_session_counts_if_requests_do_not_work() -> None:
    assert FakeDevice(peer(ago=100)).wait(ONE) == (ONE,)
    with pytest.raises(NoHandshakeError):
        FakeDevice(peer(ago=130)).wait(ONE)
    with pytest.raises(NoHandshakeError):
        FakeDevice(peer()).wait(ONE)


def test_the_first_handshake_of_a_new_device_counts() -> None:
    assert FakeDevice(peer(ago=1), knows_request=True).wait(ONE, earlier=False) == (ONE,)


def test_one_handshake_is_enough_for_any_but_not_for_all() -> None:
    fake = FakeDevice(peer(ONE), peer(TWO))
    fake.answer = lambda key: fake.complete(ONE)
    assert fake.wait(ONE, TWO, one=True) == (ONE,)
    with pytest.raises(NoHandshakeError) as error:
        fake.wait(ONE, TWO)
    assert str(TWO) in str(error.value)
    assert error.value.status == 4


def test_a_peer_without_an_endpoint_gets_no_request() -> None:
    fake = FakeDevice(peer(endpoint=None))
    with pytest.raises(NoHandshakeError):
        fake.wait(ONE)
    assert [change.peers for change in fake.changes] in ([], [()])


def test_the_error_names_only_some_of_many_peers() -> None:
    keys = [PublicKey(bytes([n]) * 32) for n in range(100)]
    fake = FakeDevice(*(peer(key) for key in keys))
    with pytest.raises(NoHandshakeError, match="and 97 more within"):
        fake.wait(*keys)
    assert max(len(change.peers) for change in fake.changes) <= 100, "no request is too large for the kernel"


def test_wait_takes_its_seconds_after_an_equals_sign_only() -> None:
    call = parse(["up", "--wait", "wg0"])
    assert call is not None
    assert (call.targets, call.given) == (["wg0"], {"wait": "15"})
    call = parse(["up", "wg0", "--wait=2.5", "--or-down"])
    assert call is not None
    assert call.given == {"wait": "2.5", "or-down": True}
