"""Captures a UDP port's WireGuard messages on every link, and the ICMP errors about them (packet(7), raw(7)).

A packet socket gets arriving packets before the firewall, and leaving packets after it. A raw socket gets
arriving packets after the input chain. The difference shows whether this host's firewall drops packets. A filter
in the kernel (BPF) skips all other packets. All of it needs CAP_NET_RAW.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import ExitStack, suppress
from errno import EACCES, EAFNOSUPPORT, EPERM
from typing import TYPE_CHECKING, NamedTuple

from wgquick.datagram import ADMITTED, ARRIVED, DATA, KEEPALIVE_LENGTH, SENT, TOO_BIG, Datagram, IcmpError
from wgquick.errors import OperationError
from wgquick.net import SocketAddress, address_text
from wgquick.system import icmp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

PAYLOAD = 148
"""The bytes of a payload that are read: an initiation, the longest handshake message."""

_SNAP = 60 + 8 + PAYLOAD  # the longest IPv4 header, UDP's, and the payload
_UDP_HEADER = 8
_EVERY_PROTOCOL = 3  # ETH_P_ALL
_SOL_PACKET, _STATISTICS = 263, 6
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_HOST, _OUTGOING = 0, 4  # sockaddr_ll's packet types
_ICMP, _ICMP6 = socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6
_RECEIVE_BUFFER, _DATA_BUFFER = 1 << 20, 1 << 16
_BATCH, _PAUSE = 64, 0.005  # at most 12,800 messages a second on each socket
_MOST_DATA = 2000

# Classic BPF (linux/filter.h). A target is a label; "" is the next instruction.
_LD_BYTE, _LD_HALF, _LDX_HEADER, _LD_BYTE_X, _LD_HALF_X = 0x30, 0x28, 0xB1, 0x50, 0x48
_RSH, _JEQ, _JGE, _JSET, _RET = 0x74, 0x15, 0x35, 0x45, 0x06
Event = Datagram | IcmpError
_Line = tuple[str, int, int, str, str]


def _assembled(lines: list[_Line]) -> bytes:
    """Assemble lines of (label, operation, operand, target if true, target if false)."""
    places = {label: at for at, (label, *_) in enumerate(lines) if label}
    return b"".join(
        struct.pack("HBBI", code, *(places[target] - at - 1 if target else 0 for target in (true, false)), operand)
        for at, (_, code, operand, true, false) in enumerate(lines)
    )


def _tap_program(port: int, *, data: bool) -> bytes:
    """A filter for the port's datagrams in both directions: with `data` only data messages, else all others.

    Without `data` it passes ICMP errors too. The program starts at the IP header.
    """
    is_long = ("no", "yes") if not data else ("yes", "no")
    short, long = is_long[1], is_long[0]
    icmp = "no" if data else "icmp4"
    icmp6 = "no" if data else "icmp6"
    return _assembled(
        [
            ("", _LD_BYTE, 0, "", ""),
            ("", _RSH, 4, "", ""),
            ("", _JEQ, 4, "v4", ""),
            ("", _JEQ, 6, "v6", "no"),
            ("v4", _LD_HALF, 6, "", ""),
            ("", _JSET, 0x1FFF, "no", ""),  # a later fragment
            ("", _LDX_HEADER, 0, "", ""),
            ("", _LD_BYTE, 9, "", ""),
            ("", _JEQ, socket.IPPROTO_UDP, "", icmp),
            ("", _LD_HALF_X, 0, "", ""),
            ("", _JEQ, port, "kind4", ""),
            ("", _LD_HALF_X, 2, "", ""),
            ("", _JEQ, port, "", "no"),
            ("kind4", _LD_BYTE_X, 8, "", ""),
            ("", _JEQ, DATA, "", short),
            ("", _LD_HALF_X, 4, "", ""),
            ("", _JEQ, _UDP_HEADER + KEEPALIVE_LENGTH, short, long),
            ("icmp4", _JEQ, _ICMP, "", "no"),
            ("", _LD_BYTE_X, 0, "", ""),
            ("", _JEQ, 3, "yes", ""),
            ("", _JEQ, 11, "yes", "no"),
            ("v6", _LD_BYTE, 6, "", ""),
            ("", _JEQ, socket.IPPROTO_UDP, "", icmp6),
            ("", _LD_HALF, 40, "", ""),
            ("", _JEQ, port, "kind6", ""),
            ("", _LD_HALF, 42, "", ""),
            ("", _JEQ, port, "", "no"),
            ("kind6", _LD_BYTE, 48, "", ""),
            ("", _JEQ, DATA, "", short),
            ("", _LD_HALF, 44, "", ""),
            ("", _JEQ, _UDP_HEADER + KEEPALIVE_LENGTH, short, long),
            ("icmp6", _JEQ, _ICMP6, "", "no"),
            ("", _LD_BYTE, 40, "", ""),
            ("", _JGE, 5, "no", "yes"),
            ("yes", _RET, _SNAP, "", ""),
            ("no", _RET, 0, "", ""),
        ]
    )


def _admitted_program(port: int, family: int) -> bytes:
    """A filter for datagrams to the port except data messages; IPv4's raw socket includes the IP header."""
    half, byte = (_LD_HALF_X, _LD_BYTE_X) if family == socket.AF_INET else (_LD_HALF, _LD_BYTE)
    return _assembled(
        [
            *([("", _LDX_HEADER, 0, "", "")] if family == socket.AF_INET else []),
            ("", half, 2, "", ""),
            ("", _JEQ, port, "", "no"),
            ("", byte, 8, "", ""),
            ("", _JEQ, DATA, "", "yes"),
            ("", half, 4, "", ""),
            ("", _JEQ, _UDP_HEADER + KEEPALIVE_LENGTH, "yes", "no"),
            ("yes", _RET, _SNAP, "", ""),
            ("no", _RET, 0, "", ""),
        ]
    )


