"""Keys, addresses and names in a text are replaced, each by the same word throughout.

Whatever looks like a key, an IP or a MAC address is replaced, wherever it stands, and so is each host name that is
known. What remains is the shape of the network. Loopback and unspecified addresses tell nothing and stay.
"""

from __future__ import annotations

import binascii
import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEY = re.compile(r"[A-Za-z0-9+/]{43,}={0,2}")  # also 64 hexadecimal digits, and a long path now and then
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_V4 = re.compile(r"(?<![0-9])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9])")
_V6 = re.compile(r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}")
_HEX = re.compile(r"[0-9A-Fa-f]{64}")
_COLONS = 7  # of an IPv6 address that is not shortened
_KEPT = frozenset({"127.0.0.1", "127.0.0.0", "0.0.0.0", "::", "::1"})  # noqa: S104


class Redaction:
    """Replaces what tells who somebody is; one Redaction gives one word for one thing in all its texts.

    `names` are host names and domains, found in any case of letters; the longest first. One without a dot is found
    as a word of its own alone, as it may be part of others.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        longest = sorted({each.strip(".").lower() for each in names} - {""}, key=lambda each: (-len(each), each))
        words = "|".join(map(_as_pattern, longest))
        self._names = re.compile(words, re.IGNORECASE) if words else None
        self._words: dict[str, dict[str, str]] = {}

    def text(self, text: str) -> str:
        """The text without keys, addresses and names."""
        text = _KEY.sub(lambda match: self._word("key", _canonical(match[0])), text)
        if self._names is not None:
            text = self._names.sub(lambda match: self._word("name", match[0].lower()), text)
        text = _MAC.sub(lambda match: self._word("mac", match[0].lower()), text)
        text = _V4.sub(lambda match: self._address("ipv4", match[0]), text)
        return _V6.sub(lambda match: self._address("ipv6", match[0]), text)

    def _word(self, kind: str, value: str) -> str:
        known = self._words.setdefault(kind, {})
        return known.setdefault(value, f"({kind}-{len(known) + 1})")

    def _address(self, kind: str, text: str) -> str:
        """A word for an address; a time of day is none, and what is nearly an address counts as one."""
        try:
            shown = str(ipaddress.ip_address(text))
        except ValueError:
            if kind == "ipv6" and "::" not in text and text.count(":") < _COLONS:
                return text
            shown = text
        return text if shown in _KEPT else self._word(kind, shown)


def _as_pattern(name: str) -> str:
    return re.escape(name) if "." in name else rf"(?<![a-z0-9-]){re.escape(name)}(?![a-z0-9-])"


def _canonical(key: str) -> str:
    """One text for a key in base64 and in hexadecimal."""
    if _HEX.fullmatch(key):
        return key.lower()
    try:
        return binascii.a2b_base64(key, strict_mode=True).hex()
    except (binascii.Error, ValueError):
        return key
