"""`wgq reload`: what changes on a live device so that it is what the file says; nothing else is sent.

The file of today and the device do not tell what a hook or `wg set` has added and what the file said before. The
journal does: it has, of each peer of the earlier file, what that file gave. Without it (the tunnel is wg-quick's)
what may be a hook's stays.
"""

from __future__ import annotations

from wgquick.config import keys
from wgquick.config.keys import clamped
from wgquick.device import DeviceConfig, DevicePeer, PeerConfig
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import KEY_LENGTH, AllowedIP, SecretKey
from wgquick.plan.given import Given, merged
from wgquick.plan.up import routes_automatically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wgquick.config.keys import Key
    from wgquick.config.settings import PeerSettings, Settings
    from wgquick.device import Device
    from wgquick.net import Endpoint, PublicKey, SocketAddress
    from wgquick.plan.given import Earlier

_NO_KEY = SecretKey(bytes(KEY_LENGTH))
_SHOWN = 8  # networks in one line of the transcript
Network = tuple[bytes, int]


class Change(NamedTuple):
    """What to send to the device, and what to say of the things that stay as they are."""

    config: DeviceConfig
    notes: tuple[str, ...]


def endpoints(settings: Settings, device: Device, earlier: Earlier | None) -> tuple[Endpoint, ...]:
    """The endpoints to look up: of new peers, and those that the file has changed."""
    live = {peer.public_key: peer for peer in device.peers}
    wanted = (p.endpoint for key, p in merged(settings).items() if _moves(p, live.get(key), earlier))
    return tuple(dict.fromkeys(endpoint for endpoint in wanted if endpoint))


def _moves(peer: PeerSettings, live: DevicePeer | None, earlier: Earlier | None) -> bool:
    """Whether the peer's endpoint is the file's to say: a live one may have roamed since (wireguard(7))."""
    if peer.endpoint is None:
        return False
    if live is None or live.endpoint is None:
        return True
    before = (earlier or {}).get(peer.public_key.raw)
    if before is None:
        return not live.last_handshake
    return before.endpoint != str(peer.endpoint)


def change(
    settings: Settings, device: Device, earlier: Earlier | None, resolved: Mapping[Endpoint, SocketAddress]
) -> Change:
    """The device part of the difference between the file and the device."""
    wanted = merged(settings)
    live = {peer.public_key: peer for peer in device.peers}
    networks = _Networks(wanted, live, earlier)
    gone = [key for key in live if key not in wanted and (earlier is None or key.raw in earlier)]
    changed = (_peer_change(peer, live.get(key), earlier, resolved, networks) for key, peer in wanted.items())
    removed = (PeerConfig(key, remove=True) for key in gone)
    peers = (*removed, *(peer for peer in changed if peer is not None))
    fwmark, notes = _fwmark(settings, device)
    config = DeviceConfig(_private_key(settings, device), _listen_port(settings, device), fwmark, peers=peers)
    if any(peer.allowed_ips or peer.replace_allowed_ips or peer.remove for peer in peers):
        notes = (*notes, f"[!] Routes stay as they are: `wgq down {device.name}' and `wgq up' change them")
    return Change(config, notes)


def _private_key(settings: Settings, device: Device) -> SecretKey | None:
    key = settings.private_key
    return key if key is not None and clamped(key) != clamped(device.private_key) else None


def _listen_port(settings: Settings, device: Device) -> int | None:
    """The port; 0 leaves the choice to the device, which has chosen."""
    port = settings.listen_port
    return port if port and port != device.listen_port else None


def _fwmark(settings: Settings, device: Device) -> tuple[int | None, tuple[str, ...]]:
    """The mark; that of a full tunnel stays, as the rules and the table go by it."""
    mark = settings.fwmark
    if mark is None or mark == device.fwmark:
        return None, ()
    full = any(ip.length == 0 for peer in device.peers for ip in peer.allowed_ips)
    if not (device.fwmark and full and routes_automatically(settings)):
        return mark, ()
    way = "`wgq down' and `wgq up' change it"
    note = f"[!] FwMark stays {device.fwmark}, which the rules of the full tunnel name: {way}"
    return None, (note,) if mark else ()


