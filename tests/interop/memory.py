"""What is left of a secret in a running process: all memory that it can write to is read (proc_pid_mem(5))."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MAPPING = re.compile(r"(\w+)-(\w+) .w.. \S+ \S+ \S+ *(.*)")


def remains(pid: int, secrets: Mapping[str, bytes]) -> list[str]:
    """Which secrets are left and in which mapping, by their names: `receive key in [stack], 2 pieces`."""
    left = []
    for place, memory in _writable(pid):
        for name, secret in secrets.items():
            count = sum(memory.count(piece) for piece in pieces(secret))
            if count:
                left.append(f"{name} in {place}, {count} pieces")
    return left


def pieces(secret: bytes) -> set[bytes]:
    """What betrays a secret: eight bytes of it, a word twice (as in equal lanes of a vector), or its digits."""
    eights = [secret[at : at + 8] for at in range(0, len(secret), 8)]
    words = [secret[at : at + 4] for at in range(0, len(secret), 4)]
    return {*eights, *(2 * word for word in words), *(eight.hex().encode() for eight in eights)}


def _writable(pid: int) -> Iterator[tuple[str, bytes]]:
    """The writable mappings of a process: the name of each, and its bytes."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if found := _MAPPING.match(line):
                start, end = (int(address, 16) for address in found.groups()[:2])
                memory.seek(start)
                yield f"{found[3] or 'anonymous memory'} at {start:x}", memory.read(end - start)
