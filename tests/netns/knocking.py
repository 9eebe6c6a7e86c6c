"""Listening at one end of a tunnel, for tests of what is heard and of what it means."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from tests.interop.noise import Static
from tests.interop.pairs import LINK, WGQ, End, join, machines, until
from tests.namespaces import mortal
from wgquick import api
from wgquick.diagnosis.knocks import Heard, Knock, Ledger
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
    """A capture at one end, whose device was read before it."""

    def __init__(self, end: End, capture: Capture, ledger: Ledger, before: Device | None) -> None:
        self._end, self._capture, self._ledger, self._before = end, capture, ledger, before

    def heard(self, seconds: float = 0.1) -> Heard:
        """All so far, and what comes in that many seconds."""
        for event in self._capture.read(seconds):
            self._ledger.take(event)
        return self._ledger.result(0, seconds, self._capture.loss.dropped)

    def until(self, condition: Callable[[Heard], object], what: str) -> Heard:
        """Listen until the condition holds."""
        until(lambda: condition(self.heard()), what)
        return self.heard(0.01)

    def knock(self, kind: str = "initiation", least: int = 1) -> Knock:
        """The one row of a kind, once so many have come."""
        heard = self.until(lambda so_far: sum(_times(so_far, kind)) >= least, f"{least} of {kind}")
        (knock,) = (knock for knock in heard.knocks if knock.kind == kind)
        return knock

    def signs(self, seconds: float = 0.1) -> list[Sign]:
        """What it comes to so far."""
        heard = self.heard(seconds)
        assert self._before is not None
        return signs(self._before, device(self._end), heard)

    def sign(self, code: str, confidence: str = "") -> Sign:
        """Listen until it comes to this."""
        found: list[Sign] = []

        def is_found() -> bool:
            found[:] = self.signs()
            return any(sign.code == code and confidence in ("", sign.confidence) for sign in found)

        try:
            until(is_found, f"{code} is found")
        except AssertionError as error:
            raise AssertionError(f"{error}; but {found}, of {self.heard()}") from None
        return next(sign for sign in found if sign.code == code)


def _times(heard: Heard, kind: str) -> list[int]:
    return [knock.times for knock in heard.knocks if knock.kind == kind]


def device(end: End) -> Device:
    """The state of an end's device."""
    with end.machine.entered():
        return api.devices([LINK])[0]


@contextlib.contextmanager
def listening(end: End, *peers: End, candidates: tuple[str, ...] = (), read: bool = False) -> Iterator[Listener]:
    """Listen at an end whose device has these peers; with `read`, those that the device says."""
    before = device(end) if read else None
    keys = (
        [peer.public_key for peer in before.peers] if before else [PublicKey.parse(peer.public) for peer in peers]
    )
    ledger = Ledger(SecretKey.parse(end.private), keys, map(PublicKey.parse, candidates))
    with contextlib.ExitStack() as stack:
        with end.machine.entered():
            capture = stack.enter_context(Capture(end.port, LINK))
        yield Listener(end, capture, ledger, before)


@contextlib.contextmanager
def begun(program: str) -> Iterator[tuple[End, End]]:
    """Two joined machines with a daemon each, and no peers yet; the left one begins what there is to begin."""
    with machines(WGQ, program) as (left, right):
        join(left, right)
        for end in (left, right):
            end.start()
        yield left, right


def static(sender: End, receiver: End) -> Static:
    """The sender's side of handshakes that a test makes by itself."""
    return Static(SecretKey.parse(sender.private).raw, PublicKey.parse(receiver.public).raw, bytes(32))


def firewall(end: End, verdict: str, chain: str = "input") -> None:
    """Give an end's machine a rule for what comes to the end's port, or (chain output) leaves it."""
    way = {"input": "dport", "output": "sport"}[chain]
    rules = _FILTER.format(chain=chain, way=way, port=end.port, verdict=verdict)
    end.machine.run(["nft", "-f", "-"], input=rules)


def send(sender: End, receiver: End, payload: bytes, pause: float) -> None:
    """Send a payload again and again until the machine ends."""
    program = (
        "import socket, time\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"while True: s.sendto({payload!r}, ('{receiver.outer()}', {receiver.port})); time.sleep({pause})\n"
    )
    sender.machine.popen(mortal(sys.executable, "-c", program))
