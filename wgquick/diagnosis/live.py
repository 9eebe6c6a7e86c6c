"""`wgq check --live`: finds settings that do not fit this host. It changes nothing and sends no probes.

It looks up names in parallel, for at most LIMIT seconds. A code that `wgq doctor` also has means the same there.
"""

from __future__ import annotations

import errno
import os
import time
from os import strerror
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wgquick.config.grammar import mask
from wgquick.config.tables import is_main
from wgquick.diagnosis import codes, hook_rules, nets, remedies
from wgquick.diagnosis.doctor.firewall_verdict import firewall_verdict
from wgquick.diagnosis.doctor.gather import Names
from wgquick.diagnosis.doctor.packet import ARRIVING, Packet
from wgquick.diagnosis.finding import INFO, Finding
from wgquick.diagnosis.managers import managers
from wgquick.errors import OperationError
from wgquick.executor.journal import Journal
from wgquick.net import Prefix, pack_address
from wgquick.plan.up import IPV6_DISABLED, Coverage
from wgquick.routing import Query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wgquick.config.settings import PeerSettings
    from wgquick.device import Device
    from wgquick.diagnosis.doctor.inspector import Inspector
    from wgquick.diagnosis.managers import Manager
    from wgquick.diagnosis.source import Place, Section, Source
    from wgquick.net import Endpoint, SocketAddress
    from wgquick.observations import Foreign, LinkState, Rulesets, Way
    from wgquick.ports import Host

    Rule = Callable[[Source, "Live"], Iterator[Finding]]

LIMIT = 3.0
_CLOCK_SLACK = 60
_NO_IPV6 = "net/ipv6/conf/all/disable_ipv6"
_NO_ROUTE = ("blackhole", "unreachable", "prohibit")
_SEVERAL = ("tunnels-overlap", "listen-port-shared", "mark-shared")
"""The codes about several files on one host. With --live all files are on this host."""


class Live(NamedTuple):
    """The state of the host that concerns one file.

    `device` is None if the interface is not up. `is_from_wgq`: wgq brought it up. `refusal` is the errno of binding
    the port; 0 if it is free or the device itself has it. `ways` are the routes to the endpoints'
    addresses, with the tunnel's mark. A value of `parameters` is None if the kernel lacks it. `drift` says how the
    device differs from the file, one sentence each.
    """

    now: float
    changed: float
    links: Sequence[LinkState]
    device: Device | None
    is_from_wgq: bool
    foreign: Sequence[Foreign]
    refusal: int
    holders: tuple[str, ...]
    resolved: Mapping[Endpoint, tuple[SocketAddress, ...] | None]
    ways: Mapping[str, Way]
    parameters: Mapping[str, str | None]
    can_set_src_valid_mark: bool
    rulesets: Rulesets
    dns_mode: str
    can_write_dns: bool
    others: Sequence[Manager]
    drift: tuple[str, ...] = ()


def gather(source: Source, host: Host, inspector: Inspector, root: Path = Path("/")) -> Live:
    """Read the host's state; `root` is the directory with the configuration of other programs."""
    settings, name = source.settings, source.interface
    names = Names(settings)
    links = inspector.links()
    device = _device(name, host) if any(link.name == name for link in links) else None
    port = settings.listen_port if device is None else None
    refusal = host.udp_ports.refusal(port) if port else 0
    is_from_wgq = Journal(host.journal_directory, name).read() is not None
    resolved = names.answers(time.monotonic() + LIMIT)
    addresses = list(dict.fromkeys(_addresses(source, resolved)))
    fwmark = device.fwmark if device else settings.fwmark or 0
    keys = [*hook_rules.FORWARDING.values(), _NO_IPV6, "net/ipv4/conf/all/src_valid_mark"]
    keys += [f"net/ipv4/conf/{each}/rp_filter" for each in ("all", *(link.name for link in links))]
    return Live(
        time.time(),
        os.stat(source.path).st_mtime,
        links,
        device,
        is_from_wgq,
        inspector.foreign_routes(name),
        refusal,
        host.udp_ports.programs(port) if port and refusal else (),
        resolved,
        dict(
            zip(
                addresses,
                inspector.ways([Query(pack_address(each), mark=fwmark) for each in addresses]),
                strict=True,
            )
        ),
        {key: host.sysctl.read(key) for key in keys},
        host.sysctl.writable("net/ipv4/conf/all/src_valid_mark"),
        inspector.rulesets(),
        host.dns.detect("auto") if settings.dns else "off",
        _can_write(root / "etc/resolv.conf"),
        managers(name, root),
    )


