"""The status of interfaces and peers as JSON, and as text that fits a terminal, with colours."""

from __future__ import annotations

import json
from time import localtime, strftime
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, chop_cells, set_cell_size

from wgquick.executor.trial import FAILED, PENDING
from wgquick.show.wg import UNITS
from wgquick.status.values import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wgquick.status.values import InterfaceStatus, PeerStatus, Status, TrialStatus

    Paint = Callable[[str, str], str]
    """A function of a rich style and a text."""

WIDTH = 80
"""Columns if the output is not a terminal."""
_LABEL = 11
_GAP = 2
_SHORTEST_NAME = 16
_SHORTEST_ENDPOINT = 21
"""The width of an IPv4 address with its port."""
_MOST_DRIFT = 8
_WIDE = 118
"""The columns needed to show totals and rates side by side."""
_STYLES = {"up": "green", "connecting": "yellow", "stale": "red", "idle": "cyan", "never": "dim", "disabled": "dim"}
_SPANS = ((365 * 86400, "y"), (86400, "d"), (3600, "h"), (60, "min"))


def plain(_style: str, text: str) -> str:
    """The text without colours."""
    return text


def json_text(status: Status) -> str:
    """One line: `{"version", "time", "interfaces": [...]}`; the fields are those of wgquick.status.values."""
    interfaces = [_interface_fields(each) for each in status.interfaces]
    document = {"version": VERSION, "time": round(status.time, 3), "interfaces": interfaces}
    document["standing_kill_switches"] = list(status.remaining_kill_switches)
    document["trials"] = [each._asdict() for each in status.trials]
    return json.dumps(document) + "\n"


def _interface_fields(interface: InterfaceStatus) -> dict[str, object]:
    drift = None if interface.drift is None else [each._asdict() for each in interface.drift]
    peers = [_peer_fields(peer) for peer in interface.peers]
    dns = interface.dns._asdict() if interface.dns else None
    return interface._asdict() | {"dns": dns, "drift": drift, "peers": peers}


def _peer_fields(peer: PeerStatus) -> dict[str, object]:
    fields = peer._asdict()
    if peer.last_error:
        fields["last_error"] = peer.last_error._asdict()
    return fields


def text(status: Status, paint: Paint = plain, width: int = WIDTH) -> str:
    """The interfaces one below the other, each with a table of its peers."""
    parts = ["\n".join(_interface(each, status.time, paint, width)) + "\n" for each in status.interfaces]
    for name in status.remaining_kill_switches:
        parts.append(f"{name} is deleted, but its kill switch is still active: `wgq down {name}' removes it.\n")
    parts += [f"{_trial(each)}\n" for each in status.trials]
    return "\n".join(parts) or "No WireGuard interface is up.\n"


def _trial(trial: TrialStatus) -> str:
    name, verb = trial.interface, trial.verb
    if trial.phase == FAILED:
        return f"{name} is not as it was before `wgq try {verb}': the rollback failed. {trial.message}".rstrip()
    if not trial.has_watchdog:
        ways = f"`wgq confirm {name}' keeps it, `wgq confirm --reject {name}' says how to revert it"
        return f"{name}: `wgq try {verb}' will not be rolled back, as its watchdogs were killed: {ways}."
    if trial.phase != PENDING:
        return f"{name}: `wgq try {verb}' is {trial.phase}."
    left = round(trial.seconds_left)
    return f"{name} is on trial: `wgq try {verb}' is rolled back in {left} s. To keep it: wgq confirm {name}"


def _interface(interface: InterfaceStatus, now: float, paint: Paint, width: int) -> Iterator[str]:
    state = {True: "up", False: "down", None: "in another network namespace"}[interface.up]
    if not interface.backend:
        state = "not readable"
    place = f" in the network namespace {interface.netns}" if interface.netns else ""
    yield f"{paint('bold', interface.name)}: {paint('green' if state == 'up' else 'red', state)}{place}"
    for label, value in _facts(interface, now):
        yield from _labelled(label, value, width)
    for line in _drift(interface):
        yield from (paint("yellow", each) for each in _labelled(*line, width))
    if interface.peers:
        yield ""
        yield from _table(interface.peers, paint, width)


