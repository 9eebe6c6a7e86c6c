"""Causes inside the tunnel, once the handshake works."""

from __future__ import annotations

import errno
from os import strerror

from wgquick.device import SESSION_AGE
from wgquick.diagnosis import nets
from wgquick.diagnosis.doctor.comparison import cause, listed, two_hosts
from wgquick.diagnosis.doctor.firewall_verdict import by, firewall_verdict, translations
from wgquick.diagnosis.doctor.packet import ARRIVING, LEAVING, PASSING, Packet
from wgquick.diagnosis.finding import CERTAIN, ERROR, INFO, LIKELY, POSSIBLE, WARNING
from wgquick.diagnosis.hooks import commands
from wgquick.lean import TYPE_CHECKING
from wgquick.net import address_text, pack_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.evidence import Beyond, Evidence, Watched
    from wgquick.net import PublicKey
    from wgquick.observations import PathMtu

_LEAST_MTU = 68  # of IPv4 (RFC 791)
_STRICT = "1"
_SWITCHES = {4: "ip_forward", 6: "conf.all.forwarding"}
_CHATTER, _CHATTER_TIME = 8, 10.0
"""The number of packets, and the seconds, that a TUN device itself may account for: three router solicitations
(RFC 4861), multicast reports (RFC 3810), and one neighbour solicitation for each of its addresses (RFC 4862)."""
_ANSWERING = frozenset({
    "1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001", "8.8.8.8", "8.8.4.4",
    "2001:4860:4860::8888", "2001:4860:4860::8844", "9.9.9.9", "2620:fe::fe",
})  # fmt: skip
"""Public DNS servers, which certainly answer."""
_MOVES = 2  # changes of an endpoint in a few seconds


def causes(evidence: Evidence) -> Iterator[Cause]:
    """The causes inside the tunnel."""
    if not evidence.is_up:
        return
    for key, watched in evidence.watched.items():
        yield from _blocked(evidence, key, watched)
        yield from _one_way(evidence, key, watched)
        yield from _rejected(evidence, key, watched)
        yield from _size(evidence, key, watched)
        yield from _alternating_endpoint(evidence, key, watched)
    yield from _sources(evidence)
    yield from _forwarding(evidence)
    yield from _no_way_back(evidence)
    yield from _not_forwarded(evidence)
    yield from _silent_servers(evidence)


def rp_filter(evidence: Evidence, link: str) -> bool:
    """Whether the reverse path filter is strict on a link (ip-sysctl: the greater of conf/all and conf/LINK)."""
    values = (evidence.parameters.get(f"net/ipv4/conf/{each}/rp_filter") or "0" for each in ("all", link))
    return max(values) == _STRICT


def _blocked(evidence: Evidence, key: PublicKey, watched: Watched) -> Iterator[Cause]:
    """This host drops packets that come out of the tunnel or go into it."""
    name, unbound = evidence.name, watched.unbound
    if unbound is not None and not unbound.answered:
        yield _diverted(evidence, key, unbound.address, unbound.errno)
    for echo in watched.echoes:
        if echo.errno == errno.EPERM:
            leaving = _echo(echo.address, output_link=name, destination=echo.address, icmp="echo-request")
            where = by(evidence.rulesets, leaving, LEAVING)
            message = f"this host's firewall drops packets into {name}{where}"
            fact = f"sending an echo request to {echo.address} fails: {strerror(echo.errno)}"
            remedy = f"allow {name} in the output chains: see `nft list ruleset' and `iptables -S OUTPUT'"
            yield cause("output-blocked", message, fact, remedy=remedy, peer=key)
            return
    if not watched.came:
        return
    address = watched.came[0]
    way = evidence.ways.get(address)
    if pack_address(address) in evidence.local:
        message = f"{address} is an address of the other end, and also this host's own: its packets stay here"
        seen = f"an answer from {address} comes out of {name}"
        remedy = f"remove {address} from this host: see `ip address show to {address}'"
        yield cause("address-shared", message, seen, remedy=remedy, peer=key)
        return
    fact = f"an answer from {address} comes out of {name} but does not reach the socket"
    if ":" not in address and rp_filter(evidence, name) and (way is None or way.link != name):
        message = f"the reverse path filter drops packets from {name}: the route to their source uses another link"
        remedy = f"add a route to {address} through {name}, or set net.ipv4.conf.{name}.rp_filter=2"
        yield cause("rp-filter", message, fact, remedy=remedy, peer=key)
        return
    packet = _echo(address, input_link=name, source=address, icmp="echo-reply", state="established")
    message = f"this host's firewall drops packets from {name}{by(evidence.rulesets, packet, ARRIVING)}"
    yield cause("input-blocked", message, fact, remedy=f"accept packets from {name} in the input chains", peer=key)


