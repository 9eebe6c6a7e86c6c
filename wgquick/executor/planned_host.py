"""A host for plans: `up` and `down` run on it, and the real host does not change.

It reads the real host and keeps all changes in memory, so that each stage sees the changes of earlier stages. The
journals are a copy. Only the values that `up` and `down` read are kept.
"""

from __future__ import annotations

from errno import ENODEV, ENOENT, EOPNOTSUPP

from wgquick.device import Device, DevicePeer
from wgquick.errors import OperationError
from wgquick.executor import observe
from wgquick.lean import TYPE_CHECKING, cast, contextmanager
from wgquick.net import MAIN_TABLE, Link, Prefix
from wgquick.plan.desired import networks
from wgquick.plan.up import DEFAULT_MTU
from wgquick.transcript import command

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from wgquick.config.settings import Address
    from wgquick.device import DeviceConfig, PeerConfig
    from wgquick.net import AllowedIP, Endpoint, Path, PublicKey, Route, Rule, SecretKey, SocketAddress
    from wgquick.ports import Dns, Firewall, Hooks, Host, RtNetlink, Sysctl, UdpPorts, Userspace, WireGuard

    PublicKeyOf = Callable[[SecretKey], PublicKey]


class _State:
    """The changes so far. `link` is None if the interface was not added; `is_gone`: the real one was deleted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.link: Link | None = None
        self.device: Device | None = None
        self.is_gone = False
        self.addresses: list[Prefix] = []
        self.routes: list[Route] = []
        self.added_rules: list[Rule] = []
        self.deleted_rules: list[Rule] = []
        self.sysctl: dict[str, str] = {}
        self.firewalls: set[tuple[str, int]] = set()
        self.removed_firewalls: set[tuple[str, int]] = set()
        self.is_hooked = False


class _Part:
    """A part of the host. The methods in `reads` are the real host's; the class defines all others."""

    reads: tuple[str, ...] = ()

    def __init__(self, base: object, state: _State) -> None:
        self._base, self._state = base, state

    def __getattr__(self, name: str) -> object:
        if name in type(self).reads:
            return getattr(self._base, name)
        raise AttributeError(f"{type(self).__name__} has no {name}")


