"""Restores lost state that an interface's journal records, for `wgq watch` and `wgq doctor --fix`.

It works under the interface's lock, so it never interferes with up, reload or down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from wgquick.config.settings import LAN, Extras
from wgquick.device import DeviceConfig, PeerConfig
from wgquick.errors import OperationError, WgqError
from wgquick.executor import snapshot, waiting
from wgquick.executor.journal import Journal
from wgquick.executor.traffic import lans
from wgquick.lean import suppress
from wgquick.net import IPV6_MTU, Prefix
from wgquick.options import Options
from wgquick.plan import applied as plan_applied
from wgquick.plan import lost as plan_lost
from wgquick.plan import traffic
from wgquick.plan.lost import KINDS, Lost, lost
from wgquick.plan.steps import (
    AddAddress,
    AddRoute,
    AddThrow,
    DeleteThrow,
    RemoveGuard,
    SetGuard,
    SetMtu,
    add_addresses,
    add_routes,
)
from wgquick.plan.up import automatic_mtu

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from wgquick.device import Device
    from wgquick.executor.journal import Record
    from wgquick.net import Destination, Endpoint, PublicKey, SocketAddress
    from wgquick.plan.applied import Applied
    from wgquick.plan.steps import Run
    from wgquick.ports import Host


class Recorded(NamedTuple):
    """The journal of an interface that is up, its applied state (None if unknown), and the link's ifindex."""

    record: Record
    applied: Applied | None
    ifindex: int

    @property
    def name(self) -> str:
        """The interface's name."""
        return self.record.name


class _Run(NamedTuple):
    """The part of a run that the restoring steps need: the host."""

    host: Host


class Restored(NamedTuple):
    """The restored state, the state that could not be restored, and the last error."""

    restored: tuple[Lost, ...] = ()
    refused: tuple[Lost, ...] = ()
    reason: str = ""


def recorded(name: str, host: Host) -> Recorded | None:
    """The state that the journal records; None if up has not finished, down has begun, or the link was replaced."""
    record = Journal(host.journal_directory, name).read()
    if record is None or not record.complete:
        return None
    link = host.rtnl.link(name)
    if link is None or link.ifindex != record.ifindex:
        return None
    try:
        applied = plan_applied.from_record(record.applied) if record.applied is not None else None
    except (ValueError, KeyError, TypeError):
        applied = None
    return Recorded(record, applied, link.ifindex)


def missing(given: Recorded, host: Host) -> tuple[Lost, ...]:
    """The lost state of the interface."""
    now = snapshot.current(given.name, host, Options(), given.record)
    if now.link is None or now.link.ifindex != given.ifindex:  # the link is gone, or a new link has its name
        return ()
    extras = snapshot.extras(given.record.undos, given.name, host)
    return lost(given.record.undos, given.applied, now, extras._replace(lans=_lans(given, host)))


def own_extras(given: Recorded) -> Extras:
    """wgq's own settings; none if they are unknown."""
    return (given.applied and given.applied.extras) or Extras()


def _lans(given: Recorded, host: Host) -> tuple[Prefix, ...]:
    return lans(given.name, host) if LAN in own_extras(given).exclude else ()


def restore_missing(name: str, kinds: Collection[str], spared: Collection[str], host: Host) -> Restored | None:
    """Restore lost state of these kinds, except those whose text is in `spared`.

    None if another run holds the lock.
    """
    with host.interface_lock_if_free(name) as is_held:
        if not is_held:
            return None
        given = recorded(name, host)
        found = [each for each in missing(given, host) if each.kind in kinds] if given else []
        wanted = [each for each in found if each.text not in spared]
        if given is None or not wanted:
            return Restored()
        reason = restore(wanted, host)
        still = {each.text for each in missing(given, host)}
        return Restored(
            tuple(each for each in wanted if each.text not in still),
            tuple(each for each in wanted if each.text in still),
            reason,
        )


