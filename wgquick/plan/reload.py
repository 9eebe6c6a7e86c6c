"""The device's part of a reload: the settings that differ from the file's; nothing else is sent.

The current file and the device do not show what a hook or `wg set` added, or what the file had before. The journal
does: it has the settings of each peer of the earlier file.
"""

from __future__ import annotations

from wgquick.config import keys
from wgquick.config.keys import clamped
from wgquick.device import DeviceConfig, DevicePeer, PeerConfig
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import HIDDEN, NO_KEY, AllowedIP, PublicKey, SecretKey
from wgquick.plan.file_peers import UNKNOWN, FilePeer, claimed, merged
from wgquick.transcript import command

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

    from wgquick.config.keys import Key
    from wgquick.config.settings import PeerSettings, Settings
    from wgquick.device import Device
    from wgquick.net import Endpoint, SocketAddress
    from wgquick.plan.file_peers import FilePeers
    from wgquick.transcript import Line

_NOTHING_SET = FilePeer()
_ALL_SET = FilePeer(UNKNOWN, 0, True, True)
_SHOWN = 8  # networks in one line of the transcript
THROW_AWAY = PublicKey(b"wgq takes these networks away: X")
"""A temporary peer that takes over the AllowedIPs that other peers lose, and is then removed.

Replacing a peer's list would remove its other networks for a moment. Removing a single network needs Linux 6.16.
"""


class DeviceChange(NamedTuple):
    """The changes to send before the routes change, and after.

    `first` sets keys, settings, new peers and AllowedIPs, and moves AllowedIPs between peers; `last` removes
    AllowedIPs and peers, and `removed` has the removed AllowedIPs by peer. `foreign` are peers to be removed that
    are in neither the file nor the journal. `notes` say what cannot change.
    """

    first: DeviceConfig
    last: DeviceConfig
    removed: dict[PublicKey, tuple[AllowedIP, ...]]
    foreign: tuple[PublicKey, ...]
    notes: tuple[str, ...]


def endpoints(settings: Settings, device: Device, earlier: FilePeers | None) -> tuple[Endpoint, ...]:
    """The endpoints to resolve: those of new peers, and those that the file has changed."""
    live = {peer.public_key: peer for peer in device.peers}
    named = ((key, peer) for key, peer in merged(settings).items() if peer.endpoint is not None)
    wanted = (peer.endpoint for key, peer in named if _moves(peer, live.get(key), earlier))
    return tuple(dict.fromkeys(endpoint for endpoint in wanted if endpoint))


def _moves(peer: PeerSettings, live: DevicePeer | None, earlier: FilePeers | None) -> bool:
    """Whether reload sets the peer's endpoint. A live endpoint may have roamed since up (wireguard(7))."""
    if peer.endpoint is None:
        return False
    if live is None or live.endpoint is None:
        return True
    before = (earlier or {}).get(peer.public_key.raw)
    if before is None:
        return not live.last_handshake
    return before.endpoint != str(peer.endpoint)