class Loss(NamedTuple):
    """The number of captured messages (`seen`), and how many of them were lost unread (`dropped`)."""

    seen: int
    dropped: int


class Capture:
    """Captures from its creation to the end of its `with` block, in the creating thread's network namespace.

    `port` is the device's UDP port. `without` is the device's own link, which carries the inner packets and is
    skipped. OperationError if the process may not capture.
    """

    def __init__(self, port: int, without: str = "") -> None:
        self.loss = Loss(0, 0)
        self._port, self._without = port, without
        self._local = _local_addresses()
        self._open = ExitStack()
        self._data_left = _MOST_DATA
        try:
            with self._open as opened:
                self._tap = opened.enter_context(_tap(_tap_program(port, data=False), _RECEIVE_BUFFER))
                self._data = opened.enter_context(_tap(_tap_program(port, data=True), _DATA_BUFFER))
                self._raw = [opened.enter_context(raw) for raw in _raw_sockets(port)]
                self._open = opened.pop_all()
        except OSError as error:
            raise _refused(error) from None

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count()
        self._open.close()

    def read(self, seconds: float) -> Iterator[Event]:
        """The events of the next seconds, as they occur."""
        deadline = time.monotonic() + seconds
        waiting = select.poll()
        sockets = {made.fileno(): made for made in (self._tap, self._data, *self._raw)}
        for descriptor in sockets:
            waiting.register(descriptor, select.POLLIN)
        left = seconds
        while left > 0:
            left = deadline - time.monotonic()
            for descriptor, _ in waiting.poll(max(0, left) * 1000):  # also at the end: the process may have slept
                yield from self._batch(sockets[descriptor])
            if not self._data_left and self._data.fileno() in sockets:  # enough samples of a busy tunnel
                waiting.unregister(self._data)
                del sockets[self._data.fileno()]
            self._count()
            time.sleep(min(_PAUSE, max(0.0, deadline - time.monotonic())))

    def _batch(self, listening: socket.socket) -> Iterator[Event]:
        for _ in range(_BATCH):
            if listening is self._data:
                if not self._data_left:
                    return
                self._data_left -= 1
            try:
                packet, address = listening.recvfrom(_SNAP)
            except BlockingIOError:
                return
            except OSError:  # ENETDOWN: a link was removed; the others remain
                continue
            found = self._heard(listening, packet, address)
            if found is not None:
                yield found

    def _heard(self, listening: socket.socket, packet: bytes, address: tuple[object, ...]) -> Event | None:
        now = time.time()
        if listening not in self._raw:
            link, way = str(address[0]), address[2]
            if link == self._without or way not in (_HOST, _OUTGOING):
                return None
            return understood(now, packet, link, self._port, self._local, out=way == _OUTGOING)
        if listening.family == socket.AF_INET:
            return understood(now, packet, "", self._port, self._local)
        return _admitted6(now, packet, address, self._port)

    def _count(self) -> None:
        """Add the kernel's counters, which restart from zero after each read."""
        with suppress(OSError):
            seen, dropped = struct.unpack("II", self._tap.getsockopt(_SOL_PACKET, _STATISTICS, 8))
            self.loss = Loss(self.loss.seen + seen, self.loss.dropped + dropped)


def _refused(error: OSError) -> OperationError:
    code = error.errno or 0
    if code in (EPERM, EACCES):
        return OperationError(
            "cannot capture packets: packet sockets need CAP_NET_RAW",
            errno=code,
            remedy="Run it as root; in a container, add the capability NET_RAW (docker run --cap-add NET_RAW).",
        )
    return OperationError(f"cannot capture packets: {error.strerror}", errno=code)


def _tap(program: bytes, buffer: int) -> socket.socket:
    """A packet socket on every link."""
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | flags, socket.htons(_EVERY_PROTOCOL))
    try:
        _filter(made, program)
        _set_buffer(made, buffer)
        _discard(made)
    except BaseException:
        made.close()
        raise
    return made


def _raw_sockets(port: int) -> list[socket.socket]:
    """A raw socket for each address family of the kernel."""
    made: list[socket.socket] = []
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                raw = socket.socket(
                    family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.IPPROTO_UDP
                )
            except OSError as error:
                if error.errno == EAFNOSUPPORT:
                    continue
                raise
            made.append(raw)
            _filter(raw, _admitted_program(port, family))
            _set_buffer(raw, _RECEIVE_BUFFER)
            _discard(raw)
    except BaseException:
        for each in made:
            each.close()
        raise
    return made


