"""A save writes the device's settings and changes nothing else."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.property.configurations import KEYS, clamped, dumped, files
from wgquick.config.document import Document
from wgquick.config.edit import Present, updated
from wgquick.config.parser import examine
from wgquick.device import Device, DevicePeer
from wgquick.net import AllowedIP, Prefix, PublicKey, SecretKey, SocketAddress

if TYPE_CHECKING:
    from wgquick.config.settings import Settings
    from wgquick.net import Endpoint

NAME = "wg0"
NETWORKS = [
    "10.0.0.0/8",
    "10.0.0.1/32",
    "fd00::/64",
    "fd00::1/128",
    "0.0.0.0/0",
    "::/0",
    "10.0.0.2/32",
    "192.0.2.0/24",
]
ENDPOINTS = [SocketAddress("192.0.2.1", 51820), SocketAddress("2001:db8::1", 1), SocketAddress("203.0.113.9", 7)]
bounded = settings(max_examples=150, deadline=None)


def resolves(endpoint: Endpoint, address: SocketAddress) -> bool:
    """Each host resolves to itself."""
    return endpoint.host == address.address and endpoint.port == str(address.port)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    """Some of the files' peers, with each network at one peer only."""
    owners = draw(st.lists(st.sampled_from([0, 1, 2, None]), min_size=len(NETWORKS), max_size=len(NETWORKS)))
    keys = draw(st.lists(st.sampled_from([0, 1, 2]), unique=True))
    peers = [
        DevicePeer(
            PublicKey.parse(KEYS[index]),
            draw(st.none() | st.sampled_from(KEYS).map(SecretKey.parse)),
            draw(st.none() | st.sampled_from(ENDPOINTS)),
            draw(st.sampled_from([0, 0, 25])),
            tuple(
                AllowedIP(*Prefix.parse(net)) for net, owner in zip(NETWORKS, owners, strict=True) if owner == index
            ),
        )
        for index in keys
    ]
    private = draw(
        st.none() | st.sampled_from(KEYS).map(lambda key: SecretKey.parse(clamped(SecretKey.parse(key))))
    )
    return Device(NAME, private, draw(st.sampled_from([0, 1, 51820])), draw(st.sampled_from([0, 16])), tuple(peers))


@st.composite
def states(draw: st.DrawFn) -> Present:
    words = ["10.0.0.1/24", "10.0.0.2/32", "fd00::1/64", "192.0.2.7/24"]
    addresses = draw(st.lists(st.sampled_from(words), unique=True).map(lambda found: map(Prefix.parse, found)))
    dns = draw(st.none() | st.lists(st.sampled_from(["1.1.1.1", "fd00::53"]), unique=True))
    search = draw(st.none() | st.lists(st.sampled_from(["example.com", "lan"]), unique=True))
    return Present(
        draw(devices()),
        tuple(addresses),
        draw(st.none() | st.sampled_from([1280, 1420])),
        None if dns is None else tuple(dns),
        None if search is None else tuple(search),
    )


def read(data: bytes) -> Settings | None:
    return examine(Document.parse(data), NAME).settings


def peers_of(device: Device) -> object:
    """The peers in the form of `wg show dump`, like `dumped` for a file."""
    return {
        str(peer.public_key): (
            peer.preshared_key.reveal() if peer.preshared_key else "(none)",
            str(peer.endpoint or "(none)"),
            frozenset(map(str, peer.allowed_ips)),
            str(peer.persistent_keepalive or "off"),
        )
        for peer in device.peers
    }


def agrees(found: Settings, old: Settings, present: Present) -> bool:
    """Whether the settings match the state; settings that the state does not cover must be unchanged."""
    device = present.device
    private = device.private_key.reveal() if device.private_key else None
    return (
        (clamped(found.private_key) if found.private_key else None) == private
        and (found.listen_port or 0) == device.listen_port
        and (found.fwmark or 0) == device.fwmark
        and {(a.address, a.length) for a in found.addresses} == {tuple(prefix) for prefix in present.addresses}
        and set(found.dns) == set(old.dns if present.dns is None else present.dns)
        and set(found.dns_search) == set(old.dns_search if present.dns_search is None else present.dns_search)
        and found.mtu == (old.mtu if old.mtu is None or present.mtu is None else present.mtu)
        and dumped(found) == peers_of(device)
    )


@bounded
@given(data=files(), present=states())
@example(data=b"", present=Present(Device(NAME), ()))
def test_a_saved_file_describes_the_device(data: bytes, present: Present) -> None:
    old = read(data)
    if old is None:
        return
    saved = updated(Document.parse(data), old, present, resolves)
    found = read(saved)
    assert found is not None, saved
    assert agrees(found, old, present), saved
    assert (found.table, found.save_config) == (old.table, old.save_config)
    assert (found.pre_up, found.post_up, found.pre_down, found.post_down) == (
        old.pre_up,
        old.post_up,
        old.pre_down,
        old.post_down,
    )


@bounded
@given(data=files(), present=states())
def test_a_second_save_changes_nothing(data: bytes, present: Present) -> None:
    old = read(data)
    if old is None:
        return
    once = updated(Document.parse(data), old, present, resolves)
    found = read(once)
    assert found is not None
    assert updated(Document.parse(once), found, present, resolves) == once


HOOK = re.compile(rb"\s*(pre|post)(up|down)\s*=", re.IGNORECASE)


@bounded
@given(data=files(), present=states())
@example(
    data=b"[Interface]\n# one\nPOSTUP = true # two\n\t#three\nMTU = 9\npredown=# x\n",
    present=Present(Device(NAME), ()),
)
@example(data=b"[Interface]\r\n# no final newline", present=Present(Device(NAME), ()))
def test_hooks_and_comment_lines_survive_every_save(data: bytes, present: Present) -> None:
    old = read(data)
    if old is None:
        return
    saved = updated(Document.parse(data), old, present, resolves)
    assert _hooks(data) == _hooks(saved)
    head = re.split(rb"(?mi)(^\s*(#.*)?\n)*^\s*\[\s*peer", data)[0]  # a comment right above a peer belongs to it
    assert not Counter(_comments(head)) - Counter(_comments(saved))


def _hooks(data: bytes) -> list[bytes]:
    return [line.rstrip(b"\r") for line in data.split(b"\n") if HOOK.match(line)]


def _comments(data: bytes) -> list[bytes]:
    return [line.rstrip(b"\r") for line in data.split(b"\n") if line.strip().startswith(b"#")]
