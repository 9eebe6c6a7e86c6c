"""Reads a network namespace as `wgquick.routing.Snapshot`: rules, routes, links and neighbours through pyroute2."""

from __future__ import annotations

import os
import threading
import time
from errno import ENODEV
from typing import TYPE_CHECKING, NamedTuple

from wgquick.errors import OperationError
from wgquick.net import TUNNELS, pack_address
from wgquick.routing import LocalAddress, Neighbour, NetworkLink, Snapshot, TunnelDevice
from wgquick.system import netns, rt_tables
from wgquick.system.routes import FAMILIES, Routing
from wgquick.system.wireguard import Control, uapi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from wgquick.device import Device
    from wgquick.net import PublicKey, SecretKey

_IFF_UP, _IFF_LOOPBACK, _IFF_LOWER_UP = 0x1, 0x8, 0x10000
_SECONDARY, _DEPRECATED, _TENTATIVE, _OPTIMISTIC = 0x01, 0x20, 0x40, 0x04  # IFA_F_*
_STATES = {1: "INCOMPLETE", 2: "REACHABLE", 4: "STALE", 8: "DELAY", 16: "PROBE", 32: "FAILED", 64: "NOARP"}
_PERMANENT = 128


class _Parameters(NamedTuple):
    """A link's parameters in /proc/sys/net/ipv4/conf."""

    rp_filter: int
    src_valid_mark: int
    accept_local: int
    forwarding: int
    route_localnet: int


def snapshot(public_key: Callable[[SecretKey], PublicKey]) -> Snapshot:
    """A snapshot of the calling thread's network namespace; devices without secrets, but with their public key."""
    return _snapshot(public_key, follows=True)


def _snapshot(public_key: Callable[[SecretKey], PublicKey], *, follows: bool) -> Snapshot:
    with Routing() as routing:
        links = _links(routing)
        families = (4, 6) if os.path.exists("/proc/sys/net/ipv6") else (4,)
        found = Snapshot(
            {4: (), 6: (), **{family: routing.rules(family) for family in families}},
            {4: (), 6: (), **{family: routing.routes(family) for family in families}},
            {link.name: link for link, _ in links},
            neighbours=dict(_neighbours(routing)),
            forwards6=_read("ipv6/conf/all/forwarding") > 0,
            table_names={number: name for name, number in rt_tables.table_names().items()},
            time=time.time(),
        )
    unread: dict[str, str] = {}
    devices = dict(_devices(found, public_key, unread))
    outside = dict(_outside(links, devices, public_key)) if follows else {}
    return found._replace(devices=devices, outside=outside, unread=unread)


def _links(routing: Routing) -> list[tuple[NetworkLink, int | None]]:
    """The links, each with the number of the namespace that it was created in; None if that is this one."""
    kernel = routing.kernel
    addresses: dict[int, list[LocalAddress]] = {}
    for each in kernel.get_addr():
        if address := _address(each):
            addresses.setdefault(each["index"], []).append(address)
    return [(_link(each, routing, addresses), each.get("IFLA_LINK_NETNSID")) for each in kernel.get_links()]


def _link(message: Any, routing: Routing, addresses: dict[int, list[LocalAddress]]) -> NetworkLink:
    name, flags = message.get("IFLA_IFNAME"), message["flags"]
    info = message.get("IFLA_LINKINFO")
    kind = (info.get("IFLA_INFO_KIND") or "") if info else ""
    data = info.get("IFLA_INFO_DATA") if kind == "vrf" else None
    own, every = _parameters(name), _parameters("all")
    return NetworkLink(
        message["index"],
        name,
        message.get("IFLA_MTU"),
        bool(flags & _IFF_UP),
        bool(flags & _IFF_LOWER_UP),
        kind,
        routing.name(message.get("IFLA_MASTER")),
        data.get("IFLA_VRF_TABLE") if data else 0,
        message.get("IFLA_GROUP") or 0,
        bool(flags & _IFF_LOOPBACK),
        tuple(addresses.get(message["index"], ())),
        max(own.rp_filter, every.rp_filter),
        bool(own.src_valid_mark or every.src_valid_mark),
        bool(own.accept_local or every.accept_local),
        bool(own.forwarding),
        bool(own.route_localnet or every.route_localnet),
        tuple(
            family
            for family in (4, 6)
            if _read(f"ipv{family}/conf/{name}/ignore_routes_with_linkdown")
            or _read(f"ipv{family}/conf/all/ignore_routes_with_linkdown")
        ),
    )


