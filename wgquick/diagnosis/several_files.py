"""The mistakes that a comparison of several files shows: both ends of a tunnel, a hub and its clients, one host.

Two files belong to one tunnel if one has the other's public key in a [Peer], if both have the same peer, or if a
third file has both as peers.
"""

from __future__ import annotations

from collections import defaultdict

from wgquick.config.tables import is_separate, own_table
from wgquick.diagnosis import nets
from wgquick.diagnosis.finding import ERROR, INFO
from wgquick.diagnosis.keys import is_generated
from wgquick.diagnosis.one_file import note
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import NO_KEY, address_text

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence

    from wgquick.config.settings import PeerSettings
    from wgquick.diagnosis.finding import Finding
    from wgquick.diagnosis.source import Section, Source

    Reported = Collection[tuple[str, str]]


_OF_PORTS = ("nobody-connects", "peer-cannot-connect")


class End(NamedTuple):
    """One end of a tunnel: a file and its section for the other end."""

    source: Source
    peer: PeerSettings
    section: Section


class Pair(NamedTuple):
    """Two files that have sections for each other."""

    one: End
    two: End


def findings(sources: Sequence[Source], reported: Reported) -> Iterator[Finding]:
    """The findings from the comparison; `reported` has the (file, code) of each finding about one file alone."""
    sound = [source for source in sources if source.is_sound]
    if len(sound) < 2:
        return
    yield from _one_key(sound)
    swapped = list(_public_keys(sound))
    yield from swapped
    mistaken = {each.file for each in swapped}
    sound = [source for source in sound if source.shown not in mistaken]
    yield from _keys_elsewhere(sound)
    tunnels = Tunnels(sound)
    yield from tunnels.mismatches
    yield from _one_sided(tunnels)
    shared = list(_addresses(sound, tunnels))
    yield from shared
    for pair in tunnels.pairs:
        yield from _of_pair(pair, {*reported, *((each.file, each.code) for each in shared)})
    yield from _without_hooks(tunnels)
    yield from _one_host(sound, tunnels)


def _one_key(sources: Sequence[Source]) -> Iterator[Finding]:
    first: dict[bytes, Source] = {}
    for source in sources:
        if source.settings.private_key is None:
            continue
        earlier = first.setdefault(source.settings.private_key.raw, source)
        if earlier is not source:
            place = source.interface_section.at("PrivateKey")
            remedy = "generate a separate key: wg genkey"
            if _are_choices(earlier, source):
                what = f"{earlier.shown} has the same PrivateKey and Address: one of the two can be up at a time"
                yield note(source, place, "one-key-two-places", what, f"to have both up, {remedy}", INFO, earlier)
                continue
            what = f"{earlier.shown} has the same PrivateKey: their peers cannot tell the two apart"
            yield note(source, place, "one-key-two-places", what, remedy, other=earlier)


def _are_choices(one: Source, two: Source) -> bool:
    """Whether the files are one device's for several servers, as VPN providers generate them."""
    servers = {peer.public_key for peer in one.settings.peers} & {peer.public_key for peer in two.settings.peers}
    return not servers and one.settings.addresses == two.settings.addresses


def _public_keys(sources: Sequence[Source]) -> Iterator[Finding]:
    """The PrivateKeys that are PublicKeys of peers and do not look like a key of `wg genkey`."""
    peers = {peer.public_key.raw for source in sources for peer in source.settings.peers}
    for source in sources:
        secret = source.settings.private_key
        if secret is not None and secret.raw in peers and secret != NO_KEY and not is_generated(secret):
            what = "the PrivateKey is a public key, which a [Peer] of these files has too"
            remedy = "write the private key that belongs to it, or generate a pair: wg genkey"
            yield note(source, source.interface_section.at("PrivateKey"), "private-key-is-public", what, remedy)


def _keys_elsewhere(sources: Sequence[Source]) -> Iterator[Finding]:
    """A key of one file that another file has in the wrong place."""
    private = {s.settings.private_key.raw: s for s in sources if s.settings.private_key}
    public = {s.public_key.raw: s for s in sources if s.public_key}
    for source in sources:
        for peer, section in zip(source.settings.peers, source.peer_sections, strict=True):
            owner = private.get(peer.public_key.raw)
            if owner is not None and owner is not source:
                what = f"the PublicKey is the private key of {owner.shown}"
                remedy = f"write the public key of {owner.shown}: {owner.public_key}"
                yield note(source, section.at("PublicKey"), "public-key-is-private", what, remedy, other=owner)
            raw = peer.preshared_key.raw if peer.preshared_key else b""
            other = private.get(raw) or public.get(raw)
            if other is not None and other is not source and not _has_psk(other, raw) and not _has_key(source, raw):
                what = f"the PresharedKey is a key of {other.shown}"
                remedy = "generate a separate key: wg genpsk"
                yield note(source, section.at("PresharedKey"), "preshared-key-is-key", what, remedy, other=other)


