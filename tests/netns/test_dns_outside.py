"""Lookups beside a dead tunnel: wgq asks the uplinks' servers, with marked packets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.netns import name_server
from tests.netns.pair import Pair, pair
from tests.netns.tunnels import wgq
from tests.resolvers import resolved
from wgquick.system.dns import outside
from wgquick.system.dns.query import Server, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

RECORDS = {
    "both_example": "192.0.2.7 192.0.2.8 2001:db8::7",
    "four_example": "192.0.2.7",
    "long_example": "long 192.0.2.7 2001:db8::7",
    "alias_example": "alias 192.0.2.9",
    "none_example": "nxdomain",
    "broken_example": "servfail",
    "silent_example": "silent",
}
SERVERS = (Server("192.0.2.2"),)


@pytest.fixture(scope="module")
def ends() -> Iterator[Pair]:
    """Two machines; the second one is the first one's name server."""
    with pair() as made:
        name_server.start(made.two, "192.0.2.2", **RECORDS)
        yield made


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("both.example", ["2001:db8::7", "192.0.2.7", "192.0.2.8"]),
        ("BOTH.example.", ["2001:db8::7", "192.0.2.7", "192.0.2.8"]),
        ("four.example", ["192.0.2.7"]),
        ("long.example", ["2001:db8::7", "192.0.2.7"]),
        ("alias.example", ["192.0.2.9"]),
        ("none.example", []),
        ("broken.example", []),
        ("silent.example", []),
        ("a..example", []),
        (f"{'a' * 64}.example", []),
        (".".join(["a" * 63] * 4), []),
    ],
)
def test_a_name_resolves_to_all_its_addresses(ends: Pair, name: str, found: list[str]) -> None:
    patience = 2.5 if name.startswith("silent") else 60.0
    assert ends.one.call(ask, name, SERVERS, 0, patience) == found


def test_the_next_server_is_asked_if_the_first_is_gone(ends: Pair) -> None:
    absent, closed = Server("192.0.2.99"), Server("192.0.2.1")
    for servers in ((absent, *SERVERS), (closed, *SERVERS), (Server("2001:db8::1"), *SERVERS)):
        assert ends.one.call(ask, "four.example", servers, 0, 60.0) == ["192.0.2.7"]


def test_the_servers_come_from_the_file_of_before_the_tunnel(ends: Pair) -> None:
    ends.one.run(["sh", "-c", "echo 'nameserver 192.0.2.2\nnameserver 127.0.0.1' >/etc/resolv.conf"])
    ends.write(interface="DNS = 10.7.0.53")
    wgq(ends.one, "up", "wg0", "--dns", "file")
    try:
        assert ends.one.call(outside.servers, ["wg0"], ["10.7.0.53"]) == SERVERS
    finally:
        wgq(ends.one, "down", "wg0")


def test_the_servers_of_resolvconf_come_from_other_links(ends: Pair) -> None:
    script = """
        mkdir -p /run/resolvconf/interface
        echo nameserver 192.0.2.2 >/run/resolvconf/interface/eth0.dhcp
        echo nameserver 10.7.0.53 >/run/resolvconf/interface/tun.wg0
        echo nameserver 10.7.0.53 >/etc/resolv.conf
    """
    ends.one.run(["sh", "-c", script])
    assert ends.one.call(outside.servers, ["wg0"], ["10.7.0.53"]) == SERVERS


def _set_link_dns(machine: Namespace, link: str, server: str) -> None:
    from wgquick.system.dns import LinkDns
    from wgquick.system.dns.resolved import Resolved

    machine.call(Resolved().set, link, LinkDns((server,), (), False))


def test_the_servers_of_resolved_come_from_other_links() -> None:
    with resolved() as machine:
        machine.uplink()
        machine.run(["sh", "-c", "ip link add wg0 type veth peer name wg1; ip link set wg0 up; ip link set wg1 up"])
        _set_link_dns(machine, "up0", "192.0.2.53")
        _set_link_dns(machine, "wg0", "10.7.0.53")
        found = machine.call(outside.servers, ["wg0"], ["10.7.0.53"])
        assert Server("192.0.2.53") in found
        assert Server("10.7.0.53") not in found
