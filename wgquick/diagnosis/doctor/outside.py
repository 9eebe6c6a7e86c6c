"""Causes outside the tunnel: from the device to the peer's endpoint, and back to the device."""

from __future__ import annotations

import errno
from os import strerror

from wgquick.datagram import INITIATION, LENGTHS
from wgquick.device import SESSION_AGE
from wgquick.diagnosis import nets
from wgquick.diagnosis.doctor.comparison import cause, listed, other_preshared_key, unresolved
from wgquick.diagnosis.doctor.evidence import dials
from wgquick.diagnosis.doctor.firewall_verdict import by, firewall_verdict
from wgquick.diagnosis.doctor.inside import rp_filter
from wgquick.diagnosis.doctor.packet import ARRIVING, INTO_BRIDGE, LEAVING, OUT_OF_BRIDGE, Packet
from wgquick.diagnosis.finding import CERTAIN, LIKELY, POSSIBLE, WARNING
from wgquick.lean import TYPE_CHECKING
from wgquick.net import address_text, pack_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wgquick.config.settings import PeerSettings
    from wgquick.device import Device, DevicePeer
    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.evidence import Evidence, HandshakeResult, Outside, Watched
    from wgquick.net import Endpoint, PublicKey, SocketAddress
    from wgquick.observations import Way

_SURE = 3  # initiations
_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.ENETDOWN})


def causes(evidence: Evidence) -> Iterator[Cause]:
    """The causes outside the tunnel."""
    if not evidence.is_up:
        return
    has_file = evidence.settings is not None
    every = evidence.wanted  # a property that is computed at each access
    yield from _closed_port(evidence, every, has_file=has_file)
    for key, peer in evidence.live.items():
        wanted = every.get(key)
        if not dials(peer, wanted, has_file=has_file):
            yield from _forgotten(evidence, key, peer)
            continue
        watched = evidence.watched.get(key)
        works = watched is not None and _works(watched)
        if evidence.is_moved:
            yield from () if works or peer.endpoint is None else (_elsewhere(evidence, key, peer.endpoint),)
            continue
        yield from _endpoint(evidence, key, peer, wanted)
        if key in evidence.outside and not works:
            yield from _way(evidence, key, peer, evidence.outside[key])
        if watched is not None:
            yield from _silence(evidence, key, watched)


def _elsewhere(evidence: Evidence, key: PublicKey, end: SocketAddress) -> Cause:
    """No answer. The device's UDP socket is in another network namespace than its link."""
    message = (
        f"{end} does not answer. {evidence.name} was moved here from another network namespace, which its "
        "encrypted packets still use"
    )
    remedy = "check the route to the endpoint and the firewall in that namespace"
    return cause("no-answer", message, remedy=remedy, peer=key, confidence=POSSIBLE, other_end="wgq doctor")


def _closed_port(
    evidence: Evidence, wanted: Mapping[PublicKey, PeerSettings], *, has_file: bool
) -> Iterator[Cause]:
    """This host's firewall drops packets from peers that have to connect, as their Endpoint is unknown."""
    callers = [
        (key, peer)
        for key, peer in evidence.live.items()
        if not dials(peer, wanted.get(key), has_file=has_file)
        and not (key in evidence.watched and evidence.watched[key].answers)
    ]
    port = evidence.device.listen_port if evidence.device else 0
    if not callers or not port or not evidence.uplink:
        return
    packet = Packet(4, evidence.uplink, protocol="udp", destination_port=port)
    found = firewall_verdict(evidence.rulesets, packet, ARRIVING)
    if found.is_dropped and found.is_certain:
        message = f"this host's firewall drops packets to UDP port {port}: {found.where}"
        facts = (f"peers without an Endpoint here ({len(callers)}) have to connect to this port",)
        remedy = f"accept UDP to port {port} in an earlier rule"
        key = callers[0][0] if len(callers) == 1 else None
        yield cause("input-blocked", message, *facts, remedy=remedy, peer=key, confidence=LIKELY)


