"""Derives the simulated hosts from configuration files: their addresses and local networks.

An Endpoint shows the address of the file with the section's public key. A public address is on the Internet. A
private one is on a local network: a /24 (IPv6: a /64), or a larger one if hosts with Endpoints for each other need
it. A host is on a local network if it has an address there, or if it has no known address and one of its Endpoints
is there. Every host is on the Internet too; it gets an address if none is known.
"""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING

from wgquick.config import keys
from wgquick.config.grammar import may_be_host
from wgquick.diagnosis import nets
from wgquick.diagnosis.hook_rules import host_links
from wgquick.diagnosis.several_files import Tunnels
from wgquick.errors import WgqError
from wgquick.net import Prefix, address_text, pack_address
from wgquick.options import DIRECTORY
from wgquick.rehearsal import INTERNET, Cable, File, Host, Layout, Shared

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from wgquick.config.settings import PeerSettings
    from wgquick.diagnosis.source import Source
    from wgquick.net import AllowedIP
    from wgquick.rehearsal import Probe

# Benchmarking networks (RFC 2544, RFC 5180), which no real host uses; the gateway is link-local.
_GIVEN = {4: pack_address("198.18.0.0"), 6: pack_address("2001:2::")}
_LOCAL_LENGTH = {4: 24, 6: 64}
_NOWHERE = [Prefix.parse(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "ff00::/8")]
_MOST_BEHIND = 8
_SCRIPT = 1_000_000  # the maximum size of a file that a hook names, in bytes


class Ties:
    """The sections of files for other files, by the indices of both files."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self._sections: dict[tuple[int, int], PeerSettings] = {}
        intended = Tunnels(sources).intended
        at = {id(source): index for index, source in enumerate(sources)}
        for (one, two), end in intended.items():
            self._sections[at[one], at[two]] = end.peer
        self._keyless = [at for at, source in enumerate(sources) if source.settings.private_key is None]
        owners = self._owners()
        for index, source in enumerate(sources):
            for peer in source.settings.peers:
                for other in owners.get(peer.public_key.raw) or self._by_address(peer):
                    if other != index:
                        self._sections[index, other] = peer

    def _owners(self) -> dict[bytes, list[int]]:
        """The files by their public key, and by their private key, which a PublicKey may have by mistake."""
        owners: dict[bytes, list[int]] = defaultdict(list)
        for index, source in enumerate(self.sources):
            if source.public_key is not None and source.settings.private_key is not None:
                owners[source.public_key.raw].append(index)
                owners[source.settings.private_key.raw].append(index)
        return owners

    def _by_address(self, peer: PeerSettings) -> list[int]:
        """The only file without PrivateKey that has an address in the section's AllowedIPs, else none.

        A hook sets the private key of such a file.
        """
        accepted = nets.NetworkSet(allowed(peer))
        found = [
            index
            for index in self._keyless
            if any(
                accepted.covers(nets.host(address.address)) for address in self.sources[index].settings.addresses
            )
        ]
        return found if len(found) == 1 else []

    def section(self, one: int, two: int) -> PeerSettings | None:
        """The section of the first file for the second."""
        return self._sections.get((one, two))

    def __iter__(self) -> Iterator[tuple[int, int, PeerSettings]]:
        for (one, two), peer in sorted(self._sections.items(), key=lambda each: each[0]):
            yield one, two, peer


def allowed(peer: PeerSettings) -> list[AllowedIP]:
    """The AllowedIPs of a section, without its `-` entries."""
    return [ip for ip in peer.allowed_ips if ip.change != "-"]


def names_of(sources: Sequence[Source]) -> list[str]:
    """The files' names without .conf. Equal names get as many directories as distinguish them."""
    paths = [os.path.abspath(source.path).removesuffix(".conf").split("/") for source in sources]
    depth = 1
    while len({tuple(path[-depth:]) for path in paths}) < len(paths):
        if depth > max(map(len, paths)):
            raise WgqError("a file is given twice", remedy="Name each file once.")
        depth += 1
    counts = [sum(path[-1] == other[-1] for other in paths) for path in paths]
    return ["/".join(path[-depth:]) if many > 1 else path[-1] for path, many in zip(paths, counts, strict=True)]


def placements(words: str, sources: Sequence[Source], names: Sequence[str]) -> dict[int, list[str]]:
    """The addresses and names in `--host FILE=ADDRESS,...`, by the files' indices; WgqError if invalid."""
    found: dict[int, list[str]] = {}
    index = -1
    for word in filter(None, words.split(",")):
        file, equals, address = word.rpartition("=")
        if equals:
            index = _index_of(file, sources, names)
        if index < 0 or not address:
            raise WgqError(f"`{word}' is not FILE=ADDRESS", remedy="Write for example: --host hub.conf=203.0.113.7")
        found.setdefault(index, []).append(address.strip("[]"))
    return found


