"""`save`: writes what wg-quick's save_config records into the existing file.

Only changed values are rewritten. Comments, order, hooks, spelling, and host names that still resolve to a peer's
endpoint stay. The section of a removed peer is deleted with the comment above it. New peers come last.
"""

from __future__ import annotations

import re

from wgquick.config import grammar, keys
from wgquick.config.document import SPACE, UTF8_BOM, encode
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import address_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from wgquick.config.document import Document
    from wgquick.config.keys import Key
    from wgquick.config.settings import PeerSettings, Settings
    from wgquick.device import Device, DevicePeer
    from wgquick.net import AllowedIP, Endpoint, Prefix, PublicKey, SocketAddress

    Resolves = Callable[[Endpoint, SocketAddress], bool]

_OPENING = re.compile(r"([ \t]*)[^=]*?([ \t]*=[ \t]*)")
_WITHOUT_SPACE = dict.fromkeys(map(ord, SPACE + "\0"))
_AFTER_THE_FILE = float("inf")
# In the order in which `wg showconf` prints them.
_DEVICE_VALUES = sorted(keys.of("Interface", of_wg=True), key=lambda key: key.secret)
_PEER_VALUES = tuple(keys.KEYS[name] for name in ("PresharedKey", "Endpoint", "PersistentKeepalive"))


class Present(NamedTuple):
    """The interface's current state; None keeps the file's setting (the resolver does not show its DNS)."""

    device: Device
    addresses: tuple[Prefix, ...]
    mtu: int | None = None
    dns: tuple[str, ...] | None = None
    dns_search: tuple[str, ...] | None = None


class _Section(NamedTuple):
    """The rows of a section: its header, and the row after its last row."""

    header: int
    end: int


class _Text:
    """A document's lines during changes. A row keeps its number when other rows are added or deleted."""

    def __init__(self, document: Document) -> None:
        self.lines = document.lines()
        self._bom = bytes(document).startswith(UTF8_BOM)
        self._texts: list[str | None] = [line.text for line in self.lines]
        self._added: dict[int, list[str]] = {}
        self._newline = "\r\n" if self.lines and self.lines[0].text.endswith("\r\n") else "\n"

    def sections(self, name: str) -> list[_Section]:
        """The sections of that name, as wg sees them."""
        headers = [row for row, line in enumerate(self.lines) if line.header]
        ends = [*headers[1:], len(self.lines)]
        spans = map(_Section, headers, ends)
        return [span for span in spans if self.lines[span.header].header == name]

    def rows(self, sections: Iterable[_Section], key: str) -> list[int]:
        """The remaining rows that set `key`."""
        spans = (row for section in sections for row in range(section.header, section.end))
        return [row for row in spans if self.lines[row].key == key and self._texts[row] is not None]

    def replace(self, row: int, value: str) -> None:
        """Replace the value in a row; the text before and after it stays."""
        line = self.lines[row]
        self._texts[row] = line.text[: line.value[0]] + value + line.text[line.value[1] :]

    def delete(self, rows: Iterable[int]) -> None:
        """Delete rows."""
        for row in rows:
            self._texts[row] = None

    def add(self, section: _Section, key: str, value: str) -> None:
        """Add a line after the section's last one with that key, or with any key, in the same style."""
        row = (self.rows([section], key) or [self._last_key(section)])[-1]
        style = _OPENING.match(self.lines[row].text) if self.lines[row].key else None
        indent, equals = style.groups() if style else ("", " = ")
        self._added.setdefault(row, []).append(f"{indent}{key}{equals}{value}")

    def prepend(self, lines: Sequence[str]) -> None:
        """Insert lines before the first."""
        self._added.setdefault(-1, []).extend(lines)

    def append_section(self, lines: Sequence[str]) -> None:
        """Append a section after the last, with an empty line before it."""
        added = self._added.setdefault(len(self.lines), [])
        added += [*([""] if added or self._ends_in_text() else []), *lines]

    def remove_section(self, section: _Section) -> None:
        """Delete a section with the comment directly above it; the comment above the next section stays."""
        start = self._comment_above(section.header)
        end = self._last_key(section) + 1
        stop = section.end if section.end == len(self.lines) else self._comment_above(section.end)
        while end < stop and not self._is_blank(end) and not self._is_header_in_a_comment(end):
            end += 1
        while end < stop and self._is_blank(end):
            end += 1
        self.delete(range(start, end))
        if end == len(self.lines):
            self._trim_end(start)

    def __bytes__(self) -> bytes:
        parts = self._added_at(-1)
        for row, text in enumerate(self._texts):
            parts += ([] if text is None else [text]) + self._added_at(row)
        parts += self._added_at(len(self._texts))
        return (UTF8_BOM if self._bom else b"") + encode("".join(self._ended(parts)))

    def _added_at(self, row: int) -> list[str]:
        return [line + self._newline for line in self._added.get(row, [])]

    def _ended(self, parts: list[str]) -> list[str]:
        """The parts, each with a newline at the end except the very last line."""
        return [part if part.endswith("\n") else part + self._newline for part in parts[:-1]] + parts[-1:]

    def _last_key(self, section: _Section) -> int:
        rows = range(section.end - 1, section.header, -1)
        return next((row for row in rows if self.lines[row].key and self._texts[row] is not None), section.header)

    def _comment_above(self, row: int) -> int:
        while row and self.lines[row - 1].text.lstrip(SPACE).startswith("#"):
            row -= 1
        return row

    def _is_blank(self, row: int) -> bool:
        return not self.lines[row].text.strip(SPACE)

    def _is_header_in_a_comment(self, row: int) -> bool:
        """Whether a row is a commented-out header such as `#[Peer]`, which starts a separate section."""
        return self.lines[row].text.lstrip(SPACE + "#").startswith("[")

    def _ends_in_text(self) -> bool:
        rows = range(len(self.lines) - 1, -1, -1)
        last = next((row for row in rows if self._texts[row] is not None), None)
        return last is not None and not self._is_blank(last)

    def _trim_end(self, row: int) -> None:
        while row and (self._texts[row - 1] is None or self._is_blank(row - 1)):
            row -= 1
            self._texts[row] = None


