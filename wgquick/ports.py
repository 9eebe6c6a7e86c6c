"""The protocols through which the executor uses the machine. `system` implements them; `api` connects the two."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
    from wgquick.transcript import Line

    Variables = Mapping[str, str | tuple[str, ...]]  # shell variables; a tuple is an array


class RtNetlink(Protocol):
    """rtnetlink(7) in the calling thread's network namespace. Refusals raise OperationError with the errno."""

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
        """The link's addresses with all their attributes, in the kernel's order."""

    def add_addresses(self, name: str, addresses: Sequence[Prefix]) -> None:
        """`ip address add` for each; BatchError has the indices of the refused ones."""

    def delete_addresses(self, name: str, addresses: Sequence[Prefix]) -> None:
        """`ip address delete` for each; BatchError has the indices of the refused ones."""

    def add_throw(self, destination: Prefix, table: int) -> None:
        """`ip route add throw PREFIX table N`."""

    def delete_throw(self, destination: Prefix, table: int) -> None:
        """`ip route delete throw PREFIX table N`; errno ESRCH if there is none."""

    def add_routes(self, routes: Sequence[Route], *, beside: bool = False) -> None:
        """`ip route add` for each, in order (`beside`: append); BatchError has the indices of the refused ones."""

    def delete_routes(self, routes: Sequence[Route]) -> None:
        """`ip route delete PREFIX dev LINK proto boot` for each; BatchError has the indices of the refused ones."""

    def link_routes(self, name: str) -> list[LinkRoute]:
        """The routes through a link, of both families and every table, with all their attributes."""

    def routes(self, *, family: int, table: int, device: str | None = None) -> list[Prefix]:
        """The destinations of a table's routes (default: 0/0); only those through `device` if it is given."""

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
        """`ip rule delete` of exactly this rule (with its priority if set); errno ENOENT if there is none."""


class WireGuard(Protocol):
    """The control interface of WireGuard devices, through generic netlink or the userspace UAPI socket."""

    def interfaces(self) -> list[str]:
        """The names that `wg show interfaces` prints."""

    def program(self, name: str) -> str:
        """The implementation of the device: "kernel", the program's name, or "userspace" if that is unknown."""

    def get(self, name: str) -> Device:
        """The device's state; OperationError (ENODEV, EPERM, ...) if it cannot be read."""

    def diagnostics(self, name: str) -> Diagnostics | None:
        """The daemon's counters; None for the kernel and other daemons; errno ENODEV if there is no such device."""

    def begin_handshakes(self, name: str, peers: Sequence[PublicKey]) -> bool:
        """Make the device start handshakes with these peers; False if it does not know the request."""

    def set(self, name: str, config: DeviceConfig) -> None:
        """Apply the change; a refusal raises OperationError, which names the peer if one caused it."""


class Firewall(Protocol):
    """The firewall rules of full tunnels and of wgq's own settings; `kind` is "nft" or "iptables"."""

    def choose(self, preference: str) -> str:
        """The kind for `auto`, `nft` or `iptables`."""

    def present(self, name: str) -> tuple[tuple[str, int], ...]:
        """The kinds in which this interface has rules now, each with its family (0: both)."""

    def existing(self, name: str) -> tuple[FirewallRules, ...]:
        """The current rules of this interface as values, one for each kind and family."""

    def replace(
        self, kind: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0
    ) -> None:
        """Like `add`, but replaces the current rules; with nft in one transaction."""

    def add(
        self, kind: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0
    ) -> None:
        """Add one family's rules in one transaction; `port` is the tunnel's UDP port (0: none)."""

    def remove(self, kind: str, name: str, family: int) -> None:
        """Remove one family's rules (0: all families'); does nothing if there are none."""

    def guard(self, name: str, wanted: Guard) -> None:
        """Set the kill switch of an interface, in one transaction that replaces an earlier one."""

    def remove_guard(self, name: str) -> None:
        """Remove the kill switch; does nothing if there is none."""

    def is_guarded(self, name: str) -> bool:
        """Whether the interface has a kill switch."""

    def keeps_inbound(self, name: str) -> bool:
        """Whether the rules of `keep_inbound` exist."""

    def keep_inbound(self, name: str, mark: int) -> None:
        """Add rules that answer inbound connections on the link they arrived on; `mark` is the tunnel's fwmark."""

    def forget_inbound(self, name: str) -> None:
        """Remove the rules of `keep_inbound`; does nothing if there are none."""

    def add_lines(self, kind: str, family: int) -> tuple[Line, ...]:
        """The transcript lines of `add`."""

    def remove_lines(self, kind: str, family: int) -> tuple[Line, ...]:
        """The transcript lines of `remove`."""


