"""Sends data through a tunnel and compares it at the far end. The sockets belong to the machines."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

from tests.interop.forgery import checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self

    from tests.interop.pairs import End

SO_RCVBUFFORCE = 33
UDP_SEGMENT = 103
SO_MAX_PACING_RATE = 47
_BLOCK = 1 << 20
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def _blocks(size: int) -> Iterator[bytes]:
    """Random bytes; each block differs in its first eight bytes only, which is fast."""
    noise = os.urandom(_BLOCK)
    for number in range(0, size, _BLOCK):
        yield (number.to_bytes(8, "big") + noise[8:])[: size - number]


class Transfer:
    """A TCP transfer from one end to the other, in the background.

        with Transfer(left, right, size) as transfer:
            transfer.reaches(0.5)
            ...
        # everything has arrived unchanged and in order

    `patience` is the longest standstill, in seconds. `rate` is in bytes per second.
    """

    def __init__(
        self, sender: End, receiver: End, size: int, *, version: int = 4, patience: float = 30, rate: int = 0
    ) -> None:
        self._size = size
        self.received = 0
        self._sent_digest, self._received_digest = hashlib.sha256(), hashlib.sha256()
        self._error: OSError | None = None
        self._listener = receiver.open_socket(_FAMILIES[version], socket.SOCK_STREAM)
        self._outgoing = sender.open_socket(_FAMILIES[version], socket.SOCK_STREAM)
        for each in (self._listener, self._outgoing):
            each.settimeout(patience)
        self._listener.bind((receiver.inner(version), 0))
        self._listener.listen()
        if rate:
            self._outgoing.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)
        parts = (self._send, self._receive)
        self._threads = [threading.Thread(target=self._caught, args=[part], daemon=True) for part in parts]

    def _caught(self, part: Callable[[], None]) -> None:
        try:
            part()
        except OSError as error:
            self._error = self._error or error

    def _send(self) -> None:
        with self._outgoing:
            self._outgoing.connect(self._listener.getsockname()[:2])
            for block in _blocks(self._size):
                self._sent_digest.update(block)
                self._outgoing.sendall(block)

    def _receive(self) -> None:
        buffer = bytearray(_BLOCK)
        with self._listener, self._listener.accept()[0] as incoming:
            incoming.settimeout(self._listener.gettimeout())
            while count := incoming.recv_into(buffer):
                self._received_digest.update(memoryview(buffer)[:count])
                self.received += count

    def reaches(self, share: float) -> None:
        """Wait until this share of the data has arrived."""
        while self.received < share * self._size and self._error is None:
            time.sleep(0.01)

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Wait for the rest; assert that all of it arrived unchanged."""
        for thread in self._threads:
            thread.join()
        assert self._error is None, f"{self.received} of {self._size} bytes arrived, then: {self._error}"
        assert self.received == self._size
        assert self._received_digest.digest() == self._sent_digest.digest(), "what arrived is not what was sent"


def bulk(sender: End, receiver: End, size: int, *, version: int = 4, patience: float = 30) -> None:
    """Send `size` bytes by TCP; assert that they arrive unchanged and in order."""
    with Transfer(sender, receiver, size, version=version, patience=patience):
        pass


def datagrams(sender: End, receiver: End, sizes: Iterable[int], *, version: int = 4, window: int = 32) -> None:
    """Send one datagram of each size, `window` at a time; assert that each arrives unchanged and in order."""
    with (
        receiver.open_socket(_FAMILIES[version], socket.SOCK_DGRAM) as incoming,
        sender.open_socket(_FAMILIES[version], socket.SOCK_DGRAM) as outgoing,
    ):
        incoming.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        incoming.bind((receiver.inner(version), 0))
        incoming.settimeout(30)
        outgoing.connect(incoming.getsockname()[:2])
        waiting = list(sizes)
        while waiting:
            sent = [_payload(outgoing, size) for size in waiting[:window]]
            lost = _window(outgoing, incoming, sent)
            if lost and sender.program != receiver.program:
                # wireguard-go loses a whole window once in thousands of runs on a busy machine, but not twice.
                lost = _window(outgoing, incoming, [_payload(outgoing, size) for size in waiting[:window]])
            assert not lost, lost
            waiting = waiting[window:]


