"""The connections that the files intend, and why one of them fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgquick.diagnosis import nets
from wgquick.diagnosis.check import check
from wgquick.diagnosis.finding import ERROR, INFO
from wgquick.diagnosis.layout import allowed, networks_behind
from wgquick.net import address_text
from wgquick.rehearsal import TCP_PORT, Failure, Probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wgquick.config.settings import Address, PeerSettings
    from wgquick.diagnosis.finding import Finding
    from wgquick.diagnosis.layout import Ties
    from wgquick.diagnosis.source import Source
    from wgquick.net import Endpoint, Prefix
    from wgquick.rehearsal import Host, Layout, Reach, State

# The codes of check that explain a failure, the root cause first: no handshake, or a handshake without data.
_NO_HANDSHAKE = (
    "one-key-two-places", "public-key-is-private", "private-key-is-public", "peer-is-self", "zero-key",
    "no-private-key", "peer-key-mismatch", "peer-one-sided", "psk-differs", "endpoint-no-host",
    "endpoint-in-tunnel", "endpoint-port-zero", "endpoint-port-differs", "endpoint-shared", "nobody-connects",
    "peer-cannot-connect", "endpoint-private",
)  # fmt: skip
_NO_DATA = (
    "one-key-two-places", "address-shared", "allowed-ip-moves", "source-not-allowed", "peer-without-allowed-ips",
    "endpoint-in-tunnel", "table-unused", "full-tunnel-without-routes", "tunnel-net-unclaimed",
    "address-not-host", "own-address-allowed",
)  # fmt: skip
_SILENT = ("nobody-connects",)
_OF_ENDPOINTS = ("endpoint-no-host", "endpoint-port-zero", "endpoint-port-differs", "endpoint-in-tunnel")
_NOT_LARGE = ("mtu-too-large", "mtu-unequal", "low-mtu", "mss-not-clamped")
# With one key in two places a pair is unreliable, even if packets arrive now.
_ALWAYS = ("one-key-two-places",)


def probes(ties: Ties, layout: Layout, states: Sequence[State]) -> list[Probe]:
    """The connections to test: pairs of files with sections for each other, and pairs with a hub between them."""
    direct = [probe for one, two, peer in ties for probe in _direct(ties, layout, one, two, peer)]
    hubs = [index for index, state in enumerate(states) if state.forwards]
    met = {(probe.at, probe.to) for probe in direct}
    across = [
        probe
        for hub in hubs
        for probe in _across(ties, layout, hub, states[hub].forwards)
        if (probe.at, probe.to) not in met
    ]
    return sorted(dict.fromkeys([*direct, *across]), key=lambda each: (each.at, each.to, each.network))


def _direct(ties: Ties, layout: Layout, one: int, two: int, peer: PeerSettings) -> Iterator[Probe]:
    back = ties.section(two, one)
    if not allowed(peer) or (back is not None and not allowed(back)):
        return
    mine = _families(ties.sources[one])
    for address in _addresses(ties.sources[two]):
        if _family(address) in mine:
            yield Probe(one, two, address_text(address.address), peer.public_key.raw)
    claimed = list(networks_behind(ties.sources, two, peer))
    for own in _local(layout, two):
        if own.family in mine and any(nets.contains(network, nets.host(own.address)) for network in claimed):
            source = _source_behind(layout, one, own.family, back)
            yield Probe(one, two, address_text(own.address), peer.public_key.raw, source, network=True)


def _local(layout: Layout, host: int) -> list[Prefix]:
    """The addresses of a host in the networks behind it and in its local networks."""
    local = [each for cable in layout.hosts[host].cables if cable.segment for each in cable.addresses]
    return [*layout.hosts[host].behind, *local]


def _source_behind(layout: Layout, host: int, family: int, back: PeerSettings | None) -> str:
    """The host's address in a network behind it that the other end allows; "" if the kernel has to choose."""
    expected = nets.NetworkSet(allowed(back) if back else ())
    for own in layout.hosts[host].behind:
        if own.family == family and expected.covers(nets.host(own.address)):
            return address_text(own.address)
    return ""