def change(
    settings: Settings,
    fwmark: int | None,
    device: Device,
    earlier: FilePeers | None,
    resolved: Mapping[Endpoint, SocketAddress],
    *,
    hooked: Collection[bytes] = (),
    keep_foreign: bool = False,
) -> DeviceChange:
    """The difference between the file and the device; `fwmark` is the new fwmark (None: unchanged).

    Peers that the file lacks are removed, except the `hooked` ones and, with `keep_foreign`, those that the earlier
    file lacked too.
    """
    wanted = merged(settings)
    live = {peer.public_key: peer for peer in device.peers}
    networks = _Networks(wanted, live, earlier)
    # Without a journal the device's values are the earlier file's, unless hooks may have set them.
    is_of_hooks = earlier is not None or bool(settings.pre_up or settings.post_up)
    unknown = _NOTHING_SET if is_of_hooks else _ALL_SET
    changed = [
        _peer_change(peer, live.get(key), earlier, resolved, networks, unknown) for key, peer in wanted.items()
    ]
    is_removed = _IsRemoved(earlier, hooked, keep_foreign)
    gone = [key for key in live if key not in wanted and is_removed(key)]
    removed = networks.removed(live)
    mark = fwmark if fwmark != device.fwmark else None
    first = DeviceConfig(
        new_private_key(settings, device),
        _listen_port(settings, device),
        mark or None,
        peers=tuple(peer for peer in changed if peer is not None),
    )
    thrown = tuple(ip for each in removed.values() for ip in each)
    away = (PeerConfig(THROW_AWAY, allowed_ips=thrown), PeerConfig(THROW_AWAY, remove=True)) if thrown else ()
    last = DeviceConfig(
        fwmark=mark if mark == 0 else None, peers=(*away, *(PeerConfig(k, remove=True) for k in gone))
    )
    foreign = tuple(key for key in gone if earlier is not None and key.raw not in earlier and key != THROW_AWAY)
    return DeviceChange(first, last, removed, foreign, tuple(_notes(wanted, live, earlier)))


def parts(change: DeviceChange, device: Device, wants: Callable[[bytes], bool]) -> DeviceChange:
    """The change without the parts that `wants` refuses. It gets each part with its peer, new and old value.

    This distinguishes values that a hook set in place of the file's from values that were set later.
    """
    live = {peer.public_key: peer for peer in device.peers}

    def is_wanted(key: PublicKey | None, field: str, new: object, old: object) -> bool:
        words = (key.raw if key else b"", field.encode(), _bytes(new), _bytes(old))
        return new is not None and wants(b"|".join(words))

    def unwanted(key: PublicKey | None, config: object, live_values: object, *fields: str) -> dict[str, Any]:
        """The refused fields, with None as their value."""
        values = ((field, getattr(config, field), getattr(live_values, field)) for field in fields)
        return {field: None for field, new, old in values if not is_wanted(key, field, new, old)}

    def of_peer(peer: PeerConfig) -> PeerConfig | None:
        key, live_peer = peer.public_key, live.get(peer.public_key)
        if live_peer is None:
            return peer if is_wanted(key, "peer", True, None) else None
        less = peer._replace(
            allowed_ips=tuple(ip for ip in peer.allowed_ips if is_wanted(key, "added", ip, None)),
            **unwanted(key, peer, live_peer, "preshared_key", "persistent_keepalive"),
        )
        return None if less == PeerConfig(key, update_only=True) else less

    first = change.first._replace(
        peers=tuple(peer for peer in map(of_peer, change.first.peers) if peer is not None),
        **unwanted(None, change.first, device, "private_key", "listen_port", "fwmark"),
    )
    removed = {
        key: tuple(ip for ip in ips if is_wanted(key, "removed", ip, None)) for key, ips in change.removed.items()
    }
    removed = {key: ips for key, ips in removed.items() if ips}
    thrown = tuple(ip for ips in removed.values() for ip in ips)
    gone = tuple(peer for peer in change.last.peers if peer.public_key != THROW_AWAY)
    last = change.last._replace(peers=(*_thrown_away(thrown, is_left=THROW_AWAY in live), *gone))
    return change._replace(first=first, last=last, removed=removed)


def _bytes(value: object) -> bytes:
    return value.raw if isinstance(value, SecretKey) else str(value).encode()


def _thrown_away(networks: tuple[AllowedIP, ...], *, is_left: bool) -> tuple[PeerConfig, ...]:
    """The changes that take networks from their peers. `is_left`: a killed run left the temporary peer."""
    away = PeerConfig(THROW_AWAY, remove=True)
    if networks:
        return PeerConfig(THROW_AWAY, allowed_ips=networks), away
    return (away,) if is_left else ()


