"""The mistakes that one file alone shows. Each rule takes a file without syntax errors and yields findings.

A rule stays silent about the consequences of a mistake that another rule reports.
"""

from __future__ import annotations

from wgquick.config import grammar, location
from wgquick.config.keys import QUICK
from wgquick.config.tables import is_main, is_separate
from wgquick.diagnosis import codes, keys, nets, remedies
from wgquick.diagnosis.finding import INFO, WARNING, Finding
from wgquick.diagnosis.source import Place
from wgquick.lean import TYPE_CHECKING
from wgquick.net import IPV6_MTU, NO_KEY, address_text
from wgquick.plan.up import DEFAULT_MTU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wgquick.config.settings import PeerSettings
    from wgquick.diagnosis.source import Source
    from wgquick.net import AllowedIP

    Rule = Callable[[Source], Iterator[Finding]]

LARGEST_MTU = 1440
"""The largest MTU over IPv4 on a path of 1500 bytes: headers take 20 (IPv4), 8 (UDP) and 32 bytes (WireGuard)."""
LARGEST_MTU_OVER_IPV6 = DEFAULT_MTU
_FAMILIES = {4: ("IPv4", "0.0.0.0/0"), 6: ("IPv6", "::/0")}


def note(
    source: Source,
    place: Place,
    code: str,
    message: str,
    remedy: str,
    severity: str = "",
    other: Source | None = None,
) -> Finding:
    """A finding with the code's usual severity or the given one; `other` is a second file that it names."""
    usual = codes.CODES[code][0]
    return Finding(source.shown, *place, code, severity or usual, message, remedy, other.shown if other else "")


def findings(source: Source) -> Iterator[Finding]:
    """The syntax errors of one file; if it has none, its mistakes."""
    yield from _of_file(source)
    report = source.report
    for each in report.faults:
        place = Place(each.line, each.column)
        yield Finding(source.shown, *place, each.code, each.severity, each.message, each.remedy)
    if source.is_sound:
        yield from _host_bits(source)
        for rule in _RULES:
            yield from rule(source)
        if source.hooks:
            from wgquick.diagnosis import hook_rules  # it takes longer to import than all that `up` needs here

            yield from hook_rules.findings(source)


def _of_file(source: Source) -> Iterator[Finding]:
    if source.path and not source.interface:
        what = f"the file name `{source.path.rpartition('/')[2]}' does not give a valid interface name"
        remedy = "rename the file to NAME.conf; NAME is 1 to 15 letters, digits and _ = + . -"
        yield note(source, Place(1, 1), "interface-name", what, remedy)
    if source.path and location.world_access_warning(source.path):
        what = "every user of this machine can read or write this file, which contains keys"
        yield note(source, Place(1, 1), "world-accessible", what, f"chmod 600 {source.path}")


def _host_bits(source: Source) -> Iterator[Finding]:
    """The parser's warnings. Host bits are an info if the entry does not overlap an Address of the interface.

    With Address = 10.0.0.1/24, the author of `10.0.0.2/24` probably means the host, not the network.
    """
    for each in source.report.warnings:
        if each.code != "allowed-ip-host-bits":
            yield note(source, Place(each.line, each.column), each.code, each.message, each.remedy, WARNING)
            continue
        network, _ = grammar.allowed_ip(each.value)
        near = any(nets.overlap(network, each) for each in source.settings.addresses)
        yield note(
            source,
            Place(each.line, each.column),
            each.code,
            f"AllowedIP has address bits after its prefix, which are ignored: {each.value}",
            "write the network's first address, or /32 (IPv6: /128) for a single host",
            WARNING if near else INFO,
        )


def _all_allowed(source: Source) -> Iterator[tuple[int, int, PeerSettings, AllowedIP]]:
    """Every AllowedIPs entry as (peer index, entry index, peer, network), without `-` entries."""
    for index, peer in enumerate(source.settings.peers):
        for entry, ip in enumerate(peer.allowed_ips):
            if ip.change != "-":
                yield index, entry, peer, ip


