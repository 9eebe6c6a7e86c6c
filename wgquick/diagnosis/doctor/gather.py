"""Gathers the evidence about an interface within a time limit: reads the state, then probes silent peers."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from wgquick import patience
from wgquick.config import location
from wgquick.config.parser import examine
from wgquick.config.tables import table_number
from wgquick.device import peer_of
from wgquick.diagnosis import nets
from wgquick.diagnosis.doctor.evidence import Evidence, File, Outside, PortState
from wgquick.diagnosis.doctor.watching import captured, watched
from wgquick.diagnosis.keys import public_key_of
from wgquick.errors import OperationError, WgqError
from wgquick.executor import observe
from wgquick.executor.journal import Journal
from wgquick.lean import suppress
from wgquick.net import MAIN_TABLE, NO_KEY, Endpoint, Prefix, SocketAddress, address_text, pack_address
from wgquick.plan.steps import UnsetDns, parameter
from wgquick.plan.up import SRC_VALID_MARK
from wgquick.routing import UDP, Query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from wgquick.config.settings import Settings
    from wgquick.counters import Diagnostics
    from wgquick.device import Device, DevicePeer
    from wgquick.diagnosis.doctor.inspector import Inspector
    from wgquick.executor.journal import Record
    from wgquick.net import PublicKey, SecretKey
    from wgquick.observations import LinkState
    from wgquick.ports import Host

P = ParamSpec("P")
T = TypeVar("T")
LIMIT = 9.7
"""Seconds for everything, unless --listen asks for more. The rest of the ten seconds is for the output."""
_READING = 1 / 3  # the part of the time for reading this host
_JUDGING = 0.7  # seconds for what comes after watching
_WATCHING = 1.5  # the least seconds in which watching says something
FIREWALL, DNS = "the firewall rules of the tunnel", "the tunnel's DNS servers"
"""What `Evidence.unread` says of them."""
_NAMES_LIMIT = 2.5
_WAYS = 32  # the maximum number of route lookups
_TRAFFIC = 16  # the maximum number of observed packets with route lookups
_FORWARDING = "net/ipv4/conf/{}/forwarding"
_RP_FILTER = "net/ipv4/conf/{}/rp_filter"
_STACKED, _DEPTH = frozenset({"bridge", "bond", "team", "vlan"}), 4


def read_file(source: str, name: str) -> File:
    """The configuration, or its faults; an empty File if there is none."""
    try:
        found = location.locate(source, None if source != location.STANDARD_INPUT else name)
        document = location.read(found)
    except WgqError:
        return File()
    report = examine(document, name, found.path)
    with suppress(OSError):
        changed = os.stat(found.path).st_mtime
        return File(found.path, report.settings, tuple(report.faults), changed)
    return File(found.path, report.settings, tuple(report.faults))


def gather(
    name: str,
    file: File,
    host: Host,
    inspector: Inspector,
    *,
    deadline: float,
    known: Iterable[bytes] = (),
    listen: float = 0.0,
    watches: bool = True,
) -> Evidence:
    """The evidence about the interface. `known` are addresses of the other end, `listen` the minimum seconds.

    It ends before the monotonic `deadline`, which allows for listening. Without `watches` it only reads.
    """
    began = time.monotonic()
    if began > deadline - _JUDGING - _WATCHING:
        return Evidence(name, time.time(), file=file, is_unread=True)
    reader = _Reader(min(began + (deadline - began) * _READING, deadline - _JUDGING))
    with patience.until(reader.deadline):
        evidence = _read(name, file, host, inspector, reader, listen)
    if not watches:
        return evidence
    names = Names(file.settings)
    if evidence.is_up and time.monotonic() < deadline - _JUDGING - _WATCHING:
        evidence = _watched(evidence, host, inspector, known, deadline - _JUDGING, listen)
    elif evidence.is_up:
        evidence = evidence._replace(unread=(*evidence.unread, "the answers of the peers"))
    elif listen:
        evidence = captured(evidence, inspector, listen)
    resolved = names.answers(min(began + _NAMES_LIMIT, deadline - _JUDGING))
    return evidence._replace(resolved=resolved)


def _watched(
    evidence: Evidence, host: Host, inspector: Inspector, known: Iterable[bytes], deadline: float, listen: float
) -> Evidence:
    """The evidence with the peers' activity until the monotonic `deadline`."""
    name = evidence.name
    with patience.until(deadline):
        evidence = evidence._replace(counters_before=_counters(name, host))
        evidence = watched(evidence, host, inspector, tuple(known), deadline, listen=listen)
        after = {link.name: link for link in inspector.links()}
        evidence = evidence._replace(link_after=after.get(name), counters=_counters(name, host))
        evidence = _with_uplinks(evidence, after, inspector.silent_neighbours())
        return _with_traffic(evidence, inspector)


