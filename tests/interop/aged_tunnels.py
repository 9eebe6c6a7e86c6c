"""Tunnels that grow old while other tests run: each of a kind, with ours at either end."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

from tests.interop.pairs import EVERY_ROLE, GO, ROLES, WGQ, End, pair
from tests.interop.traffic import Transfer
from tests.namespaces import mortal

if TYPE_CHECKING:
    from typing import Self

# The whitepaper's constants, in seconds (section 6.1).
REKEY_AFTER = 120
REJECT_AFTER = 180
KEEPALIVE_TIMEOUT = 10
REKEY_TIMEOUT = 5
REKEY_ATTEMPT_TIME = 90


@dataclasses.dataclass
class AgedTunnel:
    """A tunnel and the traffic that has been in it since its beginning."""

    left: End
    right: End
    born: float
    first_handshake: int = 0
    traffic: subprocess.Popen[bytes] | None = None
    transfer: Transfer | None = None
    waking: threading.Timer | None = None
    arrived_before: int = 0

    def __str__(self) -> str:
        return f"{self.left.program} to {self.right.program}"

    @property
    def ours(self) -> End:
        return self.left if self.left.program == WGQ else self.right

    @property
    def theirs(self) -> End:
        return self.right if self.ours is self.left else self.left

    def renewed(self) -> int:
        """How many seconds after the first handshake the last one was."""
        return self.ours.handshake(self.theirs) - self.first_handshake

    def wait_until(self, age: float) -> None:
        """Let time pass until it is so many seconds old."""
        time.sleep(max(0.0, self.born + age - time.monotonic()))

    def wake(self) -> None:
        """Let our end go on, and remember how much had arrived until then."""
        assert self.transfer is not None
        assert self.ours.daemon is not None
        self.arrived_before = self.transfer.received
        self.ours.daemon.send_signal(signal.SIGCONT)

    def pings(self) -> tuple[int, int]:
        """End its pings; how many were sent and how many were answered."""
        assert self.traffic is not None
        self.traffic.send_signal(signal.SIGINT)
        summary = self.traffic.communicate(timeout=60)[0].decode()
        found = re.search(r"(\d+) packets transmitted, (\d+) received", summary)
        assert found, summary
        return int(found[1]), int(found[2])


class AgedTunnels(contextlib.ExitStack):
    """All of them, by what passes through them.

    - `busy`: pings from the one who began
    - `kept`: persistent keepalives from the one who began
    - `listening`: persistent keepalives from the other one, and nothing else
    - `silent`: one word in the beginning
    - `frozen`: pings, while our end stands still for longer than a session lives
    - `halted`: a gigabyte, of which a third had arrived when our end stood still for as long
    - `widowed`: one word to an end that hangs
    """

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self) -> None:
        self.busy = [self._busy(*roles) for roles in (*EVERY_ROLE, (WGQ, WGQ))]
        self.kept = [self._kept(*roles) for roles in ROLES]
        self.listening = [self._listening(*roles) for roles in ROLES]
        self.silent = [self._silent(*roles) for roles in ROLES]
        self.frozen = [self._frozen(*roles) for roles in ROLES]
        self.halted = [self._halted(*roles) for roles in ROLES]
        self.widowed = self._widowed(WGQ, GO)

    def _aged(self, left_program: str, right_program: str) -> AgedTunnel:
        left, right = self.enter_context(pair(left_program, right_program))
        for end in (left, right):
            end.count_messages()
        born = time.monotonic()
        left.ping(right)
        made = AgedTunnel(left, right, born)
        made.first_handshake = made.ours.handshake(made.theirs)
        return made

    def _busy(self, left: str, right: str) -> AgedTunnel:
        made = self._aged(left, right)
        pings = mortal("ping", "-n", "-q", "-i", "0.2", made.right.inner())
        made.traffic = made.left.machine.popen(pings, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert made.traffic.stdout is not None
        self.callback(made.traffic.stdout.close)
        return made

    def _kept(self, left: str, right: str) -> AgedTunnel:
        made = self._aged(left, right)
        made.left.set_peer(made.right, "persistent-keepalive", "2")
        return made

    def _listening(self, left: str, right: str) -> AgedTunnel:
        made = self._aged(left, right)
        made.right.set_peer(made.left, "persistent-keepalive", "2")
        return made

    def _silent(self, left: str, right: str) -> AgedTunnel:
        made = self._aged(left, right)
        time.sleep(1)  # a late answer to the first pings is no answer to it
        assert self._say(made, "one word").recv(100) == b"one word"
        return made

    def _frozen(self, left: str, right: str) -> AgedTunnel:
        made = self._busy(left, right)
        self._stop(made.ours)
        return made

    def _halted(self, left: str, right: str) -> AgedTunnel:
        made = self._aged(left, right)
        made.transfer = Transfer(made.left, made.right, 1 << 30, patience=2 * REJECT_AFTER)
        made.transfer.begin()
        made.transfer.reaches(1 / 3)
        self._stop(made.ours)
        # Not by the test, which may come much later: TCP gives up after a quarter of an hour.
        made.waking = threading.Timer(REJECT_AFTER + KEEPALIVE_TIMEOUT, made.wake)
        made.waking.start()
        self.callback(made.waking.cancel)
        return made

    def _stop(self, end: End) -> None:
        assert end.daemon is not None
        end.daemon.send_signal(signal.SIGSTOP)
        self.callback(end.daemon.send_signal, signal.SIGCONT)

    def _widowed(self, left: str, right: str) -> AgedTunnel:
        made = self._aged(left, right)
        self._stop(made.right)
        self._say(made, "are you there")
        return made

    def _say(self, aged: AgedTunnel, words: str) -> socket.socket:
        """One datagram, and the socket that listens to it: no ICMP answers it."""
        listening = self.enter_context(aged.right.open_socket(socket.AF_INET, socket.SOCK_DGRAM))
        listening.bind((aged.right.inner(), 0))
        with aged.left.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as speaking:
            speaking.sendto(words.encode(), listening.getsockname())
        return listening