def _labelled(label: str, value: str, width: int) -> list[str]:
    """A labelled value, wrapped between words."""
    value = "".join(char if char.isprintable() else "?" for char in value)
    return _wrapped(value, f"  {label:<{_LABEL}}", width)


def _wrapped(value: str, head: str, width: int) -> list[str]:
    """The words, wrapped behind the head. textwrap would count wide characters as one column."""
    lines, room = [""], width - len(head)
    for word in value.split():
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) <= room:
            lines[-1] += f" {word}"
            continue
        first, *rest = chop_cells(word, room) if cell_len(word) > room else [word]
        lines[-1:] = [*filter(None, lines[-1:]), first, *rest]
    return [f"{'' if at else head}".ljust(len(head)) + line for at, line in enumerate(lines)]


def _facts(interface: InterfaceStatus, now: float) -> Iterator[tuple[str, str]]:
    if interface.backend:
        yield "backend", ", ".join(_origin(interface, now))
    if interface.file:
        yield "file", interface.file
    if interface.error:
        yield "error", interface.error
    if not interface.backend:
        return
    yield "public key", interface.public_key or "none"
    if interface.addresses:
        yield "addresses", ", ".join(interface.addresses)
    yield "network", ", ".join(_network(interface))
    if interface.dns:
        words = ", ".join((*interface.dns.servers, *interface.dns.search)) or "none"
        yield "DNS", f"{words} ({interface.dns.mode})"
    if interface.kill_switch:
        yield "traffic", "only through the tunnel (kill switch)"


def _origin(interface: InterfaceStatus, now: float) -> Iterator[str]:
    yield interface.backend
    if interface.since:
        when = strftime("%Y-%m-%d %H:%M", localtime(interface.since))
        yield f"since {when} ({span(max(0.0, now - interface.since))})"
    yield f"by {interface.by}" if interface.by else "not by wgq"


def _network(interface: InterfaceStatus) -> Iterator[str]:
    yield f"port {interface.listen_port}" if interface.listen_port else "no port"
    if interface.mtu is not None:
        origin = {True: " (from the file)", False: " (automatic)", None: ""}[interface.mtu_given]
        yield f"MTU {interface.mtu}{origin}"
    if interface.table is not None:
        yield "no routes (Table = off)" if interface.table == "off" else f"table {interface.table}"
    if interface.fwmark:
        yield f"mark {interface.fwmark:#x}"


def _drift(interface: InterfaceStatus) -> Iterator[tuple[str, str]]:
    """The first differences from the file."""
    if interface.drift is None:
        return
    names = {peer.public_key: peer_name(peer) for peer in interface.peers}
    for at, each in enumerate(interface.drift[:_MOST_DRIFT]):
        who = f"{names.get(each.peer, each.peer)}: " if each.peer else ""
        yield "" if at else "drift", who + each.message
    if len(interface.drift) > _MOST_DRIFT:
        yield "", f"and {len(interface.drift) - _MOST_DRIFT} more"


# The table of peers.


class _Column(NamedTuple):
    """A column: its title, each row's text, and whether it is aligned to the right."""

    title: str
    cells: Sequence[str]
    right: bool = False

    @property
    def width(self) -> int:
        measure = len if "".join(self.cells).isascii() else cell_len
        return max(cell_len(self.title), *map(measure, self.cells))

    def fitted(self, width: int) -> list[str]:
        """The cells with this width; in the usual case without a call for each, as there may be 10,000 peers."""
        if self.width > width or not "".join(self.cells).isascii():
            return [_cell(each, width, self.right) for each in self.cells]
        return [each.rjust(width) if self.right else each.ljust(width) for each in self.cells]


