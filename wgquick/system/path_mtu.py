"""Measures the path MTU to a peer's endpoint, outside the tunnel, by echo requests without fragmentation.

All sizes are sent at once. Routers and this host report the MTU in errors (RFC 1191, RFC 8201); the endpoint's host
shows it by its answers, if it answers echo requests. The kernel's known path MTU is ignored (IP_PMTUDISC_PROBE,
ip(7)), but the kernel learns from these errors. It needs CAP_NET_RAW.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from contextlib import suppress
from errno import EMSGSIZE

from wgquick.errors import OperationError
from wgquick.observations import PathMtu
from wgquick.system.icmp import HEADER, REPLY, echo_request

_SIZES = {
    4: (576, 1000, 1200, 1280, 1340, 1360, 1380, 1400, 1420, 1440, 1460, 1472, 1480, 1492, 1500),
    6: (1280, 1340, 1360, 1380, 1400, 1420, 1440, 1460, 1472, 1480, 1492, 1500),
}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOLS = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_IP_HEADER = {4: 20, 6: 40}  # bytes
# IP_MTU_DISCOVER, IP_RECVERR; IPV6_MTU_DISCOVER, IPV6_RECVERR
_OPTIONS = {4: (socket.IPPROTO_IP, 10, 11), 6: (socket.IPPROTO_IPV6, 23, 25)}
_PROBE = 3
_SO_MARK = 36
_ERRQUEUE = 0x2000
_EXTENDED = struct.Struct("=IBBBxII")  # struct sock_extended_err


def path_mtu(address: str, *, mark: int = 0, scope: int = 0, patience: float = 1.5) -> PathMtu:
    """Probe the path to an address for packets with a fwmark, for a limited number of seconds.

    OperationError if nothing can be sent.
    """
    version = 6 if ":" in address else 4
    try:
        with socket.socket(_FAMILIES[version], socket.SOCK_RAW | socket.SOCK_CLOEXEC, _PROTOCOLS[version]) as raw:
            _prepare(raw, version, mark)
            raw.connect((address, 0) if version == 4 else (address, 0, 0, scope))
            return _probed(raw, version, patience)
    except OSError as error:
        raise OperationError(f"cannot probe {address}: {error.strerror}", errno=error.errno or 0) from None


def _prepare(raw: socket.socket, version: int, mark: int) -> None:
    level, discover, errors = _OPTIONS[version]
    raw.setblocking(False)
    raw.setsockopt(level, discover, _PROBE)
    raw.setsockopt(level, errors, 1)
    if mark:
        raw.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)


def _probed(raw: socket.socket, version: int, patience: float) -> PathMtu:
    identifier = os.getpid() & 0xFFFF
    state = _State(version, identifier)
    for sequence, size in enumerate(_SIZES[version]):
        try:
            raw.send(_request(version, identifier, sequence, size))
        except OSError as error:
            if error.errno != EMSGSIZE:
                raise
        state.take_errors(raw)
    waiting = select.poll()
    waiting.register(raw, select.POLLIN)
    deadline = time.monotonic() + patience
    left = patience
    while left > 0 and len(state.answered) < len(_SIZES[version]):
        left = deadline - time.monotonic()
        waiting.poll(max(0, left) * 1000)  # also after the deadline: the process may have slept
        state.take_errors(raw)
        state.take_answers(raw)
    return state.result()


class _State:
    """The answers and errors so far."""

    def __init__(self, version: int, identifier: int) -> None:
        self._version, self._identifier = version, identifier
        self._reported: dict[int, str] = {}
        self.answered: set[int] = set()

    def take_errors(self, raw: socket.socket) -> None:
        level, _, option = _OPTIONS[self._version]
        with suppress(BlockingIOError):
            while True:
                _, control, _, _ = raw.recvmsg(512, 512, _ERRQUEUE)
                for at, kind, data in control:
                    if (at, kind) == (level, option):
                        self._take_error(data)

    def _take_error(self, data: bytes) -> None:
        code, origin, _, _, mtu, _ = _EXTENDED.unpack_from(data)
        if code != EMSGSIZE or not mtu:
            return
        sender = ""
        if origin in (2, 3):  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6; else from this host
            where = data[_EXTENDED.size :]
            at, length = (4, 4) if self._version == 4 else (8, 16)
            sender = socket.inet_ntop(_FAMILIES[self._version], where[at : at + length])
        self._reported.setdefault(mtu, sender)

    def take_answers(self, raw: socket.socket) -> None:
        while True:
            try:
                packet = raw.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:  # an error that is in the error queue too
                continue
            start = (packet[0] & 15) * 4 if self._version == 4 else 0
            if len(packet) < start + HEADER.size:
                continue
            kind, _, _, identifier, sequence = HEADER.unpack_from(packet, start)
            sizes = _SIZES[self._version]
            if (kind, identifier) == (REPLY[self._version], self._identifier) and sequence < len(sizes):
                self.answered.add(sizes[sequence])

    def result(self) -> PathMtu:
        reported = min(self._reported, default=0)
        answered = max(self.answered, default=0)
        lost = next((size for size in _SIZES[self._version] if size > answered), 0) if answered else 0
        return PathMtu(reported, self._reported.get(reported, ""), answered, lost)


def _request(version: int, identifier: int, sequence: int, size: int) -> bytes:
    """An echo request that makes an IP packet of that size."""
    return echo_request(version, identifier, sequence, bytes(size - _IP_HEADER[version] - HEADER.size))
