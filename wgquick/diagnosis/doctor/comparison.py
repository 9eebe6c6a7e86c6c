"""Causes on this host: the file, the journal, the device and the host are compared with each other."""

from __future__ import annotations

import errno
from os import strerror

from wgquick.config.keys import clamped
from wgquick.diagnosis import nets, remedies
from wgquick.diagnosis.doctor.cause import Cause
from wgquick.diagnosis.doctor.codes import CODES
from wgquick.diagnosis.doctor.gather import DNS, FIREWALL, intended_networks, sample
from wgquick.diagnosis.finding import CERTAIN, ERROR, INFO, LIKELY, WARNING
from wgquick.diagnosis.hooks import commands
from wgquick.lean import TYPE_CHECKING
from wgquick.net import IPV6_MTU, MAIN_TABLE, TUNNELS, Prefix, address_text
from wgquick.options import DIRECTORY
from wgquick.plan import lost
from wgquick.plan.steps import DeleteRule, DeleteThrow, ReleaseSysctl, RemoveFirewall, parameter
from wgquick.plan.up import SRC_VALID_MARK, Coverage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wgquick.config.settings import PeerSettings, Settings
    from wgquick.device import DevicePeer
    from wgquick.diagnosis.doctor.evidence import Evidence
    from wgquick.net import AllowedIP, Endpoint, PublicKey, Rule, SocketAddress
    from wgquick.observations import Way

_SHOWN = 6


def causes(evidence: Evidence) -> Iterator[Cause]:
    """The causes that these comparisons find."""
    if evidence.is_unread:
        message = f"{evidence.name} was not examined for lack of time: reading the other interfaces took too long"
        remedy = f"run `wgq doctor {evidence.name}'"
        yield cause("not-examined", message, remedy=remedy, severity=WARNING)
        return
    if evidence.unread:
        message = f"not examined for lack of time: {listed(evidence.unread)}"
        remedy = f"find out why it is slow, or run `wgq doctor --listen 30 {evidence.name}', which has more time"
        yield cause("not-examined", message, remedy=remedy)
    if not evidence.is_up:
        yield from _not_up(evidence)
        return
    if evidence.watched and evidence.heard is None:
        message = f"not examined, as packets cannot be captured here: what arrives at {evidence.name}'s port"
        yield cause("not-examined", message, remedy="run doctor with CAP_NET_RAW, where AF_PACKET is permitted")
    yield from _keys(evidence)
    yield from _clock(evidence)
    yield from _port(evidence)
    yield from _nobody_connects(evidence)
    yield from _peers(evidence)
    yield from _mark(evidence)
    yield from _rules(evidence)
    yield from _low_mtu(evidence)
    yield from _same_network(evidence)
    yield from _unclaimed(evidence)
    yield from _addresses(evidence)
    yield from _routes(evidence)
    yield from _shadowed(evidence)
    yield from _firewall(evidence)
    yield from _parameters(evidence)
    yield from _mtu(evidence)
    yield from _dns(evidence)


def cause(
    code: str,
    message: str,
    *evidence: str,
    remedy: str = "",
    peer: PublicKey | None = None,
    confidence: str = CERTAIN,
    severity: str = "",
    other_end: str = "",
) -> Cause:
    """A cause with the code's usual severity, unless `severity` is given."""
    severity = severity or CODES[code].severity
    key = None if peer is None else str(peer)
    return Cause(code, severity, confidence, key, message, evidence, remedy, other_end)


def down_and_up(name: str) -> str:
    """The remedy that takes the tunnel down and brings it up."""
    return f"run `wgq down {name}' and `wgq up {name}'"


def fix_restores(name: str) -> str:
    """The remedy for what `--fix` restores."""
    return f"run `wgq doctor --fix {name}' to restore it"


def listed(words: Iterable[object]) -> str:
    """The first words, joined by commas, and the number of the others."""
    every = [str(word) for word in words]
    more = [f"{len(every) - _SHOWN} more"] if len(every) > _SHOWN else []
    return ", ".join([*every[:_SHOWN], *more])


# Why the interface is not up.