def _forgotten(evidence: Evidence, key: PublicKey, peer: DevicePeer) -> Iterator[Cause]:
    """This end sends to a peer that connects to it, and nothing comes back."""
    watched = evidence.watched.get(key)
    own = {address_text(ip.address) for ip in peer.allowed_ips if nets.is_single(ip)}
    called = sorted({destination for _, destination in evidence.went_in if destination in own})
    if watched is None or not called or peer.endpoint is None or not peer.last_handshake:
        return
    if _works(watched) or watched.received % LENGTHS[INITIATION] or not watched.sent:
        return  # a keepalive answers data that the peer's own firewall may drop
    age = int(evidence.now - peer.last_handshake)
    why = "it is off, its NAT mapping has expired, or a firewall drops them"
    message = f"packets to this peer, at {peer.endpoint}, get no answer: {why}"
    facts = (f"this host sends to {listed(called)}", f"the last handshake was {age} s ago")
    remedy = "if this end must reach it at any time, set PersistentKeepalive = 25 in the file at the other end"
    yield cause("no-answer", message, *facts, remedy=remedy, peer=key, confidence=POSSIBLE, severity=WARNING)


def _works(watched: Watched) -> bool:
    """Whether the peer answered or sent data through the tunnel."""
    return watched.answers or watched.has_data


def _endpoint(evidence: Evidence, key: PublicKey, peer: DevicePeer, wanted: PeerSettings | None) -> Iterator[Cause]:
    given = wanted.endpoint if wanted else None
    if peer.endpoint is None and given is not None:
        message = f"the device has no endpoint for this peer, but the file has {given}"
        remedy = f"run `wg set {evidence.name} peer {key} endpoint {given}'"
        yield cause("endpoint-missing", message, remedy=remedy, peer=key)
    if given is None:
        return
    watched = evidence.watched.get(key)
    if watched is not None and _works(watched):
        return
    if nets.literal(given.host) is None:
        found = evidence.resolved.get(given, ())
        if found is None:
            if not _is_fresh(peer, evidence.now):
                yield unresolved(given, key)
            return
        now = {address.address for address in found}
        if found and peer.endpoint is not None and peer.endpoint.address not in now:
            facts = (f"the device sends to {peer.endpoint}", f"{given.host} is now {', '.join(sorted(now))}")
            message = f"the address of {given.host} has changed since the tunnel was brought up"
            remedy = f"run `wg set {evidence.name} peer {key} endpoint {given}'"
            yield cause("endpoint-moved", message, *facts, remedy=remedy, peer=key)
    elif peer.endpoint is not None and _differs(peer.endpoint, given):
        facts = (f"the device sends to {peer.endpoint}", f"the file has {given}")
        message = "the device sends to another endpoint than the file's, which does not answer"
        remedy = f"run `wg set {evidence.name} peer {key} endpoint {given}'"
        yield cause("endpoint-moved", message, *facts, remedy=remedy, peer=key, confidence=LIKELY)


def _differs(live: SocketAddress, given: Endpoint) -> bool:
    """Whether the device's endpoint differs from a literal one of the file. Service names are not compared."""
    address = nets.literal(given.host)
    same_port = not given.port.isdecimal() or int(given.port) == live.port
    return address != pack_address(live.address) or not same_port


def _is_fresh(peer: DevicePeer, now: float) -> bool:
    return now - peer.last_handshake < SESSION_AGE


