"""The path of a packet to the last link, through WireGuard devices, with reasons. Pure: it works on a Snapshot.

    found = trace(snapshot, Query(pack_address("198.51.100.7")))
    found.verdict, found.uplink, found.steps

To trace a plan, change the Snapshot: `snapshot._replace(routes=...)`. With `ask`, the kernel is asked too
(RTM_GETROUTE). If its answer differs, the trace follows the kernel and reports the difference.
"""

from __future__ import annotations

from errno import EACCES, EINVAL, EPERM, EXDEV

from wgquick.device import peer_of
from wgquick.diagnosis.fib import is_untouched, text_of, walk
from wgquick.diagnosis.nets import contains, head, host
from wgquick.diagnosis.reverse import arrive, refusal
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import Prefix, address_text, pack_address
from wgquick.routing import UDP, Flow, NextHop, Query, TableRoute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from wgquick.config.settings import Settings
    from wgquick.diagnosis.fib import Passed, Walk
    from wgquick.net import AllowedIP, PublicKey, SocketAddress
    from wgquick.routing import Answer, Dropped, Neighbour, Probe, Snapshot, TunnelDevice

DELIVERED, DROPPED, LOOP, UNREACHABLE = "delivered", "dropped", "loop", "unreachable"
_OVERHEAD = {4: 20 + 8 + 32, 6: 40 + 8 + 32}  # IP, UDP, and WireGuard's header and tag
_PADDING = 16  # WireGuard fills a packet up to a multiple of it, not above the link's MTU
_TCP = {4: 40, 6: 60}  # IP and TCP headers
_MOST_TUNNELS = 16
_AGREES, _NOT_ASKED = "agrees", "not asked"
_SILENT = {"FAILED": "does not answer", "INCOMPLETE": "has not answered yet"}


class RuleStep(NamedTuple):
    """A rule that was evaluated; `depth` is 0 for the packet, 1 for its outer packet, and so on."""

    depth: int
    passed: Passed


class RouteStep(NamedTuple):
    """The route that was taken, or the error if there is none.

    `mtu` is the smaller of the route's and the link's, `mss` the largest TCP segment in it; 0 if there is no route.
    `neighbour` is the gateway, or the destination on a link, if the kernel knows it. `kernel` is "agrees", "not
    asked", or the kernel's differing answer. `back` is why this host would drop a reply, or "". `is_elsewhere` is
    true if the route is in the network namespace of the device's socket.
    """

    depth: int
    query: Query
    walk: Walk
    mtu: int = 0
    mss: int = 0
    neighbour: Neighbour | None = None
    kernel: str = _NOT_ASKED
    back: str = ""
    is_elsewhere: bool = False


class PeerStep(NamedTuple):
    """The peer with the destination in its AllowedIPs, None if no peer has it (ENOKEY). `network` is the entry."""

    depth: int
    link: str
    public_key: PublicKey | None = None
    network: AllowedIP | None = None
    last_handshake: float = 0.0


class EndpointStep(NamedTuple):
    """The peer's endpoint, None if it has none (EDESTADDRREQ)."""

    depth: int
    link: str
    address: SocketAddress | None
    mark: int = 0


TraceStep = RuleStep | RouteStep | PeerStep | EndpointStep


class Trace(NamedTuple):
    """The whole path. `peer` and `endpoint` are those of the first tunnel, `uplink` is the last link.

    `mtu` is the largest packet that arrives unfragmented, `source` the source of the inner packet. `reason`
    explains a verdict other than "delivered"; for "delivered" it says what may stop a reply, or is "". `probe` is
    the result of sending a packet, if one was sent.
    """

    query: Query
    steps: tuple[TraceStep, ...]
    verdict: str
    reason: str = ""
    peer: PublicKey | None = None
    endpoint: SocketAddress | None = None
    uplink: str = ""
    source: bytes | None = None
    mtu: int = 0
    probe: Probe | None = None

    @property
    def mss(self) -> int:
        """The largest TCP segment that fits into `mtu`; 0 if unknown."""
        return max(0, self.mtu - _TCP[self.query.family]) if self.mtu else 0

    @property
    def is_agreed(self) -> bool:
        """Whether the kernel agrees with each route, as far as it was asked."""
        answers = {step.kernel for step in self.steps if isinstance(step, RouteStep)}
        return answers <= {_AGREES, _NOT_ASKED}

    @property
    def links(self) -> tuple[str, ...]:
        """The links on the path, the innermost first."""
        return tuple(step.walk.link for step in self.steps if isinstance(step, RouteStep) and step.walk.link)


