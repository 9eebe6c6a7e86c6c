"""`save` rewrites the settings that changed and nothing else."""

from __future__ import annotations

import pytest

from wgquick.config.document import Document
from wgquick.config.edit import Present, updated
from wgquick.config.parser import parse
from wgquick.device import Device, DevicePeer
from wgquick.net import AllowedIP, Endpoint, Prefix, PublicKey, SecretKey, SocketAddress

PRIVATE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
ALICE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
BOB = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
CAROL = "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA="
FILE = f"""# my tunnel
[Interface]
  Address=10.0.0.1/24   # home
PrivateKey = {PRIVATE}
ListenPort = 51820
PostUp = echo '# up'  # really

# Alice, at home
[Peer]
PublicKey = {ALICE}
AllowedIPs = 10.0.0.2, fd00::2/128 # both
Endpoint = alice.example.com:51820

# Bob
# at work
[peer]
PublicKey = {BOB}
AllowedIPs = 10.0.0.3/32
"""
NAMES = {Endpoint("alice.example.com", "51820"): SocketAddress("192.0.2.1", 51820)}


def ips(*words: str) -> tuple[AllowedIP, ...]:
    return tuple(AllowedIP(*Prefix.parse(word)) for word in words)


def clamped(text: str) -> SecretKey:
    raw = bytearray(SecretKey.parse(text).raw)
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return SecretKey(bytes(raw))


PEER_A = DevicePeer(
    PublicKey.parse(ALICE), None, SocketAddress("192.0.2.1", 51820), 0, ips("fd00::2/128", "10.0.0.2/32")
)
PEER_B = DevicePeer(PublicKey.parse(BOB), allowed_ips=ips("10.0.0.3/32"))
PEER_C = DevicePeer(
    PublicKey.parse(CAROL), SecretKey.parse(BOB), SocketAddress("2001:db8::3", 1), 25, ips("10.0.0.4/32", "::/0")
)
DEVICE = Device("wg0", clamped(PRIVATE), 51820, 0, (PEER_A, PEER_B))
PRESENT = Present(DEVICE, (Prefix.parse("10.0.0.1/24"),), 1420, None, None)


def resolves(endpoint: Endpoint, address: SocketAddress) -> bool:
    return NAMES.get(endpoint) == address


def saved(present: Present, text: str = FILE) -> str:
    document = Document.parse(text.encode())
    return updated(document, parse(document, "wg0"), present, resolves).decode()


def with_peers(*peers: DevicePeer) -> Present:
    return PRESENT._replace(device=DEVICE._replace(peers=peers))


def test_an_unchanged_device_leaves_the_file_unchanged() -> None:
    assert saved(PRESENT) == FILE


def test_a_clamped_key_on_the_device_leaves_the_files_key() -> None:
    assert clamped(PRIVATE).reveal() != PRIVATE
    assert PRIVATE in saved(PRESENT)


@pytest.mark.parametrize(
    ("present", "old", "new"),
    [
        (
            PRESENT._replace(addresses=(Prefix.parse("10.0.0.9/24"),)),
            "=10.0.0.1/24   # home",
            "=10.0.0.9/24   # home",
        ),
        (
            PRESENT._replace(addresses=(Prefix.parse("10.0.0.1/24"), Prefix.parse("fd00::1/64"))),
            "10.0.0.1/24   #",
            "10.0.0.1/24, fd00::1/64   #",
        ),
        (PRESENT._replace(addresses=()), "  Address=10.0.0.1/24   # home\n", ""),
        (PRESENT._replace(device=DEVICE._replace(listen_port=7)), "ListenPort = 51820", "ListenPort = 7"),
        (PRESENT._replace(device=DEVICE._replace(listen_port=0)), "ListenPort = 51820\n", ""),
        (PRESENT._replace(device=DEVICE._replace(private_key=None)), f"PrivateKey = {PRIVATE}\n", ""),
        (PRESENT._replace(device=DEVICE._replace(fwmark=51820)), "# really\n", "# really\nFwMark = 0xca6c\n"),
        (
            PRESENT._replace(dns=("1.1.1.1",), dns_search=("lan",)),
            "# really\n",
            "# really\nDNS = 1.1.1.1\nDNS = lan\n",
        ),
        (with_peers(PEER_A._replace(allowed_ips=ips("fd00::2/128")), PEER_B), "10.0.0.2, fd00", "fd00"),
        (with_peers(PEER_A, PEER_B._replace(allowed_ips=ips("10.0.0.3/32", "::/0"))), "0.3/32", "0.3/32, ::/0"),
        (with_peers(PEER_A, PEER_B._replace(allowed_ips=())), "AllowedIPs = 10.0.0.3/32\n", ""),
        (
            with_peers(PEER_A._replace(endpoint=SocketAddress("2001:db8::1", 9)), PEER_B),
            "alice.example.com:51820",
            "[2001:db8::1]:9",
        ),
        (with_peers(PEER_A._replace(endpoint=None), PEER_B), "Endpoint = alice.example.com:51820\n", ""),
        (
            with_peers(PEER_A, PEER_B._replace(persistent_keepalive=25)),
            "10.0.0.3/32\n",
            "10.0.0.3/32\nPersistentKeepalive = 25\n",
        ),
        (
            with_peers(PEER_A._replace(preshared_key=SecretKey.parse(BOB)), PEER_B),
            "com:51820\n",
            f"com:51820\nPresharedKey = {BOB}\n",
        ),
        (with_peers(PEER_B), FILE[FILE.index("# Alice") : FILE.index("# Bob")], ""),
        (with_peers(PEER_A), FILE[FILE.index("\n# Bob") :], ""),
        (with_peers(), FILE[FILE.index("\n# Alice") :], ""),
    ],
)
def test_a_change_rewrites_only_its_own_place(present: Present, old: str, new: str) -> None:
    assert old in FILE
    assert saved(present) == FILE.replace(old, new)


