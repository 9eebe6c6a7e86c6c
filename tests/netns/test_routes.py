"""Routes, rules and lookups through pyroute2, compared with `ip -j` on the same machine."""

from __future__ import annotations

import errno
import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from wgquick.diagnosis.fib import text_of
from wgquick.net import Prefix, address_text, pack_address
from wgquick.routing import UDP, Answer, NextHop, PolicyRule, Ports, Query, TableRoute
from wgquick.show.trace import rule_text
from wgquick.system.routes import KINDS, Routing

if TYPE_CHECKING:
    from tests.namespaces import Namespace

TABLES = {"main": 254, "local": 255, "default": 253}
SETUP = """
route add 198.51.100.0/24 via 192.0.2.7 dev up0 src 192.0.2.2 metric 40 mtu 1300
route add blackhole 203.0.113.0/24
route add prohibit 203.0.113.7
route add throw 203.0.113.8 table 52
route add unreachable 203.0.113.9 tos 8
route add 198.51.100.9 dev up0 table 51820
route add 198.51.100.128/25 nexthop via 192.0.2.7 dev up0 weight 3 nexthop via 192.0.2.8 dev up0 onlink
nexthop add id 7 via 192.0.2.9 dev up0
route add 198.18.0.0/24 nhid 7
route add 198.18.1.0/24 via inet6 2001:db8::7 dev up0
rule add fwmark 0xca6c table 51820
rule add not fwmark 0xca6c from 192.0.2.0/24 iif up0 table 52
rule add fwmark 0/0xf0 to 203.0.113.0/24 uidrange 5-7 ipproto 6 dport 80-90 sport 1024 oif up0 tos 4 pref 9 prohibit
rule add priority 10 goto 32766
rule add priority 11 nop
rule add table main suppress_prefixlength 0 suppress_ifgroup 3
"""
SETUP6 = """
route add 2001:db8:1::/64 via 2001:db8::7 dev up0 metric 50
route add 2001:db8:2::/64 from 2001:db8:3::/64 dev up0
route add unreachable 2001:db8:4::/64
rule add not fwmark 0xca6c table 51820
rule add table main suppress_prefixlength 0
"""


@pytest.fixture
def configured(machine: Namespace) -> Namespace:
    machine.run(["ip", "-4", "-batch", "-"], input=SETUP.lstrip())
    machine.run(["ip", "-6", "-batch", "-"], input=SETUP6.lstrip())
    return machine


def read(what: str, *arguments: Any) -> Any:
    with Routing() as routing:
        return getattr(routing, what)(*arguments)


