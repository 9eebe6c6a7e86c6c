"""A netlink socket for single requests, dumps and batches, which matches answers to requests."""

from __future__ import annotations

import errno
import os
from _socket import AF_NETLINK, SO_RCVBUF, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, NamedTuple, socket
from wgquick.system.netlink.codec import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    U16,
    Message,
    errno_of,
    explanation,
    messages,
    numbered,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self, TypeVar

    T = TypeVar("T")

_SO_RCVBUFFORCE = 33
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12

_RECEIVE = 1 << 16  # the kernel fills at most 32 KiB of a dump at once
_BATCH = 1000  # messages a send; a send is limited by the send buffer, 208 KiB by default
_BATCH_BYTES = 1 << 16
_RECEIVE_BUFFER = 4 << 20
_ANSWER_COST = 2048  # the maximum space of a queued answer in the receive buffer, with overhead
_DUMP_TRIES = 10


class Refusal(NamedTuple):
    """The kernel's refusal of a request: errno, and the kernel's message if there is one."""

    errno: int
    text: str = ""

    def __str__(self) -> str:
        reason = os.strerror(self.errno)
        return f"{reason} ({self.text.rstrip('.')})" if self.text else reason


class RefusedError(OperationError):
    """The kernel refused a request."""

    def __init__(self, refusal: Refusal, what: str) -> None:
        remedy = "Run it as root, or with CAP_NET_ADMIN." if refusal.errno == errno.EPERM else ""
        super().__init__(f"{what}: {refusal}", errno=refusal.errno, remedy=remedy)
        self.refusal = refusal


class Connection:
    """A netlink socket in the network namespace of the thread that opens it."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
        self._sequence = 0
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._try_option(_SOL_NETLINK, option, 1)  # older kernels with WireGuard lack these options

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _try_option(self, level: int, option: int, value: int) -> None:
        try:
            self._socket.setsockopt(level, option, value)
        except OSError:
            return

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _answers(self, sequence: int) -> Iterator[Message]:
        """The answers to a request; those to an earlier, abandoned request are skipped."""
        while True:
            for answer in messages(self._socket.recv(_RECEIVE)):
                if answer.sequence >= sequence:
                    yield answer

    def request(self, request: bytes, what: str) -> list[Message]:
        """Send one request; its answers up to the acknowledgement, or RefusedError."""
        sequence = self._next()
        self._socket.send(_acknowledged(numbered(request, sequence)))
        found: list[Message] = []
        for answer in self._answers(sequence):
            if answer.kind == NLMSG_ERROR:
                _check(answer, what)
                break
            found.append(answer)
        return found

    def each(self, request: bytes, what: str) -> Iterator[Message]:
        """The messages of a dump as they arrive, even if inconsistent; for callers that need only the first."""
        sequence = self._next()
        self._socket.send(_flagged(numbered(request, sequence), NLM_F_DUMP))
        for answer in self._answers(sequence):
            if answer.kind in (NLMSG_DONE, NLMSG_ERROR):
                _check(answer, what)
                return
            yield answer

    def dump(self, request: bytes, what: str) -> list[Message]:
        """All messages of a dump, repeated while changes interrupt it (NLM_F_DUMP_INTR).

        After some tries an interrupted dump is accepted, as ip(8) does at once.
        """
        for _ in range(_DUMP_TRIES):
            found = list(self.each(request, what))
            if not any(part.flags & NLM_F_DUMP_INTR for part in found):
                break
        return found

    def batch(self, items: Sequence[T], encode: Callable[[T, int], bytes]) -> list[tuple[int, Refusal]]:
        """Send `encode(item, sequence)` for each item, many per send; returns the refused ones by index.

        Only the last message of a send requests an acknowledgement; the others are answered only if they fail. The
        kernel processes a send before the call returns. The size of sends is limited so that the answers fit into
        the receive buffer.
        """
        limit = self._batch_limit()
        base = self._sequence + 1
        refused: list[tuple[int, Refusal]] = []
        start = 0
        while start < len(items):
            parts: list[bytes] = []
            size = 0
            for item in items[start : start + limit]:
                parts.append(encode(item, base + start + len(parts)))
                size += len(parts[-1])
                if size > _BATCH_BYTES:
                    break
            parts[-1] = _acknowledged(parts[-1])
            self._sequence = base + start + len(parts) - 1
            self._socket.send(b"".join(parts))
            refused += self._refused(base, start, self._sequence)
            start += len(parts)
        return refused

    def _refused(self, base: int, start: int, last: int) -> Iterator[tuple[int, Refusal]]:
        for answer in self._answers(base + start):
            if code := errno_of(answer):
                yield answer.sequence - base, Refusal(code, explanation(answer))
            if answer.sequence == last:
                return

    def _batch_limit(self) -> int:
        self._try_option(SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        return min(_BATCH, max(1, self._socket.getsockopt(SOL_SOCKET, SO_RCVBUF) // _ANSWER_COST))


def _flagged(request: bytes, flags: int) -> bytes:
    (present,) = U16.unpack_from(request, 6)
    return request[:6] + U16.pack(present | flags) + request[8:]


def _acknowledged(request: bytes) -> bytes:
    return _flagged(request, NLM_F_ACK)


def _check(answer: Message, what: str) -> None:
    if code := errno_of(answer):
        raise RefusedError(Refusal(code, explanation(answer)), what)
