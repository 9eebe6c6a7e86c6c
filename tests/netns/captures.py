"""Captures at one end of a tunnel, for tests of senders and signatures."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import pytest

from tests.interop.noise import Static
from tests.interop.pairs import GO, LINK, WGQ, End, join, machines
from tests.namespaces import mortal
from tests.waiting import until
from wgquick import api
from wgquick.device import Device
from wgquick.diagnosis.senders import CaptureSummary, Sender, SenderCounter
from wgquick.diagnosis.signatures import Sign, signs
from wgquick.net import PublicKey, SecretKey
from wgquick.system.capture import Capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wgquick.device import Device

_FILTER = """
table inet {chain} {{
    chain {chain} {{
        type filter hook {chain} priority 0
        udp {way} {port} {verdict}
    }}
}}
"""


class Listener:
    """A capture at one end, with the device's state from before it."""

    def __init__(self, end: End, capture: Capture, counter: SenderCounter, before: Device | None) -> None:
        self._end, self._capture, self._counter, self._before = end, capture, counter, before

    def heard(self, seconds: float = 0.1) -> CaptureSummary:
        """Everything captured so far and during the next `seconds`."""
        for event in self._capture.read(seconds):
            self._counter.take(event)
        return self._counter.result(0, seconds, self._capture.loss.dropped)

    def until(self, condition: Callable[[CaptureSummary], object], what: str) -> CaptureSummary:
        """Capture until the condition holds."""
        until(lambda: condition(self.heard()), what)
        return self.heard(0.01)

    def sender(self, kind: str = "initiation", least: int = 1) -> Sender:
        """The one row of a kind, once its count reaches `least`."""
        heard = self.until(lambda so_far: sum(_times(so_far, kind)) >= least, f"{least} of {kind}")
        (sender,) = (sender for sender in heard.senders if sender.kind == kind)
        return sender

    def signs(self, seconds: float = 0.1) -> list[Sign]:
        """The signs found so far."""
        heard = self.heard(seconds)
        assert self._before is not None
        return signs(self._before, device(self._end), heard)

    def sign(self, code: str, confidence: str = "") -> Sign:
        """Capture until this sign is found."""
        found: list[Sign] = []

        def is_found() -> bool:
            found[:] = self.signs()
            return any(sign.code == code and confidence in ("", sign.confidence) for sign in found)

        try:
            until(is_found, f"{code} is found")
        except AssertionError as error:
            raise AssertionError(f"{error}; but {found}, of {self.heard()}") from None
        return next(sign for sign in found if sign.code == code)


def _times(heard: CaptureSummary, kind: str) -> list[int]:
    return [sender.times for sender in heard.senders if sender.kind == kind]


def device(end: End) -> Device:
    """The state of this end's device."""
    with end.machine.entered():
        return api.devices([LINK])[0]


@contextlib.contextmanager
def listening(end: End, *peers: End, candidates: tuple[str, ...] = (), read: bool = False) -> Iterator[Listener]:
    """Capture at an end whose device has these peers; with `read`, the peers are read from the device."""
    before = device(end) if read else None
    keys = (
        [peer.public_key for peer in before.peers] if before else [PublicKey.parse(peer.public) for peer in peers]
    )
    counter = SenderCounter(SecretKey.parse(end.private), keys, map(PublicKey.parse, candidates))
    with contextlib.ExitStack() as stack:
        with end.machine.entered():
            capture = stack.enter_context(Capture(end.port, LINK))
        yield Listener(end, capture, counter, before)


@contextlib.contextmanager
def daemons(program: str) -> Iterator[tuple[End, End]]:
    """Two connected machines with a daemon each and no peers yet; the left one begins the handshakes."""
    with machines(WGQ, program) as (left, right):
        join(left, right)
        for end in (left, right):
            end.start()
        yield left, right


def static(sender: End, receiver: End) -> Static:
    """The sender's keys, for handshakes that the test makes itself."""
    return Static(SecretKey.parse(sender.private).raw, PublicKey.parse(receiver.public).raw, bytes(32))


def firewall(end: End, verdict: str, chain: str = "input") -> None:
    """Add a firewall rule for what arrives at the end's port, or for what leaves it (chain output)."""
    way = {"input": "dport", "output": "sport"}[chain]
    rules = _FILTER.format(chain=chain, way=way, port=end.port, verdict=verdict)
    end.machine.run(["nft", "-f", "-"], input=rules)


def send(sender: End, receiver: End, payload: bytes, pause: float) -> None:
    """Send a payload repeatedly until the machine ends."""
    program = (
        "import socket, time\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"while True: s.sendto({payload!r}, ('{receiver.outer()}', {receiver.port})); time.sleep({pause})\n"
    )
    sender.machine.popen(mortal(sys.executable, "-c", program))


EAGER = "PersistentKeepalive = 1"

BOTH = pytest.mark.parametrize("program", [WGQ, GO])