def _is_routed(source: Source) -> bool:
    """Whether wg-quick adds the routes and, for a /0, the rules: Table is absent or `auto`."""
    return source.settings.routes_automatically


def _defaults(source: Source) -> set[int]:
    """The families, 4 and 6, with a /0 in AllowedIPs."""
    return {ip.family for _, _, _, ip in _all_allowed(source) if ip.length == 0}


def _peer(peer: PeerSettings) -> str:
    return f"peer {peer.public_key}"


# The interface


def _private_key(source: Source) -> Iterator[Finding]:
    section, secret = source.interface_section, source.settings.private_key
    if secret is None:
        if not section.rows:
            remedy = "add [Interface] with PrivateKey and Address"
            yield note(source, section.place, "no-private-key", "the file has no [Interface]", remedy)
        elif not source.effects.sets_key:
            remedy = "add PrivateKey to [Interface] (`wg genkey' prints one), or set the key in a PreUp hook"
            yield note(source, section.place, "no-private-key", "the interface has no PrivateKey", remedy)
    elif secret.raw == NO_KEY.raw:
        what = "the PrivateKey is all zeros, which means no key"
        yield note(source, section.at("PrivateKey"), "zero-key", what, "generate a key: wg genkey")
    elif document := keys.printed_in(secret):
        what = f"the PrivateKey is the example in {document}, which is public"
        yield note(source, section.at("PrivateKey"), "example-key", what, "generate your own key: wg genkey")
    elif not keys.is_generated(secret):
        what = "`wg genkey' prints no key like this PrivateKey: it may be a public key"
        remedy = "compare `wg pubkey' of it with the PublicKey that the other end has for this interface"
        yield note(source, section.at("PrivateKey"), "private-key-is-public", what, remedy, INFO)


def _repeated(source: Source) -> Iterator[Finding]:
    """Two private keys of the interface or public keys of a peer, as if files or sections were joined."""
    sections = [("PrivateKey", source.interface_section), *(("PublicKey", each) for each in source.peer_sections)]
    for key, section in sections:
        given = section.given(key)
        if len(given) > 1 and given[-1][0] != given[-2][0]:
            what = f"{key} is also on line {given[-2][1].line}, with another value: only this one counts"
            missing = "a file of its own, if two files were joined" if key == "PrivateKey" else "a [Peer] above it"
            yield note(
                source, given[-1][1], "repeated-key", what, f"keep one of the two, or give the second {missing}"
            )


def _is_joined(source: Source) -> bool:
    """Whether the file has two PrivateKeys: its [Peer] sections may belong to either."""
    return len({text for text, _ in source.interface_section.given("PrivateKey")}) > 1


def _address(source: Source) -> Iterator[Finding]:
    settings, section = source.settings, source.interface_section
    if not settings.addresses and section.rows and not source.effects.adds_address:
        what = "the interface has no Address"
        yield note(
            source,
            section.place,
            "no-address",
            what,
            "add Address = ... to [Interface]",
            INFO if _is_for_wg(source) else "",
        )
    for index, address in enumerate(settings.addresses):
        width = nets.bits(address.address)
        if address.length >= width - 1:
            continue
        rest = int.from_bytes(address.address, "big") & ((1 << width - address.length) - 1)
        is_broadcast = width == 32 and rest == (1 << width - address.length) - 1
        if rest == 0 or is_broadcast:
            kind = "broadcast" if is_broadcast else "network"
            what = f"Address {address.text} is the {kind} address of its network, not a host address"
            place = section.word("Address", index)
            yield note(source, place, "address-not-host", what, "choose another address in that network")


def _is_for_wg(source: Source) -> bool:
    """Whether the file is complete for wg(8) alone: its addresses are set elsewhere."""
    settings = source.settings
    quick = any(source.interface_section.has(key) for key in QUICK.values())
    return not quick and bool(settings.listen_port) and all(peer.endpoint for peer in settings.peers)