def _diverted(evidence: Evidence, key: PublicKey, address: str, refusal: int) -> Cause:
    """An address answers packets of a socket that is bound to the tunnel, and no others."""
    name = evidence.name
    facts = [
        f"an echo request to {address} that is bound to {name} is answered, one by this host's own routes is not",
        f"`ip route get {address}': dev {name}",
    ]
    facts += [f"sending fails: {strerror(refusal)}"] if refusal else []
    message = f"packets of other programs to {address} do not get into {name}: a rule or a mark diverts them"
    remedy = "see `ip rule', the chains of `nft list ruleset' with `type route', and `iptables -t mangle -S OUTPUT'"
    return cause("route-shadowed", message, *facts, remedy=remedy, peer=key, confidence=LIKELY)


def _echo(address: str, **more: str) -> Packet:
    six = ":" in address
    return Packet(6 if six else 4, protocol="icmpv6" if six else "icmp")._replace(**more)  # type: ignore[arg-type]


def _one_way(evidence: Evidence, key: PublicKey, watched: Watched) -> Iterator[Cause]:
    """The handshake works, but no data comes back."""
    handshake = watched.handshake_result
    shaken = handshake is not None and handshake.outcome == "answered" and handshake.was_admitted
    has_session = evidence.now - watched.after.last_handshake < SESSION_AGE or watched.has_new_handshake
    if not shaken or not has_session or watched.answers or watched.came or not watched.echoes:
        return
    if watched.has_data:
        return
    asked = listed(echo.address for echo in watched.echoes)
    is_kept = not watched.sent or evidence.has_sent is False  # a device also sends keepalives and handshakes
    if is_kept and not any(echo.errno for echo in watched.echoes):
        yield _never_sent(evidence, key, watched.echoes[0].address, asked)
        return
    mine = (address_text(prefix.address) for prefix in evidence.addresses if not nets.is_link_local(prefix))
    own = listed(mine) or "its address"
    way = evidence.ways.get(watched.echoes[0].address)
    wrong = way.source if way and way.link == evidence.name and way.source else ""
    if wrong and pack_address(wrong) not in {prefix.address for prefix in evidence.addresses}:
        message = f"this host sends from {wrong}, no address of {evidence.name}, so the other end drops the packets"
        fact = f"`ip route get {watched.echoes[0].address}': src {wrong}"
        remedy = f"remove src from the route {way.destination if way else ''} dev {evidence.name}"
        yield cause("no-data-back", message, fact, remedy=remedy, peer=key, confidence=LIKELY)
        return
    facts = (
        "the other end answered a handshake just now, so the keys are right",
        f"{watched.sent} bytes were sent to {asked}; no data came back",
    )
    message = (
        f"the handshake succeeds, but no data comes back. Possible causes at the other end: its AllowedIPs for "
        f"this end lack {own}, its firewall drops packets from the tunnel, it has no route back, or no "
        f"host there has {asked}; or a firewall on the way drops data messages"
    )
    remedy = f"at the other end, add {own} to AllowedIPs of peer {evidence.own_key}, and check the firewall"
    known = any(nets.is_single(ip) for ip in watched.after.allowed_ips)
    sure = LIKELY if known else POSSIBLE
    yield cause("no-data-back", message, *facts, remedy=remedy, peer=key, confidence=sure, other_end="wgq doctor")