class _Rtnl(_Part):
    reads = ("default_path",)

    def __init__(self, base: RtNetlink, state: _State, sysctl: Sysctl) -> None:
        super().__init__(base, state)
        self._rtnl, self._sysctl = base, sysctl
        self.has_wireguard = True

    def add_wireguard_link(self, name: str) -> None:
        if not self.has_wireguard:
            raise OperationError("the kernel has no WireGuard", errno=EOPNOTSUPP)
        self.made(name)

    def made(self, name: str) -> None:
        """Add the link. Its kind is the kernel's WireGuard, so that nothing waits for a daemon."""
        number = max((link.ifindex for link in self._rtnl.links()), default=0) + 1
        self._state.link = Link(number, name, DEFAULT_MTU, up=False, kind="wireguard")
        self._state.device = Device(name)

    def delete_link(self, name: str) -> None:
        if self.link(name) is None:
            raise OperationError(f"there is no link named {name}", errno=ENODEV)
        state = self._state
        state.link, state.device, state.is_gone = None, None, True
        state.addresses, state.routes = [], []

    def set_link(self, name: str, *, mtu: int | None = None, up: bool = True) -> None:
        link = self._state.link
        if link is not None:
            self._state.link = link._replace(mtu=mtu or link.mtu, up=up or link.up)

    def link(self, name: str) -> Link | None:
        if name == self._state.name and (self._state.link is not None or self._state.is_gone):
            return self._state.link
        return self._rtnl.link(name)

    def links(self) -> list[Link]:
        own = self._state.link
        others = [each for each in self._rtnl.links() if each.name != self._state.name or not self._is_replaced()]
        return [*others, own] if own is not None else others

    def _is_replaced(self) -> bool:
        return self._state.is_gone or self._state.link is not None

    def takes_ipv6(self, name: str) -> bool:
        if name != self._state.name or not self._is_replaced():
            return self._rtnl.takes_ipv6(name)
        return observe.default_ipv6(self._rtnl, self._sysctl)

    def addresses(self, name: str) -> list[Prefix]:
        if name == self._state.name and self._is_replaced():
            return list(self._state.addresses)
        return self._rtnl.addresses(name)

    def add_addresses(self, name: str, addresses: Sequence[Prefix]) -> None:
        self._state.addresses += addresses

    def add_routes(self, routes: Sequence[Route], *, beside: bool = False) -> None:
        self._state.routes += routes

    def add_throw(self, destination: Prefix, table: int) -> None:
        """Does nothing: neither up nor down reads it."""

    def delete_throw(self, destination: Prefix, table: int) -> None:
        """Does nothing: neither up nor down reads it."""

    def routes(self, *, family: int, table: int, device: str | None = None) -> list[Prefix]:
        is_own = device == self._state.name and self._is_replaced()
        found = [] if is_own else self._rtnl.routes(family=family, table=table, device=device)
        own = [route.destination for route in self._state.routes if route.table == table]
        link = self._state.link
        if table == MAIN_TABLE and link is not None and link.up:
            own += networks(cast("Iterable[Address]", self._state.addresses))
        if device in (None, self._state.name):
            found = [*found, *(each for each in own if each.family == family)]
        return found

    def table_is_empty(self, family: int, table: int) -> bool:
        if any(route.table == table and route.destination.family == family for route in self._state.routes):
            return False
        if self._rtnl.table_is_empty(family, table):
            return True
        if not self._state.is_gone:
            return False
        through = self._rtnl.routes(family=family, table=table, device=self._state.name)
        return len(through) == len(self._rtnl.routes(family=family, table=table))

    def path(self, address: str, mark: int = 0) -> Path | None:
        """The path to an address. The routes of a deleted link still exist, so its mark avoids them."""
        found = self._rtnl.path(address, mark)
        if found is None or not self._state.is_gone or found.link != self._state.name:
            return found
        marks = (rule.fwmark for rule in self._state.deleted_rules if rule.fwmark)
        found = next((self._rtnl.path(address, each) for each in marks), None)
        return None if found is None or found.link == self._state.name else found

    def rules(self, family: int) -> list[Rule]:
        state = self._state
        kept = [rule for rule in self._rtnl.rules(family) if rule not in state.deleted_rules]
        added = [rule for rule in state.added_rules if rule.family == family]
        return sorted((*kept, *added), key=lambda rule: rule.priority or 0)

    def add_rule(self, rule: Rule) -> None:
        self._state.added_rules.append(rule)

    def delete_rule(self, rule: Rule) -> None:
        state = self._state
        if rule in state.added_rules:
            state.added_rules.remove(rule)
        elif rule in self.rules(rule.family):
            state.deleted_rules.append(rule)
        else:
            raise OperationError("there is no such rule", errno=ENOENT)


class _WireGuard(_Part):
    def __init__(self, base: WireGuard, state: _State, public_key_of: PublicKeyOf) -> None:
        super().__init__(base, state)
        self._wireguard, self._public_key_of = base, public_key_of

    def interfaces(self) -> list[str]:
        state = self._state
        others = [name for name in self._wireguard.interfaces() if name != state.name or not state.is_gone]
        return [*others, state.name] if state.device is not None and state.name not in others else others

    def get(self, name: str) -> Device:
        if name == self._state.name and self._state.device is not None:
            return self._state.device
        return self._wireguard.get(name)

    def set(self, _name: str, config: DeviceConfig) -> None:
        if self._state.device is not None:
            self._state.device = changed(self._state.device, config, self._public_key_of)


