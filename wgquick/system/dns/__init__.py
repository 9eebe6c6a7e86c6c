"""Sets a tunnel's DNS servers and search domains through the program or file that manages the host's DNS.

`Dns` implements the executor's protocol of that name. A mode's modules are imported when they are used.
"""

from __future__ import annotations

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wgquick.system.dns.file import ResolvConfFile
    from wgquick.transcript import Line

_FILE = "resolv.conf"
RESOLV_CONF = f"/etc/{_FILE}"
NAMESPACES = "/etc/netns"
"""The directory with a folder of files for each named network namespace (ip-netns(8))."""
COMMENT = b"# wgq: "
"""The start of wgq's comments in resolv.conf."""
LinkServers = tuple[tuple[str, ...], tuple[str, ...]]


class LinkDns(NamedTuple):
    """The DNS of a link: servers, search domains, and whether it gets all queries."""

    servers: tuple[str, ...]
    search: tuple[str, ...]
    full_tunnel: bool


class Resolver(Protocol):
    """One mode of setting a link's DNS; `unset` needs only the link's name and works in any process."""

    def set(self, name: str, dns: LinkDns) -> None:
        """Set the link's DNS; it replaces an earlier one."""

    def unset(self, name: str) -> None:
        """Remove the link's DNS; does nothing if there is none."""

    def current(self, name: str) -> LinkServers | None:
        """The link's current servers and search domains; None if they are unknown."""

    def set_lines(self, name: str, dns: LinkDns) -> tuple[Line, ...]:
        """The transcript lines of `set`."""

    def unset_lines(self, name: str) -> tuple[Line, ...]:
        """The transcript lines of `unset`."""


class Dns:
    """Sets the DNS of links (wgquick.ports.Dns); `directory` is for the lock of the file mode.

    `say` takes warnings of the programs that are run. A named network namespace has its own file, which ip-netns(8)
    shows to its programs as /etc/resolv.conf; no other mode works there.
    """

    def __init__(self, directory: str, say: Callable[[str], object], netns: str = "") -> None:
        self._directory = directory
        self._say = say
        self._netns = netns

    @property
    def path(self) -> str:
        """The file of the mode "file"."""
        return f"{NAMESPACES}/{self._netns}/{_FILE}" if self._netns else RESOLV_CONF

    def detect(self, preference: str) -> str:
        """The mode for `auto`; any other preference is the mode."""
        if self._netns:
            if preference not in ("auto", "file", "off"):
                remedy = "Omit --dns, or choose file or off."
                what = (
                    f"`{preference}' has no effect in the network namespace {self._netns}, which uses {self.path}"
                )
                raise OperationError(what, remedy=remedy)
            return "off" if preference == "off" else "file"
        from wgquick.system.dns.detect import choose

        return choose(preference)

    def set(self, mode: str, name: str, servers: Sequence[str], search: Sequence[str], full_tunnel: bool) -> None:
        """Set the link's servers and search domains."""
        self._resolver(mode).set(name, LinkDns(tuple(servers), tuple(search), full_tunnel))

    def unset(self, mode: str, name: str) -> None:
        """Remove them; does nothing if there are none."""
        self._resolver(mode).unset(name)

    def current(self, mode: str, name: str) -> LinkServers | None:
        """The link's current servers and search domains; None if the mode has none for it."""
        return self._resolver(mode).current(name)

    def stale(self) -> tuple[str, ...]:
        """The names of the tunnels that are gone and still have servers in /etc/resolv.conf."""
        return self._file().stale() if _is_ours(self.path) else ()

    def repair(self) -> tuple[str, ...]:
        """Remove their servers, so that names can be resolved; returns the tunnels' names."""
        return self._file().repair() if _is_ours(self.path) else ()

    def _file(self) -> ResolvConfFile:
        from wgquick.system.dns.file import ResolvConfFile

        return ResolvConfFile(self._directory, self.path, has_own_directory=bool(self._netns))

    def set_lines(
        self, mode: str, name: str, servers: Sequence[str], search: Sequence[str], full_tunnel: bool
    ) -> tuple[Line, ...]:
        """The transcript lines of `set`."""
        return self._resolver(mode).set_lines(name, LinkDns(tuple(servers), tuple(search), full_tunnel))

    def unset_lines(self, mode: str, name: str) -> tuple[Line, ...]:
        """The transcript lines of `unset`."""
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
                    f"`{mode}' is not a DNS mode", remedy="Update wgq: a later version may have set it."
                )


def _is_ours(path: str) -> bool:
    """Whether the file has wgq's comments; if not, `wgq up` imports nothing more."""
    try:
        with open(path, "rb") as file:
            return COMMENT in file.read()
    except OSError:
        return False
