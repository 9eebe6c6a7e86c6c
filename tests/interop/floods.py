"""Floods of forged initiations, and how long a transfer takes beside them."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.interop import flood, forgery, spoofed
from tests.interop.pairs import WIRE, End
from tests.interop.traffic import Transfer
from tests.namespaces import mortal
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Flood = Callable[[End, End], contextlib.AbstractContextManager[None]]

RATE = 50_000
NO_LIMIT = 10**9
LENGTH = forgery.LENGTHS[forgery.INITIATION]
# More messages than the flood sends in a second. One in WRONG has a wrong first MAC.
STRANGERS, WRONG = 60_000, 5
ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}


@contextlib.contextmanager
def sending(attacker: End, command: list[str], messages: bytes) -> Iterator[None]:
    """Send messages from this end's machine with one of the programs beside this file."""
    attack = attacker.machine.popen(mortal(sys.executable, "-S", *command), stdin=subprocess.PIPE)
    assert attack.stdin is not None
    with attack.stdin:
        attack.stdin.write(messages)
    try:
        yield
        assert attack.poll() is None
    finally:
        attack.kill()
        attack.wait()


@contextlib.contextmanager
def from_sixteen_ports(victim: End, attacker: End) -> Iterator[None]:
    """A flood that anyone who knows the public key can send: the first MAC is right."""
    aim = [victim.outer(), str(victim.port), str(LENGTH), str(RATE)]
    with sending(attacker, [flood.__file__, *aim], with_a_right_mac1(victim)):
        yield


def garbage(_: End) -> bytes:
    """Messages that only have the type and the length of an initiation."""
    return b"".join(struct.pack("<I", forgery.INITIATION) + os.urandom(LENGTH - 4) for _ in range(3000))


def with_a_right_mac1(victim: End) -> bytes:
    """Initiations that anyone who knows the public key can make."""
    return b"".join(forgery.initiation(victim.public) for _ in range(3000))


@contextlib.contextmanager
def at_full_speed(victim: End, attacker: End, messages: bytes) -> Iterator[None]:
    """Send these messages as fast as one sender can."""
    aim = [victim.outer(), str(victim.port), str(LENGTH), str(NO_LIMIT)]
    with sending(attacker, [flood.__file__, *aim], messages):
        yield


_FORGED = """
table inet forged {
    counter forged { }
    chain received {
        type filter hook prerouting priority 0
        meta l4proto udp @th,64,8 1 counter name forged
    }
}
"""


def forged(victim: End) -> int:
    """How many initiations have arrived at this end's machine since the flood began."""
    words = victim.machine.out("nft", "list", "counter", "inet", "forged", "forged").split()
    return int(words[words.index("packets") + 1])


def card(end: End) -> bytes:
    """The hardware address of this end's link."""
    return bytes.fromhex(end.machine.out("cat", f"/sys/class/net/{WIRE}/address").replace(":", ""))


def frames(victim: End, attacker: End, version: int, wrong: int) -> Iterator[bytes]:
    """Initiations from random addresses, each after its length. One in `wrong` has a wrong first MAC."""
    header = card(victim) + card(attacker) + ETHERTYPES[version]
    for number in range(STRANGERS):
        key = victim.public if number % wrong else attacker.public
        frame = header + forgery.anyones_packet(victim, version, forgery.initiation(key))
        yield struct.pack("!H", len(frame)) + frame


@contextlib.contextmanager
def from_everywhere(victim: End, attacker: End, version: int, wrong: int = WRONG) -> Iterator[None]:
    """A flood with a different source address for each message of a second; the answers are dropped."""
    everywhere = {4: "0.0.0.0/0", 6: "::/0"}[version]
    victim.ip(f"route add {everywhere} via {attacker.outer(version)} dev {WIRE}")
    attacker.ip(f"route add blackhole {everywhere}")
    messages = b"".join(frames(victim, attacker, version, wrong))
    victim.machine.run(["nft", "-f", "-"], input=_FORGED)
    with sending(attacker, [spoofed.__file__, WIRE, str(RATE)], messages):
        until(lambda: forged(victim), "the first of the flood")
        before, began = forged(victim), time.monotonic()
        yield
        # On a busy machine the sender does not reach the full rate.
        assert forged(victim) - before > 0.5 * RATE * (time.monotonic() - began)


def from_ipv4(victim: End, attacker: End) -> contextlib.AbstractContextManager[None]:
    return from_everywhere(victim, attacker, 4)


def from_ipv6(victim: End, attacker: End) -> contextlib.AbstractContextManager[None]:
    return from_everywhere(victim, attacker, 6)


FLOODS = [from_sixteen_ports, from_ipv4, from_ipv6]


def took(sender: End, receiver: End, size: int) -> float:
    began = time.monotonic()
    with Transfer(sender, receiver, size):
        pass
    return time.monotonic() - began


# Sending and receiving the flood costs the machine time in both runs; the difference is the daemon's part.
_DROPPED = """
table inet dropped {
    chain received {
        type filter hook input priority 0
        meta l4proto udp @th,64,8 1 drop
    }
}
"""


@contextlib.contextmanager
def deaf_to_initiations(end: End) -> Iterator[None]:
    end.machine.run(["nft", "-f", "-"], input=_DROPPED)
    try:
        yield
    finally:
        end.machine.run(["nft", "delete", "table", "inet", "dropped"])