def updated(document: Document, settings: Settings, present: Present, resolves: Resolves) -> bytes:
    """The file's bytes after a save; they describe the interface in the state `present`.

    `settings` are the document's, `resolves` tells whether an endpoint in the file still resolves to an address.
    """
    text = _Text(document)
    _InterfaceEdit(text).save(settings, present)
    _PeersEdit(text, settings, present.device, resolves).save()
    return bytes(text)


class _InterfaceEdit:
    """Changes [Interface]; a file without this section gets one at the top."""

    def __init__(self, text: _Text) -> None:
        self._text = text
        self._sections = text.sections("Interface")
        homes = (section for section in self._sections if text.lines[section.header].quick)
        self._home = next(homes, None)
        self._new: list[str] = []

    def save(self, settings: Settings, present: Present) -> None:
        """Update every setting that save_config records."""
        self._save_addresses(settings, present)
        self._save_dns(settings, present)
        if settings.mtu is not None and present.mtu is not None:
            self._put("MTU", str(present.mtu), same=settings.mtu == present.mtu)
        self._save_device(settings, present.device)
        if self._new:
            self._text.prepend(["[Interface]", *self._new, ""])

    def _save_device(self, settings: Settings, device: Device) -> None:
        for key in _DEVICE_VALUES:
            self._put(key.name, _line(key, device), same=_is_same(key, settings, device))

    def _save_addresses(self, settings: Settings, present: Present) -> None:
        """Update the addresses, compared as sets: their order is the kernel's. The kernel ignores 0.0.0.0."""
        wanted = [str(prefix) for prefix in present.addresses]
        if {_prefix(a.address, a.length) for a in settings.addresses if a.address != bytes(4)} != set(wanted):
            self._put_words("Address", wanted, _address_of)

    def _save_dns(self, settings: Settings, present: Present) -> None:
        servers = settings.dns if present.dns is None else present.dns
        search = settings.dns_search if present.dns_search is None else present.dns_search
        if {*servers, *search} != {*settings.dns, *settings.dns_search}:
            self._put_words("DNS", [*servers, *search], str)

    def _put(self, key: str, value: str | None, *, same: bool) -> None:
        if not same and not _put_value(self._text, self._text.rows(self._sections, key), value):
            self._add(key, value or "")

    def _put_words(self, key: str, wanted: Sequence[str], identity: Callable[[str], str]) -> None:
        edit = _WordsEdit(self._text, self._text.rows(self._sections, key), grammar.word_texts, identity)
        for word in edit.save(wanted):
            self._add(key, word)

    def _add(self, key: str, value: str) -> None:
        if self._home:
            self._text.add(self._home, key, value)
        else:
            self._new.append(f"{key} = {value}")