def restore(wanted: Collection[Lost], host: Host, say: Callable[[str], None] = lambda _: None) -> str:
    """Apply the steps under the namespace's lock, in the order of KINDS; `say` gets their lines.

    Returns the last error, or "". The caller holds the interface's lock.
    """
    reason = ""
    with host.lock():
        for kind in KINDS:
            found = [each for each in wanted if each.kind == kind]
            for each in found:
                for line in each.step.lines(host):
                    say(line)
            reason = _put_back(found, host) or reason
    return reason


def _put_back(found: Sequence[Lost], host: Host) -> str:
    """Apply the steps of one kind, addresses and routes in one batch; returns the error, or ""."""
    steps = [each.step for each in found]
    if not steps:
        return ""
    try:
        if isinstance(steps[0], AddAddress):
            add_addresses(cast("Sequence[AddAddress]", steps), host)
            return ""
        routes = [step for step in steps if isinstance(step, AddRoute)]
        if routes:
            add_routes(routes, host)
        for step in steps:
            if not isinstance(step, AddRoute):
                step.do(cast("Run", _Run(host)))
    except WgqError as error:
        return error.what
    return ""


def fitting_mtu(given: Recorded, device: Device, host: Host) -> int | None:
    """The MTU that the paths to the endpoints allow; None if it is not automatic or no path is known."""
    if given.applied is None or not given.applied.has_automatic_mtu or not given.applied.mtu:
        return None
    wanted = {key for key, peer in given.applied.peers.items() if peer.endpoint}
    targets = dict.fromkeys(
        peer.endpoint.address
        for peer in device.peers
        if peer.public_key.raw in wanted and peer.endpoint is not None and not peer.endpoint.scope
    )
    facts = snapshot.path_mtus(targets, given.name, device.fwmark, host)
    if facts is None or not (facts.endpoints or facts.default):
        return None
    has_ipv6 = any(prefix.family == 6 for prefix in given.applied.addresses)
    return max(automatic_mtu(facts), IPV6_MTU if has_ipv6 else 0)


def set_endpoint(name: str, key: PublicKey, endpoint: Endpoint, address: SocketAddress, host: Host) -> bool:
    """Set a peer's endpoint to the new address of its name. A kill switch allows the address first.

    Returns False if another run holds the interface's lock, or the device refuses the address.
    """
    with host.interface_lock_if_free(name) as is_held:
        given = recorded(name, host) if is_held else None
        if given is None:
            return False
        change = PeerConfig(key, update_only=True, endpoint=address)
        try:
            _let_out(given, endpoint, address, host)
            host.wireguard.set(name, DeviceConfig(peers=(change,)))
        except OperationError:
            return False
        with suppress(OperationError):
            host.wireguard.begin_handshakes(name, [key])
    return True


def begin_handshakes(device: Device, keys: Collection[PublicKey], host: Host) -> None:
    """Start new handshakes with these peers, unless another run holds the interface's lock."""
    peers = [peer for peer in device.peers if peer.public_key in keys]
    with host.interface_lock_if_free(device.name) as is_held:
        if peers and is_held and recorded(device.name, host) is not None:
            with suppress(OperationError):
                waiting.begin(device.name, host.wireguard, peers)


def _let_out(given: Recorded, endpoint: Endpoint, address: SocketAddress, host: Host) -> None:
    """Make the kill switch allow an endpoint's new address in place of the earlier one.

    The journal gets the address first, for the next check and the next up.
    """
    earlier = traffic.last_guard(given.record.undos)
    if earlier is None:
        return
    known = dict(traffic.owned(earlier.allowed))
    known[endpoint] = address
    allowed = traffic.with_servers(traffic.resolved(known.items()), traffic.asked(earlier.allowed))
    _set_guard(given, allowed, host.wireguard.get(given.name), host)


def allow_queries(name: str, servers: Collection[SocketAddress], host: Host) -> None:
    """Make the kill switch allow queries to these DNS servers, and to no others.

    Does nothing if it does so already, or if another run holds the interface's lock.
    """
    with host.interface_lock_if_free(name) as is_held:
        given = recorded(name, host) if is_held else None
        guard = traffic.last_guard(given.record.undos) if given else None
        if given is None or guard is None or set(traffic.asked(guard.allowed)) == set(servers):
            return
        with suppress(OperationError):
            _set_guard(given, traffic.with_servers(guard.allowed, servers), host.wireguard.get(name), host)