def _rejected(evidence: Evidence, key: PublicKey, watched: Watched) -> Iterator[Cause]:
    """The other end answers, but its firewall rejects what doctor sends. This may be intended."""
    found = [each.address for each in watched.echoes if each.address in evidence.rejections]
    if found and not any(each.answered == "icmp" for each in watched.echoes):
        message = f"the tunnel works, but {listed(found)} rejects echo requests, and may reject all else too"
        fact = "an ICMP error from the address itself came back: its firewall has a rule that rejects"
        remedy = "see the input chains of the firewall at the other end"
        mild = cause("no-data-back", message, fact, remedy=remedy, peer=key, severity=INFO, other_end="wgq doctor")
        yield mild._replace(confidence=POSSIBLE)


def _never_sent(evidence: Evidence, key: PublicKey, address: str, asked: str) -> Cause:
    """The kernel takes packets into the tunnel, and the device gets none."""
    name = evidence.name
    leaving = _echo(address, output_link=name, destination=address, icmp="echo-request")
    where = by(evidence.rulesets, leaving, ("egress",))
    message = f"this host drops packets into {name} before the device gets them{where}"
    fact = f"echo requests went to {asked}, and the device sent nothing"
    remedy = (
        f"see `tc -s qdisc show dev {name}', `tc filter show dev {name} egress', the egress chains of `nft list "
        f"ruleset', and the queue length (qlen) of `ip link show {name}'"
    )
    return cause("output-blocked", message, fact, remedy=remedy, peer=key, confidence=LIKELY)


def _size(evidence: Evidence, key: PublicKey, watched: Watched) -> Iterator[Cause]:
    if watched.fitting is None or evidence.link is None:
        return
    name, mtu = evidence.name, evidence.link.mtu
    fits, headers = watched.fitting, 80 if _is_over_ipv6(watched) else 60
    facts = (
        f"echo requests of {mtu} bytes are lost, those of {fits} bytes are answered",
        f"with the headers of WireGuard, {fits} bytes become {fits + headers} on the way",
        *_path(watched.path),
    )
    message = f"packets of {name}'s MTU, {mtu} bytes, are lost on the way to this peer: connections hang"
    best = unfragmented(fits, headers, watched.path)
    remedy = f"set MTU = {best} in the files of both ends; to try it now: ip link set mtu {best} dev {name}"
    yield cause("mtu-too-large", message, *facts, remedy=remedy, peer=key)


def unfragmented(fits: int, headers: int, path: PathMtu | None) -> int:
    """The largest MTU of the tunnel, in bytes, with which packets reach the endpoint in one piece.

    A larger packet is answered too if its fragments arrive. WireGuard pads packets to multiples of 16 bytes.
    """
    best = (path.reported - headers) // 16 * 16 if path is not None else 0
    return min(fits, best) if best >= _LEAST_MTU else fits


def _path(path: PathMtu | None) -> Iterator[str]:
    """The facts about the path outside the tunnel."""
    if path is not None and path.reported:
        by = path.sender or "this host's own link"
        yield f"{by} reports that the MTU of the path to the endpoint is {path.reported} bytes"
    elif path is not None and path.answered and path.lost:
        sizes = f"of {path.lost} bytes are lost, those of {path.answered} bytes are answered"
        yield f"outside the tunnel, echo requests {sizes}"


def _is_over_ipv6(watched: Watched) -> bool:
    return watched.after.endpoint is not None and watched.after.endpoint.family == 6


def _alternating_endpoint(evidence: Evidence, key: PublicKey, watched: Watched) -> Iterator[Cause]:
    """A peer's endpoint alternates, as repeated readings of the device or the daemon's counters show."""
    seen = watched.endpoints
    moves = len(seen) - 1 if len(set(seen)) < len(seen) else 0
    if evidence.counters is not None and evidence.counters_before is not None:
        after, before = (each.peer(key).total("roamed") for each in (evidence.counters, evidence.counters_before))
        moves = max(moves, after - before)
    if moves < _MOVES:
        return
    facts = (
        f"its endpoint changed {moves} times in {evidence.listened:.0f} s",
        f"it was {listed(dict.fromkeys(seen))}",
    )
    yield two_hosts(key, *facts, confidence=LIKELY)


