"""Our rtnetlink bytes compared with pyroute2's, encoded and decoded."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from wgquick.net import Link, Prefix, Rule
from wgquick.system.netlink import codec, rtnl_codec

REQUEST, EXCL, CREATE = 1, 0x200, 0x400


def encoded(kind: type, fields: dict[str, Any], attributes: list[Any], message_type: int, flags: int) -> bytes:
    """pyroute2's encoding of the same fields, with the header that we write."""
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message["header"]["type"] = message_type
    message["header"]["flags"] = flags
    message["header"]["sequence_number"] = 0
    message["header"]["pid"] = 0
    message.encode()
    return bytes(message.data)


def decoded(kind: type, data: bytes) -> Any:
    message = kind(data)
    message.decode()
    return message


def received(data: bytes) -> codec.Message:
    (message,) = codec.messages(data)
    return message


def test_link_add_has_the_wireguard_kind() -> None:
    message = decoded(ifinfmsg, rtnl_codec.link_add("wg0"))
    assert message["header"]["flags"] == REQUEST | EXCL | CREATE
    assert message["header"]["type"] == rtnl_codec.RTM_NEWLINK
    assert message.get_attr("IFLA_IFNAME") == "wg0"
    assert message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "wireguard"


def test_link_add_equals_the_bytes_of_ip() -> None:
    body = rtnl_codec.link_add("wg0")[16:]
    assert body == bytes(16) + (b"\x08\0\x03\0wg0\0" + b"\x14\0\x12\0" + b"\x0d\0\x01\0wireguard\0\0\0"), (
        "the bytes of `ip link add dev wg0 type wireguard` on a little-endian machine"
    )


@pytest.mark.parametrize(("mtu", "up"), [(1420, True), (None, True), (9000, False)])
def test_link_set_changes_only_mtu_and_state(mtu: int | None, up: bool) -> None:
    message = decoded(ifinfmsg, rtnl_codec.link_set("wg0", mtu, up))
    assert message.get_attr("IFLA_MTU") == mtu
    assert (message["flags"], message["change"]) == ((1, 1) if up else (0, 0))
    assert message["header"]["flags"] == REQUEST
    assert {name for name, _ in message["attrs"]} <= {"IFLA_MTU", "IFLA_IFNAME"}


def test_link_delete_names_the_link() -> None:
    message = decoded(ifinfmsg, rtnl_codec.link_delete("wg0"))
    assert message["header"]["type"] == rtnl_codec.RTM_DELLINK
    assert dict(message["attrs"]) == {"IFLA_IFNAME": "wg0"}


@pytest.mark.parametrize(
    ("text", "scope"),
    [("10.0.0.1/24", 0), ("127.0.0.5/8", 254), ("10.9.9.9/32", 0), ("fd00::1/64", 0), ("::1/128", 0)],
)
def test_address_add_equals_pyroute2s(text: str, scope: int) -> None:
    prefix = Prefix.parse(text)
    host = text.partition("/")[0]
    fields = {"family": 2 if prefix.family == 4 else 10, "prefixlen": prefix.length, "scope": scope, "index": 7}
    attributes = [("IFA_LOCAL", host), ("IFA_ADDRESS", host)]
    expected = encoded(ifaddrmsg, fields, attributes, 20, REQUEST | EXCL | CREATE)
    assert rtnl_codec.address_add(prefix, 7) == expected


@pytest.mark.parametrize("text", ["10.5.0.0/16", "0.0.0.0/0", "192.0.2.7/32", "fd05::/64", "::/0"])
@pytest.mark.parametrize("table", [254, 5, 256, 51820, 4294967295])
def test_route_add_equals_pyroute2s(text: str, table: int) -> None:
    prefix = Prefix.parse(text)
    four = prefix.family == 4
    fields = {
        "family": 2 if four else 10,
        "dst_len": prefix.length,
        "table": table if table < 256 else 0,
        "proto": 3,
        "scope": 253 if four else 0,
        "type": 1,
    }
    far = [("RTA_TABLE", table)] if table > 255 else []
    attributes = [("RTA_DST", text.partition("/")[0]), *far, ("RTA_OIF", 3)]
    expected = encoded(rtmsg, fields, attributes, 24, REQUEST | EXCL | CREATE)
    assert rtnl_codec.route_encoder(prefix.family, table, 3)(prefix, 0) == expected


