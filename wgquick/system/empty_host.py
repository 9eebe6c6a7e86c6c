"""An empty host for plans, without links and routes; it is never changed.

`wgq plan --offline` uses it in place of this host. A plan for a new network namespace uses it for the inside, with
the real host as `outer`.
"""

from __future__ import annotations

from errno import ENODEV
from typing import TYPE_CHECKING, cast

from wgquick.errors import OperationError
from wgquick.net import INITIAL_RULES, Rule, SocketAddress
from wgquick.system import firewall, rt_tables
from wgquick.system.dns import Dns

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from wgquick import ports
    from wgquick.device import Device
    from wgquick.net import Endpoint, Link, Path, Prefix

_UNKNOWN = SocketAddress("192.0.2.1", 51820)
"""The address of every endpoint; no plan shows it."""


class _Rtnl:
    def __init__(self, outer: ports.Host | None = None) -> None:
        self._outer = outer

    def link(self, name: str) -> None:
        return None

    def links(self) -> list[Link]:
        return self._outer.rtnl.links() if self._outer else []

    def takes_ipv6(self, name: str) -> bool:
        return True

    def addresses(self, name: str) -> list[Prefix]:
        return []

    def routes(self, *, family: int, table: int, device: str | None = None) -> list[Prefix]:
        return []

    def table_is_empty(self, family: int, table: int) -> bool:
        return True

    def path(self, address: str, mark: int = 0) -> Path | None:
        return self._outer.rtnl.path(address, mark) if self._outer else None

    def default_path(self) -> Path | None:
        return self._outer.rtnl.default_path() if self._outer else None

    def rules(self, family: int) -> list[Rule]:
        """The kernel's initial rules."""
        return [Rule(family, table, priority, other=True) for priority, table in INITIAL_RULES]


class _WireGuard:
    def interfaces(self) -> list[str]:
        return []

    def get(self, name: str) -> Device:
        raise OperationError(f"there is no device {name}", errno=ENODEV)


class _Firewall:
    add_lines = staticmethod(firewall.add_lines)
    remove_lines = staticmethod(firewall.remove_lines)

    def choose(self, preference: str) -> str:
        return "nft" if preference == "auto" else preference

    def present(self, name: str) -> tuple[tuple[str, int], ...]:
        return ()

    def existing(self, name: str) -> tuple[object, ...]:
        return ()

    def is_guarded(self, name: str) -> bool:
        return False


class _Dns(Dns):
    def detect(self, preference: str) -> str:
        return "resolvconf" if preference == "auto" else preference

    def stale(self) -> tuple[str, ...]:
        return ()


class _Sysctl:
    def read(self, key: str) -> str:
        return "0"

    def writable(self, key: str) -> bool:
        return True


class _UdpPorts:
    def refusal(self, port: int) -> int:
        return 0


class _Userspace:
    def kernel_offers_wireguard(self) -> bool:
        return True

    def kernel_has_wireguard(self) -> bool:
        return True


class EmptyHost:
    """The part of wgquick.ports.Host that a PlannedHost reads."""

    is_contained = False

    def __init__(self, outer: ports.Host | None = None, netns: str = "") -> None:
        self._outer = outer
        self.rtnl = cast("ports.RtNetlink", _Rtnl(outer))
        self.wireguard = cast("ports.WireGuard", _WireGuard())
        self.firewall = cast("ports.Firewall", _Firewall())
        self.dns = outer.dns_of(netns) if outer else cast("ports.Dns", _Dns("", lambda _: None))
        self.sysctl = cast("ports.Sysctl", _Sysctl())
        self.udp_ports = outer.udp_ports if outer else cast("ports.UdpPorts", _UdpPorts())
        self.hooks = cast("ports.Hooks", None)
        self.userspace = outer.userspace if outer else cast("ports.Userspace", _Userspace())
        self.journal_directory = ""

    def resolve(self, endpoint: Endpoint) -> SocketAddress:
        """The outer host's answer; without one, a constant address."""
        return self._outer.resolve(endpoint) if self._outer else _UNKNOWN

    def resolve_all(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, SocketAddress]:
        """As `resolve`, for each endpoint."""
        return {endpoint: self.resolve(endpoint) for endpoint in endpoints}

    def resolved_now(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, SocketAddress]:
        """The outer host's answers; without one, a constant address for each endpoint."""
        return self._outer.resolved_now(endpoints) if self._outer else dict.fromkeys(endpoints, _UNKNOWN)

    def outside_servers(self, given: Collection[str]) -> tuple[SocketAddress, ...]:
        """The outer host's answer; without one, none."""
        return self._outer.outside_servers(given) if self._outer else ()

    def table_names(self) -> dict[str, int]:
        """The names in this host's rt_tables, which every user may read."""
        return rt_tables.table_names()
