"""Reads the names of routing tables from the same files as iproute2 (ip-route(8), rt_tables)."""

from __future__ import annotations

import os

from wgquick.lean import TYPE_CHECKING, Pattern
from wgquick.net import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

# iproute2 falls back to its copies below /usr if /etc has none.
_PLACES = (
    ("/etc/iproute2/rt_tables", "/usr/share/iproute2/rt_tables", "/usr/lib/iproute2/rt_tables"),
    ("/etc/iproute2/rt_tables.d", "/usr/share/iproute2/rt_tables.d"),
)
# As in the sscanf(3) formats of rtnl_hash_initialize (iproute2): the blank between the two is optional.
_ENTRY = Pattern(r"\s*(?:0x([0-9a-fA-F]++)|([+-]?[0-9]++))\s*([^\s]+)")
_INT_MAX = 2**31 - 1


def table_names() -> dict[str, int]:
    """The number of each table by name, including the kernel's own three if no file has them."""
    names = dict(TABLES)
    for path in _files():
        names.update(_read(path))
    return names


def _files() -> Iterator[str]:
    singles, folders = _PLACES
    yield from [path for path in singles if os.path.exists(path)][:1]
    for folder in reversed(folders):
        if os.path.isdir(folder):
            yield from (f"{folder}/{entry}" for entry in sorted(os.listdir(folder)) if _is_read(entry))


def _is_read(entry: str) -> bool:
    return entry.endswith(".conf") and entry[0] != "."


def _read(path: str) -> dict[str, int]:
    """`NUMBER NAME` lines, decimal or 0x hexadecimal; a line that is neither that nor a comment ends the file."""
    names: dict[str, int] = {}
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in filter(_has_words, file):
            entry = _ENTRY().match(line)
            if entry is None:
                break
            number = int(entry[1], 16) if entry[1] else int(entry[2])
            if 0 <= number <= _INT_MAX:
                names[entry[3]] = number
    return names


def _has_words(line: str) -> bool:
    return line.strip()[:1] not in ("", "#")