class _Networks:
    """Which peer is to have which AllowedIPs; of two peers that claim a network, the later one has it."""

    def __init__(
        self, wanted: dict[PublicKey, PeerSettings], live: dict[PublicKey, DevicePeer], earlier: Earlier | None
    ) -> None:
        self._claims: dict[PublicKey, dict[Network, None]] = {}
        self._owner: dict[Network, PublicKey] = {}
        for key, peer in wanted.items():
            claims = _claims(peer, live.get(key), earlier)
            self._claims[key] = claims
            self._owner |= dict.fromkeys(claims, key)

    def change(self, key: PublicKey, live: DevicePeer | None) -> tuple[bool, tuple[AllowedIP, ...]]:
        """Whether the peer's AllowedIPs are to be replaced, and those to send."""
        has = dict.fromkeys((ip.address, ip.length) for ip in live.allowed_ips) if live else {}
        claims = [network for network in self._claims[key] if self._owner[network] == key]
        # A network that another peer gets leaves this one by that.
        if any(network not in self._owner for network in has):
            return True, tuple(AllowedIP(*network) for network in claims)
        return False, tuple(AllowedIP(*network) for network in claims if network not in has)


def _claims(peer: PeerSettings, live: DevicePeer | None, earlier: Earlier | None) -> dict[Network, None]:
    """The networks that a peer claims: the file's, or where the file gives none and never did the device's."""
    before = (earlier or {}).get(peer.public_key.raw)
    keeps = not peer.replace_allowed_ips or (
        not peer.allowed_ips and before is not None and not before.has_allowed_ips
    )
    has = live.allowed_ips if live and keeps else ()
    claims: dict[Network, None] = dict.fromkeys((ip.address, ip.length) for ip in has)
    for ip in peer.allowed_ips:
        if ip.change == "-":
            claims.pop((ip.address, ip.length), None)
        else:
            claims[ip.address, ip.length] = None
    return claims


def _peer_change(
    peer: PeerSettings,
    live: DevicePeer | None,
    earlier: Earlier | None,
    resolved: Mapping[Endpoint, SocketAddress],
    networks: _Networks,
) -> PeerConfig | None:
    """The attributes of one peer that change; None if none does."""
    replace, allowed_ips = networks.change(peer.public_key, live)
    before = (earlier or {}).get(peer.public_key.raw, Given())
    endpoint = resolved[peer.endpoint] if peer.endpoint and _moves(peer, live, earlier) else None
    config = PeerConfig(
        peer.public_key,
        update_only=live is not None,
        preshared_key=_preshared_key(peer, live, before),
        endpoint=endpoint if live is None or endpoint != live.endpoint else None,
        persistent_keepalive=_keepalive(peer, live, before),
        replace_allowed_ips=replace,
        allowed_ips=allowed_ips,
    )
    return None if config == PeerConfig(peer.public_key, update_only=True) else config


def _preshared_key(peer: PeerSettings, live: DevicePeer | None, before: Given) -> SecretKey | None:
    """The file's key, or none if the file had one and has it no more; that of a hook stays."""
    has = live.preshared_key if live else None
    if peer.preshared_key is not None:
        return peer.preshared_key if peer.preshared_key != (has or _NO_KEY) else None
    return _NO_KEY if has is not None and before.has_preshared_key else None


def _keepalive(peer: PeerSettings, live: DevicePeer | None, before: Given) -> int | None:
    """The file's interval, or 0 if the file had one and has it no more."""
    has = live.persistent_keepalive if live else 0
    wanted = peer.persistent_keepalive
    if wanted is None and before.persistent_keepalive is not None:
        wanted = 0
    return wanted if wanted != has else None


def lines(name: str, config: DeviceConfig) -> Iterator[str]:
    """The transcript: the wg(8) commands that would do the same, without secrets."""
    words = list(_device_words(config))
    if words:
        yield f"[#] wg set {name} {' '.join(words)}"
    for peer in config.peers:
        yield f"[#] wg set {name} peer {peer.public_key} {' '.join(_peer_words(peer))}".rstrip()


def _device_words(config: DeviceConfig) -> Iterator[str]:
    for key in keys.of("Interface", of_wg=True):
        value = getattr(config, key.field)
        if value is not None:
            yield _words(key, value)


def _peer_words(peer: PeerConfig) -> Iterator[str]:
    if peer.remove:
        yield "remove"
    for key in keys.of("Peer"):
        value = getattr(peer, key.field)
        if key.name == "AllowedIPs":
            if value or peer.replace_allowed_ips:
                yield f"{key.command} {_networks_text(peer)}"
        elif value is not None and key.name != "PublicKey":
            yield _words(key, value)


def _words(key: Key, value: object) -> str:
    """A value as an argument of `wg set`."""
    if key.secret:
        return f"{key.command} {'/dev/null' if value == _NO_KEY else '(hidden)'}"
    return f"{key.command} {value or 'off'}"


def _networks_text(peer: PeerConfig) -> str:
    sign = "" if peer.replace_allowed_ips else "+"
    shown = ",".join(f"{sign}{ip}" for ip in peer.allowed_ips[:_SHOWN])
    more = len(peer.allowed_ips) - _SHOWN
    return f"{shown},... ({more} more)" if more > 0 else shown or '""'
