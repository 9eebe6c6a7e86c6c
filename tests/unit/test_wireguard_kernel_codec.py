"""Attributes of the kernel's WireGuard family: pyroute2 decodes what we encode, and we decode what it encodes."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from pyroute2.netlink.generic.wireguard import wgmsg

from tests.keys import networks
from wgquick.device import Device, DeviceConfig, DevicePeer, PeerConfig
from wgquick.net import AllowedIP, PublicKey, SecretKey, SocketAddress
from wgquick.system.netlink import codec
from wgquick.system.wireguard import kernel_codec

GENERIC_HEADER = b"\1\1\0\0"


def public(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


def secret(number: int) -> SecretKey:
    return SecretKey(number.to_bytes(32, "big"))


def allowed(*texts: str) -> tuple[AllowedIP, ...]:
    def one(text: str) -> AllowedIP:
        host, _, length = text.lstrip("+-").partition("/")
        change = text[0] if text[0] in "+-" else ""
        from wgquick.net import pack_address

        return AllowedIP(pack_address(host), int(length), change)

    return tuple(one(text) for text in texts)


def seen_by_pyroute2(body: bytes) -> Any:
    message = wgmsg(codec.message(30, 0, GENERIC_HEADER + body))
    message.decode()
    return message


def peers_of(message: Any) -> list[Any]:
    return list(message.get_attr("WGDEVICE_A_PEERS") or [])


def allowed_of(peer: Any) -> list[str]:
    return [entry["addr"] for entry in peer.get_attr("WGPEER_A_ALLOWEDIPS") or []]


def parts(config: DeviceConfig) -> list[kernel_codec.Part]:
    return list(kernel_codec.parts("wg0", config))


def test_a_whole_device_is_one_message_for_pyroute2() -> None:
    config = DeviceConfig(
        private_key=secret(1),
        listen_port=51820,
        fwmark=0xCA6C,
        peers=(
            PeerConfig(
                public(2),
                preshared_key=secret(3),
                endpoint=SocketAddress("192.0.2.9", 51821),
                persistent_keepalive=25,
                replace_allowed_ips=True,
                allowed_ips=allowed("10.0.0.0/8", "fd00::/64", "0.0.0.0/0"),
            ),
            PeerConfig(public(4), endpoint=SocketAddress("2001:db8::1", 9)),
        ),
    )
    (part,) = parts(config)
    assert part.peers == (public(2), public(4))
    message = seen_by_pyroute2(part.body)
    assert message.get_attr("WGDEVICE_A_IFNAME") == "wg0"
    assert base64.b64decode(message.get_attr("WGDEVICE_A_PRIVATE_KEY")) == secret(1).raw
    assert message.get_attr("WGDEVICE_A_LISTEN_PORT") == 51820
    assert message.get_attr("WGDEVICE_A_FWMARK") == 0xCA6C
    assert message.get_attr("WGDEVICE_A_FLAGS") is None
    first, second = peers_of(message)
    assert base64.b64decode(first.get_attr("WGPEER_A_PUBLIC_KEY")) == public(2).raw
    assert base64.b64decode(first.get_attr("WGPEER_A_PRESHARED_KEY")) == secret(3).raw
    assert first.get_attr("WGPEER_A_FLAGS") == kernel_codec.WGPEER_F_REPLACE_ALLOWEDIPS
    assert first.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == 25
    endpoint = first.get_attr("WGPEER_A_ENDPOINT")
    assert (endpoint["addr"], endpoint["port"]) == ("192.0.2.9", 51821)
    assert allowed_of(first) == ["10.0.0.0/8", "fd00::/64", "0.0.0.0/0"]
    endpoint = second.get_attr("WGPEER_A_ENDPOINT")
    assert (endpoint["addr"], endpoint["port"]) == ("2001:db8::1", 9)
    assert second.get_attr("WGPEER_A_FLAGS") is None
    assert second.get_attr("WGPEER_A_ALLOWEDIPS") is None


def test_settings_that_are_not_given_are_not_sent() -> None:
    (part,) = parts(DeviceConfig())
    assert dict(seen_by_pyroute2(part.body)["attrs"]) == {"WGDEVICE_A_IFNAME": "wg0"}


def test_zero_is_sent_because_it_turns_a_setting_off() -> None:
    (part,) = parts(DeviceConfig(fwmark=0, peers=(PeerConfig(public(1), persistent_keepalive=0),)))
    message = seen_by_pyroute2(part.body)
    assert message.get_attr("WGDEVICE_A_FWMARK") == 0
    assert peers_of(message)[0].get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == 0


def test_every_nested_attribute_has_the_nested_flag() -> None:
    """Kernels with strict checking require it."""
    (part,) = parts(DeviceConfig(peers=(PeerConfig(public(1), allowed_ips=networks(1)),)))
    assert part.body.count(b"\x08\x80") == 1
    assert part.body.count(b"\x09\x80") == 1
    assert part.body.count(b"\x00\x80") == 2


def test_a_removed_peer_is_a_key_and_a_flag() -> None:
    (part,) = parts(DeviceConfig(peers=(PeerConfig(public(1), remove=True, allowed_ips=networks(3)),)))
    (peer,) = peers_of(seen_by_pyroute2(part.body))
    assert peer.get_attr("WGPEER_A_FLAGS") == kernel_codec.WGPEER_F_REMOVE_ME
    assert len(peer["attrs"]) == 2


def test_a_minus_sign_becomes_a_flag_of_the_allowed_ip() -> None:
    (part,) = parts(DeviceConfig(peers=(PeerConfig(public(1), allowed_ips=allowed("-10.0.0.0/8", "+fd00::/8")),)))
    peers = codec.attributes(codec.attributes(part.body)[kernel_codec.WGDEVICE_A_PEERS])
    entries = codec.each_attribute(codec.attributes(peers[0])[kernel_codec.WGPEER_A_ALLOWEDIPS])
    flags = [codec.attributes(data).get(kernel_codec.WGALLOWEDIP_A_FLAGS) for _, data in entries]
    assert flags == [codec.U32.pack(kernel_codec.WGALLOWEDIP_F_REMOVE_ME), None]


def test_thousands_of_peers_are_split_into_messages() -> None:
    peers = tuple(PeerConfig(public(n), allowed_ips=networks(2), replace_allowed_ips=True) for n in range(3000))
    cut = parts(DeviceConfig(private_key=secret(1), peers=peers))
    assert len(cut) > 30
    assert max(len(part.body) for part in cut) <= kernel_codec.MESSAGE_ROOM + 64
    assert [key for part in cut for key in part.peers] == [peer.public_key for peer in peers]
    messages = [seen_by_pyroute2(part.body) for part in cut]
    assert [message.get_attr("WGDEVICE_A_PRIVATE_KEY") is None for message in messages].count(False) == 1
    assert sum(len(peers_of(message)) for message in messages) == 3000


def test_allowed_ips_continue_in_the_next_message() -> None:
    peer = PeerConfig(
        public(1),
        update_only=True,
        replace_allowed_ips=True,
        preshared_key=secret(2),
        endpoint=SocketAddress("192.0.2.1", 1),
        allowed_ips=networks(5000),
    )
    pieces = [
        piece for part in parts(DeviceConfig(peers=(peer,))) for piece in peers_of(seen_by_pyroute2(part.body))
    ]
    update, replace = kernel_codec.WGPEER_F_UPDATE_ONLY, kernel_codec.WGPEER_F_REPLACE_ALLOWEDIPS
    assert [piece.get_attr("WGPEER_A_FLAGS") for piece in pieces] == [update | replace] + [update] * (
        len(pieces) - 1
    )
    assert [piece.get_attr("WGPEER_A_ENDPOINT") is None for piece in pieces].count(False) == 1
    assert [piece.get_attr("WGPEER_A_PRESHARED_KEY") is None for piece in pieces].count(False) == 1
    expected = [str(ip) for ip in peer.allowed_ips]
    assert [text for piece in pieces for text in allowed_of(piece)] == expected


def written_by_pyroute2(attributes: list[Any]) -> bytes:
    message = wgmsg()
    message["attrs"] = attributes
    message["header"]["type"] = 30
    message.encode()
    (received,) = codec.messages(bytes(message.data))
    return received.body[len(GENERIC_HEADER) :]


def text_of(key: PublicKey | SecretKey) -> str:
    return base64.b64encode(key.raw).decode()


def peer_of(key: PublicKey, *attributes: tuple[str, Any], ips: tuple[AllowedIP, ...] = ()) -> dict[str, Any]:
    entries = [
        {
            "attrs": [
                ("WGALLOWEDIP_A_CIDR_MASK", ip.length),
                ("WGALLOWEDIP_A_FAMILY", 2 if ip.family == 4 else 10),
                ("WGALLOWEDIP_A_IPADDR", ip.address),
            ]
        }
        for ip in ips
    ]
    return {"attrs": [("WGPEER_A_PUBLIC_KEY", text_of(key)), *attributes, ("WGPEER_A_ALLOWEDIPS", entries)]}


def test_a_device_in_one_message_is_read() -> None:
    ips = allowed("10.0.0.0/8", "fd00::/64")
    peers = [
        peer_of(
            public(2),
            ("WGPEER_A_PRESHARED_KEY", text_of(secret(3))),
            ("WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 1700000000, "tv_nsec": 500000000}),
            ("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", 25),
            ("WGPEER_A_TX_BYTES", 2**40),
            ("WGPEER_A_RX_BYTES", 7),
            ("WGPEER_A_ENDPOINT", {"addr": "192.0.2.9", "port": 51821}),
            ips=ips,
        ),
        peer_of(
            public(4),
            ("WGPEER_A_PRESHARED_KEY", text_of(PublicKey(bytes(32)))),
            ("WGPEER_A_ENDPOINT", {"addr": "2001:db8::1", "port": 9, "flowinfo": 0, "scope_id": 0}),
        ),
    ]
    body = written_by_pyroute2(
        [
            ("WGDEVICE_A_LISTEN_PORT", 51820),
            ("WGDEVICE_A_FWMARK", 51820),
            ("WGDEVICE_A_IFINDEX", 4),
            ("WGDEVICE_A_IFNAME", "wg0"),
            ("WGDEVICE_A_PRIVATE_KEY", text_of(secret(1))),
            ("WGDEVICE_A_PEERS", peers),
        ]
    )
    assert kernel_codec.decode([body]) == Device(
        "wg0",
        secret(1),
        51820,
        51820,
        (
            DevicePeer(public(2), secret(3), SocketAddress("192.0.2.9", 51821), 25, ips, 1700000000.5, 7, 2**40),
            DevicePeer(public(4), None, SocketAddress("2001:db8::1", 9)),
        ),
    )


def test_peers_split_over_several_messages_are_joined() -> None:
    ips = networks(90)

    def device(*peers: dict[str, Any]) -> bytes:
        return written_by_pyroute2([("WGDEVICE_A_IFNAME", "wg0"), ("WGDEVICE_A_PEERS", list(peers))])

    bodies = [
        device(peer_of(public(1), ips=ips[:10]), peer_of(public(2), ("WGPEER_A_RX_BYTES", 5), ips=ips[10:30])),
        device(peer_of(public(2), ips=ips[30:60])),
        device(peer_of(public(2), ips=ips[60:70]), peer_of(public(3), ips=ips[70:])),
        device(peer_of(public(4))),
    ]
    found = kernel_codec.decode(bodies)
    assert [(peer.public_key, peer.allowed_ips) for peer in found.peers] == [
        (public(1), ips[:10]),
        (public(2), ips[10:70]),
        (public(3), ips[70:]),
        (public(4), ()),
    ]
    assert found.peers[1].rx_bytes == 5


@pytest.mark.parametrize("scope", [0, 7])
def test_an_endpoint_keeps_its_scope(scope: int) -> None:
    endpoint = SocketAddress("fe80::1", 51820, scope)
    (part,) = parts(DeviceConfig(peers=(PeerConfig(public(1), endpoint=endpoint),)))
    assert kernel_codec.decode([part.body]).peers[0].endpoint == endpoint


def test_a_device_reads_back_as_it_was_set() -> None:
    ips = networks(3000) + allowed("fd00::/64", "::/0")
    peer = PeerConfig(public(9), preshared_key=secret(2), allowed_ips=ips)
    bodies = [part.body for part in parts(DeviceConfig(secret(1), 7, 8, (peer,)))]
    found = kernel_codec.decode(bodies)
    assert (found.private_key, found.listen_port, found.fwmark) == (secret(1), 7, 8)
    assert found.peers == (DevicePeer(public(9), secret(2), allowed_ips=ips),)


def as_the_kernel_writes(peer: DevicePeer) -> bytes:
    """The attributes of get_peer() in drivers/net/wireguard/netlink.c, in its order."""
    seconds, nanoseconds = int(peer.last_handshake), int(peer.last_handshake % 1 * 1e9)
    parts = [
        (1, peer.public_key.raw),
        (2, peer.preshared_key.raw if peer.preshared_key else bytes(32)),
        (6, struct.pack("=qq", seconds, nanoseconds)),
        (5, struct.pack("=H", peer.persistent_keepalive)),
        (8, struct.pack("=Q", peer.tx_bytes)),
        (7, struct.pack("=Q", peer.rx_bytes)),
        (10, struct.pack("=I", 1)),
        *([(4, kernel_codec._encode_endpoint(peer.endpoint))] if peer.endpoint else []),
    ]
    items = (
        ((3, bytes([ip.length])), (1, struct.pack("=H", 2 if ip.family == 4 else 10)), (2, ip.address))
        for ip in peer.allowed_ips
    )
    nested = (codec.attribute(0x8000, b"".join(codec.attribute(*each) for each in item)) for item in items)
    return b"".join(codec.attribute(*each) for each in [*parts, (0x8009, b"".join(nested))])


@pytest.mark.parametrize("endpoint", [None, SocketAddress("192.0.2.9", 51820), SocketAddress("fe80::1", 9, 3)])
@pytest.mark.parametrize("ips", ["", "10.0.0.0/8", "10.0.0.0/8 10.1.0.0/16 0.0.0.0/0", "10.0.0.0/8 fd00::/64"])
@pytest.mark.parametrize("handshake", [0.0, 1700000000.5])
def test_the_kernels_usual_peer_is_read_like_any_other(
    endpoint: SocketAddress | None, ips: str, handshake: float
) -> None:
    """The fast path knows the kernel's order of attributes; it leaves IPv6 AllowedIPs to the other one."""
    key = secret(3) if handshake else None
    peer = DevicePeer(public(1), key, endpoint, 25, allowed(*ips.split()), handshake, 7, 2**40)
    data = as_the_kernel_writes(peer)
    assert kernel_codec._decode_peer(codec.attributes(data)) == peer
    assert kernel_codec._usual_peer(data) == (None if ":" in ips else peer)
    for more in (codec.attribute(99, b"new"), b"\0\0"):
        assert kernel_codec._usual_peer(data + more) is None