def _has_key(source: Source, raw: bytes) -> bool:
    """Whether the file itself has the key as a PublicKey: the rule for one file reports that."""
    return any(peer.public_key.raw == raw for peer in source.settings.peers)


def _has_psk(source: Source, raw: bytes) -> bool:
    """Whether the key's own file has it as a PresharedKey: the rule for one file reports that."""
    return any(peer.preshared_key and peer.preshared_key.raw == raw for peer in source.settings.peers)


class Tunnels:
    """The tunnels that connect the files."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._by_key: dict[bytes, Source] = {}
        for source in sources:
            if source.public_key is not None:
                self._by_key.setdefault(source.public_key.raw, source)
        # A second file with the same key is reported separately (one-key-two-places).
        self.sources = [s for s in sources if s.public_key is None or self._by_key[s.public_key.raw] is s]
        self._secrets = {s.settings.private_key.raw for s in sources if s.settings.private_key is not None}
        self._sections: dict[tuple[int, int], End] = {}
        self._members: dict[bytes, set[int]] = defaultdict(set)
        for source in self.sources:
            self._note_peers(source)
        self._addresses = _owners_of_addresses(sources)
        self._has_others_key = {id(source) for source in sources} - {id(source) for source in self.sources}
        self.intended: dict[tuple[int, int], End] = {}
        self.mismatches = [finding for source in self.sources for finding in self._mismatched(source)]

    def _note_peers(self, source: Source) -> None:
        if source.public_key is not None:
            self._members[source.public_key.raw].add(id(source))
        for peer, section in zip(source.settings.peers, source.peer_sections, strict=True):
            self._members[peer.public_key.raw].add(id(source))
            other = self._by_key.get(peer.public_key.raw)
            if other is not None and other is not source:
                self._sections.setdefault((id(source), id(other)), End(source, peer, section))

    def has(self, source: Source, other: Source) -> bool:
        """Whether a file has a section with the other's key."""
        return (id(source), id(other)) in self._sections

    def is_meant(self, source: Source, other: Source) -> bool:
        """Whether a file has a section for the other with the wrong key."""
        return (id(source), id(other)) in self.intended

    @property
    def pairs(self) -> Iterator[Pair]:
        """The pairs of files with sections for each other, each once."""
        order = {id(source): at for at, source in enumerate(self.sources)}
        for (one, two), end in self._sections.items():
            back = self._sections.get((two, one))
            if back is not None and order[one] < order[two]:
                yield Pair(end, back)

    @property
    def half(self) -> Iterator[End]:
        """The sections for files that have no section in return."""
        for (one, two), end in self._sections.items():
            if (two, one) not in self._sections:
                yield end

    def owner(self, end: End) -> Source:
        """The file that a section is for."""
        return self._by_key[end.peer.public_key.raw]

    def together(self, one: Source, two: Source) -> bool:
        """Whether two files belong to one tunnel."""
        return any(id(one) in members and id(two) in members for members in self._members_of(one))

    def _members_of(self, source: Source) -> Iterator[set[int]]:
        keys = [peer.public_key.raw for peer in source.settings.peers]
        own = [source.public_key.raw] if source.public_key else []
        return (self._members[key] for key in [*own, *keys])

    def _mismatched(self, source: Source) -> Iterator[Finding]:
        """The sections for a file that have the wrong public key."""
        loose = [
            End(source, peer, section)
            for peer, section in zip(source.settings.peers, source.peer_sections, strict=True)
            if peer.public_key.raw not in self._by_key and peer.public_key.raw not in self._secrets
        ]
        one_sided = [s for s in self.sources if s.public_key and self.has(s, source) and not self.has(source, s)]
        for end in loose:
            other = self._by_address(end) or _by_return(end, loose, one_sided)
            if other is not None and not self.has(source, other) and not self.is_meant(source, other):
                self.intended[id(source), id(other)] = end
                what = f"this section is for {other.shown}, but has another public key"
                remedy = f"write PublicKey = {other.public_key}"
                yield note(source, end.section.at("PublicKey"), "peer-key-mismatch", what, remedy, other=other)

    def _by_address(self, end: End) -> Source | None:
        """The only file with an address that the section's AllowedIPs has as /32 or /128; None if several match."""
        owners = [
            self._addresses[ip.address]
            for ip in end.peer.allowed_ips
            if nets.is_single(ip) and ip.address in self._addresses
        ]
        found = {id(each): each for several in owners for each in several if each is not end.source}
        only = next(iter(found.values())) if len(found) == 1 else None
        return None if id(only) in self._has_others_key else only


