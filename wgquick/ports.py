"""What the engine asks of a machine. `system` implements it; `api` joins the two."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from wgquick.counters import Diagnostics
    from wgquick.device import Device, DeviceConfig
    from wgquick.net import (
        Endpoint,
        FirewallRules,
        Guard,
        Link,
        LinkAddress,
        LinkRoute,
        Path,
        Prefix,
        PublicKey,
        Route,
        Rule,
        SocketAddress,
    )

    Variables = Mapping[str, str | tuple[str, ...]]  # of a shell; a tuple is an array


class RtNetlink(Protocol):
    """rtnetlink(7) in the calling thread's network namespace. Each refusal is an OperationError with its errno."""

    def add_wireguard_link(self, name: str) -> None:
        """`ip link add dev NAME type wireguard`; errno EOPNOTSUPP if the kernel does not know the type."""

    def delete_link(self, name: str) -> None:
        """`ip link delete dev NAME`; errno ENODEV if there is none."""

    def set_link(self, name: str, *, mtu: int | None = None, up: bool = True) -> None:
        """`ip link set [mtu N] up dev NAME`."""

    def link(self, name: str) -> Link | None:
        """The link of that name, or None."""

    def links(self) -> list[Link]:
        """All links."""

    def takes_ipv6(self, name: str) -> bool:
        """Whether the link can have IPv6 addresses: the kernel has IPv6, and disable_ipv6 is 0."""

    def addresses(self, name: str) -> list[Prefix]:
        """The link's addresses, in the kernel's order."""

    def link_addresses(self, name: str) -> list[LinkAddress]:
        """The link's addresses with all that the kernel says of them, in its order."""

    def add_addresses(self, name: str, addresses: Sequence[Prefix]) -> None:
        """`ip address add` for each; BatchError names the refused ones by index."""

    def delete_addresses(self, name: str, addresses: Sequence[Prefix]) -> None:
        """`ip address delete` for each; BatchError names the refused ones by index."""

    def add_throw(self, destination: Prefix, table: int) -> None:
        """`ip route add throw PREFIX table N`."""

    def delete_throw(self, destination: Prefix, table: int) -> None:
        """`ip route delete throw PREFIX table N`; errno ESRCH if there is none."""

    def add_routes(self, routes: Sequence[Route], *, beside: bool = False) -> None:
        """`ip route add` for each, in order; BatchError names the refused ones by index. `beside`: append."""

    def delete_routes(self, routes: Sequence[Route]) -> None:
        """`ip route delete PREFIX dev LINK proto boot` for each; BatchError names the refused ones by index."""

    def link_routes(self, name: str) -> list[LinkRoute]:
        """The routes through a link, of both families and every table, with all their attributes."""

    def routes(self, *, family: int, table: int, device: str | None = None) -> list[Prefix]:
        """The destinations of a table's routes (default: 0/0), only those through `device` where given."""

    def table_is_empty(self, family: int, table: int) -> bool:
        """Whether `ip -FAMILY route show table TABLE` prints nothing."""

    def path(self, address: str, mark: int = 0) -> Path | None:
        """`ip route get ADDRESS [mark N]`; None if there is no route."""

    def default_path(self) -> Path | None:
        """The first line of `ip route show default` (IPv4, main table); None if there is none."""

    def rules(self, family: int) -> list[Rule]:
        """The policy rules in the kernel's order."""

    def add_rule(self, rule: Rule) -> None:
        """`ip rule add`, with the rule's priority if it has one."""

    def delete_rule(self, rule: Rule) -> None:
        """`ip rule delete` of exactly this rule (priority included if it has one); errno ENOENT if gone."""


class WireGuard(Protocol):
    """One device control interface, for the kernel's generic netlink family and for the userspace UAPI socket."""

    def interfaces(self) -> list[str]:
        """The names that `wg show interfaces` prints."""

    def program(self, name: str) -> str:
        """What runs the device: "kernel", or the name of the program; "userspace" if that cannot be seen."""

    def get(self, name: str) -> Device:
        """The device's state; OperationError (ENODEV, EPERM, ...) if it cannot be read."""

    def diagnostics(self, name: str) -> Diagnostics | None:
        """What the daemon counts; None if it counts nothing, as the kernel and other daemons; errno ENODEV."""

    def begin_handshakes(self, name: str, peers: Sequence[PublicKey]) -> bool:
        """Have the device shake hands with these peers; False if it knows no such request."""

    def set(self, name: str, config: DeviceConfig) -> None:
        """Apply the change; an errno becomes an OperationError that names the peer if one is at fault."""


class Firewall(Protocol):
    """wg-quick's two sets of rules; `kind` is "nft" or "iptables"."""

    def choose(self, preference: str) -> str:
        """The kind for `auto`, `nft` or `iptables`."""

    def present(self, name: str) -> tuple[tuple[str, int], ...]:
        """The kinds in which rules of this interface stand now, each with its family (0: both)."""

    def standing(self, name: str) -> tuple[FirewallRules, ...]:
        """The rules of this interface that stand now, one for each kind and family, with what they are made of."""

    def replace(
        self, kind: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0
    ) -> None:
        """As `add`, in place of what stands; those of nft in one transaction."""

    def add(
        self, kind: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0
    ) -> None:
        """Add one family's rules in one transaction; `port` (0: none) is where the tunnel's packets arrive."""

    def remove(self, kind: str, name: str, family: int) -> None:
        """Remove one family's rules (0: all families'); nothing happens if there are none."""

    def guard(self, name: str, wanted: Guard) -> None:
        """Put the kill switch of an interface in place, in one transaction instead of an earlier one."""

    def remove_guard(self, name: str) -> None:
        """Take the kill switch away; nothing happens if there is none."""

    def is_guarded(self, name: str) -> bool:
        """Whether the kill switch of an interface stands."""

    def keep_inbound(self, name: str, mark: int) -> None:
        """Have connections that come in on other links answered on these, by the tunnel's mark."""

    def forget_inbound(self, name: str) -> None:
        """Undo `keep_inbound`; nothing happens if it was not done."""

    def add_lines(self, kind: str, family: int) -> tuple[str, ...]:
        """The transcript of `add`."""

    def remove_lines(self, kind: str, family: int) -> tuple[str, ...]:
        """The transcript of `remove`."""


