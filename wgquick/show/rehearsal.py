"""The result of a rehearsal: as JSON, or as a matrix with the causes below it."""

from __future__ import annotations

import json
from itertools import starmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wgquick.rehearsal import Failure, Pair, Report

_WIDTH = 80


def json_text(report: Report) -> str:
    """`{"hosts": [...], "pairs": [...]}`; a cause is its code, or null."""
    pairs = [
        {
            "from": pair.source,
            "to": pair.to,
            "address": pair.address,
            "handshake": pair.handshake,
            "ping": pair.ping,
            "full_size": pair.full_size,
            "tcp": pair.tcp,
            "cause": pair.cause.code if pair.cause else None,
        }
        for pair in report.pairs
    ]
    return json.dumps({"hosts": [host.name for host in report.hosts], "pairs": pairs}, indent=2) + "\n"


def text(report: Report) -> str:
    """The hosts, which connections work, why the others do not, and a summary."""
    parts = [_hosts(report), _matrix(report), causes(report), _sum(report), entries(report)]
    return "\n".join(part for part in parts if part)


def _hosts(report: Report) -> str:
    rows = [("host", "interface", "", "where")]
    for host, state in zip(report.hosts, report.states, strict=True):
        state_word = "up" if state.is_up else "not up"
        rows.append((host.name, host.interface, state_word, " ".join(host.known) or "anywhere"))
    return _table(rows)


def _matrix(report: Report) -> str:
    names = [host.name for host in report.hosts]
    cells: dict[tuple[str, str], str] = {}
    for pair in report.pairs:
        at = pair.source, pair.to
        if cells.get(at, "ok") == "ok":
            cells[at] = _word(pair)
    rows = [(one, *("" if one == two else cells.get((one, two), ".") for two in names)) for one in names]
    table = _table([("from", *names), *rows])
    if not report.pairs:
        return ""
    if max(map(len, table.splitlines())) <= _WIDTH:
        return table
    return _table([("from", "to", "address", ""), *((p.source, p.to, p.address, _word(p)) for p in report.pairs)])


def _word(pair: Pair) -> str:
    """The first thing that does not work."""
    if not pair.handshake:
        return "no handshake"
    if not pair.ping:
        return "no ping"
    if not pair.full_size:
        return "small only"
    if not pair.tcp:
        return "no TCP"
    return "ok" if pair.is_reached else "unreliable"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def causes(report: Report) -> str:
    """A paragraph for each cause, with the pairs that fail because of it."""
    found: dict[Failure, list[Pair]] = {}
    for pair in report.pairs:
        if pair.cause:
            found.setdefault(pair.cause, []).append(pair)
    return "".join(starmap(_paragraph, found.items()))


def _paragraph(cause: Failure, pairs: Sequence[Pair]) -> str:
    lines = [f"{pair.source} -> {pair.to} ({pair.address}): {_word(pair)}" for pair in pairs]
    where = f"{cause.where}: " if cause.where else ""
    lines.append(f"  {where}{cause.message} [{cause.code}]")
    if cause.remedy:
        lines.append(f"  {cause.remedy}")
    return "".join(f"{line}\n" for line in lines)


def _sum(report: Report) -> str:
    good, all_of_them = sum(pair.is_reached for pair in report.pairs), len(report.pairs)
    lines = [*report.remarks]
    if report.pairs:
        lines.append(f"{good} of {all_of_them} intended connections work")
    else:
        lines.append("no file has a [Peer] with AllowedIPs for another file: there is nothing to test")
    return "".join(f"{line}\n" for line in lines)


def entries(report: Report) -> str:
    """How to enter the hosts that are kept, and how to remove them."""
    if not report.kept:
        return ""
    user = "" if report.is_root else "-U --preserve-credentials "
    lines = [f"The hosts are kept. Enter one{' as root' if report.is_root else ''}:"]
    lines += [f"  nsenter -t {each.pid} {user}-m -u -n -p -- bash    # {each.name}" for each in report.kept]
    lines += ["Remove them all:", f"  kill {report.holder}"]
    return "".join(f"{line}\n" for line in lines)
