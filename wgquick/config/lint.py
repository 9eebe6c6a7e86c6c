"""Advice on configurations that wg-quick accepts and that probably do not do what was meant; codes are stable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgquick.errors import Diagnostic
from wgquick.net import address_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.config.document import Document, Line
    from wgquick.config.settings import PeerSettings, Settings

CODES = {
    "no-private-key": "the interface cannot shake hands",
    "no-address": "the interface has no address of its own",
    "peer-without-allowed-ips": "nothing is sent to the peer, and nothing that it sends is taken",
    "allowed-ip-moves": "a network that two peers claim is the later one's alone",
    "repeated-peer": "two sections for one key are one peer to the device",
    "full-tunnel-without-routes": "with Table = off nothing sends traffic into the full tunnel",
    "search-without-server": "wg-quick sets no search domains unless there is a DNS server",
    "low-mtu": "IPv6 needs an MTU of 1280",
    "nobody-connects": "neither side knows where the other is, and this side does not listen on a known port",
}
"""What each piece of advice is about."""


def advice(settings: Settings, document: Document) -> list[Diagnostic]:
    """All the advice on a configuration, in the order of its lines; `settings` is what the document says."""
    lines = document.lines()
    interface = _Places([row for row, line in enumerate(lines) if line.section == "Interface"], lines)
    headers = [row for row, line in enumerate(lines) if line.header]
    spans = zip(headers, [*headers[1:], len(lines)], strict=False)
    peers = [_Places(list(range(a, b)), lines) for a, b in spans if lines[a].header == "Peer"]
    found = [*_on_interface(settings, interface), *_on_peers(settings, peers)]
    return sorted(found)


class _Places:
    """Where a section's keys stand."""

    def __init__(self, rows: list[int], lines: list[Line]) -> None:
        self._rows = rows
        self._lines = lines

    def note(self, code: str, message: str, remedy: str, key: str = "") -> Diagnostic:
        """Advice at the key's last value, or at the section's first line."""
        given = [row for row in self._rows if self._lines[row].key == key] if key else []
        row = given[-1] if given else next(iter(self._rows), 0)
        column = self._lines[row].value[0] + 1 if given else 1
        return Diagnostic(row + 1, column, code, message, remedy, "advice")


def _on_interface(settings: Settings, places: _Places) -> Iterator[Diagnostic]:
    if settings.private_key is None:
        remedy = "add PrivateKey, or set the key in a PreUp hook"
        yield places.note("no-private-key", "the interface has no PrivateKey", remedy)
    if not settings.addresses:
        yield places.note("no-address", "the interface has no Address", "add Address = ...")
    if settings.dns_search and not settings.dns:
        what = "search domains are set only along with a DNS server"
        yield places.note("search-without-server", what, "add a server to DNS", "DNS")
    if settings.mtu is not None and settings.mtu < 1280 and any(len(a.address) == 16 for a in settings.addresses):
        what = f"MTU {settings.mtu} is too small for the interface's IPv6 addresses"
        yield places.note("low-mtu", what, "write 1280 or more", "MTU")
    if settings.table == "off" and any(ip.length == 0 for peer in settings.peers for ip in peer.allowed_ips):
        what = "a peer takes all traffic, but with Table = off no route leads to it"
        yield places.note("full-tunnel-without-routes", what, "leave Table out, or add routes in PostUp", "Table")
    if settings.peers and not settings.listen_port and not any(peer.endpoint for peer in settings.peers):
        what = "no peer has an Endpoint, and the interface has no ListenPort that they could know"
        yield places.note("nobody-connects", what, "add ListenPort here or Endpoint to a peer")


def _on_peers(settings: Settings, places: list[_Places]) -> Iterator[Diagnostic]:
    claims: dict[tuple[bytes, int], bytes] = {}
    keys: set[bytes] = set()
    for peer, place in zip(settings.peers, places, strict=True):
        if not peer.allowed_ips:
            what = "the peer has no AllowedIPs: it can neither be sent anything nor send anything"
            yield place.note("peer-without-allowed-ips", what, "add AllowedIPs = ...")
        if peer.public_key.raw in keys:
            what = "this PublicKey has a section above: the two are one peer"
            yield place.note("repeated-peer", what, "join the sections", "PublicKey")
        keys.add(peer.public_key.raw)
        yield from _moves(peer, place, claims)


def _moves(peer: PeerSettings, place: _Places, claims: dict[tuple[bytes, int], bytes]) -> Iterator[Diagnostic]:
    """Networks that an earlier peer loses to this one."""
    key = peer.public_key.raw
    for ip in peer.allowed_ips:
        network = (ip.address, ip.length)
        if ip.change == "-":
            claims.pop(network, None)
            continue
        if claims.get(network, key) != key:
            what = f"{address_text(ip.address)}/{ip.length} belongs to this peer alone: one above loses it"
            yield place.note("allowed-ip-moves", what, "give each network to one peer", "AllowedIPs")
        claims[network] = key