def _index_of(file: str, sources: Sequence[Source], names: Sequence[str]) -> int:
    for index, (source, name) in enumerate(zip(sources, names, strict=True)):
        if file in (source.shown, source.path, name, f"{name}.conf", os.path.basename(source.path)):
            return index
    raise WgqError(f"`{file}' is none of the files", remedy=f"Choose one of: {', '.join(names)}.")


def lay_out(
    sources: Sequence[Source],
    ties: Ties,
    names: Sequence[str],
    placed: Mapping[int, Sequence[str]],
    *,
    hooks: bool = True,
) -> Layout:
    """The hosts for the files; `placed` has addresses and names from `--host`, by the files' indices."""
    return _Ground(sources, ties, placed).layout(names, hooks=hooks)


class _Ground:
    """Derives the hosts' addresses from the Endpoints."""

    def __init__(self, sources: Sequence[Source], ties: Ties, placed: Mapping[int, Sequence[str]]) -> None:
        self._sources = sources
        self._ties = ties
        self.known: list[dict[bytes, None]] = [{} for _ in sources]
        self._owners_of_names: dict[str, dict[int, None]] = defaultdict(dict)
        self._fixed: set[int] = set()
        for index, words in placed.items():
            for word in words:
                self._claim(index, word)
        self._fixed = {index for index in placed if self.known[index]}
        claims = [(one, two, peer.endpoint) for one, two, peer in ties if peer.endpoint is not None]
        for one, two, endpoint in claims:
            # An Endpoint with the file's own address, by mistake, does not show the peer's address.
            is_own = any(owner == one and place.host == endpoint.host for _, owner, place in claims)
            if not is_own or endpoint.port == str(sources[two].settings.listen_port):
                self._claim(two, endpoint.host)
        self._note_other_names()
        self._given = self._give()
        self._addresses_of_names = dict(self._resolve())
        self.locals = self._local_networks()

    def _claim(self, owner: int, host: str) -> None:
        address = nets.literal(host)
        if address is None:
            if may_be_host(host):
                self._owners_of_names[host].setdefault(owner)
        elif owner not in self._fixed and not _is_in(address, (*_NOWHERE, *nets.LINK_LOCAL.values())):
            self.known[owner].setdefault(address)

    def _note_other_names(self) -> None:
        """Note the host names of Endpoints for none of the files. They get an address that no host has."""
        for source in self._sources:
            for peer in source.settings.peers:
                if peer.endpoint is not None and nets.literal(peer.endpoint.host) is None:
                    self._owners_of_names.setdefault(peer.endpoint.host, {})

    def _give(self) -> list[dict[int, bytes]]:
        """An Internet address for each host and family without a known one."""
        return [
            {
                family: _plus(_GIVEN[family], index + 1)
                for family in (4, 6)
                if not any(_family(address) == family and not nets.is_private(address) for address in addresses)
            }
            for index, addresses in enumerate(self.known)
        ]

    def _resolve(self) -> Iterator[tuple[str, bytes]]:
        """The address of each name: a known address of its first owner, else the one that the owner was given."""
        unknown = count(len(self._sources) + 1)
        for name, owners in self._owners_of_names.items():
            if not owners:
                yield name, _plus(_GIVEN[4], next(unknown))
                continue
            first, *others = owners
            known = [address for address in self.known[first] if not nets.is_private(address)]
            address = next(iter([*known, *self._given[first].values()]))
            for other in others:
                self.known[other].setdefault(address)
            yield name, address

    def _local_networks(self) -> list[dict[int, bytes]]:
        """The local networks, each as the addresses of its hosts by their indices."""
        found: dict[Prefix, dict[int, bytes]] = {}
        for index, addresses in enumerate(self.known):
            for address in filter(nets.is_private, addresses):
                found.setdefault(_network(address), {}).setdefault(index, address)
        merged = self._merged(found)
        for index, known in enumerate(self.known):
            if not known:
                for place in [place for place in merged if self._points_into(index, place)]:
                    place.setdefault(index, _free(place))
        return merged

    def _merged(self, found: Mapping[Prefix, dict[int, bytes]]) -> list[dict[int, bytes]]:
        """The networks, with those joined that have hosts with Endpoints for each other."""
        groups = [dict(members) for members in found.values()]
        for one in range(len(groups)):
            for two in range(one):
                if groups[two] and groups[one] and self._mutual(groups[one], groups[two]):
                    groups[one] = {**groups[two], **groups[one]}
                    groups[two] = {}
        return [group for group in groups if group]

    def _mutual(self, one: dict[int, bytes], two: dict[int, bytes]) -> bool:
        return any(self._points(a, {b: two[b]}) and self._points(b, {a: one[a]}) for a in one for b in two)

    def _points(self, index: int, place: Mapping[int, bytes]) -> bool:
        """Whether an Endpoint of the file is the address of one of the hosts in `place`."""
        return any(
            other in place and peer.endpoint is not None and nets.literal(peer.endpoint.host) == place[other]
            for one, other, peer in self._ties
            if one == index
        )

    def _points_into(self, index: int, place: Mapping[int, bytes]) -> bool:
        return index not in place and self._points(index, place)

    def layout(self, names: Sequence[str], *, hooks: bool) -> Layout:
        """The hosts, their cables, and the addresses of host names."""
        cables = [self._cables(index) for index in range(len(self._sources))]
        behind = self._behind(cables)
        named_first = {two for _, two, peer in self._ties if peer.endpoint is not None}
        hosts = [
            Host(
                name,
                source.settings.name,
                tuple(_files(source, hooks=hooks)),
                cables[index],
                tuple(behind[index].values()),
                wave=int(index not in named_first),
                forwards=() if hooks else forwarded_by_hooks(source),
                known=tuple(self._known(index)),
                links=tuple(host_links(source)[1:]),
            )
            for index, (source, name) in enumerate(zip(self._sources, names, strict=True))
        ]
        lines = [(address_text(address), name) for name, address in self._addresses_of_names.items()]
        return Layout(tuple(hosts), tuple(lines), tuple(self._shared(hosts)))

    def _known(self, index: int) -> Iterator[str]:
        """The names and addresses of a host in the files."""
        names = [name for name, owners in self._owners_of_names.items() if index in owners]
        given = {self._addresses_of_names[name] for name in names}
        yield from names
        yield from (address_text(address) for address in self.known[index] if address not in given)

    def _cables(self, index: int) -> tuple[Cable, ...]:
        public = [address for address in self.known[index] if not nets.is_private(address)]
        on_internet = [nets.host(address) for address in (*public, *self._given[index].values())]
        links = host_links(self._sources[index])
        free = (name for number in count() if (name := f"eth{number}") not in links)
        found = [Cable(links[0] if links else next(free), INTERNET, tuple(on_internet))]
        for place in self.locals:
            if index in place:
                length = _common_length(place.values())
                name = f"{address_text(place[min(place)])}/{length}"
                found.append(Cable(next(free), name, (Prefix(place[index], length),)))
        return tuple(found)

    def _shared(self, hosts: Sequence[Host]) -> Iterator[Shared]:
        """The ports of addresses that several hosts share; the first host gets all other ports."""
        owners: dict[Prefix, list[int]] = defaultdict(list)
        for index, host in enumerate(hosts):
            for address in host.cables[0].addresses:
                owners[address].append(index)
        for address, several in owners.items():
            for index in several[1:]:
                if port := self._sources[index].settings.listen_port:
                    yield Shared(address, port, index)

    def _behind(self, cables: Sequence[tuple[Cable, ...]]) -> list[dict[Prefix, Prefix]]:
        """For each host, the networks behind it and its address in each."""
        found: list[dict[Prefix, Prefix]] = [{} for _ in self._sources]
        taken = [each for own in cables for cable in own for each in cable.addresses]
        for one, two, peer in self._ties:
            for network in networks_behind(self._sources, two, peer):
                is_new = network not in found[two] and not any(nets.contains(network, each) for each in taken)
                if is_new and len(found[two]) < _MOST_BEHIND and one != two:
                    bits = nets.bits(network.address)
                    first = network.address if network.length >= bits - 1 else _plus(network.address, 1)
                    found[two][network] = Prefix(first, network.length)
        return found


