"""Bytes through a tunnel, compared at the far end. The sockets are on the machines, their code is here."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.interop.pairs import End

SO_RCVBUFFORCE = 33
_BLOCK = 1 << 20
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def _blocks(size: int) -> Iterator[bytes]:
    """Random bytes that differ from block to block, cheaply."""
    noise = os.urandom(_BLOCK)
    for number in range(0, size, _BLOCK):
        yield (number.to_bytes(8, "big") + noise[8:])[: size - number]


class _Sending(threading.Thread):
    """Connects and sends some bytes, in a thread of its own; `digest` is theirs."""

    def __init__(self, connection: socket.socket, address: tuple[str, int], size: int) -> None:
        super().__init__()
        self._connection, self._address, self._size = connection, address, size
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            with self._connection:
                self._connection.connect(self._address)
                for block in _blocks(self._size):
                    self.digest.update(block)
                    self._connection.sendall(block)
        except OSError as error:
            self.error = error


def _received(connection: socket.socket) -> bytes:
    digest, buffer = hashlib.sha256(), bytearray(_BLOCK)
    while count := connection.recv_into(buffer):
        digest.update(memoryview(buffer)[:count])
    return digest.digest()


def bulk(sender: End, receiver: End, size: int, *, version: int = 4, patience: float = 30) -> None:
    """Send so many bytes by TCP; they arrive whole, unchanged and in order.

    The patience is for standstill: in so many seconds something has to move.
    """
    with receiver.open_socket(_FAMILIES[version], socket.SOCK_STREAM) as listener:
        listener.bind((receiver.inner(version), 0))
        listener.listen()
        listener.settimeout(patience)
        address: tuple[str, int] = listener.getsockname()[:2]
        outgoing = sender.open_socket(_FAMILIES[version], socket.SOCK_STREAM)
        outgoing.settimeout(patience)
        sending = _Sending(outgoing, address, size)
        sending.start()
        try:
            connection = listener.accept()[0]
            connection.settimeout(patience)
            with connection:
                received = _received(connection)
        finally:
            sending.join()
    assert sending.error is None, f"the sender: {sending.error}"
    assert received == sending.digest.digest(), "what arrived is not what was sent"


def datagrams(sender: End, receiver: End, sizes: Iterable[int], *, version: int = 4, window: int = 32) -> None:
    """Send one datagram of each size; each arrives unchanged and in order, `window` of them in flight."""
    with (
        receiver.open_socket(_FAMILIES[version], socket.SOCK_DGRAM) as incoming,
        sender.open_socket(_FAMILIES[version], socket.SOCK_DGRAM) as outgoing,
    ):
        incoming.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        incoming.bind((receiver.inner(version), 0))
        incoming.settimeout(5)
        outgoing.connect(incoming.getsockname()[:2])
        waiting = list(sizes)
        while waiting:
            _window(outgoing, incoming, [os.urandom(size) for size in waiting[:window]])
            waiting = waiting[window:]


def _window(outgoing: socket.socket, incoming: socket.socket, sent: list[bytes]) -> None:
    for datagram in sent:
        outgoing.send(datagram)
    for datagram in sent:
        try:
            received = incoming.recv(1 << 16)
        except TimeoutError:
            raise AssertionError(f"a datagram of {len(datagram)} bytes did not arrive") from None
        assert received == datagram, f"a datagram of {len(datagram)} bytes arrived as {len(received)} others"