def _way(evidence: Evidence, key: PublicKey, peer: DevicePeer, outside: Outside) -> Iterator[Cause]:
    name, end, way = evidence.name, peer.endpoint, outside.way
    if end is None:
        return
    mark = f" mark {hex(evidence.fwmark)}" if evidence.fwmark else ""
    asked = f"`ip route get {end.address}{mark}'"
    if kind := nets.no_host(pack_address(end.address)):
        message = f"the endpoint {end} is {kind}, not the address of a host"
        yield cause("endpoint-no-route", message, remedy="write the other end's address into Endpoint", peer=key)
    elif way is not None and (tunnel := _tunnel(evidence, way)) is not None and not _carries(tunnel, end):
        message = f"packets to the endpoint {end} go into {way.link}, and none of its peers has it in AllowedIPs"
        remedy = f"add {end.address} to AllowedIPs of a peer of {way.link}, or remove the route {way.destination}"
        yield cause("endpoint-no-route", message, f"{asked}: dev {way.link}", remedy=remedy, peer=key)
    elif way is not None and (way.errno or way.kind in ("blackhole", "unreachable", "prohibit")):
        reason = strerror(way.errno) if way.errno else f"{way.kind} {way.destination}"
        message = f"this host has no route to the endpoint {end}"
        remedy = "add a route to it (a default route, an address of that family), or use another endpoint"
        yield cause("endpoint-no-route", message, f"{asked}: {reason}", remedy=remedy, peer=key)
    elif way is not None and outside.loop:
        path = ", then into ".join((*outside.loop[2:], outside.loop[0]))
        where = f"{asked}: dev {way.link}; from there they go into {path}"
        message = f"packets to the endpoint {end} go round in a loop, through {' and '.join(outside.loop)}"
        remedy = (
            "take one of them down, or remove the other's endpoint from AllowedIPs: two full tunnels catch each "
            "other's encrypted packets"
        )
        yield cause("endpoint-in-tunnel", message, where, remedy=remedy, peer=key)
    elif way is not None and way.link == name:
        facts = (f"{asked}: dev {name}, by the route {way.destination}",)
        message = f"packets to the endpoint {end} are routed into {name} itself: a loop"
        remedy = f"remove {end.address} from AllowedIPs, or add a route to it outside the tunnel"
        yield cause("endpoint-in-tunnel", message, *facts, remedy=remedy, peer=key)
    elif way is not None and way.kind == "local" and _is_self(evidence, end):
        facts = (f"{asked}: local, {end.address} is this host's own address",)
        message = f"the endpoint {end} is this host itself"
        remedy = "write the other end's address into Endpoint"
        sure = CERTAIN if evidence.device and end.port == evidence.device.listen_port else LIKELY
        yield cause("endpoint-is-self", message, *facts, remedy=remedy, peer=key, confidence=sure)
    elif way is not None and not outside.has_carrier:
        message = f"{way.link}, which leads to the endpoint {end}, has no carrier"
        remedy = f"plug in its cable, or join its network: see `ip link show {way.link}'"
        yield cause("uplink-down", message, f"{asked}: dev {way.link}", remedy=remedy, peer=key)
    elif way is not None and not outside.has_arp:
        message = f"ARP is off on {way.link}, which leads to the endpoint {end}: this host cannot find the gateway"
        seen = f"`ip link show dev {way.link}' has NOARP"
        remedy = f"run `ip link set {way.link} arp on', and find out what turned ARP off"
        yield cause("gateway-silent", message, seen, remedy=remedy, peer=key)
    elif way is not None and outside.neighbour is not None and (near := _wrong_neighbour(end, way, outside)):
        code, message, seen, remedy, sure = near
        yield cause(code, message, seen, remedy=remedy, peer=key, confidence=sure)
    elif way is not None and outside.is_neighbour_silent and not way.gateway:
        message = (
            f"the endpoint {end} is in {way.link}'s own network by this host's routes, and no host there has it"
        )
        what = f"{asked}: dev {way.link}, by the route {way.destination}"
        seen = f"`ip neighbour show {end.address}' shows no hardware address"
        remedy = (
            f"check that {end.address} is on; if it is elsewhere, correct the prefix length of {way.link}'s address"
        )
        yield cause("endpoint-unreachable", message, what, seen, remedy=remedy, peer=key)
    elif way is not None and outside.is_neighbour_silent:
        message = f"the gateway {way.gateway} on {way.link}, which leads to the endpoint {end}, does not answer"
        what = f"{asked}: via {way.gateway} dev {way.link}"
        seen = f"`ip neighbour show {way.gateway}' shows no hardware address"
        remedy = f"check that {way.gateway} is on, and is the gateway of {way.link}'s network"
        yield cause("gateway-silent", message, what, seen, remedy=remedy, peer=key, confidence=LIKELY)
    elif outside.sent == errno.EPERM:
        out = way.link if way else ""
        port = evidence.device.listen_port if evidence.device else 0
        packet = Packet(end.family, "", out, "", end.address, "udp", port, end.port, mark=evidence.fwmark)
        where = by(evidence.rulesets, packet, LEAVING)
        message = f"this host's firewall drops packets to the endpoint {end}{where}"
        remedy = f"allow UDP to {end} in the output chains: see `nft list ruleset' and `iptables -S OUTPUT'"
        if not where:
            remedy += "; an IPsec policy (`ip xfrm policy') or a BPF program of the control group may drop it too"
        yield cause("output-blocked", message, "sending fails: Operation not permitted", remedy=remedy, peer=key)
    elif outside.sent is not None and outside.sent in _NO_ROUTE:
        message = f"sending to the endpoint {end} fails: {strerror(outside.sent)}"
        yield cause("endpoint-no-route", message, remedy="add a route to it", peer=key)


