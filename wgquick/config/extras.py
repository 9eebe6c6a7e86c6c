"""wgq's own settings, in lines that are comments for wg and wg-quick.

    # wgq: kill-switch = on
    # wgq: exclude = lan, 192.0.2.0/24
    # wgq: keep-inbound = on
    # wgq: netns = vpn

    line  = "#" "wgq:" word "=" value        in [Interface] or above it
    word  = "kill-switch" | "keep-inbound"   value: on | off
          | "exclude"                        value: networks and `lan', separated by commas or blanks; lines add up
          | "netns"                          value: the name of a network namespace, as ip-netns(8) takes it

Case does not matter, as in keys. `# wgq: ignore CODE` is for `wgq check` and not a setting.
"""

from __future__ import annotations

from wgquick.config import grammar
from wgquick.config.document import Document
from wgquick.config.grammar import GrammarError
from wgquick.config.settings import LAN, Extras
from wgquick.errors import Diagnostic, WgqError
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import Prefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_WORD = b"wgq"
_WORDS = ("kill-switch", "exclude", "keep-inbound", "netns")
_HOOKS = ("Pre", "Post")
_SWITCHES = {"on": True, "off": False}
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.")
_LONGEST_NAME = 255


def read(document: Document) -> tuple[Extras, list[Diagnostic]]:
    """The settings, and the faults of invalid lines."""
    extras, faults = Extras(), []
    for line in _lines(document):
        try:
            extras = _with(extras, line)
        except GrammarError as fault:
            column = line.start + fault.offset + 1
            faults.append(Diagnostic(line.row + 1, column, fault.code, fault.message, fault.remedy))
    return extras, faults


def rows(document: Document) -> dict[str, int]:
    """The row, from 0, of the last line of each setting."""
    return {line.text.partition("=")[0].strip().lower(): line.row for line in _lines(document)}


class _Line(NamedTuple):
    """A comment with a setting: its row from 0, its section, the text after `wgq:` and the text's offset.

    `is_beside` is whether it follows a key's value.
    """

    row: int
    section: str
    text: str
    start: int
    is_beside: bool = False


def _lines(document: Document) -> Iterator[_Line]:
    sections = None
    if not _may_have_settings(bytes(document)):
        return
    for row, raw in enumerate(document.raw):
        if b"#" not in raw or _WORD not in raw.lower():
            continue
        text = document.line_text(row)
        before, _, comment = text.partition("#")
        label, colon, setting = comment.lstrip("#").partition(":")
        if not colon or label.strip().lower() != "wgq":
            continue
        setting = setting.lstrip()
        if setting.partition(" ")[0].lower() == "ignore":
            continue
        sections = sections or document.lines()
        is_beside = bool(before.strip())
        is_shells = sections[row].key.startswith(_HOOKS)
        if is_beside and (is_shells or setting.partition("=")[0].strip().lower() not in _WORDS):
            continue
        yield _Line(row, sections[row].section, setting.rstrip(), len(text) - len(setting), is_beside)


def _may_have_settings(data: bytes) -> bool:
    """Whether a comment has `wgq`; without a loop over the lines, as a file may have 50,000."""
    data = data.lower()
    at = data.find(_WORD)
    while at >= 0:
        if b"#" in data[data.rfind(b"\n", 0, at) + 1 : at]:  # a key may have these letters
            return True
        at = data.find(_WORD, at + 1)
    return False


def _with(extras: Extras, line: _Line) -> Extras:
    """The settings after one more line; GrammarError has the offset of the fault."""
    word, equals, value = (part.strip() for part in line.text.partition("="))
    shown, word = word, word.lower()
    if word not in _WORDS:
        remedy = f"use one of {', '.join(_WORDS)}, or remove `wgq:' from the comment"
        raise GrammarError("wgq-setting", f"{grammar.shown(shown)} is not a setting of wgq", remedy)
    if line.is_beside:
        raise GrammarError("wgq-setting", f"{word} follows a value", "move it to a line of its own")
    if line.section == "Peer":
        what = f"{word} is in [Peer]"
        raise GrammarError("wgq-setting", what, "move the line to [Interface]")
    if not equals or not value:
        raise GrammarError("wgq-setting", f"{word} has no value", f"write `# wgq: {word} = ...'")
    offset = line.text.index(value, len(word))
    match word:
        case "kill-switch":
            return extras._replace(kill_switch=_switch(word, value, offset))
        case "keep-inbound":
            return extras._replace(keep_inbound=_switch(word, value, offset))
        case "netns":
            return extras._replace(netns=_netns(value, offset))
        case _:
            found = tuple(_networks(value, offset))
            if not found:
                raise GrammarError("wgq-setting", f"{word} has no value", f"write `# wgq: {word} = ...'")
            networks = (*extras.exclude, *found)
            return extras._replace(exclude=tuple(dict.fromkeys(networks)))


