"""The program that sends messages, over and over, at a rate.

    flood.py ADDRESS PORT LENGTH RATE       standard input: the messages, each of that length

It goes on until it is killed.
"""

from __future__ import annotations

import itertools
import socket
import sys
import time

SOL_UDP, UDP_SEGMENT = 17, 103
# So many go out by one system call, and from so many ports in turn.
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
