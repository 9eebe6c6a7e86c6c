"""resolvconf(8), run as wg-quick(8) runs it: openresolv's, Debian's, or systemd's link to resolvectl."""

from __future__ import annotations

import os

from wgquick.errors import NOT_FOUND, OperationError
from wgquick.lean import TYPE_CHECKING
from wgquick.system import programs
from wgquick.transcript import command

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.system.dns import LinkDns, LinkServers
    from wgquick.transcript import Line

_ORDER = "/etc/resolvconf/interface-order"
_RECORDS = "/etc/resolvconf/run/interface"
_HEADING = "\n# resolv.conf from "
_PREFIX_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")


def program() -> str | None:
    """The resolvconf on PATH."""
    return programs.find("resolvconf")


def _installed() -> str | None:
    """The resolvconf on PATH or in the usual places, so that `down` finds it with a shorter PATH too."""
    return program() or programs.find("resolvconf", programs.DEFAULT_PATH)


class Resolvconf:
    """Sets a link's DNS through resolvconf; `say` takes resolvconf's warnings."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say

    def set(self, name: str, dns: LinkDns) -> None:
        """`resolvconf -a NAME -m 0 -x`: highest priority, and exclusive."""
        self._run(program(), _add(name), _record(dns))

    def unset(self, name: str) -> None:
        """`resolvconf -d NAME -f`: no error if there is no record or no resolvconf."""
        if found := _installed():
            self._run(found, _delete(name), b"")

    def current(self, name: str) -> LinkServers | None:
        """The output of `resolvconf -l NAME`, or the content of the record if -l is not supported."""
        record = f"{_prefix()}{name}"
        status, text, _ = _outcome(_installed(), ["-l", record], b"")
        return _parsed(_contents(f"{_RECORDS}/{record}") if status else _section(text, record))

    def set_lines(self, name: str, dns: LinkDns) -> tuple[Line, ...]:
        """The transcript lines of `set`; like wg-quick's they do not show the standard input."""
        return (command(f"resolvconf {' '.join(_add(name))}"),)

    def unset_lines(self, name: str) -> tuple[Line, ...]:
        """The transcript lines of `unset`."""
        return (command(f"resolvconf {' '.join(_delete(name))}"),)

    def _run(self, found: str | None, arguments: list[str], text: bytes) -> None:
        status, _, errors = _outcome(found, arguments, text)
        if status:
            what = f"`resolvconf {' '.join(arguments)}' failed with status {status}"
            message = f"{what}: {errors.strip()}" if errors.strip() else what
            raise OperationError(message, remedy=_remedy(status), status=status)
        if errors.strip():
            self._say(errors.rstrip("\n"))  # show its warnings, as wg-quick does


def _add(name: str) -> list[str]:
    return ["-a", f"{_prefix()}{name}", "-m", "0", "-x"]


def _delete(name: str) -> list[str]:
    return ["-d", f"{_prefix()}{name}", "-f"]


def _record(dns: LinkDns) -> bytes:
    lines = [f"nameserver {server}\n" for server in dns.servers]
    if dns.search:
        lines.append(f"search {' '.join(dns.search)}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def _prefix() -> str:
    """wg-quick's resolvconf_iface_prefix: Debian's resolvconf orders records by name, by default `tun.` first."""
    found = _installed()
    if found is None or os.path.islink(found):
        return ""
    patterns = (line.strip() for line in _contents(_ORDER).splitlines())
    return next((f"{pattern[:-1]}." for pattern in patterns if _is_prefix(pattern)), "")


def _is_prefix(pattern: str) -> bool:
    """Whether a line has the form `tun*`, the only pattern that wg-quick reads."""
    return len(pattern) > 1 and pattern[-1] == "*" and _PREFIX_LETTERS.issuperset(pattern[:-1])


def _contents(path: str) -> str:
    """The file's text; "" if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _section(text: str, record: str) -> str:
    """The part of Debian's -l output for a record: it lists all records, each below a heading."""
    sections = [section.partition("\n") for section in f"\n{text}".split(_HEADING)[1:]]
    return next((lines for heading, _, lines in sections if heading.strip() == record), "")


def _parsed(text: str) -> LinkServers | None:
    lines = [line.split() for line in text.splitlines()]
    servers = tuple(words[1] for words in lines if len(words) == 2 and words[0] == "nameserver")
    search = tuple(word for words in lines if words[:1] == ["search"] for word in words[1:])
    return (servers, search) if servers else None


def _outcome(found: str | None, arguments: list[str], text: bytes) -> tuple[int, str, str]:
    """Status, output and errors; a missing resolvconf has the shell's status for a missing command."""
    if found is None:
        return NOT_FOUND, "", "command not found"
    return programs.output([found, *arguments], {**os.environ, "LC_ALL": "C"}, text)


def _remedy(status: int) -> str:
    if status == NOT_FOUND:
        return "Install openresolv or resolvconf, or use `--dns resolved' or `--dns file'."
    return "Check `resolvconf -l' and resolvconf's configuration, or use `--dns file' or `--dns off'."