def test_route_delete_has_the_protocol_and_the_rest_of_route_add() -> None:
    prefix = Prefix.parse("10.9.0.0/16")
    deleted = decoded(rtmsg, rtnl_codec.route_encoder(4, 51820, 7, "delete")(prefix, 3))
    added = decoded(rtmsg, rtnl_codec.route_encoder(4, 51820, 7)(prefix, 3))
    assert (deleted["header"]["type"], deleted["header"]["flags"]) == (rtnl_codec.RTM_DELROUTE, REQUEST)
    assert (deleted["proto"], added["proto"]) == (3, 3)
    for name in ("RTA_DST", "RTA_OIF", "RTA_TABLE"):
        assert deleted.get_attr(name) == added.get_attr(name) is not None


@pytest.mark.parametrize("text", ["10.0.0.1/24", "fd00::1/64"])
def test_address_delete_names_address_and_length(text: str) -> None:
    prefix = Prefix.parse(text)
    found = decoded(ifaddrmsg, rtnl_codec.address_delete(prefix, 7))
    assert (found["header"]["type"], found["header"]["flags"]) == (rtnl_codec.RTM_DELADDR, REQUEST)
    assert (found["prefixlen"], found["index"], f"{found.get_attr('IFA_LOCAL')}/{prefix.length}") == (
        prefix.length,
        7,
        text,
    )


def test_a_route_lookup_may_have_a_mark() -> None:
    assert decoded(rtmsg, rtnl_codec.route_get(bytes(4), 51820)).get_attr("RTA_MARK") == 51820
    assert decoded(rtmsg, rtnl_codec.route_get(bytes(4))).get_attr("RTA_MARK") is None


def test_route_encoder_numbers_each_message() -> None:
    encode = rtnl_codec.route_encoder(4, 254, 3)
    messages = [received(encode(Prefix.parse(f"10.{n}.0.0/16"), 1000 + n)) for n in range(3)]
    assert [message.sequence for message in messages] == [1000, 1001, 1002]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("priority", [None, 32000])
def test_rule_add_of_the_table_equals_pyroute2s(family: int, priority: int | None) -> None:
    fields = {"family": 2 if family == 4 else 10, "action": 1, "flags": 2}
    priority_attribute = [] if priority is None else [("FRA_PRIORITY", priority)]
    attributes = [*priority_attribute, ("FRA_FWMARK", 51820), ("FRA_PROTOCOL", 2), ("FRA_TABLE", 51820)]
    expected = encoded(fibmsg, fields, attributes, 32, REQUEST | EXCL | CREATE)
    assert rtnl_codec.rule_add(Rule(family, 51820, priority, fwmark=51820)) == expected


@pytest.mark.parametrize("family", [4, 6])
def test_rule_add_of_the_suppression_equals_pyroute2s(family: int) -> None:
    fields = {"family": 2 if family == 4 else 10, "action": 1, "table": 254}
    attributes = [("FRA_SUPPRESS_PREFIXLEN", 0), ("FRA_PROTOCOL", 2)]
    expected = encoded(fibmsg, fields, attributes, 32, REQUEST | EXCL | CREATE)
    assert rtnl_codec.rule_add(Rule(family, 254, suppress_prefixlength=0)) == expected


def test_rule_delete_gives_every_field() -> None:
    message = decoded(fibmsg, rtnl_codec.rule_delete(Rule(4, 51820, 32765, fwmark=7)))
    assert message["header"]["type"] == rtnl_codec.RTM_DELRULE
    assert (message["flags"], message["action"]) == (2, 1)
    assert dict(message["attrs"]) == {
        "FRA_PRIORITY": 32765,
        "FRA_FWMARK": 7,
        "FRA_FWMASK": 0xFFFFFFFF,
        "FRA_TABLE": 51820,
    }


def test_a_link_is_read_from_pyroute2s_bytes() -> None:
    attributes = [
        ("IFLA_IFNAME", "wg0"),
        ("IFLA_MTU", 1420),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "wireguard")]}),
    ]
    data = encoded(ifinfmsg, {"index": 12, "flags": 0x10041}, attributes, 16, 0)
    assert rtnl_codec.decode_link(received(data)) == Link(12, "wg0", 1420, True, "wireguard")


def test_a_link_without_a_kind_is_read() -> None:
    data = encoded(ifinfmsg, {"index": 1}, [("IFLA_IFNAME", "lo"), ("IFLA_MTU", 65536)], 16, 0)
    assert rtnl_codec.decode_link(received(data)) == Link(1, "lo", 65536, False, "")