def _sources(evidence: Evidence) -> Iterator[Cause]:
    """The kernel's WireGuard counts packets with a source outside the peer's AllowedIPs (rx_frame_errors)."""
    before, after = evidence.link, evidence.link_after
    if before is None or after is None or before.kind != "wireguard":
        return
    count = after.rx_frame_errors - before.rx_frame_errors
    chatter = _CHATTER * max(1.0, evidence.listened / _CHATTER_TIME)
    if count > 1:
        peers = evidence.peers
        key = peers[0].public_key if len(peers) == 1 else None
        facts = (
            f"rx_frame_errors of {evidence.name} rose from {before.rx_frame_errors} to {after.rx_frame_errors}",
        )
        message = "a peer sends from an address that is not in its AllowedIPs"
        remedy = "add that address to the peer's AllowedIPs, or correct the Address at the other end"
        probed = [watched for watched in evidence.watched.values() if watched.echoes]
        everyone_answers = bool(probed) and all(watched.answers for watched in probed)
        if count > chatter and not everyone_answers:
            yield cause("source-not-allowed", message, *facts, remedy=remedy, peer=key, confidence=LIKELY)
        else:
            few = "a TUN device at the other end sends packets of its own, from fe80::, even if the tunnel is idle"
            mild = cause("source-not-allowed", message, *facts, few, remedy=remedy, peer=key, severity=INFO)
            yield mild._replace(confidence=POSSIBLE)


def _not_forwarded(evidence: Evidence) -> Iterator[Cause]:
    """The other end of a full tunnel answers, and nothing from beyond it does.

    Some full tunnels lead to one network only, so this counts only if this host itself sends traffic beyond.
    """
    silent = {server for server, has_answered in evidence.asked_servers.items() if not has_answered}
    found = evidence.beyond
    if not any(each.sent or each.target in silent for each in found):
        return
    lost = {address for each in found for address in each.sent}
    if len(lost) == 1 and not lost & _ANSWERING and not any(each.target in silent for each in found):
        yield _one_silent_address(found, *lost)
        return
    is_partial = any(each.works for each in found) or not any(each.sent for each in found)
    severity = WARNING if is_partial else ERROR
    families = ", ".join(f"IPv{each.family}" for each in found)
    switches = [f"net.ipv{each.family}.{_SWITCHES[each.family]}" for each in found]
    reasons = "it does not masquerade them, or its firewall drops them"
    if any(each.is_refused for each in found):
        reasons = "its firewall rejects them"
    elif not any(each.is_forwarding for each in found):
        reasons = f"it does not forward packets ({', '.join(switches)}), {reasons}"
    targets = listed(each.target for each in found)
    sent = [address for each in found for address in each.sent]
    facts = [f"the other end answers; echo requests to {targets} with 1 to 64 hops get no answer from beyond"]
    facts += [f"this host sends to {listed(sent)}, and nothing comes back"] if sent else []
    if any(each.is_forwarding for each in found):
        facts.append("the other end forwards: it reported that a packet had no hops left")
    message = f"the tunnel works, but nothing comes back from beyond its other end ({families}): {reasons}"
    settings = " ".join(f"{switch}=1" for switch in switches)
    remedy = f"at the other end, run `sysctl {settings}', and masquerade what leaves it: its PostUp should do both"
    yield cause(
        "not-forwarded",
        message,
        *facts,
        remedy=remedy,
        peer=found[0].peer,
        severity=severity,
        confidence=LIKELY,
        other_end="wgq doctor",
    )


def _one_silent_address(found: Sequence[Beyond], address: str) -> Cause:
    """A single address that does not answer may belong to no host."""
    message = (
        f"this host sends to {address} through the tunnel, and nothing comes back: no host has that address, or "
        "the other end does not pass packets on"
    )
    fact = f"echo requests to {listed(each.target for each in found)} with 1 to 64 hops get no answer either"
    remedy = "run doctor while this host pings 9.9.9.9 through the tunnel, which tells the two apart"
    key = found[0].peer
    mild = cause("not-forwarded", message, fact, remedy=remedy, peer=key, severity=INFO, other_end="wgq doctor")
    return mild._replace(confidence=POSSIBLE)