def _read(name: str, file: File, host: Host, inspector: Inspector, reader: _Reader, listen: float) -> Evidence:
    """The state of this host and its device."""
    settings = file.settings
    links = {link.name: link for link in inspector.links()}
    device, fault = _device(name, host)
    record = _record(name, host)
    evidence = Evidence(
        name,
        time.time(),
        listen=listen,
        file=file,
        record=record,
        link=links.get(name),
        device=device,
        device_error=fault,
        own_key=_public(device.private_key if device else None),
        file_key=_public(settings.private_key if settings else None),
        renamed=next((link.name for link in links.values() if _is_renamed(name, link, record)), ""),
        foreign=() if name in links else tuple(inspector.foreign_routes(name)),
        uplink=_uplink(host),
        rulesets=inspector.rulesets(),
    )
    evidence = _with_host(evidence, host, reader)
    evidence = _with_ways(evidence, inspector)
    evidence = evidence._replace(others=reader.read("the other interfaces", (), _others, name, host))
    evidence = _with_loops(evidence, inspector)
    unread = [f"the rules that {each} lists" for each in (evidence.rulesets.unread if evidence.rulesets else ())]
    return evidence._replace(unread=(*reader.unread, *unread))


class _Reader:
    """Reads from other programs until a monotonic deadline; `unread` says what was not read by then.

    Each reading may take half of the remaining time, so that a program that hangs leaves time for the others.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.unread: list[str] = []

    def read(self, what: str, default: T, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's value; the default if there was no time for it."""
        with patience.until(time.monotonic() + patience.left() / 2):
            try:
                if not patience.is_over():
                    return function(*args, **kwargs)
            except OperationError:
                if not patience.is_over():
                    raise
        self.unread.append(what)
        return default


def _is_renamed(name: str, link: LinkState, record: Record | None) -> bool:
    """Whether the journal's link has another name by now. The kernel does not use an index again."""
    return record is not None and record.ifindex == link.ifindex and link.name != name and bool(record.ifindex)


def _record(name: str, host: Host) -> Record | None:
    try:
        return Journal(host.journal_directory, name).read()
    except WgqError:
        return None


def _device(name: str, host: Host) -> tuple[Device | None, str]:
    try:
        return host.wireguard.get(name), ""
    except OperationError as error:
        return None, error.what


def _counters(name: str, host: Host) -> Diagnostics | None:
    try:
        return host.wireguard.diagnostics(name)
    except OperationError:
        return None


def _others(name: str, host: Host) -> tuple[Device, ...]:
    found = []
    for other in host.wireguard.interfaces():
        if patience.is_over():
            raise OperationError("there was no time to read the other interfaces")
        device, _ = _device(other, host) if other != name else (None, "")
        if device is not None:
            found.append(device)
    return tuple(found)


def _public(key: SecretKey | None) -> PublicKey | None:
    return public_key_of(key) if key is not None and key != NO_KEY else None


