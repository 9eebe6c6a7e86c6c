"""The names of peers in comments."""

from __future__ import annotations

import base64

import pytest

from wgquick.config.document import Document
from wgquick.status.names import LONGEST, names

KEYS = [base64.b64encode(bytes([n]) * 32).decode() for n in range(1, 5)]


def named(text: str) -> list[str]:
    """The names of the peers in a file with A, B, C and D for keys; "" for a peer without a name."""
    found = names(Document.parse(_with_keys(text)))
    return [found.of.get(key, "") for key in KEYS[: sum(f"PublicKey = {each}" in text for each in "ABCD")]]


def disabled(text: str) -> list[str]:
    """The letters of the peers that are commented out."""
    found = names(Document.parse(_with_keys(text)))
    return ["ABCD"[KEYS.index(key)] for key in found.disabled]


def _with_keys(text: str) -> bytes:
    for letter, key in zip("ABCD", KEYS, strict=True):
        text = text.replace(f"PublicKey = {letter}", f"PublicKey = {key}")
    return text.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("above", "name"),
    [
        ("### begin my laptop ###", "my laptop"),  # PiVPN
        ("# BEGIN_PEER tab", "tab"),  # Nyr's openvpn-install family
        ("### Client joe", "joe"),  # angristan's wireguard-install
        ("# Client: Ann B (8f2d0c5e-0000-1111-2222-333344445555)", "Ann B"),  # wg-easy
        (
            "# ID: x1\n# Name: Carl\n# Email: c@example.org\n# Created at: 2024-01-01",
            "Carl",
        ),  # wireguard-ui
        ("# Name = phone", "phone"),
        ("#Name# = dash", "dash"),  # WGDashboard
        ("# friendly_name = Bob's PC", "Bob's PC"),  # MindFlavor's exporter
        ("# friendly_name=OnePlus 6T", "OnePlus 6T"),
        ('# friendly_json={"username":"fr","id":482}', "fr"),
        ("# peer_tablet", "tablet"),  # linuxserver/docker-wireguard
        ("# Müllers Rechner", "Müllers Rechner"),
        ("#laptop", "laptop"),
    ],
)
def test_the_name_formats_of_known_programs_are_read(above: str, name: str) -> None:
    assert named(f"[Interface]\n\n{above}\n[Peer]\nPublicKey = A\n") == [name]
    assert named(f"[Interface]\n[Peer]\n{above}\nPublicKey = A\nAllowedIPs = 10.0.0.2/32\n") == [name]


@pytest.mark.parametrize("line", ["[Peer] # desk\nPublicKey = A", "[Peer]\nPublicKey = A # desk"])
def test_a_comment_at_the_end_of_a_line_is_a_name(line: str) -> None:
    assert named(f"{line}\n") == ["desk"]


@pytest.mark.parametrize(
    "comment",
    [
        "# PersistentKeepalive = 25",
        "#AllowedIPs = 10.0.0.0/8",
        "########",
        "# wgq: ignore endpoint-private",
        "# Email: a@example.org",
        f"# PrivateKey {KEYS[3]}",
        f"# {KEYS[3]}",
        "### end phone ###",
        "# END_PEER phone",
        "#",
        "# friendly_json={broken",
    ],
)
def test_other_comments_are_not_names(comment: str) -> None:
    assert named(f"{comment}\n[Peer]\n{comment}\nPublicKey = A\n") == [""]


def test_a_comment_belongs_to_the_adjacent_peer() -> None:
    text = "### begin one ###\n[Peer]\nPublicKey = A\n### end one ###\n### begin two ###\n[Peer]\nPublicKey = B\n"
    assert named(text) == ["one", "two"]
    text = "[Peer]\nPublicKey = A\nAllowedIPs = 10.0.0.2/32\n# friendly_name = one\n\n[Peer]\nPublicKey = B\n"
    assert named(text) == ["one", ""]
    assert named("# of the interface\n[Interface]\n# more\n\n[Peer]\nPublicKey = A\n") == [""]


def test_a_marked_name_outranks_a_plain_comment() -> None:
    assert named("# the server at home\n[Peer]\n# Name = home\nPublicKey = A\n") == ["home"]


def test_disabled_peers_are_found_with_their_names() -> None:
    pivpn = (
        "#[disabled] ### begin off ###\n#[disabled] [Peer]\n#[disabled] PublicKey = A\n"
        "#[disabled] ### end off ###\n### begin on ###\n[Peer]\nPublicKey = B\n"
    )
    assert (disabled(pivpn), named(pivpn)) == (["A"], ["off", "on"])
    by_hand = (
        "[Peer]\n# friendly_name = on\nPublicKey = A\n\n"
        "#[Peer]\n#PublicKey = B\n#AllowedIPs = 10.0.0.3/32\n[Peer]\nPublicKey = C\n"
    )
    assert (disabled(by_hand), named(by_hand)) == (["B"], ["on", "", ""])


def test_a_public_key_in_the_interface_section_is_no_peer() -> None:
    assert disabled("[Interface]\n# PublicKey = A\nPrivateKey = x\n[Peer]\nPublicKey = B\n") == []


def test_a_name_is_printable_and_limited_in_length() -> None:
    evil = "# a\x1b[2Jb\u202ec" + "x" * 500
    (name,) = named(f"{evil}\n[Peer]\nPublicKey = A\n")
    assert name.isprintable()
    assert len(name) <= LONGEST
    assert named("# b\udcffd\n[Peer]\nPublicKey = A\n")[0].isprintable()