def _across(ties: Ties, layout: Layout, hub: int, families: Sequence[int]) -> Iterator[Probe]:
    """The probes between the clients of a hub that forwards packets."""
    clients = [one for one, two, _ in ties if two == hub and ties.section(hub, one) is not None]
    for one in clients:
        for two in clients:
            if one == two or ties.section(one, two) or ties.section(two, one):
                continue
            way, back = _way(ties, one, hub, two), _way(ties, two, hub, one)
            if way is None or back is None:
                continue
            for address in [a.address for a in _addresses(ties.sources[two])]:
                if nets.host(address).family in families and way.leads_to(address) and back.answers(address):
                    yield Probe(one, two, address_text(address), way.peer.public_key.raw, hub=hub)
            for own in layout.hosts[two].behind:
                if own.family in families and way.leads_to(own.address) and back.answers(own.address):
                    key = way.peer.public_key.raw
                    yield Probe(one, two, address_text(own.address), key, hub=hub, network=True)


class _Way:
    """The route from one client of a hub to another, by AllowedIPs."""

    def __init__(self, first: PeerSettings, second: PeerSettings, goal: Source) -> None:
        self.peer = first
        self._first, self._second = nets.NetworkSet(allowed(first)), nets.NetworkSet(allowed(second))
        self._goals = [address.address for address in _addresses(goal)]

    def leads_to(self, address: bytes) -> bool:
        """Whether packets to the address go to the hub and from there to the other client."""
        return self._first.covers(nets.host(address)) and self._second.covers(nets.host(address))

    def answers(self, address: bytes) -> bool:
        """Whether packets from the address get answers: the other end has an address of the same family."""
        return any(len(goal) == len(address) and self.leads_to(goal) for goal in self._goals)


def _way(ties: Ties, one: int, hub: int, two: int) -> _Way | None:
    """The way from `one` to `two`; None if one of the two sections is missing."""
    first, second = ties.section(one, hub), ties.section(hub, two)
    return _Way(first, second, ties.sources[two]) if first and second else None


def _addresses(source: Source) -> list[Address]:
    return [address for address in source.settings.addresses if not nets.is_link_local(address)]


def _family(address: Address) -> int:
    return 4 if len(address.address) == 4 else 6


def _families(source: Source) -> set[int]:
    return {_family(address) for address in _addresses(source)}


class Causes:
    """Explains from the files why a connection fails."""

    def __init__(self, ties: Ties, names: Sequence[str]) -> None:
        self._ties = ties
        self._sources = ties.sources
        self._names = names
        self._all = check(list(ties.sources))
        self._of_pairs: dict[tuple[int, int], list[Finding]] = {}

    def of(self, probe: Probe, states: Sequence[State], reach: Reach, *, handshake: bool) -> Failure | None:
        """The cause of a failure: a host that is not up, or a mistake in the files; None if neither explains it.

        A working connection has a cause too if it works only by chance.
        """
        ends = [end for end in (probe.at, probe.to, probe.hub) if end >= 0]
        down = next((end for end in ends if not states[end].is_up), None)
        if down is not None:
            return self._not_up(down)
        works = handshake and all(reach)
        wanted = _ALWAYS if works else _wanted(reach, handshake=handshake)
        found = [each for pair in _legs(probe) for each in self._of_pair(*pair) if each.code in wanted]
        best = min(found, key=lambda each: wanted.index(each.code), default=None)
        return best and _cause_of(best)

    def misdelivered(self, probe: Probe, layout: Layout, states: Sequence[State]) -> Failure | None:
        """The cause that the sender's Endpoint does not lead to the other end; None if it does."""
        if probe.hub >= 0:
            return None
        source, host = self._sources[probe.at], layout.hosts[probe.to]
        peer = self._ties.section(probe.at, probe.to)
        endpoint = peer.endpoint if peer else None
        if peer is None or endpoint is None or not (states[probe.to].is_up and states[probe.at].is_up):
            return None
        port = states[probe.to].listen_port
        if _leads(endpoint.host, layout.hosts[probe.at], host) and endpoint.port in (str(port), *_names(endpoint)):
            return None
        line, column = source.peer_sections[source.settings.peers.index(peer)].at("Endpoint")
        there = f"at {' '.join(host.known)}, " if host.known else ""
        what = f"the Endpoint {endpoint} does not lead to {host.name} ({there}port {port})"
        remedy = f"correct the Endpoint, or set the address: --host {host.name}.conf=ADDRESS"
        return Failure("endpoint-unreachable", what, remedy, f"{source.shown}:{line}:{column}")

    def is_doubtful(self, probe: Probe, layout: Layout, states: Sequence[State]) -> bool:
        """Whether the files predict a failure, and no other Endpoint makes up for it."""
        ways = [
            self.misdelivered(each, layout, states) is None
            for each in (probe, probe._replace(at=probe.to, to=probe.at))
            if (peer := self._ties.section(each.at, each.to)) is not None and peer.endpoint is not None
        ]
        if ways and not any(ways):
            return True
        codes = {
            each.code
            for pair in _legs(probe)
            for each in self._of_pair(*pair)
            if each.severity == ERROR or each.code in _SILENT
        }
        sections = [self._ties.section(*ends) for ends in ((probe.at, probe.to), (probe.to, probe.at))]
        if all(peer is not None and peer.endpoint is not None for peer in sections):
            codes -= set(_OF_ENDPOINTS)
        return not codes.isdisjoint((*_NO_HANDSHAKE, *_NO_DATA))

    def _not_up(self, host: int) -> Failure:
        what = f"{self._names[host]} did not come up"
        return Failure("not-up", what, "see the output of `wgq up' above", self._names[host])

    def _of_pair(self, one: int, two: int) -> list[Finding]:
        """The findings of check that concern these two files, in either order."""
        ends = min(one, two), max(one, two)
        if ends not in self._of_pairs:
            self._of_pairs[ends] = self._examined(*ends)
        return self._of_pairs[ends]

    def _examined(self, one: int, two: int) -> list[Finding]:
        sources = [self._sources[one], self._sources[two]]
        shown = {source.shown for source in sources}
        alone = check(sources)
        both = [each for each in self._all if each in alone or _names_both(each, shown)]
        third = [each for each in self._all if each.file in shown or each.other in shown]
        return [*both, *(each for each in third if each.severity != INFO and each.code in _OF_MORE)]