def _parameters(name: str) -> _Parameters:
    return _Parameters(*(_read(f"ipv4/conf/{name}/{field}") for field in _Parameters._fields))


def _read(path: str) -> int:
    """A kernel parameter of the calling thread's network namespace; 0 if it does not exist."""
    try:
        with open(f"/proc/sys/net/{path}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 0


def _address(message: Any) -> LocalAddress | None:
    text, far = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS"), message.get("IFA_ADDRESS")
    if not text:
        return None
    flags = message.get("IFA_FLAGS") or message["flags"]
    return LocalAddress(
        pack_address(text),
        message["prefixlen"],
        message["scope"],
        pack_address(far) if far and far != text else None,
        message["family"] == FAMILIES[4] and bool(flags & _SECONDARY),
        bool(flags & _TENTATIVE) and not flags & _OPTIMISTIC,
        bool(flags & _DEPRECATED),
    )


def _neighbours(routing: Routing) -> Iterator[tuple[tuple[str, bytes], Neighbour]]:
    for message in routing.kernel.get_neighbours():
        if address := message.get("NDA_DST"):
            state = "PERMANENT" if message["state"] & _PERMANENT else _STATES.get(message["state"], "NONE")
            known = Neighbour(state, message.get("NDA_LLADDR") or "")
            yield (routing.name(message["ifindex"]), pack_address(address)), known


def _devices(
    found: Snapshot, public_key: Callable[[SecretKey], PublicKey], unread: dict[str, str]
) -> Iterator[tuple[str, TunnelDevice]]:
    control = Control()
    for link in found.links.values():
        if link.kind not in TUNNELS:
            continue
        try:
            device = control.get(link.name)
        except OperationError as error:
            if error.errno != ENODEV:  # another program's TUN link
                unread[link.name] = error.what
            continue
        own = public_key(device.private_key) if device.private_key else None
        yield link.name, TunnelDevice(_without_secrets(device), own)


def _without_secrets(device: Device) -> Device:
    peers = tuple(peer._replace(preshared_key=None) for peer in device.peers)
    return device._replace(private_key=None, peers=peers)


def _outside(
    links: list[tuple[NetworkLink, int | None]],
    devices: dict[str, TunnelDevice],
    public_key: Callable[[SecretKey], PublicKey],
) -> Iterator[tuple[str, Snapshot | None]]:
    """Snapshots of the namespaces that have the devices' sockets, for sockets outside this namespace."""
    here = _identity("/proc/thread-self/ns/net")
    for link, number in links:
        if link.name not in devices:
            continue
        if link.kind == "wireguard":
            path = _path_of(number) if number is not None else ""
            is_elsewhere = number is not None
        else:
            path = f"/proc/{uapi.listener(link.name)}/ns/net"
            there = _identity(path)
            is_elsewhere = there is not None and there != here
        if is_elsewhere:
            yield link.name, _inside(path, public_key) if path else None


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _path_of(number: int) -> str:
    """The path of the namespace with this number here (RTM_GETNSID): a named one or process 1's; "" if unknown."""
    from pyroute2 import IPRoute, NetlinkError
    from pyroute2.netlink.rtnl import RTM_GETNSID
    from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

    named = [netns.path_of(name) for name in _names(netns.DIRECTORY)]
    processes = [f"/proc/{name}/ns/net" for name in _names("/proc") if name.isdecimal()]
    tried: set[tuple[int, int] | None] = {None}
    with IPRoute() as kernel:
        for serial, path in enumerate((*named, "/proc/1/ns/net", *processes), 1 << 21):
            if (identity := _identity(path)) in tried:
                continue
            tried.add(identity)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                message = nsidmsg()
                message["attrs"] = [("NETNSA_FD", descriptor)]
                kernel.put(message, RTM_GETNSID, 1, msg_seq=serial)
                (answer,) = kernel.get(msg_seq=serial)
            except NetlinkError:
                continue
            finally:
                os.close(descriptor)
            if answer.get("NETNSA_NSID") == number:
                return path
    return ""


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _inside(path: str, public_key: Callable[[SecretKey], PublicKey]) -> Snapshot | None:
    """A snapshot of another namespace, read by a thread that enters it; None without permission."""
    found: list[Snapshot] = []

    def read() -> None:
        try:
            enter(path)
            found.append(_snapshot(public_key, follows=False))
        except OSError:
            return

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    return found[0] if found else None


def enter(path: str) -> None:
    """Move the calling thread into a network namespace (setns(2))."""
    from wgquick.system import calls

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        calls.enter_network(descriptor, path)
    finally:
        os.close(descriptor)
