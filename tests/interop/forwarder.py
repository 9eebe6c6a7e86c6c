"""Carries packets between two TUN devices, with faults on request.

    forwarder.py FD FD      each line of standard input sets the faults, as JSON; the answer is `ok`

It ends when its standard input closes.
"""

from __future__ import annotations

import json
import os
import random
import select
import struct
import sys
from typing import NamedTuple

LARGEST = 1 << 16
BATCH = 256
UDP = 17
UDP_HEADER, UDP_CHECKSUM = 8, 6
IPV4_CHECKSUM = 10
CONGESTION = 3
OVERTAKEN_BY = 16
HELD_MS = 2


class Faults(NamedTuple):
    """The probability of each fault, per packet."""

    loss: float = 0
    duplication: float = 0
    reordering: float = 0
    corruption: float = 0
    congestion: float = 0


class Direction:
    """One direction, from one device to the other; some packets are held back."""

    def __init__(self, source: int, sink: int) -> None:
        self.source, self._sink = source, sink
        self._carried = 0
        self._held: list[tuple[int, bytes]] = []

    def carry(self, faults: Faults) -> None:
        """Carry the packets that are ready, at most BATCH of them, so that the other direction has its turn."""
        for _ in range(BATCH):
            try:
                packet = os.read(self.source, LARGEST)
            except OSError:
                return
            if any(faults):
                self._mistreat(packet, faults)
            else:
                self._write(packet)

    def _mistreat(self, packet: bytes, faults: Faults) -> None:
        chance = random.random
        if chance() < faults.loss:
            return
        if chance() < faults.corruption:
            packet = corrupted(packet)
        if chance() < faults.congestion:
            packet = with_congestion(packet)
        if chance() < faults.duplication:
            self._write(packet)
        if chance() < faults.reordering:
            self._held.append((self._carried + random.randint(1, OVERTAKEN_BY), packet))
        else:
            self._write(packet)
        self._carried += 1
        if self._held:
            self.release(self._carried)

    def release(self, until: float) -> None:
        """Send the packets that were held back until this count."""
        due = [packet for at, packet in self._held if at <= until]
        self._held = [(at, packet) for at, packet in self._held if at > until]
        for packet in due:
            self._write(packet)

    def _write(self, packet: bytes) -> None:
        try:
            os.write(self._sink, packet)
        except OSError:
            return  # the link of that end is down: the packet is lost, as on any wire


def corrupted(packet: bytes) -> bytes:
    """Flip one bit of the UDP payload. Over IPv4 the checksum is removed, so that the kernel accepts the packet."""
    version = packet[0] >> 4
    header, protocol = ((packet[0] & 15) * 4, packet[9]) if version == 4 else (40, packet[6])
    if protocol != UDP or len(packet) <= header + UDP_HEADER:
        return packet
    changed = bytearray(packet)
    if version == 4:
        changed[header + UDP_CHECKSUM : header + UDP_HEADER] = bytes(2)
    changed[random.randrange(header + UDP_HEADER, len(packet))] ^= 1 << random.randrange(8)
    return bytes(changed)


def with_congestion(packet: bytes) -> bytes:
    """The packet with "congestion experienced" in its header (RFC 3168)."""
    changed = bytearray(packet)
    if packet[0] >> 4 == 6:
        changed[1] |= CONGESTION << 4
        return bytes(changed)
    changed[1] |= CONGESTION
    changed[IPV4_CHECKSUM : IPV4_CHECKSUM + 2] = bytes(2)
    header = (packet[0] & 15) * 4
    total = sum(struct.unpack_from(f"!{header // 2}H", changed))
    struct.pack_into("!H", changed, IPV4_CHECKSUM, 0xFFFF - (total - 1) % 0xFFFF - 1)
    return bytes(changed)


def read_faults() -> Faults:
    """Read the faults from the next line of standard input."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    print("ok", flush=True)
    return Faults(**json.loads(line))


def main(left: int, right: int) -> None:
    directions = {left: Direction(left, right), right: Direction(right, left)}
    waiting = select.poll()
    for descriptor in (*directions, sys.stdin.fileno()):
        os.set_blocking(descriptor, descriptor not in directions)
        waiting.register(descriptor, select.POLLIN)
    faults = Faults()
    while True:
        ready = waiting.poll(HELD_MS if any(faults) else None)
        for descriptor, _ in ready:
            if descriptor in directions:
                directions[descriptor].carry(faults)
            else:
                faults = read_faults()
        if not ready:
            for direction in directions.values():
                direction.release(float("inf"))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
