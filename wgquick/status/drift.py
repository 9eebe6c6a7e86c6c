"""The differences between a live interface and its file. Secret keys are compared but never printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgquick.net import NO_KEY, is_link_local
from wgquick.plan.file_peers import merged
from wgquick.plan.steps import DeleteRule
from wgquick.status.values import Drift

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from wgquick.config.settings import PeerSettings, Settings
    from wgquick.device import Device, DevicePeer
    from wgquick.net import AllowedIP, Link, Prefix, PublicKey, Rule
    from wgquick.plan.steps import Undo

_Network = tuple[bytes, int]


def differences(
    settings: Settings, device: Device, link: Link | None, addresses: Sequence[Prefix]
) -> tuple[Drift, ...]:
    """The differences from the file. A setting that the file does not have may have any value.

    An endpoint that has roamed is not a difference.
    """
    return (
        *_of_device(settings, device),
        *_of_link(settings, link, addresses),
        *_of_peers(merged(settings), {peer.public_key: peer for peer in device.peers}),
    )


def of_routing(
    undos: Iterable[Undo], rules: Sequence[Rule], has_default: Callable[[int, int], bool]
) -> Iterator[Drift]:
    """The missing rules and default routes of a full tunnel; `undos` are the journal's, `rules` the host's.

    `has_default` says whether a family has a default route through the link in a table.
    """
    there = {rule._replace(priority=None) for rule in rules}
    for undo in undos:
        if not isinstance(undo, DeleteRule):
            continue
        rule = undo.rule._replace(priority=None)
        if rule not in there:
            what = (
                f"for table {rule.table}"
                if rule.fwmark is not None
                else "that ignores the default route of table main"
            )
            yield Drift("rule-missing", f"the IPv{rule.family} rule {what} is missing")
        if rule.fwmark is not None and not has_default(rule.family, rule.table):
            what = f"the IPv{rule.family} default route in table {rule.table} is missing"
            yield Drift("route-missing", what)


def is_full_tunnel(settings: Settings) -> bool:
    """Whether up chooses a mark and a table for default routes."""
    return settings.routes_automatically and any(
        not allowed.length for peer in settings.peers for allowed in peer.allowed_ips
    )


def _of_device(settings: Settings, device: Device) -> Iterator[Drift]:
    if settings.private_key is not None and settings.private_key != device.private_key:
        yield Drift("key-differs", "the device has another private key" if device.private_key else "no private key")
    if settings.listen_port and settings.listen_port != device.listen_port:
        yield Drift("port-differs", f"port {settings.listen_port} in the file, {device.listen_port} on the device")
    is_chosen = not settings.fwmark and is_full_tunnel(settings)  # `off' too is then replaced by a mark
    if settings.fwmark is not None and settings.fwmark != device.fwmark and not is_chosen:
        yield Drift("mark-differs", f"mark {settings.fwmark:#x} in the file, {device.fwmark:#x} on the device")


def _of_link(settings: Settings, link: Link | None, addresses: Sequence[Prefix]) -> Iterator[Drift]:
    if link is None:
        return
    if settings.mtu is not None and settings.mtu != link.mtu:
        yield Drift("mtu-differs", f"MTU {settings.mtu} in the file, {link.mtu} on the link")
    wanted = {(each.address, each.length): each.text for each in settings.addresses}
    there = {(each.address, each.length): str(each) for each in addresses}
    for address in wanted.keys() - there.keys():
        yield Drift("address-missing", f"the link does not have {wanted[address]}")
    for address in there.keys() - wanted.keys():
        if not is_link_local(address[0]):  # the kernel adds one to a TUN link
            yield Drift("address-foreign", f"the link has {there[address]}, which is not in the file")


def _of_peers(wanted: Mapping[PublicKey, PeerSettings], there: Mapping[PublicKey, DevicePeer]) -> Iterator[Drift]:
    # The usual case first: a device has a network only once, so equal lists leave nothing to compare.
    is_same = all(key in there and there[key].allowed_ips == peer.allowed_ips for key, peer in wanted.items())
    networks = None if is_same else _networks(wanted)
    for key, peer in wanted.items():
        live = there.get(key)
        if live is None:
            yield Drift("peer-missing", "the device does not have this peer", str(key))
        else:
            yield from _of_peer(peer, live, networks.get(key, set()) if networks is not None else None)
    for key in there.keys() - wanted.keys():
        yield Drift("peer-foreign", "this peer is not in the file", str(key))


def _networks(wanted: Mapping[PublicKey, PeerSettings]) -> dict[PublicKey, set[_Network]] | None:
    """The networks of each peer; the last peer with a network has it. None if a `-` entry removes networks."""
    owner: dict[_Network, PublicKey] = {}
    for key, peer in wanted.items():
        for allowed in peer.allowed_ips:
            if allowed.change == "-":
                return None
            owner[_network(allowed)] = key
    found: dict[PublicKey, set[_Network]] = {}
    for network, key in owner.items():
        found.setdefault(key, set()).add(network)
    return found


def _network(allowed: AllowedIP) -> _Network:
    """The network without host bits, as devices have it."""
    address, length = allowed.address, allowed.length
    bits = len(address) * 8 - length
    if not bits:
        return address, length
    return (int.from_bytes(address) >> bits << bits).to_bytes(len(address)), length


def _of_peer(peer: PeerSettings, live: DevicePeer, networks: set[_Network] | None) -> Iterator[Drift]:
    key = peer.public_key  # as text only where it differs
    if peer.preshared_key is not None and peer.preshared_key.raw != _raw(live):
        yield Drift("psk-differs", "the device has another preshared key for this peer", str(key))
    if peer.persistent_keepalive not in (None, live.persistent_keepalive):
        here, device = _keepalive(peer.persistent_keepalive), _keepalive(live.persistent_keepalive)
        yield Drift("keepalive-differs", f"keepalive {here} in the file, {device} on the device", str(key))
    if networks is not None and networks != {(each.address, each.length) for each in live.allowed_ips}:
        yield Drift("allowed-ips-differ", "the device has other AllowedIPs for this peer", str(key))


def _keepalive(seconds: int | None) -> str:
    return f"{seconds} s" if seconds else "off"


def _raw(live: DevicePeer) -> bytes:
    return (live.preshared_key or NO_KEY).raw