def test_the_local_end_of_a_point_to_point_address_is_read() -> None:
    fields = {"family": 2, "prefixlen": 32, "index": 4}
    data = encoded(ifaddrmsg, fields, [("IFA_ADDRESS", "10.0.0.2"), ("IFA_LOCAL", "10.0.0.1")], 20, 0)
    assert rtnl_codec.decode_address(received(data)) == (4, Prefix.parse("10.0.0.1/32"))
    data = encoded(ifaddrmsg, {"family": 10, "prefixlen": 64, "index": 4}, [("IFA_ADDRESS", "fd00::1")], 20, 0)
    assert rtnl_codec.decode_address(received(data)) == (4, Prefix.parse("fd00::1/64"))


@pytest.mark.parametrize(
    ("metrics", "mtu"),
    [
        ([("RTAX_MTU", 1300)], 1300),
        ([("RTAX_LOCK", 4), ("RTAX_MTU", 1300)], None),
        ([("RTAX_LOCK", 8), ("RTAX_MTU", 1300)], 1300),
        ([("RTAX_HOPLIMIT", 3)], None),
        ([], None),
    ],
)
def test_the_mtu_of_a_route_is_read_unless_locked(metrics: list[tuple[str, int]], mtu: int | None) -> None:
    attributes: list[Any] = [("RTA_DST", "10.0.0.0"), ("RTA_OIF", 3), ("RTA_TABLE", 51820)]
    attributes += [("RTA_METRICS", {"attrs": metrics})] if metrics else []
    data = encoded(rtmsg, {"family": 2, "dst_len": 8, "table": 252}, attributes, 24, 0)
    entry = rtnl_codec.decode_route(received(data))
    assert entry == rtnl_codec.RouteEntry(Prefix.parse("10.0.0.0/8"), 51820, 3, mtu, False)


@pytest.mark.parametrize(("family", "default"), [(2, "0.0.0.0/0"), (10, "::/0")])
def test_a_default_route_has_no_destination_attribute(family: int, default: str) -> None:
    data = encoded(rtmsg, {"family": family, "table": 254}, [("RTA_OIF", 3)], 24, 0)
    assert rtnl_codec.decode_route(received(data)).destination == Prefix.parse(default)


NO_SUPPRESSION = ("FRA_SUPPRESS_PREFIXLEN", 0xFFFFFFFF)
TABLE_RULE = [
    ("FRA_PRIORITY", 9),
    NO_SUPPRESSION,
    ("FRA_FWMARK", 7),
    ("FRA_FWMASK", 0xFFFFFFFF),
    ("FRA_TABLE", 600),
]


def rule(fields: dict[str, int], attributes: list[Any]) -> Rule:
    return rtnl_codec.decode_rule(
        received(encoded(fibmsg, {"family": 2, "action": 1, **fields}, attributes, 32, 0))
    )


def test_the_two_rules_of_wg_quick_are_recognised() -> None:
    assert rule({"flags": 2, "table": 252}, TABLE_RULE) == Rule(4, 600, 9, fwmark=7)
    suppression = [("FRA_PRIORITY", 8), ("FRA_SUPPRESS_PREFIXLEN", 0), ("FRA_TABLE", 254), ("FRA_PROTOCOL", 3)]
    assert rule({"table": 254}, suppression) == Rule(4, 254, 8, suppress_prefixlength=0)


@pytest.mark.parametrize(
    ("fields", "attributes"),
    [
        ({"flags": 0}, TABLE_RULE),
        ({"flags": 2, "action": 7}, TABLE_RULE),
        ({"flags": 2, "src_len": 8}, [*TABLE_RULE, ("FRA_SRC", "10.0.0.0")]),
        ({"flags": 2}, [*TABLE_RULE, ("FRA_IIFNAME", "eth0")]),
        ({"flags": 2}, [item if item[0] != "FRA_FWMASK" else ("FRA_FWMASK", 0xFF) for item in TABLE_RULE]),
        ({"table": 254}, [NO_SUPPRESSION, ("FRA_TABLE", 254)]),
        ({"table": 254}, [("FRA_SUPPRESS_PREFIXLEN", 8), ("FRA_TABLE", 254)]),
        ({"table": 100}, [("FRA_SUPPRESS_PREFIXLEN", 0), ("FRA_TABLE", 100)]),
        ({"table": 254}, [("FRA_SUPPRESS_PREFIXLEN", 0), ("FRA_TABLE", 254), ("FRA_FWMARK", 3)]),
    ],
)
def test_a_rule_with_another_selector_is_not_wg_quicks(fields: dict[str, int], attributes: list[Any]) -> None:
    assert rule(fields, attributes).other
