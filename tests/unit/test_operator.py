"""The warning of `up` about its SSH session: near misses, and agreement with the whole trace."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.snapshots import FAR, NEAR, after, snapshot
from tests.unit.snapshots import KEY as OWN_KEY
from tests.unit.snapshots import PEER as PEER_KEY
from wgquick.api import parse
from wgquick.diagnosis.cut_off import cut_off
from wgquick.net import Prefix, pack_address
from wgquick.plan.operator import leads_inside, session_of

ALLOWED = ("0.0.0.0/0", "0.0.0.0/1, 128.0.0.0/1", "203.0.113.0/24", "192.0.2.0/25", "10.9.0.0/16", "::/0")
MAIN = [Prefix.parse(each) for each in ("192.0.2.0/24", "0.0.0.0/0")]


def warns(allowed_ips: str, connection: str, interface: str = "") -> bool:
    text = (
        f"[Interface]\nPrivateKey = {OWN_KEY}\nAddress = 10.0.0.2/24\n{interface}\n"
        f"[Peer]\nPublicKey = {PEER_KEY}\nAllowedIPs = {allowed_ips}\n"
    )
    session = session_of(connection)
    assert session
    return leads_inside(parse(text).settings, session.client, lambda _address: MAIN)


@pytest.mark.parametrize(
    ("allowed_ips", "connection"),
    list(itertools.product(ALLOWED, (FAR, NEAR))),
)
def test_the_warning_agrees_with_the_trace_of_the_plan(allowed_ips: str, connection: str) -> None:
    seen = snapshot()
    assert warns(allowed_ips, connection) == bool(cut_off(seen, after(seen, allowed_ips), connection))


@pytest.mark.parametrize("interface", ["Table = off", "Table = 777", "# wgq: keep-inbound = on"])
def test_there_is_no_warning_if_the_session_is_kept(interface: str) -> None:
    assert warns("0.0.0.0/0", FAR)
    assert not warns("0.0.0.0/0", FAR, interface)


@pytest.mark.parametrize("word", ["main", "254", "0"])
def test_the_main_table_by_any_word_gives_the_warning(word: str) -> None:
    assert warns("203.0.113.0/24", FAR, f"Table = {word}")


def test_there_is_no_warning_for_an_excluded_network() -> None:
    assert not warns("0.0.0.0/0", FAR, "# wgq: exclude = 203.0.113.0/24")
    assert warns("0.0.0.0/0", FAR, "# wgq: exclude = 203.0.112.0/24")


@pytest.mark.parametrize("connection", ["", "a b c", "host 1 192.0.2.1 22", "1 2 3 4 5"])
def test_an_invalid_ssh_connection_is_ignored(connection: str) -> None:
    assert session_of(connection) is None


def test_an_ipv4_mapped_address_counts_as_ipv4() -> None:
    session = session_of("::ffff:203.0.113.7 1 ::ffff:192.0.2.1 22")
    assert session == (pack_address("203.0.113.7"), 1, pack_address("192.0.2.1"), 22, "")
