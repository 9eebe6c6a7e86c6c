"""The packet that `wgq trace` follows, from its arguments."""

from __future__ import annotations

import pytest

from wgquick.cli.packet import query_of
from wgquick.errors import WgqError
from wgquick.net import pack_address
from wgquick.routing import ICMP, ICMPV6, TCP, UDP


def test_the_default_packet_is_an_echo_request() -> None:
    assert query_of("192.0.2.1", {}).protocol == ICMP
    assert query_of("2001:db8::1", {}).protocol == ICMPV6
    assert query_of("192.0.2.1", {}).source is None


@pytest.mark.parametrize(
    ("text", "protocol", "port"),
    [("tcp/443", TCP, 443), ("udp/53", UDP, 53), ("443", TCP, 443), ("UDP/65535", UDP, 65535), ("icmp", ICMP, 0)],
)
def test_a_port_may_have_a_protocol(text: str, protocol: int, port: int) -> None:
    query = query_of("192.0.2.1", {"port": text})
    assert (query.protocol, query.destination_port) == (protocol, port)


@pytest.mark.parametrize(
    ("text", "mark"), [("51820", 51820), ("0xca6c", 51820), ("0xffffffff", 0xFFFFFFFF), ("0", 0)]
)
def test_a_mark_is_decimal_or_hexadecimal(text: str, mark: int) -> None:
    assert query_of("192.0.2.1", {"mark": text}).mark == mark


def test_a_zone_gives_the_output_link() -> None:
    query = query_of("fe80::1%eth0", {})
    assert (query.destination, query.output_link) == (pack_address("fe80::1"), "eth0")


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("vpn.example.com", {}, "the destination `vpn.example.com' is not an IP address"),
        ("", {}, "is not an IP address"),
        ("10.0.0.1/24", {}, "is not an IP address"),
        ("10.0.0.1\n", {}, "is not an IP address"),
        ("10.0.0.\ud800", {}, "is not an IP address"),
        ("10.0.0.1", {"from": "host"}, "--from `host' is not an IP address"),
        ("10.0.0.1", {"from": "2001:db8::1"}, "--from is not an IPv4 address"),
        ("10.0.0.1", {"mark": "-1"}, "--mark `-1' is not a number"),
        ("10.0.0.1", {"mark": "0x100000000"}, "is not a number"),
        ("10.0.0.1", {"mark": "mark"}, "is not a number"),
        ("10.0.0.1", {"uid": "nosuchuser"}, "is not a user"),
        ("10.0.0.1", {"uid": "4294967295"}, "is not a user"),
        ("10.0.0.1", {"port": "tcp/0"}, "is not a port"),
        ("10.0.0.1", {"port": "tcp/65536"}, "is not a port"),
        ("10.0.0.1", {"port": "tcp/"}, "is not a port"),
        ("10.0.0.1", {"port": "sctp/1"}, "is not a port"),
        ("10.0.0.1", {"port": "tcp/\ud800"}, "is not a port"),
        ("fe80::1%eth0", {"oif": "eth1"}, "is on eth0, but --oif is eth1"),
    ],
)
def test_an_invalid_argument_is_refused_with_a_message(target: str, given: dict[str, str], message: str) -> None:
    with pytest.raises(WgqError) as refusal:
        query_of(target, given)
    assert message in str(refusal.value)
