"""`wgq check --live`: what of a file does not fit this host. Nothing on the host is changed, and nothing is probed.

Names are looked up, all at once, for LIMIT seconds. A code that `wgq doctor` has too means the same there.
"""

from __future__ import annotations

import errno
import os
import time
from os import strerror
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wgquick.config.grammar import mask
from wgquick.diagnosis import codes, hook_rules, nets
from wgquick.diagnosis.doctor.fate import fate
from wgquick.diagnosis.doctor.gather import Names
from wgquick.diagnosis.doctor.packet import ARRIVING, Packet
from wgquick.diagnosis.finding import INFO, Finding
from wgquick.diagnosis.managers import managers
from wgquick.errors import OperationError
from wgquick.executor.journal import Journal
from wgquick.net import MAIN_TABLE, Prefix
from wgquick.plan.up import Coverage, routes_automatically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wgquick.config.settings import PeerSettings
    from wgquick.device import Device
    from wgquick.diagnosis.doctor.senses import Senses
    from wgquick.diagnosis.managers import Manager
    from wgquick.diagnosis.source import Place, Section, Source
    from wgquick.net import Endpoint, SocketAddress
    from wgquick.observations import Foreign, LinkState, Rulesets, Way
    from wgquick.ports import Host

    Rule = Callable[[Source, "Live"], Iterator[Finding]]

LIMIT = 3.0
_CLOCK_SLACK = 60
_FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_NO_IPV6 = "net/ipv6/conf/all/disable_ipv6"
_NO_ROUTE = ("blackhole", "unreachable", "prohibit")
_SEVERAL = ("tunnels-overlap", "listen-port-shared", "mark-shared")
"""The codes that concern files of one host: with --live all files are this host's."""


class Live(NamedTuple):
    """What the host shows of one file.

    `device` is None if the interface is not up; `is_wgqs`: wgq has brought it up. `refusal` is the errno with which
    its port would be refused, 0 if it is free or the device's own. `ways` are the routes to the endpoints'
    addresses, with the tunnel's mark. `parameters` are None if the kernel has none. `drift` is how the device
    differs from the file, in words.
    """

    now: float
    changed: float
    links: Sequence[LinkState]
    device: Device | None
    is_wgqs: bool
    foreign: Sequence[Foreign]
    refusal: int
    holders: tuple[str, ...]
    resolved: Mapping[Endpoint, tuple[SocketAddress, ...] | None]
    ways: Mapping[str, Way]
    parameters: Mapping[str, str | None]
    can_mark: bool
    rulesets: Rulesets
    dns_mode: str
    can_write_dns: bool
    others: Sequence[Manager]
    drift: tuple[str, ...] = ()