def _not_up(evidence: Evidence) -> Iterator[Cause]:
    name, settings, link = evidence.name, evidence.settings, evidence.link
    up = f"run `wgq up {name}'"
    if link is None and evidence.renamed:
        now = evidence.renamed
        message = f"the link {name} was renamed to {now} after it was brought up, so nothing finds it"
        remedy = f"run `ip link set {now} down; ip link set {now} name {name}', then {down_and_up(name)}"
        yield cause("not-up", message, "its index is the one in the journal", remedy=remedy)
    elif link is None and evidence.device is not None:
        message = f"the link {name} is not in this network namespace: it was moved to another one"
        remedy = f"see `ip netns list', and run `ip netns exec NAME wgq doctor {name}'"
        yield cause("not-up", message, f"the daemon of {name} is running and answers", remedy=remedy)
    elif link is None:
        yield from _why_not_up(evidence)
        if evidence.record is not None and evidence.record.complete:
            facts = (f"the journal says that it was brought up from {evidence.record.path or 'standard input'}",)
            message = f"{name} was up and is gone: its link was deleted, or its daemon has ended"
            yield cause("not-up", message, *facts, remedy=up)
        elif settings is None and not evidence.file.faults:
            message = f"there is no interface {name} and no configuration file for it"
            yield cause("not-up", message, remedy=f"check the name, or write {DIRECTORY}/{name}.conf")
        else:
            yield cause("not-up", f"{name} is not up", f"there is no link {name}", remedy=up)
    elif evidence.device is None:
        if link.kind not in (*TUNNELS, ""):
            message = f"{name} is a link of kind {link.kind}, not a WireGuard interface"
            yield cause("not-up", message, remedy="rename the configuration file: its name is the interface's")
        else:
            message = f"the link {name} exists, but no WireGuard backend serves it"
            yield cause("not-up", message, evidence.device_error, remedy=down_and_up(name))
    else:
        yield from _why_not_up(evidence)
        yield cause("not-up", f"the link {name} is down", remedy=f"run `ip link set up dev {name}'")


def _why_not_up(evidence: Evidence) -> Iterator[Cause]:
    """The reasons why `wgq up` would fail."""
    settings, port = evidence.settings, evidence.port
    for fault in evidence.file.faults[:1]:
        where = f"{evidence.file.path}:{fault.line}:{fault.column}"
        yield Cause(fault.code, ERROR, CERTAIN, None, f"{where}: {fault.message}", (), fault.remedy)
    if settings is None:
        return
    if settings.private_key is None and "private-key" not in evidence.hooks:
        remedy = "add PrivateKey to [Interface]; `wg genkey' prints one"
        yield cause("key-missing", f"{evidence.file.path} has no PrivateKey", remedy=remedy)
    if port.refusal:
        yield _taken(evidence)
    yield from _unresolved(evidence)
    yield from _in_use(evidence)
    if settings.mtu and settings.mtu < IPV6_MTU and _wants_ipv6(settings):
        message = f"MTU = {settings.mtu} is below {IPV6_MTU}, so IPv6 addresses cannot be added and `wgq up' fails"
        remedy = f"set MTU to {IPV6_MTU} or more, or remove the IPv6 Address and AllowedIPs"
        yield cause("low-mtu", message, remedy=remedy)


def _wants_ipv6(settings: Settings) -> bool:
    return any(len(each.address) == 16 for each in settings.addresses)


def _low_mtu(evidence: Evidence) -> Iterator[Cause]:
    """The kernel removes all IPv6 addresses and routes of a link whose MTU drops below 1280."""
    settings, link = evidence.settings, evidence.link
    if settings is None or link is None or link.mtu >= IPV6_MTU or not _wants_ipv6(settings):
        return
    message = (
        f"{evidence.name} has MTU {link.mtu}: below {IPV6_MTU} the kernel removes its IPv6 addresses and routes"
    )
    remedy = f"run `ip link set mtu {IPV6_MTU} dev {evidence.name}' or more, then {down_and_up(evidence.name)}"
    yield cause("low-mtu", message, remedy=remedy)


def _same_network(evidence: Evidence) -> Iterator[Cause]:
    """Another link has the same network, and no peer answers."""
    if any(watched.answers or watched.has_data for watched in evidence.watched.values()):
        return
    for own in evidence.addresses:
        if nets.is_single(own) or nets.is_link_local(own):
            continue
        if link := next((name for each, name in evidence.networks if nets.whole(each) == nets.whole(own)), ""):
            message = f"{nets.whole(own)}, the network of {evidence.name}, is the network of {link} too"
            yield cause("net-in-use", message, f"`ip address show dev {link}'", remedy=remedies.OTHER_NETWORK)


def _unclaimed(evidence: Evidence) -> Iterator[Cause]:
    """Peers without AllowedIPs, and an own network that no peer has while no peer answers."""
    for peer in evidence.peers:
        if not peer.allowed_ips:
            message = "this peer has no AllowedIPs: the device sends nothing to it, and drops everything from it"
            remedy = "add the peer's addresses to AllowedIPs, such as its Address as /32"
            wanted = evidence.wanted.get(peer.public_key)
            if wanted is None or not wanted.allowed_ips:
                yield cause("peer-without-allowed-ips", message, remedy=remedy, peer=peer.public_key)
    if any(watched.answers or watched.has_data for watched in evidence.watched.values()):
        return
    for own in evidence.addresses:
        if nets.is_single(own) or nets.is_link_local(own) or not any(peer.allowed_ips for peer in evidence.peers):
            continue
        every = [ip for peer in evidence.peers for ip in peer.allowed_ips]
        every = [ip for ip in every if not (nets.is_single(ip) and ip.address == own.address)]
        if not any(nets.contains(ip, own) or nets.contains(own, ip) for ip in every):
            message = f"no peer's AllowedIPs has an address of {evidence.name}'s own network, {nets.whole(own)}"
            fact = "sending to it fails: Required key not available"
            remedy = "add the other end's inner address to its AllowedIPs, or that network"
            yield cause("tunnel-net-unclaimed", message, fact, remedy=remedy, confidence=LIKELY)


