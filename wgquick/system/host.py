"""Implements the executor's `Host` for this machine, in the calling thread's namespaces."""

from __future__ import annotations

import os

from wgquick.lean import TYPE_CHECKING, cached_property, cast, contextmanager
from wgquick.net import SocketAddress
from wgquick.system import firewall, namespaces, runtime
from wgquick.system.dns import Dns
from wgquick.system.netlink import RtNetlink
from wgquick.system.userspace import Userspace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from contextlib import AbstractContextManager

    from wgquick.net import Endpoint
    from wgquick.ports import Firewall, NetworkNamespaces, Sysctl, UdpPorts
    from wgquick.system.hooks import Hooks
    from wgquick.system.netns import EnteredNamespace
    from wgquick.system.wireguard import Control


class LocalHost:
    """The machine (wgquick.ports.Host); `say` takes the notes of its parts.

    With an `outer` the calling thread is inside that namespace, and outer packets are handled in the namespace
    that the thread came from. Parts that not every verb needs are imported at their first use.
    """

    def __init__(self, say: Callable[[str], None], outer: EnteredNamespace | None = None) -> None:
        self._say = say
        self._outer = outer
        self.rtnl = RtNetlink()
        self.firewall: Firewall = firewall
        self.dns = Dns(runtime.runtime_directory(), say, outer.name if outer else "")
        self.userspace = Userspace(say=say)
        self.journal_directory = runtime.journal_directory()
        if outer is not None:
            from wgquick.system.netns import RtNetlinkInside, UserspaceInside

            self.rtnl = RtNetlinkInside(outer)
            self.userspace = UserspaceInside(outer, say=say)

    @cached_property
    def wireguard(self) -> Control:
        """WireGuard devices."""
        if self._outer is not None:
            from wgquick.system.netns import ControlInside

            return ControlInside(self._outer)
        from wgquick.system.wireguard import Control

        return Control()

    @cached_property
    def sysctl(self) -> Sysctl:
        """Kernel parameters."""
        from wgquick.system import sysctl

        return sysctl

    @cached_property
    def udp_ports(self) -> UdpPorts:
        """The UDP ports of the namespace of the outer packets."""
        from wgquick.system import udp_ports

        if self._outer is None:
            return udp_ports
        from wgquick.system.netns import RunOutside

        return cast("UdpPorts", RunOutside(udp_ports, self._outer))

    @cached_property
    def hooks(self) -> Hooks:
        """Runs hooks."""
        from wgquick.system.hooks import Hooks

        return Hooks(self._say)

    @property
    def netns(self) -> NetworkNamespaces:
        """Named network namespaces."""
        from wgquick.system import netns

        return netns

    @contextmanager
    def inside(self, name: str) -> Iterator[LocalHost]:
        """This machine with the calling thread in a named namespace, for a link that was made outside."""
        from wgquick.system.netns import entered

        with entered(name) as outer:
            yield LocalHost(self._say, outer)

    def dns_of(self, netns: str) -> Dns:
        """The DNS of a named namespace, which may be gone."""
        return Dns(runtime.runtime_directory(), self._say, netns)

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """The namespace of the outer packets."""
        if self._outer is None:
            yield
        else:
            with self._outer.outside():
                yield

    @property
    def is_contained(self) -> bool:
        """Whether this process runs in a container's PID namespace."""
        return namespaces.is_contained()

    def other_directories(self) -> list[str]:
        """The journal directories of other network namespaces."""
        return runtime.other_directories()

    def is_gone(self, directory: str, *, contained: bool) -> bool:
        """Whether the namespace of a journal directory is gone; `contained`: whether it is a container's."""
        return runtime.is_gone(directory, contained=contained)

    def remove_directory(self, directory: str) -> None:
        """Remove a journal directory with its files."""
        runtime.remove_directory(directory)

    def resolve(self, endpoint: Endpoint) -> SocketAddress:
        """Resolve an endpoint as `wg` does, with its retries."""
        from wgquick.system.wireguard.resolve import resolve, retries_of

        with self._outside():
            return resolve(endpoint, retries=retries_of(os.environ), note=self._say)

    def resolve_all(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, SocketAddress]:
        """Resolve each endpoint."""
        return {endpoint: self.resolve(endpoint) for endpoint in endpoints}

    def resolved_now(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, SocketAddress]:
        """The addresses of the endpoints that can be resolved at the first try, within a few seconds."""
        from wgquick.system.wireguard.resolve import resolved_now

        with self._outside():
            return resolved_now(endpoints)

    def name_matcher(self, endpoints: Iterable[Endpoint]) -> Callable[[Endpoint, SocketAddress], bool]:
        """A function that tells whether an endpoint resolves to an address; True if DNS does not answer in time."""
        from wgquick.system.wireguard.resolve import name_matcher

        with self._outside():
            return name_matcher(endpoints)

    def addresses(
        self, endpoint: Endpoint, mark: int = 0, given: Collection[str] = ()
    ) -> tuple[SocketAddress, ...] | None:
        """All addresses that an endpoint currently resolves to; None if the lookup fails."""
        from wgquick.system.dns import lookup, outside

        with self._outside():
            return lookup.addresses(endpoint, mark, lambda: outside.servers(self.wireguard.interfaces(), given))

    def outside_servers(self, given: Collection[str]) -> tuple[SocketAddress, ...]:
        """The DNS servers that `addresses` asks."""
        from wgquick.system.dns import outside, query

        with self._outside():
            found = outside.servers(self.wireguard.interfaces(), given)
        return tuple(SocketAddress(server.address, query.PORT, server.scope) for server in found)

    def manager(self, name: str, ifindex: int) -> str:
        """The program that manages the link; "" if there is none."""
        from wgquick.system.wireguard.origin import manager

        return manager(name, ifindex)

    def started(self, name: str) -> float | None:
        """The time when the interface's daemon created its socket."""
        from wgquick.system.wireguard.origin import started

        return started(name)

    def table_names(self) -> dict[str, int]:
        """The numbers of the routing tables by name (rt_tables)."""
        from wgquick.system import rt_tables

        return rt_tables.table_names()

    def interface_lock(self, name: str) -> AbstractContextManager[None]:
        """The lock that up and down hold on an interface; WgqError if another process holds it for too long."""
        return runtime.locked_interface(self.journal_directory, name, self._say)

    def interface_lock_if_free(self, name: str) -> AbstractContextManager[bool]:
        """The same without waiting."""
        return runtime.locked_if_free(self.journal_directory, name)

    def lock(self) -> AbstractContextManager[None]:
        """The namespace's lock."""
        return runtime.locked(self.journal_directory)