def _table(peers: Sequence[PeerStatus], paint: Paint, width: int) -> Iterator[str]:
    columns = _columns(peers, width)
    widths = _fitting([column.width for column in columns], width)
    gap = " " * _GAP
    titles = gap.join(_cell(column.title, size, column.right) for column, size in zip(columns, widths, strict=True))
    yield paint("dim", f"{gap}{titles}".rstrip())
    fitted = zip(*(column.fitted(size) for column, size in zip(columns, widths, strict=True)), strict=True)
    for at, (peer, row) in enumerate(zip(peers, fitted, strict=True)):
        cells = [*row]
        if len(columns[-1].cells[at]) > widths[-1]:
            cells[-1] = _short_endpoint(columns[-1].cells[at], widths[-1])
        style = _STYLES[peer.state]
        cells[1] = paint(style, cells[1])
        yield f"{gap}{gap.join(cells)}".rstrip()
        if peer.last_error:
            yield from (paint("yellow", each) for each in _error(peer.last_error.message, width))


def _error(message: str, width: int) -> list[str]:
    return _wrapped(message, "    ! ", width)


def _columns(peers: Sequence[PeerStatus], width: int) -> list[_Column]:
    columns = [
        _Column("peer", [peer_name(peer) for peer in peers]),
        _Column("state", [peer.state for peer in peers]),
        _Column("handshake", [_age(peer) for peer in peers], right=True),
    ]
    rates = any(peer.rx_rate is not None for peer in peers)
    if not rates or width >= _WIDE:
        columns.append(_Column("received", [size(peer.rx_bytes) for peer in peers], right=True))
        columns.append(_Column("sent", [size(peer.tx_bytes) for peer in peers], right=True))
    if rates:
        columns.append(_Column("receives", [_rate(peer.rx_rate) for peer in peers], right=True))
        columns.append(_Column("sends", [_rate(peer.tx_rate) for peer in peers], right=True))
    return [*columns, _Column("endpoint", [_endpoint(peer) for peer in peers])]


def _fitting(widths: list[int], width: int) -> list[int]:
    """The widths of the columns. If they are too wide, endpoint and name are shortened, then both even more."""
    for at, least in ((-1, _SHORTEST_ENDPOINT), (0, _SHORTEST_NAME), (-1, 1), (0, 1)):
        over = sum(widths) + _GAP * len(widths) - width
        widths[at] -= min(max(0, over), max(0, widths[at] - least))
    return widths


def _cell(value: str, width: int, right: bool) -> str:
    if value.isascii():
        if len(value) > width:
            return value[: max(0, width - 1)] + "…"
        return value.rjust(width) if right else value.ljust(width)
    if cell_len(value) > width:
        value = set_cell_size(value, width - 1).rstrip() + "…"
    return set_cell_size(value, width)


def _short_endpoint(endpoint: str, width: int) -> str:
    """The endpoint, shortened but with its port: `[2001:db8:…]:51820`."""
    head, _, tail = endpoint.rpartition(":")
    end = f"…{']' if head.endswith(']') else ''}:{tail}"
    return head[: max(0, width - len(end))] + end if width > len(end) else _cell(endpoint, width, right=False)


def peer_name(peer: PeerStatus) -> str:
    """The peer's name, or the beginning of its key."""
    return peer.name or f"{peer.public_key[:12]}…"


def _age(peer: PeerStatus) -> str:
    return span(peer.handshake_age) if peer.handshake_age is not None else "-"


def _endpoint(peer: PeerStatus) -> str:
    if peer.endpoint is None:
        return peer.configured_endpoint or "-"
    return f"{peer.endpoint} roamed" if peer.roamed else peer.endpoint


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{size(rate)}/s"


def span(seconds: float) -> str:
    """A time in its largest unit: `12 s`, `3 min`, `2 h`."""
    for length, unit in _SPANS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def size(count: float) -> str:
    """A number of bytes with two or three digits: `0 B`, `1.2 KiB`, `34 MiB`."""
    if count < UNITS[-1][0]:
        return f"{int(count)} B"
    for length, unit in UNITS:
        if count >= length:
            number = count / length
            return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"
    return f"{int(count)} B"