def _in_use(evidence: Evidence) -> Iterator[Cause]:
    settings = evidence.settings
    if settings is None or settings.table == "off" or evidence.table not in (None, MAIN_TABLE):
        return
    if evidence.link is not None:
        return
    own = [Prefix(each.address, each.length) for each in settings.addresses]
    for ip in dict.fromkeys(ip for peer in settings.peers for ip in peer.allowed_ips):
        text = f"{address_text(ip.address)}/{ip.length}"
        if ip.length == 0 or (settings.routes_automatically and Coverage(own)(ip)):
            continue
        if taken := next((route for route in evidence.foreign if route.destination == text), None):
            facts = (f"`ip route show {text}': dev {taken.link}",)
            message = f"this host already has a route to {text} through {taken.link}, so `wgq up' fails"
            remedy = "remove it from AllowedIPs, set Table, or choose another network for the tunnel"
            yield cause("net-in-use", message, *facts, remedy=remedy)


def _unresolved(evidence: Evidence) -> Iterator[Cause]:
    for key, peer in evidence.wanted.items():
        if peer.endpoint is not None and evidence.resolved.get(peer.endpoint, ()) is None:
            yield unresolved(peer.endpoint, key)


def unresolved(endpoint: Endpoint, key: PublicKey) -> Cause:
    """The cause for an endpoint's name that does not resolve."""
    message = f"the endpoint's name {endpoint.host} does not resolve"
    return cause("endpoint-unresolved", message, remedy=remedies.resolve(endpoint.host), peer=key)


def two_hosts(peer: PublicKey | None, *facts: str, confidence: str) -> Cause:
    """The cause for two hosts with one peer's private key."""
    message = "two hosts use this peer's private key: each takes the session from the other"
    remedy = "give each host its own key, and a [Peer] section here"
    return cause("one-key-two-places", message, *facts, remedy=remedy, peer=peer, confidence=confidence)


def other_preshared_key(end: SocketAddress | None, peer: PublicKey | None, *facts: str, confidence: str) -> Cause:
    """The cause for an endpoint whose answers cannot be decrypted."""
    message = f"{end} answers, but with another preshared key"
    remedy = "write the same PresharedKey at both ends"
    return cause("answer-refused", message, *facts, remedy=remedy, peer=peer, confidence=confidence)


def _taken(evidence: Evidence) -> Cause:
    port = evidence.port
    who = f" by {listed(port.holders)}" if port.holders else ""
    reason = "is in use" if port.refusal == errno.EADDRINUSE else f"cannot be bound: {strerror(port.refusal)}"
    remedy = "stop that program, or choose another ListenPort"
    return cause("port-in-use", f"UDP port {port.port} {reason}{who}", remedy=remedy)


# The device and the file.


def _keys(evidence: Evidence) -> Iterator[Cause]:
    name, settings, device = evidence.name, evidence.settings, evidence.device
    if device is None:
        return
    if evidence.own_key is None:
        how = down_and_up(name) if settings and settings.private_key else f"run `wg set {name} private-key FILE'"
        yield cause("key-missing", f"{name} has no private key, so no handshake can succeed", remedy=how)
        return
    twins = [other.name for other in evidence.others if clamped(other.private_key) == clamped(device.private_key)]
    if twins:
        message = (
            f"{name} and {listed(twins)} have the same private key: a peer can reach only one of them at a time"
        )
        yield cause("one-key-two-places", message, remedy="generate a separate key for each: wg genkey")
    given = settings.private_key if settings else None
    if given is None or clamped(given) == clamped(device.private_key) or _touches(evidence, "private-key"):
        return
    facts = (f"the device's public key is {evidence.own_key}", f"the file's is {evidence.file_key}")
    message = f"the private key of {name} is not the one in {evidence.file.path}"
    yield cause("key-differs", message, *facts, remedy=_reload(name))


def _reload(name: str) -> str:
    return f"run `wgq reload {name}' to apply the file"