def _device(name: str, host: Host) -> Device | None:
    try:
        return host.wireguard.get(name)
    except OperationError:
        return None


def _addresses(source: Source, resolved: Mapping[Endpoint, tuple[SocketAddress, ...] | None]) -> Iterator[str]:
    """The endpoints' addresses: each literal one, and the first of each name."""
    for peer in source.settings.peers:
        if peer.endpoint is None:
            continue
        if nets.literal(peer.endpoint.host):
            yield peer.endpoint.host.partition("%")[0]
        elif answers := resolved.get(peer.endpoint):
            yield answers[0].address


def _can_write(path: Path) -> bool:
    """Whether the file can be written or, if it is missing, created."""
    return os.access(path, os.W_OK) or (not path.exists() and os.access(path.parent, os.W_OK))


def findings(source: Source, live: Live) -> Iterator[Finding]:
    """The findings for settings that do not fit the host."""
    if source.is_sound:
        for rule in _RULES:
            yield from rule(source, live)


def on_one_host(finding: Finding) -> Finding:
    """The finding with the severity that it has on one host: a conflict between two files is then a warning."""
    if finding.code in _SEVERAL and finding.severity == INFO:
        return finding._replace(severity="warning")
    return finding


def _note(source: Source, place: Place, code: str, message: str, remedy: str, severity: str = "") -> Finding:
    return Finding(source.shown, *place, code, severity or codes.CODES[code][0], message, remedy)


def _peers(source: Source) -> Iterator[tuple[PeerSettings, Section]]:
    return zip(source.settings.peers, source.peer_sections, strict=True)


# Before it comes up


def _port(source: Source, live: Live) -> Iterator[Finding]:
    if not live.refusal:
        return
    who = f" by {' and '.join(live.holders)}" if live.holders else ""
    in_use = live.refusal == errno.EADDRINUSE
    reason = f"is in use{who}" if in_use else f"cannot be bound: {strerror(live.refusal)}"
    what = f"UDP port {source.settings.listen_port} {reason}"
    remedy = "stop that program, choose another ListenPort, or remove ListenPort"
    yield _note(source, source.interface_section.at("ListenPort"), "port-in-use", what, remedy)


def _networks_in_use(source: Source, live: Live) -> Iterator[Finding]:
    """Routes that up could not add, and networks of the tunnel that a link already has."""
    connected = {each.destination: each for each in live.foreign if each.is_connected}
    taken = {each.destination: each for each in live.foreign}
    for index, address in enumerate(source.settings.addresses):
        network = Prefix(mask(address.address, address.length), address.length)
        if nets.is_single(network):
            continue
        if other := connected.get(str(network)):
            what = f"{network} is already the network of {other.link}"
            place = source.interface_section.word("Address", index)
            yield _note(source, place, "net-in-use", what, remedies.OTHER_NETWORK)
    own = [Prefix(each.address, each.length) for each in source.settings.addresses]
    covered = Coverage([Prefix(mask(each.address, each.length), each.length) for each in own])
    if not _adds_routes(source):
        return
    for peer, section in _peers(source):
        for entry, ip in enumerate(peer.allowed_ips):
            text = f"{Prefix(ip.address, ip.length)}"
            if ip.length == 0 or ip.change == "-" or covered(ip):
                continue
            if other := taken.get(text):
                what = f"this host already has a route to {text} through {other.link}"
                remedy = "choose another network for the tunnel, remove this one from AllowedIPs, or set Table"
                yield _note(source, section.word("AllowedIPs", entry), "net-in-use", what, remedy)


