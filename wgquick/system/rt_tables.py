"""The names of routing tables, read where iproute2 reads them (ip-route(8), rt_tables)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# iproute2 falls back to its own copies below /usr where /etc has none.
_PLACES = (
    ("/etc/iproute2/rt_tables", "/usr/share/iproute2/rt_tables", "/usr/lib/iproute2/rt_tables"),
    ("/etc/iproute2/rt_tables.d", "/usr/share/iproute2/rt_tables.d"),
)
_BUILT_IN = {"default": 253, "main": 254, "local": 255}


def table_names() -> dict[str, int]:
    """Each table's name and number; the kernel's own three are known even where no file names them."""
    names = dict(_BUILT_IN)
    for path in _files():
        names.update(_read(path))
    return names


def _files() -> Iterator[str]:
    singles, folders = _PLACES
    yield from [path for path in singles if os.path.exists(path)][:1]
    for folder in reversed(folders):
        if os.path.isdir(folder):
            yield from (f"{folder}/{entry}" for entry in sorted(os.listdir(folder)) if entry.endswith(".conf"))


def _read(path: str) -> dict[str, int]:
    """`NUMBER NAME` lines, the number decimal or hexadecimal; anything else is passed over."""
    names: dict[str, int] = {}
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            match line.partition("#")[0].split():
                case [number, name, *_]:
                    try:
                        names[name] = int(number, 0)
                    except ValueError:
                        continue
    return names
