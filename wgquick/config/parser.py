"""Parses a document to `Settings` by the grammar of wg-quick(8) and of `wg setconf` (wg(8)).

The parser accepts and refuses the same files as the two programs, and reports all faults of a file at once with
their places. A bad Address or MTU is a fault here, while wg-quick finds it only in the middle of `up`.
"""

from __future__ import annotations

from wgquick.config import grammar, keys
from wgquick.config.document import columns
from wgquick.config.extras import read as read_extras
from wgquick.config.grammar import GrammarError
from wgquick.config.keys import KEYS
from wgquick.config.settings import Address, PeerSettings, Settings
from wgquick.errors import ConfigError, Diagnostic
from wgquick.lean import TYPE_CHECKING, NamedTuple, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from wgquick.config.document import Document, QuickLine
    from wgquick.net import AllowedIP, Endpoint

    _Readers = dict[str, tuple[int, Callable[[str], Any]]]


class Report(NamedTuple):
    """The result of parsing a file; `settings` is None if and only if there are faults."""

    settings: Settings | None
    faults: tuple[Diagnostic, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()


def parse(document: Document, name: str, path: str = "") -> Settings:
    """The settings of a file; ConfigError with all faults if wg-quick would not bring it up."""
    report = examine(document, name, path)
    if report.settings is None:
        raise ConfigError(path or document.path, report.faults)
    return report.settings


def examine(document: Document, name: str, path: str = "") -> Report:
    """The settings of a file or its faults, the warnings that `wg` prints, and warnings about DNS."""
    if document.is_utf16:
        what = "the file is encoded in UTF-16"
        return Report(None, (Diagnostic(1, 1, "encoding", what, "save it as UTF-8"),))
    wg, quick = _WgSections(document), _QuickKeys(document)
    extras, faulty = read_extras(document)
    faults = sorted([*wg.faults, *quick.faults, *faulty])
    if faults:
        from wgquick.config import explain, foreign

        faults = foreign.explained(document, explain.explained(document, faults))
    settings = None if faults else _settings(wg, quick, name, path or document.path)._replace(extras=extras)
    return Report(settings, tuple(faults), (*wg.warnings, *_dns_warnings(document, quick)))


def _dns_warnings(document: Document, quick: _QuickKeys) -> list[Diagnostic]:
    """Warnings for DNS words that are neither address nor domain, with the causing character, if any."""
    if not quick.warnings:
        return []
    from wgquick.config.explain import named

    return [named(document, warning) for warning in quick.warnings]


def for_down(document: Document, name: str, path: str = "") -> Settings:
    """The settings that `down` needs, for a file with faults: wg-quick's down does not read wg's keys."""
    quick = _QuickKeys(document)
    values = {field: value for field, value in quick.values().items() if field != "save_config"}
    return Settings(name=name, path=path or document.path, **values)


def refuse_save_config(document: Document, path: str = "") -> None:
    """ConfigError if SaveConfig is neither true nor false: wg-quick then fails for every verb."""
    faults = [fault for fault in _QuickKeys(document).faults if fault.code == "save-config"]
    if faults:
        raise ConfigError(path or document.path, faults)


def table_fault(document: Document, fault: GrammarError) -> Diagnostic | None:
    """A fault of Table, which depends on the host, with its place; None if the file no longer sets Table."""
    given = [line for line in document.views.quick if line.key == "Table"]
    if not given:
        return None
    from wgquick.config.explain import named

    return named(document, _diagnostic(given[-1].row, document.quick_value(given[-1])[1] + 1, fault))


def endpoint_place(document: Document, endpoint: Endpoint) -> tuple[int, int] | None:
    """The line and the column of an Endpoint, from 1; None if the file no longer has it."""
    for row, line in enumerate(document.lines()):
        with suppress(GrammarError):
            if line.key == "Endpoint" and grammar.endpoint("".join(line.value_text.split())) == endpoint:
                return row + 1, line.value[0] + 1
    return None


def _settings(wg: _WgSections, quick: _QuickKeys, name: str, path: str) -> Settings:
    return Settings(name=name, path=path, peers=wg.peers(), **wg.interface(), **quick.values())


class _QuickKeys:
    """The keys that only wg-quick reads, collected as in its parse_options."""

    def __init__(self, document: Document) -> None:
        self.faults: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self._lists: dict[str, list[Any]] = {}
        self._last: dict[str, tuple[int, str, int]] = {}
        self._assigned: set[tuple[bytes, int]] = set()
        self._save_config = False
        for line in document.views.quick:
            value, start = document.quick_value(line)
            self._take(line, value, start)
        self._mtu = self._last_mtu()

    def values(self) -> dict[str, Any]:
        """The fields of Settings that the keys set."""
        lists = {field: tuple(values) for field, values in self._lists.items()}
        table = self._last.get("Table", (0, "", 0))[1]
        return {**lists, "mtu": self._mtu, "table": table, "save_config": self._save_config}

    def _take(self, line: QuickLine, value: str, start: int) -> None:
        match line.key:
            case "Address":
                self._take_addresses(line.row, value, start)
            case "DNS":
                self._take_dns(line.row, value, start)
            case "MTU" | "Table":
                self._last[line.key] = (line.row, value, start)
            case "SaveConfig":
                self._take_save_config(line.row, value, start)
            case hook:
                self._add(KEYS[hook].field, value)

    def _add(self, field: str, value: object) -> None:
        self._lists.setdefault(field, []).append(value)

    def _take_addresses(self, index: int, value: str, start: int) -> None:
        for word, offset in grammar.words(value):
            try:
                self._add_address(grammar.address(word))
            except GrammarError as fault:
                place = start + offset + fault.offset + 1
                self.faults.append(_diagnostic(index, place, grammar.redacted(fault, value)))

    def _add_address(self, address: Address) -> None:
        identity = grammar.identity(address)
        if identity in self._assigned:
            what = f"Address {grammar.shown(address.text)} is given twice"
            raise GrammarError("duplicate-address", what, "remove one of them")
        if identity:
            self._assigned.add(identity)
        self._add("addresses", address)

    def _take_dns(self, index: int, value: str, start: int) -> None:
        for word, offset in grammar.words(value):
            try:
                grammar.check_dns(word)
            except GrammarError as fault:
                place = start + offset + 1
                self.warnings.append(
                    _diagnostic(index, place, grammar.redacted(fault, value))._replace(severity="warning")
                )
            self._add("dns" if grammar.is_nameserver(word) else "dns_search", word)

    def _take_save_config(self, index: int, value: str, start: int) -> None:
        try:
            self._save_config = grammar.save_config(value)
        except GrammarError as fault:
            self.faults.append(_diagnostic(index, start + 1, fault))

    def _last_mtu(self) -> int | None:
        """The last MTU; None if it is empty. wg-quick ignores earlier ones."""
        index, value, start = self._last.get("MTU", (0, "", 0))
        try:
            return grammar.mtu(value) if value else None
        except GrammarError as fault:
            self.faults.append(_diagnostic(index, start + 1, fault))
            return None


class _Section:
    """A section of wg during parsing. A later value replaces an earlier one; AllowedIPs accumulate."""

    __slots__ = ("allowed_ips", "row", "values")

    def __init__(self, row: int, fields: Sequence[str]) -> None:
        self.row = row
        self.values: list[Any] = [None] * len(fields)
        self.allowed_ips: list[AllowedIP] = []

    def peer(self) -> PeerSettings:
        """The values of a [Peer] section without faults."""
        self.values[_ALLOWED_IPS] = tuple(self.allowed_ips)
        self.values[_REPLACE] = self.values[_REPLACE] is not False
        return tuple.__new__(PeerSettings, self.values)  # skips the check of the number of fields


def _readers(section: str, fields: Sequence[str]) -> _Readers:
    """The index of the field and the reader of each wg key of a section, by the key as usual and in lower case."""
    found = {key.name: (fields.index(key.field), key.read) for key in keys.of(section, of_wg=True)}
    return found | {name.lower(): reader for name, reader in found.items()}


_FAULTY = False  # stands for a value that cannot be read; a file with a fault has no settings
_ALLOWED_IP = KEYS["AllowedIPs"].read
_INTERFACE = tuple(key.field for key in keys.of("Interface", of_wg=True))
_PEER = PeerSettings._fields
_PUBLIC_KEY, _ALLOWED_IPS, _REPLACE = map(_PEER.index, ("public_key", "allowed_ips", "replace_allowed_ips"))
_READERS = {"[interface]": _readers("Interface", _INTERFACE)}
_PEER_READERS = _readers("Peer", _PEER)


class _WgSections:
    """The lines that `wg setconf` gets, parsed as in its process_line."""

    def __init__(self, document: Document) -> None:
        self.faults: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self._peers: list[_Section] = []
        self._interface = _Section(0, _INTERFACE)
        self._section = self._interface
        self._readers: _Readers = {}
        self._document = document
        self._index = 0
        self._columns: tuple[int, list[int]] = (-1, [])
        self._read(document.views.wg)
        self._require_public_keys()

    def interface(self) -> dict[str, Any]:
        """The fields of Settings that [Interface] sets."""
        return dict(zip(_INTERFACE, self._interface.values, strict=True))

    def peers(self) -> tuple[PeerSettings, ...]:
        """The [Peer] sections of a file without faults."""
        return tuple(peer.peer() for peer in self._peers)

    def _read(self, lines: list[str]) -> None:
        """Parse the lines. This is the hot loop for 10,000 peers: local names, and no calls but the readers."""
        readers, values = self._readers, self._section.values
        for index, line in enumerate(lines):
            if not line or line[0] == "#":
                continue
            cleaned = line[: line.index("#")] if "#" in line else line
            key, _, value = cleaned.partition("=")
            self._index = index
            reader = readers.get(key) or readers.get(key.lower())
            if reader is None or not value:
                self._take_other(cleaned)
                readers, values = self._readers, self._section.values
                continue
            at, read = reader
            if read is _ALLOWED_IP:
                self._take_allowed_ips(value)
                continue
            try:
                values[at] = read(value)
            except GrammarError as fault:
                self._refuse(fault.at(len(key) + 1))
                if values[at] is None:
                    values[at] = _FAULTY

    def _take_other(self, cleaned: str) -> None:
        header = cleaned.lower()
        if header == "[peer]":
            self._readers = _PEER_READERS
            self._section = _Section(self._index, _PEER)
            self._peers.append(self._section)
            return
        if header not in _READERS:
            self._refuse(self._unrecognised(cleaned))
            return
        self._readers = _READERS[header]
        self._section = self._interface

    def _unrecognised(self, cleaned: str) -> GrammarError:
        """The fault of an unknown line; imports `advice` only if there is one."""
        from wgquick.config.advice import unrecognised

        section = ""
        if self._readers:
            section = "Interface" if self._section is self._interface else "Peer"
        return unrecognised(cleaned, section)

    def _refuse(self, fault: GrammarError) -> None:
        self.faults.append(_diagnostic(self._index, self._column(fault.offset), fault))

    def _column(self, offset: int) -> int:
        """The column of an offset in wg's view of the line; cached, as one line may have thousands of faults."""
        if self._columns[0] != self._index:
            self._columns = self._index, columns(self._document.line_text(self._index))
        places = self._columns[1]
        return places[min(offset, len(places) - 1)]

    def _require_public_keys(self) -> None:
        """Report peers without PublicKey, except those with a faulty PublicKey."""
        for peer in self._peers:
            if peer.values[_PUBLIC_KEY] is None:
                self._index = peer.row
                what = "the peer has no PublicKey"
                self._refuse(GrammarError("peer-without-key", what, "add `PublicKey = ...'"))

    def _take_allowed_ips(self, value: str) -> None:
        peer = self._section
        peer.values[_REPLACE] = True
        try:
            peer.allowed_ips += grammar.plain_allowed_ips(value)
        except (OSError, ValueError, KeyError):
            self._take_each_allowed_ip(peer, value)

    def _take_each_allowed_ip(self, peer: _Section, value: str) -> None:
        """Read each entry, for incremental forms, host bits and faults; the last line decides on replacement."""
        offset = len("AllowedIPs=")
        for entry in value.split(","):
            try:
                self._take_allowed_ip(peer, entry, offset)
            except GrammarError as fault:
                self._refuse(fault.at(offset))
            offset += len(entry) + 1

    def _take_allowed_ip(self, peer: _Section, entry: str, offset: int) -> None:
        allowed, had_host_bits = grammar.allowed_ip(entry)
        if allowed.change:
            peer.values[_REPLACE] = False
        if had_host_bits:
            self._warn_of_host_bits(entry.removeprefix(allowed.change), offset + len(allowed.change))
        peer.allowed_ips.append(allowed)

    def _warn_of_host_bits(self, entry: str, offset: int) -> None:
        place = self._column(offset)
        what = f"AllowedIP has nonzero host part: {entry}"
        self.warnings.append(
            Diagnostic(self._index + 1, place, "allowed-ip-host-bits", what, severity="warning", value=entry)
        )


def _diagnostic(index: int, place: int, fault: GrammarError) -> Diagnostic:
    return Diagnostic(
        index + 1,
        place,
        fault.code,
        fault.message,
        fault.remedy,
        about=fault.about,
        form=fault.form,
        value=fault.value,
    )
