"""A WireGuard device's state and the requests that change it, whichever backend runs it (wg(8), UAPI)."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.net import AllowedIP, PublicKey, SecretKey, SocketAddress


class PeerConfig(NamedTuple):
    """A change to one peer; None leaves a setting as it is. A preshared key of 32 zero bytes removes it."""

    public_key: PublicKey
    remove: bool = False
    update_only: bool = False
    preshared_key: SecretKey | None = None
    endpoint: SocketAddress | None = None
    persistent_keepalive: int | None = None
    replace_allowed_ips: bool = False
    allowed_ips: tuple[AllowedIP, ...] = ()


class DeviceConfig(NamedTuple):
    """A change to a device; None leaves a setting as it is, `replace_peers` removes peers not named."""

    private_key: SecretKey | None = None
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: tuple[PeerConfig, ...] = ()


class DevicePeer(NamedTuple):
    """A peer as the device reports it; times in seconds since the epoch (0: never), counters in bytes."""

    public_key: PublicKey
    preshared_key: SecretKey | None = None
    endpoint: SocketAddress | None = None
    persistent_keepalive: int = 0
    allowed_ips: tuple[AllowedIP, ...] = ()
    last_handshake: float = 0.0
    rx_bytes: int = 0
    tx_bytes: int = 0


class Device(NamedTuple):
    """A device as it reports itself; `fwmark` 0 is off, peers and AllowedIPs in the device's own order."""

    name: str
    private_key: SecretKey | None = None
    listen_port: int = 0
    fwmark: int = 0
    peers: tuple[DevicePeer, ...] = ()
