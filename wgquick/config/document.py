"""A lossless configuration file: all bytes, and the lines as wg-quick(8) and wg(8) see them.

wg-quick keeps its own keys of [Interface] and passes all other lines to `wg`. The two see different sections: wg
removes whitespace everywhere in a line, wg-quick only at the ends. So `[ Interface ]` opens a section for wg and
closes it for wg-quick. This module decides this for the parser, `strip` and `save`.
"""

from __future__ import annotations

from wgquick.config import keys
from wgquick.lean import NamedTuple

SPACE = " \t\n\v\f\r"
"""[[:space:]] in the C locale, equal to wg's char_is_space."""
IFS = b" \t"
"""The characters that bash's `read -r line` trims: IFS without the newline that ended the line."""
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks, with which some editors begin a file."""

_DROPPED = b" \t\v\f\r\0"
_SPACE = SPACE.encode()
_SKIPPED = SPACE + "\0"
_SECTIONS = {"[interface]": "Interface", "[peer]": "Peer"}


class QuickLine(NamedTuple):
    """A line that wg-quick keeps: its row, from 0, and the key's canonical name."""

    row: int
    key: str


class Views(NamedTuple):
    """`wg` has wg's lines without whitespace but with comments, and "" for the lines in `quick`."""

    wg: list[str]
    quick: list[QuickLine]


class Line(NamedTuple):
    """One line; places are offsets into `text`, which keeps its line ending.

    `key` is a key's canonical name, "" if the line has no known key. `header` is the section's name if the line
    opens one. `section` is the section that the line is in for wg. `quick` is whether wg-quick also sees the line
    in [Interface].
    """

    text: str
    section: str = ""
    quick: bool = False
    header: str = ""
    key: str = ""
    value: tuple[int, int] = (0, 0)

    @property
    def value_text(self) -> str:
        """The value without surrounding blanks and without a comment (hooks keep theirs)."""
        return self.text[self.value[0] : self.value[1]]


def decode(raw: bytes) -> str:
    """The bytes as text; `encode` restores them, in any encoding."""
    return raw.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The original bytes of a text from `decode`."""
    return text.encode("utf-8", "surrogateescape")


class Document:
    """The bytes of a configuration file; `bytes(Document.parse(data, path)) == data` for any data."""

    __slots__ = ("_data", "_raw", "_views", "path")

    def __init__(self, data: bytes, path: str = "") -> None:
        self._data = data
        self.path = path
        self._raw: list[bytes] | None = None
        self._views: Views | None = None

    @classmethod
    def parse(cls, data: bytes, path: str = "") -> Document:
        """A document of any bytes; the parser reports faults."""
        return cls(data, path)

    def __bytes__(self) -> bytes:
        return self._data

    def __repr__(self) -> str:
        return f"Document(path={self.path!r}, {len(self._data)} bytes)"

    @property
    def is_utf16(self) -> bool:
        """Whether an editor saved the file as UTF-16, which neither wg nor wg-quick reads."""
        return self._data.startswith(UTF16_BOMS)

    @property
    def raw(self) -> list[bytes]:
        """The lines between the newlines, without a byte-order mark."""
        if self._raw is None:
            self._raw = self._data.removeprefix(UTF8_BOM).split(b"\n")
        return self._raw

    @property
    def views(self) -> Views:
        """The lines as wg sees them, and those that wg-quick keeps."""
        if self._views is None:
            self._views = self._split()
        return self._views

    def line_text(self, index: int) -> str:
        """A line's text; columns count its characters."""
        return decode(self.raw[index])

    def quick_value(self, line: QuickLine) -> tuple[str, int]:
        """The value of a wg-quick key as wg-quick reads it, and its offset in the line."""
        text = self.line_text(line.row)
        start, end = _value_span(text, hook=line.key in keys.HOOKS)
        return text[start:end].replace("\0", ""), start

    def lines(self) -> list[Line]:
        """Every line with its section, key and value; joined, the texts are the file after its byte-order mark."""
        views = self.views
        quick = dict(views.quick)
        inside = {row for start, end in self._interface_sections(views.wg) for row in range(start - 1, end)}
        found: list[Line] = []
        section = ""
        for row, cleaned in enumerate(views.wg):
            text = decode(self.raw[row]) + ("\n" if row < len(views.wg) - 1 else "")
            line = _line(text, cleaned.partition("#")[0], quick.get(row, ""), section)
            section = line.section
            found.append(line._replace(quick=row in inside))
        return found if found[-1].text else found[:-1]

    def _split(self) -> Views:
        cleaned = self._data.removeprefix(UTF8_BOM).translate(None, _DROPPED)
        wg = cleaned.decode("ascii", "surrogateescape").split("\n")
        quick = [line for start, end in self._interface_sections(wg) for line in self._quick_lines(start, end)]
        for index, _ in quick:
            wg[index] = ""
        return Views(wg, quick)

    def _interface_sections(self, wg: list[str]) -> list[tuple[int, int]]:
        """The spans of lines after an `[Interface]` that wg-quick recognises, up to the next line with a `[`."""
        headers = [index for index, line in enumerate(wg) if line[:1] == "["]
        ends = [*headers[1:], len(wg)]
        return [
            (start + 1, end)
            for start, end in zip(headers, ends, strict=False)
            if wg[start][1:2] in "iI" and _quick_key(self.raw[start]) == b"[interface]"
        ]

    def _quick_lines(self, start: int, end: int) -> list[QuickLine]:
        given = ((index, _quick_key(self.raw[index])) for index in range(start, end))
        named = ((index, keys.QUICK.get(key.decode("ascii", "replace"))) for index, key in given)
        return [QuickLine(index, name) for index, name in named if name]


def _quick_key(raw: bytes) -> bytes:
    """wg-quick's `key`: the trimmed text before `#` and `=`, in lower case as with its `nocasematch`."""
    return raw.replace(b"\0", b"").partition(b"#")[0].partition(b"=")[0].strip(_SPACE).lower()


def _value_span(text: str, *, hook: bool) -> tuple[int, int]:
    """The span of a value: after the first `=` (or the whole line), without surrounding blanks and comment.

    The span of an empty value is where a value would be written.
    """
    comment = text.find("#")
    end = len(text) if hook or comment < 0 else comment
    start = text.find("=", 0, end) + 1
    value = text[start:end].strip(_SKIPPED)
    if not value:
        start += text[start : start + 1] == " "
        return start, start
    start = text.index(value, start)
    return start, start + len(value)


def _line(text: str, cleaned: str, quick_key: str, section: str) -> Line:
    if quick_key:
        return Line(text, section, key=quick_key, value=_value_span(text, hook=quick_key in keys.HOOKS))
    if header := _SECTIONS.get(cleaned.lower(), ""):
        return Line(text, header, header=header)
    name, equals, _ = cleaned.partition("=")
    known = keys.BY_LOWER.get(name.lower()) if equals else None
    return (
        Line(text, section, key=known.name, value=_value_span(text, hook=False)) if known else Line(text, section)
    )


def is_header(text: str) -> bool:
    """Whether a line without its comment opens a section for wg; only ASCII blanks count as blanks."""
    return "".join(char for char in text if char not in SPACE).lower() in _SECTIONS


def columns(text: str) -> list[int]:
    """The columns, from 1, of the bytes that wg keeps when it removes whitespace; the last is the line's end."""
    kept = [(place, char) for place, char in enumerate(text, 1) if char not in _SKIPPED]
    end = len(text.rstrip(SPACE)) + 1
    return [*(place for place, char in kept for _ in range(1 if char.isascii() else len(encode(char)))), end]
