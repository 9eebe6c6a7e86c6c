"""resolvconf(8), called as wg-quick(8) calls it: openresolv's, Debian's, or systemd's link to resolvectl."""

from __future__ import annotations

import os

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING
from wgquick.system import programs

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.system.dns import Current, LinkDns

_ORDER = "/etc/resolvconf/interface-order"
_RECORDS = "/etc/resolvconf/run/interface"
_HEADING = "\n# resolv.conf from "
_PREFIX_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")
_NOT_FOUND = 127  # the status of a command that is not there, as the shell has it


def program() -> str | None:
    """The resolvconf on PATH."""
    return programs.find("resolvconf")


def _installed() -> str | None:
    """The resolvconf on PATH, or where it usually is: what was set must be found again from a shorter PATH too."""
    return program() or programs.find("resolvconf", programs.DEFAULT_PATH)


class Resolvconf:
    """Keeps a link's DNS as resolvconf's record of it; `say` takes what resolvconf remarks."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say

    def set(self, name: str, dns: LinkDns) -> None:
        """`resolvconf -a NAME -m 0 -x`: first of all, and alone."""
        self._run(program(), _add(name), _record(dns))

    def unset(self, name: str) -> None:
        """`resolvconf -d NAME -f`: without complaint if there is no record, or no resolvconf any more."""
        if found := _installed():
            self._run(found, _delete(name), b"")

    def current(self, name: str) -> Current | None:
        """What `resolvconf -l NAME` prints, or if it does not know -l what its record holds."""
        record = f"{_prefix()}{name}"
        status, text, _ = _outcome(_installed(), ["-l", record], b"")
        return _parsed(_contents(f"{_RECORDS}/{record}") if status else _section(text, record))

    def set_lines(self, name: str, dns: LinkDns) -> tuple[str, ...]:
        """The transcript of `set`; wg-quick's does not show what goes to standard input."""
        return (f"[#] resolvconf {' '.join(_add(name))}",)

    def unset_lines(self, name: str) -> tuple[str, ...]:
        """The transcript of `unset`."""
        return (f"[#] resolvconf {' '.join(_delete(name))}",)

    def _run(self, found: str | None, arguments: list[str], text: bytes) -> None:
        status, _, errors = _outcome(found, arguments, text)
        if status:
            what = f"`resolvconf {' '.join(arguments)}' failed with status {status}"
            said = f"{what}: {errors.strip()}" if errors.strip() else what
            raise OperationError(said, remedy=_remedy(status), status=status)
        if errors.strip():
            self._say(errors.rstrip("\n"))  # its warnings are the user's to see, as under wg-quick


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
    """Debian's resolvconf orders records by name: wg-quick's resolvconf_iface_prefix, `tun.` by its defaults."""
    found = _installed()
    if found is None or os.path.islink(found):
        return ""
    patterns = (line.strip() for line in _contents(_ORDER).splitlines())
    return next((f"{pattern[:-1]}." for pattern in patterns if _is_prefix(pattern)), "")


def _is_prefix(pattern: str) -> bool:
    """`tun*` and the like, the one kind of pattern that wg-quick reads."""
    return len(pattern) > 1 and pattern[-1] == "*" and _PREFIX_LETTERS.issuperset(pattern[:-1])


def _contents(path: str) -> str:
    """The file's text, or nothing if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _section(text: str, record: str) -> str:
    """Debian's -l lists every record whichever it is asked for, each below a heading."""
    sections = [section.partition("\n") for section in f"\n{text}".split(_HEADING)[1:]]
    return next((lines for heading, _, lines in sections if heading.strip() == record), "")


def _parsed(text: str) -> Current | None:
    lines = [line.split() for line in text.splitlines()]
    servers = tuple(words[1] for words in lines if len(words) == 2 and words[0] == "nameserver")
    search = tuple(word for words in lines if words[:1] == ["search"] for word in words[1:])
    return (servers, search) if servers else None


def _outcome(found: str | None, arguments: list[str], text: bytes) -> tuple[int, str, str]:
    """Status, output and errors; a resolvconf that is not there has the shell's status for that."""
    if found is None:
        return _NOT_FOUND, "", "command not found"
    return programs.output([found, *arguments], {**os.environ, "LC_ALL": "C"}, text)


def _remedy(status: int) -> str:
    if status == _NOT_FOUND:
        return "Install openresolv or resolvconf, or choose another way: `--dns resolved' or `--dns file'."
    return "`resolvconf -l' or its own configuration may tell more; `--dns file' or `--dns off' does without it."