def remarks(layout: Layout, ties: Ties, probes: Sequence[Probe]) -> tuple[str, ...]:
    """Remarks on the result: hosts that were not tested, and contradictions in the files."""
    tried = {end for probe in probes for end in (probe.at, probe.to)}
    found = [
        f"{host.name}: nothing to test, as no other file has a [Peer] with AllowedIPs for it, or it for another"
        for index, host in enumerate(layout.hosts)
        if index not in tried
    ]
    for index, host in enumerate(layout.hosts):
        claimed = {
            address
            for _, two, peer in ties
            if two == index and peer.endpoint is not None
            for address in [nets.literal(peer.endpoint.host)]
            if address is not None and nets.host(address) in host.cables[0].addresses
        }
        for family in (4, 6):
            several = sorted(address_text(each) for each in claimed if _family(each) == family)
            if len(several) > 1:
                which = f"--host {host.name}.conf=ADDRESS says which one is right"
                found.append(f"{host.name}: has {' and '.join(several)}, as Endpoints name them all; {which}")
    return tuple(found)


def networks_behind(sources: Sequence[Source], owner: int, peer: PeerSettings) -> Iterator[Prefix]:
    """The private networks behind a file's host, by the AllowedIPs of another file's section for it.

    Networks of the tunnel and of the owner's own peers are left out. So is a family with half or more of all
    addresses in AllowedIPs, as in a full tunnel.
    """
    beyond: list[nets.Network] = [ip for each in sources[owner].settings.peers for ip in allowed(each)]
    tunnel: list[nets.Network] = [address for source in sources for address in source.settings.addresses]
    for family in (4, 6):
        given = [ip for ip in allowed(peer) if ip.family == family]
        if sum(2.0**-ip.length for ip in given) >= 0.5:
            continue
        for ip in given:
            network = _network_of(ip)
            is_local = nets.is_private(network.address) and not _is_in(network.address, nets.LINK_LOCAL.values())
            if is_local and not any(nets.overlap(ip, other) for other in (*beyond, *tunnel)):
                yield network