def _clock(evidence: Evidence) -> Iterator[Cause]:
    latest = max((peer.last_handshake for peer in evidence.peers), default=0.0)
    ahead = max(latest, evidence.file.changed) - evidence.now
    if ahead < 60:
        return
    what = "a handshake" if latest >= evidence.file.changed else f"the last change of {evidence.file.path}"
    message = f"this host's clock is behind: {what} is {_span(ahead)} in the future"
    yield cause("clock-wrong", message, remedy=remedies.SET_CLOCK, confidence=LIKELY)


def _span(seconds: float) -> str:
    for name, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' if count != 1 else ''}"
    return f"{int(seconds)} seconds"


def _port(evidence: Evidence) -> Iterator[Cause]:
    settings, port = evidence.settings, evidence.port
    bound = evidence.device.listen_port if evidence.device else 0
    if evidence.is_moved:
        return
    wanted = settings.listen_port if settings else None
    if port.refusal and not port.is_bound:
        yield _taken(evidence)
    elif not port.is_bound:
        message = f"{evidence.name} is up but has no UDP port, so it receives nothing"
        yield cause("not-up", message, f"listening port: {bound}", remedy=down_and_up(evidence.name))
    elif wanted and wanted != bound and not _touches(evidence, "listen-port"):
        message = f"{evidence.name} listens on port {bound}, but the file has {wanted}"
        yield cause("port-differs", message, remedy=_reload(evidence.name))


def _nobody_connects(evidence: Evidence) -> Iterator[Cause]:
    """A random port and no endpoint: neither the peers nor this end know where to connect."""
    settings, wanted = evidence.settings, evidence.wanted
    if settings is None or settings.listen_port or _touches(evidence, "listen-port") or not wanted:
        return
    has_met = any(peer.endpoint or peer.last_handshake for peer in evidence.peers)
    if has_met or any(peer.endpoint for peer in wanted.values()):
        return
    port = evidence.device.listen_port if evidence.device else 0
    message = f"neither end can connect: {evidence.file.path} has no ListenPort, and no [Peer] has an Endpoint"
    fact = f"{evidence.name} listens on port {port}, which the kernel chose"
    remedy = "add ListenPort = 51820 to [Interface]; the Endpoint at each other end must have that port"
    yield cause("nobody-connects", message, fact, remedy=remedy)


def _peers(evidence: Evidence) -> Iterator[Cause]:
    wanted, live = evidence.wanted, evidence.live
    own = {evidence.own_key, evidence.file_key} - {None}
    secrets = _secrets(evidence)
    moved = {claim: keys for claim, keys in _claims(wanted).items() if len(keys) > 1}
    for key, peer in wanted.items():
        if key.raw in secrets:
            message = f"the PublicKey of a [Peer] in {evidence.file.path} is a private key of this host"
            yield cause("public-key-is-private", message, remedy=remedies.NEW_KEY)
        elif key in own and key not in live:
            message = "this peer's PublicKey is the interface's own: the device ignores the peer"
            yield cause("peer-is-self", message, remedy="write the other end's public key", peer=key)
        elif key not in live:
            yield from _missing(evidence, key)
        else:
            yield from _settings_of(evidence, peer, live[key], moved)
    yield from _moved(moved)


def _secrets(evidence: Evidence) -> set[bytes]:
    """The private keys of this host's file and devices, as they are and clamped."""
    devices = [each for each in (evidence.device, *evidence.others) if each is not None]
    keys = [each.private_key for each in devices]
    keys += [evidence.settings.private_key] if evidence.settings else []
    return {each.raw for key in keys for each in (key, clamped(key)) if each is not None and any(each.raw)}


def _missing(evidence: Evidence, key: PublicKey) -> Iterator[Cause]:
    name = evidence.name
    saved = evidence.settings is not None and evidence.settings.save_config
    message = f"{name} does not have this peer of {evidence.file.path}"
    yield cause("peer-missing", message, remedy=_reload(name), peer=key, severity=WARNING if saved else ERROR)


Claims = dict["AllowedIP", list["PublicKey"]]


def _claims(wanted: dict[PublicKey, PeerSettings]) -> Claims:
    found: Claims = {}
    for key, peer in wanted.items():
        for ip in dict.fromkeys(peer.allowed_ips):
            if not ip.change:
                found.setdefault(ip, []).append(key)
    return found


def _moved(moved: Claims) -> Iterator[Cause]:
    """Networks that peers lose: a network goes to the last peer that has it in AllowedIPs."""
    lost: dict[PublicKey, list[AllowedIP]] = {}
    for ip, keys in moved.items():
        for key in keys[:-1]:
            lost.setdefault(key, []).append(ip)
    for key, networks in lost.items():
        holders = dict.fromkeys(moved[ip][-1] for ip in networks)
        message = f"{listed(networks)} of this peer's AllowedIPs went to a later peer, {listed(holders)}"
        remedy = "give each address to one peer only, as /32 or /128"
        yield cause("allowed-ip-moved", message, remedy=remedy, peer=key)


