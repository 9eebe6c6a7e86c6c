"""Sends whole frames, with any source address, in a loop at a given rate.

    spoofed.py LINK RATE        standard input: the frames, each after its length in two bytes

It runs until it is killed. The frames stay in one buffer, and the array for sendmmsg(2) is built once, so that
one call sends a hundred of them.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import struct
import sys
import time

TOGETHER = 100
LIBC = ctypes.CDLL(None, use_errno=True)
# struct mmsghdr and struct iovec on 64-bit machines (sendmmsg(2), readv(2)): pointers and lengths in native order.
HEADER, PIECE = struct.Struct("=QIxxxxQQQQIxxxxIxxxx"), struct.Struct("=QQ")


def places(frames: bytes) -> list[tuple[int, int]]:
    """The offset and the length of each frame."""
    found, at = [], 0
    while at < len(frames):
        (length,) = struct.unpack_from("!H", frames, at)
        found.append((at + 2, length))
        at += 2 + length
    return found


Bytes = ctypes.Array[ctypes.c_char]


def headers(frames: Bytes, found: list[tuple[int, int]]) -> tuple[Bytes, Bytes]:
    """The array for sendmmsg(2), and the buffer that it points to."""
    base = ctypes.addressof(frames)
    pieces = ctypes.create_string_buffer(b"".join(PIECE.pack(base + at, length) for at, length in found))
    pointer = ctypes.addressof(pieces)
    made = (HEADER.pack(0, 0, pointer + PIECE.size * number, 1, 0, 0, 0, 0) for number in range(len(found)))
    return ctypes.create_string_buffer(b"".join(made)), pieces


def main(link: str, rate: int) -> None:
    read = sys.stdin.buffer.read()
    frames, found = ctypes.create_string_buffer(read), places(read)
    array, _pieces = headers(frames, found)
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((link, 0))
    starts = itertools.cycle(range(0, len(found) - TOGETHER + 1, TOGETHER))
    began, sent = time.monotonic(), 0
    while True:
        while sent < (time.monotonic() - began) * rate:
            if LIBC.sendmmsg(sender.fileno(), ctypes.byref(array, next(starts) * HEADER.size), TOGETHER, 0) < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            sent += TOGETHER
        time.sleep(0.002)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