def _by_return(end: End, loose: Sequence[End], one_sided: Sequence[Source]) -> Source | None:
    """The only file that has a section for this file, if no other section here can be for it."""
    wanting = [source for source in one_sided if _takes(end, source)]
    if len(wanting) != 1 or sum(_takes(each, wanting[0]) for each in loose) != 1:
        return None
    return wanting[0]


def _takes(end: End, other: Source) -> bool:
    """Whether the section's AllowedIPs covers an address of the file, or the file has no Address."""
    allowed = nets.NetworkSet(end.peer.allowed_ips)
    addresses = other.settings.addresses
    return not addresses or any(allowed.covers(nets.host(address.address)) for address in addresses)


def consequences(sources: Sequence[Source], found: Collection[Finding]) -> set[Finding]:
    """The findings about one file that follow from others of these findings."""
    by_place = {(each.file, each.line, each.code): each for each in found if each.code in _OF_PORTS}
    certain = {each.file for each in found if each.code == "private-key-is-public" and each.severity == ERROR}
    follow = {
        each
        for each in found
        if each.code == "private-key-is-public" and each.severity == INFO and each.file in certain
    }
    ports = {(each.file, each.line) for each in found if each.code == "endpoint-port-differs"}
    refused = {(each.file, each.line) for each in found if each.code == "source-not-allowed"}
    unreachable = {shown for shown, _ in refused}
    for pair in Tunnels([source for source in sources if source.is_sound]).pairs if ports or refused else ():
        for end, other in (pair, (pair.two, pair.one)):
            shown = other.source.shown
            if (end.source.shown, end.section.at("Endpoint").line) in ports:
                sections = (other.source.interface_section, other.section)
                places = zip((section.place.line for section in sections), _OF_PORTS, strict=True)
                follow |= {by_place[shown, *each] for each in places if (shown, *each) in by_place}
            if (end.source.shown, end.section.at("AllowedIPs").line) in refused:
                unreachable.add(shown)
    return follow | {
        each
        for each in found
        if (each.code == "tunnel-net-unclaimed" and each.file in unreachable)
        or (each.code == "own-address-allowed" and (each.file, each.line) in refused)
    }


def _owners_of_addresses(sources: Sequence[Source]) -> dict[bytes, list[Source]]:
    owners: dict[bytes, list[Source]] = defaultdict(list)
    for source in sources:
        if source.public_key is not None:
            for address in source.settings.addresses:
                owners[address.address].append(source)
    return owners


def _one_sided(tunnels: Tunnels) -> Iterator[Finding]:
    for end in tunnels.half:
        other = tunnels.owner(end)
        if end.source.public_key is None or tunnels.is_meant(other, end.source):
            continue
        secret = end.source.settings.private_key
        if not any(secret is not None and peer.public_key.raw == secret.raw for peer in other.settings.peers):
            what = f"{end.source.shown} has this interface as a peer, but this file has no [Peer] for it"
            remedy = f"add a [Peer] with PublicKey = {end.source.public_key} and its AllowedIPs"
            yield note(other, other.interface_section.place, "peer-one-sided", what, remedy, other=end.source)


def _of_pair(pair: Pair, reported: Reported) -> Iterator[Finding]:
    yield from _psk(pair)
    for end, other in (pair, (pair.two, pair.one)):
        if (other.source.shown, "address-shared") not in reported:
            yield from _source(end, other)
        yield from _port(end, other)
    one, two = pair
    known = {(end.source.shown, "nobody-connects") for end in pair} & set(reported)
    if one.peer.endpoint is None and two.peer.endpoint is None and not known:
        what = f"neither this file nor {one.source.shown} has an Endpoint for the other"
        remedy = "add Endpoint to one of the two [Peer]s"
        yield note(two.source, two.section.place, "nobody-connects", what, remedy, other=one.source)
    mtus = one.source.settings.mtu, two.source.settings.mtu
    if None not in mtus and mtus[0] != mtus[1]:
        what = f"MTU is {mtus[1]} here and {mtus[0]} in {one.source.shown}"
        place = two.source.interface_section.at("MTU")
        yield note(two.source, place, "mtu-unequal", what, "write the smaller MTU at both ends", other=one.source)
    what = f"this host also has the private key of the other end, in {one.source.shown}"
    place = two.source.interface_section.at("PrivateKey")
    remedy = "keep each private key on its own host only"
    yield note(two.source, place, "private-key-elsewhere", what, remedy, other=one.source)


