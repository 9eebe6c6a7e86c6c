"""Plans the way back to an earlier state of an interface, with the same difference as a reload. Pure.

The desired state comes from a snapshot of the host, not from a file. So values that are not in the file return too:
a chosen port or mark, roamed endpoints, and what hooks and `wg set` added.
"""

from __future__ import annotations

from wgquick.config.settings import Address, PeerSettings
from wgquick.device import PeerConfig
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import NO_KEY, Endpoint, Prefix, Route, is_link_local
from wgquick.plan import reload, traffic
from wgquick.plan.desired import Desired
from wgquick.plan.difference import Move, difference, owned_rules
from wgquick.plan.file_peers import UNKNOWN, FilePeer
from wgquick.plan.steps import (
    AddRule,
    DeleteRule,
    DeleteThrow,
    ForgetInbound,
    ReleaseSysctl,
    SetSysctl,
    UndoStep,
)
from wgquick.plan.up import SRC_VALID_MARK

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from wgquick.config.settings import Settings
    from wgquick.device import Device, DevicePeer
    from wgquick.net import FirewallRules, LinkAddress, Rule, SocketAddress
    from wgquick.plan.applied import Applied, Known
    from wgquick.plan.current import Current, LinkDns
    from wgquick.plan.facts import DesiredFacts
    from wgquick.plan.file_peers import FilePeers
    from wgquick.plan.reload import DeviceChange
    from wgquick.plan.steps import Undo

_OTHER_TEXT = FilePeer(UNKNOWN, 0, True, True)  # differs from any endpoint, so that reload sets the endpoint
_SRC_VALID_MARK_OFF = SetSysctl(SRC_VALID_MARK, "0", "0")


class Wanted(NamedTuple):
    """An earlier state: the snapshot, the tunnel's rules and DNS, and the journal's undos and applied state."""

    current: Current
    device: Device
    rules: tuple[Rule, ...]
    dns: LinkDns
    undos: tuple[Undo, ...] = ()
    applied: Applied | None = None


def wanted(
    current: Current, device: Device, known: Known, undos: tuple[Undo, ...], applied: Applied | None
) -> Wanted:
    """The earlier state; `undos` and `applied` are the journal's."""
    dns = current.dns
    if applied is not None and not dns.servers:
        dns = applied.dns  # not every resolvconf can print its records
    elif applied is not None:
        dns = dns._replace(full_tunnel=applied.dns.full_tunnel)
    return Wanted(current, device, owned_rules(current, known), dns, undos, applied)


def settings_for_up(before: Wanted, file: Settings) -> Settings:
    """The settings with which `up` creates the earlier state; hooks and table come from `file`."""
    device, link = before.device, before.current.link
    return file._replace(
        private_key=device.private_key,
        listen_port=device.listen_port or None,
        fwmark=device.fwmark or None,
        addresses=_addresses(before.current.addresses),
        dns=before.dns.servers,
        dns_search=before.dns.search,
        mtu=link.mtu if link else None,
        peers=_peers(device),
    )


def endpoints(peers: Iterable[DevicePeer]) -> dict[Endpoint, SocketAddress]:
    """The addresses of the endpoints that `settings_for_up` writes."""
    return {_endpoint(peer.endpoint): peer.endpoint for peer in peers if peer.endpoint}


def _endpoint(address: SocketAddress) -> Endpoint:
    host = f"{address.address}%{address.scope}" if address.scope else address.address
    return Endpoint(host, str(address.port))


def _peers(device: Device) -> tuple[PeerSettings, ...]:
    return tuple(
        PeerSettings(
            peer.public_key,
            peer.preshared_key,
            peer.allowed_ips,
            endpoint=_endpoint(peer.endpoint) if peer.endpoint else None,
            persistent_keepalive=peer.persistent_keepalive,
        )
        for peer in device.peers
    )


def _addresses(addresses: Iterable[LinkAddress]) -> tuple[Address, ...]:
    """The addresses in a file's order. The kernel lists the newest IPv6 address first."""
    found = [each.prefix for each in addresses if not each.far and not each.is_the_kernels]
    ordered = [p for p in found if p.family == 4] + [p for p in reversed(found) if p.family == 6]
    return tuple(Address(prefix.address, prefix.length, str(prefix)) for prefix in ordered)


def moves(
    before: Wanted,
    now: Current,
    device: Device,
    facts: DesiredFacts,
    known: Known,
    *,
    given: tuple[FilePeers, ...],
    file: Settings,
) -> tuple[Move, ...]:
    """The moves towards the earlier state. Several rounds may be needed, until there are none.

    `known` is the journal's content, `given` what the trial's files set for the peers.
    """
    known = known._replace(
        addresses=frozenset(each.prefix for each in now.addresses if not each.is_the_kernels),
        routes=frozenset((route.destination, route.table) for route in now.routes if route.is_plain),
        mtu=0,
    )
    first = tuple(_rules_back(before, now, known))
    if first:
        return first
    aim = _desired(before, file)
    change = _device_change(before, device, aim.settings, given)
    aim = aim._replace(addresses=_in_their_order(aim, now))
    guard = traffic.last_guard(before.undos)
    found = difference(aim, now, known, change, facts, guard.allowed if guard else ()).moves
    return (*found, Move(_SRC_VALID_MARK_OFF)) if _is_src_valid_mark_left(before, now, known, facts) else found


