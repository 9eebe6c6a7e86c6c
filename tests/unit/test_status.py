"""States of peers, differences from the file, and the text of the status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.statuses import NOW, check_form, interface, shown
from wgquick.config.document import Document
from wgquick.config.parser import parse
from wgquick.device import Device, DevicePeer
from wgquick.net import AllowedIP, Link, Prefix, PublicKey, SecretKey, SocketAddress
from wgquick.show.status import json_text, size, span, text
from wgquick.status.drift import differences
from wgquick.status.peers import UNKNOWN, History, Trend, state
from wgquick.status.values import Drift, Error, Status

KEY = PublicKey(bytes([1]) * 32)
OTHER = PublicKey(bytes([2]) * 32)
SECRET = SecretKey(bytes([9]) * 32)
NETWORK = AllowedIP(bytes([10, 0, 0, 2]), 32)
THERE = SocketAddress("192.0.2.1", 51820)


def peer(**fields: Any) -> DevicePeer:
    return DevicePeer(**{"public_key": KEY, "endpoint": THERE, "allowed_ips": (NETWORK,), **fields})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "never"),
        ({"tx_bytes": 148}, "connecting"),
        ({"persistent_keepalive": 25}, "connecting"),
        ({"persistent_keepalive": 25, "endpoint": None}, "never"),
        ({"last_handshake": NOW - 179}, "up"),
        ({"last_handshake": NOW + 5}, "up"),  # the clock went back
        ({"last_handshake": NOW - 180}, "idle"),
        ({"last_handshake": NOW - 180, "persistent_keepalive": 25}, "stale"),
        ({"last_handshake": NOW - 1, "allowed_ips": ()}, "disabled"),
    ],
)
def test_one_reading_gives_a_state(fields: dict[str, Any], expected: str) -> None:
    assert state(peer(**fields), NOW, link_up=True) == expected


def test_no_peer_is_up_if_the_link_is_down() -> None:
    assert state(peer(last_handshake=NOW), NOW, link_up=False) == "disabled"


@pytest.mark.parametrize(
    ("fields", "trend", "expected"),
    [
        ({}, Trend(sends=True), "connecting"),
        ({"last_handshake": NOW - 200}, Trend(sends=True), "stale"),
        ({"last_handshake": NOW - 20}, Trend(sends=True), "up"),
        ({"last_handshake": NOW - 20}, Trend(unanswered=True), "stale"),
    ],
)
def test_several_readings_refine_the_state(fields: dict[str, Any], trend: Trend, expected: str) -> None:
    assert state(peer(**fields), NOW, link_up=True, trend=trend) == expected


def _read(history: History, at: float, rx: int, tx: int, keepalive: int = 0) -> Trend:
    device = Device("wg0", peers=(peer(rx_bytes=rx, tx_bytes=tx, persistent_keepalive=keepalive),))
    return history.trends(device, at).get(KEY.raw, UNKNOWN)


def test_rates_are_bytes_per_second_since_the_last_reading() -> None:
    history = History()
    assert _read(history, 10, 0, 0) == Trend()
    trend = _read(history, 12, 1000, 300)
    assert (trend.rx_rate, trend.tx_rate, trend.sends) == (500, 150, True)
    assert not _read(history, 13, 1000, 300).sends


def test_data_is_unanswered_after_fifteen_seconds() -> None:
    """Keepalives are never unanswered."""
    data, keepalives = History(), History()
    for at in range(21):
        sent, kept = _read(data, at, 100, at * 100), _read(keepalives, at, 100, at // 5 * 32, keepalive=5)
        assert sent.unanswered == (at >= 15)
        assert not kept.unanswered
    assert not _read(data, 21, 101, 5000).unanswered


def test_a_recreated_device_has_no_negative_rates() -> None:
    history = History()
    _read(history, 1, 1000, 1000)
    assert _read(history, 2, 0, 0) == Trend()


FILE = f"""[Interface]
PrivateKey = {SECRET.reveal()}
Address = 10.0.0.1/24
ListenPort = 51820
MTU = 1400
[Peer]
PublicKey = {KEY}
AllowedIPs = 10.0.0.2/32, 10.1.0.0/16
PersistentKeepalive = 25
[Peer]
PublicKey = {OTHER}
AllowedIPs = 10.1.2.3/16
"""
LINK = Link(3, "wg0", 1400, True, "tun")
ADDRESS = Prefix(bytes([10, 0, 0, 1]), 24)


def _device(**fields: Any) -> Device:
    one = peer(persistent_keepalive=25)
    two = peer(public_key=OTHER, allowed_ips=(AllowedIP(bytes([10, 1, 0, 0]), 16),))
    return Device(**{"name": "wg0", "private_key": SECRET, "listen_port": 51820, "peers": (one, two), **fields})


def _codes(device: Device, link: Link = LINK, addresses: tuple[Prefix, ...] = (ADDRESS,)) -> list[str]:
    found = differences(parse(Document.parse(FILE.encode()), "wg0"), device, link, addresses)
    assert SECRET.reveal() not in str(found)
    return [each.code for each in found]


def test_a_device_that_matches_its_file_has_no_differences() -> None:
    assert _codes(_device()) == []
    link_local = Prefix(bytes([0xFE, 0x80]) + bytes(14), 64)
    assert _codes(_device(fwmark=51820), addresses=(ADDRESS, link_local)) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"private_key": SecretKey(bytes([8]) * 32)}, "key-differs"),
        ({"private_key": None}, "key-differs"),
        ({"listen_port": 1}, "port-differs"),
        ({"peers": _device().peers[:1]}, "peer-missing"),
        ({"peers": (*_device().peers, peer(public_key=PublicKey(bytes(32))))}, "peer-foreign"),
        ({"peers": (_device().peers[0]._replace(persistent_keepalive=0), _device().peers[1])}, "keepalive-differs"),
        ({"peers": (_device().peers[0]._replace(allowed_ips=()), _device().peers[1])}, "allowed-ips-differ"),
    ],
)
def test_each_difference_of_the_device_has_its_code(change: dict[str, Any], code: str) -> None:
    assert _codes(_device(**change)) == [code]


def test_a_mark_that_up_chooses_is_no_difference() -> None:
    for line, code in (("AllowedIPs = 0.0.0.0/0", []), ("AllowedIPs = 10.0.0.0/8", ["mark-differs"])):
        text = f"[Interface]\nFwMark = off\n[Peer]\nPublicKey = {KEY}\n{line}\n"
        settings = parse(Document.parse(text.encode()), "wg0")
        live = Device("wg0", fwmark=51820, peers=(peer(allowed_ips=settings.peers[0].allowed_ips),))
        assert [each.code for each in differences(settings, live, None, ())] == code


def test_each_difference_of_the_link_has_its_code() -> None:
    assert _codes(_device(), LINK._replace(mtu=1280)) == ["mtu-differs"]
    assert _codes(_device(), addresses=()) == ["address-missing"]
    assert _codes(_device(), addresses=(ADDRESS, Prefix(bytes([10, 0, 0, 7]), 24))) == ["address-foreign"]


LONG = "2001:db8:1111:2222:3333:4444:5555:6666"
WIDE = (
    shown(name="Müllers sehr langer Name für einen Rechner " * 2, endpoint=f"[{LONG}]:51820"),
    shown(1, name="日本語の名前がここにある" * 2, state="connecting", roamed=True, endpoint="203.0.113.255:65535"),
    shown(2, rx_bytes=2**60, tx_bytes=1023, handshake_age=364 * 86400.0, last_error=Error("x", "word " * 40)),
)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("rates", [None, 123456.0])
def test_no_line_is_wider_than_the_terminal(width: int, rates: float | None) -> None:
    from rich.cells import cell_len

    peers = [each._replace(rx_rate=rates, tx_rate=rates) for each in WIDE]
    drift = tuple(Drift("c", "something is very different " * 5, each.public_key) for each in peers * 5)
    status = Status(NOW, (interface(*peers, drift=drift, addresses=(f"{LONG}/128",) * 3),))
    assert max(map(cell_len, text(status, width=width).splitlines())) <= width


def test_the_table_keeps_ports_and_the_roamed_flag() -> None:
    status = Status(NOW, (interface(*WIDE, since=NOW - 7200, by="wgq", mtu=1420, mtu_given=False, fwmark=51820),))
    printed = text(status)
    shown = ("wg0: up", "(2 h), by wgq", "MTU 1420 (automatic)", "mark 0xca6c", "…]:51820", "roamed", "1.2 MiB")
    for words in shown:
        assert words in printed
    assert "AgICAgICAgIC…" in printed, "a peer without a name is called by its key"


def test_control_characters_are_not_printed() -> None:
    printed = text(Status(NOW, (interface(file="/etc/\x1b[2J\nwg0.conf", error="\x1b]0;x\x07"),)))
    assert "\x1b" not in printed
    assert "\x07" not in printed


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10180, "9.9 KiB"),
        (10190, "10 KiB"),
        (5 * 1024**4, "5.0 TiB"),
    ],
)
def test_sizes_are_short(count: int, words: str) -> None:
    assert size(count) == words


def test_times_are_in_their_largest_unit() -> None:
    assert [span(each) for each in (0, 59.9, 60, 7199, 90000, 4e7)] == ["0 s", "59 s", "1 min", "1 h", "1 d", "1 y"]


def test_the_json_has_the_form_of_version_1() -> None:
    peers = (*WIDE, shown(3, name="lap\ntop", rx_rate=1.0, tx_rate=0.0))
    drift = (Drift("peer-missing", "gone", str(KEY)),)
    printed = json_text(Status(NOW, (interface(*peers, drift=drift), interface())))
    assert printed.count("\n") == 1
    check_form(json.loads(printed))


def test_a_status_is_well_if_all_wanted_peers_are_up() -> None:
    assert Status(NOW, (interface(shown(), shown(1, state="never", wanted=False)),)).is_well
    assert not Status(NOW, ()).is_well
    assert not Status(NOW, (interface(shown(), shown(1, state="idle")),)).is_well
    assert not Status(NOW, (interface(backend="", error="its daemon is silent"),)).is_well
