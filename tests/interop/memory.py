"""Searches all writable memory of a running process for parts of secrets (proc_pid_mem(5))."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MAPPING = re.compile(r"(\w+)-(\w+) .w.. \S+ \S+ \S+ *(.*)")


def remains(pid: int, secrets: Mapping[str, bytes]) -> list[str]:
    """Each secret that is left, with its mapping, for example `receive key in [stack], 2 pieces`."""
    while True:
        try:
            return _remains(pid, secrets)
        except OSError as error:
            if error.errno != errno.EIO:  # a mapping was removed meanwhile, such as the stack of a thread
                raise


def _remains(pid: int, secrets: Mapping[str, bytes]) -> list[str]:
    left = []
    for place, memory in _writable(pid):
        for name, secret in secrets.items():
            count = sum(memory.count(piece) for piece in pieces(secret))
            if count:
                left.append(f"{name} in {place}, {count} pieces")
    return left


def pieces(secret: bytes) -> set[bytes]:
    """Patterns that reveal a secret: any eight bytes, a word twice (equal lanes of a vector), or hex digits."""
    eights = [secret[at : at + 8] for at in range(0, len(secret), 8)]
    words = [secret[at : at + 4] for at in range(0, len(secret), 4)]
    return {*eights, *(2 * word for word in words), *(eight.hex().encode() for eight in eights)}


def _writable(pid: int) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of each writable mapping of a process."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if found := _MAPPING.match(line):
                start, end = (int(address, 16) for address in found.groups()[:2])
                memory.seek(start)
                yield f"{found[3] or 'anonymous memory'} at {start:x}", memory.read(end - start)