def _without_hooks(tunnels: Tunnels) -> Iterator[Finding]:
    """The servers of full tunnels without any hook: something else must forward and masquerade there."""
    ends = [each for pair in tunnels.pairs for each in (pair, (pair.two, pair.one))]
    for server in tunnels.sources:
        clients = [end.source for end, other in ends if other.source is server and _is_client(end, other)]
        if clients and not server.hooks:
            more = f" and {len(clients) - 1} more" if len(clients) > 1 else ""
            senders = f"{clients[0].shown}{more}"
            what = f"{senders} sends all traffic here, and no hook of this file forwards or masquerades it"
            remedy = (
                "add PostUp hooks: sysctl -q net.ipv4.ip_forward=1, and a rule that masquerades; or leave it to "
                "/etc/sysctl.d and the firewall of this host"
            )
            yield note(server, server.interface_section.place, "no-forwarding-hook", what, remedy, other=clients[0])


def _is_client(end: End, other: End) -> bool:
    """Whether an end connects to the other one, routes all IPv4 or IPv6 into the tunnel, and gets none back."""
    full, back = ([ip.length == 0 for ip in each.peer.allowed_ips] for each in (end, other))
    connects = end.peer.endpoint is not None and other.peer.endpoint is None
    return connects and any(full) and not any(back) and end.source.settings.routes_automatically


def _psk(pair: Pair) -> Iterator[Finding]:
    one, two = pair
    if _raw_psk(one) == _raw_psk(two):
        return
    at, other = (two, one) if two.peer.preshared_key else (one, two)
    kind = "another PresharedKey" if _raw_psk(other) else "no PresharedKey"
    what = f"{other.source.shown} has {kind} for this peer: no handshake can succeed"
    remedy = "write the same PresharedKey at both ends, or at neither"
    yield note(at.source, at.section.at("PresharedKey"), "psk-differs", what, remedy, other=other.source)


def _raw_psk(end: End) -> bytes:
    """The preshared key; b"" if there is none. A key of all zeros means none."""
    key = end.peer.preshared_key
    return key.raw if key and key != NO_KEY else b""


def _source(end: End, other: End) -> Iterator[Finding]:
    """An address of the other end that this end does not accept, in a family that the other end sends to it."""
    if not end.peer.allowed_ips:
        return
    allowed = nets.NetworkSet(ip for ip in end.peer.allowed_ips if ip.change != "-")
    sent = {len(ip.address) for ip in other.peer.allowed_ips}
    for address in other.source.settings.addresses:
        if len(address.address) not in sent or nets.is_link_local(address):
            continue
        if not allowed.covers(nets.host(address.address)):
            sender = address_text(address.address)
            what = f"{other.source.shown} sends from {sender}, which is not in this peer's AllowedIPs"
            remedy = f"add {sender} to AllowedIPs"
            if wrong := _own_addresses(end):
                remedy = f"write {sender} there in place of {wrong[0]}, which is this interface's own address"
            place = end.section.at("AllowedIPs")
            yield note(end.source, place, "source-not-allowed", what, remedy, other=other.source)


def _own_addresses(end: End) -> list[str]:
    """The interface's own addresses in the section's AllowedIPs, as /32 or /128."""
    own = {address.address for address in end.source.settings.addresses}
    return [address_text(ip.address) for ip in end.peer.allowed_ips if ip.address in own and nets.is_single(ip)]


def _is_self(end: End, other: End) -> bool:
    """Whether the Endpoint is this interface's own: the other end has it too, and the port is this one's."""
    mine, theirs = end.peer.endpoint, other.peer.endpoint
    return mine is not None and mine == theirs and mine.port == str(end.source.settings.listen_port)