def asked(given: Recorded) -> frozenset[SocketAddress]:
    """The DNS servers that the kill switch allows."""
    guard = traffic.last_guard(given.record.undos)
    return frozenset(traffic.asked(guard.allowed)) if guard else frozenset()


def is_followed(given: Recorded, device: Device) -> bool:
    """Whether the kill switch, if there is one, allows the endpoints that the device has."""
    guard = traffic.last_guard(given.record.undos)
    return guard is None or traffic.are_alike(traffic.followed(guard.allowed, device.peers), guard.allowed)


def follow(name: str, host: Host) -> tuple[str, ...]:
    """Make the kill switch allow the endpoints to which peers have roamed, in place of earlier ones of these peers.

    Returns the new ones as text; none if another run holds the interface's lock.
    """
    with host.interface_lock_if_free(name) as is_held:
        given = recorded(name, host) if is_held else None
        guard = traffic.last_guard(given.record.undos) if given else None
        if given is None or guard is None:
            return ()
        device = host.wireguard.get(name)
        allowed = traffic.followed(guard.allowed, device.peers)
        if traffic.are_alike(allowed, guard.allowed):
            return ()
        _set_guard(given, allowed, device, host)
        before = dict(traffic.owned(guard.allowed))
        now = traffic.owned(allowed)
        return tuple(str(address) for owner, address in now if before.get(owner) != address)


def _set_guard(given: Recorded, allowed: tuple[Destination, ...], device: Device, host: Host) -> None:
    """Record the endpoints that the kill switch allows, and set it."""
    undos = given.record.undos
    undo = RemoveGuard(given.name, allowed)
    own = own_extras(given)
    wanted = plan_lost.guard(undos, own, device, allowed, _lans(given, host))
    journal = Journal(host.journal_directory, given.name)
    if given.record.unread or given.record.intended is not None:  # only append to such a journal, as reload does
        journal.record_undo(undo)
    else:
        others = (undo for undo in undos if not isinstance(undo, RemoveGuard))
        journal.rewrite(given.record._replace(undos=(*others, undo)))
    SetGuard(given.name, wanted, allowed).do(cast("Run", _Run(host)))


def follow_lan(name: str, host: Host) -> tuple[Prefix, ...] | None:
    """Exclude what `lan` means now, not what it meant before. Returns it; None if it could not be done."""
    with host.interface_lock_if_free(name) as is_held:
        given = recorded(name, host) if is_held else None
        if given is None or given.record.unread or given.record.intended is not None:
            return None
        device, networks, undos = host.wireguard.get(name), _lans(given, host), given.record.undos
        wanted = plan_lost.throws(undos, own_extras(given), device, networks)
        present = [undo for undo in undos if isinstance(undo, DeleteThrow)]
        others = [undo for undo in undos if not isinstance(undo, DeleteThrow)]
        run, journal = cast("Run", _Run(host)), Journal(host.journal_directory, name)
        journal.rewrite(given.record._replace(undos=(*others, *dict.fromkeys((*present, *wanted)))))
        for undo in wanted:
            if undo not in present:
                AddThrow(Prefix.parse(undo.destination), undo.table).do(run)
        for undo in present:
            if undo not in wanted:
                with suppress(OperationError):  # gone with its link
                    undo.do(run)
        given = given._replace(record=given.record._replace(undos=(*others, *wanted)))
        journal.rewrite(given.record)
        guard = traffic.last_guard(others)
        if guard is not None:
            _set_guard(given, guard.allowed, device, host)
        return networks


def change_mtu(name: str, mtu: int, host: Host) -> bool:
    """Set the MTU; returns False if another run holds the interface's lock, or the kernel refuses the MTU."""
    with host.interface_lock_if_free(name) as is_held:
        if not is_held or recorded(name, host) is None:
            return False
        try:
            SetMtu(name, mtu).do(cast("Run", _Run(host)))
        except WgqError:
            return False
        return True
