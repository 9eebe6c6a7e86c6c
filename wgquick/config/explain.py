"""Finds the cause of faults: a misleading character, or a value that continues on the next line.

Faults that follow from another one are left out. This module is imported only if a file has faults.
"""

from __future__ import annotations

import re

from wgquick.config import keys
from wgquick.config.characters import foreign, plain, suspicious
from wgquick.config.document import is_header
from wgquick.config.grammar import shown
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.config.characters import Odd
    from wgquick.config.document import Document
    from wgquick.errors import Diagnostic

_CONSEQUENCES = ("no-section", "misplaced-key")
_WITHOUT_CHARACTER = ("peer-without-key", "duplicate-address", "encoding", *_CONSEQUENCES)
_LISTS = ("allowed-ip", "address")
_LIST_KEYS = ("AllowedIPs", "Address", "DNS")
_LENIENT = ("endpoint", "unknown-line", "unknown-section", "unknown-key", "missing-equals", "missing-value")
_OF_VALUES = (
    "wireguard-key", "endpoint", "fwmark", "listen-port", "persistent-keepalive", "mtu", "table", "save-config",
)  # fmt: skip
_FOR_PUBLIC_KEY = (
    ("missing-equals", "PublicKey"), ("unknown-key", "PublicKey"), ("misplaced-key", "PrivateKey"),
)  # fmt: skip
_PLACEHOLDER = re.compile(r"<[^<>]+>|\{\{|\$[\w{(]|\((hidden|none)\)")
_CONTINUING = ("unknown-section", "unknown-key", "missing-equals", "missing-value")
_UNFINISHED = re.compile(r"(\\|;|&&|\|\|?|[{(,]|\b(then|else|do))\s*$")
_HERE_DOCUMENT = re.compile(r"(?<!<)<<-?\s*['\"]?\w+")
_PORT_APART = re.compile(r"\S+\s+\d{1,5}")


