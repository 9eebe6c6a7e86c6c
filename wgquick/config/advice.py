"""Suggestions for lines that wg and wg-quick do not understand. They never show a value."""

from __future__ import annotations

import re

from wgquick.config.grammar import GrammarError
from wgquick.config.keys import BY_LOWER

# A word this short with a value after it cannot be part of a base64 key that was wrapped to two lines.
_SHORT_KEY = re.compile(r"[^\W\d]\w{0,18}")
_SHORT_SECTION = re.compile(r"\[([A-Za-z]{1,19})\]")


def unrecognised(cleaned: str, section: str) -> GrammarError:
    """The fault of an unknown line, without whitespace and comment, in wg's `section` ("" before the first)."""
    if cleaned[:1] == "[":
        return _unknown_section(cleaned)
    key, equals, value = cleaned.partition("=")
    known = BY_LOWER.get(key.lower())
    if known is None:
        return _unknown_key(cleaned)
    name, home = known.name, known.section
    if not equals:
        return GrammarError("missing-value", f"{name} has no value", f"write `{name} = ...'")
    if not section:
        what = f"{name} is before the first section"
        return GrammarError("no-section", what, f"put [{home}] above it")
    if not value and home == section:
        what = f"{name} has an empty value"
        return GrammarError("missing-value", what, "write a value, or remove the line", len(cleaned))
    return _misplaced(name, home, section)


def _unknown_section(cleaned: str) -> GrammarError:
    from difflib import get_close_matches

    named = _SHORT_SECTION.fullmatch(cleaned)
    what = f"{cleaned if named else 'this'} is neither [Interface] nor [Peer]"
    if named and (close := get_close_matches(named[1].lower(), ("interface", "peer"), n=1, cutoff=0.7)):
        return GrammarError("unknown-section", what, f"did you mean [{close[0].capitalize()}]?")
    if cleaned.partition("]")[0].lower() in ("[interface", "[peer"):
        return GrammarError("unknown-section", what, "put only the section's name in brackets on the line")
    return GrammarError("unknown-section", what, "wg and wg-quick know only these two sections")


def _unknown_key(cleaned: str) -> GrammarError:
    from difflib import get_close_matches

    key, equals, value = cleaned.partition("=")
    named = _text(key) if value and _SHORT_KEY.fullmatch(_text(key)) else ""
    unknown = "unknown key {}" if named else "unknown key"
    if close := get_close_matches(key.lower(), BY_LOWER, n=1, cutoff=0.7):
        meant = BY_LOWER[close[0]].name
        return GrammarError("unknown-key", unknown, f"did you mean {meant}?", about=meant, value=named)
    if joined := _missing_equals(cleaned):
        what = f"{joined} and its value need a `=' between them"
        return GrammarError("missing-equals", what, f"write `{joined} = ...'", about=joined)
    if equals and _text(key).isalnum():
        remedy = "see wg(8) and wg-quick(8) for the keys of each section"
        return GrammarError("unknown-key", unknown, remedy, value=named)
    what = "this is neither a section nor `Key = value'"
    return GrammarError("unknown-line", what, "remove the line, or put a `#' before it")


def _text(part: str) -> str:
    """A part of wg's line, which was decoded byte by byte, as UTF-8."""
    return part.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _missing_equals(cleaned: str) -> str:
    """The known key at the start of a line that lacks a proper `=`; else ""."""
    lower = cleaned.lower()
    return next((BY_LOWER[key].name for key in sorted(BY_LOWER, reverse=True) if lower.startswith(key)), "")


def _misplaced(name: str, home: str, section: str) -> GrammarError:
    if home == section:
        what = f"wg-quick does not read {name} as part of [{home}]"
        remedy = f"write [{home}] and {name} without blanks inside"
        return GrammarError("misplaced-key", what, remedy)
    if name == "PublicKey":
        remedy = "move it to [Peer]; the interface's own public key is derived from its PrivateKey"
    elif name == "PrivateKey":
        remedy = "write the peer's PublicKey in its place; its PrivateKey belongs in [Interface] on its own host"
    else:
        remedy = f"move it to [{home}]"
    return GrammarError("misplaced-key", f"{name} does not belong in [{section}]", remedy, about=name)