class Traced(NamedTuple):
    """A trace on this host, with the names of its routing tables and the time (seconds since 1970)."""

    trace: Trace
    table_names: Mapping[int, str]
    time: float


class _Leg(NamedTuple):
    """The rest of the path: its verdict, its uplink and its MTU."""

    verdict: str
    reason: str = ""
    uplink: str = ""
    mtu: int = 0


class OtherEnd(NamedTuple):
    """The other end's file, and the public key for its PrivateKey; None without one."""

    settings: Settings
    public_key: PublicKey | None = None


def trace(
    snapshot: Snapshot,
    query: Query,
    ask: Callable[[Query], Answer] | None = None,
    other_end: OtherEnd | None = None,
) -> Trace:
    """Trace a packet. `ask` asks the kernel (`wgquick.system.routes.Routing`); `other_end` is the peer's file."""
    steps: list[TraceStep] = []
    query = with_source(snapshot, query)
    leg = _follow(snapshot, query, steps, ask, frozenset(), 0)
    peer = next((step for step in steps if isinstance(step, PeerStep)), None)
    endpoint = next((step for step in steps if isinstance(step, EndpointStep)), None)
    first = next(step for step in steps if isinstance(step, RouteStep))
    source = first.walk.source if not first.walk.error else query.source
    verdict, reason = leg.verdict, leg.reason
    if verdict == DELIVERED and other_end and peer:
        reason = refused_by(other_end, snapshot.devices[peer.link], peer.public_key, source)
        verdict = DROPPED if reason else verdict
    if verdict == DELIVERED:
        reason = "; ".join(_doubts(steps))
    return Trace(
        query,
        tuple(steps),
        verdict,
        reason,
        peer.public_key if peer else None,
        endpoint.address if endpoint else None,
        leg.uplink,
        source,
        leg.mtu,
    )


def flows_of(found: Trace) -> tuple[Flow, ...]:
    """The packets that a probe watches for: the packet itself and its outer packets in the same namespace."""
    flows = []
    for step in found.steps:
        if isinstance(step, RouteStep) and not step.is_elsewhere:
            query = step.query
            what = "the outer packet" if step.depth else "the packet"
            words = f"{what} to {address_text(query.destination)}"
            flows.append(Flow(words, query.destination, query.protocol, query.destination_port))
    return tuple(flows)


def probed(found: Trace, probe: Probe) -> Trace:
    """The trace with the result of a probe. If the firewall drops the packet, the verdict is DROPPED."""
    from os import strerror

    sent = [each for each in probe.dropped if not each.is_reply]
    if sent:
        return found._replace(verdict=DROPPED, reason=dropped_text(sent[0]), probe=probe)
    if found.verdict != DELIVERED:
        return found._replace(probe=probe)
    if probe.error:
        hint = ", but no nftables rule that can be traced drops it" if probe.error in (EPERM, EACCES) else ""
        reason = f"sending the probe fails{hint}: {strerror(probe.error)}"
        return found._replace(verdict=DROPPED if hint else UNREACHABLE, reason=reason, probe=probe)
    unseen = (f"{what} was not seen leaving" for what in probe.unseen)
    reasons = "; ".join([*filter(None, [found.reason]), *map(dropped_text, probe.dropped), *unseen])
    return found._replace(reason=reasons, probe=probe)