def _unclaimed(source: Source) -> Iterator[Finding]:
    settings = source.settings
    if not settings.peers or any(not peer.allowed_ips for peer in settings.peers):
        return
    for index, address in enumerate(settings.addresses):
        if nets.is_single(address) or nets.is_link_local(address):
            continue
        if not any(nets.overlap(ip, address) for _, _, _, ip in _all_allowed(source)):
            what = f"no peer's AllowedIPs is in {address.text}: no host in that network can be reached"
            remedy = "add each peer's address to its AllowedIPs, or change the Address to /32 (IPv6: /128)"
            yield note(
                source,
                source.interface_section.word("Address", index),
                "tunnel-net-unclaimed",
                what,
                remedy,
            )


def _dns(source: Source) -> Iterator[Finding]:
    settings, section = source.settings, source.interface_section
    if settings.dns_search and not settings.dns and all(grammar.is_domain(word) for word in settings.dns_search):
        what = "search domains are set only if DNS also has a server"
        yield note(source, section.at("DNS"), "search-without-server", what, "add the address of a server to DNS")
    networks = nets.NetworkSet(ip for _, _, _, ip in _all_allowed(source))
    own = {address.address for address in settings.addresses}
    for server in settings.dns:
        packed = nets.literal(server)
        if packed is None or packed in own or nets.is_on_link(packed) or not nets.is_private(packed):
            continue
        if settings.peers and not networks.covers(nets.host(packed)):
            what = f"DNS server {server} is a private address that is in no peer's AllowedIPs"
            remedy = f"add {server} to the AllowedIPs of the peer that leads to it"
            yield note(source, section.entry("DNS", server), "dns-outside-tunnel", what, remedy)


def _full_tunnel(source: Source) -> Iterator[Finding]:
    settings, section = source.settings, source.interface_section
    whole = _defaults(source)
    if not whole:
        return
    if settings.table == "off" and not source.effects.makes_routes:
        what = "a peer's AllowedIPs has all addresses, but Table = off adds no routes"
        remedy = "remove Table, or add the routes in PostUp"
        yield note(source, section.at("Table"), "full-tunnel-without-routes", what, remedy)
    if is_separate(settings.table) and not source.effects.adds_rule:
        what = f"the default route goes into table {settings.table}, but no rule uses that table"
        remedy = f"remove Table, or add a rule in PostUp: ip rule add ... table {settings.table}"
        yield note(source, section.at("Table"), "table-unused", what, remedy)
    if not _is_routed(source):
        return
    peer, place = _first_default(source)
    if not settings.dns:
        what = f"all traffic goes to {_peer(peer)}, but DNS is not set: DNS queries may bypass the tunnel"
        yield note(source, place, "full-tunnel-without-dns", what, "add DNS = ... to [Interface]")
    if whole == {4}:
        what = "IPv6 traffic bypasses the tunnel: ::/0 is in no peer's AllowedIPs"
        remedy = "add ::/0 to AllowedIPs to send IPv6 through the tunnel too"
        yield note(source, place, "ipv6-beside-tunnel", what, remedy)


def _first_default(source: Source) -> tuple[PeerSettings, Place]:
    index, entry, peer, _ = next(each for each in _all_allowed(source) if each[3].length == 0)
    return peer, source.peer_sections[index].word("AllowedIPs", entry)


