"""Reads the names of peers from comments.

wg and wg-quick know no names, so programs write them in comments of different forms: `# friendly_name = X`
(exporters), `### Client X` (wireguard-install), `# Client: X (ID)` (wg-easy), `### begin X ###` (PiVPN),
`# BEGIN_PEER X`, `# Name = X` (wireguard-ui, wg-meshconf), `# peer_X` (linuxserver). People write a plain line
above or below [Peer].
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from wgquick.net import KEY_TEXT_LENGTH

if TYPE_CHECKING:
    from wgquick.config.document import Document

LONGEST = 64
"""The maximum number of characters. The rest of a longer name is cut off."""

_NAMED = re.compile(
    r"""(?:
      friendly_name \s* [=:] \s* (?P<friendly>.+)
    | friendly_json \s* [=:] \s* (?P<json>\{.*\})
    | name \s* \#? \s* [=:] \s* (?P<name>.+)
    | client \s* : \s* (?P<client>.+?) (?: \s* \( [0-9a-f-]+ \) )?
    | begin_peer \s+ (?P<begin_peer>.+)
    | peer_(?P<peer>\S+)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_RULED = re.compile(r"\#{2,} \s* (?: client | begin ) \s+", re.IGNORECASE | re.VERBOSE)
# The usual forms of the above: a short name of single words, for which nothing has to be cleaned.
_USUAL = re.compile(
    rb"""\#{2,} [ \t]* (?: client | begin ) [ \t]+
    ( [!\"$-Z\\-~]+ (?: [ ][!\"$-Z\\-~]+ )* ) [ ]? \#* \s*""",
    re.IGNORECASE | re.VERBOSE,
).fullmatch
_END = re.compile(r"end(?:_peer)?\s", re.IGNORECASE)
_SETTING = re.compile(r"[\w-]+\s*=.*|\[.*", re.IGNORECASE)
# Other comments that programs write, and comments for wgq.
_OTHER = re.compile(
    r"""(?: id | e-?mail | created | created[ ]at | updated? | updated?[ ]at | expires? | telegram.* | address
        | allocated[ ]ips? | allowed[ ]ips? | .*key | wgq ) \s* : .* | \W*""",
    re.IGNORECASE | re.VERBOSE,
)
_KEY, _KEY_LENGTH = re.compile(r"[A-Za-z0-9+/]{42}"), 42
_DISABLED = re.compile(r"#\s*\[disabled\]\s*", re.IGNORECASE)
_PUBLIC = frozenset({"Pu", "PU", "pu", "pU"})
_PEER, _PUBLIC_KEY = "[peer]", re.compile(r"publickey\s*=\s*([^\s#]+)", re.IGNORECASE)


class Names(NamedTuple):
    """`of` maps a peer's public key in base64 to its name. `disabled` are the keys of commented-out peers."""

    of: dict[str, str]
    disabled: tuple[str, ...] = ()


def names(document: Document) -> Names:
    """The names of a file's peers; peers without a name are missing."""
    reader = _Reader(document)
    for row, cleaned in enumerate(document.views.wg):
        if not cleaned:
            if reader.above:
                reader.flush()
        elif cleaned[0] == "#":
            reader.comment(row)
        elif cleaned[0] == "[":
            reader.header(row, cleaned)
        elif reader.above or cleaned[:2] in _PUBLIC:  # a file may have 50,000 other lines
            reader.other(row, cleaned)
    return reader.result()


class _Comment(NamedTuple):
    """A comment: its kind, and the name in it.

    `kind` is "named" for a name in a program's form, "plain" for a possible name, "setting" or "header" for a line
    that is commented out, "end" for the end of a peer's block, else "other".
    """

    kind: str
    name: str = ""
    key: str = ""
    disabled: bool = False


_ENDED = _Comment("end")
_new = tuple.__new__
_E, _OF_OTHERS = frozenset({"e", "E"}), frozenset({"end", "header"})


def _comment(text: str) -> _Comment:
    """Parse a comment, from its `#` on."""
    rest = _DISABLED.sub("", text) if "[" in text else text
    disabled = rest != text
    body = rest.strip("# \t")
    if body[:1] in _E and _END.match(body):
        return _Comment("end", disabled=True) if disabled else _ENDED
    if rest[:2] == "##" and (ruled := _RULED.match(rest)):
        name = _clean(rest[ruled.end() :].rstrip("#"))
        return _Comment("named" if name else "other", name, "", disabled)
    if found := _NAMED.fullmatch(body):
        name = _clean(_from_json(found["json"]) if found["json"] else _group(found))
        return _Comment("named" if name else "other", name, "", disabled)
    if body[:6].lower() == _PEER:
        return _Comment("header", disabled=disabled)
    if _SETTING.fullmatch(body):
        key = _PUBLIC_KEY.match(body)
        return _Comment("setting", key=key[1] if key else "", disabled=disabled)
    name = "" if disabled or _OTHER.fullmatch(body) else _clean(body)
    return _Comment("plain" if name else "other", name, disabled=disabled)


def _group(found: re.Match[str]) -> str:
    return next(filter(None, found.groups()), "")


def _from_json(text: str) -> str:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    words = (fields.get(key) for key in ("name", "username", "friendly_name", "hostname"))
    return next((word for word in words if isinstance(word, str)), "")


def _clean(text: str) -> str:
    """The text on one line, without control characters; "" if it could contain a key."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(char if char.isprintable() else " " for char in text)
    name = " ".join(text.split())[:LONGEST].strip()
    return "" if len(text) >= _KEY_LENGTH and _KEY.search(text) else name


class _Section:
    """The comments that may name a peer: above its header, beside it, in the section, and beside its PublicKey."""

    __slots__ = ("above", "header", "inside", "key", "on_key")

    def __init__(self, above: list[_Comment], header: list[_Comment]) -> None:
        self.above = above
        self.header = header
        self.inside: list[_Comment] = []
        self.key = ""
        self.on_key: list[_Comment] = []

    def name(self) -> str:
        """A name in a program's form, preferably inside the section; else a comment where people write names."""
        if self.above and not self.header and (not self.inside or self.inside[0] is _ENDED):  # the usual case
            kind, name, _, disabled = self.above[-1]
            if kind == "named" and not disabled:
                return name
        header, above, inside = self.header, _up_to_other_peer(self.above[::-1]), _up_to_other_peer(self.inside)
        for comments in (header, inside, above):
            for comment in comments:
                if comment.kind == "named":
                    return comment.name
        for comment in (*header, *above, *inside, *self.on_key):
            if comment.kind == "plain":
                return comment.name
        return ""


def _up_to_other_peer(comments: list[_Comment]) -> list[_Comment]:
    """The comments before one about another peer: the end of its block, or a commented-out peer."""
    for at, (kind, _, key, disabled) in enumerate(comments):
        if disabled or key or kind in _OF_OTHERS:
            return comments[:at]
    return comments


class _Reader:
    """Reads a file's lines. Comments right above a header belong to that header's section."""

    def __init__(self, document: Document) -> None:
        self._raw = document.raw
        self._found: dict[str, str] = {}
        self._disabled: dict[str, str] = {}
        self.above: list[_Comment] = []
        self._has_header = False  # whether the comments contain a header
        self._section: _Section | None = None

    def comment(self, row: int) -> None:
        """A line that is a comment."""
        raw = self._raw[row]
        if raw.lstrip(b"# \t")[:4].lower() == b"end ":  # the usual end of a block, without further calls
            self.above.append(_ENDED)
            return
        if len(raw) < _KEY_LENGTH and (usual := _USUAL(raw)):
            self.above.append(_new(_Comment, ("named", usual[1].decode("ascii"), "", False)))
            return
        comment = _comment(raw.decode("utf-8", "replace").strip())
        if comment.kind == "header":
            self._has_header = True
        self.above.append(comment)

    def header(self, row: int, cleaned: str) -> None:
        """A line that opens a section; `cleaned` is the line without whitespace."""
        self._close()
        if cleaned[:6].lower() == _PEER:
            self._section = _Section(self.above, self._inline(row) if "#" in cleaned else [])
        if self._has_header:
            self._take_disabled(self.above)
        self.above = []

    def other(self, row: int, cleaned: str) -> None:
        """A setting."""
        if self.above:
            self.flush()
        if self._section is not None and cleaned[:10].lower() == "publickey=":
            self._section.key = cleaned[10:]
            if "#" in cleaned:
                self._section.key = cleaned.partition("#")[0][10:]
                self._section.on_key = self._inline(row)

    def _inline(self, row: int) -> list[_Comment]:
        """The comment at the end of a line."""
        _, sign, text = self._raw[row].decode("utf-8", "replace").partition("#")
        return [_comment(sign + text.strip())]

    def flush(self) -> None:
        """Add the pending comments to the current section."""
        if self._section is not None:
            self._section.inside += self.above
        if self._has_header:
            self._take_disabled(self.above)
        self.above = []

    def _close(self) -> None:
        section, self._section = self._section, None
        if section is not None and section.key and (name := section.name()):
            self._found[section.key] = name

    def _take_disabled(self, comments: list[_Comment]) -> None:
        """Note the peers that a block of comments contains completely, [Peer] and its key."""
        name, is_open = "", False
        self._has_header = False
        for comment in comments:
            if comment.kind == "named":
                name = comment.name
            elif comment.kind == "header":
                is_open = True
            elif comment.key and is_open:
                self._disabled[comment.key] = name
                name, is_open = "", False

    def result(self) -> Names:
        """The names found."""
        self.flush()
        self._close()
        disabled = {key: name for key, name in self._disabled.items() if len(key) == KEY_TEXT_LENGTH}
        of = {key: name for key, name in disabled.items() if name} | self._found
        return Names(of, tuple(disabled))