def test_a_new_peer_is_appended_in_the_form_of_showconf() -> None:
    expected = f"""
[Peer]
PublicKey = {CAROL}
PresharedKey = {BOB}
AllowedIPs = 10.0.0.4/32, ::/0
Endpoint = [2001:db8::3]:1
PersistentKeepalive = 25
"""
    assert saved(with_peers(PEER_A, PEER_B, PEER_C)) == FILE + expected


def test_the_mtu_is_saved_only_if_the_file_has_one() -> None:
    text = FILE.replace("PostUp", "MTU = 0x500 # low\nPostUp")
    assert saved(PRESENT, text) == text.replace("0x500", "1420")
    assert saved(PRESENT._replace(mtu=1280), text) == text


def test_a_network_of_a_later_peer_stays_in_its_line() -> None:
    text = FILE.replace("10.0.0.2, fd00::2/128", "10.0.0.2, fd00::2/128, 10.0.0.3/32")
    assert saved(PRESENT, text) == text


def test_a_removed_network_is_removed_from_every_peer() -> None:
    text = FILE.replace("10.0.0.2, fd00::2/128", "10.0.0.2, fd00::2/128, 10.0.0.3/32")
    present = with_peers(PEER_A, PEER_B._replace(allowed_ips=()))
    assert "10.0.0.3" not in saved(present, text)


def test_changed_sections_of_one_key_are_merged() -> None:
    text = FILE + f"\n[Peer]\nPublicKey = {BOB}\nAllowedIPs = 10.0.0.3\n"
    assert saved(PRESENT, text) == text
    changed = saved(with_peers(PEER_A, PEER_B._replace(allowed_ips=ips("10.0.0.9/32"))), text)
    assert changed == FILE.replace("10.0.0.3/32", "10.0.0.9/32")


def test_a_value_is_added_on_its_own_line_if_the_others_are() -> None:
    text = FILE.replace("AllowedIPs = 10.0.0.3/32\n", "AllowedIPs = 10.0.0.3/32\nAllowedIPs = 10.0.0.5/32\n")
    present = with_peers(PEER_A, PEER_B._replace(allowed_ips=ips("10.0.0.3/32", "10.0.0.5/32", "10.0.0.6/32")))
    assert saved(present, text) == text + "AllowedIPs = 10.0.0.6/32\n"


@pytest.mark.parametrize("gap", ["\n", ""])
def test_commented_peers_after_a_removed_one_stay(gap: str) -> None:
    text = FILE.replace("\n# Bob", f"#Endpoint = 192.0.2.9:1\n{gap}# [Peer]\n#PublicKey = x\n\n# Bob")
    found = saved(with_peers(PEER_B), text)
    assert "# [Peer]\n#PublicKey = x\n" in found
    assert "#Endpoint" not in found


def test_line_endings_and_byte_order_mark_are_kept() -> None:
    text = "\ufeff" + FILE.replace("\n", "\r\n").rstrip()
    found = saved(with_peers(PEER_A, PEER_B, PEER_C), text)
    assert found.startswith(text + "\r\n\r\n[Peer]\r\n")
    assert "\n" not in found.replace("\r\n", "")


def test_a_file_without_an_interface_section_gets_one_at_the_top() -> None:
    text = FILE[FILE.index("# Alice") :]
    assert saved(PRESENT, text).endswith("\n\n" + text)
    assert saved(PRESENT, text).startswith("[Interface]\nAddress = 10.0.0.1/24\nListenPort = 51820\nPrivateKey = ")