def _mtu(source: Source) -> Iterator[Finding]:
    settings, section = source.settings, source.interface_section
    if settings.mtu is None:
        return
    ipv6_outside = any(peer.endpoint and ":" in peer.endpoint.host for peer in settings.peers)
    most = LARGEST_MTU_OVER_IPV6 if ipv6_outside else LARGEST_MTU
    if settings.mtu > most:
        what = f"MTU {settings.mtu} is larger than {most}, the most that fits into packets of 1500 bytes"
        remedy = "remove MTU to derive it from the route to the endpoint, or set it to 1420"
        yield note(source, section.at("MTU"), "mtu-too-large", what, remedy)
    if settings.mtu < IPV6_MTU and any(len(address.address) == 16 for address in settings.addresses):
        what = f"MTU {settings.mtu} is too small for the interface's IPv6 addresses"
        yield note(source, section.at("MTU"), "low-mtu", what, "set MTU to 1280 or more")


def _save_config(source: Source) -> Iterator[Finding]:
    if source.settings.save_config:
        what = "with SaveConfig = true, `wgq down' overwrites what you edit while the interface is up"
        remedy = "edit the file while the interface is down, or remove SaveConfig"
        yield note(source, source.interface_section.at("SaveConfig"), "save-config-overwrites", what, remedy)


def _home_nets(source: Source) -> Iterator[Finding]:
    remedy = "choose another network, such as a random one in 10.0.0.0/8"
    for index, address in enumerate(source.settings.addresses):
        if nets.is_of_homes(address):
            what = f"Address {address.text} is in a network that home routers or Docker use by default"
            yield note(source, source.interface_section.word("Address", index), "common-home-net", what, remedy)
            return
    for index, entry, _, ip in _all_allowed(source):
        if nets.is_of_homes(ip):
            what = f"{ip} is in a network that home routers or Docker use by default"
            place = source.peer_sections[index].word("AllowedIPs", entry)
            yield note(source, place, "common-home-net", what, "renumber that network if you can")
            return


# The peers


def _peers_without_networks(source: Source) -> Iterator[Finding]:
    for peer, section in zip(source.settings.peers, source.peer_sections, strict=True):
        if not peer.allowed_ips:
            what = "the peer has no AllowedIPs: nothing can be sent to it or received from it"
            remedy = "add AllowedIPs = ... to this [Peer]"
            yield note(source, section.place, "peer-without-allowed-ips", what, remedy)


def _peer_keys(source: Source) -> Iterator[Finding]:
    own, secret = source.public_key, source.settings.private_key
    joined = _is_joined(source)
    seen: set[bytes] = set()
    for peer, section in zip(source.settings.peers, source.peer_sections, strict=True):
        raw, place = peer.public_key.raw, section.at("PublicKey")
        if raw == NO_KEY.raw:
            yield note(source, place, "zero-key", "the PublicKey is all zeros", "write the peer's public key")
        elif own is not None and raw == own.raw and not joined:
            what = "this is the interface's own public key: the device ignores the peer"
            yield note(source, place, "peer-is-self", what, "write the public key of the other end")
        elif secret is not None and raw == secret.raw:
            what = "the PublicKey is this interface's private key"
            yield note(source, place, "public-key-is-private", what, remedies.NEW_KEY)
        elif raw in seen:
            what = "a [Peer] above has the same PublicKey: both sections are one peer"
            yield note(source, place, "repeated-peer", what, "merge the two sections")
        seen.add(raw)


def _preshared_keys(source: Source) -> Iterator[Finding]:
    known = {peer.public_key.raw for peer in source.settings.peers}
    known |= {source.settings.private_key.raw} if source.settings.private_key else set()
    known |= {source.public_key.raw} if source.public_key else set()
    for peer, section in zip(source.settings.peers, source.peer_sections, strict=True):
        if peer.preshared_key is None:
            continue
        place = section.at("PresharedKey")
        if document := keys.printed_in(peer.preshared_key):
            what = f"the PresharedKey is the example in {document}, which is public"
            yield note(source, place, "example-key", what, "generate your own key: wg genpsk")
        elif peer.preshared_key.raw in known:
            what = "the PresharedKey is also a private or public key in this file"
            yield note(source, place, "preshared-key-is-key", what, "generate a separate key: wg genpsk")