def dropped_text(each: Dropped) -> str:
    """A sentence: which rule drops what."""
    what = f"a reply to {each.what}" if each.is_reply else each.what
    place = f"table {each.family} {each.table} chain {each.chain}"
    if not each.handle:
        return f"the policy of nft {place} drops {what}"
    words = f": {each.text}" if each.text else ""
    return f"nft {place} handle {each.handle} drops {what}{words}"


def with_source(snapshot: Snapshot, query: Query) -> Query:
    """The query; if the packet arrives on a link and has no source, with an address that is probably behind it."""
    link = snapshot.links.get(query.input_link)
    if link is None or query.source is not None:
        return query
    tunnel = snapshot.devices.get(link.name)
    peers = tunnel.device.peers if tunnel else ()
    networks: list[Prefix | AllowedIP] = [
        *(network for peer in peers for network in peer.allowed_ips if network.length),
        *(Prefix(own.peer or own.address, own.length) for own in link.addresses),
    ]
    own_addresses = {own.address for own in link.addresses}
    for network in networks:
        if network.family == query.family:
            for address in _first_of(network):
                if address not in own_addresses:
                    return query._replace(source=address)
    return query


def _first_of(network: Prefix | AllowedIP) -> list[bytes]:
    """The first three host addresses of a network; all of them if it has one or two addresses."""
    bits = len(network.address) * 8
    start = head(network.address, network.length) << (bits - network.length)
    size = 1 << (bits - network.length)
    numbers = range(start, start + size) if size <= 2 else range(start + 1, start + min(4, size - 1))
    return [number.to_bytes(bits // 8, "big") for number in numbers]


def _doubts(steps: Iterable[TraceStep]) -> list[str]:
    """The reasons that may stop a reply, although the packet itself is sent."""
    found = []
    for step in steps:
        if isinstance(step, RouteStep):
            if step.back:
                found.append(f"replies are dropped: {step.back}")
            if step.neighbour and step.neighbour.state in _SILENT:
                found.append(f"{_next_text(step)} {_SILENT[step.neighbour.state]} on {step.walk.link}")
    return found


def _next_text(step: RouteStep) -> str:
    return address_text(step.walk.gateway or step.query.destination)


def _follow(
    snapshot: Snapshot,
    query: Query,
    steps: list[TraceStep],
    ask: Callable[[Query], Answer] | None,
    seen: frozenset[tuple[int, str]],
    depth: int,
    *,
    is_elsewhere: bool = False,
) -> _Leg:
    """Trace one packet: its rules, its route, and if that is a tunnel its outer packet."""
    found, kernel = _walk_and_compare(snapshot, query, ask)
    steps += [RuleStep(depth, passed) for passed in found.rules]
    mtu = _mtu_of(snapshot, found)
    steps.append(
        RouteStep(
            depth,
            query,
            found,
            mtu,
            max(0, mtu - _TCP[query.family]),
            _neighbour(snapshot, query, found),
            kernel,
            _back(snapshot, query, found),
            is_elsewhere,
        )
    )
    if found.error:
        return _Leg(_verdict(found, query), _explained(query, found.reason, depth))
    if why := snapshot.unread.get(found.link):
        return _Leg(UNREACHABLE, f"the WireGuard device of {found.link} cannot be read: {why}")
    tunnel = snapshot.devices.get(found.link)
    if tunnel is None or found.kind in ("local", "anycast"):
        return _Leg(DELIVERED, "", found.link, mtu)
    place = (id(snapshot), found.link)
    if place in seen or depth >= _MOST_TUNNELS:
        endpoint = address_text(query.destination)
        return _Leg(LOOP, f"the outer packet to {endpoint} goes into {found.link} again", found.link)
    return _through(snapshot, query, steps, ask, seen | {place}, depth, (found, tunnel, mtu))


def _through(
    snapshot: Snapshot,
    query: Query,
    steps: list[TraceStep],
    ask: Callable[[Query], Answer] | None,
    seen: frozenset[tuple[int, str]],
    depth: int,
    inside: tuple[Walk, TunnelDevice, int],
) -> _Leg:
    """Trace through a WireGuard device: the peer, its endpoint, and the outer packet (wg_xmit(), send4())."""
    found, tunnel, mtu = inside
    device, link = tunnel.device, found.link
    chosen = peer_of(device.peers, query.destination)
    if chosen is None:
        steps.append(PeerStep(depth, link))
        what = f"no peer of {link} has {address_text(query.destination)} in its AllowedIPs (ENOKEY)"
        return _Leg(UNREACHABLE, what)
    peer, network = chosen
    steps.append(PeerStep(depth, link, peer.public_key, network, peer.last_handshake))
    steps.append(EndpointStep(depth, link, peer.endpoint, device.fwmark))
    if peer.endpoint is None:
        return _Leg(UNREACHABLE, f"the peer {peer.public_key} of {link} has no endpoint (EDESTADDRREQ)")
    there = snapshot.outside.get(link, snapshot)
    if there is None:
        return _Leg(DELIVERED, "", "", _fits(mtu, 0))
    outer = outer_query(tunnel, peer.endpoint, there)
    is_elsewhere = there is not snapshot
    asked = None if is_elsewhere else ask
    leg = _follow(there, outer, steps, asked, seen, depth + 1, is_elsewhere=is_elsewhere)
    return leg._replace(mtu=_fits(mtu, leg.mtu - _OVERHEAD[peer.endpoint.family]) if leg.mtu else 0)


def _fits(mtu: int, room: int) -> int:
    """The largest packet of a link with this MTU that fits, with padding, into `room` bytes of the outer packet."""
    return mtu if mtu <= room or room <= 0 else room // _PADDING * _PADDING


def outer_query(tunnel: TunnelDevice, endpoint: SocketAddress, snapshot: Snapshot) -> Query:
    """The outer packet that a device sends to an endpoint."""
    link = next(
        (name for name, each in snapshot.links.items() if endpoint.scope and each.ifindex == endpoint.scope), ""
    )
    return Query(
        pack_address(endpoint.address),
        mark=tunnel.device.fwmark,
        output_link=link,
        protocol=UDP,
        source_port=tunnel.device.listen_port,
        destination_port=endpoint.port,
    )


def _walk_and_compare(snapshot: Snapshot, query: Query, ask: Callable[[Query], Answer] | None) -> tuple[Walk, str]:
    """wgq's own result and whether the kernel agrees. If it does not, the kernel's route with wgq's rules."""
    go = arrive if query.input_link else walk
    found = go(snapshot, query)
    if ask is None or any(name and name not in snapshot.links for name in (query.input_link, query.output_link)):
        return found, _NOT_ASKED
    answer = ask(query)
    for hop in found.hops:
        if (hop.link, hop.gateway) == (answer.link, answer.gateway) and len(found.hops) > 1:
            found = go(snapshot, query, hop)
    if agrees(snapshot, query, found, answer):
        return found, _AGREES
    if found.error and answer.error:
        return found, f"its answer is {answer_text(answer)}"
    own = _result_text(found)
    return _by_kernel(found, answer), f"its answer is {answer_text(answer)}; by its rules and routes it is {own}"


def agrees(snapshot: Snapshot, query: Query, found: Walk, answer: Answer) -> bool:
    """Whether the kernel's answer matches wgq's own result.

    Some fields cannot be compared: the IPv6 answer ignores forwarding, the IPv4 answer hides that the local table
    is merged with main (net/ipv4/fib_trie.c), and neither repeats a source that was given.
    """
    if found.error or answer.error:
        if query.input_link and query.family == 6 and not answer.error:
            return found.kind == answer.kind and found.link == answer.link
        refused = (EINVAL, EXDEV)  # for a rejected source, kernels differ in the errno
        return found.error == answer.error or (found.error in refused and answer.error in refused)
    if (found.kind, found.link, found.gateway) != (answer.kind, answer.link, answer.gateway):
        return False
    if found.table != answer.table and not (found.kind != "unicast" and is_untouched(snapshot.rules[query.family])):
        return query.destination == bytes(4)
    return query.source is not None or bool(query.input_link) or found.source == answer.source


def answer_text(answer: Answer) -> str:
    """The kernel's answer for people."""
    from os import strerror

    if answer.error:
        return strerror(answer.error)
    gateway = f" via {address_text(answer.gateway)}" if answer.gateway else ""
    source = f" from {address_text(answer.source)}" if answer.source else ""
    return f"{answer.kind}{gateway} by {answer.link} (table {answer.table}){source}"


def _result_text(found: Walk) -> str:
    if found.error or not found.route:
        return found.reason
    source = f" from {address_text(found.source)}" if found.source else ""
    return f"{text_of(found.route.destination)} by {found.link} (table {found.table}){source}"


def _by_kernel(found: Walk, answer: Answer) -> Walk:
    if answer.error:
        return found._replace(error=answer.error, reason=answer_text(answer), route=None, link="", gateway=None)
    hop = NextHop(answer.link, answer.gateway)
    destination = found.route.destination if found.route else host(b"\0\0\0\0")
    route = TableRoute(destination, answer.table, answer.kind, (hop,), source=answer.source, mtu=answer.mtu)
    return found._replace(
        error=0,
        reason="",
        route=route,
        hops=(hop,),
        link=answer.link,
        gateway=answer.gateway,
        source=answer.source or found.source,
        kind=answer.kind,
    )


def _mtu_of(snapshot: Snapshot, found: Walk) -> int:
    link = snapshot.links.get(found.link)
    if found.error or link is None:
        return 0
    return min(link.mtu, (found.route.mtu if found.route else None) or link.mtu)


def _neighbour(snapshot: Snapshot, query: Query, found: Walk) -> Neighbour | None:
    if found.error or found.kind != "unicast":
        return None
    return snapshot.neighbours.get((found.link, found.gateway or query.destination))


def _back(snapshot: Snapshot, query: Query, found: Walk) -> str:
    """Why rp_filter would drop a reply to the packet. The reply is assumed to have the packet's mark."""
    if found.error or query.family == 6 or query.input_link or found.kind != "unicast" or not found.source:
        return ""
    refused = refusal(snapshot, query.destination, found.source, found.link, query.mark)
    return refused[1] if refused else ""


def _verdict(found: Walk, query: Query) -> str:
    """DROPPED for blackhole and for packets rejected on arrival; the sender hears of all other errors."""
    is_dropped = found.kind == "blackhole" or (
        bool(found.rules) and found.rules[-1].decides and found.rules[-1].rule.action == "blackhole"
    )
    if is_dropped or (query.input_link and (found.error in (EINVAL, EXDEV) or found.is_unforwarded)):
        return DROPPED
    return UNREACHABLE


def _explained(query: Query, reason: str, depth: int) -> str:
    return f"the outer packet to {address_text(query.destination)}: {reason}" if depth else reason


def refused_by(other_end: OtherEnd, tunnel: TunnelDevice, peer: PublicKey | None, source: bytes | None) -> str:
    """Why the other end drops the packet, by its file; "" if it does not. The source must be in its AllowedIPs."""
    theirs, peers = other_end.public_key, other_end.settings.peers
    if theirs and peer and theirs != peer:
        return f"the other end's file has the public key {theirs}, but the peer here has {peer}"
    ours = tunnel.public_key
    if ours is None or all(each.public_key != ours for each in peers):
        return f"the other end's file has no peer with this end's public key {ours}"
    if source is None:
        return ""
    inside = host(source)
    found = max(
        ((each, network) for each in peers for network in each.allowed_ips if contains(network, inside)),
        key=lambda each: each[1].length,
        default=None,
    )
    if found is None or found[0].public_key != ours:
        owner = f"; another peer there has it: {found[0].public_key}" if found else ""
        return f"the other end drops it: the source {address_text(source)} is not in AllowedIPs of this end{owner}"
    return ""