def _settings_of(evidence: Evidence, peer: PeerSettings, live: DevicePeer, moved: Claims) -> Iterator[Cause]:
    name, key = evidence.name, peer.public_key
    remedy = _reload(name)
    saved = evidence.settings is not None and evidence.settings.save_config
    psk = peer.preshared_key if peer.preshared_key and any(peer.preshared_key.raw) else None
    if psk != live.preshared_key and not _touches(evidence, "preshared-key"):
        state = "no" if live.preshared_key is None else "another" if psk else "a"
        what = "the file has one" if psk else "the file has none"
        message = f"the device has {state} preshared key for this peer, but {what}"
        if psk and live.preshared_key is not None:
            message = "the device has another preshared key for this peer than the file"
        yield cause("psk-differs", message, remedy=remedy, peer=key)
    given = {ip for ip in peer.allowed_ips if not ip.change}
    has = set(live.allowed_ips)
    lacks = [ip for ip in given - has if moved.get(ip, [key])[-1] == key]
    beyond = has - given if peer.replace_allowed_ips and not any(ip.change for ip in peer.allowed_ips) else set()
    taken = [ip for ip in lacks if any(ip in other.allowed_ips for other in evidence.live.values())]
    if _touches(evidence, "allowed-ips"):
        return
    if taken:
        holder = next(each for each in evidence.live.values() if taken[0] in each.allowed_ips)
        message = f"{listed(taken)} of this peer's AllowedIPs went to another peer, {holder.public_key}"
        yield cause("allowed-ip-moved", message, remedy=remedy, peer=key)
    elif lacks or beyond:
        facts = [f"the device lacks {listed(sorted(map(str, lacks)))}"] if lacks else []
        facts += [f"the device also has {listed(sorted(map(str, beyond)))}"] if beyond else []
        message = "this peer's AllowedIPs on the device differ from the file's"
        severity = INFO if saved else ERROR if lacks else WARNING
        yield cause("allowed-ips-differ", message, *facts, remedy=remedy, peer=key, severity=severity)


def _touches(evidence: Evidence, word: str) -> bool:
    """Whether a hook sets this part of the device, or all of its peers."""
    for command in commands(evidence.hooks):
        if command.words[0].rpartition("/")[2] in ("wg", "awg") and len(command.words) > 1:
            if command.words[1] in ("setconf", "addconf", "syncconf"):
                return True
            if command.words[1] == "set" and (word in command.words or word.startswith("any")):
                return True
    return False


def _hook_does(evidence: Evidence, *words: str) -> bool:
    """Whether a hook runs ip, sysctl, nft or iptables with all of these words."""
    return any(
        command.words[0].rpartition("/")[2] in ("ip", "sysctl", "nft", "iptables", "ip6tables")
        and all(word in command.words for word in words)
        for command in commands(evidence.hooks)
    )


# The host.


def _mark(evidence: Evidence) -> Iterator[Cause]:
    settings, name = evidence.settings, evidence.name
    given = settings.fwmark if settings else None
    recorded = _recorded_marks(evidence)
    if given and given != evidence.fwmark and not _touches(evidence, "fwmark"):
        message = f"{name} has {_shown(evidence.fwmark)}, but the file has FwMark = {hex(given)}"
        yield cause("mark-differs", message, remedy=fix_restores(name))
    elif not given and recorded and evidence.fwmark not in recorded:
        wanted = min(recorded)
        facts = (f"its policy routing rule is for packets without the mark {hex(wanted)}",)
        message = f"{name} has {_shown(evidence.fwmark)}, but its full tunnel needs the mark {hex(wanted)}"
        yield cause("mark-differs", message, *facts, remedy=fix_restores(name))


def _recorded_marks(evidence: Evidence) -> set[int]:
    """The mark of the full tunnel, from the journal, or from the rule for the table with its default route."""
    recorded = _recorded_rules(evidence)
    if evidence.record is None:
        routes = evidence.routes
        full = {table for table in routes if any(route.length == 0 for route in routes[table])}
        recorded = [rule for rule in evidence.rules if rule.table in full and rule.fwmark == rule.table]
    return {rule.fwmark for rule in recorded if rule.fwmark is not None}


def recorded_mark(evidence: Evidence) -> int:
    """The mark that the device should have by the file or the journal; 0 if they have none."""
    given = evidence.settings.fwmark if evidence.settings else None
    return given or min(_recorded_marks(evidence), default=0)


def _shown(mark: int) -> str:
    return f"the mark {hex(mark)}" if mark else "no mark"


def _recorded_rules(evidence: Evidence) -> list[Rule]:
    record = evidence.record
    return [undo.rule for undo in record.undos if isinstance(undo, DeleteRule)] if record else []