class Dns(Protocol):
    """The ways to give a link its DNS; `mode` is "resolvconf", "resolved" or "file"."""

    def detect(self, preference: str) -> str:
        """The mode for `auto`, or the one named; "off" for `off`."""

    def set(self, mode: str, name: str, servers: Sequence[str], search: Sequence[str], full_tunnel: bool) -> None:
        """Give the link its servers and search domains."""

    def unset(self, mode: str, name: str) -> None:
        """Take them back; nothing happens if there are none."""

    def stale(self) -> tuple[str, ...]:
        """The names of the tunnels that are gone and whose servers the file mode left in place."""

    def repair(self) -> tuple[str, ...]:
        """Take those out; returns their names."""

    def current(self, mode: str, name: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """The link's servers and search domains as the mode knows them now; None if it knows none."""

    def set_lines(
        self, mode: str, name: str, servers: Sequence[str], search: Sequence[str], full_tunnel: bool
    ) -> tuple[str, ...]:
        """The transcript of `set`."""

    def unset_lines(self, mode: str, name: str) -> tuple[str, ...]:
        """The transcript of `unset`."""


class Sysctl(Protocol):
    """The settings below /proc/sys; a key is its path there."""

    def read(self, key: str) -> str | None:
        """The value, or None if the kernel has no such setting."""

    def write(self, key: str, value: str) -> None:
        """Set the value; OperationError with EROFS or EACCES if that is not possible."""

    def writable(self, key: str) -> bool:
        """Whether `write` could succeed."""


class UdpPorts(Protocol):
    """The UDP ports of the network namespace."""

    def refusal(self, port: int) -> int:
        """The errno with which the kernel refuses this port on all addresses now, 0 if it can be bound."""

    def has(self, name: str, port: int) -> bool:
        """Whether the daemon of the link `name` has the port; any socket counts if its process cannot be seen."""

    def programs(self, port: int) -> tuple[str, ...]:
        """The programs that have the port, in words."""


class Hooks(Protocol):
    """Hook lines, run as wg-quick runs them."""

    def run(self, command: str, variables: Variables) -> None:
        """Run one line in bash with these shell variables; HookError with its status if it is not 0."""


class Userspace(Protocol):
    """Userspace implementations."""

    def kernel_has_wireguard(self) -> bool:
        """Whether /sys/module/wireguard exists: then a refused link is an error, not a missing module."""

    def choose(self) -> tuple[str, str] | None:
        """The program to run and why it is this one; None if there is none."""

    def start(self, program: str, name: str) -> None:
        """Run it until its control socket answers."""

    def await_exit(self, name: str) -> None:
        """Return once the program has seen that its link is gone, or after a bounded time."""

    def clear(self, name: str) -> None:
        """Remove the control socket of a program that was killed; one that still answers is left alone."""


class Host(Protocol):
    """The machine, as far as wgq touches it, in the calling thread's namespaces."""

    @property
    def rtnl(self) -> RtNetlink: ...
    @property
    def wireguard(self) -> WireGuard: ...
    @property
    def firewall(self) -> Firewall: ...
    @property
    def dns(self) -> Dns: ...
    @property
    def sysctl(self) -> Sysctl: ...
    @property
    def udp_ports(self) -> UdpPorts: ...
    @property
    def hooks(self) -> Hooks: ...
    @property
    def userspace(self) -> Userspace: ...

    @property
    def journal_directory(self) -> str:
        """The directory of this network namespace's journals."""

    @property
    def is_contained(self) -> bool:
        """Whether this process sees the processes of a container only."""

    def other_directories(self) -> list[str]:
        """The journal directories of other network namespaces."""

    def is_gone(self, directory: str, *, contained: bool) -> bool:
        """Whether the namespace of a journal directory is gone; `contained`: whether it is a container's."""

    def remove_directory(self, directory: str) -> None:
        """Remove a journal directory with its files."""

    def resolve(self, endpoint: Endpoint) -> SocketAddress:
        """Resolve an endpoint as `wg` does, retries included."""

    def leading(self, endpoints: Iterable[Endpoint]) -> Callable[[Endpoint, SocketAddress], bool]:
        """A function: whether an endpoint has an address now; true for a name that is not answered in time."""

    def addresses(self, endpoint: Endpoint) -> tuple[SocketAddress, ...] | None:
        """All addresses that an endpoint has now, asked once; None if its name is not answered."""

    def manager(self, name: str, ifindex: int) -> str:
        """Who says that the link is theirs: wg-quick, NetworkManager, systemd-networkd; "" if nobody does."""

    def started(self, name: str) -> float | None:
        """When the interface's daemon began, in seconds since the epoch; None for an interface of the kernel's."""

    def table_names(self) -> dict[str, int]:
        """The routing tables' names (rt_tables)."""

    def interface_lock(self, name: str) -> AbstractContextManager[None]:
        """Held while up or down works on the interface; WgqError if somebody else holds it for long."""

    def interface_lock_if_free(self, name: str) -> AbstractContextManager[bool]:
        """The same without waiting; whether it is held."""

    def lock(self) -> AbstractContextManager[None]:
        """Held while rules and tables are chosen and added, so that two tunnels do not choose the same."""
