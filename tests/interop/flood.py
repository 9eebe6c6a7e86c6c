"""Sends messages in a loop, at a given rate.

    flood.py ADDRESS PORT LENGTH RATE       standard input: the messages, each LENGTH bytes long

It runs until it is killed.
"""

from __future__ import annotations

import itertools
import socket
import sys
import time

SOL_UDP, UDP_SEGMENT = 17, 103
# Messages per system call, and source ports that take turns.
TOGETHER = 60
PORTS = 16


def sender(address: tuple[str, int], length: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(SOL_UDP, UDP_SEGMENT, length)
    made.connect(address)
    return made


def main(address: str, port: int, length: int, rate: int) -> None:
    messages = sys.stdin.buffer.read()
    step = TOGETHER * length
    pieces = itertools.cycle([messages[at : at + step] for at in range(0, len(messages), step)])
    senders = itertools.cycle([sender((address, port), length) for _ in range(PORTS)])
    began, sent = time.monotonic(), 0
    while True:
        while sent < (time.monotonic() - began) * rate:
            piece = next(pieces)
            next(senders).send(piece)
            sent += len(piece) // length
        time.sleep(0.002)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
