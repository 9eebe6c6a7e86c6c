"""Whether `up` cuts off the SSH session that it runs in, decided from snapshots."""

from __future__ import annotations

import pytest

from tests.unit.snapshots import DEFAULT, FAR, LOCAL, MAIN, NEAR, after, link, route, snapshot
from wgquick.diagnosis.cut_off import cut_off, replies
from wgquick.diagnosis.fib import walk
from wgquick.net import pack_address
from wgquick.routing import PolicyRule, Query


@pytest.mark.parametrize(
    ("allowed_ips", "connection", "is_cut"),
    [
        ("0.0.0.0/0", FAR, True),
        ("0.0.0.0/1, 128.0.0.0/1", FAR, True),
        ("203.0.113.0/24", FAR, True),
        ("0.0.0.0/0", NEAR, False),
        ("192.0.2.0/25", NEAR, True),
        ("10.9.0.0/16", FAR, False),
        ("::/0", FAR, False),
        ("0.0.0.0/0", "", False),
        ("0.0.0.0/0", "garbage", False),
        ("0.0.0.0/0", "203.0.113.7 x 192.0.2.2 22", False),
        ("0.0.0.0/0", "::ffff:203.0.113.7 50000 ::ffff:192.0.2.2 22", True),
    ],
)
def test_a_session_is_cut_off_if_its_replies_enter_the_tunnel(
    allowed_ips: str, connection: str, is_cut: bool
) -> None:
    seen = snapshot()
    warning = cut_off(seen, after(seen, allowed_ips), connection)
    assert bool(warning) == is_cut
    if is_cut:
        assert "its replies will go into wg0" in warning
        assert "comes in by eth0" in warning


def test_an_earlier_rule_of_the_host_does_not_keep_the_session() -> None:
    """The kernel puts new rules before the second one, so the tunnel's rules come first."""
    kept = snapshot((LOCAL, MAIN, DEFAULT))
    table = PolicyRule(5, table=100, source=None)
    seen = kept._replace(
        rules={**kept.rules, 4: (LOCAL, table, MAIN, DEFAULT)},
        routes={**kept.routes, 4: (*kept.routes[4], route("203.0.113.0/24", "eth0", "192.0.2.1", table=100))},
    )
    assert cut_off(seen, after(seen, "0.0.0.0/0"), FAR)


def test_a_table_without_rules_cuts_nothing_off() -> None:
    seen = snapshot()
    assert cut_off(seen, after(seen, "0.0.0.0/0", "Table = 777"), FAR) == ""
    assert cut_off(seen, after(seen, "0.0.0.0/0", "Table = off"), FAR) == ""


def test_a_session_without_a_route_is_not_cut_off() -> None:
    seen = snapshot()
    bare = seen._replace(routes={4: seen.routes[4][:3], 6: ()})
    assert cut_off(bare, after(bare, "0.0.0.0/0"), FAR) == ""


def test_a_session_through_another_tunnel_is_not_cut_off() -> None:
    seen = snapshot(routes=(route("203.0.113.0/24", "wg9"),), links=(link(9, "wg9", "10.7.0.2/24"),))
    connection = "203.0.113.7 50000 10.7.0.2 22"
    assert cut_off(seen, after(seen, "0.0.0.0/0"), connection) == ""


def test_planned_rules_have_the_kernels_priorities() -> None:
    seen = after(snapshot(), "0.0.0.0/0")
    assert [(rule.priority, rule.table) for rule in seen.rules[4]] == [
        (0, 255),
        (32764, 254),
        (32765, 51820),
        (32766, 254),
        (32767, 253),
    ]
    found = walk(seen, Query(pack_address("203.0.113.7")))
    assert (found.link, found.source) == ("wg0", pack_address("10.0.0.2"))
    assert walk(seen, Query(pack_address("203.0.113.7"), mark=51820)).link == "eth0"


def test_replies_come_from_the_servers_port() -> None:
    query = replies("2001:db8::7 50000 2001:db8::2 2222")
    assert query == Query(
        pack_address("2001:db8::7"),
        pack_address("2001:db8::2"),
        protocol=6,
        source_port=2222,
        destination_port=50000,
    )
