"""Parses hook lines for the commands of iptables(8), nft(8) and ip(8).

A hook is a line of bash. It is split at `;`, `&`, `|` and line ends outside quotes, and so are the arguments of
`bash -c` and `eval`. Words are compared without quotes and redirections, with the short names of options.
"""

from __future__ import annotations

import re
import shlex
from itertools import dropwhile

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_IPTABLES = re.compile(r"ip6?tables(-legacy|-nft)?")
_ADDS = {"-A": "-D", "--append": "-D", "-I": "-D", "--insert": "-D", "-N": "-X", "--new-chain": "-X"}
_DELETES = {"-D": "-D", "--delete": "-D", "-X": "-X", "--delete-chain": "-X", "-F": "-F", "--flush": "-F"}
_PREFIXES = ("sudo", "command", "exec", "!", "then", "do", "else", "{", "(", "time", "if", "elif", "while", "until")
_SHELLS = frozenset({"bash", "sh", "dash"})
_REDIRECTION = re.compile(r"\d*(?:>>?|<)(?:&\d|&-)?|&>>?")
_WITH_FILE = re.compile(r"(?:\d*>>?|&>>?|\d*<)(?![<&(]).+|\d*>&[\d-]")
_IGNORED = frozenset({"-w", "--wait", "-4", "-6", "--ipv4", "--ipv6", "-v", "--verbose"})
_SHORT = {
    "--in-interface": "-i", "--out-interface": "-o", "--jump": "-j", "--goto": "-g", "--protocol": "-p",
    "--proto": "-p", "--source": "-s", "--src": "-s", "--destination": "-d", "--dst": "-d", "--match": "-m",
    "--table": "-t",
}  # fmt: skip
_RULE_WORDS = {
    "lookup": "table",
    "pref": "priority",
    "prio": "priority",
    "preference": "priority",
    "order": "priority",
}
_IP_OBJECTS = {
    "rule": "rule", "ru": "rule", "route": "route", "ro": "route", "r": "route",
}  # fmt: skip
_ELSEWHERE = frozenset({"netns", "-n", "-netns", "-b", "-batch"})
_NFT_FAMILIES = frozenset({"ip", "ip6", "inet", "arp", "bridge", "netdev"})
_IP_ADDS = ("add", "a", "append", "prepend", "replace", "change")
_IP_DELETES = ("delete", "del", "d", "flush")


class Command(NamedTuple):
    """One command of a hook: its words, and its offset in the hook's text."""

    words: tuple[str, ...]
    offset: int


class HookEffect(NamedTuple):
    """What a command adds or removes: `kind` and `where` say what it is, `words` are the command's arguments.

    kind: "iptables" (where: program, table and chain), "rule" or "route" (where: family), "nft" (where: family and
    table, empty if unknown). `everything` is true if the command removes all rules of the chain.
    """

    kind: str
    adds: bool
    where: tuple[str, ...]
    words: tuple[str, ...]
    everything: bool = False

    def undoes(self, added: HookEffect) -> bool:
        """Whether this removes what `added` adds.

        iptables needs the same words in any order, `ip rule` and `ip route` need some of them. nft deletes by
        handle or by table.
        """
        if self.adds or self.kind != added.kind:
            return False
        match self.kind:
            case "iptables":
                same = (
                    self.where == added.where[: len(self.where)] if self.everything else self.where == added.where
                )
                return same and (self.everything or sorted(self.words) == sorted(added.words))
            case "nft":
                return not self.where or not added.where or self.where == added.where
            case _:
                return self.where == added.where and set(self.words) <= set(added.words)


def commands(text: str) -> Iterator[Command]:
    """The commands of a hook line, also those after `;`, `&&`, `||` and `|`."""
    for start, part in _parts(text):
        words = _words(part)
        while words and (words[0] in _PREFIXES or re.fullmatch(r"\w+=\S*", words[0])):
            words = words[1:]
        words = _without_xargs(words)
        offset = start + len(part) - len(part.lstrip())
        inner = _inner(words)
        if inner:
            yield from (Command(each.words, offset) for each in commands(inner))
        elif words:
            yield Command(tuple(words), offset)


def _without_xargs(words: list[str]) -> list[str]:
    """The command that xargs(1) runs."""
    if words[:1] != ["xargs"]:
        return words
    return list(dropwhile(lambda word: word.startswith("-") or word.isdecimal(), words[1:]))


def _inner(words: list[str]) -> str:
    """The commands in the argument of `sh -c` or `eval`; "" if it is neither."""
    if words[:1] == ["eval"]:
        return " ".join(words[1:])
    if len(words) > 2 and words[0].rpartition("/")[2] in _SHELLS and re.fullmatch(r"-[a-z]*c", words[1]):
        return words[2]
    return ""


def leaves_namespace(text: str) -> bool:
    """Whether a hook works in another network namespace, or runs an ip(8) batch file. Both may add routes."""
    found = (
        command.words for command in commands(text) if command.words[0].rpartition("/")[2] in ("ip", "nsenter")
    )
    return any(words[0].endswith("nsenter") or _ELSEWHERE & set(words) for words in found)