def shown(machine: Namespace, family: int, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(machine.out("ip", f"-{family}", "-j", "-d", "-N", *words))
    return found


def table(entry: dict[str, Any]) -> int:
    return TABLES.get(entry.get("table", "main")) or int(entry["table"])


def kind_of(entry: dict[str, Any]) -> str:
    kind = str(entry.get("type", "unicast"))
    return KINDS[int(kind)] if kind.isdigit() else kind


def gateway_of(entry: dict[str, Any]) -> str:
    return str(entry.get("gateway") or entry.get("via", {}).get("host", ""))


def entry_text(entry: dict[str, Any], family: int) -> str:
    """An entry of `ip -j -d -N route` in the form of `our_text`."""
    hops = entry.get("nexthops") or [entry]
    ways = [f"{gateway_of(hop)}@{hop.get('dev', '')}*{hop.get('weight', 1)}" for hop in hops]
    prefix = entry["dst"]
    values = [kind_of(entry), prefix, str(table(entry)), str(entry.get("metric", 0)), entry.get("prefsrc", "")]
    mtu = str(entry.get("metrics", [{}])[0].get("mtu", ""))
    source = entry.get("from", "") or ""
    tos = str(int(str(entry.get("tos", "0")), 0))
    return " ".join([*values, mtu, source, tos, *([] if ways == ["@*1"] else ways)])


def our_text(route: TableRoute) -> str:
    ways = [
        f"{address_text(hop.gateway) if hop.gateway else ''}@{hop.link}*{hop.weight}"
        for hop in route.hops
        if route.kind not in ("blackhole", "unreachable", "prohibit", "throw") or hop.link != "lo"
    ]
    source = address_text(route.source) if route.source else ""
    origin = text_of(route.origin) if route.origin else ""
    values = [route.kind, text_of(route.destination), str(route.table), str(route.metric), source]
    return " ".join([*values, str(route.mtu or ""), origin, str(route.tos), *ways])


@pytest.mark.parametrize("family", [4, 6])
def test_all_routes_equal_those_of_ip(configured: Namespace, family: int) -> None:
    listed = [entry_text(entry, family) for entry in shown(configured, family, "route", "show", "table", "all")]
    listed = [text.removesuffix(" @lo*1") if " unreachable " in f" {text}" else text for text in listed]
    assert len(listed) > 5
    assert sorted(map(our_text, configured.call(read, "routes", family))) == sorted(listed)


@pytest.mark.parametrize("family", [4, 6])
def test_all_rules_equal_those_of_ip_in_the_same_order(configured: Namespace, family: int) -> None:
    listed = configured.out("ip", f"-{family}", "rule").splitlines()
    names = {number: name for name, number in TABLES.items()}
    found = [f"{rule.priority}:\t{rule_text(rule, names)}" for rule in configured.call(read, "rules", family)]
    # A machine without /etc/protocols has no name for protocol 6.
    assert found == [line.strip().replace("ipproto ipproto-6", "ipproto tcp") for line in listed]


def test_a_rule_has_all_its_attributes(configured: Namespace) -> None:
    rules = {rule.priority: rule for rule in configured.call(read, "rules", 4)}
    assert rules[9] == PolicyRule(
        9,
        "prohibit",
        destination=Prefix.parse("203.0.113.0/24"),
        output_link="up0",
        fwmask=0xF0,
        tos=4,
        tos_mask=0xFC,
        uids=(5, 7),
        protocol=6,
        source_ports=Ports(1024, 1024),
        destination_ports=Ports(80, 90),
    )
    assert rules[10] == PolicyRule(10, "goto", target=32766)


@pytest.mark.parametrize(
    ("address", "options", "words"),
    [
        ("198.51.100.9", {}, []),
        ("198.51.100.9", {"mark": 51820}, ["mark", "51820"]),
        ("198.51.100.9", {"source": pack_address("192.0.2.2")}, ["from", "192.0.2.2"]),
        ("198.51.100.9", {"protocol": UDP, "destination_port": 53, "uid": 6}, ["ipproto", "17", "dport", "53"]),
        ("192.0.2.2", {}, []),
        ("8.8.8.8", {}, []),
        ("198.18.1.1", {}, []),
        ("2001:db8:1::9", {}, []),
    ],
)
def test_a_lookup_equals_that_of_ip(
    configured: Namespace, address: str, options: dict[str, Any], words: list[str]
) -> None:
    family = 6 if ":" in address else 4
    query = Query(pack_address(address), **options)
    found: Answer = configured.call(read, "ask", query)
    (entry,) = shown(configured, family, "route", "get", address, *words)
    gateway = gateway_of(entry)
    assert found == Answer(
        0,
        kind_of(entry),
        table(entry),
        entry["dev"],
        pack_address(gateway) if gateway else None,
        pack_address(entry["prefsrc"]) if "prefsrc" in entry else None,
        entry.get("metrics", [{}])[0].get("mtu"),
    )


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("203.0.113.1", errno.EINVAL),
        ("203.0.113.7", errno.EACCES),
        ("2001:db8:4::1", errno.EHOSTUNREACH),
    ],
)
def test_a_lookup_without_a_route_has_the_kernels_error(configured: Namespace, address: str, code: int) -> None:
    assert configured.call(read, "ask", Query(pack_address(address))).error == code


def test_a_nexthop_object_is_read_with_its_hops(configured: Namespace) -> None:
    wanted = Prefix.parse("198.18.0.0/24")
    (route,) = (route for route in configured.call(read, "routes", 4) if route.destination == wanted)
    assert (route.nexthop, route.hops) == (7, (NextHop("up0", pack_address("192.0.2.9")),))


def test_a_lookup_sends_the_uid_and_the_ports(configured: Namespace) -> None:
    configured.run(shlex.split("ip rule add pref 3 uidrange 7-7 dport 9 ipproto 17 prohibit"))
    query = Query(pack_address("8.8.8.8"), uid=7, protocol=UDP, destination_port=9)
    assert configured.call(read, "ask", query).error == errno.EACCES
    for other in (query._replace(uid=8), query._replace(destination_port=10), query._replace(protocol=6)):
        assert configured.call(read, "ask", other).error == 0