def _network_of(ip: AllowedIP) -> Prefix:
    """The network without host bits."""
    return _cut(ip.address, ip.length)


def forwarded_by_hooks(source: Source) -> tuple[int, ...]:
    """The families (4, 6) for which the hooks enable forwarding, by their text."""
    text = " ".join(hook.text for hook in source.hooks if hook.stage in ("PreUp", "PostUp"))
    return tuple(
        family
        for family, words in ((4, ("ip_forward", "ipv4.conf.all.forwarding")), (6, ("ipv6.conf.all.forwarding",)))
        if any(word in text.replace("/", ".").replace("ipv4.ip_forward", "ip_forward") for word in words)
    )


def _files(source: Source, *, hooks: bool) -> Iterator[File]:
    """The configuration, and files of its directory that the hooks name in /etc/wireguard."""
    data = bytes(source.document) if hooks else _without_hooks(source)
    yield File(f"{DIRECTORY}/{source.settings.name}.conf", data)
    if not hooks:
        return
    folder = os.path.dirname(os.path.abspath(source.path))
    text = " ".join(hook.text for hook in source.hooks).replace("%i", source.settings.name)
    for entry in sorted(os.listdir(folder)):
        path = f"{folder}/{entry}"
        if f"{DIRECTORY}/{entry}" in text and os.path.isfile(path) and os.path.getsize(path) <= _SCRIPT:
            with open(path, "rb") as file:
                yield File(f"{DIRECTORY}/{entry}", file.read(), os.access(path, os.X_OK))


def _without_hooks(source: Source) -> bytes:
    """The file with empty lines in place of its hooks, so that line numbers stay the same."""
    hooks = {row for row, line in enumerate(source.lines) if line.key in keys.HOOKS}
    kept = [b"" if row in hooks else raw for row, raw in enumerate(source.document.raw)]
    return b"\n".join(kept)


def _family(address: bytes) -> int:
    return 4 if len(address) == 4 else 6


def _plus(address: bytes, number: int) -> bytes:
    return (int.from_bytes(address, "big") + number).to_bytes(len(address), "big")


def _is_in(address: bytes, networks: Iterable[Prefix]) -> bool:
    return any(nets.contains(network, nets.host(address)) for network in networks)


def _cut(address: bytes, length: int) -> Prefix:
    spare = nets.bits(address) - length
    return Prefix((nets.head(address, length) << spare).to_bytes(len(address), "big"), length)


def _network(address: bytes) -> Prefix:
    return _cut(address, _LOCAL_LENGTH[_family(address)])


def _common_length(addresses: Iterable[bytes]) -> int:
    """The prefix length of the smallest network that contains all the addresses, at most 24 (IPv6: 64)."""
    several = list(addresses)
    length = _LOCAL_LENGTH[_family(several[0])]
    while len({nets.head(address, length) for address in several}) > 1:
        length -= 1
    return length


def _free(place: Mapping[int, bytes]) -> bytes:
    """An address of a local network that no host has."""
    network = _network(next(iter(place.values())))
    taken = set(place.values())
    return next(each for number in count(200) if (each := _plus(network.address, number)) not in taken)