def _port(end: End, other: End) -> Iterator[Finding]:
    port = other.source.settings.listen_port
    given = end.peer.endpoint.port if end.peer.endpoint else ""
    if not given.isdigit() or int(given) & 0xFFFF in (0, port):
        return
    if _is_self(end, other):
        what = f"{other.source.shown} has this Endpoint too: it is this interface's own"
        remedy = f"remove Endpoint, or write the address of {other.source.shown}"
        yield note(end.source, end.section.at("Endpoint"), "endpoint-is-self", what, remedy, other=other.source)
        return
    if port:
        what = f"the port is {given}, but {other.source.shown} listens on port {port}"
        remedy = f"write port {port} here, or change ListenPort in {other.source.shown}"
    else:
        what = f"the port is {given}, but {other.source.shown} has no ListenPort: its port is random"
        remedy = f"add ListenPort = {given} to {other.source.shown}"
    yield note(end.source, end.section.at("Endpoint"), "endpoint-port-differs", what, remedy, other=other.source)


def _addresses(sources: Sequence[Source], tunnels: Tunnels) -> Iterator[Finding]:
    owners: dict[bytes, list[Source]] = defaultdict(list)
    for source in sources:
        for index, address in enumerate(source.settings.addresses):
            if nets.is_link_local(address):
                continue
            earlier = next((each for each in owners[address.address] if tunnels.together(each, source)), None)
            if earlier is not None and not _one_key_only(earlier, source):
                what = f"{earlier.shown} also has the address {address_text(address.address)}"
                place = source.interface_section.word("Address", index)
                yield note(source, place, "address-shared", what, "give each end its own address", other=earlier)
            owners[address.address].append(source)


def _one_key_only(one: Source, two: Source) -> bool:
    """Whether the two are copies of one interface: one-key-two-places reports that."""
    return one.settings.private_key == two.settings.private_key


class _Claims:
    """What the earlier files claim on one host: ports, marks, tables and networks, each with its files."""

    def __init__(self, tunnels: Tunnels) -> None:
        self._tunnels = tunnels
        self._files: dict[Hashable, list[Source]] = defaultdict(list)

    def other(self, claim: Hashable, source: Source) -> Source | None:
        """The first file with this claim. The ends of one tunnel, and choices of one device, cannot conflict."""
        files = self._files.get(claim, ())
        return next((each for each in files if not self._are_apart(each, source)), None)

    def _are_apart(self, one: Source, two: Source) -> bool:
        return _one_key_only(one, two) or self._tunnels.together(one, two)

    def add(self, claims: Iterable[Hashable], source: Source) -> None:
        """Note a file's claims. Of several files with the same key, only the first counts."""
        for claim in claims:
            files = self._files[claim]
            if not files or not _one_key_only(files[-1], source):
                files.append(source)


def _one_host(sources: Sequence[Source], tunnels: Tunnels) -> Iterator[Finding]:
    """Conflicts of interfaces on one host: at most one of each kind for a file."""
    claims = _Claims(tunnels)
    for source in sources:
        yield from _conflicts(claims, source)
        settings = source.settings
        claims.add((("ListenPort", settings.listen_port), ("FwMark", settings.fwmark)), source)
        claims.add({("Table", _table(settings.table)), *_networks(source)}, source)


def _table(word: str) -> int | str:
    """The table's number, or its name if only a host knows the number."""
    number = own_table(word)
    return word if number is None else number


def _networks(source: Source) -> Iterator[tuple[bytes, int]]:
    return ((ip.address, ip.length) for peer in source.settings.peers for ip in peer.allowed_ips)


def _conflicts(claims: _Claims, source: Source) -> Iterator[Finding]:
    mine, section = source.settings, source.interface_section
    if mine.listen_port and (other := claims.other(("ListenPort", mine.listen_port), source)):
        what = f"{other.shown} also has ListenPort {mine.listen_port}: one host can use a port only once"
        remedy = "choose another port if both are on one host"
        yield note(source, section.at("ListenPort"), "listen-port-shared", what, remedy, other=other)
    if mine.fwmark and (other := claims.other(("FwMark", mine.fwmark), source)):
        what, remedy = f"{other.shown} also has this FwMark", "choose another if both are on one host"
        yield note(source, section.at("FwMark"), "mark-shared", what, remedy, other=other)
    elif is_separate(mine.table) and (other := claims.other(("Table", _table(mine.table)), source)):
        what, remedy = f"{other.shown} also has this Table", "choose another if both are on one host"
        yield note(source, section.at("Table"), "mark-shared", what, remedy, other=other)
    for peer, place in zip(mine.peers, source.peer_sections, strict=True):
        for entry, ip in enumerate(peer.allowed_ips):
            if other := claims.other((ip.address, ip.length), source):
                what = f"{other.shown} also routes {ip} into its tunnel"
                remedy = "give each network to one tunnel if both are on one host"
                yield note(source, place.word("AllowedIPs", entry), "tunnels-overlap", what, remedy, other=other)
                return
