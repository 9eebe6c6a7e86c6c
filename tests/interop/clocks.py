"""Clocks of one daemon that a test sets while the daemon runs: a preloaded library shifts them."""

from __future__ import annotations

import mmap
import struct
import subprocess
from pathlib import Path

from tests.interop.pairs import WGQ

_AHEAD = struct.Struct("=qqq")
SOURCE = Path(__file__).parent / "clock.c"


class Clocks:
    """The time of day and the time since boot of one daemon.

    `program` is the command that starts this daemon in a pair.
    """

    def __init__(self, directory: Path) -> None:
        library, ahead = directory / "clock.so", directory / "ahead"
        subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
        ahead.write_bytes(bytes(_AHEAD.size))
        with ahead.open("r+b") as file:
            self._ahead = mmap.mmap(file.fileno(), _AHEAD.size)
        self.program = f"env LD_PRELOAD={library} CLOCKS_AHEAD={ahead} {WGQ}"

    def advance(self, day: int = 0, age: int = 0, asleep: int = 0) -> None:
        """Shift the time of day by `day` seconds; let `age` seconds pass awake and `asleep` seconds in suspend."""
        was = _AHEAD.unpack(self._ahead)
        _AHEAD.pack_into(self._ahead, 0, was[0] + day, was[1] + age, was[2] + asleep)