class _Firewall(_Part):
    reads = ("choose", "existing", "is_guarded", "keeps_inbound", "add_lines", "remove_lines")

    def __init__(self, base: Firewall, state: _State) -> None:
        super().__init__(base, state)
        self._firewall = base

    def present(self, name: str) -> tuple[tuple[str, int], ...]:
        state = self._state
        present = [each for each in self._firewall.present(name) if each not in state.removed_firewalls]
        return tuple(dict.fromkeys((*present, *sorted(state.firewalls))))

    def add(
        self, kind: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0
    ) -> None:
        self._state.firewalls.add((kind, 0 if kind == "nft" else family))

    def remove(self, kind: str, name: str, family: int) -> None:
        self._state.firewalls.discard((kind, family))
        self._state.removed_firewalls.add((kind, family))

    def guard(self, name: str, wanted: object) -> None:
        """Does nothing: neither up nor down reads it."""

    def remove_guard(self, name: str) -> None:
        """Does nothing: neither up nor down reads it."""

    def keep_inbound(self, name: str, mark: int) -> None:
        """Does nothing: neither up nor down reads it."""

    def forget_inbound(self, name: str) -> None:
        """Does nothing: neither up nor down reads it."""


class _Dns(_Part):
    reads = ("detect", "current", "stale", "set_lines", "unset_lines")

    def set(self, mode: str, name: str, servers: Sequence[str], search: Sequence[str], full_tunnel: bool) -> None:
        """Does nothing: neither up nor down reads it."""

    def unset(self, mode: str, name: str) -> None:
        """Does nothing: neither up nor down reads it."""

    def repair(self) -> tuple[str, ...]:
        return ()


class _Sysctl(_Part):
    reads = ("writable",)

    def __init__(self, base: Sysctl, state: _State) -> None:
        super().__init__(base, state)
        self._sysctl = base

    def read(self, key: str) -> str | None:
        return self._state.sysctl.get(key) or self._sysctl.read(key)

    def write(self, key: str, value: str) -> None:
        self._state.sysctl[key] = value


class _UdpPorts(_Part):
    reads = ("programs",)

    def __init__(self, base: UdpPorts, state: _State) -> None:
        super().__init__(base, state)
        self._ports = base

    def refusal(self, port: int) -> int:
        """0 after a hook, which may free the port, and after the interface was deleted, which frees its port."""
        return 0 if self._state.is_hooked or self._state.is_gone else self._ports.refusal(port)

    def has(self, _name: str, _port: int) -> bool:
        return True


class _Userspace(_Part):
    reads = ("kernel_has_wireguard", "choose")

    def __init__(self, base: Userspace, state: _State, rtnl: _Rtnl) -> None:
        super().__init__(base, state)
        self._rtnl = rtnl
        self.netns = ""
        self.say: Callable[[str], None] = lambda _: None

    def start(self, _program: str, name: str) -> None:
        self._rtnl.made(name)
        if self.netns:
            self.say(command(f"ip link set dev {name} netns {self.netns}"))

    def await_exit(self, name: str) -> None:
        """Does nothing: no daemon was started."""

    def clear(self, name: str) -> None:
        """Does nothing: no daemon was started."""


class _Hooks(_Part):
    def run(self, command: str, variables: object) -> None:
        self._state.is_hooked = True