def _wrong_neighbour(end: SocketAddress, way: Way, outside: Outside) -> tuple[str, str, str, str, str] | None:
    """What is wrong with the neighbour: code, message, fact, remedy and confidence; None if nothing is."""
    near, link, address = outside.neighbour, way.link, way.gateway or end.address
    who = f"the gateway {address}" if way.gateway else f"the endpoint {address}"
    if near is None:
        return None
    if near.others:
        message = f"another host on {link} has {way.source} too, the address of this host there"
        seen = f"{listed(near.others)} answers an ARP request for {way.source}"
        remedy = f"give this host or the other one another address: see `arping -D -I {link} {way.source}'"
        return "uplink-address-taken", message, seen, remedy, LIKELY
    seen = f"{listed(near.answers)} answers an ARP request for {address}"
    if near.answers and near.is_permanent and near.used not in near.answers:
        message = f"{who} on {link} has another hardware address than {near.used}, which was set by hand"
        remedy = f"run `ip neighbour del {address} dev {link}', and find out what sets it"
        return "gateway-differs", message, seen, remedy, CERTAIN
    if len(near.answers) > 1:
        message = f"several hosts on {link} answer for {who}"
        remedy = f"find out which of them is right: see `arping -I {link} {address}'"
        return "gateway-differs", message, seen, remedy, POSSIBLE
    return None


def _tunnel(evidence: Evidence, way: Way) -> Device | None:
    """The other WireGuard interface that a route leads into."""
    return next((each for each in evidence.others if each.name == way.link), None)


def _carries(tunnel: Device, end: SocketAddress) -> bool:
    target = nets.host(pack_address(end.address))
    return any(nets.contains(ip, target) for peer in tunnel.peers for ip in peer.allowed_ips)


def _is_self(evidence: Evidence, end: SocketAddress) -> bool:
    """Whether an endpoint on this host is the device itself, and not a proxy on loopback with another port."""
    own = evidence.device is not None and end.port == evidence.device.listen_port
    return own or not nets.contains(nets.LOOPBACK_NETS[end.family], nets.host(pack_address(end.address)))


def _silence(evidence: Evidence, key: PublicKey, watched: Watched) -> Iterator[Cause]:
    """The causes that doctor's own handshake with the peer shows."""
    end, handshake = watched.after.endpoint, watched.handshake_result
    if end is None or handshake is None:
        return
    if handshake.outcome == "refused":
        fact = "the response to this end's handshake initiation cannot be decrypted"
        yield other_preshared_key(end, key, fact, confidence=CERTAIN)
    elif _works(watched):
        yield from _last_session(evidence, key, end, handshake)
    elif handshake.outcome == "cookie":
        message = f"{end} is under load and answers only with cookies"
        yield cause("peer-busy", message, remedy="try again later, or find out what floods it", peer=key)
    elif handshake.outcome == "answered" and not handshake.was_admitted:
        yield _not_admitted(evidence, key, end, handshake)
    elif not handshake.outcome and handshake.tries and not evidence.outside[key].sent:
        is_kept = _never_leaves(evidence, evidence.outside[key], handshake)
        yield _kept_here(evidence, key, end, handshake) if is_kept else _no_answer(evidence, key, end, watched)


def _never_leaves(evidence: Evidence, outside: Outside, handshake: HandshakeResult) -> bool:
    """Whether this host keeps the packets: no link sent them, or only a bridge, bond or VLAN without its ports."""
    loops = outside.way is not None and outside.way.link == evidence.name
    if outside.is_neighbour_silent or loops or not outside.has_carrier or handshake.left_by is None:
        return False
    return not handshake.left_by & set(outside.ports) if outside.ports else not handshake.left_by


