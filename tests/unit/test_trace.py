"""Traces of packets over snapshots: decisions of rules, routes and peers, and near misses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.snapshots import DEFAULT, LOCAL, MAIN, address, link, route, snapshot
from wgquick.config.settings import PeerSettings, Settings
from wgquick.device import Device, DevicePeer, peer_of
from wgquick.diagnosis.fib import walk
from wgquick.diagnosis.reverse import arrive, refusal
from wgquick.diagnosis.trace import OtherEnd, Trace, trace
from wgquick.net import AllowedIP, Prefix, PublicKey, SocketAddress, address_text
from wgquick.routing import (
    HOST,
    LINK,
    TCP,
    UDP,
    Answer,
    Neighbour,
    NextHop,
    PolicyRule,
    Ports,
    Query,
    Snapshot,
    TableRoute,
    TunnelDevice,
)
from wgquick.show.trace import as_json, text

KEYS = [PublicKey(bytes([number]) * 32) for number in range(1, 5)]


def peer(number: int, networks: str, endpoint: str = "198.51.100.9", port: int = 51820) -> DevicePeer:
    allowed = []
    for each in networks.split():
        prefix = Prefix.parse(each)
        allowed.append(AllowedIP(prefix.address, prefix.length))
    where = SocketAddress(endpoint, port) if endpoint else None
    return DevicePeer(KEYS[number], endpoint=where, allowed_ips=tuple(allowed))


def tunnel(name: str, *peers: DevicePeer, mark: int = 0, port: int = 51820) -> TunnelDevice:
    return TunnelDevice(Device(name, None, port, mark, peers), KEYS[0])


def full_tunnel(**more: Any) -> Snapshot:
    """A full tunnel of wg-quick: its rules, its table and its mark."""
    return snapshot(
        (
            LOCAL,
            PolicyRule(32764, table=254, suppress_prefixlength=0),
            PolicyRule(32765, table=51820, inverted=True, fwmark=51820, fwmask=0xFFFFFFFF),
            MAIN,
            DEFAULT,
        ),
        (route("default", "wg0", table=51820),),
        (link(3, "wg0", "10.0.0.2/24", mtu=1420),),
        devices={"wg0": tunnel("wg0", peer(1, "0.0.0.0/0"), mark=51820)},
        **more,
    )


def to(text: str, **more: Any) -> Query:
    return Query(address(text), **more)


def rule(**conditions: Any) -> Snapshot:
    """A host with a rule of priority 5 that prohibits what it matches."""
    return snapshot((LOCAL, PolicyRule(5, "prohibit", **conditions), MAIN, DEFAULT))


def is_prohibited(seen: Snapshot, query: Query) -> bool:
    return walk(seen, query).rules[1].decides


FROM = Prefix.parse("192.0.2.0/24")


@pytest.mark.parametrize(
    ("conditions", "met", "missed"),
    [
        ({"fwmark": 5, "fwmask": 0xFFFFFFFF}, {"mark": 5}, {"mark": 4}),
        ({"fwmark": 5, "fwmask": 0xF}, {"mark": 0x15}, {"mark": 0x16}),
        ({"fwmark": 0, "fwmask": 0xF}, {"mark": 0x10}, {"mark": 1}),
        ({"fwmark": 5, "fwmask": 0xFFFFFFFF, "inverted": True}, {"mark": 4}, {"mark": 5}),
        ({"source": FROM}, {"source": address("192.0.2.2")}, {}),
        ({"source": FROM}, {"source": address("192.0.2.2")}, {"source": address("127.0.0.1")}),
        ({"destination": Prefix.parse("198.51.100.0/24")}, {}, None),
        ({"uids": (1000, 1001)}, {"uid": 1001}, {"uid": 1002}),
        ({"uids": (1000, 1001)}, {"uid": 1000}, {"uid": 999}),
        ({"protocol": TCP}, {"protocol": TCP}, {"protocol": UDP}),
        ({"destination_ports": Ports(80, 90)}, {"protocol": TCP, "destination_port": 90}, {"destination_port": 91}),
        ({"destination_ports": Ports(80, 90)}, {"protocol": TCP, "destination_port": 80}, {"destination_port": 79}),
        (
            {"destination_ports": Ports(0x100, 0x100, 0xFF00)},
            {"destination_port": 0x1FF},
            {"destination_port": 0x200},
        ),
        ({"source_ports": Ports(53, 53)}, {"source_port": 53}, {"destination_port": 53}),
        ({"tos": 8, "tos_mask": 0xFC}, {"tos": 8}, {"tos": 0}),
        ({"input_link": "lo"}, {}, None),
        ({"input_link": "eth0"}, {"input_link": "eth0", "source": address("192.0.2.9")}, {}),
        ({"input_link": "gone0", "inverted": True}, {}, None),
        ({"output_link": "eth0"}, {"output_link": "eth0"}, {}),
    ],
)
def test_a_rule_matches_exactly_what_it_names(
    conditions: dict[str, Any], met: dict[str, Any], missed: dict[str, Any] | None
) -> None:
    assert is_prohibited(rule(**conditions), to("198.51.100.7", **met))
    if missed is not None:
        assert not is_prohibited(rule(**conditions), to("198.51.100.7", **missed))


def test_a_rule_with_unknown_conditions_is_reported_and_skipped() -> None:
    found = walk(rule(unread=("tun_id",)), to("198.51.100.7"))
    assert found.link == "eth0"
    assert "tun_id" in found.rules[1].why


@pytest.mark.parametrize(("length", "counts"), [(0, True), (23, True), (24, False), (32, False)])
def test_suppress_prefixlength_drops_short_prefixes(length: int, counts: bool) -> None:
    rules = (LOCAL, PolicyRule(5, table=100, suppress_prefixlength=length), PolicyRule(6, "blackhole"))
    seen = snapshot(rules, (route("198.51.100.0/24", "eth0", table=100, scope=LINK),))
    assert (walk(seen, to("198.51.100.7")).table == 100) == counts


def test_suppress_ifgroup_drops_routes_of_that_group() -> None:
    rules = (LOCAL, PolicyRule(5, table=100, suppress_group=3), MAIN)
    seen = snapshot(rules, (route("default", "eth1", table=100),), (link(3, "eth1", "10.1.0.1/24", group=3),))
    assert walk(seen, to("198.51.100.7")).link == "eth0"
    other = seen._replace(links={**seen.links, "eth1": seen.links["eth1"]._replace(group=2)})
    assert walk(other, to("198.51.100.7")).link == "eth1"


def test_goto_only_jumps_forward() -> None:
    far = snapshot((LOCAL, PolicyRule(5, "goto", target=32766), PolicyRule(6, "prohibit"), MAIN))
    assert walk(far, to("198.51.100.7")).link == "eth0"
    back = snapshot((LOCAL, PolicyRule(5, "goto", target=0), PolicyRule(6, "prohibit"), MAIN))
    assert walk(back, to("198.51.100.7")).reason == "rule 6 has the action prohibit"
    gone = snapshot((LOCAL, PolicyRule(5, "goto", target=7), PolicyRule(6, "prohibit"), MAIN))
    assert walk(gone, to("198.51.100.7")).reason == "rule 6 has the action prohibit"


def test_throw_leaves_the_table_and_blackhole_ends_the_walk() -> None:
    rules = (LOCAL, PolicyRule(5, table=100), MAIN)
    assert (
        walk(snapshot(rules, (route("198.51.100.0/24", kind="throw", table=100),)), to("198.51.100.7")).link
        == "eth0"
    )
    ended = walk(snapshot(rules, (route("198.51.100.0/24", kind="blackhole", table=100),)), to("198.51.100.7"))
    assert (ended.kind, ended.link) == ("blackhole", "")


def test_prefix_then_tos_then_metric_choose_the_route() -> None:
    routes = (
        route("198.51.100.0/24", "eth0", "192.0.2.10", metric=5),
        route("198.51.100.0/24", "eth0", "192.0.2.11", metric=1),
        route("198.51.100.0/24", "eth0", "192.0.2.12", metric=9, tos=8),
        route("198.51.100.128/25", "eth0", "192.0.2.13", metric=99),
    )
    seen = snapshot(routes=routes)
    gateways = {
        query: address_text(walk(seen, query).gateway or b"\0\0\0\0")
        for query in (to("198.51.100.7"), to("198.51.100.7", tos=8), to("198.51.100.200", tos=8))
    }
    assert list(gateways.values()) == ["192.0.2.11", "192.0.2.12", "192.0.2.13"]


def test_dead_next_hops_are_left_out() -> None:
    """With ignore_routes_with_linkdown, next hops without carrier are left out too."""
    dead, dark = (
        NextHop("eth0", address("192.0.2.8"), is_dead=True),
        NextHop("eth0", address("192.0.2.9"), has_no_carrier=True),
    )
    good = NextHop("eth0", address("192.0.2.10"))
    seen = snapshot(routes=(route("198.51.100.0/24", hops=(dead, dark, good)),))
    assert walk(seen, to("198.51.100.7")).hops == (dark, good)
    strict = seen.links["eth0"]._replace(ignores_linkdown=(4,))
    seen = seen._replace(links={**seen.links, "eth0": strict})
    assert walk(seen, to("198.51.100.7")).hops == (good,)


def test_the_source_comes_from_the_route_or_the_gateways_network() -> None:
    seen = snapshot(links=(link(3, "eth1", "10.1.0.1/24", "10.2.0.1/24"),))
    with_routes = seen._replace(
        routes={
            4: (*seen.routes[4], route("203.0.113.0/24", "eth1", "10.2.0.9"), route("198.18.0.0/15", "eth1")),
            6: (),
        }
    )
    assert walk(with_routes, to("203.0.113.1")).source == address("10.2.0.1")
    assert walk(with_routes, to("198.18.0.1")).source == address("10.1.0.1")


def test_a_source_of_another_host_is_refused() -> None:
    found = trace(snapshot(), to("198.51.100.7", source=address("192.0.2.3")))
    assert (found.verdict, found.reason) == ("unreachable", "192.0.2.3 is not an address of this host")


VRF = (link(4, "red", vrf_table=10), link(5, "eth1", "10.1.0.1/24", master="red"))
VRF_ROUTES = (
    route("default", "eth1", "10.1.0.254", table=10),
    TableRoute(
        Prefix.parse("10.1.0.1/32"), 10, "local", (NextHop("eth1"),), scope=HOST, source=address("10.1.0.1")
    ),
)
VRF_TEXT = """\
198.51.100.7 from this host, bound to red:
  rule 0: from all lookup local: no route in the table
  rule 1000: from all lookup [l3mdev-table]: matches
  route default via 10.1.0.254 dev eth1 table 10
    source 10.1.0.1, MTU 1500, TCP MSS 1460
