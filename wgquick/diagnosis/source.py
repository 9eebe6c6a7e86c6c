"""A configuration file for check: its settings, its faults, and the place of each value."""

from __future__ import annotations

import os

from wgquick.config import grammar, keys, location
from wgquick.config.parser import examine
from wgquick.config.settings import Settings
from wgquick.lean import TYPE_CHECKING, NamedTuple, cached_property

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wgquick.config.document import Document, Line
    from wgquick.config.parser import Report
    from wgquick.net import PublicKey


class Place(NamedTuple):
    """A line and a column, both from 1."""

    line: int
    column: int


class Hook(NamedTuple):
    """A hook line: its stage (PreUp, PostUp, PreDown, PostDown), its text as written, and where the text begins."""

    stage: str
    text: str
    place: Place


class Effects(NamedTuple):
    """What the PreUp and PostUp hooks do, or may do, instead of the file's settings."""

    sets_key: bool = False
    """They set the private key before the interface is used."""
    sets_port: bool = False
    """They set the port."""
    adds_rule: bool = False
    """They add a policy rule, or run a script that may add one."""
    adds_address: bool = False
    """They add an address, or run a script that may."""
    makes_routes: bool = False
    """They add routes or policy rules, or may: then the file alone does not determine the routing."""


class Section:
    """The places of the values in one [Peer] section, or in all [Interface] sections together."""

    def __init__(self, rows: Sequence[int], lines: Sequence[Line]) -> None:
        self.rows = rows
        self._lines = lines

    def given(self, key: str) -> list[tuple[str, Place]]:
        """Each value of the key as the file writes it, and its place."""
        lines = ((row, self._lines[row]) for row in self.rows)
        return [(line.value_text, Place(row + 1, line.value[0] + 1)) for row, line in lines if line.key == key]

    @property
    def place(self) -> Place:
        """The section's first line."""
        return Place(next(iter(self.rows), 0) + 1, 1)

    def has(self, key: str) -> bool:
        """Whether a line of the section gives the key."""
        return any(self._lines[row].key == key for row in self.rows)

    def at(self, key: str) -> Place:
        """The key's last value; the section's first line if the key is not given."""
        given = [row for row in self.rows if self._lines[row].key == key]
        return Place(given[-1] + 1, self._lines[given[-1]].value[0] + 1) if given else self.place

    def text(self, key: str) -> str:
        """The key's last value as the file writes it; "" if the key is not given."""
        given = (self._lines[row].value_text for row in reversed(self.rows) if self._lines[row].key == key)
        return next(given, "")

    def word(self, key: str, index: int) -> Place:
        """The entry with that index, from 0, of a list that may have several lines."""
        places = self._words(key)
        for place in places:
            if index == 0:
                return place
            index -= 1
        return self.at(key)

    def entry(self, key: str, text: str) -> Place:
        """The first entry of a list with this text; the key's last value if there is none."""
        return next((place for each, place in self._entries(key) if each == text), self.at(key))

    def _words(self, key: str) -> Iterator[Place]:
        return (place for _, place in self._entries(key))

    def _entries(self, key: str) -> Iterator[tuple[str, Place]]:
        for row in self.rows:
            line = self._lines[row]
            if line.key == key:
                for word in grammar.words(line.value_text):
                    yield word.text, Place(row + 1, line.value[0] + word.offset + 1)

    def hooks(self) -> Iterator[Hook]:
        """The hook lines in the order of the file."""
        for row in self.rows:
            line = self._lines[row]
            if line.key in keys.HOOKS and line.value_text:
                yield Hook(line.key, line.value_text, Place(row + 1, line.value[0] + 1))


class Source:
    """One file. `shown` is its name in findings, `interface` the interface's name, "" if the file names none."""

    def __init__(self, shown: str, path: str, interface: str, document: Document) -> None:
        self.shown = shown
        self.path = path
        self.interface = interface
        self.document = document

    @cached_property
    def report(self) -> Report:
        """The parser's report on the file."""
        return examine(self.document, self.interface or "wg0", self.path)

    @property
    def settings(self) -> Settings:
        """The settings; empty if the file has faults."""
        return self.report.settings or Settings(name=self.interface)

    @property
    def is_sound(self) -> bool:
        """Whether the file has no faults, so that its settings are known."""
        return self.report.settings is not None

    @cached_property
    def lines(self) -> list[Line]:
        """The lines of the file with their sections and keys."""
        return self.document.lines()

    @cached_property
    def interface_section(self) -> Section:
        """All lines of [Interface]."""
        return Section([row for row, line in enumerate(self.lines) if line.section == "Interface"], self.lines)

    @cached_property
    def peer_sections(self) -> list[Section]:
        """The [Peer] sections, in the order of `settings.peers`."""
        headers = [row for row, line in enumerate(self.lines) if line.header]
        spans = zip(headers, [*headers[1:], len(self.lines)], strict=False)
        return [Section(range(a, b), self.lines) for a, b in spans if self.lines[a].header == "Peer"]

    @cached_property
    def hooks(self) -> tuple[Hook, ...]:
        """The hook lines of the file."""
        return tuple(self.interface_section.hooks())

    @cached_property
    def effects(self) -> Effects:
        """What the hooks do beside the settings."""
        if not self.hooks:
            return Effects()
        from wgquick.diagnosis import hook_rules

        return hook_rules.effects(self)

    @cached_property
    def public_key(self) -> PublicKey | None:
        """The interface's own public key; None if the file has no private key."""
        from wgquick.diagnosis.keys import public_key_of

        secret = self.settings.private_key
        return public_key_of(secret) if secret else None


def read_all(targets: Sequence[str]) -> list[Source]:
    """The files, each once; `-` is standard input, which names no interface."""
    found: dict[str, Source] = {}
    for target in targets:
        source = _standard_input() if target == "-" else read(target)
        found.setdefault(os.path.realpath(source.path) if source.path else "", source)
    return list(found.values())


def _standard_input() -> Source:
    return Source("standard input", "", "", location.read(location.Location("", "")))


def read(target: str) -> Source:
    """The file for `target`, a path or an interface's name; WgqError if it cannot be read.

    The file name of a path may be invalid as an interface name: check reports that.
    """
    path = target
    if "/" not in target and not target.endswith(".conf") and not os.path.exists(target):
        path = location.locate(target).path
    name = os.path.basename(path).removesuffix(".conf")
    valid = os.path.basename(path).endswith(".conf") and location.is_valid_name(name)
    document = location.read(location.Location(name, path))
    return Source(target if path == target else path, path, name if valid else "", document)