class _IsRemoved(NamedTuple):
    """Whether a peer that the file lacks is removed, as in `wg syncconf`."""

    earlier: FilePeers | None
    hooked: Collection[bytes]
    keep_foreign: bool

    def __call__(self, key: PublicKey) -> bool:
        if key == THROW_AWAY or (self.earlier is not None and key.raw in self.earlier):
            return True
        return key.raw not in self.hooked and not self.keep_foreign


def _notes(
    wanted: Mapping[PublicKey, PeerSettings], live: Mapping[PublicKey, DevicePeer], earlier: FilePeers | None
) -> Iterator[str]:
    for key, before in (earlier or {}).items():
        if not before.endpoint:
            continue
        peer = wanted.get(PublicKey(key))
        current = live.get(PublicKey(key))
        if peer is not None and peer.endpoint is None and current is not None and current.endpoint:
            yield f"The endpoint of {peer.public_key} stays {current.endpoint}: a device cannot forget one"


def inverse(device: Device, config: DeviceConfig) -> DeviceConfig:
    """The change that reverts another one, whether that was applied fully, partly or not at all."""
    live = {peer.public_key: peer for peer in device.peers}
    touched = dict.fromkeys(peer.public_key for peer in config.peers)
    networks = {(ip.address, ip.length) for peer in config.peers for ip in peer.allowed_ips}
    for peer in device.peers:  # the change may take networks from other peers
        if any((ip.address, ip.length) in networks for ip in peer.allowed_ips):
            touched[peer.public_key] = None
    return DeviceConfig(
        None if config.private_key is None else device.private_key or NO_KEY,
        None if config.listen_port is None else device.listen_port,
        None if config.fwmark is None else device.fwmark,
        peers=(
            *(PeerConfig(key, remove=True) for key in touched if key not in live),
            *(_as_it_is(live[key]) for key in touched if key in live),
        ),
    )


def _as_it_is(peer: DevicePeer) -> PeerConfig:
    return PeerConfig(
        peer.public_key,
        preshared_key=peer.preshared_key or NO_KEY,
        endpoint=peer.endpoint,
        persistent_keepalive=peer.persistent_keepalive,
        replace_allowed_ips=True,
        allowed_ips=peer.allowed_ips,
    )


def new_private_key(settings: Settings, device: Device) -> SecretKey | None:
    """The file's private key, if the device has another."""
    key = settings.private_key
    return key if key is not None and clamped(key) != clamped(device.private_key) else None


def _listen_port(settings: Settings, device: Device) -> int | None:
    """The new port; None if it is unchanged. With 0 in the file, the device keeps the port that it has chosen."""
    port = settings.listen_port
    return port if port and port != device.listen_port else None


class _Networks:
    """The AllowedIPs of the peers for which they change; if two peers claim a network, the later one gets it."""

    def __init__(
        self, wanted: dict[PublicKey, PeerSettings], live: dict[PublicKey, DevicePeer], earlier: FilePeers | None
    ) -> None:
        claims = {key: claimed(peer, live.get(key), earlier) for key, peer in wanted.items()}
        self._claims = {
            key: each for key, each in claims.items() if key not in live or each != live[key].allowed_ips
        }
        # Usually there are none, and the owners are not needed.
        self._owner = {ip: key for key, each in claims.items() for ip in each} if self._claims else {}

    def added(self, key: PublicKey, live: DevicePeer | None) -> tuple[AllowedIP, ...]:
        """The AllowedIPs that the peer gets; another peer that has them loses them."""
        owner, claims = self._owner, self._claims.get(key, ())
        there = set(live.allowed_ips) if live and claims else ()
        return tuple([ip for ip in claims if owner[ip] == key and ip not in there])

    def removed(self, live: Mapping[PublicKey, DevicePeer]) -> dict[PublicKey, tuple[AllowedIP, ...]]:
        """The AllowedIPs of live peers that no peer claims."""
        owner, found = self._owner, {}
        for key in self._claims:
            if key in live and (lost := tuple(ip for ip in live[key].allowed_ips if ip not in owner)):
                found[key] = lost
        return found