def _claims(source: Source) -> Iterator[Finding]:
    """Networks that an earlier peer loses to a later peer."""
    claims: dict[tuple[bytes, int], PeerSettings] = {}
    for index, peer in enumerate(source.settings.peers):
        for entry, ip in enumerate(peer.allowed_ips):
            network = (ip.address, ip.length)
            if ip.change == "-":
                claims.pop(network, None)
                continue
            earlier = claims.get(network, peer)
            if earlier.public_key != peer.public_key:
                to = f"{address_text(ip.address)}/{ip.length}"
                what = f"{to} can belong to one peer only: this peer takes it from {_peer(earlier)} above"
                place = source.peer_sections[index].word("AllowedIPs", entry)
                yield note(source, place, "allowed-ip-moves", what, "give each network to one peer")
            claims[network] = peer


def _own_address(source: Source) -> Iterator[Finding]:
    own = set() if _is_joined(source) else {address.address for address in source.settings.addresses}
    for index, entry, peer, ip in _all_allowed(source):
        if ip.address in own and nets.is_single(ip):
            # Routers of UniFi export it beside the /0 that has it anyway.
            is_within = any(other.length == 0 and other.family == ip.family for other in peer.allowed_ips)
            what = f"{address_text(ip.address)} is this interface's own Address, not the peer's"
            place = source.peer_sections[index].word("AllowedIPs", entry)
            yield note(
                source, place, "own-address-allowed", what, "write the peer's address", INFO if is_within else ""
            )


def _families(source: Source) -> Iterator[Finding]:
    settings = source.settings
    if not settings.addresses or source.effects.adds_address:
        return
    for family in {4, 6} - {(len(a.address) == 4 and 4) or 6 for a in settings.addresses}:
        entries = [each for each in _all_allowed(source) if each[3].family == family]
        if not entries:
            continue
        narrow = [each for each in entries if each[3].length]
        index, entry, _, ip = (narrow or entries)[0]
        name = _FAMILIES[family][0]
        what = f"AllowedIPs has {ip}, but the interface has no {name} Address to send from"
        place = source.peer_sections[index].word("AllowedIPs", entry)
        remedy = f"add an {name} Address to [Interface], or remove {name} from AllowedIPs"
        yield note(source, place, "family-without-address", what, remedy, "" if narrow else INFO)


# The endpoints


def _connecting(source: Source) -> Iterator[Finding]:
    settings = source.settings
    if not (settings.peers and source.interface_section.rows) or settings.listen_port or source.effects.sets_port:
        return
    if not any(peer.endpoint for peer in settings.peers):
        what = "neither side can connect: no peer has an Endpoint, and the interface has no ListenPort"
        remedy = "add ListenPort to [Interface], or Endpoint to a [Peer]"
        yield note(source, source.interface_section.place, "nobody-connects", what, remedy)
        return
    for peer, section in zip(settings.peers, source.peer_sections, strict=True):
        if peer.endpoint is None:
            what = "neither side can connect: this peer has no Endpoint, and the interface has no ListenPort"
            remedy = "add Endpoint to this [Peer], or ListenPort to [Interface]"
            yield note(source, section.place, "peer-cannot-connect", what, remedy)
        elif not peer.persistent_keepalive:
            what = "behind NAT, the peer cannot reach this side after some minutes without traffic"
            remedy = "add PersistentKeepalive = 25 to this [Peer] if the peer must be able to"
            yield note(source, section.at("Endpoint"), "keepalive-advised", what, remedy)


def _port(source: Source) -> Iterator[Finding]:
    section = source.interface_section
    yield from _too_large(source, section.at("ListenPort"), "ListenPort", section.text("ListenPort"))


def _too_large(source: Source, place: Place, name: str, port: str) -> Iterator[Finding]:
    """wg keeps only the low 16 bits of a port, without a warning."""
    if port.isascii() and port.isdigit() and int(port) > 0xFFFF and int(port) & 0xFFFF:
        what = f"{name} is {port}, above 65535: WireGuard would use port {int(port) & 0xFFFF}"
        yield note(source, place, "port-too-large", what, "write a port from 1 to 65535")


