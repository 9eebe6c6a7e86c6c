"""Advice on what wg-quick accepts and probably was not meant."""

from __future__ import annotations

import pytest

from wgquick.config.document import Document
from wgquick.config.lint import CODES, advice
from wgquick.config.parser import parse

KEY = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
OTHER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
HEAD = f"[Interface]\nPrivateKey = {KEY}\nListenPort = 1\nAddress = 10.0.0.1/24\n"
PEER = f"[Peer]\nPublicKey = {KEY}\nAllowedIPs = 10.0.0.0/8\n"
CASES = [
    (HEAD + PEER, []),
    ("", [(1, 1, "no-address"), (1, 1, "no-private-key")]),
    (f"# x\n[Interface]\nAddress = 10.0.0.1\nListenPort = 1\n{PEER}", [(2, 1, "no-private-key")]),
    (HEAD + f"[Peer]\nPublicKey = {KEY}\n", [(5, 1, "peer-without-allowed-ips")]),
    (HEAD + PEER + PEER.replace(KEY, OTHER), [(10, 14, "allowed-ip-moves")]),
    (HEAD + PEER + PEER, [(9, 13, "repeated-peer")]),
    (HEAD + "Table = off\n" + PEER.replace("10.0.0.0/8", "::/0"), [(5, 9, "full-tunnel-without-routes")]),
    (HEAD + "DNS = lan\n" + PEER, [(5, 7, "search-without-server")]),
    (HEAD + "MTU = 1279\nAddress = fd00::1/64\n" + PEER, [(5, 7, "low-mtu")]),
    (HEAD.replace("ListenPort = 1\n", "") + PEER, [(1, 1, "nobody-connects")]),
]


def found(text: str) -> list[tuple[int, int, str]]:
    document = Document.parse(text.encode())
    return [(each.line, each.column, each.code) for each in advice(parse(document, "wg0"), document)]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_advice_has_its_place_and_code(text: str, expected: list[tuple[int, int, str]]) -> None:
    assert found(text) == expected


def test_every_code_is_in_the_table_and_used() -> None:
    assert {code for _, expected in CASES for *_, code in expected} == set(CODES)


def test_advice_is_no_error() -> None:
    document = Document.parse(b"")
    assert {each.severity for each in advice(parse(document, "wg0"), document)} == {"advice"}
