"""The tunnel's name servers and search domains, given to whatever keeps the host's own.

`Dns` implements the executor's protocol of that name. What a mode needs is imported when it is used.
"""

from __future__ import annotations

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wgquick.system.dns.file import ResolvConfFile

_FILE = "resolv.conf"
_PATH = f"/etc/{_FILE}"
_NAMESPACES = "/etc/netns"
_MARK = b"# wgq: "
Current = tuple[tuple[str, ...], tuple[str, ...]]


class LinkDns(NamedTuple):
    """What a link is to have: servers, search domains, and whether all questions are to go there."""

    servers: tuple[str, ...]
    search: tuple[str, ...]
    full_tunnel: bool


class Resolver(Protocol):
    """One way to give a link its DNS; `unset` needs nothing but the link's name, in whatever process."""

    def set(self, name: str, dns: LinkDns) -> None:
        """Give the link its DNS, in place of what it had."""

    def unset(self, name: str) -> None:
        """Take it back; nothing happens if there is none."""

    def current(self, name: str) -> Current | None:
        """The link's servers and search domains as they are now; None if none are known."""

    def set_lines(self, name: str, dns: LinkDns) -> tuple[str, ...]:
        """The transcript of `set`."""

    def unset_lines(self, name: str) -> tuple[str, ...]:
        """The transcript of `unset`."""


class Dns:
    """The ways to give a link its DNS; `directory` is where the file mode may keep its lock.

    `say` takes what a program that is run for it remarks. A named network namespace has a file of its own, which
    ip-netns(8) shows its programs as /etc/resolv.conf; no other mode reaches it.
    """

    def __init__(self, directory: str, say: Callable[[str], object], netns: str = "") -> None:
        self._directory = directory
        self._say = say
        self._netns = netns

    @property
    def path(self) -> str:
        """The file of the mode "file"."""
        return f"{_NAMESPACES}/{self._netns}/{_FILE}" if self._netns else _PATH

    def detect(self, preference: str) -> str:
        """The mode for `auto`; any other preference is the mode."""
        if self._netns:
            if preference not in ("auto", "file", "off"):
                remedy = "Omit --dns, or choose file or off."
                what = f"`{preference}' does not reach the network namespace {self._netns}: {self.path} does"
                raise OperationError(what, remedy=remedy)
            return "off" if preference == "off" else "file"
        from wgquick.system.dns.detect import choose

        return choose(preference)

    def set(self, mode: str, name: str, servers: Sequence[str], search: Sequence[str], full_tunnel: bool) -> None:
        """Give the link its servers and search domains."""
        self._resolver(mode).set(name, LinkDns(tuple(servers), tuple(search), full_tunnel))

    def unset(self, mode: str, name: str) -> None:
        """Take them back; nothing happens if there are none."""
        self._resolver(mode).unset(name)

    def current(self, mode: str, name: str) -> Current | None:
        """The link's servers and search domains as the mode knows them now; None if it knows none."""
        return self._resolver(mode).current(name)

    def stale(self) -> tuple[str, ...]:
        """The names of the tunnels that are gone and whose servers /etc/resolv.conf still has."""
        return self._file().stale() if _is_ours(self.path) else ()

    def repair(self) -> tuple[str, ...]:
        """Take those out, before a name is looked up; returns their names."""
        return self._file().repair() if _is_ours(self.path) else ()

    def _file(self) -> ResolvConfFile:
        from wgquick.system.dns.file import ResolvConfFile

        return ResolvConfFile(self._directory, self.path, has_own_directory=bool(self._netns))

    def set_lines(
        self, mode: str, name: str, servers: Sequence[str], search: Sequence[str], full_tunnel: bool
    ) -> tuple[str, ...]:
        """The transcript of `set`."""
        return self._resolver(mode).set_lines(name, LinkDns(tuple(servers), tuple(search), full_tunnel))

    def unset_lines(self, mode: str, name: str) -> tuple[str, ...]:
        """The transcript of `unset`."""
        return self._resolver(mode).unset_lines(name)

    def _resolver(self, mode: str) -> Resolver:
        match mode:
            case "resolvconf":
                from wgquick.system.dns.resolvconf import Resolvconf

                return Resolvconf(self._say)
            case "resolved":
                from wgquick.system.dns.resolved import Resolved

                return Resolved()
            case "file":
                return self._file()
            case _:
                raise OperationError(
                    f"`{mode}' is no way to set DNS", remedy="There are resolvconf, resolved and file."
                )


def _is_ours(path: str) -> bool:
    """Whether a file has comments of ours; without them nothing more is imported on the way of `wgq up`."""
    try:
        with open(path, "rb") as file:
            return _MARK in file.read()
    except OSError:
        return False
