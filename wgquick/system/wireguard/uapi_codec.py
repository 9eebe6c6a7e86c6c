"""The lines of the cross-platform userspace API: `set=1` requests and answers to `get=1`; no I/O.

Both may have a hundred thousand AllowedIPs, so they are processed line by line in plain loops.
"""

from __future__ import annotations

import errno
from _socket import if_indextoname, if_nametoindex

from wgquick.device import Device, DevicePeer
from wgquick.lean import TYPE_CHECKING
from wgquick.net import NO_KEY, AllowedIP, PublicKey, SecretKey, SocketAddress, address_text, pack_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.device import DeviceConfig, PeerConfig

    _Settings = tuple[SecretKey | None, SocketAddress | None, int, float, int, int]

GET = b"get=1\n\n"
END = b"\n\n"


def encode(config: DeviceConfig) -> bytes:
    """The request for a change."""
    return "\n".join(_lines(config)).encode() + END


def _lines(config: DeviceConfig) -> Iterator[str]:
    yield "set=1"
    if config.private_key is not None:
        yield f"private_key={config.private_key.raw.hex()}"
    if config.listen_port is not None:
        yield f"listen_port={config.listen_port}"
    if config.fwmark is not None:
        yield f"fwmark={config.fwmark}"
    for peer in config.peers:
        yield from _peer_lines(peer)


def _peer_lines(peer: PeerConfig) -> Iterator[str]:
    yield f"public_key={peer.public_key.raw.hex()}"
    if peer.remove:
        yield "remove=true"
        return
    if peer.update_only:
        yield "update_only=true"
    if peer.preshared_key is not None:
        yield f"preshared_key={peer.preshared_key.raw.hex()}"
    if peer.endpoint is not None:
        yield f"endpoint={_endpoint(peer.endpoint)}"
    if peer.persistent_keepalive is not None:
        yield f"persistent_keepalive_interval={peer.persistent_keepalive}"
    if peer.replace_allowed_ips:
        yield "replace_allowed_ips=true"
    for address, length, change in peer.allowed_ips:
        sign = "-" if change == "-" else ""
        yield f"allowed_ip={sign}{address_text(address)}/{length}"


def _endpoint(address: SocketAddress) -> str:
    """The address with its zone as a number, or as the link's name if another link has that number as its name.

    boringtun and gotatun read numbers only, and the daemon may be in another network namespace, with other names.
    """
    try:
        if address.scope and if_nametoindex(str(address.scope)) != address.scope:
            return f"[{address.address}%{if_indextoname(address.scope)}]:{address.port}"
    except OSError:  # no link has this name, or none this number
        pass
    return str(address)


def errno_of(answer: bytes) -> int:
    """The errno in the answer's last line, `errno=N`; wireguard-go writes a negative number."""
    key, _, value = answer.rstrip(b"\n").rpartition(b"\n")[2].partition(b"=")
    try:
        return abs(int(value)) if key == b"errno" else errno.EPROTO
    except ValueError:
        return errno.EPROTO


def decode(name: str, answer: bytes) -> Device:
    """The device in an answer to `get=1`; ValueError, without any of its text, if it cannot be parsed."""
    try:
        return _decode(name, answer.decode())
    except (ValueError, KeyError):
        raise ValueError("cannot parse the answer") from None


def _decode(name: str, answer: str) -> Device:
    first, *blocks = f"\n{answer}".split("\npublic_key=")
    device = _fields(first)
    known: dict[str, _Settings] = {}  # many peers have only a key and networks
    peers: list[DevicePeer] = []
    new, key_of, pack = tuple.__new__, bytes.fromhex, pack_address
    for block in blocks:
        settings, *networks = block.split("\nallowed_ip=")
        allowed = []
        for network in networks:
            network, _, more = network.partition("\n")
            address, _, length = network.partition("/")
            allowed.append(new(AllowedIP, (pack(address), int(length), "")))
            if more:
                settings = f"{settings}\n{more}"
        key, _, settings = settings.partition("\n")
        found = known.get(settings)
        if found is None:
            found = known[settings] = _settings(_fields(settings))
        preshared_key, endpoint, keepalive, *counted = found
        peer = (new(PublicKey, (key_of(key),)), preshared_key, endpoint, keepalive, tuple(allowed), *counted)
        peers.append(new(DevicePeer, peer))
    return Device(
        name=name,
        private_key=_secret(device),
        listen_port=int(device.get("listen_port", 0)),
        fwmark=int(device.get("fwmark", 0)),
        peers=tuple(peers),
    )


def _fields(text: str) -> dict[str, str]:
    fields = {}
    for line in text.split("\n"):
        key, _, value = line.partition("=")
        fields[key] = value
    return fields


def _settings(fields: dict[str, str]) -> _Settings:
    """The fields of DevicePeer except the key and the networks."""
    get = fields.get
    return (
        _secret(fields, "preshared_key"),
        socket_address(fields["endpoint"]) if "endpoint" in fields else None,
        int(get("persistent_keepalive_interval", 0)),
        int(get("last_handshake_time_sec", 0)) + int(get("last_handshake_time_nsec", 0)) / 1e9,
        int(get("rx_bytes", 0)),
        int(get("tx_bytes", 0)),
    )


def _secret(fields: dict[str, str], key: str = "private_key") -> SecretKey | None:
    raw = bytes.fromhex(fields.get(key, ""))
    return SecretKey(raw) if raw not in (b"", NO_KEY.raw) else None


def socket_address(value: str) -> SocketAddress:
    """An address and port as written in the lines."""
    host, _, port = value.rpartition(":")
    address, _, zone = host.strip("[]").partition("%")
    return SocketAddress(address, int(port), _scope(zone))


def _scope(zone: str) -> int:
    """The index of an IPv6 zone, which is a number or a link's name; 0 if there is none or the link is gone."""
    if not zone or zone.isdecimal():
        return int(zone or 0)
    try:
        return if_nametoindex(zone)
    except OSError:
        return 0