def _with_host(evidence: Evidence, host: Host, reader: _Reader) -> Evidence:
    """The evidence with the host's state: addresses, routes, rules, firewall, DNS, port, parameters."""
    name, settings, device = evidence.name, evidence.settings, evidence.device
    if evidence.link is None or device is None:
        return evidence._replace(port=_free_port(settings, host), table=_table(settings, host))
    table = _table(settings, host)
    tables = {MAIN_TABLE, *([table] if table else []), *([device.fwmark] if device.fwmark else [])}
    tables |= {undo.rule.table for undo in _undone_rules(evidence.record)}
    rules = observe.rules(host)
    tables |= {rule.table for rule in rules if rule.fwmark is not None and not rule.other}
    mode = reader.read(DNS, "", _dns_mode, evidence, host)
    ipv6 = host.rtnl.takes_ipv6(name)
    given = _given(host)
    return evidence._replace(
        addresses=tuple(host.rtnl.addresses(name)),
        local=frozenset(prefix.address for prefix, _ in given),
        networks=tuple(each for each in given if each[1] != name),
        takes_ipv6=ipv6,
        table=table,
        routes={each: _routes(name, each, host) for each in tables},
        rules=rules,
        firewalls=reader.read(FIREWALL, (), _firewalls, name, host),
        dns_mode=mode,
        dns_now=reader.read(DNS, None, _dns_now, mode, name, host),
        name_servers=_name_servers(host.dns.path),
        name_servers_file=host.dns.path,
        parameters=_parameters(name, host),
        port=_port(name, device, host),
    )


def _uplink(host: Host) -> str:
    path = host.rtnl.default_path()
    return path.link if path else ""


def _given(host: Host) -> list[tuple[Prefix, str]]:
    """All addresses of the host, with their links."""
    return [(prefix, link.name) for link in host.rtnl.links() for prefix in host.rtnl.addresses(link.name)]


def _undone_rules(record: Record | None) -> list[Any]:
    from wgquick.plan.steps import DeleteRule

    return [undo for undo in record.undos if isinstance(undo, DeleteRule)] if record else []


def _table(settings: Settings | None, host: Host) -> int | None:
    if settings is None or settings.routes_automatically or settings.table == "off":
        return None
    with suppress(Exception):
        return table_number(settings.table, host.table_names())
    return None


def _routes(name: str, table: int, host: Host) -> frozenset[Prefix]:
    found: set[Prefix] = set()
    for family in (4, 6):
        with suppress(OperationError):
            found.update(host.rtnl.routes(family=family, table=table, device=name))
    return frozenset(found)


def _dns_mode(evidence: Evidence, host: Host) -> str:
    """The mode in which DNS was set: the journal's, or without a journal the one that wg-quick would use."""
    if evidence.record is not None:
        undos = (undo.mode for undo in evidence.record.undos if isinstance(undo, UnsetDns))
        return next(undos, "")
    if evidence.settings is None or not evidence.settings.dns:
        return ""
    try:
        mode = host.dns.detect("auto")
    except OperationError:
        if patience.is_over():
            raise
        return ""
    return mode if mode != "file" else ""  # wg-quick does not support this mode


def _dns_now(mode: str, name: str, host: Host) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    if not mode or mode == "off":
        return None
    try:
        return host.dns.current(mode, name)
    except OperationError:
        if patience.is_over():
            raise
        return None


def _firewalls(name: str, host: Host) -> tuple[tuple[str, int], ...]:
    return tuple(host.firewall.present(name))


def _name_servers(path: str) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = [line.split() for line in file]
    except OSError:
        return ()
    return tuple(line[1] for line in words if len(line) > 1 and line[0] == "nameserver")


def _parameters(name: str, host: Host) -> dict[str, str | None]:
    keys = [
        parameter(SRC_VALID_MARK),
        f"net/ipv4/conf/{name}/src_valid_mark",
        "net/ipv4/ip_forward",
        f"net/ipv4/conf/{name}/forwarding",
        "net/ipv6/conf/all/forwarding",
        "net/ipv6/conf/all/disable_ipv6",
        f"net/ipv6/conf/{name}/disable_ipv6",
        *(key.format(link.name) for link in host.rtnl.links() for key in (_RP_FILTER, _FORWARDING)),
        _RP_FILTER.format("all"),
    ]
    return {key: host.sysctl.read(key) for key in keys}


