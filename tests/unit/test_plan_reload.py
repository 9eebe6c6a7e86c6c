"""The difference between a file and a live device: only what changes is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from wgquick.config.document import Document
from wgquick.config.parser import parse
from wgquick.device import Device, DeviceConfig, DevicePeer, PeerConfig
from wgquick.net import AllowedIP, PublicKey, SecretKey, SocketAddress, pack_address
from wgquick.plan import file_peers, reload

if TYPE_CHECKING:
    from wgquick.config.settings import Settings

KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
OTHER_KEY = "AAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
A, B = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
ROAMED = SocketAddress("198.51.100.7", 4000)


def settings(text: str) -> Settings:
    return parse(Document.parse(f"[Interface]\n{text}".encode()), "wg0")


def peer(key: str, *lines: str) -> str:
    return "\n".join(["[Peer]", f"PublicKey = {key}", *lines, ""])


def networks(*texts: str) -> tuple[AllowedIP, ...]:
    parts = (text.partition("/") for text in texts)
    return tuple(AllowedIP(pack_address(host), int(length)) for host, _, length in parts)


def live(key: str, *ips: str, **fields: Any) -> DevicePeer:
    return DevicePeer(PublicKey.parse(key), allowed_ips=networks(*ips), **fields)


def both(now: str, device: Device, before: str | None, **more: Any) -> reload.DeviceChange:
    """The change to the file `now`, if `before` was the file at up; None means no journal."""
    wanted = settings(now)
    earlier = None if before is None else file_peers.file_peers(settings(before), lambda _: "hash")
    found = {e: SocketAddress(e.host, int(e.port)) for e in reload.endpoints(wanted, device, earlier)}
    return reload.change(wanted, wanted.fwmark, device, earlier, found, **more)


def change(now: str, device: Device, before: str | None) -> DeviceConfig:
    """The part that is sent before the routes change."""
    return both(now, device, before).first


def removed(now: str, device: Device, before: str | None, **more: Any) -> tuple[list[str], list[str]]:
    """The removed peers, and the AllowedIPs that peers lose."""
    found = both(now, device, before, **more)
    gone = [
        str(peer.public_key) for peer in found.last.peers if peer.remove and peer.public_key != reload.THROW_AWAY
    ]
    return gone, [str(ip) for each in found.removed.values() for ip in each]


def test_nothing_is_sent_if_nothing_changed() -> None:
    """Port, mark, endpoint and a hook's keys stay as they are on the device."""
    text = peer(A, "Endpoint = 192.0.2.9:51820", "AllowedIPs = 0.0.0.0/0")
    psk = SecretKey.parse(OTHER_KEY)
    peers = (
        live(A, "0.0.0.0/0", endpoint=ROAMED, preshared_key=psk, persistent_keepalive=25),
        live(B, "10.3.0.0/16"),
    )
    device = Device("wg0", SecretKey.parse(KEY), 40000, 51820, peers)
    assert change(text, device, text) == DeviceConfig()
    assert removed(text, device, text, hooked={PublicKey.parse(B).raw}) == ([], [])
    assert change(f"ListenPort = 0\n{text}", device, text) == DeviceConfig()


def test_a_clamped_key_equals_the_files_key() -> None:
    raw = bytearray(SecretKey.parse(KEY).raw)
    raw[0] |= 7
    unclamped = SecretKey(bytes(raw))
    clamped = SecretKey(bytes([raw[0] & 248, *raw[1:31], raw[31] & 127 | 64]))
    assert change(f"PrivateKey = {unclamped.reveal()}", Device("wg0", clamped), "") == DeviceConfig()
    other = change(f"PrivateKey = {OTHER_KEY}", Device("wg0", clamped), "")
    assert other == DeviceConfig(private_key=SecretKey.parse(OTHER_KEY))


def test_a_port_and_a_mark_in_the_file_are_sent() -> None:
    device = Device("wg0", None, 40000, 0)
    assert change("ListenPort = 51820\nFwMark = 7", device, "") == DeviceConfig(listen_port=51820, fwmark=7)


def test_a_mark_is_removed_after_the_routes() -> None:
    found = both("FwMark = off", Device("wg0", None, 1, 51820), "")
    assert (found.first, found.last) == (DeviceConfig(), DeviceConfig(fwmark=0))


