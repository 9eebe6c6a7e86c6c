"""Desired and current state: after `up` they agree, and a snapshot shows each change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.netns.tunnels import FULL, config, wgq, write
from wgquick import api
from wgquick.executor import snapshot
from wgquick.net import AllowedIP, Prefix
from wgquick.options import Options
from wgquick.plan.desired import desired
from wgquick.system.host import LocalHost

if TYPE_CHECKING:
    from tests.namespaces import Namespace
    from wgquick.net import Link
    from wgquick.plan.current import Current
    from wgquick.plan.desired import Desired

OPTIONS = Options(dns="file")


def ignore(_text: str) -> None:
    pass


def taken(machine: Namespace, name: str = "wg0") -> tuple[Current, Desired]:
    """The snapshot, and the desired state for this host."""
    with machine.entered():
        host = LocalHost(ignore)
        settings = api.load(name)
        now = snapshot.current(name, host, OPTIONS)
        return now, desired(settings, snapshot.facts(settings, now, host, OPTIONS))


TUNNELS = {
    "of one network": config(),
    "of both families": config("DNS = 10.0.0.53, example", FULL, address="10.0.0.1/24, fd00::1/64"),
    "of IPv6 with its own mark": config("FwMark = 77", "AllowedIPs = ::/0, 10.8.0.0/16", address="fd00::1/64"),
    "with a table": config("Table = 1234\nMTU = 1300", "AllowedIPs = 0.0.0.0/0, fd01::/64", address="10.0.0.1/24"),
    "without routes": config("Table = off", FULL),
}


@pytest.mark.parametrize("text", TUNNELS.values(), ids=TUNNELS)
def test_after_up_the_current_state_equals_the_desired_one(machine: Namespace, text: str) -> None:
    write(machine, text)
    wgq(machine, "up", "wg0", "--dns", "file")
    now, wanted = taken(machine)
    assert now.link is not None
    assert now.device is not None
    own = [address.prefix for address in now.addresses if not address.is_link_local]
    assert own == [Prefix(address.address, address.length) for address in wanted.addresses]
    plain = {(route.destination, route.table) for route in now.routes if route.is_plain}
    assert plain == {(route.destination, route.table) for route in wanted.routes}
    rules = {rule._replace(priority=None) for family in (4, 6) for rule in now.default_rules(family)}
    assert rules == set(wanted.rules)
    assert {family for family in (4, 6) if now.is_full(family)} == wanted.full
    assert sorted(now.firewall) == sorted(wanted.firewall)
    assert wanted.mtu == now.link.mtu
    assert now.dns[1:3] == wanted.dns[1:3]
    assert (now.src_valid_mark == "1") >= wanted.src_valid_mark
    assert wanted.fwmark in (None, now.device.fwmark)
    assert set(wanted.peers) == {peer.public_key for peer in now.device.peers}


def test_a_snapshot_has_all_attributes_of_routes_and_addresses(machine: Namespace) -> None:
    write(machine, config(address="10.0.0.1/24, 10.0.0.2/24"))
    wgq(machine, "up", "wg0")
    commands = (
        "route add 10.8.0.0/16 dev wg0 metric 7 mtu 1300 table 99",
        "route add 10.7.0.0/16 via 10.0.0.9 src 10.0.0.2",
        "route add unreachable 10.6.0.0/16",
        "address add 10.5.0.1 peer 10.5.0.2/32 dev wg0",
    )
    for command in commands:
        machine.run(["ip", *command.split()])
    now, _ = taken(machine)
    found = {str(route.destination): route for route in now.routes}
    assert (found["10.8.0.0/16"].table, found["10.8.0.0/16"].metric, found["10.8.0.0/16"].mtu) == (99, 7, 1300)
    assert (found["10.7.0.0/16"].gateway, found["10.7.0.0/16"].source) == (b"\x0a\0\0\x09", b"\x0a\0\0\x02")
    assert [str(route.destination) for route in now.routes if route.is_plain] == ["10.9.0.0/16"]
    assert "10.6.0.0/16" not in found
    assert [(str(a.prefix), a.is_secondary) for a in now.addresses if a.prefix.family == 4 and not a.far] == [
        ("10.0.0.1/24", False),
        ("10.0.0.2/24", True),
    ]
    assert next(address.far for address in now.addresses if address.far) == b"\x0a\x05\0\x02"


def test_the_automatic_mtu_is_not_measured_through_the_tunnel(machine: Namespace) -> None:
    machine.run(["ip", "link", "set", "up0", "mtu", "1400"])
    write(machine, config(peer=FULL).replace("192.0.2.9", "198.51.100.9"))
    wgq(machine, "up", "wg0")
    assert taken(machine)[1].mtu == 1320
    machine.run(["wg", "set", "wg0", "fwmark", "0"])
    assert taken(machine)[1].mtu is None


def test_a_missing_interface_has_neither_link_nor_device(machine: Namespace) -> None:
    write(machine, config())
    now, wanted = taken(machine)
    assert (now.link, now.device, now.addresses, now.routes, now.firewall) == (None, None, (), (), ())
    assert [str(route.destination) for route in wanted.routes] == ["10.9.0.0/16"]


def _changed() -> tuple[list[str], list[str], Link | None]:
    from wgquick.net import Route

    rtnl = LocalHost(ignore).rtnl
    rtnl.add_addresses("wg0", [Prefix.parse("10.3.0.1/24")])
    rtnl.delete_addresses("wg0", [Prefix.parse("10.0.0.1/24")])
    routes = [Route(Prefix.parse(text), "wg0", table) for text, table in (("10.4.0.0/16", 99), ("fd04::/64", 254))]
    rtnl.add_routes([*routes, Route(Prefix.parse("10.5.0.0/16"), "wg0")])
    rtnl.delete_routes(routes)
    rtnl.set_link("wg0", mtu=1300, up=False)
    addresses = [str(address.prefix) for address in rtnl.link_addresses("wg0") if not address.is_link_local]
    return addresses, [str(r.destination) for r in rtnl.link_routes("wg0") if r.is_plain], rtnl.link("wg0")


def test_only_the_given_addresses_and_routes_are_deleted(machine: Namespace) -> None:
    write(machine, config(peer="", address="10.0.0.1/24"))
    wgq(machine, "up", "wg0")
    addresses, routes, link = machine.call(_changed)
    assert (addresses, routes) == (["10.3.0.1/24"], ["10.5.0.0/16"])
    assert link is not None
    assert (link.mtu, link.up) == (1300, True)


def test_deleting_a_route_spares_the_kernels_own(machine: Namespace) -> None:
    """`ip -6 route delete PREFIX dev LINK` may delete the connected route."""
    write(machine, config(peer="", address="fd00::1/64"))
    wgq(machine, "up", "wg0")

    def delete() -> int:
        from wgquick.errors import BatchError
        from wgquick.net import Route

        try:
            LocalHost(ignore).rtnl.delete_routes([Route(Prefix.parse("fd00::/64"), "wg0")])
        except BatchError as error:
            return error.failures[0][1]
        return 0

    assert machine.call(delete) == 3  # ESRCH
    assert "fd00::/64 proto kernel" in machine.out("ip", "-6", "route", "show", "dev", "wg0")


def test_the_allowed_ips_of_a_file_are_those_of_its_merged_peers() -> None:
    from wgquick.config.document import Document
    from wgquick.config.parser import parse
    from wgquick.plan.desired import allowed_ips

    text = config(peer="AllowedIPs = 10.9.0.0/16, +10.8.0.0/16, -10.9.0.0/16") + "AllowedIPs = 10.7.0.9/16\n"
    found = allowed_ips(parse(Document.parse(text.encode()), "wg0"))
    assert found == (AllowedIP(b"\x0a\x08\0\0", 16), AllowedIP(b"\x0a\x07\0\0", 16))
