"""The state of a WireGuard device and the requests that change it, for all backends (wg(8), UAPI)."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.net import AllowedIP, PublicKey, SecretKey, SocketAddress

SESSION_AGE = 180.0
"""Seconds after a handshake for which its session may be used (REJECT_AFTER_TIME of the whitepaper)."""


class PeerConfig(NamedTuple):
    """A change to one peer; None keeps a setting. A preshared key of 32 zero bytes removes the key."""

    public_key: PublicKey
    remove: bool = False
    update_only: bool = False
    preshared_key: SecretKey | None = None
    endpoint: SocketAddress | None = None
    persistent_keepalive: int | None = None
    replace_allowed_ips: bool = False
    allowed_ips: tuple[AllowedIP, ...] = ()


class DeviceConfig(NamedTuple):
    """A change to a device; None keeps a setting. Peers that are not listed stay."""

    private_key: SecretKey | None = None
    listen_port: int | None = None
    fwmark: int | None = None
    peers: tuple[PeerConfig, ...] = ()


class DevicePeer(NamedTuple):
    """A peer's state as reported by the device; times in seconds since the epoch (0: never), counters in bytes."""

    public_key: PublicKey
    preshared_key: SecretKey | None = None
    endpoint: SocketAddress | None = None
    persistent_keepalive: int = 0
    allowed_ips: tuple[AllowedIP, ...] = ()
    last_handshake: float = 0.0
    rx_bytes: int = 0
    tx_bytes: int = 0


class Device(NamedTuple):
    """A device's state; `fwmark` 0 is off, peers and AllowedIPs are in the device's order."""

    name: str
    private_key: SecretKey | None = None
    listen_port: int = 0
    fwmark: int = 0
    peers: tuple[DevicePeer, ...] = ()


def peer_of(peers: Iterable[DevicePeer], address: bytes) -> tuple[DevicePeer, AllowedIP] | None:
    """The peer with the longest prefix in AllowedIPs for an address, and that prefix; None if there is none."""
    number, size = int.from_bytes(address, "big"), len(address)
    found = (
        (peer, ip)
        for peer in peers
        for ip in peer.allowed_ips
        if len(ip.address) == size and not (number ^ int.from_bytes(ip.address, "big")) >> (size * 8 - ip.length)
    )
    return max(found, key=lambda each: each[1].length, default=None)
