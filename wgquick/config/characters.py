"""Names characters that are invisible or look like an ASCII character, for messages.

Editors, web pages and chats use them for blanks, quotes and hyphens. This module is imported only to explain a
fault, as importing `unicodedata` takes time.
"""

from __future__ import annotations

import unicodedata

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

# General categories (UAX #44): controls, formats, private use, spaces, separators, dashes, quotes.
_ODD_CATEGORIES = frozenset({"Cc", "Cf", "Co", "Zs", "Zl", "Zp", "Pd", "Pi", "Pf"})
_BLANKS = frozenset(" \t\n\v\f\r\0")
# Quotes, minus, slashes, colons; and invisible ones: fillers, blank Braille, joiners, variation selectors.
_LOOKALIKES = {
    **dict.fromkeys("\u201e\u201f\u2033\u02ba\u275d\u275e\u00ab\u00bb", '"'),
    **dict.fromkeys("\u201a\u2032\u2035\u00b4\u02b9\u02bb\u02bc\u02bd\u2039\u203a\u275b\u275c", "'"),
    **dict.fromkeys("\u2212\u02d7", "-"),
    **dict.fromkeys("\u2044\u2215\u29f8", "/"),
    **dict.fromkeys("\u2236\ua789\u02d0\u0589\u05c3", ":"),
    **dict.fromkeys("\u3164\u2800\u115f\u1160\u034f\u17b4\u17b5\ufe0e\ufe0f", ""),
}
_SMART = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}


class Odd(NamedTuple):
    """A character's offset in a text, its name for a message, and what to do about it.

    `meant` is the ASCII text that it looks like; "" if it is invisible or looks like none.
    """

    offset: int
    name: str
    remedy: str
    meant: str


def suspicious(text: str) -> Odd | None:
    """The first character that is invisible or looks like an ASCII character."""
    return _first(text, _is_suspicious)


def foreign(text: str) -> Odd | None:
    """The first suspicious character, or else the first one that is not ASCII: for values in ASCII."""
    return suspicious(text) or _first(text, _is_foreign)


def plain(text: str) -> str:
    """The text with suspicious characters replaced by the ASCII text that they look like."""
    return "".join(_meant(char) if _is_suspicious(char) else char for char in text)


def _first(text: str, fits: Callable[[str], bool]) -> Odd | None:
    found = (offset for offset, char in enumerate(text) if fits(char))
    offset = next(found, None)
    if offset is None:
        return None
    char = text[offset]
    return Odd(offset, _name(char), _remedy(char), _meant(char) if _is_suspicious(char) else "")


def _is_foreign(char: str) -> bool:
    return not char.isascii()


def _is_suspicious(char: str) -> bool:
    if char in _BLANKS or " " < char <= "~":
        return False
    char = _decoded(char)
    if unicodedata.category(char) in _ODD_CATEGORIES or char in _LOOKALIKES:
        return True
    return not char.isascii() and unicodedata.normalize("NFKC", char).isascii()


def _decoded(char: str) -> str:
    """A byte that is not UTF-8, decoded as Windows-1252; other characters unchanged."""
    return bytes([ord(char) - 0xDC00]).decode("cp1252", "replace") if "\udc80" <= char <= "\udcff" else char


def _name(char: str) -> str:
    known = _decoded(char)
    label = f"U+{ord(known):04X} {unicodedata.name(known, 'CONTROL CHARACTER')}"
    return label if known is char else f"the byte 0x{ord(char) - 0xDC00:02X} (in Windows-1252 {label})"


def _meant(char: str) -> str:
    """The ASCII text that the character looks like; "" for an invisible one."""
    char = _decoded(char)
    known = {**_LOOKALIKES, **_SMART}.get(char)
    if known is not None:
        return known
    match unicodedata.category(char):
        case "Zs":
            return " "
        case "Pd":
            return "-"
        case _:
            pass
    normal = unicodedata.normalize("NFKC", char)
    return normal if normal.isascii() and normal.isprintable() else ""


def _remedy(char: str) -> str:
    if not _is_suspicious(char):
        return "write it in plain ASCII"
    meant = _meant(char)
    if not meant:
        return "delete the character: it is invisible"
    return "replace it with a plain blank" if meant == " " else f"replace it with {meant}"