delivered through eth1, largest packet 1500, TCP MSS 1460
"""


def vrf() -> Snapshot:
    rules = (LOCAL, PolicyRule(1000, l3mdev=True), MAIN, DEFAULT)
    return snapshot(rules, VRF_ROUTES, VRF)


def test_a_trace_through_a_vrf_prints_each_step() -> None:
    seen = vrf()
    assert text(trace(seen, to("198.51.100.7", output_link="red")), seen.table_names, 0) == VRF_TEXT


def test_a_vrf_takes_only_packets_bound_to_it_or_from_it() -> None:
    seen = vrf()
    assert walk(seen, to("198.51.100.7")).link == "eth0"
    assert walk(seen, to("198.51.100.7", input_link="eth1")).link == "eth1"
    assert walk(seen, to("198.51.100.7", output_link="eth1")).table == 10
    assert walk(seen, to("10.1.0.1", output_link="red")).link == "red"


FULL_TEXT = f"""\
203.0.113.7 from this host:
  rule 0: from all lookup local: no route in the table
  rule 32764: from all lookup main suppress_prefixlength 0: \
its route default is suppressed: its prefix length is not above 0
  rule 32765: not from all fwmark 0xca6c lookup 51820: matches
  route default dev wg0 table 51820
    source 10.0.0.2, MTU 1420, TCP MSS 1380
  peer {KEYS[1]} of wg0, AllowedIPs 0.0.0.0/0
    no handshake yet
  endpoint 198.51.100.9:51820