def missing_rules(evidence: Evidence) -> list[Rule]:
    """The rules of the journal that the host lacks, at any priority: a hook may have moved them."""
    return lost.missing_rules(evidence.record.undos if evidence.record else (), evidence.rules)


def _rules(evidence: Evidence) -> Iterator[Cause]:
    name = evidence.name
    remedy = fix_restores(name)
    for rule in missing_rules(evidence):
        yield cause("rule-missing", f"the policy routing rule `{lost.rule_text(rule)}' is missing", remedy=remedy)
    if evidence.record is not None or not evidence.fwmark or not _automatic(evidence.settings):
        return
    for family in sorted({ip.family for peer in evidence.peers for ip in peer.allowed_ips if ip.length == 0}):
        rules = [rule for rule in evidence.rules if rule.family == family]
        if Prefix(bytes(4 if family == 4 else 16), 0) not in evidence.routes.get(evidence.fwmark, frozenset()):
            continue  # wg-quick did not set up this family either
        if not any(rule.fwmark == evidence.fwmark and rule.table == evidence.fwmark for rule in rules):
            text = f"ip -{family} rule add not fwmark {evidence.fwmark} table {evidence.fwmark}"
            message = f"no policy routing rule uses the full tunnel's table {evidence.fwmark}"
            yield cause("rule-missing", message, remedy=f"run `{text}'")
        elif not any(rule.suppress_prefixlength == 0 for rule in rules):
            text = f"ip -{family} rule add table main suppress_prefixlength 0"
            message = "the policy routing rule that keeps local networks out of the full tunnel is missing"
            yield cause("rule-missing", message, remedy=f"run `{text}'")


def _automatic(settings: Settings | None) -> bool:
    return settings is None or settings.routes_automatically


def missing_addresses(evidence: Evidence) -> list[Prefix]:
    """The file's addresses that the link lacks."""
    settings = evidence.settings
    given = [Prefix(each.address, each.length) for each in settings.addresses] if settings else []
    taken = evidence.takes_ipv6
    return [each for each in given if each not in evidence.addresses and (each.family == 4 or taken)]


def _addresses(evidence: Evidence) -> Iterator[Cause]:
    missing = missing_addresses(evidence)
    disabled = evidence.parameters.get(f"net/ipv6/conf/{evidence.name}/disable_ipv6") == "1"
    settings = evidence.settings
    if (
        disabled
        and settings
        and any(len(each.address) == 16 for each in settings.addresses)
        and _had_ipv6(evidence)
    ):
        message = f"IPv6 was disabled on {evidence.name} after up, which removed its IPv6 addresses"
        all_links = evidence.parameters.get("net/ipv6/conf/all/disable_ipv6") == "1"
        which = "all" if all_links else evidence.name
        remedy = f"run `sysctl net.ipv6.conf.{which}.disable_ipv6=0', then {down_and_up(evidence.name)}"
        yield cause("address-missing", message, remedy=remedy)
    if missing and not _hook_does(evidence, "del"):
        message = f"{evidence.name} does not have the Address {listed(missing)} of the file"
        remedy = fix_restores(evidence.name)
        yield cause("address-missing", message, remedy=remedy)


def _had_ipv6(evidence: Evidence) -> bool:
    """Whether up probably set IPv6 addresses: IPv6 is disabled only for this link, or up added IPv6 rules."""
    alone = evidence.parameters.get("net/ipv6/conf/all/disable_ipv6") == "0"
    return alone or any(rule.family == 6 for rule in _recorded_rules(evidence))


def missing_routes(evidence: Evidence) -> list[tuple[int, Prefix]]:
    """The routes for the device's AllowedIPs that the host lacks, as (table, destination)."""
    settings = evidence.settings
    if settings is None or settings.table == "off":
        return []
    given = {ip for peer in evidence.peers for ip in peer.allowed_ips}
    wanted = [ip for ip in given if ip.family == 4 or evidence.takes_ipv6]
    if not settings.routes_automatically:
        table = evidence.table
        if table is None:
            return []
        has = evidence.routes.get(table, frozenset())
        return sorted((table, each) for ip in wanted if (each := _prefix(ip)) not in has)
    main = evidence.routes.get(MAIN_TABLE, frozenset())
    covers = Coverage(main)
    found = []
    for ip in wanted:
        if ip.length:
            found += [] if covers(ip) else [(MAIN_TABLE, _prefix(ip))]
        elif not any(_prefix(ip) in routes for routes in evidence.routes.values()):
            tables = [rule.table for rule in _recorded_rules(evidence) if rule.fwmark is not None]
            table = (tables or [evidence.fwmark])[0]
            found += [(table, _prefix(ip))] if table else []
    return sorted(found)


def _prefix(ip: nets.Network) -> Prefix:
    return Prefix(ip.address, ip.length)