class PlannedHost:
    """The host (wgquick.ports.Host). `directory` has a copy of the journals of `base`."""

    def __init__(self, base: Host, name: str, directory: str, public_key_of: PublicKeyOf) -> None:
        self.base = base
        self.state = state = _State(name)
        self._rtnl = _Rtnl(base.rtnl, state, base.sysctl)
        self._rtnl.has_wireguard = base.userspace.kernel_offers_wireguard()
        self.rtnl = cast("RtNetlink", self._rtnl)
        self.wireguard = cast("WireGuard", _WireGuard(base.wireguard, state, public_key_of))
        self.firewall = cast("Firewall", _Firewall(base.firewall, state))
        self.dns = cast("Dns", _Dns(base.dns, state))
        self.sysctl = cast("Sysctl", _Sysctl(base.sysctl, state))
        self.udp_ports = cast("UdpPorts", _UdpPorts(base.udp_ports, state))
        self.hooks = cast("Hooks", _Hooks(base.hooks, state))
        self._userspace = _Userspace(base.userspace, state, self._rtnl)
        self.userspace = cast("Userspace", self._userspace)
        self.journal_directory = directory
        self.is_contained = base.is_contained
        self.unresolved: list[Endpoint] = []

    def starts_in(self, netns: str, say: Callable[[str], None]) -> None:
        """After a daemon starts, `say` gets the command that moves its link into the network namespace."""
        self._userspace.netns, self._userspace.say = netns, say

    def other_directories(self) -> list[str]:
        """Empty: plans clean nothing up."""
        return []

    def resolve(self, endpoint: Endpoint) -> SocketAddress:
        """The real host's answer."""
        return self.base.resolve(endpoint)

    def resolve_all(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, SocketAddress]:
        """The real host's answers at the first try; `unresolved` gets the other endpoints."""
        wanted = tuple(endpoints)
        found = self.base.resolved_now(wanted)
        self.unresolved += [each for each in wanted if each not in found]
        return found

    def resolved_now(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, SocketAddress]:
        """The real host's answer."""
        return self.base.resolved_now(endpoints)

    def outside_servers(self, given: Collection[str]) -> tuple[SocketAddress, ...]:
        """The real host's servers."""
        return self.base.outside_servers(given)

    def table_names(self) -> dict[str, int]:
        """The real host's tables."""
        return self.base.table_names()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Does nothing: plans change nothing."""
        yield


def changed(device: Device, config: DeviceConfig, public_key_of: PublicKeyOf) -> Device:
    """The device after a change, as the kernel applies it. It ignores a peer with the device's own key."""
    private_key = config.private_key or device.private_key
    own = public_key_of(private_key) if private_key is not None and any(private_key.raw) else None
    peers = {peer.public_key: peer for peer in device.peers}
    networks_of = {peer.public_key: dict.fromkeys(_plain(ip) for ip in peer.allowed_ips) for peer in device.peers}
    owners = {ip: key for key, networks in networks_of.items() for ip in networks}
    for peer in config.peers:
        key = peer.public_key
        if key == own or (peer.update_only and key not in peers):
            continue
        if peer.remove:
            peers.pop(key, None)
            for ip in networks_of.pop(key, {}):
                owners.pop(ip, None)
            continue
        peers[key] = _changed_peer(peers.get(key) or DevicePeer(key), peer)
        mine = networks_of.setdefault(key, {})
        if peer.replace_allowed_ips:
            for ip in mine:
                owners.pop(ip, None)
            mine.clear()
        for each in peer.allowed_ips:
            ip = _plain(each)
            if each.change == "-" and owners.get(ip) != key:
                continue
            networks_of.get(owners.pop(ip, key), {}).pop(ip, None)
            if each.change != "-":
                mine[ip] = None
                owners[ip] = key
    return device._replace(
        private_key=private_key,
        listen_port=device.listen_port if config.listen_port is None else config.listen_port,
        fwmark=device.fwmark if config.fwmark is None else config.fwmark,
        peers=tuple(peer._replace(allowed_ips=tuple(networks_of[key])) for key, peer in peers.items()),
    )


def _plain(ip: AllowedIP) -> AllowedIP:
    return ip._replace(change="")


def _changed_peer(peer: DevicePeer, config: PeerConfig) -> DevicePeer:
    keepalive = config.persistent_keepalive
    return peer._replace(
        preshared_key=config.preshared_key or peer.preshared_key,
        endpoint=config.endpoint or peer.endpoint,
        persistent_keepalive=peer.persistent_keepalive if keepalive is None else keepalive,
    )