def _adds_routes(source: Source) -> bool:
    """Whether up adds routes to the main table."""
    return source.settings.routes_automatically or is_main(source.settings.table)


def _shadowed(source: Source, live: Live) -> Iterator[Finding]:
    """A part of an AllowedIPs network that another route takes; networks of links are `_networks_in_use`.

    A route to an endpoint must take it.
    """
    if not _adds_routes(source):
        return
    others = [(Prefix.parse(each.destination), each) for each in live.foreign if not each.is_connected]
    ends = {nets.literal(peer.endpoint.host) for peer in source.settings.peers if peer.endpoint}
    others = [each for each in others if not (nets.is_single(each[0]) and each[0].address in ends)]
    for peer, section in _peers(source):
        for entry, ip in enumerate(peer.allowed_ips):
            network = Prefix(ip.address, ip.length)
            for part, other in others:
                if ip.length and part.length > ip.length and nets.contains(network, part):
                    what = f"{part}, a part of {network}, has a route through {other.link}"
                    remedy = f"remove that route (see `ip route show {part}'), or add {part} to AllowedIPs"
                    yield _note(source, section.word("AllowedIPs", entry), "route-shadowed", what, remedy)
                    break


def _no_ipv6(source: Source, live: Live) -> Iterator[Finding]:
    if live.parameters.get(_NO_IPV6) == "0":
        return
    is_disabled = live.parameters.get(_NO_IPV6) is not None
    reason = IPV6_DISABLED if is_disabled else "this kernel has no IPv6"
    enable = f"enable it (sysctl {_NO_IPV6.replace('/', '.')}=0), or " if is_disabled else ""
    for index, address in enumerate(source.settings.addresses):
        if len(address.address) == 16:
            what = f"Address {address.text} cannot be set: {reason}"
            remedy = f"{enable}remove IPv6 from the file"
            yield _note(source, source.interface_section.word("Address", index), "no-ipv6", what, remedy)
            return


def _dns(source: Source, live: Live) -> Iterator[Finding]:
    if source.settings.dns and live.dns_mode == "file" and not live.can_write_dns:
        what = "this host cannot set DNS: it has no resolvconf or systemd-resolved, and resolv.conf is read-only"
        remedy = "install openresolv or systemd-resolved, or remove DNS (or use --dns off)"
        yield _note(source, source.interface_section.at("DNS"), "dns-no-resolver", what, remedy)


def _hook_links(source: Source, live: Live) -> Iterator[Finding]:
    yield from hook_rules.without_link(source, {link.name for link in live.links})


# The way out and in


def _endpoints(source: Source, live: Live) -> Iterator[Finding]:
    for peer, section in _peers(source):
        if peer.endpoint is None:
            continue
        place, host = section.at("Endpoint"), peer.endpoint.host
        address = host.partition("%")[0]
        if not nets.literal(host):
            answers = live.resolved.get(peer.endpoint)
            if not answers:
                what = f"the name {host} does not resolve on this host"
                yield _note(source, place, "endpoint-unresolved", what, remedies.resolve(host))
                continue
            address = answers[0].address
        way = live.ways.get(address)
        if way is not None and (way.errno or way.kind in _NO_ROUTE):
            reason = strerror(way.errno) if way.errno else f"{way.kind} {way.destination}"
            what = f"this host has no route to the endpoint {address}: {reason}"
            remedy = "add a route to it (a default route, an address of that family), or use another endpoint"
            yield _note(source, place, "endpoint-no-route", what, remedy)


def _input(source: Source, live: Live) -> Iterator[Finding]:
    """This host's firewall drops packets to the port, and some peers have no Endpoint: they have to connect."""
    settings = source.settings
    if not settings.listen_port or all(peer.endpoint for peer in settings.peers):
        return
    links = [link.name for link in live.links if link.name not in ("lo", source.interface) and link.is_up]
    for link in links[:1]:
        packet = Packet(input_link=link, protocol="udp", destination_port=settings.listen_port)
        found = firewall_verdict(live.rulesets, packet, ARRIVING)
        if not (found.is_dropped and found.is_certain):
            return
        what = f"this host's firewall drops UDP to port {settings.listen_port}: {found.where}"
        remedy = f"accept UDP to port {settings.listen_port} in an earlier rule"
        yield _note(source, source.interface_section.at("ListenPort"), "input-blocked", what, remedy)


