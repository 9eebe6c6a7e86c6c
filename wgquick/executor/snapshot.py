"""Reads the current state of an interface, and the facts that the desired state depends on.

`wgq up NAME` does not use it.
"""

from __future__ import annotations

from wgquick.config.grammar import mask
from wgquick.config.settings import LAN
from wgquick.errors import OperationError
from wgquick.executor import observe, src_valid_mark, traffic
from wgquick.lean import TYPE_CHECKING
from wgquick.net import FIRST_TABLE, IPV6_MTU, Prefix
from wgquick.plan.current import Current, LinkDns
from wgquick.plan.facts import DesiredFacts, MtuFacts
from wgquick.plan.file_peers import merged
from wgquick.plan.lost import CurrentExtras
from wgquick.plan.steps import DeleteThrow, ForgetInbound, UnsetDns, parameter
from wgquick.plan.traffic import last_guard
from wgquick.plan.up import SRC_VALID_MARK

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from wgquick.config.settings import Settings
    from wgquick.executor.journal import Record
    from wgquick.net import Endpoint, SocketAddress
    from wgquick.options import Options
    from wgquick.plan.applied import Known
    from wgquick.plan.steps import Undo
    from wgquick.ports import Host


def current(name: str, host: Host, options: Options, record: Record | None = None) -> Current:
    """The interface's current state. `record` is its journal, which has the mode that set its DNS."""
    link = host.rtnl.link(name)
    rules = observe.rules(host)
    src_valid_mark = host.sysctl.read(parameter(SRC_VALID_MARK))
    if link is None:
        return Current(name, rules=rules, firewall=host.firewall.existing(name), src_valid_mark=src_valid_mark)
    return Current(
        name,
        link,
        host.wireguard.get(name) if name in host.wireguard.interfaces() else None,
        tuple(host.rtnl.link_addresses(name)),
        tuple(host.rtnl.link_routes(name)),
        rules,
        host.firewall.existing(name),
        _dns(name, host, options, record),
        src_valid_mark,
        host.rtnl.takes_ipv6(name),
    )


def _dns(name: str, host: Host, options: Options, record: Record | None) -> LinkDns:
    """The link's DNS, by the mode that set it, or else by the mode that would set it."""
    recorded = [undo.mode for undo in record.undos if isinstance(undo, UnsetDns)] if record else []
    mode = recorded[-1] if recorded else host.dns.detect(options.dns)
    if mode == "off":
        return LinkDns("off")
    try:
        found = host.dns.current(mode, name)
    except OperationError:
        found = None
    return LinkDns(mode, *found) if found else LinkDns(mode)


def facts(
    settings: Settings,
    now: Current,
    host: Host,
    options: Options,
    *,
    resolved: Mapping[Endpoint, SocketAddress] | None = None,
    known: Known | None = None,
) -> DesiredFacts:
    """The facts that the desired state of an interface in the state `now` depends on.

    `resolved` has new addresses of endpoints; the other endpoints keep the device's addresses. `known` is the
    journal's content. Without it the device's fwmark counts as chosen by wgq if a full tunnel's rules refer to it.
    """
    device_fwmark, is_automatic = _fwmark(now, known)
    wanted = {(address.address, address.length) for address in settings.addresses}
    ours = (known.addresses if known is not None else None) or ()
    gone = {prefix for prefix in ours if prefix not in wanted}
    own = [address for address in now.addresses if address.is_link_local and address.prefix not in gone]
    targets = _targets(settings, now, resolved or {})
    is_mtu_wanted = settings.mtu is None
    dns_mode = now.dns.mode if now.dns.mode != "off" else host.dns.detect(options.dns) if settings.dns else "off"
    return DesiredFacts(
        now.ipv6 or _would_take_ipv6(settings, now, host, known.mtu if known is not None else 0),
        observe.table(settings, host),
        device_fwmark,
        is_automatic,
        observe.free_table(host) if _needs_table(settings, device_fwmark) else FIRST_TABLE,
        now.device.listen_port if now.device else 0,
        tuple(address.prefix for address in own),
        tuple(Prefix(mask(each.prefix.address, each.prefix.length), each.prefix.length) for each in own),
        path_mtus(targets, now.name, device_fwmark, host) if is_mtu_wanted else MtuFacts(),
        "off" if options.dns == "off" else dns_mode,
        _firewall(now, host, options),
        now.src_valid_mark,
        src_valid_mark.earlier(host, settings.name),
        host.sysctl.writable(parameter(SRC_VALID_MARK)),
        lans(settings, known, host),
        extras(known.undos, settings.name, host) if known is not None and known.undos else None,
    )