class _PeersEdit:
    """Changes the [Peer] sections. Sections with the same key stay if they are current, or become one."""

    def __init__(self, text: _Text, settings: Settings, device: Device, resolves: Resolves) -> None:
        self._text = text
        self._device = device
        self._resolves = resolves
        self._parts: dict[PublicKey, list[tuple[_Section, PeerSettings]]] = {}
        for section, peer in zip(text.sections("Peer"), settings.peers, strict=True):
            self._parts.setdefault(peer.public_key, []).append((section, peer))
        self._owners = {
            network: self._first_row(peer.public_key)
            for peer in device.peers
            for network in _networks(peer.allowed_ips)
        }

    def save(self) -> None:
        """Change, remove and add peers so that the file has the device's peers."""
        present = {peer.public_key: peer for peer in self._device.peers}
        for key, parts in self._parts.items():
            if key not in present:
                self._remove(parts)
            elif len(parts) == 1:
                self._save_peer(present[key], *parts[0])
            elif not self._is_same(present[key], parts):
                self._remove(parts[1:])
                self._save_peer(present[key], *parts[0])
        for key, peer in present.items():
            if key not in self._parts:
                self._text.append_section(["[Peer]", *(f"{name} = {value}" for name, value in _peer_lines(peer))])

    def _first_row(self, key: PublicKey) -> float:
        parts = self._parts.get(key)
        return parts[0][0].header if parts else _AFTER_THE_FILE

    def _remove(self, parts: Iterable[tuple[_Section, PeerSettings]]) -> None:
        for section, _ in parts:
            self._text.remove_section(section)

    def _is_same(self, peer: DevicePeer, parts: Sequence[tuple[_Section, PeerSettings]]) -> bool:
        """Whether the sections of a key together equal the device's peer, and none has more AllowedIPs."""
        wanted = _networks(peer.allowed_ips)
        claims = [_networks(part.allowed_ips) for _, part in parts]
        merged = _merged([part for _, part in parts])
        return (
            merged.replace_allowed_ips
            and _networks(merged.allowed_ips) == wanted
            and all(claim <= wanted for claim in claims)
            and all(self._is_same_value(key, merged, peer) for key in _PEER_VALUES)
        )

    def _save_peer(self, peer: DevicePeer, section: _Section, settings: PeerSettings) -> None:
        for key in _PEER_VALUES:
            if self._is_same_value(key, settings, peer):
                continue
            line = _line(key, peer)
            if not _put_value(self._text, self._text.rows([section], key.name), line):
                self._text.add(section, key.name, line or "")
        self._save_allowed_ips(peer, section, settings)

    def _save_allowed_ips(self, peer: DevicePeer, section: _Section, settings: PeerSettings) -> None:
        """Update AllowedIPs. Entries that a later peer of the file takes over stay, as in `wg`."""
        wanted = [str(ip) for ip in peer.allowed_ips]
        claimed = _networks(settings.allowed_ips)
        taken = {each for each in claimed.difference(wanted) if self._owners.get(each, -1) > section.header}
        if claimed - taken == set(wanted):
            return
        edit = _WordsEdit(self._text, self._text.rows([section], "AllowedIPs"), _wg_words, _network_of)
        if missing := edit.save(wanted, taken):
            self._text.add(section, "AllowedIPs", ", ".join(missing))

    def _is_same_value(self, key: Key, settings: PeerSettings, peer: DevicePeer) -> bool:
        if key.name == "Endpoint":
            return self._resolves_to(settings.endpoint, peer.endpoint)
        return _is_same(key, settings, peer)

    def _resolves_to(self, endpoint: Endpoint | None, address: SocketAddress | None) -> bool:
        if endpoint is None or address is None:
            return endpoint is None and address is None
        return str(endpoint) == str(address) or self._resolves(endpoint, address)