def of_options(*, kill_switch: bool, exclude: str, keep_inbound: bool, netns: str = "") -> Extras:
    """The settings of the command line.

    WgqError if `exclude` has a word that is not a network, or if `netns` is not a valid name.
    """
    try:
        networks = tuple(_networks(exclude, 0))
    except GrammarError as fault:
        raise WgqError(fault.message, where="--exclude", remedy=_sentence(fault.remedy)) from None
    try:
        chosen = _netns(netns, 0) if netns else ""
    except GrammarError as fault:
        raise WgqError(fault.message, where="--netns", remedy=_sentence(fault.remedy)) from None
    return Extras(kill_switch, tuple(dict.fromkeys(networks)), keep_inbound, chosen)


def _sentence(remedy: str) -> str:
    """A fault's remedy in the form of an error's."""
    return f"{remedy[0].upper()}{remedy[1:]}."


def joined(extras: Extras, options: Extras) -> Extras:
    """The settings of the file and of the command line. A `netns` of the command line replaces the file's."""
    return Extras(
        extras.kill_switch or options.kill_switch,
        tuple(dict.fromkeys((*extras.exclude, *options.exclude))),
        extras.keep_inbound or options.keep_inbound,
        options.netns or extras.netns,
    )


def _switch(word: str, value: str, offset: int) -> bool:
    if value.lower() not in _SWITCHES:
        what = f"{word} is {grammar.shown(value)}, not on or off"
        raise GrammarError("wgq-setting", what, f"write `# wgq: {word} = on'").at(offset)
    return _SWITCHES[value.lower()]


def is_netns_name(name: str) -> bool:
    """Whether ip-netns(8) accepts a name: a file name without odd characters."""
    return bool(name) and len(name) <= _LONGEST_NAME and not set(name) - _NAME_CHARACTERS and name[0] not in ".-"


def _netns(value: str, offset: int) -> str:
    if not is_netns_name(value):
        what = f"{grammar.shown(value)} is not a name for a network namespace"
        remedy = "use letters, digits, `_', `-' and `.', as in `# wgq: netns = vpn'"
        raise GrammarError("wgq-setting", what, remedy).at(offset)
    return value


def _networks(value: str, offset: int) -> Iterator[Prefix | str]:
    for word, start in grammar.words(value):
        if word.lower() == LAN:
            yield LAN
            continue
        try:
            yield network(word)
        except ValueError:
            what = f"{grammar.shown(word)} is not a network"
            remedy = "write networks such as 192.0.2.0/24, or `lan' for the networks that this host is connected to"
            raise GrammarError("wgq-setting", what, remedy).at(offset + start) from None


def network(word: str) -> Prefix:
    """A network or an address; ValueError if the text is neither, or has bits set after the prefix."""
    prefix = Prefix.parse(word)
    if grammar.mask(prefix.address, prefix.length) != prefix.address:
        raise ValueError
    return prefix


def of_lines(text: Iterable[str]) -> Extras:
    """The settings in the result of `lines`."""
    return read(Document.parse("\n".join(text).encode()))[0]


def lines(extras: Extras) -> Iterator[str]:
    """The settings as lines of a file; unset ones have no line."""
    if extras.kill_switch:
        yield "# wgq: kill-switch = on"
    if extras.exclude:
        yield f"# wgq: exclude = {', '.join(map(str, extras.exclude))}"
    if extras.keep_inbound:
        yield "# wgq: keep-inbound = on"
    if extras.netns:
        yield f"# wgq: netns = {extras.netns}"