def _silent_servers(evidence: Evidence) -> Iterator[Cause]:
    """DNS servers in a working tunnel that do not answer."""
    if not any(watched.answers or watched.has_data for watched in evidence.watched.values()):
        return
    if silent := [server for server, has_answered in evidence.asked_servers.items() if not has_answered]:
        what = "DNS servers" if len(silent) > 1 else "DNS server"
        message = f"the tunnel works, but its {what} {listed(silent)} did not answer a query: names do not resolve"
        every = [ip for peer in evidence.peers for ip in peer.allowed_ips]
        beside = [
            each for each in silent if not any(nets.contains(ip, nets.host(pack_address(each))) for ip in every)
        ]
        facts = [f"no peer's AllowedIPs has {listed(beside)}"] if beside else []
        remedy = (
            f"check that a resolver runs at {silent[0]} and accepts queries from the tunnel, or write another "
            "server into DNS"
        )
        yield cause("dns-silent", message, *facts, remedy=remedy, confidence=LIKELY)


def _forwarding(evidence: Evidence) -> Iterator[Cause]:
    """This host should forward packets and does not."""
    pairs = [pair for pair in evidence.passed_on if _is_meant(evidence, pair)]
    intends = _intends_to_forward(evidence)
    for family in (4, 6):
        seen = [pair for pair in pairs if (":" in pair[1]) == (family == 6)]
        if not seen and not (family == 4 and intends):
            continue
        links = [evidence.name, *(evidence.ways[target].link for _, target in seen if target in evidence.ways)]
        if off := next((each for each in links if each and not _forwards(evidence, family, each)), ""):
            name = "net.ipv4.ip_forward" if family == 4 else "net.ipv6.conf.all.forwarding"
            if family == 4 and evidence.parameters.get("net/ipv4/ip_forward") == "1":
                name = f"net.ipv4.conf.{off}.forwarding"
            facts = [f"{source} sends to {target} through this host" for source, target in seen[:2]]
            facts += ["the file's hooks forward or masquerade"] if intends and family == 4 else []
            message = f"IPv{family} forwarding is off on this host, so it drops what peers send through it"
            remedy = f"run `sysctl {name}=1', and set it in /etc/sysctl.d"
            sure = CERTAIN if seen else LIKELY
            yield cause("forwarding-off", message, *facts, remedy=remedy, confidence=sure)
        elif lost := next((pair for pair in seen if (way := evidence.ways.get(pair[1])) and way.errno), None):
            message = f"this host has no route to {lost[1]}, to which {lost[0]} sends through it"
            remedy = "add a default route, or one to that network"
            yield cause(
                "route-missing", message, f"`ip route get {lost[1]}' fails", remedy=remedy, confidence=LIKELY
            )
        elif blocked := [*_forward_blocked(evidence, family, seen)]:
            yield from blocked
        else:
            yield from _not_masqueraded(evidence, family, seen)


def _forward_blocked(evidence: Evidence, family: int, seen: list[tuple[str, str]]) -> Iterator[Cause]:
    source, target = seen[0] if seen else (_some_peer(evidence, family), "")
    out = _out_of(evidence, target)
    packet = Packet(family, evidence.name, out, source, target, protocol="tcp", destination_port=443)
    answer = Packet(family, out, evidence.name, target, source, "tcp", 443, state="established")
    for each, what in ((packet, "from"), (answer, "to")):
        found = firewall_verdict(evidence.rulesets, each, PASSING)
        if not found.is_dropped or not (found.is_certain or seen):
            continue
        facts = [f"{one} sends to {other} through this host" for one, other in seen[:2]]
        message = f"this host's firewall drops forwarded packets {what} {evidence.name}: {found.where}"
        remedy = f"accept packets {what} {evidence.name} in an earlier rule"
        sure = CERTAIN if found.is_certain and seen else LIKELY
        yield cause("forward-blocked", message, *facts, remedy=remedy, confidence=sure)
        return