class _WordsEdit:
    """Changes a list in one or more rows."""

    def __init__(
        self,
        text: _Text,
        rows: list[int],
        split: Callable[[str], list[str]],
        identity: Callable[[str], str],
    ) -> None:
        self._text = text
        self._words = {row: split(text.lines[row].value_text) for row in rows}
        self._identity = identity

    def save(self, wanted: Sequence[str], tolerated: Iterable[str] = ()) -> list[str]:
        """Keep wanted and tolerated words and add missing ones; returns the words that need new lines."""
        allowed = {*wanted, *tolerated}
        kept = {row: [w for w in words if self._identity(w) in allowed] for row, words in self._words.items()}
        known = {self._identity(word) for words in kept.values() for word in words}
        missing = [word for word in wanted if word not in known]
        if missing and (row := self._row_for_more(kept)) is not None:
            kept[row] = [*kept[row], *missing]
            missing = []
        self._write(kept)
        return missing

    def _row_for_more(self, kept: Mapping[int, list[str]]) -> int | None:
        """The last row that stays, or else the first row; None if each word has its own line."""
        staying = [row for row, words in kept.items() if words]
        if not staying:
            return next(iter(kept), None)
        own_lines = len(self._words) > 1 and all(len(words) == 1 for words in self._words.values())
        return None if own_lines else staying[-1]

    def _write(self, kept: Mapping[int, list[str]]) -> None:
        for row, words in kept.items():
            if not words:
                self._text.delete([row])
            elif words != self._words[row]:
                self._text.replace(row, ", ".join(words))


def _put_value(text: _Text, rows: list[int], value: str | None) -> bool:
    """Write or remove a value in the last of the rows, which is the effective one; False if there is no row."""
    if value is None:
        text.delete(rows)
    elif rows:
        text.replace(rows[-1], value)
    return value is None or bool(rows)


def _is_same(key: Key, settings: Settings | PeerSettings, device: Device | DevicePeer) -> bool:
    """Whether the file's value is equivalent to the device's."""
    return bool(key.normal(getattr(settings, key.field)) == key.normal(getattr(device, key.field)))


def _line(key: Key, device: Device | DevicePeer) -> str | None:
    """A device's value in a file's notation; None if it has none."""
    value = getattr(device, key.field)
    return next(iter(key.write(value))) if key.normal(value) else None


def _peer_lines(peer: DevicePeer) -> Iterator[tuple[str, str]]:
    """A peer's section as `wg showconf` prints it."""
    for key in keys.of("Peer"):
        value = ", ".join(map(str, peer.allowed_ips)) if key.name == "AllowedIPs" else _line(key, peer)
        if value:
            yield key.name, value


def _merged(parts: Sequence[PeerSettings]) -> PeerSettings:
    """The peer that several sections with one key make on a device."""
    merged = parts[0]
    for part in parts[1:]:
        given = {name: value for name, value in part._asdict().items() if value is not None}
        merged = merged._replace(**given)
    return merged


def _prefix(address: bytes, length: int) -> str:
    return f"{address_text(address)}/{length}"


def _networks(allowed_ips: Iterable[AllowedIP]) -> set[str]:
    """The networks of a list after its incremental entries are applied."""
    found: set[str] = set()
    for ip in allowed_ips:
        change = found.discard if ip.change == "-" else found.add
        change(_prefix(ip.address, ip.length))
    return found


def _network_of(entry: str) -> str:
    """The network that an AllowedIPs entry adds; "" for an entry that removes one."""
    ip, _ = grammar.allowed_ip(entry.translate(_WITHOUT_SPACE))
    return "" if ip.change == "-" else _prefix(ip.address, ip.length)


def _wg_words(value: str) -> list[str]:
    return [word.strip(SPACE) for word in value.split(",")]


def _address_of(word: str) -> str:
    found = grammar.address(word)
    return _prefix(found.address, found.length)