def lans(settings: Settings, known: Known | None, host: Host) -> tuple[Prefix, ...]:
    """The networks of `lan`, if the new or the recorded settings use it."""
    had = known is not None and known.extras is not None and LAN in known.extras.exclude
    return traffic.lans(settings.name, host) if had else traffic.excluded_lans(settings, host)


def _would_take_ipv6(settings: Settings, now: Current, host: Host, mtu: int) -> bool:
    """Whether a link with an MTU that is too small for IPv6 would take IPv6 with a larger MTU, as a new link would.

    An MTU that a hook may have set stays, unless the file had another one than `mtu`.
    """
    is_small = now.link is not None and now.link.mtu < IPV6_MTU
    may_stay = settings.mtu is None or (settings.mtu >= IPV6_MTU and mtu in (0, settings.mtu))
    is_hooks = bool(settings.pre_up or settings.post_up) and may_stay
    return is_small and not is_hooks and observe.default_ipv6(host.rtnl, host.sysctl)


def _fwmark(now: Current, known: Known | None) -> tuple[int, bool]:
    """The fwmark to use, and whether it was chosen for a full tunnel: from the journal, or else from the device."""
    device_fwmark = now.device.fwmark if now.device else 0
    if known is not None and known.undos is not None:
        return (known.fwmark, True) if known.fwmark else (device_fwmark, False)
    return device_fwmark, bool(device_fwmark) and (now.is_full(4) or now.is_full(6))


def _needs_table(settings: Settings, device_fwmark: int) -> bool:
    wants_default = any(ip.length == 0 for peer in settings.peers for ip in peer.allowed_ips)
    return wants_default and not device_fwmark and not settings.fwmark


def _firewall(now: Current, host: Host, options: Options) -> str:
    """The kind of the existing rules, unless another kind is requested."""
    present = now.firewall[0].kind if now.firewall and options.firewall == "auto" else ""
    return present or host.firewall.choose(options.firewall)


def _targets(settings: Settings, now: Current, resolved: Mapping[Endpoint, SocketAddress]) -> list[str]:
    """The addresses of the file's endpoints, as they are on the device or will be set."""
    wanted = {key: peer.endpoint for key, peer in merged(settings).items() if peer.endpoint is not None}
    peers = now.device.peers if now.device and wanted else ()
    live = {peer.public_key: peer.endpoint for peer in peers if peer.endpoint is not None}
    found = [resolved.get(endpoint) or live.get(key) for key, endpoint in wanted.items()]
    return list(dict.fromkeys(each.address for each in found if each is not None and not each.scope))


def path_mtus(targets: Iterable[str], name: str, fwmark: int, host: Host) -> MtuFacts | None:
    """The MTUs of the paths of the encrypted packets; None if a path leads into the tunnel."""
    paths = [path for path in (host.rtnl.path(target, fwmark) for target in targets) if path]
    outside = [path for path in paths if path.link != name]
    if paths and not outside:
        return None
    names = dict.fromkeys(path.link for path in outside if not path.mtu)
    links = {each: _link_mtu(each, host) for each in names}  # not all: a watch asks for a hundred tunnels
    found = tuple(size for size in (path.mtu or links[path.link] for path in outside) if size)
    if found:
        return MtuFacts(found)
    default = host.rtnl.default_path()
    if default is not None and default.link == name:
        return None
    return MtuFacts((), (default.mtu or _link_mtu(default.link, host)) if default else None)


def _link_mtu(name: str, host: Host) -> int:
    link = host.rtnl.link(name)
    return link.mtu if link else 0


def extras(undos: Collection[Undo], name: str, host: Host) -> CurrentExtras:
    """The current state of those of wgq's own settings that the journal has."""
    throws = [undo for undo in undos if isinstance(undo, DeleteThrow)]
    tables = {(Prefix.parse(undo.destination).family, undo.table) for undo in throws}
    present = {
        (destination, table)
        for family, table in tables
        for destination in host.rtnl.routes(family=family, table=table)
    }
    guard = last_guard(undos)
    return CurrentExtras(
        frozenset(present),
        guard is None or host.firewall.is_guarded(name),
        not any(isinstance(undo, ForgetInbound) for undo in undos) or host.firewall.keeps_inbound(name),
    )