def explained(document: Document, faults: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The faults with their causes, without those that follow from another fault."""
    given = list(faults)
    continued = _continued(document, given)
    broken = _below_broken_headers(document)
    outside = next((fault.line - 1 for fault in given if fault.code == "no-section"), -1)
    keyed = {fault.line - 1 for fault in given if _is_for_public_key(fault)}
    found: list[Diagnostic] = []
    for fault in given:
        row = fault.line - 1
        if row in continued:
            if row - 1 not in continued or continued[row] != continued[row - 1]:
                found.append(_continuation(document, fault, continued[row]))
        elif fault.code == "no-section" and row != outside:
            continue
        elif not _follows(document, fault, broken, keyed) and not _is_comma_before_continuation(fault, continued):
            found.append(_filled_in(document, as_written(document, named(document, fault))))
    return list(dict.fromkeys(found))


def named(document: Document, fault: Diagnostic) -> Diagnostic:
    """The fault, with the name and column of the character that causes it, if there is one."""
    if fault.code in _WITHOUT_CHARACTER:
        return fault
    start, text = _region(document, fault)
    odd = _odd(text, fault)
    if odd is None:
        return fault
    what = f"{odd.name}: wg and wg-quick do not accept it here"
    remedy = _remedy(fault, odd)
    return fault._replace(column=start + odd.offset + 1, message=what, remedy=remedy, form="", value="")


def _remedy(fault: Diagnostic, odd: Odd) -> str:
    """The remedy for the character. wg and wg-quick allow no quotes and need a `=' after a key."""
    if odd.meant in ('"', "'"):
        return "delete the quotation marks: values have none"
    return "replace it with =" if fault.code == "missing-equals" and odd.meant.startswith("-") else odd.remedy


def _odd(text: str, fault: Diagnostic) -> Odd | None:
    """The causing character.

    A letter of another script is reported only in an ASCII value, or in a key that resembles a known one.
    """
    resembles = fault.code == "unknown-key" and bool(fault.about)
    if fault.code in _LENIENT and not resembles:
        return suspicious(text)
    return foreign(text.partition("=")[0] if resembles else text)


def _region(document: Document, fault: Diagnostic) -> tuple[int, str]:
    """The text to search and its offset: the line without comment, or the faulty word of a list."""
    text = document.line_text(fault.line - 1).partition("#")[0]
    if fault.code not in _LISTS:
        return 0, text
    start = max(text.rfind(",", 0, fault.column - 1), text.find("=")) + 1
    return start, text[start:].partition(",")[0]


def _below_broken_headers(document: Document) -> set[int]:
    """The rows of sections with a misleading character in the header."""
    rows: set[int] = set()
    inside = False
    for row in range(len(document.raw)):
        text = document.line_text(row).partition("#")[0]
        if is_header(plain(text)):
            inside = not is_header(text)
        elif inside:
            rows.add(row)
    return rows


def _is_for_public_key(fault: Diagnostic) -> bool:
    """Whether the fault's line is a PublicKey that wg does not recognise, or a PrivateKey in its place."""
    return (fault.code, fault.about) in _FOR_PUBLIC_KEY


def _filled_in(document: Document, fault: Diagnostic) -> Diagnostic:
    """The fault of a value that has a template's placeholder; one for each line."""
    key, _, value = document.line_text(fault.line - 1).partition("#")[0].partition("=")
    if fault.code not in (*_OF_VALUES, *_LISTS) or not (match := _PLACEHOLDER.search(value)):
        return fault
    what = f"{key.strip()} has a placeholder, not a value"
    remedy = "write the value: wg and wg-quick replace nothing here"
    return fault._replace(column=len(key) + 2 + match.start(), message=what, remedy=remedy)


def _follows(document: Document, fault: Diagnostic, broken: set[int], keyed: set[int]) -> bool:
    """Whether the fault follows from an odd character in a header, or from a faulty PublicKey line.

    `keyed` has the rows of such lines without an odd character.
    """
    row = fault.line - 1
    if row in broken and fault.code in _CONSEQUENCES:
        return True
    return fault.code == "peer-without-key" and _has_odd_public_key(document, row, keyed)


def _has_odd_public_key(document: Document, header: int, keyed: set[int]) -> bool:
    for row in range(header + 1, len(document.raw)):
        text = document.line_text(row).partition("#")[0]
        key = re.sub(r"\s", "", plain(text).partition("=")[0]).lower()
        if key.startswith("["):
            return False
        if key == "publickey" or row in keyed:
            return True
    return False


def _continued(document: Document, faults: Iterable[Diagnostic]) -> dict[int, int]:
    """The rows that continue a hook or a list, each with the row on which the hook or list begins."""
    begun = {line.row: line.row for line in document.views.quick if line.key in keys.HOOKS}
    begun |= {row: row for row in range(len(document.raw)) if _list_of(document, row)}
    found: dict[int, int] = {}
    for fault in faults:
        row = fault.line - 1
        before = _row_before(document, row)
        first = begun.get(before, found.get(before, -1))
        if first >= 0 and _continues(document, fault, first):
            found[row] = first
    return found


def _list_of(document: Document, row: int) -> str:
    """The key of a list that ends with a comma; "" for other lines."""
    key, equals, value = document.line_text(row).partition("#")[0].partition("=")
    if not equals or not value.rstrip().endswith(","):
        return ""
    return next((each for each in _LIST_KEYS if each.lower() == key.strip().lower()), "")


def _is_comma_before_continuation(fault: Diagnostic, continued: dict[int, int]) -> bool:
    """Whether the fault is only the comma before the line that continues the list."""
    return fault.about == "empty entry" and fault.line in continued


def _row_before(document: Document, row: int) -> int:
    """The nearest row above that is neither empty nor a comment; -1 if there is none."""
    rows = (above for above in range(row - 1, -1, -1) if document.line_text(above).partition("#")[0].strip())
    return next(rows, -1)


def _continues(document: Document, fault: Diagnostic, first: int) -> bool:
    """Whether the fault's line continues the hook or list that begins on row `first`."""
    text = plain(document.line_text(fault.line - 1))
    if is_header(text):
        return False
    above = [document.line_text(row) for row in range(first, fault.line - 1)]
    if _list_of(document, first):
        return fault.code == "unknown-line" and above[-1].partition("#")[0].rstrip().endswith(",")
    so_far = "\n".join(line for line in above if not line.lstrip().startswith("#"))
    unfinished = _is_unfinished(so_far.partition("=")[2])
    return fault.code == "unknown-line" or (fault.code in _CONTINUING and unfinished)


def _is_unfinished(hook: str) -> bool:
    """Whether a command is incomplete: it ends at an operator, in a quote or brace, or at a here-document."""
    odd_quotes = any(hook.count(quote) % 2 for quote in "'\"")
    if _UNFINISHED.search(hook) or _HERE_DOCUMENT.search(hook):
        return True
    return odd_quotes or hook.count("{") > hook.count("}")


def _continuation(document: Document, fault: Diagnostic, first: int) -> Diagnostic:
    """The fault of a line that continues the hook or list on row `first`."""
    key = _list_of(document, first)
    kind = "value" if key else "hook"
    key = key or next(line.key for line in document.views.quick if line.row == first)
    what = f"this is neither a section nor a key; it seems to continue the {key} {kind} of line {first + 1}"
    return fault._replace(code="unknown-line", message=what, remedy=f"a {kind} has to be on one line: join them")


def as_written(document: Document, fault: Diagnostic) -> Diagnostic:
    """The fault with its value as the file writes it: wg removes the blanks."""
    if not fault.form:
        return fault
    pattern = r"\s*".join(map(re.escape, fault.value))
    match = re.search(pattern, document.line_text(fault.line - 1).partition("#")[0], re.IGNORECASE)
    if match is None or match[0] == fault.value:
        return fault
    fault = fault._replace(message=fault.form.replace("{}", shown(match[0])), value=match[0])
    if fault.about == "no port" and _PORT_APART.fullmatch(match[0]):
        return fault._replace(remedy="put a colon, not a blank, between host and port")
    return fault
