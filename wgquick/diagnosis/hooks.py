"""What hook lines do, as far as their text says it: the commands of iptables(8), nft(8) and ip(8) in them.

A hook is a line of bash. It is split at `;`, `&`, `|` and line ends outside quotes. Words are compared
as they are written, without their quotes.
"""

from __future__ import annotations

import re
import shlex

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


_IPTABLES = re.compile(r"ip6?tables(-legacy|-nft)?")
_ADDS = {"-A": "-D", "--append": "-D", "-I": "-D", "--insert": "-D", "-N": "-X", "--new-chain": "-X"}
_DELETES = {"-D": "-D", "--delete": "-D", "-X": "-X", "--delete-chain": "-X", "-F": "-F", "--flush": "-F"}
_PREFIXES = ("sudo", "command", "exec", "!", "then", "do", "else", "{", "(", "time")
_IGNORED = frozenset({"-w", "--wait"})
_IP_OBJECTS = {
    "rule": "rule", "ru": "rule", "route": "route", "ro": "route", "r": "route",
}  # fmt: skip
_IP_ADDS = ("add", "a", "append", "prepend", "replace", "change")
_IP_DELETES = ("delete", "del", "d", "flush")


class Command(NamedTuple):
    """One command of a hook: its words, and its offset in the hook's text."""

    words: tuple[str, ...]
    offset: int


class Change(NamedTuple):
    """What a command adds or takes away: `kind` and `where` name the thing, `words` are its description.

    kind: "iptables" (where: program, table and chain), "rule" or "route" (where: family), "nft" (where: nothing).
    """

    kind: str
    adds: bool
    where: tuple[str, ...]
    words: tuple[str, ...]
    everything: bool = False

    def undoes(self, added: Change) -> bool:
        """Whether this takes away what `added` adds.

        iptables wants the same words, `ip rule` and `ip route` some of them; nft deletes by handle or by table.
        """
        if self.adds or self.kind != added.kind:
            return False
        match self.kind:
            case "iptables":
                same = (
                    self.where == added.where[: len(self.where)] if self.everything else self.where == added.where
                )
                return same and (self.everything or self.words == added.words)
            case "nft":
                return True
            case _:
                return self.where == added.where and (self.everything or set(self.words) <= set(added.words))


def commands(text: str) -> Iterator[Command]:
    """The commands of a hook line, also those after `;`, `&&`, `||` and `|`."""
    for start, part in _parts(text):
        words = _words(part)
        while words and (words[0] in _PREFIXES or re.fullmatch(r"\w+=\S*", words[0])):
            words = words[1:]
        if words:
            yield Command(tuple(words), start + len(part) - len(part.lstrip()))


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """The text between separators that stand outside quotes, with its offsets."""
    quote, start, place = "", 0, 0
    while place < len(text):
        char = text[place]
        if char == "\\" and quote != "'":
            place += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in ";&|\n":
            yield start, text[start:place]
            start = place + 1
        place += 1
    yield start, text[start:]


def _words(part: str) -> list[str]:
    try:
        return shlex.split(part, comments=True)
    except ValueError:  # an unfinished quote
        return part.split()


def change(command: Command) -> Change | None:
    """What a command adds or takes away; None if it does neither or is not known."""
    program, *rest = command.words
    program = program.rpartition("/")[2]
    if _IPTABLES.fullmatch(program):
        return _iptables("ip6tables" if program.startswith("ip6") else "iptables", rest)
    if program == "ip":
        return _ip(rest)
    if program == "nft":
        return _nft(rest)
    return None


def _iptables(program: str, rest: list[str]) -> Change | None:
    words = [word for word in rest if word not in _IGNORED]
    table = "filter"
    for place, word in enumerate(words):
        if word in ("-t", "--table") and place + 1 < len(words):
            table = words[place + 1]
            del words[place : place + 2]
            break
    for place, word in enumerate(words):
        if word in _ADDS or word in _DELETES:
            return _iptables_change(program, table, word, words[:place] + words[place + 1 :])
    return None


def _iptables_change(program: str, table: str, action: str, words: list[str]) -> Change | None:
    adds = action in _ADDS
    end = (_ADDS | _DELETES)[action]
    chain, *what = words or [""]
    if end == "-F":
        return Change("iptables", adds=False, where=(program, table, *words[:1]), words=(), everything=True)
    if action in ("-I", "--insert") and what[:1] and what[0].isdigit():
        what = what[1:]
    if end == "-X":
        what = ["(chain)"]
    return Change("iptables", adds, (program, table, chain), tuple(what)) if chain else None


def _ip(rest: list[str]) -> Change | None:
    words = list(rest)
    family = "-6" if "-6" in words or ("inet6" in words) else "-4"
    words = [word for word in words if word not in ("-4", "-6", "-family", "-f", "inet", "inet6")]
    if len(words) < 2 or words[0] not in _IP_OBJECTS:
        return None
    kind, action, what = _IP_OBJECTS[words[0]], words[1], words[2:]
    if family == "-4" and any(":" in word for word in what):
        family = "-6"
    if action in _IP_ADDS:
        return Change(kind, adds=True, where=(family,), words=tuple(what))
    if action in _IP_DELETES:
        return Change(kind, adds=False, where=(family,), words=tuple(what), everything=action == "flush")
    return None


def _nft(rest: list[str]) -> Change | None:
    words = " ".join(rest).split()
    if any(word in ("delete", "flush", "destroy", "reset") for word in words[:1]):
        return Change("nft", adds=False, where=(), words=tuple(words))
    if words[:1] in (["add"], ["insert"], ["create"]):
        return Change("nft", adds=True, where=(), words=tuple(words))
    return None


def value_after(words: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The word after the first of `names`; "" if there is none."""
    return next((words[at + 1] for at, word in enumerate(words[:-1]) if word in names), "")
