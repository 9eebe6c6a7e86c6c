"""Sends ICMP echo requests without waiting for the replies (RFC 792, RFC 4443)."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

from wgquick.system.icmp import HEADER, REPLY, echo_request

_PAUSE = 1.0  # seconds between two requests
_LONGEST = 2048


class Echo:
    """Sends an echo request to an address once a second."""

    def __init__(self, address: str) -> None:
        """OSError if the address is not valid, or without CAP_NET_RAW."""
        found = socket.getaddrinfo(address, None, flags=socket.AI_NUMERICHOST)[0]
        self._family, self._address = 4 if found[0] == socket.AF_INET else 6, found[4]
        protocol = socket.IPPROTO_ICMP if self._family == 4 else socket.IPPROTO_ICMPV6
        self._socket = socket.socket(found[0], socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
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
                request = echo_request(self._family, self._identifier, self._serial & 0xFFFF, self._token)
                self._socket.sendto(request, self._address)
        return False

    def _has_reply(self) -> bool:
        while True:
            try:
                message = self._socket.recv(_LONGEST)
            except BlockingIOError:
                return False
            if self._family == 4:
                message = message[(message[0] & 15) * 4 :]
            if message[:1] == bytes([REPLY[self._family]]) and message[HEADER.size :] == self._token:
                return True