def _checksum_of(outgoing: socket.socket, payload: bytes) -> int:
    """The checksum of a datagram from a connected socket, before zero is replaced by 0xffff."""
    (source, from_port, *_), (target, to_port, *_) = outgoing.getsockname(), outgoing.getpeername()
    length = 8 + len(payload)
    addresses = socket.inet_pton(outgoing.family, source) + socket.inet_pton(outgoing.family, target)
    header = struct.pack("!HHHHHH", socket.IPPROTO_UDP, length, from_port, to_port, length, 0)
    return checksum(addresses, header, payload + bytes(len(payload) % 2))


def _payload(outgoing: socket.socket, size: int) -> bytes:
    """Random bytes with a nonzero checksum: wireguard-go loses the others (test_peers)."""
    while _checksum_of(outgoing, payload := os.urandom(size)) == 0 and size:
        pass
    return payload


def zero_sums(sender: End, receiver: End, *, version: int, at_once: bool, patience: float = 30) -> int:
    """Send 20 datagrams with a checksum of zero, 0xffff on the wire (RFC 8200, 8.1). Returns how many arrive.

    They go one by one, or in one large send that the kernel or the tunnel splits.
    """
    with (
        receiver.open_socket(_FAMILIES[version], socket.SOCK_DGRAM) as incoming,
        sender.open_socket(_FAMILIES[version], socket.SOCK_DGRAM) as outgoing,
    ):
        incoming.bind((receiver.inner(version), 0))
        incoming.settimeout(patience)
        outgoing.connect(incoming.getsockname()[:2])
        payloads = [_summing_to_zero(outgoing, 1000) for _ in range(20)]
        if at_once:
            outgoing.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
            payloads = [b"".join(payloads)]
        for payload in payloads:
            outgoing.send(payload)
        arrived = 0
        with contextlib.suppress(TimeoutError):
            while arrived < 20:
                incoming.recv(1 << 16)
                arrived += 1
        return arrived


def _summing_to_zero(outgoing: socket.socket, size: int) -> bytes:
    rest = os.urandom(size - 2)
    return struct.pack("!H", _checksum_of(outgoing, bytes(2) + rest)) + rest


def _window(outgoing: socket.socket, incoming: socket.socket, sent: list[bytes]) -> str:
    """Send the datagrams. Returns what was lost; fails if one arrives changed or out of order."""
    for datagram in sent:
        outgoing.send(datagram)
    for datagram in sent:
        try:
            received = incoming.recv(1 << 16)
        except TimeoutError:
            return f"a datagram of {len(datagram)} bytes did not arrive"
        assert received == datagram, f"a datagram of {len(datagram)} bytes arrived as {len(received)} others"
    return ""


# The traffic class of a socket, by family: level, option that sets it, option that reports it.
CLASSES = {4: (socket.SOL_IP, socket.IP_TOS, 13), 6: (socket.IPPROTO_IPV6, 67, 66)}
NOT_CAPABLE, CAPABLE, EXPERIENCED = 0, 2, 3


def arriving_class(sender: End, receiver: End, sent: int, version: int) -> int:
    """The traffic class that a datagram arrives with."""
    level, set_class, report_class = CLASSES[version]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with (
        sender.open_socket(family, socket.SOCK_DGRAM) as outgoing,
        receiver.open_socket(family, socket.SOCK_DGRAM) as incoming,
    ):
        incoming.setsockopt(level, report_class, 1)
        incoming.bind((receiver.inner(version), 0))
        outgoing.setsockopt(level, set_class, sent)
        outgoing.sendto(b"a datagram", incoming.getsockname()[:2])
        _, ancillary, _, _ = incoming.recvmsg(100, 100)
        return ancillary[0][2][0]