def _endpoints(source: Source) -> Iterator[Finding]:
    seen: dict[tuple[bytes | str, str], PeerSettings] = {}
    routed = _routed_networks(source)
    for peer, section in zip(source.settings.peers, source.peer_sections, strict=True):
        if peer.endpoint is None:
            continue
        place = section.at("Endpoint")
        if peer.endpoint.port.isdigit() and int(peer.endpoint.port) & 0xFFFF == 0:
            what = f"Endpoint {peer.endpoint} has port 0, which cannot receive packets"
            yield note(source, place, "endpoint-port-zero", what, "write the peer's ListenPort")
        yield from _too_large(source, place, "the Endpoint's port", peer.endpoint.port)
        host = nets.literal(peer.endpoint.host) if "%" not in peer.endpoint.host else None
        earlier = seen.setdefault((host or peer.endpoint.host.lower().rstrip("."), peer.endpoint.port), peer)
        if earlier.public_key != peer.public_key:
            what = f"{_peer(earlier)} has the Endpoint {peer.endpoint} too, but one port answers with one key"
            yield note(source, place, "endpoint-shared", what, "write each peer's own Endpoint")
        yield from _literal_endpoint(source, peer, place, routed)


def _routed_networks(source: Source) -> nets.NetworkSet:
    """The networks that the main table routes into the tunnel. An endpoint in them creates a routing loop.

    A /0 gets a separate routing table, with rules that keep the marked, encrypted packets out of it. The rules do
    not help with longer prefixes: their routes are in the main table. With `Table = main` a /0 is there too.
    """
    own = [address for address in source.settings.addresses if not nets.is_single(address)]
    in_main = is_main(source.settings.table)
    if not (_is_routed(source) or in_main) or source.effects.makes_routes:
        return nets.NetworkSet(own)
    allowed = (ip for _, _, _, ip in _all_allowed(source) if ip.length or in_main)
    return nets.NetworkSet([*own, *allowed])


def _literal_endpoint(
    source: Source, peer: PeerSettings, place: Place, routed: nets.NetworkSet
) -> Iterator[Finding]:
    assert peer.endpoint is not None  # noqa: S101  (the caller skips peers without one)
    packed = nets.literal(peer.endpoint.host)
    if packed is None:
        if not grammar.may_be_host(peer.endpoint.host):
            what = f"Endpoint {peer.endpoint}: no host can have this name"
            yield note(source, place, "endpoint-no-host", what, "write the peer's address or name")
        return
    if kind := nets.no_host(packed):
        what = f"Endpoint {peer.endpoint} is {kind}, not the address of a host"
        yield note(source, place, "endpoint-no-host", what, "write the peer's address or name")
    elif routed.covers(nets.host(packed)) and not nets.is_on_link(packed):
        what = f"Endpoint {peer.endpoint} is routed into the tunnel itself, so no packet leaves this host"
        remedy = "write the peer's address outside the tunnel, or remove that address from AllowedIPs"
        yield note(source, place, "endpoint-in-tunnel", what, remedy)
    elif nets.is_private(packed):
        what = f"Endpoint {peer.endpoint} is a private address: it can be reached only from its own network"
        remedy = "write the peer's public address or name to connect from elsewhere"
        yield note(source, place, "endpoint-private", what, remedy)


_RULES: tuple[Rule, ...] = (
    _port,
    _private_key,
    _repeated,
    _address,
    _unclaimed,
    _dns,
    _full_tunnel,
    _mtu,
    _save_config,
    _home_nets,
    _peers_without_networks,
    _peer_keys,
    _preshared_keys,
    _claims,
    _own_address,
    _families,
    _connecting,
    _endpoints,
)