def _not_masqueraded(evidence: Evidence, family: int, seen: list[tuple[str, str]]) -> Iterator[Cause]:
    """Packets with a private source leave by the default route unchanged, and nothing comes back to it."""
    for source, target in seen:
        way = evidence.ways.get(target)
        if way is None or way.link in ("", evidence.name) or (way.link, way.gateway or target) in evidence.silent:
            continue
        if not nets.is_private(pack_address(source)) or _is_answered(evidence, source):
            continue
        if evidence.rulesets is None or evidence.rulesets.unread:
            continue
        packet = Packet(family, "", way.link, source, target)
        rules = translations(evidence.rulesets, packet)
        if any(matched is not False for matched, _ in rules):
            continue
        is_far = way.destination in ("0.0.0.0/0", "::/0")
        facts = [f"{source} sends to {target} through this host and {way.link}, and nothing comes back"]
        facts += [f"it is not for such packets: {text}" for _, text in rules[:2]]
        message = (
            f"this host forwards packets of {source} to {way.link} with that private source, as no rule "
            "masquerades them: the receivers cannot answer"
        )
        tool = "iptables" if family == 4 else "ip6tables"
        remedy = (
            f"run `{tool} -t nat -A POSTROUTING -o {way.link} -j MASQUERADE' and write it into PostUp, or add a "
            f"route to the tunnel's network at {way.gateway or target}"
        )
        sure = LIKELY if is_far else POSSIBLE
        yield cause("not-masqueraded", message, *facts, remedy=remedy, confidence=sure)
        return


def _is_answered(evidence: Evidence, source: str) -> bool:
    """Whether packets from beyond this host went to the address through the tunnel."""
    return any(
        destination == source and pack_address(sender) not in evidence.local
        for sender, destination in evidence.went_in
    )


def _no_way_back(evidence: Evidence) -> Iterator[Cause]:
    """Answers to packets from the tunnel take another link. With automatic routes, other rules report this."""
    routes = [route for each in evidence.routes.values() for route in each]
    dropped = {address for watched in evidence.watched.values() for address in watched.came}
    for source, target in sorted(evidence.came_out):
        way = None if source in dropped else evidence.ways.get(source)
        if way is None or way.link in ("", evidence.name) or way.kind != "unicast":
            continue
        if any(nets.contains(route, nets.host(pack_address(source))) for route in routes):
            continue  # another route takes its traffic
        if any(destination == source for _, destination in evidence.went_in) or nets.is_on_link(
            pack_address(source)
        ):
            continue
        facts = (
            f"{source} sends to {target} out of {evidence.name}",
            f"`ip route get {source}': dev {way.link}, by the route {way.destination}",
        )
        message = f"answers to {source}, which sends through {evidence.name}, go to {way.link}: a route is missing"
        remedy = f"run `ip route add {source} dev {evidence.name}' (or its whole network), and write it into PostUp"
        yield cause("route-missing", message, *facts, remedy=remedy, confidence=LIKELY)
        return


def _out_of(evidence: Evidence, target: str) -> str:
    """The link that a packet would leave by: from the routes if known, else the uplink to the peers."""
    if target and target in evidence.ways:
        return evidence.ways[target].link
    links = [each.way.link for each in evidence.outside.values() if each.way is not None and each.way.link]
    return links[0] if links else evidence.uplink


def _some_peer(evidence: Evidence, family: int) -> str:
    for peer in evidence.peers:
        for ip in peer.allowed_ips:
            if ip.family == family and nets.is_single(ip):
                return address_text(ip.address)
    return ""


def _is_meant(evidence: Evidence, pair: tuple[str, str]) -> bool:
    """Whether a packet should be forwarded: not one to an address of the tunnel's own network that no peer has."""
    target = nets.host(pack_address(pair[1]))
    single = any(
        nets.is_single(ip) and ip.address == target.address for p in evidence.peers for ip in p.allowed_ips
    )
    return single or not any(nets.contains(own, target) for own in evidence.addresses if not nets.is_single(own))


def _forwards(evidence: Evidence, family: int, link: str) -> bool:
    key = f"net/ipv4/conf/{link}/forwarding" if family == 4 else "net/ipv6/conf/all/forwarding"
    return evidence.parameters.get(key) != "0"


def _intends_to_forward(evidence: Evidence) -> bool:
    """Whether the hooks show that this host should forward for its peers."""
    if "ip_forward" in evidence.hooks:
        return True
    for command in commands(evidence.hooks):
        words = {word.upper() for word in command.words}
        program = command.words[0].rpartition("/")[2]
        if program in ("iptables", "ip6tables", "nft") and words & {"MASQUERADE", "FORWARD"}:
            return True
    return False
