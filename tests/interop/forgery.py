"""Messages as an attacker on the wire sees and sends them: captured, changed, replayed, made up."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from tests.interop.pairs import WIRE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.pairs import End

INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4
LENGTHS = {INITIATION: 148, RESPONSE: 92, COOKIE: 64}
_ALL_PROTOCOLS = 3
_OUTGOING = 4
_SO_RCVBUFFORCE = 33

Address = tuple[str, int]


class Captured(NamedTuple):
    """A message as it was on the wire, with its source."""

    source: Address
    payload: bytes

    @property
    def kind(self) -> int:
        return self.payload[0]


class Tap:
    """Captures the traffic of one end's wire."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    def messages(self) -> list[Captured]:
        """All UDP messages over IPv4 since the last call, in both directions."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = self._listening.recv(1 << 16)
                header = (packet[0] & 15) * 4
                if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_UDP and len(packet) > header + 8:
                    port, _, length = struct.unpack_from("!HHH", packet, header)
                    source = socket.inet_ntoa(packet[12:16])
                    found.append(Captured((source, port), packet[header + 8 : header + length]))
        return found


@contextlib.contextmanager
def tap(end: End) -> Iterator[Tap]:
    """Capture what an end sends and receives."""
    with end.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        listening.bind((WIRE, _ALL_PROTOCOLS))
        listening.setblocking(False)
        yield Tap(listening)


def packet(source: Address, destination: Address, payload: bytes) -> bytes:
    """An IPv4 packet with any source. The kernel sets its length and checksum; UDP has no checksum (RFC 768)."""
    udp = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    return struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses + udp


def send_as(sender: socket.socket, source: Address, destination: Address, payload: bytes) -> None:
    """Send from any source address through a raw socket."""
    sender.sendto(packet(source, destination, payload), destination)


def raw_socket(end: End) -> socket.socket:
    """The socket for `send_as`."""
    return end.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def initiation(public: str, ephemeral: bytes = b"") -> bytes:
    """An initiation made from the public key alone: the first MAC is right, the rest is random."""
    body = struct.pack("<II", INITIATION, int.from_bytes(os.urandom(4), "little"))
    body += ephemeral or os.urandom(32)
    body += os.urandom(LENGTHS[INITIATION] - 32 - len(body))
    return body + mac1(public, body) + bytes(16)


def mac1(public: str, body: bytes) -> bytes:
    """The first MAC of a handshake message (whitepaper, section 5.4.4)."""
    key = hashlib.blake2s(b"mac1----" + base64.b64decode(public)).digest()
    return hashlib.blake2s(body, key=key, digest_size=16).digest()


def noise(*sizes: int) -> Iterator[bytes]:
    """Random bytes of many sizes, bare and after the header of each kind of message."""
    for size in (*range(200), 576, 1279, 1420, 1452, 1472, *sizes):
        yield os.urandom(size)
        for kind in range(6):
            yield (struct.pack("<I", kind) + os.urandom(size))[: max(size, 4)]
            yield (bytes([kind]) + os.urandom(size))[: max(size, 1)]


def variations(message: bytes) -> Iterator[bytes]:
    """The message cut at every length, made longer, with each byte changed, and for another receiver index."""
    for length in range(len(message)):
        yield message[:length]
    for more in (1, 15, 16, 100):
        yield message + os.urandom(more)
    for at in range(len(message)):
        yield message[:at] + bytes([message[at] ^ 1 << at % 8]) + message[at + 1 :]
    receiver = 8 if message[0] == RESPONSE else 4
    for index in (0, 1, 0xFFFFFFFF, int.from_bytes(os.urandom(4), "big")):
        yield message[:receiver] + struct.pack("<I", index) + message[receiver + 4 :]


def checksum(*parts: bytes) -> int:
    """The Internet's checksum over parts of even length (RFC 1071)."""
    total = sum(sum(struct.unpack(f"!{len(part) // 2}H", part)) for part in parts)
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - (total & 0xFFFF) - (total >> 16)


def anyone(version: int) -> bytes:
    """A random public address that no test machine has."""
    if version == 4:
        return bytes([20 + os.urandom(1)[0] % 80]) + os.urandom(3)
    return b"\x24" + os.urandom(15)


def anyones_packet(end: End, version: int, payload: bytes) -> bytes:
    """A packet to this end from a random address and port; the payload's length must be even."""
    source, length = anyone(version), 8 + len(payload)
    port = 1024 + int.from_bytes(os.urandom(2), "big") % 60000
    udp = struct.pack("!HHH", port, end.port, length)
    if version == 4:
        addresses = source + socket.inet_aton(end.outer())
        start = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 0, 0, 64, socket.IPPROTO_UDP)
        return start + struct.pack("!H", checksum(start, addresses)) + addresses + udp + bytes(2) + payload
    addresses = source + socket.inet_pton(socket.AF_INET6, end.outer(6))
    sum_ = checksum(addresses, struct.pack("!HH", socket.IPPROTO_UDP, length), udp, payload) or 0xFFFF
    start = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64)
    return start + addresses + udp + struct.pack("!H", sum_) + payload