def _is_src_valid_mark_left(before: Wanted, now: Current, known: Known, facts: DesiredFacts) -> bool:
    """Whether the trial of a tunnel without a journal has set src_valid_mark, and no other tunnel needs it."""
    was_off = before.current.src_valid_mark == "0" and now.src_valid_mark == "1"
    has_full = any(rule.family == 4 and rule.fwmark is not None for rule in now.rules)
    return known.undos is None and was_off and facts.src_valid_mark_earlier is None and not has_full


def _rules_back(before: Wanted, now: Current, known: Known) -> Iterable[Move]:
    """The moves that restore the policy rules and their priorities; the fwmark and the table come later."""
    current = owned_rules(now, known)
    for rule in before.rules:
        if rule not in now.rules:
            yield Move(AddRule(rule))
    for rule in current:
        if rule not in before.rules:
            yield Move(UndoStep(DeleteRule(rule)))


def is_of_rules(move: Move) -> bool:
    """Whether a move adds or removes a policy rule."""
    step = move.step
    return isinstance(step, AddRule) or (isinstance(step, UndoStep) and isinstance(step.undone, DeleteRule))


def _desired(before: Wanted, file: Settings) -> Desired:
    current, device = before.current, before.device
    bare = file._replace(
        private_key=device.private_key,
        listen_port=device.listen_port,
        fwmark=device.fwmark,
        table="off",  # the routes are the snapshot's
        pre_up=(),
        post_up=(),
        peers=_peers(device),
    )
    plain = tuple(dict.fromkeys((r.destination, r.table) for r in current.routes if r.is_plain))
    return Desired(
        bare,
        {peer.public_key: peer for peer in bare.peers},
        device.fwmark,
        current.link.mtu if current.link else None,
        has_automatic_mtu=False,
        addresses=_addresses(current.addresses),
        routes=tuple(Route(destination, current.name, table) for destination, table in plain),
        rules=tuple(rule._replace(priority=None) for rule in before.rules),
        firewall=_firewall(before),
        dns=before.dns._replace(full_tunnel=bool(before.dns.full_tunnel)),
        src_valid_mark=any(isinstance(undo, ReleaseSysctl) for undo in before.undos),
        throws=tuple(
            (Prefix.parse(undo.destination), undo.table) for undo in before.undos if isinstance(undo, DeleteThrow)
        ),
        inbound=device.fwmark if any(isinstance(undo, ForgetInbound) for undo in before.undos) else 0,
    )


def _firewall(before: Wanted) -> tuple[FirewallRules, ...]:
    """The earlier firewall rules. Those of iptables cannot be read back, so they come from the journal."""
    recorded = {(r.kind, r.family): r for r in (before.applied.firewall if before.applied else ())}
    stood = before.current.firewall
    return tuple(r if r.fwmark else recorded.get((r.kind, r.family), r) for r in stood)


def _in_their_order(aim: Desired, now: Current) -> tuple[Address, ...]:
    """The addresses after this round. A kind out of order has none: the next round adds its addresses again.

    The kinds are IPv4, and IPv6 addresses of each scope. The kernel adds an address after the existing ones.
    """
    kept: list[Address] = []
    there = [(each.address, each.length) for each in _addresses(now.addresses)]
    for kind in {_kind(each.address): None for each in aim.addresses}:
        wanted = [each for each in aim.addresses if _kind(each.address) == kind]
        mine = [(each.address, each.length) for each in wanted]
        staying = [each for each in there if each in mine]
        if staying == mine[: len(staying)]:
            kept += wanted
    return tuple(kept)


def _kind(address: bytes) -> tuple[int, bool]:
    return len(address), is_link_local(address)


def _device_change(
    before: Wanted, device: Device, settings: Settings, given: Collection[FilePeers]
) -> DeviceChange:
    live = {peer.public_key: peer for peer in device.peers}
    had = {peer.public_key: peer for peer in before.device.peers}
    recreated = [key for key, peer in had.items() if key in live and _is_to_forget(peer, live[key], given)]
    kept = device._replace(peers=tuple(peer for peer in device.peers if peer.public_key not in recreated))
    earlier = {key.raw: _earlier(peer, live.get(key), before, given) for key, peer in had.items()}
    change = reload.change(settings, before.device.fwmark, kept, earlier, endpoints(before.device.peers))
    private_key = change.first.private_key
    if before.device.private_key is None and device.private_key is not None:
        private_key = NO_KEY
    peers = (*(PeerConfig(key, remove=True) for key in recreated), *change.first.peers)
    return change._replace(first=change.first._replace(private_key=private_key, peers=peers), notes=())


def _is_to_forget(had: DevicePeer, live: DevicePeer, given: Iterable[FilePeers]) -> bool:
    """Whether the trial set the endpoint of a peer that had none. A device forgets it only with the peer."""
    key = had.public_key.raw
    is_set = any(new[key].endpoint for new in given if key in new)
    return had.endpoint is None and live.endpoint is not None and is_set


def _earlier(had: DevicePeer, live: DevicePeer | None, before: Wanted, given: Iterable[FilePeers]) -> FilePeer:
    """A peer's earlier settings, which make `reload.change` set an endpoint that the trial changed.

    An endpoint that has roamed since stays.
    """
    key = had.public_key.raw
    old = before.applied.peers.get(key) if before.applied else None
    texts = {new[key].endpoint for new in given if key in new}
    has_roamed = old is not None and texts <= {old.endpoint} and live is not None and live.endpoint is not None
    if not has_roamed or had.endpoint is None:
        return _OTHER_TEXT
    return _OTHER_TEXT._replace(endpoint=str(_endpoint(had.endpoint)))