def gather(source: Source, host: Host, senses: Senses, root: Path = Path("/")) -> Live:
    """Look at the host; `root` is where other programs' configuration is looked for."""
    settings, name = source.settings, source.interface
    names = Names(settings)
    links = senses.links()
    device = _device(name, host) if any(link.name == name for link in links) else None
    port = settings.listen_port if device is None else None
    refusal = host.udp_ports.refusal(port) if port else 0
    is_wgqs = Journal(host.journal_directory, name).read() is not None
    resolved = names.answers(time.monotonic() + LIMIT)
    addresses = list(dict.fromkeys(_addresses(source, resolved)))
    fwmark = device.fwmark if device else settings.fwmark or 0
    keys = [*_FORWARDING.values(), _NO_IPV6, "net/ipv4/conf/all/src_valid_mark"]
    keys += [f"net/ipv4/conf/{each}/rp_filter" for each in ("all", *(link.name for link in links))]
    return Live(
        time.time(),
        os.stat(source.path).st_mtime,
        links,
        device,
        is_wgqs,
        senses.foreign_routes(name),
        refusal,
        host.udp_ports.programs(port) if port and refusal else (),
        resolved,
        dict(zip(addresses, senses.ways([(each, fwmark, "") for each in addresses]), strict=True)),
        {key: host.sysctl.read(key) for key in keys},
        host.sysctl.writable("net/ipv4/conf/all/src_valid_mark"),
        senses.rulesets(),
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
    """The endpoints' addresses: those that are written, and the first of each name."""
    for peer in source.settings.peers:
        if peer.endpoint is None:
            continue
        if nets.literal(peer.endpoint.host):
            yield peer.endpoint.host.partition("%")[0]
        elif answers := resolved.get(peer.endpoint):
            yield answers[0].address


def _can_write(path: Path) -> bool:
    """Whether the file, or one in its place, can be written."""
    return os.access(path, os.W_OK) or (not path.exists() and os.access(path.parent, os.W_OK))


def findings(source: Source, live: Live) -> Iterator[Finding]:
    """What of the file does not fit the host."""
    if source.is_sound:
        for rule in _RULES:
            yield from rule(source, live)


def loud(finding: Finding) -> Finding:
    """With --live files are of one host: what is an info of files that may be of several is a warning here."""
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
    remedy = "end what has it, choose another ListenPort, or leave it out"
    yield _note(source, source.interface_section.at("ListenPort"), "port-in-use", what, remedy)


def _networks_in_use(source: Source, live: Live) -> Iterator[Finding]:
    """Routes that up could not add, and networks of the tunnel that a link has already."""
    connected = {each.destination: each for each in live.foreign if each.is_connected}
    taken = {each.destination: each for each in live.foreign}
    for index, address in enumerate(source.settings.addresses):
        network = Prefix(mask(address.address, address.length), address.length)
        if nets.is_single(network):
            continue
        if other := connected.get(str(network)):
            what = f"{network} is the network of {other.link} already"
            remedy = "give the tunnel another network, at both ends"
            yield _note(source, source.interface_section.word("Address", index), "net-in-use", what, remedy)
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
                what = f"{text} is reached through {other.link} already"
                remedy = "give the tunnel another network, take this one out of AllowedIPs, or set Table"
                yield _note(source, section.word("AllowedIPs", entry), "net-in-use", what, remedy)


def _adds_routes(source: Source) -> bool:
    """Whether up adds routes to the main table."""
    return routes_automatically(source.settings) or source.settings.table in ("main", str(MAIN_TABLE))


def _shadowed(source: Source, live: Live) -> Iterator[Finding]:
    """A part of a network of the tunnel goes another way, by a route that is no network of a link."""
    if not _adds_routes(source):
        return
    others = [(Prefix.parse(each.destination), each) for each in live.foreign if not each.is_connected]
    for peer, section in _peers(source):
        for entry, ip in enumerate(peer.allowed_ips):
            network = Prefix(ip.address, ip.length)
            for part, other in others:
                if ip.length and part.length > ip.length and nets.contains(network, part):
                    what = f"{part} in {network} goes through {other.link}, by a route of its own"
                    remedy = f"see `ip route show {part}': remove it, or list the network by itself"
                    yield _note(source, section.word("AllowedIPs", entry), "route-shadowed", what, remedy)
                    break


def _no_ipv6(source: Source, live: Live) -> Iterator[Finding]:
    if live.parameters.get(_NO_IPV6) == "0":
        return
    reason = "this kernel has no IPv6" if live.parameters.get(_NO_IPV6) is None else "IPv6 is disabled on this host"
    for index, address in enumerate(source.settings.addresses):
        if len(address.address) == 16:
            what = f"Address {address.text} cannot be had: {reason}"
            remedy = f"sysctl {_NO_IPV6.replace('/', '.')}=0, or leave IPv6 out"
            yield _note(source, source.interface_section.word("Address", index), "no-ipv6", what, remedy)
            return


def _dns(source: Source, live: Live) -> Iterator[Finding]:
    if source.settings.dns and live.dns_mode == "file" and not live.can_write_dns:
        what = "nothing on this host can set DNS: no resolvconf, no systemd-resolved, and resolv.conf is read-only"
        remedy = "install openresolv or systemd-resolved, or leave DNS out (--dns off)"
        yield _note(source, source.interface_section.at("DNS"), "dns-no-resolver", what, remedy)


def _hook_links(source: Source, live: Live) -> Iterator[Finding]:
    there = {link.name for link in live.links} | {source.interface}
    for place, link in hook_rules.links(source):
        if link not in there:
            what = f"the hook names the link {link}, and there is none"
            remedy = f"this host has {', '.join(sorted(there - {source.interface}))}; see `ip route show default'"
            yield _note(source, place, "hook-no-such-link", what, remedy)


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
                what = f"the name {host} does not resolve here"
                remedy = f"see what `getent ahosts {host}' says; correct the name, or this host's DNS"
                yield _note(source, place, "endpoint-unresolved", what, remedy)
                continue
            address = answers[0].address
        way = live.ways.get(address)
        if way is not None and (way.errno or way.kind in _NO_ROUTE):
            said = strerror(way.errno) if way.errno else f"{way.kind} {way.destination}"
            what = f"no route leads to the endpoint {address}: {said}"
            remedy = "give the host a route to it (a default route, an address of that family), or use another one"
            yield _note(source, place, "endpoint-no-route", what, remedy)


def _input(source: Source, live: Live) -> Iterator[Finding]:
    """A firewall of this host that drops what comes to the port of peers that begin."""
    settings = source.settings
    if not settings.listen_port or all(peer.endpoint for peer in settings.peers):
        return
    links = [link.name for link in live.links if link.name not in ("lo", source.interface) and link.is_up]
    for link in links[:1]:
        packet = Packet(input_link=link, protocol="udp", destination_port=settings.listen_port)
        found = fate(live.rulesets, packet, ARRIVING)
        if not (found.is_dropped and found.is_certain):
            return
        what = f"this host's firewall drops UDP to port {settings.listen_port}: {found.where}"
        remedy = f"let UDP to port {settings.listen_port} in, before that"
        yield _note(source, source.interface_section.at("ListenPort"), "input-blocked", what, remedy)


def _reverse_path(source: Source, live: Live) -> Iterator[Finding]:
    """A full tunnel needs src_valid_mark where the reverse path filter is strict."""
    full = any(ip.length == 0 and ip.family == 4 for peer in source.settings.peers for ip in peer.allowed_ips)
    if not full or not routes_automatically(source.settings) or live.can_mark:
        return
    if live.parameters.get("net/ipv4/conf/all/src_valid_mark") == "1":
        return
    strict = [key for key, value in live.parameters.items() if key.endswith("/rp_filter") and value == "1"]
    if strict:
        what = f"with {strict[0].replace('/', '.')} = 1 the kernel drops the tunnel's packets as they arrive"
        remedy = "set net.ipv4.conf.all.src_valid_mark=1 (docker run --sysctl ...), as /proc/sys is read-only"
        yield _note(source, _first_default(source), "rp-filter", what, remedy)


def _first_default(source: Source) -> Place:
    for peer, section in _peers(source):
        for entry, ip in enumerate(peer.allowed_ips):
            if ip.length == 0:
                return section.word("AllowedIPs", entry)
    return source.interface_section.place


def _forwarding(source: Source, live: Live) -> Iterator[Finding]:
    for hook, families in hook_rules.forwards(source):
        for family in families:
            if live.parameters.get(_FORWARDING[family]) == "0":
                key = _FORWARDING[family].replace("/", ".")
                what = f"the hook forwards, and this host does not: {key} = 0"
                remedy = f"sysctl {key}=1, in /etc/sysctl.d or in a PostUp hook"
                yield _note(source, hook.place, "forwarding-off", what, remedy)
        return


def _clock(source: Source, live: Live) -> Iterator[Finding]:
    if live.changed - live.now > _CLOCK_SLACK:
        what = "this host's clock is behind: the file's last change lies in its future"
        remedy = "set the clock (timedatectl, chronyc makestep): peers refuse handshakes older than earlier ones"
        yield _note(source, source.interface_section.place, "clock-wrong", what, remedy)


def _firewalld(source: Source, live: Live) -> Iterator[Finding]:
    """wgq marks what arrives ahead of that filter; wg-quick does not."""
    full = {ip.family for peer in source.settings.peers for ip in peer.allowed_ips if ip.length == 0}
    over_ipv6 = [s for p, s in _peers(source) if p.endpoint and ":" in p.endpoint.host]
    if 6 not in full or not over_ipv6 or "fib" not in live.rulesets.nft or '"firewalld"' not in live.rulesets.nft:
        return
    what = "firewalld's IPv6_rpfilter drops what this endpoint sends, unless it is wgq that brings the tunnel up"
    remedy = "bring it up with wgq, or set IPv6_rpfilter=no in /etc/firewalld/firewalld.conf"
    severity = "" if live.device is not None and not live.is_wgqs else INFO
    yield _note(source, over_ipv6[0].at("Endpoint"), "firewalld-rpfilter", what, remedy, severity)


# While it is up


def _save_config(source: Source, live: Live) -> Iterator[Finding]:
    if source.settings.save_config and live.drift:
        what = f"down will overwrite this file, which is not what is up: {live.drift[0]}"
        remedy = f"`wgq save {source.interface}' keeps what is up; else down, edit, up"
        yield _note(source, source.interface_section.at("SaveConfig"), "save-config-differs", what, remedy)


def _managed(source: Source, live: Live) -> Iterator[Finding]:
    for other in live.others:
        if other.is_wg_quick and not live.is_wgqs:
            continue
        what = f"{other.name} has the interface {source.interface} too: {other.path}"
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