@pytest.mark.parametrize(
    ("before", "now", "sent"),
    [
        ("Endpoint = 192.0.2.9:1", "Endpoint = 192.0.2.9:1", None),
        ("Endpoint = 192.0.2.9:1", "Endpoint = 192.0.2.9:2", SocketAddress("192.0.2.9", 2)),
        ("Endpoint = 192.0.2.9:1", "Endpoint = 198.51.100.7:4000", None),
        ("Endpoint = 192.0.2.9:1", "", None),
        ("", "Endpoint = 192.0.2.9:1", SocketAddress("192.0.2.9", 1)),
    ],
)
def test_an_endpoint_is_sent_if_the_file_changed_it(before: str, now: str, sent: SocketAddress | None) -> None:
    device = Device("wg0", peers=(live(A, endpoint=ROAMED, last_handshake=1.0),))
    found = change(peer(A, now), device, peer(A, before))
    assert [each.endpoint for each in found.peers] == ([sent] if sent else [])


@pytest.mark.parametrize(("handshake", "sent"), [(0.0, True), (1.0, False)])
def test_without_a_journal_a_roamed_endpoint_is_not_sent(handshake: float, sent: bool) -> None:
    device = Device("wg0", peers=(live(A, endpoint=ROAMED, last_handshake=handshake),))
    assert bool(change(peer(A, "Endpoint = 192.0.2.9:1"), device, None).peers) is sent


@pytest.mark.parametrize(
    ("before", "more", "gone"),
    [
        (peer(A), {}, [A, B]),
        (peer(A), {"hooked": {PublicKey.parse(B).raw}}, [A]),
        (peer(A), {"keep_foreign": True}, [A]),
        (None, {}, [A, B]),
        (None, {"keep_foreign": True}, []),
    ],
)
def test_a_peer_missing_from_the_file_is_removed_unless_a_hooks(
    before: str | None, more: dict[str, Any], gone: list[str]
) -> None:
    device = Device("wg0", peers=(live(A), live(B)))
    assert removed("", device, before, **more) == (gone, [])
    foreign = both("", device, before, **more).foreign
    assert [str(key) for key in foreign] == ([B] if before and not more else [])


def test_a_new_peer_is_sent_with_its_whole_section() -> None:
    lines = (
        "Endpoint = 192.0.2.9:1",
        "PersistentKeepalive = 25",
        f"PresharedKey = {KEY}",
        "AllowedIPs = 10.0.0.0/8",
    )
    (found,) = change(peer(A, *lines), Device("wg0"), "").peers
    endpoint = SocketAddress("192.0.2.9", 1)
    psk = SecretKey.parse(KEY)
    assert found == PeerConfig(PublicKey.parse(A), False, False, psk, endpoint, 25, False, networks("10.0.0.0/8"))


@pytest.mark.parametrize(
    ("before", "now", "sent"),
    [
        (f"PresharedKey = {KEY}", "", bytes(32)),
        (f"PresharedKey = {KEY}", f"PresharedKey = {OTHER_KEY}", SecretKey.parse(OTHER_KEY).raw),
        (f"PresharedKey = {KEY}", f"PresharedKey = {KEY}", None),
        ("", "", None),
    ],
)
def test_a_preshared_key_is_removed_only_if_the_file_had_one(before: str, now: str, sent: bytes | None) -> None:
    device = Device("wg0", peers=(live(A, preshared_key=SecretKey.parse(KEY)),))
    keys = [
        each.preshared_key.raw for each in change(peer(A, now), device, peer(A, before)).peers if each.preshared_key
    ]
    assert keys == ([] if sent is None else [sent])


@pytest.mark.parametrize(
    ("before", "now", "sent"),
    [
        ("PersistentKeepalive = 25", "", 0),
        ("", "", None),
        ("", "PersistentKeepalive = 7", 7),
        ("", "PersistentKeepalive = 25", None),
    ],
)
def test_a_keepalive_is_removed_only_if_the_file_had_one(before: str, now: str, sent: int | None) -> None:
    device = Device("wg0", peers=(live(A, persistent_keepalive=25),))
    found = change(peer(A, now), device, peer(A, before)).peers
    assert [each.persistent_keepalive for each in found] == ([] if sent is None else [sent])


