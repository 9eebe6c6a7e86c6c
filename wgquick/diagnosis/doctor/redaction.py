"""Replaces keys, addresses and names in a text, each by the same placeholder everywhere.

Everything that looks like a key, an IP address or a MAC address is replaced, and so is each known host name. The
structure of the network remains. Loopback and unspecified addresses stay, as they identify nobody.
"""

from __future__ import annotations

import binascii
import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEY = re.compile(r"[A-Za-z0-9+/]{43,}={0,2}")  # also 64 hexadecimal digits, and some long paths
_MAC = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")
_V4 = re.compile(r"(?<![0-9])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9])")
_V6 = re.compile(r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")
_BYTES = re.compile(r"\bb(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")")  # an address as a Python bytes literal
_COMMENTS = (
    re.compile(r'(?<="comment": )"(?:[^"\\]|\\.)*"'),  # libnftables-json(5)
    re.compile(r'(?<=--comment )(?:"(?:[^"\\]|\\.)*"|\S+)'),  # iptables-save(8)
)
_HOST = re.compile(r"(?<![\w./%$@=-])(?:[a-z0-9-]+\.)+[a-z]{2,}(?![\w./-])", re.IGNORECASE)
_NO_HOSTS = re.compile(r"net\.|.*\.(conf|log|nft|pid|py|rules|service|sh|timer|txt)$", re.IGNORECASE)
_HEX = re.compile(r"[0-9A-Fa-f]{64}")
_COLONS = 7  # in an IPv6 address without `::`
_KEPT = frozenset({"127.0.0.1", "127.0.0.0", "0.0.0.0", "::", "::1"})  # noqa: S104


class Redaction:
    """Replaces identifying words. One Redaction uses the same placeholder for the same word in all texts.

    `names` are host names and domains; their case is ignored, and longer names are replaced first. A name without a
    dot is replaced only as a whole word.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        longest = sorted({each.strip(".").lower() for each in names} - {""}, key=lambda each: (-len(each), each))
        words = "|".join(map(_as_pattern, longest))
        self._names = re.compile(words, re.IGNORECASE) if words else None
        self._words: dict[str, dict[str, str]] = {}

    def text(self, text: str) -> str:
        """The text without keys, addresses and names, URLs and the comments of firewall rules."""
        for comment in _COMMENTS:
            text = comment.sub('"(comment)"', text)
        text = _URL.sub(lambda match: self._word("url", match[0]), text)
        text = _BYTES.sub(lambda match: self._word("bytes", match[0]), text)
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
        """The placeholder for an address. A time of day is not an address; an invalid address counts as one."""
        try:
            shown = str(ipaddress.ip_address(text))
        except ValueError:
            if kind == "ipv6" and "::" not in text and text.count(":") < _COLONS:
                return text
            shown = text
        return text if shown in _KEPT else self._word(kind, shown)


def hosts_in(text: str) -> set[str]:
    """The words of a command line that look like host names, and not like kernel parameters or files."""
    return {name for name in _HOST.findall(_URL.sub(" ", text)) if not _NO_HOSTS.match(name)}


def _as_pattern(name: str) -> str:
    return re.escape(name) if "." in name else rf"(?<![a-z0-9-]){re.escape(name)}(?![a-z0-9-])"


def _canonical(key: str) -> str:
    """The same text for a key in base64 and in hexadecimal."""
    if _HEX.fullmatch(key):
        return key.lower()
    try:
        return binascii.a2b_base64(key, strict_mode=True).hex()
    except (binascii.Error, ValueError):
        return key
