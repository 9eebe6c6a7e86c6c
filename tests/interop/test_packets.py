"""Messages from strangers and replayed messages do not stop the daemon, or move or open its tunnels."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop import forgery
from tests.interop.pairs import GO, LINK, ROLES, WGQ, End, pair
from tests.interop.traffic import bulk
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STRANGER = 666


class Scene:
    """Our end, the other end, and all messages captured between them."""

    def __init__(self, ours: End, theirs: End, tap: forgery.Tap) -> None:
        self.ours, self.theirs, self._tap = ours, theirs, tap
        self.captured: list[forgery.Captured] = []

    def capture(self) -> list[forgery.Captured]:
        """Record and return what the other end has sent since the last call."""
        new = [message for message in self._tap.messages() if message.source[0] == self.theirs.outer()]
        self.captured += new
        return new

    def of_kind(self, kind: int) -> list[bytes]:
        return [message.payload for message in self.captured if message.kind == kind]

    def send(self, payloads: Iterable[bytes], port: int = STRANGER) -> None:
        """Send to our daemon from a port of the other end's machine, with pauses so that no buffer overflows."""
        with forgery.raw_socket(self.theirs) as sender:
            for number, payload in enumerate(payloads):
                forgery.send_as(sender, (self.theirs.outer(), port), (self.ours.outer(), self.ours.port), payload)
                if number % 64 == 0:
                    time.sleep(0.001)

    def send_both_ways(self, payloads: Iterable[bytes]) -> None:
        """Send from a stranger's port, and from the peer's own port."""
        listed = list(payloads)
        self.send(listed)
        self.send(listed, self.theirs.port)

    def assert_unmoved(self) -> None:
        """The session continues, its endpoint is the same, and both directions carry data."""
        self.ours.assert_alive()
        assert self.ours.known_endpoint(self.theirs) == self.theirs.endpoint()
        before = self.ours.handshake(self.theirs)
        self.theirs.ping(self.ours)
        self.ours.ping(self.theirs)
        assert self.ours.handshake(self.theirs) == before
        bulk(self.ours, self.theirs, 1 << 20)
        bulk(self.theirs, self.ours, 1 << 20)


@pytest.fixture(params=ROLES, ids="-to-".join)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with pair(*request.param) as (left, right):
        ours, theirs = (left, right) if left.program == WGQ else (right, left)
        with forgery.tap(theirs) as tap:
            left.begin(right)
            for size in (0, 100, 1000):
                left.ping(right, "-s", str(size))
            made = Scene(ours, theirs, tap)
            until(lambda: (made.capture(), len(made.of_kind(forgery.DATA)) >= 4)[1], "data on the wire")
            yield made


def test_noise_of_every_size_is_ignored(scene: Scene) -> None:
    scene.send_both_ways(forgery.noise())
    scene.assert_unmoved()


def test_noise_over_ipv6_is_ignored(scene: Scene) -> None:
    with scene.theirs.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        for payload in forgery.noise(9000, 65000):
            sender.sendto(payload, (scene.ours.outer(6), scene.ours.port))
    scene.assert_unmoved()


def test_changed_and_cut_messages_of_a_session_are_ignored(scene: Scene) -> None:
    handshakes = scene.of_kind(forgery.INITIATION) + scene.of_kind(forgery.RESPONSE)
    assert handshakes
    before = scene.ours.transfer(scene.theirs)[0]
    for message in (handshakes[-1], *scene.of_kind(forgery.DATA)[:4]):
        scene.send_both_ways(forgery.variations(message))
    # The other end may have sent a keepalive meanwhile; changed messages add nothing.
    assert scene.ours.transfer(scene.theirs)[0] - before in (0, 32)
    scene.assert_unmoved()


def test_a_replayed_session_delivers_nothing_moves_no_endpoint(scene: Scene) -> None:
    with (
        scene.ours.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as incoming,
        scene.theirs.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as outgoing,
    ):
        incoming.bind((scene.ours.inner(), 0))
        outgoing.connect(incoming.getsockname())
        for number in range(300):
            outgoing.send(b"%d" % number)
            assert incoming.recv(100) == b"%d" % number
        until(lambda: (scene.capture(), len(scene.of_kind(forgery.DATA)) >= 300)[1], "all messages captured")
        replayed = [message.payload for message in scene.captured]
        for _ in range(2):
            scene.send_both_ways(replayed)
        outgoing.send(b"the next")
        assert incoming.recv(100) == b"the next"
        incoming.setblocking(False)
        with pytest.raises(BlockingIOError):
            incoming.recv(100)
    scene.assert_unmoved()


def test_an_expired_session_cannot_be_replayed(scene: Scene) -> None:
    old = [message.payload for message in scene.captured]
    for _ in range(3):
        scene.theirs.forget(scene.ours)
        scene.theirs.ping(scene.ours)
    scene.theirs.begin(scene.ours)
    scene.send_both_ways(old)
    scene.assert_unmoved()


def test_forged_handshakes_with_a_valid_mac1_open_nothing(scene: Scene) -> None:
    low_order = [bytes(32), bytes([1]) + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]
    forged = [forgery.initiation(scene.ours.public, point) for point in (*low_order, *[b""] * 200)]
    session = scene.of_kind(forgery.DATA)[0][4:8]
    for receiver in (session, os.urandom(4)):
        response = b"\x02\0\0\0" + os.urandom(4) + receiver + os.urandom(48)
        forged.append(response + forgery.mac1(scene.ours.public, response) + bytes(16))
        forged.append(b"\x03\0\0\0" + receiver + os.urandom(56))
    scene.ours.count_messages()
    scene.send_both_ways(forged)
    scene.assert_unmoved()
    assert scene.ours.sent("response") == 0


def test_messages_to_a_device_without_key_or_peer_are_ignored() -> None:
    with pair(WGQ, GO) as (left, right), forgery.tap(right) as tap:
        left.ping(right)
        scene = Scene(left, right, tap)
        until(lambda: (scene.capture(), scene.of_kind(forgery.DATA))[1], "data on the wire")
        real = [message.payload for message in scene.captured]
        for arguments in (["peer", right.public, "remove"], ["private-key", "/dev/null"]):
            left.wg("set", LINK, *arguments)
            scene.send_both_ways([*real, *(forgery.initiation(left.public) for _ in range(50)), *forgery.noise()])
            assert not right.try_ping(left)
        left.wg("setconf", LINK, "/dev/stdin", input=left.interface() + right.peer(version=4))
        left.ping(right)