def _last_session(
    evidence: Evidence, key: PublicKey, end: SocketAddress, handshake: HandshakeResult
) -> Iterator[Cause]:
    """The session works, and the next handshake will fail: a session ends after three minutes."""
    what = "the tunnel works with its last session, but"
    until = "it stops working when that session ends, after three minutes at most"
    if evidence.outside[key].sent == errno.EPERM:
        way, port = evidence.outside[key].way, evidence.listen_port
        out = way.link if way else ""
        packet = Packet(end.family, "", out, "", end.address, "udp", port, end.port, mark=evidence.fwmark)
        message = f"{what} this host's firewall drops handshakes to {end}{by(evidence.rulesets, packet, LEAVING)}"
        remedy = f"allow UDP to {end} in the output chains: see `nft list ruleset' and `iptables -S OUTPUT'"
        yield cause("output-blocked", message, until, remedy=remedy, peer=key)
    elif not handshake.outcome and handshake.tries >= _SURE and not evidence.outside[key].sent:
        message = f"{what} {end} answers no new handshake: a firewall there or on the way drops handshakes"
        fact = f"{handshake.tries} handshake initiations were sent; neither an answer nor an ICMP error came back"
        remedy = "find out what drops UDP messages of 148 or 92 bytes: some networks block WireGuard's handshakes"
        yield cause(
            "no-answer",
            message,
            fact,
            until,
            remedy=remedy,
            peer=key,
            confidence=LIKELY,
            severity=WARNING,
            other_end="wgq doctor --listen 30",
        )


def _kept_here(evidence: Evidence, key: PublicKey, end: SocketAddress, handshake: HandshakeResult) -> Cause:
    """The kernel takes the packets to the endpoint, and no link sends them."""
    fact = f"handshake initiations were sent to {end}, and no link of this host sent them out"
    if any(destination == end.address for _, destination in evidence.went_in):
        message = f"packets to the endpoint {end} go into {evidence.name} itself: a loop"
        mark = f"their mark {hex(evidence.fwmark)}" if evidence.fwmark else "their mark"
        what = f"`ip route get {end.address}' is right, so a firewall rule changes {mark} on the way out"
        remedy = "remove the rule that sets the mark: see `nft list ruleset' and `iptables -t mangle -S OUTPUT'"
        return cause("endpoint-in-tunnel", message, fact, what, remedy=remedy, peer=key, confidence=LIKELY)
    way, ports = evidence.outside[key].way, evidence.outside[key].ports
    out = way.link if way and way.link else "its link"
    if ports and handshake.left_by and out in handshake.left_by:
        port = evidence.listen_port
        packet = Packet(end.family, "", ports[0], "", end.address, "udp", port, end.port, mark=evidence.fwmark)
        where = by(evidence.rulesets, packet, OUT_OF_BRIDGE)
        message = f"this host drops packets to the endpoint {end} between {out} and its links{where}"
        fact = f"handshake initiations went into {out}, and none of its links ({listed(ports)}) sent them out"
        remedy = (
            "see the tables of family bridge in `nft list ruleset', `ebtables -L', `bridge link show', and "
            f"`tc filter show dev {ports[0]} egress'"
        )
        return cause("output-blocked", message, fact, remedy=remedy, peer=key, confidence=LIKELY)
    packet = Packet(end.family, "", out, "", end.address, "udp", evidence.listen_port, end.port)
    where = by(evidence.rulesets, packet, ("egress",))
    message = f"this host drops packets to the endpoint {end} after the firewall's output chains{where}"
    remedy = (
        f"see `tc qdisc show dev {out}', `tc filter show dev {out} egress', the egress chains of "
        "`nft list ruleset', its NAT rules, `iptables -t nat -S', `bpftool net' and `ip xfrm policy'"
    )
    return cause("output-blocked", message, fact, remedy=remedy, peer=key, confidence=LIKELY)


def other_addresses(evidence: Evidence, key: PublicKey | None, end: SocketAddress | None) -> list[str]:
    """A sentence with the other addresses of the endpoint's name; empty if there are no others."""
    wanted = evidence.wanted.get(key) if key else None
    found = evidence.resolved.get(wanted.endpoint) if wanted and wanted.endpoint else None
    others = [str(each) for each in found or () if end is not None and each.address != end.address]
    if not others or wanted is None or wanted.endpoint is None:
        return []
    return [
        f"{wanted.endpoint.host} has other addresses too: {', '.join(others)}; "
        f"try one: wg set {evidence.name} peer {key} endpoint {others[0]}"
    ]


