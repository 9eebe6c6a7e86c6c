"""Pings and TCP connections from a host, and the server that answers the connections.

A ping is an ICMP echo request (RFC 792, RFC 4443) through a raw socket. Full-size pings must not be fragmented.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING

from wgquick.lean import suppress
from wgquick.rehearsal import TCP_PORT, Reach
from wgquick.system.icmp import HEADER, REPLY, echo_request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wgquick.rehearsal import Probe

_PATIENCE = 9.0  # seconds for the first answer; a lost handshake message is sent again after five
_LATER = 3.0  # seconds for each later answer
_PAUSE = 0.2
_HEADERS: dict[int, int] = {socket.AF_INET: 28, socket.AF_INET6: 48}
_SMALL = 84
_DATA = os.urandom(16384)
_CHUNK = 65536
# linux/in.h, linux/in6.h
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _IPV6_DONTFRAG, _ALWAYS_DF = 10, 23, 62, 2


def try_all(probes: Sequence[Probe], mtu: int) -> list[Reach]:
    """The results of the probes, all tried at once. `mtu` is the tunnel's."""
    found = [Reach()] * len(probes)

    def work(index: int) -> None:
        found[index] = _try(probes[index], index, mtu)

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(probes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _try(probe: Probe, number: int, mtu: int) -> Reach:
    family = socket.AF_INET6 if ":" in probe.address else socket.AF_INET
    if not _ping(probe, family, number, _SMALL, _LATER if probe.doubtful else _PATIENCE):
        return Reach()
    return Reach(True, _ping(probe, family, number, mtu, _LATER), _until(_LATER, lambda: _exchange(probe, family)))


def _until(patience: float, succeeds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + patience
    while True:
        with suppress(OSError):
            if succeeds():
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)


def _ping(probe: Probe, family: int, number: int, size: int, patience: float) -> bool:
    """Whether an echo request of that size is answered; it is repeated for `patience` seconds."""
    return _until(patience, lambda: _echo(probe, family, number, max(size - _HEADERS[family], 16)))


def _echo(probe: Probe, family: int, number: int, length: int) -> bool:
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    version = 6 if family == socket.AF_INET6 else 4
    payload = os.urandom(length)
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        if family == socket.AF_INET6:
            raw.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _ALWAYS_DF)
            raw.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
        else:
            raw.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _ALWAYS_DF)
        if probe.source:
            raw.bind((probe.source, 0))
        raw.connect((probe.address, 0))
        raw.send(echo_request(version, number & 0xFFFF, 1, payload))
        deadline = time.monotonic() + _PAUSE
        while (left := deadline - time.monotonic()) > 0:
            raw.settimeout(left)
            packet = raw.recv(_CHUNK)
            start = (packet[0] & 15) * 4 if family == socket.AF_INET else 0
            if packet[start] == REPLY[version] and packet[start + HEADER.size :] == payload:
                return True
    return False


def _exchange(probe: Probe, family: int) -> bool:
    """Whether a TCP connection carries some kilobytes in both directions."""
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        stream.settimeout(_LATER)
        if probe.source:
            stream.bind((probe.source, 0))
        stream.connect((probe.address, TCP_PORT))
        stream.sendall(_DATA)
        stream.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := stream.recv(_CHUNK):
            received += chunk
        return received == _DATA


def listening() -> list[socket.socket]:
    """Sockets for `serve`, of both families."""
    found = []
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104 - nobody else is here
        with suppress(OSError):
            server = socket.socket(family, socket.SOCK_STREAM)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            server.bind((address, TCP_PORT))
            server.listen(128)
            found.append(server)
    return found


def serve(servers: Sequence[socket.socket]) -> None:
    """Echo received data back, forever."""
    with selectors.DefaultSelector() as ready:
        for server in servers:
            ready.register(server, selectors.EVENT_READ)
        while servers:
            for key, _ in ready.select():
                connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
                threading.Thread(target=_send_back, args=(connection,), daemon=True).start()


def _send_back(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        connection.settimeout(_LATER)
        received = b""
        while chunk := connection.recv(_CHUNK):
            received += chunk
        connection.sendall(received)