class Dns(Protocol):
    """Sets the DNS of a link; `mode` is "resolvconf", "resolved" or "file"."""

    @property
    def path(self) -> str:
        """The resolv.conf of the mode "file"."""

    def detect(self, preference: str) -> str:
        """The mode for `preference`: `auto` detects one, other words name one."""

    def set(self, mode: str, name: str, servers: Sequence[str], search: Sequence[str], full_tunnel: bool) -> None:
        """Set the link's servers and search domains."""

    def unset(self, mode: str, name: str) -> None:
        """Remove the link's servers and search domains; does nothing if there are none."""

    def stale(self) -> tuple[str, ...]:
        """The names of the tunnels that are gone and still have servers in /etc/resolv.conf (mode "file")."""

    def repair(self) -> tuple[str, ...]:
        """Remove the servers of `stale` tunnels; returns their names."""

    def current(self, mode: str, name: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """The link's current servers and search domains; None if the mode has none for it."""

    def set_lines(
        self, mode: str, name: str, servers: Sequence[str], search: Sequence[str], full_tunnel: bool
    ) -> tuple[Line, ...]:
        """The transcript lines of `set`."""

    def unset_lines(self, mode: str, name: str) -> tuple[Line, ...]:
        """The transcript lines of `unset`."""


class Sysctl(Protocol):
    """Kernel parameters; a key is the path below /proc/sys."""

    def read(self, key: str) -> str | None:
        """The value, or None if the kernel has no such parameter."""

    def write(self, key: str, value: str) -> None:
        """Set the value; OperationError (EROFS, EACCES) if it cannot be set."""

    def writable(self, key: str) -> bool:
        """Whether `write` could succeed."""


class NetworkNamespaces(Protocol):
    """Named network namespaces (ip-netns(8))."""

    def path_of(self, name: str) -> str:
        """The file of a namespace, whether or not it exists."""

    def exists(self, name: str) -> bool:
        """Whether there is a namespace of this name."""

    def opened(self, name: str) -> int:
        """A descriptor of the namespace, which keeps it alive; OperationError if there is none."""

    def add(self, name: str) -> None:
        """`ip netns add NAME`."""

    def restore(self, name: str, descriptor: int) -> None:
        """Give the namespace its name again; does nothing if the name is taken."""

    def delete(self, name: str) -> None:
        """`ip netns delete NAME`; does nothing if there is none."""


class UdpPorts(Protocol):
    """The UDP ports of the network namespace."""

    def refusal(self, port: int) -> int:
        """The errno with which the kernel refuses to bind this port on all addresses, 0 if it can be bound."""

    def has(self, name: str, port: int) -> bool:
        """Whether the daemon of the link `name` has bound the port; any socket counts if its process is hidden."""

    def programs(self, port: int) -> tuple[str, ...]:
        """The programs that use the port, as text for a message."""


class Hooks(Protocol):
    """Runs hook lines as wg-quick does."""

    def run(self, command: str, variables: Variables) -> None:
        """Run one line in bash with these shell variables; HookError with the status if it is not 0."""


class Userspace(Protocol):
    """Finds and starts userspace implementations."""

    def kernel_has_wireguard(self) -> bool:
        """Whether /sys/module/wireguard exists: then a refused link is an error, not a missing module."""

    def kernel_offers_wireguard(self) -> bool:
        """Whether the kernel has WireGuard or a module for it; loads nothing."""

    def choose(self) -> tuple[str, str] | None:
        """The program to run and the reason for the choice; None if there is none."""

    def start(self, program: str, name: str) -> None:
        """Start the program and wait until its control socket answers."""

    def await_exit(self, name: str) -> None:
        """Wait until the program has noticed that its link is gone, for a bounded time."""

    def clear(self, name: str) -> None:
        """Remove the control socket of a killed program; a socket that answers stays."""

    def identity(self, name: str) -> str:
        """An identifier of the running program, which differs from a later program's; "" if none runs."""

    def end(self, name: str, identity: str) -> None:
        """End the program if it still has this identity; its link is out of reach."""


class Host(Protocol):
    """The machine as wgq uses it, in the calling thread's namespaces."""

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
    def netns(self) -> NetworkNamespaces: ...

    def inside(self, name: str) -> AbstractContextManager[Host]:
        """The machine with the calling thread in a named network namespace; OperationError if there is none.

        Links are made from the current namespace, where their UDP sockets stay. Endpoints are resolved there, and
        UDP ports and the paths of outer packets are read there.
        """

    def dns_of(self, netns: str) -> Dns:
        """The DNS of a named network namespace, which may be gone."""

    @property
    def journal_directory(self) -> str:
        """The directory of this network namespace's journals."""

    @property
    def is_contained(self) -> bool:
        """Whether this process runs in a container's PID namespace."""

    def other_directories(self) -> list[str]:
        """The journal directories of other network namespaces."""

    def is_gone(self, directory: str, *, contained: bool) -> bool:
        """Whether the namespace of a journal directory is gone; `contained`: whether it is a container's."""

    def remove_directory(self, directory: str) -> None:
        """Remove a journal directory with its files."""

    def resolve(self, endpoint: Endpoint) -> SocketAddress:
        """Resolve an endpoint as `wg` does, with its retries."""

    def resolve_all(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, SocketAddress]:
        """Resolve each endpoint. A plan leaves out what cannot be resolved at once."""

    def resolved_now(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, SocketAddress]:
        """The addresses of the endpoints that can be resolved at the first try, within a few seconds."""

    def name_matcher(self, endpoints: Iterable[Endpoint]) -> Callable[[Endpoint, SocketAddress], bool]:
        """A function that tells whether an endpoint resolves to an address; True if DNS does not answer in time."""

    def addresses(
        self, endpoint: Endpoint, mark: int = 0, given: Collection[str] = ()
    ) -> tuple[SocketAddress, ...] | None:
        """All addresses that an endpoint currently resolves to; None if the lookup fails.

        If the host's resolver fails or is slow, the uplinks' servers are asked with packets that have `mark`.
        `given` are the servers that tunnels have set.
        """

    def outside_servers(self, given: Collection[str]) -> tuple[SocketAddress, ...]:
        """The DNS servers that `addresses` asks: those of the uplinks. `given` are the servers of tunnels."""

    def manager(self, name: str, ifindex: int) -> str:
        """The program that manages the link: wg-quick, NetworkManager, systemd-networkd; "" if there is none."""

    def started(self, name: str) -> float | None:
        """When the interface's daemon started, in seconds since the epoch; None for a kernel interface."""

    def table_names(self) -> dict[str, int]:
        """The numbers of the routing tables by name (rt_tables)."""

    def interface_lock(self, name: str) -> AbstractContextManager[None]:
        """The lock that up and down hold on an interface; WgqError if another process holds it for too long."""

    def interface_lock_if_free(self, name: str) -> AbstractContextManager[bool]:
        """The same without waiting; yields whether it is held."""

    def lock(self) -> AbstractContextManager[None]:
        """The lock held while rules and tables are chosen and added, so that two tunnels choose different ones."""


class Watchdog(NamedTuple):
    """A trial's watchdog, as its caller sees it.

    `news` is a pipe with a JSON object per line; `output` are the files with its standard output and error.
    """

    process: int
    news: int
    output: tuple[int, int]


class Watchdogs(Protocol):
    """The watchdog and the standby of a trial (`wgquick.system.watchdogs`)."""

    @property
    def is_told_to_stop(self) -> bool:
        """Whether SIGTERM has arrived."""

    def share(self, take_over: Callable[[], None], hangs: Callable[[], bool], keep: tuple[int, ...]) -> None:
        """Start a standby, which kills this process if it `hangs`, and runs `take_over` if it dies.

        The standby closes all descriptors that are not in `keep`.
        """

    def renew(self) -> None:
        """Start another standby if the current one has died."""

    def tell(self, news: dict[str, str | int]) -> None:
        """Send news to the process that started the trial, if it still runs."""

    def note(self, text: str) -> None:
        """Write a line to the system's log."""

    def end(self) -> None:
        """End the standby."""