def _free_port(settings: Settings | None, host: Host) -> PortState:
    """The state of the file's port, for an interface that is not up."""
    port = settings.listen_port if settings else None
    refusal = host.udp_ports.refusal(port) if port else 0
    return PortState(port or 0, is_bound=False, refusal=refusal, holders=_holders(port or 0, host, refusal))


def _port(name: str, device: Device, host: Host) -> PortState:
    port = device.listen_port
    if port and host.udp_ports.has(name, port):
        return PortState(port)
    refusal = host.udp_ports.refusal(port) if port else 0
    return PortState(port, is_bound=False, refusal=refusal, holders=_holders(port, host, refusal))


def _holders(port: int, host: Host, refusal: int) -> tuple[str, ...]:
    return host.udp_ports.programs(port) if refusal else ()


def _with_ways(evidence: Evidence, inspector: Inspector) -> Evidence:
    """The evidence with the kernel's routes to addresses in AllowedIPs and to the endpoints."""
    device = evidence.device
    if device is None:
        return evidence
    inside = _samples(evidence)[:_WAYS]
    ends = {peer.public_key: peer.endpoint for peer in device.peers if peer.endpoint}
    ends = dict(list(ends.items())[:_WAYS])
    marked = evidence.parameters.get(parameter(SRC_VALID_MARK)) == "1"
    asked = [
        *(Query(pack_address(address)) for address in inside),
        *(_outer(device, end) for end in ends.values()),
        *(Query(pack_address(end.address), mark=device.fwmark if marked else 0) for end in ends.values()),
    ]
    own = {each.family: each.address for each in evidence.addresses if not nets.is_link_local(each)}
    sourced = [each for each in inside if (6 if ":" in each else 4) in own]
    from_own = inspector.ways(Query(pack_address(each), own[6 if ":" in each else 4]) for each in sourced)
    found = inspector.ways(asked)
    out, back = found[len(inside) : len(inside) + len(ends)], found[len(inside) + len(ends) :]
    return evidence._replace(
        ways=dict(zip(inside, found, strict=False)),
        ways_from=dict(zip(sourced, from_own, strict=True)),
        outside={key: Outside(way, back=other) for key, way, other in zip(ends, out, back, strict=True)},
    )


def _outer(device: Device, end: SocketAddress) -> Query:
    """The query for a device's packets to an endpoint: policy routing rules may have ports."""
    return Query(
        pack_address(end.address),
        mark=device.fwmark,
        protocol=UDP,
        source_port=device.listen_port,
        destination_port=end.port,
    )


def _with_loops(evidence: Evidence, inspector: Inspector) -> Evidence:
    """The evidence with tunnels that lead into each other."""
    tunnels = {each.name: each for each in evidence.others}
    found = dict(evidence.outside)
    for key, outside in found.items():
        end, way, passed = evidence.live[key].endpoint, outside.way, [evidence.name]
        while end is not None and way is not None and way.link in tunnels and way.link not in passed:
            passed.append(way.link)
            tunnel = tunnels[way.link]
            end = _carrier(tunnel, end)
            way = next(iter(inspector.ways([_outer(tunnel, end)]))) if end else None
        if len(passed) > 1 and way is not None and way.link in passed:
            found[key] = outside._replace(loop=tuple(passed))
    return evidence._replace(outside=found)


def _carrier(tunnel: Device, end: SocketAddress) -> SocketAddress | None:
    """The endpoint of the peer that gets a tunnel's packets to an address."""
    found = peer_of(tunnel.peers, pack_address(end.address))
    return found[0].endpoint if found else None


def _with_uplinks(
    evidence: Evidence, links: Mapping[str, LinkState], silent: frozenset[tuple[str, str]]
) -> Evidence:
    """The evidence with the state of the links and gateways on the path to the endpoints."""
    found = dict(evidence.outside)
    for key, outside in found.items():
        if (way := outside.way) is not None and way.link in links:
            peer = evidence.live.get(key)
            neighbour = way.gateway or _text(peer.endpoint if peer else None)
            found[key] = outside._replace(
                has_carrier=links[way.link].has_carrier,
                is_neighbour_silent=(way.link, neighbour) in silent,
                ports=tuple(_ports(links[way.link], links.values())),
                has_arp=links[way.link].has_arp,
            )
    return evidence._replace(outside=found, silent=silent)


