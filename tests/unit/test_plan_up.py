"""The decisions of cmd_up, stage by stage, as data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from wgquick.config.settings import Address, PeerSettings, Settings
from wgquick.device import DeviceConfig
from wgquick.errors import WgqError
from wgquick.net import AllowedIP, Endpoint, Prefix, PublicKey, Rule, SocketAddress, pack_address
from wgquick.plan import up
from wgquick.plan.facts import DefaultFacts, EndpointFacts, MtuFacts, RouteFacts
from wgquick.plan.steps import AddRule, Note, SetDevice, SetDns, SetMtuUp, SetSysctl, Step, hooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.ports import Host

KEY = PublicKey(bytes(range(32)))
HOST_RULES = tuple(
    Rule(family, table, priority, other=True)
    for family, rules in ((4, ((255, 0), (254, 32766), (253, 32767))), (6, ((255, 0), (254, 32766))))
    for table, priority in rules
)


def ip(text: str) -> AllowedIP:
    address, _, length = text.partition("/")
    return AllowedIP(pack_address(address), int(length))


def address(text: str) -> Address:
    prefix = Prefix.parse(text)
    return Address(prefix.address, prefix.length, text)


class _Silent:
    """In place of DNS and firewalls: their lines are not compared here."""

    def __getattr__(self, _name: str) -> Callable[..., tuple[str, ...]]:
        return lambda *_: ()


HOST = cast("Host", SimpleNamespace(dns=_Silent(), firewall=_Silent()))


def transcript(steps: tuple[Step, ...]) -> list[str]:
    return [line for step in steps for line in step.lines(HOST)]


def full_tunnel(**facts: object) -> list[str]:
    default = DefaultFacts(rules=HOST_RULES, src_valid_mark="0")._replace(**facts)  # type: ignore[arg-type]
    wanted = (ip("0.0.0.0/0"), ip("::/0"))
    return transcript(up.add_routes(Settings("wg0"), RouteFacts(wanted, default=default)))


def test_routes_go_longest_prefix_first() -> None:
    wanted = tuple(map(ip, ("10.0.0.0/8", "10.2.0.0/16", "fd00::/64", "10.10.0.0/16", "9.0.0.0/8", "10.1.1.1/32")))
    assert [str(entry) for entry in up.route_order(wanted)] == [
        "fd00::/64",
        "10.1.1.1/32",
        "10.2.0.0/16",
        "10.10.0.0/16",
        "9.0.0.0/8",
        "10.0.0.0/8",
    ]


def test_a_route_that_the_link_already_covers_is_left_out() -> None:
    facts = RouteFacts(tuple(map(ip, ("10.0.0.5/32", "10.0.1.0/24"))), (Prefix.parse("10.0.0.0/24"),))
    assert transcript(up.add_routes(Settings("wg0"), facts)) == ["[#] ip -4 route add 10.0.1.0/24 dev wg0"]


def test_a_given_table_takes_every_route() -> None:
    facts = RouteFacts((ip("0.0.0.0/0"), ip("10.0.0.5/32")), (Prefix.parse("10.0.0.0/24"),), table=77)
    assert transcript(up.add_routes(Settings("wg0", table="blue"), facts)) == [
        "[#] ip -4 route add 10.0.0.5/32 dev wg0 table blue",
        "[#] ip -4 route add 0.0.0.0/0 dev wg0 table blue",
    ]


def test_table_off_adds_no_route() -> None:
    assert up.add_routes(Settings("wg0", table="off"), RouteFacts((ip("10.0.0.0/8"),))) == ()


def test_a_full_tunnel_has_the_transcript_of_wg_quick() -> None:
    """IPv6 comes first."""
    assert full_tunnel() == [
        "[#] wg set wg0 fwmark 51820",
        "[#] ip -6 rule add not fwmark 51820 table 51820",
        "[#] ip -6 rule add table main suppress_prefixlength 0",
        "[#] ip -6 route add ::/0 dev wg0 table 51820",
        "[#] ip -4 rule add not fwmark 51820 table 51820",
        "[#] ip -4 rule add table main suppress_prefixlength 0",
        "[#] ip -4 route add 0.0.0.0/0 dev wg0 table 51820",
        "[#] sysctl -q net.ipv4.conf.all.src_valid_mark=1",
    ]


def test_a_fwmark_of_the_device_is_the_table() -> None:
    lines = full_tunnel(fwmark=0x1234)
    assert lines[0] == "[#] ip -6 rule add not fwmark 4660 table 4660"


def test_rules_get_the_priorities_that_the_kernel_would_choose() -> None:
    default = DefaultFacts(rules=HOST_RULES, src_valid_mark="1")
    steps = up.add_routes(Settings("wg0"), RouteFacts((ip("0.0.0.0/0"),), default=default))
    assert [s.rule.priority for s in steps if isinstance(s, AddRule)] == [32765, 32764]


def test_a_correct_src_valid_mark_is_not_written() -> None:
    assert not any("sysctl" in line for line in full_tunnel(src_valid_mark="1"))


def test_an_earlier_tunnels_src_valid_mark_is_held_silently() -> None:
    default = DefaultFacts(rules=HOST_RULES, src_valid_mark="1", src_valid_mark_earlier="0")
    steps = up.add_routes(Settings("wg0"), RouteFacts((ip("0.0.0.0/0"),), default=default))
    assert SetSysctl(up.SRC_VALID_MARK, "1", "0", held=True) in steps
    assert not any("sysctl" in line for line in transcript(steps))


def test_a_read_only_proc_sys_gives_a_warning() -> None:
    assert any(
        line.startswith("[!]") and "rp_filter" in line for line in full_tunnel(src_valid_mark_writable=False)
    )


def test_a_hidden_proc_sys_gives_a_warning() -> None:
    (note,) = [
        line for line in full_tunnel(src_valid_mark=None, src_valid_mark_writable=False) if line.startswith("[!]")
    ]
    assert "cannot be read" in note
    assert "rp_filter" in note


def test_a_read_only_proc_sys_is_fatal_when_strict() -> None:
    facts = RouteFacts((ip("0.0.0.0/0"),), default=DefaultFacts(src_valid_mark="0", src_valid_mark_writable=False))
    with pytest.raises(WgqError, match="read-only"):
        up.add_routes(Settings("wg0"), facts, strict=True)


def test_without_ipv6_its_addresses_and_routes_are_left_out() -> None:
    settings = Settings("wg0", addresses=(address("fd00::1/64"), address("10.0.0.1/24"), address("fd01::1/64")))
    steps = up.add_addr(settings, ipv6=False, strict=False)
    assert [type(step) for step in steps].count(Note) == 1
    assert transcript(steps)[1:] == ["[#] ip -4 address add 10.0.0.1/24 dev wg0"]
    assert up.add_routes(settings, RouteFacts((ip("fd02::/64"),), ipv6=False)) == ()


def test_without_ipv6_a_configuration_of_ipv4_gets_no_note() -> None:
    settings = Settings("wg0", addresses=(address("10.0.0.1/24"),))
    assert transcript(up.add_addr(settings, ipv6=False, strict=True)) == [
        "[#] ip -4 address add 10.0.0.1/24 dev wg0"
    ]


def test_without_ipv6_strict_fails() -> None:
    with pytest.raises(WgqError, match="IPv6 is disabled"):
        up.add_addr(Settings("wg0", addresses=(address("fd00::1/64"),)), ipv6=False, strict=True)


@pytest.mark.parametrize(
    ("settings", "facts", "mtu"),
    [
        (Settings("wg0", mtu=1280), MtuFacts((1500,)), 1280),
        (Settings("wg0"), MtuFacts((1500, 1400)), 1320),
        (Settings("wg0"), MtuFacts((), 9000), 8920),
        (Settings("wg0"), MtuFacts(), 1420),
    ],
)
def test_the_mtu_is_the_smallest_path_less_80(settings: Settings, facts: MtuFacts, mtu: int) -> None:
    assert up.set_mtu(settings, facts) == (SetMtuUp("wg0", mtu),)


def test_search_domains_alone_set_no_dns() -> None:
    (note,) = up.set_dns(Settings("wg0", dns_search=("corp",)), "off", ())
    assert note == Note("DNS has no server address: corp alone has no effect")


def test_dns_of_a_full_tunnel_gets_all_queries() -> None:
    settings = Settings("wg0", dns=("1.1.1.1",), dns_search=("corp",))
    assert up.set_dns(settings, "resolved", (ip("0.0.0.0/0"),)) == (
        SetDns("wg0", "resolved", ("1.1.1.1",), ("corp",), True),
    )


def test_every_percent_i_of_a_hook_is_replaced() -> None:
    assert transcript(hooks(Settings("wg0", post_up=("echo %i %i%%i",)), "PostUp")) == ["[#] echo wg0 wg0%wg0"]


def test_the_device_gets_the_resolved_endpoints() -> None:
    endpoint, resolved = Endpoint("vpn.example", "51820"), SocketAddress("192.0.2.1", 51820)
    settings = Settings("wg0", peers=(PeerSettings(KEY, endpoint=endpoint),))
    (step,) = up.set_config(settings, EndpointFacts({endpoint: resolved}))
    assert isinstance(step, SetDevice)
    assert isinstance(step.config, DeviceConfig)
    assert step.config.peers[0].endpoint == resolved
