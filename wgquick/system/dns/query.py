"""A stub resolver (RFC 1035) for the addresses of one name, which sends marked packets to given servers.

The host's own resolver cannot mark its packets, so a full tunnel routes them into the tunnel. All servers are asked
at once, for A and AAAA; the first answer counts.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from wgquick.lean import suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PORT = 53
_A, _AAAA, _INTERNET = 1, 28, 1
_SIZES = {_A: 4, _AAAA: 16}
_FAMILIES = {_A: socket.AF_INET, _AAAA: socket.AF_INET6}
_HEADER, _QUESTION, _RECORD = Struct("!HHHHHH"), Struct("!HH"), Struct("!HHIH")
_WANTS_RECURSION, _IS_RESPONSE, _IS_TRUNCATED, _STATUS = 0x0100, 0x8000, 0x0200, 0x000F
_NO_ERROR = 0
_POINTER = 0xC0
_LONGEST_LABEL, _LONGEST_NAME = 63, 255
_LARGEST = 65535
_AGAIN = 1.5  # seconds until a query is repeated
_TCP_PATIENCE = 3.0


class Server(NamedTuple):
    """A DNS server: its address, and the scope (a link's index) of a link-local address."""

    address: str
    scope: int = 0


def ask(name: str, servers: Sequence[Server], mark: int = 0, patience: float = 5.0, port: int = PORT) -> list[str]:
    """The addresses of a fully qualified name, IPv6 first; [] if no server answers with an address in time.

    `mark` is the fwmark of the packets (0: none), `patience` the limit in seconds.
    """
    encoded = _encoded(name)
    if encoded is None:
        return []
    found: dict[int, list[str]] = {}
    asked = [each for each in (_Asked.of(server, encoded, mark, port) for server in servers) if each]
    try:
        _collect(asked, found, time.monotonic() + patience)
    finally:
        for each in asked:
            each.socket.close()
    return [address for kind in (_AAAA, _A) for address in found.get(kind, ())]


def _collect(asked: list[_Asked], found: dict[int, list[str]], deadline: float) -> None:
    """Query until both kinds have addresses, one server has answered both queries, or all servers have answered."""
    poll, waiting = select.poll(), {each.socket.fileno(): each for each in asked}
    for descriptor, each in waiting.items():
        poll.register(descriptor, select.POLLIN)
        each.send(found)
    again: float | None = time.monotonic() + _AGAIN
    while waiting and len(found) < len(_SIZES) and (now := time.monotonic()) < deadline:
        if again is not None and now >= again:
            again = None
            for each in waiting.values():
                each.send(found)
        until = deadline if again is None else min(deadline, again)
        for descriptor, _ in poll.poll(max(1, (until - now) * 1000)):
            if not waiting[descriptor].receive(found):
                continue
            if found:
                return
            poll.unregister(descriptor)
            del waiting[descriptor]


class _Asked:
    """One server with its two queries; `left` are the unanswered ones."""

    def __init__(self, made: socket.socket, name: bytes, mark: int) -> None:
        self.socket, self._name, self._mark = made, name, mark
        self._left = {kind: int.from_bytes(os.urandom(2)) for kind in _SIZES}

    @classmethod
    def of(cls, server: Server, name: bytes, mark: int, port: int) -> _Asked | None:
        """The connected server; None if it is unreachable."""
        made = None
        try:
            made = _connected(server, socket.SOCK_DGRAM, mark, port)
        except OSError:
            return None
        made.setblocking(False)
        return cls(made, name, mark)

    def send(self, found: Iterable[int]) -> None:
        """Send the queries that no server has answered yet; a refused send is repeated later."""
        for kind, number in self._left.items():
            if kind not in found:
                with suppress(OSError):
                    self.socket.send(_question(number, self._name, kind))

    def receive(self, found: dict[int, list[str]]) -> bool:
        """Read an answer; True if this server has answered both queries."""
        try:
            data = self.socket.recv(_LARGEST)
        except BlockingIOError:
            return False
        except OSError:  # an ICMP error: wait for the other query
            return not self._left
        for kind, number in tuple(self._left.items()):
            status, addresses = _answer(data, number, self._name, kind)
            if status is None:
                continue
            del self._left[kind]
            if status == _IS_TRUNCATED:
                status, addresses = self._by_tcp(kind)
            if status == _NO_ERROR and addresses:
                found.setdefault(kind, addresses)
        return not self._left

    def _by_tcp(self, kind: int) -> tuple[int | None, list[str]]:
        """Repeat a query over TCP, as its answer is too long for a datagram."""
        peer, number = self.socket.getpeername(), int.from_bytes(os.urandom(2))
        scope = peer[3] if len(peer) > 3 else 0
        try:
            with _connected(Server(peer[0], scope), socket.SOCK_STREAM, self._mark, peer[1]) as made:
                message = _question(number, self._name, kind)
                made.sendall(len(message).to_bytes(2) + message)
                with made.makefile("rb") as file:
                    data = file.read(int.from_bytes(file.read(2)))
        except OSError:
            return None, []
        return _answer(data, number, self._name, kind)


def _connected(server: Server, kind: socket.SocketKind, mark: int, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
    made = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        made.settimeout(_TCP_PATIENCE)
        if mark:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        more = (0, server.scope) if family == socket.AF_INET6 else ()
        made.connect((server.address, port, *more))
    except BaseException:
        made.close()
        raise
    return made


def _encoded(name: str) -> bytes | None:
    """The name as labels; None if it is not valid."""
    labels = [label.encode("utf-8", "surrogateescape") for label in name.removesuffix(".").split(".")]
    if not all(0 < len(label) <= _LONGEST_LABEL for label in labels):
        return None
    encoded = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return encoded if len(encoded) <= _LONGEST_NAME else None


def _question(number: int, name: bytes, kind: int) -> bytes:
    return _HEADER.pack(number, _WANTS_RECURSION, 1, 0, 0, 0) + name + _QUESTION.pack(kind, _INTERNET)


def _answer(data: bytes, number: int, name: bytes, kind: int) -> tuple[int | None, list[str]]:
    """The status and addresses in a message; status None if it does not answer this query.

    The status is an RCODE or _IS_TRUNCATED.
    """
    try:
        return _read(data, number, name, kind)
    except (struct.error, IndexError, ValueError):  # incomplete
        return None, []


def _read(data: bytes, number: int, name: bytes, kind: int) -> tuple[int | None, list[str]]:
    identity, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    at = _HEADER.size + len(name)
    is_ours = identity == number and flags & _IS_RESPONSE and questions == 1
    if not is_ours or data[_HEADER.size : at].lower() != name.lower():
        return None, []
    if _QUESTION.unpack_from(data, at) != (kind, _INTERNET):
        return None, []
    if flags & _IS_TRUNCATED:
        return _IS_TRUNCATED, []
    at += _QUESTION.size
    found: dict[str, None] = {}
    for _ in range(answers):  # a recursive server follows aliases; the addresses belong to the last one
        at = _after_name(data, at)
        record, of, _, size = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        if (record, of, size) == (kind, _INTERNET, _SIZES[kind]):
            found[socket.inet_ntop(_FAMILIES[kind], data[at : at + size])] = None
        at += size
    return flags & _STATUS, list(found)


def _after_name(data: bytes, at: int) -> int:
    """The offset of a name's end: an empty label, or a pointer to another name."""
    while (size := data[at]) != 0:
        if size >= _POINTER:
            return at + 2
        at += 1 + size
    return at + 1
