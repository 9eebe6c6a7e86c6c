"""What a file sets for its peers: up records it in the journal, and reload compares with it."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import KEY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wgquick.config.settings import PeerSettings, Settings
    from wgquick.device import DevicePeer
    from wgquick.net import AllowedIP, PublicKey


class FilePeer(NamedTuple):
    """What a file sets for a peer; `endpoint` is "" and `persistent_keepalive` None if it does not set them.

    `preshared_key` is a hash with a key of the journal; "" if the file has no preshared key or it is unknown.
    """

    endpoint: str = ""
    persistent_keepalive: int | None = None
    has_preshared_key: bool = False
    has_allowed_ips: bool = False
    preshared_key: str = ""


UNKNOWN = "?"
"""An endpoint that no file has."""

FilePeers = dict[bytes, FilePeer]
"""What the file set before, by public key."""


def file_peers(settings: Settings, digest: Callable[[bytes], str]) -> FilePeers:
    """What a file sets for its peers, for comparison with a later file; `digest` hashes the secrets."""
    return {key.raw: _file_peer(peer, digest) for key, peer in merged(settings).items()}


def _file_peer(peer: PeerSettings, digest: Callable[[bytes], str]) -> FilePeer:
    endpoint = str(peer.endpoint) if peer.endpoint else ""
    key = peer.preshared_key
    hashed = digest(key.raw) if key is not None else ""
    fields = (endpoint, peer.persistent_keepalive, key is not None, bool(peer.allowed_ips), hashed)
    return tuple.__new__(FilePeer, fields)  # there may be 10,000


def recorded_peers(peers: FilePeers) -> list[list[Any]]:
    """The journal's form of `file_peers`: the fields that peers share, and their keys and hashes, each as one text.

    There may be 10,000 peers, most of which have the same fields but the hash.
    """
    groups: dict[tuple[object, ...], list[tuple[bytes, str]]] = {}
    for key, each in peers.items():
        groups.setdefault(each[:-1], []).append((key, each.preshared_key))
    return [
        [*shared, b"".join([key for key, _ in group]).hex(), " ".join([hashed for _, hashed in group])]
        for shared, group in groups.items()
    ]


def read_peers(recorded: object) -> FilePeers:
    """Parses the journal's form, or that of earlier versions; ValueError or TypeError if it is not valid."""
    found: FilePeers = {}
    new = tuple.__new__
    match recorded:
        case dict():
            return {bytes.fromhex(key): FilePeer(*fields) for key, fields in recorded.items()}
        case list():
            for endpoint, keepalive, has_key, has_ips, text, hashes in recorded:
                keys = bytes.fromhex(text)
                each = [keys[at : at + KEY_LENGTH] for at in range(0, len(keys), KEY_LENGTH)]
                found |= {
                    key: new(FilePeer, (endpoint, keepalive, has_key, has_ips, hashed))
                    for key, hashed in zip(each, str.split(hashes, " "), strict=True)
                }
            return found
        case _:
            raise ValueError


def merged(settings: Settings) -> dict[PublicKey, PeerSettings]:
    """The peers; sections with the same key are merged as in `wg setconf`, which sets one after the other."""
    found = {peer.public_key: peer for peer in settings.peers}
    if len(found) == len(settings.peers):
        return found
    found.clear()
    owners: dict[AllowedIP, PublicKey] = {}
    for peer in settings.peers:
        key = peer.public_key
        earlier = found.get(key)
        found[key] = peer if earlier is None else _joined(earlier, peer)
        for ip in peer.allowed_ips:
            plain = ip._replace(change="")
            owner = key if ip.change == "-" else owners.setdefault(plain, key)
            if owner != key:
                found[owner] = _without(found[owner], plain)
                owners[plain] = key
    return found


def _without(peer: PeerSettings, network: AllowedIP) -> PeerSettings:
    """The peer after another one has taken a network from it."""
    return peer._replace(allowed_ips=tuple(ip for ip in peer.allowed_ips if ip[:2] != network[:2]))


def _joined(earlier: PeerSettings, peer: PeerSettings) -> PeerSettings:
    replaces = peer.replace_allowed_ips
    keepalive = peer.persistent_keepalive
    return peer._replace(
        preshared_key=peer.preshared_key or earlier.preshared_key,
        allowed_ips=peer.allowed_ips if replaces else earlier.allowed_ips + peer.allowed_ips,
        replace_allowed_ips=replaces or earlier.replace_allowed_ips,
        endpoint=peer.endpoint or earlier.endpoint,
        persistent_keepalive=earlier.persistent_keepalive if keepalive is None else keepalive,
    )


def claimed(
    peer: PeerSettings, live: DevicePeer | None = None, earlier: FilePeers | None = None
) -> tuple[AllowedIP, ...]:
    """The file's networks. If the file has never set any, the device's."""
    keeps = not peer.replace_allowed_ips
    if not keeps and not peer.allowed_ips:
        before = (earlier or {}).get(peer.public_key.raw)
        keeps = before is not None and not before.has_allowed_ips
    if len(peer.allowed_ips) == 1 and not keeps and not peer.allowed_ips[0].change:  # most peers
        return peer.allowed_ips
    claims: dict[AllowedIP, None] = dict.fromkeys(live.allowed_ips if live and keeps else ())
    for ip in peer.allowed_ips:
        plain = ip._replace(change="") if ip.change else ip
        if ip.change == "-":
            claims.pop(plain, None)
        else:
            claims[plain] = None
    return tuple(claims)
