"""What a plan announces, and the messages that the kernel gets."""

from __future__ import annotations

import re
from collections import Counter
from itertools import groupby
from typing import Any


def commands(found: dict[str, Any]) -> list[str]:
    return [line for change in found["changes"] for line in change["text"]]


# What a command of a plan sends or writes; the numbers are message types (linux/rtnetlink.h).
_SENDS = {
    r"ip -\d address add": 0x14,
    r"ip -\d address delete": 0x15,
    r"ip -\d route add": 0x18,
    r"ip -\d route delete": 0x19,
    r"ip -\d rule add": 0x20,
    r"ip -\d rule delete": 0x21,
    "ip link (add|set)": 0x10,
    "ip link delete": 0x11,
    "wg ": "uapi",
    "nft -f": "nftables",
    "sysctl ": "sysctl",
    "(write|remove wg0 from) /etc/resolv.conf": "resolv.conf",
    "/.*/wgq-userspace wg0": "program",
}


def announced(lines: list[str]) -> dict[object, int]:
    """What the commands of a plan send or write, counted; a device gets several of them in one request."""
    kinds = [kind for line in lines for start, kind in _SENDS.items() if re.match(start, line)]
    assert len(kinds) == len(lines), lines
    joined = ([kind] if kind == "uapi" else [*each] for kind, each in groupby(kinds))
    return Counter(kind for each in joined for kind in each)


NFNL_SUBSYS_NFTABLES = 10