def _discard(made: socket.socket) -> None:
    """Drop the packets that arrived before the filter was set."""
    with suppress(BlockingIOError):
        while True:
            made.recv(1)


def _filter(made: socket.socket, program: bytes) -> None:
    import ctypes

    code = ctypes.create_string_buffer(program)
    described = struct.pack("HL", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def _set_buffer(made: socket.socket, size: int) -> None:
    """Set the buffer size; without CAP_NET_ADMIN (SO_RCVBUFFORCE) net.core.rmem_max is the limit."""
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except OSError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _local_addresses() -> frozenset[str]:
    """The addresses of this host's links; packets to others are only forwarded."""
    from pyroute2 import IPRoute

    with IPRoute() as kernel:
        found = (message.get("IFA_LOCAL") or message.get("IFA_ADDRESS") for message in kernel.get_addr())
        return frozenset(str(address) for address in found if address)


def understood(
    at: float, packet: bytes, link: str, port: int, local: frozenset[str], *, out: bool = False
) -> Event | None:
    """The event of an IP packet: a datagram to the port or (`out`) from it, or an ICMP error about one; else None.

    `link` is the link of the packet socket; "" for a packet that passed the input chain.
    """
    try:
        version = packet[0] >> 4
        protocol = packet[9] if version == 4 else packet[6]
        if protocol == socket.IPPROTO_UDP:
            return _datagram(at, packet, link, port, local, out=out)
        if out or protocol not in (_ICMP, _ICMP6):
            return None
        return _icmp_error(at, link, packet, port, local)
    except (struct.error, IndexError, ValueError):  # shorter than its header's length
        return None


def _datagram(
    at: float, packet: bytes, link: str, port: int, local: frozenset[str], *, out: bool
) -> Datagram | None:
    start, sender, receiver, scope = _ip(packet, link)
    stage = SENT if out else ARRIVED if link else ADMITTED
    if stage != ADMITTED and (sender if out else receiver) not in local:
        return None  # forwarded for another host
    source, destination = SocketAddress(sender, 0, scope), SocketAddress(receiver, 0, scope)
    found = _udp(at, stage, link, source, destination, packet[start:])
    return found if (found.source if out else found.destination).port == port else None


def _admitted6(at: float, segment: bytes, address: tuple[object, ...], port: int) -> Datagram | None:
    """The datagram from an IPv6 raw socket; its packets start at the UDP header."""
    sender, scope = str(address[0]).partition("%")[0], int(str(address[3]))
    try:
        return _udp(at, ADMITTED, "", SocketAddress(sender, 0, scope), SocketAddress("::", port), segment)
    except struct.error:
        return None


def _ip(packet: bytes, link: str = "") -> tuple[int, str, str, int]:
    """The offset of an IP packet's payload, its source and destination, and the link index for link-local ones."""
    if packet[0] >> 4 == 4:
        return (packet[0] & 15) * 4, address_text(packet[12:16]), address_text(packet[16:20]), 0
    scope = 0
    if link and packet[8] == 0xFE and packet[9] & 0xC0 == 0x80:
        with suppress(OSError):
            scope = socket.if_nametoindex(link)
    return 40, address_text(packet[8:24]), address_text(packet[24:40]), scope


def _udp(
    at: float, stage: str, link: str, source: SocketAddress, destination: SocketAddress, segment: bytes
) -> Datagram:
    """The datagram of a UDP segment; the ports are added to the addresses."""
    sender, receiver, length = struct.unpack_from("!HHH", segment)
    payload = segment[_UDP_HEADER : _UDP_HEADER + min(PAYLOAD, max(0, length - _UDP_HEADER))]
    return Datagram(
        at,
        stage,
        link,
        source._replace(port=sender),
        destination._replace(port=receiver),
        length - _UDP_HEADER,
        payload,
    )


def _icmp_error(at: float, link: str, packet: bytes, port: int, local: frozenset[str]) -> IcmpError | None:
    """The error of an ICMP packet if it quotes a datagram from our port (RFC 792, RFC 4443); else None."""
    start, sender, _, _ = _ip(packet)
    meaning = icmp.meaning(packet[0] >> 4, packet[start], packet[start + 1])
    if packet[0] >> 4 == 4:
        (mtu,) = struct.unpack_from("!H", packet, start + 6)
    else:
        (mtu,) = struct.unpack_from("!I", packet, start + 4)
    quoted = packet[start + 8 :]
    protocol = quoted[9] if quoted[0] >> 4 == 4 else quoted[6]
    if protocol != socket.IPPROTO_UDP:
        return None
    udp, source, destination, _ = _ip(quoted)
    ours, theirs = struct.unpack_from("!HH", quoted, udp)
    if ours != port or source not in local:
        return None
    return IcmpError(
        at, link, sender, SocketAddress(destination, theirs), meaning, mtu if meaning == TOO_BIG else 0
    )
