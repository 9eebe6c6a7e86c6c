"""`wgq allowed-ips`: the difference of networks."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import IPv4Address, ip_network
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgquick.complement import evaluate, loops
from wgquick.errors import WgqError

if TYPE_CHECKING:
    from pathlib import Path

KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
SMALL = st.builds(
    lambda address, length: ip_network((address, length), strict=False),
    st.integers(0, 255).map(lambda low: int(IPv4Address("10.0.0.0")) + low),
    st.integers(24, 32),
)


def texts(expression: str) -> list[str]:
    return [str(each) for each in evaluate(expression)]


def test_the_difference_uses_the_fewest_networks() -> None:
    assert texts("10.0.0.0/8 - 10.128.0.0/9") == ["10.0.0.0/9"]
    assert texts("0.0.0.0/0 - 128.0.0.0/2") == ["0.0.0.0/1", "192.0.0.0/2"]
    assert len(texts("0.0.0.0/0 - 192.168.1.0/24")) == 24


def test_adjacent_and_repeated_networks_are_merged() -> None:
    assert texts("10.0.0.0/9, 10.128.0.0/9 10.1.0.0/16") == ["10.0.0.0/8"]


def test_a_network_that_is_added_later_is_in_the_result() -> None:
    assert texts("10.0.0.0/24 - 10.0.0.0/25 + 10.0.0.1") == ["10.0.0.1/32", "10.0.0.128/25"]


def test_a_sign_may_be_attached_or_separate() -> None:
    assert texts("::/0 -8000::/1") == texts("::/0 - 8000::/1") == ["::/1"]


def test_ipv4_and_ipv6_do_not_mix() -> None:
    assert texts("0.0.0.0/0, ::/0 - 0.0.0.0/1") == ["128.0.0.0/1", "::/0"]


def test_subtracting_everything_leaves_nothing() -> None:
    assert texts("10.0.0.0/8 - 0.0.0.0/0") == []


@given(st.lists(st.tuples(st.booleans(), SMALL), min_size=1, max_size=12))
def test_the_last_network_with_an_address_decides(terms: list[tuple[bool, object]]) -> None:
    expression = " ".join(f"{'+' if adds else '-'}{network}" for adds, network in terms)
    found = evaluate(expression)
    for low in range(256):
        address = IPv4Address("10.0.0.0") + low
        last = [adds for adds, network in terms if address in network]  # type: ignore[operator]
        assert any(address in network for network in found) == bool(last and last[-1])
    assert all(int(one.broadcast_address) < int(two.network_address) for one, two in pairwise(found))


@pytest.mark.parametrize("expression", ["0.0.0.0/0 - ", "0.0.0.0/0 -", "0.0.0.0/0 -, + 10.0.0.0/8"])
def test_a_sign_without_a_network_is_an_error_with_its_column(expression: str) -> None:
    with pytest.raises(WgqError) as caught:
        evaluate(expression)
    assert (caught.value.where, caught.value.what) == ("column 11", "no network follows `-'")
    assert caught.value.remedy.startswith("Write networks, then `-'")


@pytest.mark.parametrize(
    ("expression", "where"),
    [("0.0.0.0/0 - lan", "column 13"), ("10.0.0.1/8", "column 1"), ("10.0.0.0/8 -1.2.3", "column 13")],
)
def test_an_invalid_network_is_an_error_with_its_column(expression: str, where: str) -> None:
    with pytest.raises(WgqError) as raised:
        evaluate(expression)
    assert raised.value.where == where
    assert raised.value.remedy


@pytest.mark.parametrize("expression", ["", " , ", "-"])
def test_an_expression_without_a_network_is_an_error(expression: str) -> None:
    with pytest.raises(WgqError, match="no network"):
        evaluate(expression)


def test_an_endpoint_loops_inside_a_partial_network_only() -> None:
    """A whole family (0.0.0.0/0) becomes a full tunnel, which excludes its endpoint."""
    assert loops(evaluate("0.0.0.0/0 - 192.168.0.0/16"), ["203.0.113.5", "192.168.1.1"]) == ["203.0.113.5"]
    assert loops(evaluate("0.0.0.0/0"), ["203.0.113.5"]) == []
    assert loops(evaluate("0.0.0.0/1"), ["2001:db8::1"]) == []


def test_the_verb_warns_of_an_endpoint_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "wg0.conf"
    peer = f"[Peer]\nPublicKey = {KEY}\nEndpoint = "
    file.write_text(f"[Interface]\nPrivateKey = {KEY}\n{peer}203.0.113.5:1\n{peer}vpn.example:1\n")
    file.chmod(0o600)
    command = [sys.executable, "-m", "wgquick", "allowed-ips", "0.0.0.0/0 - 10.0.0.0/8", str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("0.0.0.0/5, 8.0.0.0/7, 11.0.0.0/8, ")
    assert "contain the Endpoint 203.0.113.5" in done.stderr
    assert "vpn.example is a name" in done.stderr
    shown = json.loads(subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout)
    assert shown["loops"] == ["203.0.113.5"]
    assert ", ".join(shown["allowed_ips"]) == done.stdout.strip()