def _ports(link: LinkState, links: Iterable[LinkState], depth: int = 0) -> Iterator[str]:
    """The names of the links that send a bridge's, bond's or VLAN's packets in the end."""
    if link.kind not in _STACKED or depth > _DEPTH:
        return
    every = list(links)
    for each in every:
        if each.ifindex == link.parent or each.master == link.ifindex:
            lower = list(_ports(each, every, depth + 1))
            yield from lower or [each.name]


def _with_traffic(evidence: Evidence, inspector: Inspector) -> Evidence:
    """The evidence with the kernel's routes for packets that came out of the tunnel, and for their answers."""
    pairs = sorted(evidence.came_out)[:_TRAFFIC]
    asked = [
        each for each in dict.fromkeys(address for pair in pairs for address in pair) if each not in evidence.ways
    ]
    found = inspector.ways(Query(pack_address(each)) for each in asked)
    callers = list(
        dict.fromkeys(each.source.address for each in (evidence.heard.senders if evidence.heard else ()))
    )
    back = inspector.ways(Query(pack_address(each), mark=evidence.fwmark) for each in callers[:_TRAFFIC])
    return evidence._replace(
        ways={**evidence.ways, **dict(zip(asked, found, strict=True))},
        ways_back=dict(zip(callers, back, strict=False)),
    )


def _text(endpoint: SocketAddress | None) -> str:
    return endpoint.address if endpoint else ""


def _samples(evidence: Evidence) -> list[str]:
    """One address of each AllowedIPs network."""
    own = {prefix.address for prefix in evidence.addresses}
    found: dict[str, None] = {}
    for peer in evidence.peers:
        for ip in intended_networks(evidence, peer):
            address = sample(ip)
            if address not in own and (len(address) == 4 or evidence.takes_ipv6):
                found[address_text(address)] = None
    return list(found)


def intended_networks(evidence: Evidence, peer: DevicePeer) -> Iterator[nets.Network]:
    """The networks behind a peer: its AllowedIPs, and the interface's own networks inside them."""
    yield from peer.allowed_ips
    for prefix in evidence.addresses:
        inside = (ip for ip in peer.allowed_ips if nets.contains(ip, prefix) and ip.length < prefix.length)
        if not nets.is_single(prefix) and not nets.is_link_local(prefix) and any(inside):
            yield nets.whole(prefix)


_ELSEWHERE = {4: bytes([198, 51, 100, 77]), 16: bytes.fromhex("20010db8ffff00000000000000000077")}


def sample(ip: nets.Network) -> bytes:
    """The first host address of a network; for a /0 an address reserved for documentation."""
    if ip.length == 0:
        return _ELSEWHERE[len(ip.address)]
    width = nets.bits(ip.address)
    number = nets.head(ip.address, ip.length) << (width - ip.length)
    return (number + (ip.length < width - 1)).to_bytes(width // 8, "big")


class Names:
    """Resolves the endpoints' names in parallel, while the rest is gathered."""

    def __init__(self, settings: Settings | None) -> None:
        peers = settings.peers if settings else ()
        wanted = dict.fromkeys(peer.endpoint for peer in peers if peer.endpoint)
        self._found: dict[Endpoint, tuple[SocketAddress, ...]] = {}
        self._threads = {
            endpoint: threading.Thread(target=self._ask, args=(endpoint,), daemon=True)
            for endpoint in wanted
            if nets.literal(endpoint.host) is None
        }
        for thread in self._threads.values():
            thread.start()

    def _ask(self, endpoint: Endpoint) -> None:
        try:
            found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
        except OSError:
            return
        self._found[endpoint] = tuple(dict.fromkeys(SocketAddress(str(f[4][0]), int(f[4][1])) for f in found))

    def answers(self, deadline: float) -> dict[Endpoint, tuple[SocketAddress, ...] | None]:
        """The addresses found by the monotonic `deadline`; None for a name without an answer."""
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        return {endpoint: self._found.get(endpoint) for endpoint in self._threads}