_OF_MORE = ("one-key-two-places", "address-shared", "allowed-ip-moves")


def _names_both(finding: Finding, shown: set[str]) -> bool:
    return finding.file in shown and finding.other in shown - {finding.file}


def _leads(place: str, sender: Host, host: Host) -> bool:
    """Whether an Endpoint's host leads the sender to a host; a name always does.

    A private address leads to it only from the same local network.
    """
    literal = nets.literal(place)
    if literal is None:
        return True
    segments = {cable.segment for cable in sender.cables}
    return any(
        address.address == literal
        for cable in host.cables
        if cable.segment in segments
        for address in cable.addresses
    )


def _names(endpoint: Endpoint) -> tuple[str, ...]:
    """The port if it is the name of a service, which counts as right; else empty."""
    return () if endpoint.port.isdigit() else (endpoint.port,)


def _legs(probe: Probe) -> list[tuple[int, int]]:
    if probe.hub < 0:
        return [(probe.at, probe.to)]
    return [(probe.at, probe.hub), (probe.hub, probe.to)]


def _wanted(reach: Reach, *, handshake: bool) -> tuple[str, ...]:
    if not handshake:
        return (*_NO_HANDSHAKE, *_NO_DATA)
    if not reach.ping:
        return (*_NO_DATA, *_NO_HANDSHAKE)
    return (*_NOT_LARGE, *_ALWAYS)


def _cause_of(finding: Finding) -> Failure:
    return Failure(finding.code, finding.message, finding.remedy, f"{finding.file}:{finding.line}:{finding.column}")


def guess(probe: Probe, reach: Reach, *, handshake: bool) -> Failure:
    """A vague cause, from the symptoms alone, if neither the files nor doctor explain the failure."""
    if not handshake:
        what = "no handshake: nothing answers at the endpoint, or what answers has other keys"
        return Failure("no-answer", what, "run it again with `--keep', and inspect the hosts")
    if not reach.ping:
        what = f"there is a handshake, but no answer from {probe.address}"
        remedy = "check AllowedIPs, and what the hooks of the other end drop"
        return Failure("no-data-back", what, remedy)
    if not reach.full_size:
        what = "small packets pass, but those of the tunnel's MTU do not"
        return Failure("mtu-too-large", what, "write a smaller MTU")
    what = f"pings pass, but TCP to port {TCP_PORT} of {probe.address} does not"
    return Failure("tcp-blocked", what, "check what the hooks of the other end drop")
