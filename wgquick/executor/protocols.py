"""What the executor and the observer ask of the machine; `system` implements these, `api` joins the two."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wgquick.device import Device, DeviceConfig
    from wgquick.net import Prefix, Route, Rule


class Link(NamedTuple):
    """A network interface; `kind` is IFLA_INFO_KIND ("wireguard", "tun", "veth", ...) or ""."""

    ifindex: int
    name: str
    mtu: int
    up: bool
    kind: str


class Path(NamedTuple):
    """The route that the kernel would take to an address: its output link and the MTU of that path.

    `mtu` is the route's own mtu metric unless locked (`mtu lock N` is not seen, as wg-quick does not), else None.
    """

    link: str
    mtu: int | None


class RtNetlink(Protocol):
    """rtnetlink(7) in the calling thread's network namespace. Each refusal is an OperationError with its errno."""

    def add_wireguard_link(self, name: str) -> None:
        """`ip link add dev NAME type wireguard`; errno EOPNOTSUPP where the kernel does not know the type."""

    def delete_link(self, name: str) -> None:
        """`ip link delete dev NAME`; errno ENODEV where there is none."""

    def set_link(self, name: str, *, mtu: int | None = None, up: bool = True) -> None:
        """`ip link set [mtu N] up dev NAME`."""

    def link(self, name: str) -> Link | None:
        """The link of that name, or None."""

    def links(self) -> list[Link]:
        """All links."""

    def addresses(self, name: str) -> list[Prefix]:
        """The link's addresses, in the kernel's order."""

    def add_addresses(self, name: str, addresses: Sequence[Prefix]) -> None:
        """`ip address add` for each; BatchError names the refused ones by index."""

    def add_routes(self, routes: Sequence[Route]) -> None:
        """`ip route add` for each, in order; BatchError names the refused ones by index."""

    def routes(self, *, family: int, table: int, device: str | None = None) -> list[Prefix]:
        """The destinations of a table's routes (default: 0/0), only those through `device` where given."""

    def table_is_empty(self, family: int, table: int) -> bool:
        """Whether `ip -FAMILY route show table TABLE` prints nothing."""

    def path(self, address: str) -> Path | None:
        """`ip route get ADDRESS`; None where there is no route."""

    def default_path(self) -> Path | None:
        """The first line of `ip route show default` (IPv4, main table); None where there is none."""

    def rules(self, family: int) -> list[Rule]:
        """The policy rules in the kernel's order."""

    def add_rule(self, rule: Rule) -> None:
        """`ip rule add`, with the rule's priority where it has one."""

    def delete_rule(self, rule: Rule) -> None:
        """`ip rule delete` of exactly this rule (priority included where it has one); errno ENOENT if gone."""


class WireGuard(Protocol):
    """One device control interface, for the kernel's generic netlink family and for the userspace UAPI socket."""

    def interfaces(self) -> list[str]:
        """The names that `wg show interfaces` prints."""

    def get(self, name: str) -> Device:
        """The device's state; OperationError (ENODEV, EPERM, ...) where it cannot be read."""

    def set(self, name: str, config: DeviceConfig) -> None:
        """Apply the change; an errno becomes an OperationError that names the peer where one is at fault."""
