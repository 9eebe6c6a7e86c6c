"""Sends ICMP echo requests without waiting for the replies (RFC 792, RFC 4443)."""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress

_PAUSE = 1.0  # seconds between two requests
_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
_HEADER = struct.Struct("!BBHHH")
_LONGEST = 2048


class Echo:
    """Sends an echo request to an address once a second."""

    def __init__(self, address: str) -> None:
        """OSError if the address is not valid, or without CAP_NET_RAW."""
        found = socket.getaddrinfo(address, None, flags=socket.AI_NUMERICHOST)[0]
        self._family, self._address = found[0], found[4]
        protocol = socket.IPPROTO_ICMP if self._family == socket.AF_INET else socket.IPPROTO_ICMPV6
        self._socket = socket.socket(self._family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        self._token = os.urandom(16)
        self._identifier = int.from_bytes(self._token[:2])
        self._serial = 0
        self._asked = float("-inf")

    def __call__(self) -> bool:
        """Send a request if one is due; returns whether a reply has arrived."""
        if self._has_reply():
            return True
        if time.monotonic() - self._asked >= _PAUSE:
            self._asked, self._serial = time.monotonic(), self._serial + 1
            with suppress(OSError):  # no route yet
                self._socket.sendto(self._request(), self._address)
        return False

    def _has_reply(self) -> bool:
        while True:
            try:
                message = self._socket.recv(_LONGEST)
            except BlockingIOError:
                return False
            if self._family == socket.AF_INET:
                message = message[(message[0] & 15) * 4 :]
            if message[:1] == bytes([_REPLY[self._family]]) and message[_HEADER.size :] == self._token:
                return True

    def _request(self) -> bytes:
        head = (_REQUEST[self._family], 0, 0, self._identifier, self._serial & 0xFFFF)
        message = _HEADER.pack(*head) + self._token
        if self._family == socket.AF_INET6:
            return message  # the kernel sets the checksum
        return _HEADER.pack(*head[:2], _checksum(message), *head[3:]) + self._token


def _checksum(message: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
