"""Faults of other implementations that our tests allow for: they occur with wireguard-go at the far end too."""

from __future__ import annotations

import time

import pytest

from tests.interop import pairs
from tests.interop.pairs import BORINGTUN, GO, GOTATUN, LINK, WIRE, pair
from tests.interop.traffic import bulk, zero_sums

THIS_CENTURY = 946_684_800
GOTATUNS_BUFFER = 4096


def test_boringtun_panics_when_an_existing_peer_is_changed() -> None:
    with pair(GO, BORINGTUN) as (left, right):
        left.ping(right)
        with pytest.raises(AssertionError, match="Protocol error"):
            right.wg("set", LINK, "peer", left.public, "persistent-keepalive", "1")


def test_boringtun_reports_the_age_of_a_handshake_not_its_time() -> None:
    with pair(GO, BORINGTUN) as (left, right):
        left.ping(right)
        assert left.handshake(right) > THIS_CENTURY
        assert right.handshake(left) < THIS_CENTURY


def test_boringtun_with_connected_sockets_keeps_its_old_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(pairs.FLAGS, BORINGTUN)
    with pair(GO, BORINGTUN) as (left, right):
        left.ping(right)
        right.ip(f"addr del {right.outer()}/24 dev {WIRE}", f"addr add 192.0.2.102/24 dev {WIRE}")
        assert not right.try_ping(left)
        assert not right.try_ping(left)


@pytest.mark.parametrize("peer", [BORINGTUN, GOTATUN])
def test_boringtun_and_gotatun_count_inner_bytes_only(peer: str) -> None:
    with pair(GO, peer) as (left, right):
        left.ping(right)
        bulk(left, right, 1 << 20)
        assert right.transfer(left)[0] < left.transfer(right)[1]


def test_wireguard_go_loses_ipv6_datagrams_with_a_zero_checksum() -> None:
    with pair(GO, BORINGTUN) as (left, right):
        left.ping(right)
        assert zero_sums(left, right, version=6, at_once=False, patience=1) == 0


def test_gotatun_drops_packets_larger_than_its_buffers() -> None:
    with pair(GO, GOTATUN, mtu=9100) as (left, right):
        for end in (left, right):
            end.ip(f"link set {LINK} mtu 9000")
        left.ping(right, "-s", str(GOTATUNS_BUFFER - 200))
        assert not left.try_ping(right, "-s", str(GOTATUNS_BUFFER + 100))


def test_gotatun_exits_after_a_few_changes_of_its_port() -> None:
    with pytest.raises(AssertionError, match="Shutting down"):
        change_gotatuns_port()


def change_gotatuns_port() -> None:
    with pair(GO, GOTATUN) as (left, right):
        left.ping(right)
        for port in range(52000, 52100):
            right.machine.run(["wg", "set", LINK, "listen-port", str(port)], check=False)
            time.sleep(0.1)
            right.assert_alive()