def _routes(evidence: Evidence) -> Iterator[Cause]:
    missing = missing_routes(evidence)
    if not missing or _hook_does(evidence, "route") or _hook_does(evidence, "r"):
        return
    words = [f"{prefix}" if table == MAIN_TABLE else f"{prefix} (table {table})" for table, prefix in missing]
    message = f"the route for {listed(words)} into {evidence.name} is missing"
    remedy = fix_restores(evidence.name)
    yield cause("route-missing", message, remedy=remedy)


def _shadowed(evidence: Evidence) -> Iterator[Cause]:
    """AllowedIPs with a route into the tunnel, if their packets take another route."""
    settings, name = evidence.settings, evidence.name
    if settings is not None and not settings.routes_automatically and evidence.table != MAIN_TABLE:
        return
    tunnels = {other.name for other in evidence.others}
    own = [Prefix(each.address, each.length) for each in evidence.addresses]
    ends = {peer.endpoint.address for peer in evidence.peers if peer.endpoint}
    undos = evidence.record.undos if evidence.record else ()
    excluded = [Prefix.parse(undo.destination) for undo in undos if isinstance(undo, DeleteThrow)]
    for peer in evidence.peers:
        for ip in intended_networks(evidence, peer):
            address = address_text(sample(ip))
            way = evidence.ways.get(address)
            if way is not None and way.link == name and (other := evidence.ways_from.get(address)) is not None:
                yield from _by_source(evidence, peer.public_key, address, other)
            if way is None or way.link == name or way.kind == "local" or address in ends:
                continue
            if any(nets.contains(each, nets.host(sample(ip))) for each in excluded):
                continue
            if not way.link:
                yield from _misrouted(evidence, peer.public_key, ip, address, way)
                continue
            if way.link in tunnels and not nets.is_single(ip) and _is_within(way.destination, ip):
                continue  # a smaller network of another tunnel
            inner = any(nets.contains(each, nets.host(sample(ip))) for each in own if not nets.is_single(each))
            if _is_within(way.destination, ip) and not (nets.is_single(ip) or inner):
                continue  # the host's own network inside a larger one
            facts = (f"`ip route get {address}': dev {way.link}, by the route {way.destination}",)
            message = f"packets to {ip} of this peer's AllowedIPs go to {way.link}, not to {name}"
            remedy = f"remove the route {way.destination} through {way.link}, or remove {ip} from AllowedIPs"
            family = 4 if len(ip.address) == 4 else 6
            if (rule := _rule_before(evidence, family, way.table)) is not None:
                message += f", by the policy routing rule with the priority {rule}"
                remedy = f"remove that rule (ip -{family} rule del pref {rule}), or remove {ip} from AllowedIPs"
            yield cause("route-shadowed", message, *facts, remedy=remedy, peer=peer.public_key)
            break


def _by_source(evidence: Evidence, key: PublicKey, address: str, way: Way) -> Iterator[Cause]:
    """A policy routing rule for the tunnel's own address sends its packets elsewhere."""
    if way.link in ("", evidence.name) or way.kind != "unicast":
        return
    own = next(address_text(each.address) for each in evidence.addresses if _is_like(each, address))
    facts = (f"`ip route get {address} from {own}': dev {way.link}, by the route {way.destination}",)
    message = f"packets from {own} to {address} go to {way.link}, not to {evidence.name}, by a rule for that source"
    remedy = f"see `ip rule', and remove the rule for {own}, or give it a higher priority number"
    yield cause("route-shadowed", message, *facts, remedy=remedy, peer=key)


def _is_like(prefix: Prefix, address: str) -> bool:
    return (prefix.family == 6) == (":" in address) and not nets.is_link_local(prefix)


_REFUSED = {
    errno.EINVAL: "blackhole",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EACCES: "prohibit",
}
"""The kind of the route or rule behind each errno of a route lookup (fib_rules.c, fib_props)."""


def _misrouted(evidence: Evidence, key: PublicKey, ip: nets.Network, address: str, way: Way) -> Iterator[Cause]:
    """AllowedIPs that a rule or route drops: blackhole, unreachable or prohibit."""
    if way.destination and _is_within(way.destination, ip) and not nets.is_single(ip):
        own = [Prefix(each.address, each.length) for each in evidence.addresses if not nets.is_single(each)]
        if not any(nets.contains(each, nets.host(sample(ip))) for each in own):
            return
    said = _REFUSED.get(way.errno, strerror(way.errno)) if way.errno else f"{way.kind} {way.destination}"
    facts = (f"`ip route get {address}': {said}",)
    message = f"this host drops packets to {ip} of this peer's AllowedIPs: a route or rule precedes the tunnel's"
    remedy = f"see `ip route show match {address} table all' and `ip rule', and remove the route that drops it"
    yield cause("route-shadowed", message, *facts, remedy=remedy, peer=key)


