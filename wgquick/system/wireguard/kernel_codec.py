"""The attributes of the kernel's WireGuard family (linux/wireguard.h); no I/O.

A change is split into messages of about two pages, as in wg(8). The first message of a device or peer has its
settings and the flag REPLACE_ALLOWEDIPS. The kernel splits its answers too.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct

from wgquick.device import Device, DevicePeer
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import NO_KEY, AllowedIP, PublicKey, SecretKey, SocketAddress
from wgquick.system.netlink.codec import (
    ATTRIBUTE,
    NLA_F_NESTED,
    U16,
    attribute,
    attribute_text,
    attribute_u32,
    attributes,
    each_attribute,
    number,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wgquick.device import DeviceConfig, PeerConfig

FAMILY, VERSION = "wireguard", 1
WG_CMD_GET_DEVICE, WG_CMD_SET_DEVICE = 0, 1
WGDEVICE_A_IFNAME, WGDEVICE_A_PRIVATE_KEY = 2, 3
WGDEVICE_A_LISTEN_PORT, WGDEVICE_A_FWMARK, WGDEVICE_A_PEERS = 6, 7, 8
WGPEER_A_PUBLIC_KEY, WGPEER_A_PRESHARED_KEY, WGPEER_A_FLAGS, WGPEER_A_ENDPOINT = 1, 2, 3, 4
WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, WGPEER_A_LAST_HANDSHAKE_TIME = 5, 6
WGPEER_A_RX_BYTES, WGPEER_A_TX_BYTES, WGPEER_A_ALLOWEDIPS, WGPEER_A_PROTOCOL_VERSION = 7, 8, 9, 10
WGPEER_F_REMOVE_ME, WGPEER_F_REPLACE_ALLOWEDIPS, WGPEER_F_UPDATE_ONLY = 1, 2, 4
WGALLOWEDIP_A_FAMILY, WGALLOWEDIP_A_IPADDR, WGALLOWEDIP_A_CIDR_MASK, WGALLOWEDIP_A_FLAGS = 1, 2, 3, 4
WGALLOWEDIP_F_REMOVE_ME = 1

MESSAGE_ROOM = 8192
_PEER_ROOM = 4096

_SOCKADDR_IN = Struct("=H2s4s8x")
_SOCKADDR_IN6 = Struct("=H2s4x16sI")
_TIMESPEC = Struct("=qq")
_ALLOWED_IP = {size: Struct(f"=HHHHH2xHH{size}sHHB3x") for size in (4, 16)}
_NEVER = bytes(_TIMESPEC.size)
# A peer and an IPv4 AllowedIP as get_peer() and get_allowedips() of drivers/net/wireguard/netlink.c write them.
_PEER = Struct("=4s32s4s32s4s16s4sH2x4sQ4sQ8s")
_PEER_HEADERS = (
    ATTRIBUTE.pack(36, WGPEER_A_PUBLIC_KEY),
    ATTRIBUTE.pack(36, WGPEER_A_PRESHARED_KEY),
    ATTRIBUTE.pack(20, WGPEER_A_LAST_HANDSHAKE_TIME),
    ATTRIBUTE.pack(6, WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL),
    ATTRIBUTE.pack(12, WGPEER_A_TX_BYTES),
    ATTRIBUTE.pack(12, WGPEER_A_RX_BYTES),
    attribute_u32(WGPEER_A_PROTOCOL_VERSION, 1),
)
_USUAL_IP = Struct("=8sB3x12s4s")
_USUAL_IP_HEADERS = (
    ATTRIBUTE.pack(28, NLA_F_NESTED) + ATTRIBUTE.pack(5, WGALLOWEDIP_A_CIDR_MASK),
    attribute(WGALLOWEDIP_A_FAMILY, U16.pack(AF_INET)) + ATTRIBUTE.pack(8, WGALLOWEDIP_A_IPADDR),
)
_INDEXED = NLA_F_NESTED  # an element of a list; its type is an index, always 0


class Part(NamedTuple):
    """One message of a change: its attributes and its peers."""

    body: bytes
    peers: tuple[PublicKey, ...]


def get(name: str) -> bytes:
    """The attributes of a request for a device."""
    return attribute_text(WGDEVICE_A_IFNAME, name)


def parts(name: str, config: DeviceConfig) -> Iterator[Part]:
    """The messages of a change, in order; at least one."""
    head = get(name) + _device(config)
    gathered: list[bytes] = []
    peers: list[PublicKey] = []
    size = len(head)
    for peer in config.peers:
        for piece in _peer_pieces(peer):
            if gathered and size + len(piece) > MESSAGE_ROOM:
                yield _part(head, gathered, peers)
                head, gathered, peers = get(name), [], []
                size = len(head)
            gathered.append(piece)
            peers.append(peer.public_key)
            size += len(piece)
    yield _part(head, gathered, peers)


def _part(head: bytes, pieces: list[bytes], peers: list[PublicKey]) -> Part:
    nest = attribute(WGDEVICE_A_PEERS | NLA_F_NESTED, b"".join(pieces)) if pieces else b""
    return Part(head + nest, tuple(dict.fromkeys(peers)))


def _device(config: DeviceConfig) -> bytes:
    settings = b""
    if config.private_key is not None:
        settings += attribute(WGDEVICE_A_PRIVATE_KEY, config.private_key.raw)
    if config.listen_port is not None:
        settings += attribute(WGDEVICE_A_LISTEN_PORT, U16.pack(config.listen_port))
    if config.fwmark is not None:
        settings += attribute_u32(WGDEVICE_A_FWMARK, config.fwmark)
    return settings


def _peer_pieces(peer: PeerConfig) -> Iterator[bytes]:
    """The peer as list elements of limited size: first its settings and AllowedIPs that fit, then the others."""
    key = attribute(WGPEER_A_PUBLIC_KEY, peer.public_key.raw)
    if peer.remove:
        yield attribute(_INDEXED, key + attribute_u32(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME))
        return
    update = WGPEER_F_UPDATE_ONLY if peer.update_only else 0
    replace = WGPEER_F_REPLACE_ALLOWEDIPS if peer.replace_allowed_ips else 0
    head = key + _flags(update | replace) + _peer_settings(peer)
    for group in _groups(map(_encode_allowed_ip, peer.allowed_ips), _PEER_ROOM - len(head)):
        nest = attribute(WGPEER_A_ALLOWEDIPS | NLA_F_NESTED, group) if group else b""
        yield attribute(_INDEXED, head + nest)
        head = key + _flags(update)


def _flags(flags: int) -> bytes:
    return attribute_u32(WGPEER_A_FLAGS, flags) if flags else b""


def _groups(items: Iterable[bytes], room: int) -> Iterator[bytes]:
    """The items joined to groups of limited size; a single empty group if there are none."""
    group: list[bytes] = []
    size = 0
    for item in items:
        if group and size + len(item) > room:
            yield b"".join(group)
            group, size = [], 0
        group.append(item)
        size += len(item)
    yield b"".join(group)


def _peer_settings(peer: PeerConfig) -> bytes:
    settings = b""
    if peer.preshared_key is not None:
        settings += attribute(WGPEER_A_PRESHARED_KEY, peer.preshared_key.raw)
    if peer.endpoint is not None:
        settings += attribute(WGPEER_A_ENDPOINT, _encode_endpoint(peer.endpoint))
    if peer.persistent_keepalive is not None:
        settings += attribute(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, U16.pack(peer.persistent_keepalive))
    return settings


def _encode_allowed_ip(allowed: AllowedIP) -> bytes:
    address, bits, change = allowed
    size = len(address)
    flags = attribute_u32(WGALLOWEDIP_A_FLAGS, WGALLOWEDIP_F_REMOVE_ME) if change == "-" else b""
    shape = _ALLOWED_IP[size]
    return (
        shape.pack(
            shape.size + len(flags),
            _INDEXED,
            6,
            WGALLOWEDIP_A_FAMILY,
            AF_INET if size == 4 else AF_INET6,
            ATTRIBUTE.size + size,
            WGALLOWEDIP_A_IPADDR,
            address,
            5,
            WGALLOWEDIP_A_CIDR_MASK,
            bits,
        )
        + flags
    )


def _encode_endpoint(endpoint: SocketAddress) -> bytes:
    port = endpoint.port.to_bytes(2, "big")
    if endpoint.family == 4:
        return _SOCKADDR_IN.pack(AF_INET, port, inet_pton(AF_INET, endpoint.address))
    return _SOCKADDR_IN6.pack(AF_INET6, port, inet_pton(AF_INET6, endpoint.address), endpoint.scope)


def decode(bodies: Iterable[bytes]) -> Device:
    """The device of a dump: the first message has its settings; a peer split between messages is joined."""
    first: dict[int, bytes] = {}
    peers: list[DevicePeer] = []
    for body in bodies:
        found = attributes(body)
        first = first or found
        for _, data in each_attribute(found.get(WGDEVICE_A_PEERS, b"")):
            peer = _usual_peer(data) or _decode_peer(attributes(data))
            if peers and peers[-1].public_key == peer.public_key:
                peers[-1] = peers[-1]._replace(allowed_ips=peers[-1].allowed_ips + peer.allowed_ips)
            else:
                peers.append(peer)
    return Device(
        name=text(first[WGDEVICE_A_IFNAME]),
        private_key=_secret(first.get(WGDEVICE_A_PRIVATE_KEY, b"")),
        listen_port=number(first.get(WGDEVICE_A_LISTEN_PORT, b"")),
        fwmark=number(first.get(WGDEVICE_A_FWMARK, b"")),
        peers=tuple(peers),
    )


def _usual_peer(data: bytes) -> DevicePeer | None:
    """A peer with the attributes that the kernel writes, in its order (get_peer); None for another one.

    It takes a quarter of the time of `_decode_peer`, and there may be 10,000 peers.
    """
    size = len(data)
    if size < _PEER.size:
        return None
    fields = _PEER.unpack_from(data)
    if fields[::2] != _PEER_HEADERS:
        return None
    _, key, _, preshared, _, time, _, keepalive, _, sent, _, received, _ = fields
    offset, endpoint = _PEER.size, None
    if size >= offset + 4 and data[offset + 2] == WGPEER_A_ENDPOINT:
        end = offset + data[offset]
        endpoint, offset = _decode_endpoint(data[offset + 4 : end]), end
    if size > offset and data[offset : offset + 4] != ATTRIBUTE.pack(
        size - offset, WGPEER_A_ALLOWEDIPS | NLA_F_NESTED
    ):
        return None
    allowed: list[AllowedIP] = []
    new = tuple.__new__
    for at in range(offset + 4, size, _USUAL_IP.size):
        if size - at < _USUAL_IP.size:
            return None
        head, length, family, address = _USUAL_IP.unpack_from(data, at)
        if (head, family) != _USUAL_IP_HEADERS:
            return None
        allowed.append(new(AllowedIP, (address, length, "")))
    return new(
        DevicePeer,
        (
            new(PublicKey, (key,)),
            _secret(preshared),
            endpoint,
            keepalive,
            tuple(allowed),
            _seconds(time) if time != _NEVER else 0.0,
            received,
            sent,
        ),
    )


def _decode_peer(fields: dict[int, bytes]) -> DevicePeer:
    items = each_attribute(fields.get(WGPEER_A_ALLOWEDIPS, b""))
    return DevicePeer(
        public_key=PublicKey(fields[WGPEER_A_PUBLIC_KEY]),
        preshared_key=_secret(fields.get(WGPEER_A_PRESHARED_KEY, b"")),
        endpoint=_decode_endpoint(fields[WGPEER_A_ENDPOINT]) if WGPEER_A_ENDPOINT in fields else None,
        persistent_keepalive=number(fields.get(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, b"")),
        allowed_ips=tuple(_decode_allowed_ip(item) for _, item in items),
        last_handshake=_seconds(fields.get(WGPEER_A_LAST_HANDSHAKE_TIME, _NEVER)),
        rx_bytes=number(fields.get(WGPEER_A_RX_BYTES, b"")),
        tx_bytes=number(fields.get(WGPEER_A_TX_BYTES, b"")),
    )


def _seconds(time: bytes) -> float:
    seconds, nanoseconds = _TIMESPEC.unpack(time)
    return float(seconds + nanoseconds / 1e9)


def _secret(raw: bytes) -> SecretKey | None:
    return SecretKey(raw) if raw not in (b"", NO_KEY.raw) else None


def _decode_allowed_ip(data: bytes) -> AllowedIP:
    fields = attributes(data)
    return AllowedIP(fields[WGALLOWEDIP_A_IPADDR], fields[WGALLOWEDIP_A_CIDR_MASK][0])


def _decode_endpoint(data: bytes) -> SocketAddress:
    if number(data[:2]) == AF_INET:
        _, port, address = _SOCKADDR_IN.unpack(data[: _SOCKADDR_IN.size])
        return SocketAddress(inet_ntop(AF_INET, address), int.from_bytes(port, "big"))
    _, port, address, scope = _SOCKADDR_IN6.unpack(data[: _SOCKADDR_IN6.size])
    return SocketAddress(inet_ntop(AF_INET6, address), int.from_bytes(port, "big"), scope)