def runs_script(text: str) -> bool:
    """Whether a hook runs a script that may do anything: a program by its path, `source`, `sh FILE`."""
    for program, *rest in (command.words for command in commands(text)):
        if program in ("source", ".") or (program.rpartition("/")[2] in _SHELLS and rest):
            return True
        if "/" in program and not re.match(r"(/usr)?(/local)?/s?bin/", program):
            return True
    return False


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """The parts between separators outside quotes, each with its offset."""
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
        words = shlex.split(part, comments=True)
    except ValueError:  # an unfinished quote
        words = part.split()
    return list(_without_redirections(words))


def _without_redirections(words: list[str]) -> Iterator[str]:
    """The words without `>FILE`, `> FILE`, `2>&1` and the like; `<(...)` stays."""
    is_file = False
    for word in words:
        if is_file:
            is_file = False
        elif _REDIRECTION.fullmatch(word):
            is_file = "&" not in word.lstrip("&")
        elif not _WITH_FILE.fullmatch(word):
            yield word


def change(command: Command) -> HookEffect | None:
    """What a command adds or removes; None if it does neither or is unknown."""
    program, *rest = command.words
    program = program.rpartition("/")[2]
    if _IPTABLES.fullmatch(program):
        return _iptables("ip6tables" if program.startswith("ip6") else "iptables", rest)
    if program == "ip":
        return _ip(rest)
    if program == "nft":
        return _nft(rest)
    return None


def plain_options(words: Iterable[str]) -> list[str]:
    """The words of iptables with short options, and each value as a separate word (`--jump=X` as `-j X`)."""
    found: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        if equals and option in _SHORT:
            found += [_SHORT[option], value]
        else:
            found.append(_SHORT.get(word, word))
    return found


def _iptables(program: str, rest: list[str]) -> HookEffect | None:
    words = plain_options(_without_waiting(rest))
    table = "filter"
    for place, word in enumerate(words):
        if word == "-t" and place + 1 < len(words):
            table = words[place + 1]
            del words[place : place + 2]
            break
    for place, word in enumerate(words):
        if word in _ADDS or word in _DELETES:
            return _iptables_change(program, table, word, words[:place] + words[place + 1 :])
    return None


def _without_waiting(words: list[str]) -> Iterator[str]:
    """The words without options that do not change what is added: -w, -w5, `-w 5`, -4."""
    waits = False
    for word in words:
        if not (waits and word.isdecimal()) and word not in _IGNORED and not re.fullmatch(r"(-w|--wait=)\d+", word):
            yield word
        waits = word in ("-w", "--wait")


def _iptables_change(program: str, table: str, action: str, words: list[str]) -> HookEffect | None:
    adds = action in _ADDS
    end = (_ADDS | _DELETES)[action]
    chain, *what = words or [""]
    if end == "-F" or (not adds and end == "-D" and what[:1] and what[0].isdecimal() and len(what) == 1):
        return HookEffect("iptables", adds=False, where=(program, table, *words[:1]), words=(), everything=True)
    if action in ("-I", "--insert") and what[:1] and what[0].isdigit():
        what = what[1:]
    if end == "-X":
        what = ["(chain)"]
    return HookEffect("iptables", adds, (program, table, chain), tuple(what)) if chain else None


def _ip(rest: list[str]) -> HookEffect | None:
    words = list(rest)
    family = "-6" if "-6" in words or ("inet6" in words) else "-4"
    words = [word for word in words if word not in ("-4", "-6", "-family", "-f", "inet", "inet6")]
    if len(words) < 2 or words[0] not in _IP_OBJECTS:
        return None
    kind, action, what = _IP_OBJECTS[words[0]], words[1], words[2:]
    if family == "-4" and any(":" in word for word in what):
        family = "-6"
    if action not in (*_IP_ADDS, *_IP_DELETES):
        return None
    return HookEffect(kind, adds=action in _IP_ADDS, where=(family,), words=tuple(map(_ip_word, what)))


def _ip_word(word: str) -> str:
    """The word in one spelling: ip(8) has several names for a key, and /32 or /128 may be left out."""
    return _RULE_WORDS.get(word, word.removesuffix("/32").removesuffix("/128"))


def _nft(rest: list[str]) -> HookEffect | None:
    words = " ".join(rest).split()
    if words[:1] and words[0] in ("delete", "flush", "destroy", "reset"):
        return HookEffect("nft", adds=False, where=_nft_table(words), words=tuple(words))
    if words[:1] in (["add"], ["insert"], ["create"]):
        return HookEffect("nft", adds=True, where=_nft_table(words), words=tuple(words))
    return None


def _nft_table(words: list[str]) -> tuple[str, ...]:
    """The family and table of an nft command; empty for `flush ruleset` and for a table in a variable."""
    family, table = [*words[2:4], "", ""][:2]
    if family not in _NFT_FAMILIES:
        family, table = "ip", family
    return (family, table) if re.fullmatch(r"\w+", table) and words[1:2] != ["ruleset"] else ()


def adds_address(command: Command) -> bool:
    """Whether the command is `ip address add`."""
    program, *rest = command.words
    words = [word for word in rest if not word.startswith("-")]
    is_object = bool(words) and words[0] in ("a", "ad", "add", "addr", "addre", "addres", "address")
    return program.rpartition("/")[2] == "ip" and is_object and words[1:2] in (["add"], ["a"], ["replace"])


def value_after(words: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The word after the first of `names`; "" if there is none."""
    return next((words[at + 1] for at, word in enumerate(words[:-1]) if word in names), "")
