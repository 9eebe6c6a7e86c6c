"""Tunnels that age while other tests run: one of each kind, with wgq-userspace at one end at least."""

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
from tests.waiting import stop, until

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
    """A tunnel and its traffic since the first handshake."""

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
        """Seconds between the first handshake and the last one."""
        return self.ours.handshake(self.theirs) - self.first_handshake

    def wait_until(self, age: float) -> None:
        """Sleep until the tunnel is `age` seconds old."""
        time.sleep(max(0.0, self.born + age - time.monotonic()))

    def wake(self) -> None:
        """Resume our stopped daemon, and record how many bytes had arrived before."""
        assert self.transfer is not None
        assert self.ours.daemon is not None
        self.arrived_before = self.transfer.received
        self.ours.daemon.send_signal(signal.SIGCONT)

    def pings(self) -> int:
        """Wait until at most the last ping has no answer, and stop the pings. Returns how many were sent.

        If a daemon stands still for a second, several answers come late, and none comes after SIGINT.
        """
        assert self.traffic is not None
        sent = 0

        def are_answered() -> bool:
            nonlocal sent
            answered, sent = self._counted()
            return sent - answered <= 1

        until(are_answered, f"an answer to all pings but the last: {self}")
        self.traffic.send_signal(signal.SIGINT)
        self.traffic.communicate(timeout=60)
        return sent

    def _counted(self) -> tuple[int, int]:
        """How many pings were answered, and how many sent: SIGQUIT makes ping(8) print that."""
        assert self.traffic is not None
        assert self.traffic.stderr is not None
        self.traffic.send_signal(signal.SIGQUIT)
        line = self.traffic.stderr.readline().decode()
        found = re.search(r"(\d+)/(\d+) packets", line)
        assert found, line
        return int(found[1]), int(found[2])


class AgedTunnels(contextlib.ExitStack):
    """All aged tunnels, by their traffic.

    - `busy`: the initiator pings
    - `kept`: the initiator sends persistent keepalives
    - `listening`: the responder sends persistent keepalives, and there is no other traffic
    - `silent`: one datagram at the beginning
    - `frozen`: pings, while our daemon is stopped for longer than a session lives
    - `halted`: a transfer of a gigabyte; our daemon is stopped for the same time after a third of it
    - `unanswered`: one datagram to an end that is stopped
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
        self.unanswered = self._unanswered(WGQ, GO)

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
        made.traffic = made.left.machine.popen(
            pings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        for stream in (made.traffic.stdout, made.traffic.stderr):
            assert stream is not None
            self.callback(stream.close)
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
        time.sleep(1)  # late replies to the first pings would count as an answer to the datagram
        assert self._send(made, "one word").recv(100) == b"one word"
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
        # A timer does this, as the test may run much later: TCP gives up after fifteen minutes.
        made.waking = threading.Timer(REJECT_AFTER + KEEPALIVE_TIMEOUT, made.wake)
        made.waking.start()
        self.callback(made.waking.cancel)
        return made

    def _stop(self, end: End) -> None:
        assert end.daemon is not None
        stop(end.daemon.pid)
        self.callback(end.daemon.send_signal, signal.SIGCONT)

    def _unanswered(self, left: str, right: str) -> AgedTunnel:
        made = self._aged(left, right)
        self._stop(made.right)
        self._send(made, "are you there")
        return made

    def _send(self, aged: AgedTunnel, text: str) -> socket.socket:
        """Send one datagram. Returns the socket that receives it, so that no ICMP error answers."""
        listening = self.enter_context(aged.right.open_socket(socket.AF_INET, socket.SOCK_DGRAM))
        listening.bind((aged.right.inner(), 0))
        with aged.left.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.sendto(text.encode(), listening.getsockname())
        return listening