def _reverse_path(source: Source, live: Live) -> Iterator[Finding]:
    """A full tunnel needs src_valid_mark if the reverse path filter is strict."""
    full = any(ip.length == 0 and ip.family == 4 for peer in source.settings.peers for ip in peer.allowed_ips)
    if not full or not source.settings.routes_automatically or live.can_set_src_valid_mark:
        return
    if live.parameters.get("net/ipv4/conf/all/src_valid_mark") == "1":
        return
    strict = [key for key, value in live.parameters.items() if key.endswith("/rp_filter") and value == "1"]
    if strict:
        what = f"with {strict[0].replace('/', '.')} = 1 the kernel drops the packets of the tunnel's peers"
        remedy = (
            "set net.ipv4.conf.all.src_valid_mark=1 from outside (docker run --sysctl ...): /proc/sys is read-only"
        )
        yield _note(source, _first_default(source), "rp-filter", what, remedy)


def _first_default(source: Source) -> Place:
    for peer, section in _peers(source):
        for entry, ip in enumerate(peer.allowed_ips):
            if ip.length == 0:
                return section.word("AllowedIPs", entry)
    return source.interface_section.place


def _forwarding(source: Source, live: Live) -> Iterator[Finding]:
    yield from hook_rules.without_forwarding(source, live.parameters.get)


def _clock(source: Source, live: Live) -> Iterator[Finding]:
    if live.changed - live.now > _CLOCK_SLACK:
        what = "this host's clock is behind: the file was last changed in the future"
        yield _note(source, source.interface_section.place, "clock-wrong", what, remedies.SET_CLOCK)


def _firewalld(source: Source, live: Live) -> Iterator[Finding]:
    """wgq marks incoming packets before that filter; wg-quick does not."""
    full = {ip.family for peer in source.settings.peers for ip in peer.allowed_ips if ip.length == 0}
    over_ipv6 = [s for p, s in _peers(source) if p.endpoint and ":" in p.endpoint.host]
    if 6 not in full or not over_ipv6 or "fib" not in live.rulesets.nft or '"firewalld"' not in live.rulesets.nft:
        return
    what = "firewalld's IPv6_rpfilter drops packets from this endpoint, unless wgq brings the tunnel up"
    remedy = "bring the tunnel up with wgq, or set IPv6_rpfilter=no in /etc/firewalld/firewalld.conf"
    severity = "" if live.device is not None and not live.is_from_wgq else INFO
    yield _note(source, over_ipv6[0].at("Endpoint"), "firewalld-rpfilter", what, remedy, severity)


# While it is up


def _save_config(source: Source, live: Live) -> Iterator[Finding]:
    if source.settings.save_config and live.drift:
        what = f"`wgq down' will overwrite this file, which differs from the device: {live.drift[0]}"
        remedy = (
            f"`wgq save {source.interface}' keeps the device's state, `wgq reload {source.interface}' the file's"
        )
        yield _note(source, source.interface_section.at("SaveConfig"), "save-config-differs", what, remedy)


def _managed(source: Source, live: Live) -> Iterator[Finding]:
    for other in live.others:
        if other.is_wg_quick and not live.is_from_wgq:
            continue
        what = f"{other.name} also manages the interface {source.interface}: {other.path}"
        yield _note(source, source.interface_section.place, "managed-twice", what, other.remedy)


_RULES: tuple[Rule, ...] = (
    _port,
    _networks_in_use,
    _shadowed,
    _no_ipv6,
    _dns,
    _hook_links,
    _endpoints,
    _input,
    _reverse_path,
    _forwarding,
    _clock,
    _firewalld,
    _save_config,
    _managed,
)