def _not_admitted(evidence: Evidence, key: PublicKey, end: SocketAddress, handshake: HandshakeResult) -> Cause:
    """Answers arrive on a link but never reach the socket."""
    outside = evidence.outside.get(key)
    back = outside.back.link if outside and outside.back else ""
    port = evidence.device.listen_port if evidence.device else 0
    is_port = outside is not None and handshake.link in outside.ports
    fact = f"answers from {end} arrive on {handshake.link} but do not reach UDP port {port}"
    if end.family == 4 and not is_port and back != handshake.link and rp_filter(evidence, handshake.link):
        message = f"the reverse path filter drops answers from {end}, which arrive on {handshake.link}"
        facts = (fact, f"the route back to {end.address} uses {back or 'no link'}", "rp_filter is 1 (strict)")
        remedy = f"set net.ipv4.conf.{handshake.link}.rp_filter=2 (and net.ipv4.conf.all.rp_filter if it is 1)"
        return cause("rp-filter", message, *facts, remedy=remedy, peer=key)
    packet = Packet(end.family, handshake.link, "", end.address, "", "udp", end.port, port, "established")
    if outside and is_port and outside.way:
        bridge = outside.way.link
        where = by(evidence.rulesets, packet, INTO_BRIDGE)
        message = f"this host drops answers from {end} between {handshake.link} and {bridge}{where}"
        remedy = "see the tables of family bridge in `nft list ruleset', `ebtables -L', and `bridge link show'"
        return cause("input-blocked", message, fact, remedy=remedy, peer=key)
    where = by(evidence.rulesets, packet, ARRIVING)
    message = f"this host's firewall drops answers from {end}{where}"
    remedy = f"accept UDP to port {port} in the input chains"
    return cause("input-blocked", message, fact, remedy=remedy, peer=key)


def _way_through(evidence: Evidence, key: PublicKey) -> Iterator[str]:
    """The fact that the path to the endpoint leads through another tunnel."""
    outside = evidence.outside.get(key)
    if outside and outside.way and _tunnel(evidence, outside.way) is not None:
        link = outside.way.link
        yield f"its packets go through another tunnel, {link}: if that does not work, see `wgq doctor {link}'"


def _by_hand(evidence: Evidence, key: PublicKey, end: SocketAddress) -> Iterator[str]:
    """The fact that the gateway's link-layer address was set by hand, and nobody confirms it."""
    outside = evidence.outside.get(key)
    if outside and outside.way and (near := outside.neighbour) and near.is_permanent and not near.answers:
        address, link = outside.way.gateway or end.address, outside.way.link
        what = f"the hardware address of {address} on {link} was set by hand, to {near.used}"
        yield f"{what}; to look it up again: ip neighbour del {address} dev {link}"


def _no_answer(evidence: Evidence, key: PublicKey, end: SocketAddress, watched: Watched) -> Cause:
    handshake = watched.handshake_result
    tries = handshake.tries if handshake else 0
    age = evidence.now - watched.after.last_handshake
    last = (
        f"the last handshake was {int(age)} s ago"
        if watched.after.last_handshake
        else "there never was a handshake"
    )
    facts = (
        f"{tries} handshake initiations were sent to {end}; neither an answer nor an ICMP error came back",
        last,
        *_way_through(evidence, key),
        *_by_hand(evidence, key, end),
        *other_addresses(evidence, key, end),
        "this end's route, firewall, port and keys are right as far as can be checked here",
    )
    message = (
        f"{end} does not answer. Possible causes: a firewall there or on the way drops UDP to port {end.port}; "
        "the other end is off; or one end does not have the other's public key"
    )
    remedy = f"at the other end, the interface's public key must be {key}, and a peer must have {evidence.own_key}"
    return cause(
        "no-answer", message, *facts, remedy=remedy, peer=key, confidence=LIKELY, other_end="wgq doctor --listen 30"
    )