@pytest.mark.parametrize(
    ("has", "now", "sent", "lost"),
    [
        (["10.0.0.0/8"], "AllowedIPs = 10.0.0.0/8", [], []),
        (["10.0.0.0/8"], "AllowedIPs = 10.0.0.0/8, 10.1.0.0/16", ["10.1.0.0/16"], []),
        (["10.0.0.0/8", "10.1.0.0/16"], "AllowedIPs = 10.0.0.0/8", [], ["10.1.0.0/16"]),
        (["10.0.0.0/8"], "AllowedIPs = +10.1.0.0/16", ["10.1.0.0/16"], []),
        (["10.0.0.0/8", "10.1.0.0/16"], "AllowedIPs = -10.1.0.0/16", [], ["10.1.0.0/16"]),
    ],
)
def test_allowed_ips_are_added_and_removed_one_by_one(
    has: list[str], now: str, sent: list[str], lost: list[str]
) -> None:
    device, before = Device("wg0", peers=(live(A, *has),)), peer(A, "AllowedIPs = 10.0.0.0/8")
    assert [each.allowed_ips for each in change(peer(A, now), device, before).peers] == (
        [networks(*sent)] if sent else []
    )
    assert removed(peer(A, now), device, before) == ([], lost)


def test_allowed_ips_are_removed_through_a_throw_away_peer() -> None:
    """They move to that peer, and it is removed in the same request."""
    device = Device("wg0", peers=(live(A, "10.0.0.0/8", "10.1.0.0/16"),))
    found = both(peer(A, "AllowedIPs = 10.0.0.0/8"), device, peer(A))
    assert found.last.peers == (
        PeerConfig(reload.THROW_AWAY, allowed_ips=networks("10.1.0.0/16")),
        PeerConfig(reload.THROW_AWAY, remove=True),
    )
    assert list(reload.removal_lines("wg0", found)) == [f"[#] wg set wg0 peer {A} allowed-ips -10.1.0.0/16"]
    assert len(reload.THROW_AWAY.raw) == 32


def test_a_leftover_throw_away_peer_is_removed() -> None:
    """A killed reload may leave it behind."""
    device = Device("wg0", peers=(DevicePeer(reload.THROW_AWAY),))
    found = both("", device, "", keep_foreign=True)
    assert found.last.peers == (PeerConfig(reload.THROW_AWAY, remove=True),)
    assert found.foreign == ()


def test_the_inverse_restores_changed_peers_and_removes_new_ones() -> None:
    psk = SecretKey.parse(KEY)
    device = Device("wg0", psk, 7, 9, (live(A, "10.0.0.0/8", endpoint=ROAMED, persistent_keepalive=3), live(B)))
    new = PublicKey.parse(OTHER_KEY)
    sent = DeviceConfig(listen_port=8, peers=(PeerConfig(new, allowed_ips=networks("10.0.0.0/8")),))
    none = SecretKey(bytes(32))
    a = PeerConfig(PublicKey.parse(A), False, False, none, ROAMED, 3, True, networks("10.0.0.0/8"))
    assert reload.inverse(device, sent) == DeviceConfig(listen_port=7, peers=(PeerConfig(new, remove=True), a))


def test_a_network_of_two_peers_stays_with_the_later_one() -> None:
    text = peer(A, "AllowedIPs = 10.0.0.0/8") + peer(B, "AllowedIPs = 10.0.0.0/8")
    assert change(text, Device("wg0", peers=(live(A), live(B, "10.0.0.0/8"))), text) == DeviceConfig()


def test_a_network_moves_without_a_change_of_its_former_peer() -> None:
    now = peer(A) + peer(B, "AllowedIPs = 10.0.0.0/8")
    device = Device("wg0", peers=(live(A, "10.0.0.0/8"), live(B)))
    before = peer(A, "AllowedIPs = 10.0.0.0/8") + peer(B)
    (found,) = change(now, device, before).peers
    assert removed(now, device, before) == ([], [])
    assert (str(found.public_key), found.allowed_ips) == (B, networks("10.0.0.0/8"))


def test_allowed_ips_from_a_hook_stay_if_the_file_never_gave_any() -> None:
    device = Device("wg0", peers=(live(A, "10.0.0.0/8"),))
    assert change(peer(A), device, peer(A)) == DeviceConfig()
    assert removed(peer(A), device, peer(A, "AllowedIPs = 10.0.0.0/8"))[1] == ["10.0.0.0/8"]


def test_the_transcript_hides_keys() -> None:
    text = f"PrivateKey = {OTHER_KEY}\n{peer(A, f'PresharedKey = {KEY}', 'AllowedIPs = 10.0.0.0/8')}"
    transcript = "\n".join(reload.lines("wg0", change(text, Device("wg0"), "")))
    assert transcript == (
        "[#] wg set wg0 private-key (hidden)\n"
        f"[#] wg set wg0 peer {A} preshared-key (hidden) allowed-ips +10.0.0.0/8"
    )
