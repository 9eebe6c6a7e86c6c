"""A wire that loses, duplicates, reorders and changes packets: two TUN devices and a program between them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.interop import forwarder
from tests.interop.pairs import WIRE, pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.forwarder import Faults
    from tests.interop.pairs import End

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


class Wire:
    """The program between the two devices."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program

    def treat(self, faults: Faults) -> None:
        """Apply these faults from now on."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps(faults._asdict()) + "\n")
        self._program.stdin.flush()
        assert self._program.stdout.readline() == "ok\n"


def _device(end: End, mtu: int) -> int:
    """A TUN device in place of a network card: the kernel hands over whole packets with finished checksums."""
    with end.machine.entered():
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", WIRE.encode(), _IFF_TUN | _IFF_NO_PI))
    end.ip(
        f"addr add {end.outer(4)}/24 dev {WIRE}",
        f"addr add {end.outer(6)}/64 dev {WIRE} nodad",
        f"link set {WIRE} up mtu {mtu} txqueuelen 5000",
    )
    return descriptor


@contextlib.contextmanager
def _forwarding(left: int, right: int) -> Iterator[Wire]:
    command = [sys.executable, "-S", str(Path(forwarder.__file__)), str(left), str(right)]
    with subprocess.Popen(
        command, pass_fds=(left, right), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        os.close(left)
        os.close(right)
        try:
            yield Wire(program)
        finally:
            program.kill()


@contextlib.contextmanager
def wired_pair(left: str, right: str, *, version: int = 4) -> Iterator[tuple[End, End, Wire]]:
    """Two ends with a wire between them; the wire has no faults yet."""
    with contextlib.ExitStack() as stack:
        wires: list[Wire] = []

        def join(here: End, there: End, mtu: int) -> None:
            wires.append(stack.enter_context(_forwarding(_device(here, mtu), _device(there, mtu))))

        here, there = stack.enter_context(pair(left, right, version=version, joined=join))
        yield here, there, wires[0]
