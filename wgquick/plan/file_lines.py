"""Finds the line of a setting in a file: the reason for a planned change."""

from __future__ import annotations

from wgquick.config import extras
from wgquick.config.grammar import GrammarError, address, allowed_ip
from wgquick.lean import TYPE_CHECKING
from wgquick.net import PublicKey
from wgquick.plan.planned import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wgquick.config.document import Document, Line

Network = tuple[bytes, int]


class FileLines:
    """Finds the line of each setting of a file; the path alone if the file lacks it or there is no document."""

    def __init__(self, path: str, document: Document | None = None) -> None:
        self._path, self._document = path, document
        self._sections = tuple(_sections(document)) if document is not None and path else ()
        self._networks: dict[Network, int] | None = None
        self._peers: dict[PublicKey | None, list[tuple[int, Line]]] | None = None

    def interface(self, *keys: str) -> Reason:
        """The last line of [Interface] with one of the keys, or else its header."""
        rows = [row for key in keys for row in self._rows(key)]
        headers = [section[0][0] for section in self._of("Interface")]
        return self._reason(rows[-1:] or headers[:1])

    def key(self, key: str) -> Reason:
        """The last line of [Interface] with the key; the path alone if there is none."""
        return self._reason(self._rows(key)[-1:])

    def address(self, address: bytes, length: int) -> Reason:
        """The line of an Address."""
        return self._reason(self._words("Interface", "Address", lambda word: _address(word) == (address, length)))

    def hook(self, stage: str, command: str, name: str) -> Reason:
        """The line of a hook; `command` has the interface's name in place of `%i`."""
        rows = (row for row, line in self._lines("Interface", stage) if _hook(line).replace("%i", name) == command)
        return self._reason(list(rows)[:1])

    def peer(self, key: PublicKey, *names: str) -> Reason:
        """The last line of the peer with one of the keys `names`, or else its PublicKey."""
        if self._peers is None:
            self._peers = {}
            for section in self._of("Peer"):
                self._peers.setdefault(_public_key(section), []).extend(section)
        lines = self._peers.get(key, [])
        rows = [row for row, line in lines if line.key in names]
        return self._reason(rows[-1:] or [row for row, line in lines if line.key == "PublicKey"][:1])

    def network(self, address: bytes, length: int) -> Reason:
        """The last line of any peer with the network in AllowedIPs."""
        if self._networks is None:
            self._networks = dict(self._allowed())
        row = self._networks.get((address, length))
        return self._reason([] if row is None else [row])

    def own(self, word: str) -> Reason:
        """The last line of one of wgq's own settings, such as `# wgq: exclude = lan`."""
        row = extras.rows(self._document).get(word) if self._document is not None and self._path else None
        return self._reason([] if row is None else [row])

    def nowhere(self) -> Reason:
        """The path alone, for changes without a line in the file."""
        return Reason(self._path)

    def _allowed(self) -> Iterator[tuple[Network, int]]:
        for row, line in self._lines("Peer", "AllowedIPs"):
            for word in line.value_text.split(","):
                try:
                    ip = allowed_ip("".join(word.split()))[0]
                except GrammarError:
                    continue
                yield (ip.address, ip.length), row

    def _words(self, section: str, key: str, fits: Callable[[str], bool]) -> list[int]:
        return [
            row for row, line in self._lines(section, key) for word in line.value_text.split(",") if fits(word)
        ][:1]

    def _rows(self, key: str) -> list[int]:
        return [row for row, _ in self._lines("Interface", key)]

    def _lines(self, section: str, key: str) -> Iterator[tuple[int, Line]]:
        return (each for lines in self._of(section) for each in lines if each[1].key == key)

    def _of(self, header: str) -> Iterator[list[tuple[int, Line]]]:
        return (section for section in self._sections if section[0][1].header == header)

    def _reason(self, rows: list[int]) -> Reason:
        return Reason(self._path, rows[0] + 1 if rows else 0)


def _sections(document: Document) -> Iterator[list[tuple[int, Line]]]:
    """The sections as lists of (row, line), each with its header first."""
    section: list[tuple[int, Line]] = []
    for row, line in enumerate(document.lines()):
        if line.header:
            if section:
                yield section
            section = [(row, line)]
        elif section and line.key:
            section.append((row, line))
    if section:
        yield section


def _hook(line: Line) -> str:
    return line.value_text.replace("\0", "")


def _public_key(section: list[tuple[int, Line]]) -> PublicKey | None:
    for _, line in section:
        if line.key == "PublicKey":
            try:
                return PublicKey.parse("".join(line.value_text.split()))
            except ValueError:
                return None
    return None


def _address(word: str) -> Network | None:
    try:
        found = address(word.strip())
    except GrammarError:
        return None
    return found.address, found.length