outer packet to 198.51.100.9, udp port 51820, mark 0xca6c:
  rule 0: from all lookup local: no route in the table
  rule 32764: from all lookup main suppress_prefixlength 0: \
its route default is suppressed: its prefix length is not above 0
  rule 32765: not from all fwmark 0xca6c lookup 51820: the mark is 0xca6c, and the rule is for all other marks
  rule 32766: from all lookup main: matches
  route default via 192.0.2.1 dev eth0 table main
    source 192.0.2.2, MTU 1500, TCP MSS 1460
    192.0.2.1 is 02:00:00:00:00:01 (REACHABLE)
delivered through wg0, then eth0, largest packet 1420, TCP MSS 1380
"""


def test_a_trace_through_a_full_tunnel_prints_each_step() -> None:
    known = {("eth0", address("192.0.2.1")): Neighbour("REACHABLE", "02:00:00:00:00:01")}
    seen = full_tunnel(neighbours=known)
    assert text(trace(seen, to("203.0.113.7")), seen.table_names, 0) == FULL_TEXT


def test_a_full_tunnel_without_its_mark_is_a_loop() -> None:
    seen = full_tunnel()
    unmarked = {"wg0": tunnel("wg0", peer(1, "0.0.0.0/0"), mark=0)}
    found = trace(seen._replace(devices=unmarked), to("203.0.113.7"))
    assert (found.verdict, found.uplink) == ("loop", "wg0")


def two_tunnels(back: bool) -> Snapshot:
    seen = full_tunnel()
    inner = tunnel("wg1", peer(2, "10.9.0.0/16", "203.0.113.4"), mark=0)
    routes = (route("10.9.0.0/16", "wg1"), *((route("198.51.100.9/32", "wg1"),) if back else ()))
    devices = {**seen.devices, "wg1": inner}
    if back:
        devices["wg1"] = tunnel("wg1", peer(2, "10.9.0.0/16 198.51.100.9/32", "203.0.113.4"))
    return seen._replace(
        routes={4: (*seen.routes[4], *routes), 6: ()},
        links={**seen.links, "wg1": link(4, "wg1", "10.1.0.2/24", mtu=1400)},
        devices=devices,
    )


def test_nested_tunnels_have_the_last_uplink_and_smallest_mtu() -> None:
    found = trace(two_tunnels(back=False), to("10.9.0.1"))
    assert (found.verdict, found.uplink, found.links) == ("delivered", "eth0", ("wg1", "wg0", "eth0"))
    assert (found.peer, str(found.endpoint), found.mtu) == (KEYS[2], "203.0.113.4:51820", (1420 - 60) // 16 * 16)


def test_two_tunnels_through_each_other_are_a_loop() -> None:
    found = trace(two_tunnels(back=True), to("10.9.0.1"))
    assert found.verdict == "loop"


@pytest.mark.parametrize(
    ("tunnel_mtu", "uplink_mtu", "largest"),
    [
        (1420, 1500, 1420),
        (1420, 1480, 1420),
        (1420, 1479, 1408),
        (1440, 1500, 1440),
        (1441, 1500, 1440),
        (1380, 1300, 1232),
    ],
)
def test_the_largest_packet_includes_padding_to_sixteen(tunnel_mtu: int, uplink_mtu: int, largest: int) -> None:
    seen = full_tunnel()
    links = {
        **seen.links,
        "wg0": seen.links["wg0"]._replace(mtu=tunnel_mtu),
        "eth0": seen.links["eth0"]._replace(mtu=uplink_mtu),
    }
    found = trace(seen._replace(links=links), to("203.0.113.7"))
    assert (found.mtu, found.mss) == (largest, largest - 40)


def test_the_endpoint_is_routed_in_the_namespace_of_the_socket() -> None:
    seen = snapshot(
        routes=(route("10.9.0.0/16", "wg0"),),
        links=(link(3, "wg0", "10.0.0.2/24", mtu=1420),),
        devices={"wg0": tunnel("wg0", peer(1, "10.9.0.0/16"))},
    )
    inside = seen._replace(routes={4: (route("10.9.0.0/16", "wg0"),), 6: ()})
    assert trace(inside, to("10.9.0.1")).verdict == "unreachable"
    found = trace(inside._replace(outside={"wg0": snapshot()}), to("10.9.0.1"))
    assert (found.verdict, found.uplink) == ("delivered", "eth0")
    unknown = trace(inside._replace(outside={"wg0": None}), to("10.9.0.1"))
    assert (unknown.verdict, unknown.uplink) == ("delivered", "")


def test_a_silent_daemon_leaves_the_trace_incomplete() -> None:
    seen = full_tunnel()
    found = trace(seen._replace(devices={}, unread={"wg0": "its daemon has been silent"}), to("203.0.113.7"))
    assert (found.verdict, found.uplink) == ("unreachable", "")
    assert "its daemon has been silent" in found.reason


def test_the_longest_allowed_ip_decides_on_the_peer() -> None:
    peers = (peer(1, "10.0.0.0/8 0.0.0.0/0"), peer(2, "10.9.0.0/16"), peer(3, "::/0"))
    for text_, number, network in (
        ("10.9.0.1", 2, "10.9.0.0/16"),
        ("10.8.0.1", 1, "10.0.0.0/8"),
        ("192.0.2.1", 1, "0.0.0.0/0"),
        ("2001:db8::1", 3, "::/0"),
    ):
        found = peer_of(peers, address(text_))
        assert found
        assert (found[0].public_key, str(found[1])) == (KEYS[number], network)
    assert peer_of(peers[1:], address("10.8.0.1")) is None


def test_the_kernels_answer_wins_and_a_difference_is_reported() -> None:
    def ask(_query: Query) -> Answer:
        return Answer(0, "unicast", 254, "eth1", None, address("192.0.2.2"))

    seen = snapshot(links=(link(3, "eth1"),))
    found = trace(seen, to("198.51.100.7"), ask)
    assert (found.uplink, found.is_agreed) == ("eth1", False)
    assert "the kernel disagrees: its answer is unicast by eth1" in text(found, seen.table_names, 0)


def test_the_kernel_chooses_among_several_next_hops() -> None:
    hops = (NextHop("eth0", address("192.0.2.8")), NextHop("eth0", address("192.0.2.9")))
    seen = snapshot(routes=(route("203.0.113.0/24", hops=hops, scope=0),))
    answer = Answer(0, "unicast", 254, "eth0", address("192.0.2.9"), address("192.0.2.2"))
    found = trace(seen, to("203.0.113.7"), lambda _query: answer)
    assert found.is_agreed
    assert "via 192.0.2.9" in text(found, {}, 0)
    assert "one of 2 next hops" in text(found, {}, 0)


def test_rp_filter_uses_the_mark_only_with_src_valid_mark() -> None:
    seen = full_tunnel()
    strict = seen.links["eth0"]._replace(rp_filter=1)
    seen = seen._replace(links={**seen.links, "eth0": strict})
    found = trace(seen, to("203.0.113.7"))
    assert found.verdict == "delivered"
    assert "rp_filter is 1 on eth0" in found.reason
    assert "src_valid_mark is 0" in found.reason
    marked = seen._replace(links={**seen.links, "eth0": strict._replace(src_valid_mark=True)})
    assert trace(marked, to("203.0.113.7")).reason == ""
    loose = seen._replace(links={**seen.links, "eth0": strict._replace(rp_filter=2)})
    assert trace(loose, to("203.0.113.7")).reason == ""


def test_an_incoming_packet_needs_forwarding_and_a_route_back() -> None:
    seen = full_tunnel()
    query = to("203.0.113.7", input_link="eth0", source=address("192.0.2.9"))
    assert "forwarding is off" in arrive(seen, query).reason
    forwarding = seen.links["eth0"]._replace(forwards=True, rp_filter=1)
    seen = seen._replace(links={**seen.links, "eth0": forwarding})
    assert arrive(seen, query).link == "wg0"
    stranger = query._replace(source=address("10.0.0.9"))
    assert "10.0.0.9 uses wg0" in trace(seen, stranger).reason
    assert trace(seen, stranger).verdict == "dropped"
    assert refusal(seen, address("192.0.2.2"), address("203.0.113.7"), "eth0")


def test_the_other_ends_file_decides_about_the_source() -> None:
    own = KEYS[0]

    def verdict(*peers: tuple[PublicKey, str]) -> Trace:
        sections = tuple(
            PeerSettings(key, allowed_ips=tuple(AllowedIP(*Prefix.parse(each)) for each in networks.split()))
            for key, networks in peers
        )
        return trace(full_tunnel(), to("203.0.113.7"), other_end=OtherEnd(Settings("wg0", peers=sections), KEYS[1]))

    assert verdict((own, "10.0.0.2/32")).verdict == "delivered"
    assert verdict((own, "10.0.0.0/24"), (KEYS[3], "10.0.0.2/32")).verdict == "dropped"
    assert verdict((own, "10.0.0.3/32")).verdict == "dropped"
    assert verdict((KEYS[3], "10.0.0.2/32")).verdict == "dropped"
    assert verdict().verdict == "dropped"


def test_the_json_has_every_field_even_without_values() -> None:
    found = as_json(trace(snapshot(routes=(route("203.0.113.0/24", kind="unreachable"),)), to("203.0.113.7")))
    assert {name: value for name, value in found.items() if name != "steps"} == {
        "destination": "203.0.113.7",
        "verdict": "unreachable",
        "peer": None,
        "endpoint": None,
        "uplink": None,
        "source": None,
        "mtu": None,
        "reason": "the route unreachable 203.0.113.0/24",
    }
    json.dumps(found)


def test_ipv6_routes_by_source_hide_the_plain_route_of_a_prefix() -> None:
    """See fib6_node_lookup_1(); a comparison with the kernel showed this."""
    plain = TableRoute(Prefix.parse("2001:db8::/48"), hops=(NextHop("eth0"),), metric=1)
    by_source = plain._replace(origin=Prefix.parse("2001:db8:f::/48"), hops=(NextHop("eth1"),))
    above = TableRoute(Prefix.parse("2001::/16"), hops=(NextHop("eth2"),))
    links = tuple(link(number, f"eth{number - 2}") for number in (3, 4))
    seen = snapshot(links=links)._replace(routes={4: (), 6: (plain, above)})
    assert walk(seen, to("2001:db8::1")).link == "eth0"
    seen = seen._replace(routes={4: (), 6: (plain, by_source, above)})
    assert walk(seen, to("2001:db8::1")).link == "eth2"
    assert walk(seen, to("2001:db8::1", source=address("2001:db8:f::1"))).link == "eth1"