def _peer_change(
    peer: PeerSettings,
    live: DevicePeer | None,
    earlier: FilePeers | None,
    resolved: Mapping[Endpoint, SocketAddress],
    networks: _Networks,
    unknown: FilePeer,
) -> PeerConfig | None:
    """The changed attributes of one peer; None if there are none. `unknown` is for a peer that `earlier` lacks."""
    key = peer.public_key
    before = (earlier or {}).get(key.raw, unknown)
    endpoint = resolved.get(peer.endpoint) if peer.endpoint and _moves(peer, live, earlier) else None
    if live is not None and endpoint == live.endpoint:
        endpoint = None
    preshared_key, keepalive = _preshared_key(peer, live, before), _keepalive(peer, live, before)
    allowed_ips = networks.added(key, live)
    if live is not None and preshared_key is None and endpoint is None and keepalive is None and not allowed_ips:
        return None
    return PeerConfig(key, False, live is not None, preshared_key, endpoint, keepalive, False, allowed_ips)


def _preshared_key(peer: PeerSettings, live: DevicePeer | None, before: FilePeer) -> SecretKey | None:
    """The file's key, or zeros if the file no longer has its key; a key that a hook set stays."""
    current = live.preshared_key if live else None
    if peer.preshared_key is not None:
        return peer.preshared_key if peer.preshared_key != (current or NO_KEY) else None
    return NO_KEY if current is not None and before.has_preshared_key else None


def _keepalive(peer: PeerSettings, live: DevicePeer | None, before: FilePeer) -> int | None:
    """The file's interval, or 0 if the file no longer has one."""
    current = live.persistent_keepalive if live else 0
    wanted = peer.persistent_keepalive
    if wanted is None and before.persistent_keepalive is not None:
        wanted = 0
    return wanted if wanted != current else None


def peers_after(device: Device, change: DeviceChange) -> tuple[DevicePeer, ...]:
    """The peers that the device has after a change, with their endpoints; their other values are as before."""
    peers = {peer.public_key: peer for peer in device.peers}
    for config in (*change.first.peers, *change.last.peers):
        key = config.public_key
        if config.remove:
            peers.pop(key, None)
        elif key in peers or not config.update_only:
            current = peers.get(key) or DevicePeer(key)
            peers[key] = current._replace(endpoint=config.endpoint or current.endpoint)
    return tuple(peers.values())


def lines(name: str, config: DeviceConfig) -> Iterator[Line]:
    """The transcript: the equivalent wg(8) commands, without secrets."""
    words = list(_device_words(config))
    if words:
        yield command(f"wg set {name} {' '.join(words)}")
    for peer in config.peers:
        yield command(f"wg set {name} peer {peer.public_key} {' '.join(_peer_words(peer))}".rstrip())


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
        return f"{key.command} {'/dev/null' if value == NO_KEY else HIDDEN}"
    return f"{key.command} {value or 'off'}"


def removal_lines(name: str, change: DeviceChange) -> Iterator[Line]:
    """The transcript of `last`: the equivalent wg(8) commands."""
    peers = [
        PeerConfig(key, allowed_ips=tuple(AllowedIP(ip.address, ip.length, "-") for ip in each))
        for key, each in change.removed.items()
    ]
    gone = [peer for peer in change.last.peers if peer.remove and peer.public_key != THROW_AWAY]
    yield from lines(name, change.last._replace(peers=(*peers, *gone)))


def _networks_text(peer: PeerConfig) -> str:
    sign = "" if peer.replace_allowed_ips else "+"
    shown = ",".join(f"{'' if ip.change else sign}{ip}" for ip in peer.allowed_ips[:_SHOWN])
    more = len(peer.allowed_ips) - _SHOWN
    return f"{shown},... ({more} more)" if more > 0 else shown or '""'