def _rule_before(evidence: Evidence, family: int, table: int) -> int | None:
    """The priority of a rule for `table` before the full tunnel's rule; None if there is none."""
    rules = [rule for rule in evidence.rules if rule.family == family and rule.priority]
    own = [rule.priority or 0 for rule in rules if rule.fwmark is not None and not rule.other]
    before = (
        rule.priority
        for rule in rules
        if rule.table == table and rule.suppress_prefixlength is None and own and (rule.priority or 0) < min(own)
    )
    return next(before, None)


def _is_within(destination: str, ip: nets.Network) -> bool:
    """Whether a route is for a smaller network than the AllowedIP."""
    try:
        route = Prefix.parse(destination)
    except ValueError:
        return False
    return nets.contains(ip, route) and route.length > ip.length


def missing_firewalls(evidence: Evidence) -> list[tuple[str, int]]:
    """The firewall rules of the journal that the host lacks, as (kind, family)."""
    record = evidence.record
    recorded = [undo for undo in record.undos if isinstance(undo, RemoveFirewall)] if record else []
    has = set(evidence.firewalls)
    kinds = {kind for kind, _ in has}
    return [
        (undo.kind, undo.family)
        for undo in recorded
        if not (undo.kind in kinds if undo.kind == "nft" else (undo.kind, undo.family) in has)
    ]


def _firewall(evidence: Evidence) -> Iterator[Cause]:
    name = evidence.name
    if FIREWALL in evidence.unread:
        return
    if _hook_does(evidence, "flush") or _hook_does(evidence, "-F"):
        return
    if missing := missing_firewalls(evidence):
        kinds = listed(dict.fromkeys(kind for kind, _ in missing))
        message = f"the {kinds} rules of the full tunnel {name} are missing"
        yield cause("firewall-missing", message, remedy=fix_restores(name))
    elif evidence.record is None and not evidence.firewalls and _is_wg_quicks_full_tunnel(evidence):
        message = f"the firewall rules that wg-quick adds for the full tunnel {name} are missing"
        yield cause("firewall-missing", message, remedy=down_and_up(name), severity=WARNING)


def _is_wg_quicks_full_tunnel(evidence: Evidence) -> bool:
    mark = evidence.fwmark
    return bool(mark) and any(rule.fwmark == mark and rule.table == mark for rule in evidence.rules)


def _parameters(evidence: Evidence) -> Iterator[Cause]:
    record = evidence.record
    recorded = record is not None and any(
        isinstance(undo, ReleaseSysctl) and undo.key == SRC_VALID_MARK for undo in record.undos
    )
    expected = recorded or (
        record is None
        and any(rule.family == 4 for rule in evidence.rules if rule.fwmark is not None and not rule.other)
        and _is_wg_quicks_full_tunnel(evidence)
        and "1" in (value for key, value in evidence.parameters.items() if key.endswith("/rp_filter"))
    )
    value = evidence.parameters.get(parameter(SRC_VALID_MARK))
    if expected and value == "0":
        message = f"{SRC_VALID_MARK} was reset to 0: with rp_filter = 1 the kernel drops the tunnel's packets"
        yield cause("sysctl-reverted", message, remedy=f"{fix_restores(evidence.name)}; find out what sets it to 0")


def _mtu(evidence: Evidence) -> Iterator[Cause]:
    settings, link = evidence.settings, evidence.link
    if settings is None or settings.mtu is None or link is None or link.mtu == settings.mtu:
        return
    if _hook_does(evidence, "mtu"):
        return
    message = f"{evidence.name} has MTU {link.mtu}, but the file has {settings.mtu}"
    remedy = fix_restores(evidence.name)
    yield cause("mtu-differs", message, remedy=remedy)


def _dns(evidence: Evidence) -> Iterator[Cause]:
    settings, mode = evidence.settings, evidence.dns_mode
    if DNS in evidence.unread or settings is None or not settings.dns or mode in ("", "off"):
        return
    remedy = f"{fix_restores(evidence.name)}; find out what replaced it"
    now = evidence.dns_now
    servers = list(settings.dns)
    if now is None or not set(servers) & set(now[0]):
        shown = f"the name servers are {listed(evidence.name_servers)}" if evidence.name_servers else ""
        message = f"the DNS of {evidence.name}, {listed(servers)}, is no longer in use"
        yield cause("dns-replaced", message, *([shown] if shown else []), remedy=remedy)
    elif mode == "file" and evidence.name_servers and evidence.name_servers[0] not in servers:
        if evidence.others:  # the first server may be that of a later tunnel
            return
        file = evidence.name_servers_file
        message = f"{file} has {evidence.name_servers[0]} before the tunnel's {listed(servers)}"
        yield cause("dns-replaced", message, remedy=remedy)
