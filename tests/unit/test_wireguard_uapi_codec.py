"""The lines of the userspace API, as in its specification (wireguard.com/xplatform)."""

from __future__ import annotations

import errno

import pytest

from wgquick.device import Device, DeviceConfig, DevicePeer, PeerConfig
from wgquick.net import AllowedIP, PublicKey, SecretKey, SocketAddress, pack_address
from wgquick.system.wireguard import uapi_codec

KEY = bytes(range(32))
OTHER = bytes(range(32, 64))
PSK = bytes(range(64, 96))


def ip(text: str, change: str = "") -> AllowedIP:
    host, _, length = text.partition("/")
    return AllowedIP(pack_address(host), int(length), change)


def test_a_request_has_the_lines_of_the_specification_in_order() -> None:
    config = DeviceConfig(
        SecretKey(KEY),
        51820,
        0,
        (
            PeerConfig(
                PublicKey(OTHER),
                preshared_key=SecretKey(PSK),
                endpoint=SocketAddress("2001:db8::1", 9, 4),
                persistent_keepalive=0,
                replace_allowed_ips=True,
                allowed_ips=(ip("10.0.0.0/8"), ip("fd00::/64", "+"), ip("10.1.0.0/16", "-")),
            ),
            PeerConfig(PublicKey(PSK), update_only=True, endpoint=SocketAddress("192.0.2.1", 5)),
            PeerConfig(PublicKey(KEY), remove=True, persistent_keepalive=3),
        ),
    )
    assert uapi_codec.encode(config).decode().split("\n") == [
        "set=1",
        f"private_key={KEY.hex()}",
        "listen_port=51820",
        "fwmark=0",
        f"public_key={OTHER.hex()}",
        f"preshared_key={PSK.hex()}",
        "endpoint=[2001:db8::1%4]:9",
        "persistent_keepalive_interval=0",
        "replace_allowed_ips=true",
        "allowed_ip=10.0.0.0/8",
        "allowed_ip=fd00::/64",
        "allowed_ip=-10.1.0.0/16",
        f"public_key={PSK.hex()}",
        "update_only=true",
        "endpoint=192.0.2.1:5",
        f"public_key={KEY.hex()}",
        "remove=true",
        "",
        "",
    ]


def test_a_zone_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon looks for a link of that name first, so the name is sent if another link has it."""
    peer = PeerConfig(PublicKey(KEY), endpoint=SocketAddress("fe80::1", 9, 1))
    assert b"endpoint=[fe80::1%1]:9\n" in uapi_codec.encode(DeviceConfig(peers=(peer,)))
    monkeypatch.setattr(uapi_codec, "if_nametoindex", {"1": 7}.__getitem__)
    assert b"endpoint=[fe80::1%lo]:9\n" in uapi_codec.encode(DeviceConfig(peers=(peer,)))


def test_an_empty_change_is_a_valid_request() -> None:
    assert uapi_codec.encode(DeviceConfig()) == b"set=1\n\n"


ANSWER = f"""private_key={KEY.hex()}
listen_port=12912
fwmark=51820
public_key={OTHER.hex()}
preshared_key={PSK.hex()}
protocol_version=1
endpoint=[abcd:23::33%2]:51820
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
tx_bytes=38333
rx_bytes=2224
persistent_keepalive_interval=111
allowed_ip=192.168.4.4/32
allowed_ip=fd00::/64
public_key={KEY.hex()}
preshared_key={"00" * 32}
endpoint=182.122.22.19:3233
errno=0

"""


def test_an_answer_is_read() -> None:
    assert uapi_codec.decode("wg0", ANSWER.encode()) == Device(
        "wg0",
        SecretKey(KEY),
        12912,
        51820,
        (
            DevicePeer(
                PublicKey(OTHER),
                SecretKey(PSK),
                SocketAddress("abcd:23::33", 51820, 2),
                111,
                (ip("192.168.4.4/32"), ip("fd00::/64")),
                1700000000.5,
                2224,
                38333,
            ),
            DevicePeer(PublicKey(KEY), None, SocketAddress("182.122.22.19", 3233)),
        ),
    )
    assert uapi_codec.errno_of(ANSWER.encode()) == 0


def test_an_empty_device_is_read() -> None:
    assert uapi_codec.decode("wg0", b"errno=0\n\n") == Device("wg0")


@pytest.mark.parametrize("zone", ["lo", "1"])
def test_a_zone_is_read_by_name_or_number(zone: str) -> None:
    answer = f"public_key={KEY.hex()}\nendpoint=[fe80::1%{zone}]:5\nerrno=0\n\n"
    assert uapi_codec.decode("wg0", answer.encode()).peers[0].endpoint == SocketAddress("fe80::1", 5, 1)


def test_the_zone_of_a_missing_link_is_none() -> None:
    answer = f"public_key={KEY.hex()}\nendpoint=[fe80::1%nosuch0]:5\nerrno=0\n\n"
    assert uapi_codec.decode("wg0", answer.encode()).peers[0].endpoint == SocketAddress("fe80::1", 5)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"errno=0\n\n", 0),
        (b"errno=22\n\n", errno.EINVAL),
        (b"errno=-22\n\n", errno.EINVAL),
        (b"listen_port=1\nerrno=-5\n\n", errno.EIO),
        (b"listen_port=1\n\n", errno.EPROTO),
        (b"errno=x\n\n", errno.EPROTO),
    ],
)
def test_the_last_line_is_the_errno(answer: bytes, code: int) -> None:
    assert uapi_codec.errno_of(answer) == code


@pytest.mark.parametrize(
    "line",
    [f"private_key={KEY.hex()}zz", f"preshared_key={KEY.hex()[:-2]}", "listen_port=x", "allowed_ip=1.2.3/8"],
)
def test_an_invalid_answer_is_refused_without_its_text(line: str) -> None:
    answer = f"public_key={OTHER.hex()}\n{line}\nerrno=0\n\n"
    if line.startswith("private_key"):
        answer = f"{line}\nerrno=0\n\n"
    if line.startswith("listen_port"):
        answer = f"{line}\nerrno=0\n\n"
    with pytest.raises(ValueError, match=r"^cannot parse the answer$") as caught:
        uapi_codec.decode("wg0", answer.encode())
    assert caught.value.__suppress_context__
