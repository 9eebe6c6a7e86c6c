"""RtNetlink on the kernel, compared with ip(8): the same changes, and the same reading."""

from __future__ import annotations

import errno
import functools
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import Namespace, namespace
from wgquick.errors import BatchError, OperationError
from wgquick.net import Path as RoutePath
from wgquick.net import Prefix, Route, Rule
from wgquick.system.netlink import RtNetlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TABLE_RULE = Rule(4, 51820, fwmark=51820)
SUPPRESSION = Rule(4, 254, suppress_prefixlength=0)


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace() as inside:
        without_detection(inside)
        inside.uplink(ipv6=True)
        inside.run(["ip", "-batch", "-"], input="link add wgt0 type veth peer name wgt1\nlink set wgt1 up\n")
        with inside.entered():
            yield inside


def without_detection(inside: Namespace) -> None:
    """Turn duplicate address detection off, so that no address is tentative."""
    inside.run(["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"])


@pytest.fixture
def nl() -> RtNetlink:
    return RtNetlink()


def prefixes(*texts: str) -> list[Prefix]:
    return [Prefix.parse(text) for text in texts]


def state(inside: Namespace) -> str:
    """Addresses, routes and rules as ip prints them, without what differs between any two links."""
    shown = [("-d", "addr", "show", "dev", "wgt0"), ("-4", "rule"), ("-6", "rule")]
    shown += [("-d", family, "route", "show", "table", "all", "dev", "wgt0") for family in ("-4", "-6")]
    lines = "".join(inside.out("ip", *words) for words in shown).splitlines()
    kept = (line for line in lines if "link/ether" not in line and "fe80::" not in line and "@" not in line)
    return "\n".join(line.replace(" tentative", "") for line in kept)


def settled(inside: Namespace) -> str:
    inside.settle()
    return state(inside)


def ip(inside: Namespace, *commands: str) -> None:
    inside.run(["ip", "-batch", "-"], input="".join(f"{command}\n" for command in commands))


def errno_of(function: Callable[[], object]) -> int:
    with pytest.raises(OperationError) as caught:
        function()
    return caught.value.errno


def test_the_resulting_state_equals_that_of_ip(ns: Namespace, nl: RtNetlink) -> None:
    addresses = ["10.0.0.1/24", "10.0.0.9/32", "127.0.9.1/16", "fd00::1/64", "fd00::9/128"]
    routes = ["10.5.0.0/16", "192.0.2.99/32", "fd05::/64", "fd06::1/128"]
    far = ["0.0.0.0/0", "::/0"]
    with namespace() as other:
        without_detection(other)
        ip(
            other,
            "link add wgt0 type veth peer name wgt1",
            "link set wgt1 up",
            *(f"address add {address} dev wgt0" for address in addresses),
            "link set mtu 1380 up dev wgt0",
            *(f"route add {route} dev wgt0" for route in routes),
            *(f"route add {route} dev wgt0 table 51820" for route in far),
            *(f"route add {route} dev wgt0 table 200" for route in far),
        )
        for option in ("-4", "-6"):
            other.run(["ip", option, "rule", "add", "not", "fwmark", "51820", "table", "51820"])
            other.run(["ip", option, "rule", "add", "table", "main", "suppress_prefixlength", "0"])
        expected = settled(other)
    nl.add_addresses("wgt0", prefixes(*addresses))
    nl.set_link("wgt0", mtu=1380)
    nl.add_routes(
        [Route(prefix, "wgt0") for prefix in prefixes(*routes)]
        + [Route(prefix, "wgt0", table) for table in (51820, 200) for prefix in prefixes(*far)]
    )
    for family in (4, 6):
        nl.add_rule(TABLE_RULE._replace(family=family))
        nl.add_rule(SUPPRESSION._replace(family=family))
    assert settled(ns) == expected


def test_link_add_has_the_outcome_of_ip(ns: Namespace, nl: RtNetlink) -> None:
    done = ns.run(["ip", "link", "add", "wgx0", "type", "wireguard"], check=False)
    if done.returncode == 0:
        nl.add_wireguard_link("wgx1")
        assert nl.link("wgx1") is not None
        assert errno_of(lambda: nl.add_wireguard_link("wgx1")) == errno.EEXIST
    else:
        assert errno_of(lambda: nl.add_wireguard_link("wgx1")) == errno.EOPNOTSUPP


def test_links_are_read_with_kind_mtu_and_state(ns: Namespace, nl: RtNetlink) -> None:
    nl.set_link("wgt0", mtu=1300, up=False)
    link = nl.link("wgt0")
    assert link is not None
    assert (link.name, link.mtu, link.up, link.kind) == ("wgt0", 1300, False, "veth")
    nl.set_link("wgt0")
    assert [(each.name, each.mtu, each.up) for each in nl.links() if each.name == "wgt0"] == [("wgt0", 1300, True)]
    assert sorted(each.name for each in nl.links()) == ["lo", "up0", "up1", "wgt0", "wgt1"]
    assert nl.link("nosuch0") is None


def test_a_deleted_link_is_gone_and_cannot_be_deleted_again(ns: Namespace, nl: RtNetlink) -> None:
    nl.delete_link("wgt0")
    assert nl.link("wgt0") is None
    assert errno_of(lambda: nl.delete_link("wgt0")) == errno.ENODEV
    assert errno_of(lambda: nl.set_link("wgt0", mtu=1400)) == errno.ENODEV
    assert errno_of(lambda: nl.add_addresses("wgt0", prefixes("10.0.0.1/24"))) == errno.ENODEV
    assert errno_of(lambda: nl.add_routes([Route(Prefix.parse("10.1.0.0/16"), "wgt0")])) == errno.ENODEV


def test_an_invalid_mtu_is_refused_with_the_kernels_reason(ns: Namespace, nl: RtNetlink) -> None:
    with pytest.raises(OperationError, match=r"mtu 20 up: .*mtu less than device minimum") as caught:
        nl.set_link("wgt0", mtu=20)
    assert caught.value.errno == errno.EINVAL


def test_addresses_are_read_in_the_kernels_order(ns: Namespace, nl: RtNetlink) -> None:
    nl.add_addresses("wgt0", prefixes("10.0.0.1/24", "10.0.1.1/24", "10.0.0.2/24", "fd00::1/64"))
    shown = json.loads(ns.out("ip", "-j", "address", "show", "dev", "wgt0"))[0]["addr_info"]
    assert [str(prefix) for prefix in nl.addresses("wgt0")] == [f"{a['local']}/{a['prefixlen']}" for a in shown]


def test_refused_addresses_are_listed_by_index(ns: Namespace, nl: RtNetlink) -> None:
    wanted = prefixes("10.0.0.1/24", "10.0.0.1/24", "10.0.0.2/24", "::1/128")
    with pytest.raises(BatchError, match=r"2 of 4 addresses: 10\.0\.0\.1/24 on wgt0: File exists") as caught:
        nl.add_addresses("wgt0", wanted)
    assert caught.value.failures[0] == (1, errno.EEXIST)
    assert [index for index, _ in caught.value.failures] == [1, 3]
    assert nl.addresses("wgt0") == prefixes("10.0.0.1/24", "10.0.0.2/24")


def test_refused_routes_are_listed_with_index_and_reason(ns: Namespace, nl: RtNetlink) -> None:
    nl.set_link("wgt0")
    wanted = prefixes("10.1.0.0/16", "10.2.0.9/16", "10.1.0.0/16", "10.3.0.0/16")
    with pytest.raises(BatchError) as caught:
        nl.add_routes([Route(prefix, "wgt0") for prefix in wanted])
    assert caught.value.failures == ((1, errno.EINVAL), (2, errno.EEXIST))
    assert "10.2.0.9/16 through wgt0: Invalid argument (Invalid prefix for given prefix length)" in str(
        caught.value
    )
    assert nl.routes(family=4, table=254, device="wgt0") == prefixes("10.1.0.0/16", "10.3.0.0/16")


def test_a_batch_of_refused_routes_loses_no_error(ns: Namespace, nl: RtNetlink) -> None:
    nl.set_link("wgt0")
    routes = [Route(Prefix((0x0B000001 + 256 * n).to_bytes(4, "big"), 24), "wgt0") for n in range(20000)]
    with pytest.raises(BatchError, match="cannot add 20000 of 20000 routes") as caught:
        nl.add_routes(routes)
    assert caught.value.failures == tuple((n, errno.EINVAL) for n in range(20000))


def test_a_route_over_a_link_that_is_down_is_refused(ns: Namespace, nl: RtNetlink) -> None:
    assert errno_of(lambda: nl.add_routes([Route(Prefix.parse("10.1.0.0/16"), "wgt0")])) == errno.ENETDOWN


@pytest.mark.parametrize("family", [4, 6])
def test_routes_are_read_by_table_and_device(ns: Namespace, nl: RtNetlink, family: int) -> None:
    nl.set_link("wgt0")
    texts = ("10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0") if family == 4 else ("fd01::/64", "fd01:0:0:1::/64", "::/0")
    for table in (5, 51820):
        nl.add_routes([Route(prefix, "wgt0", table) for prefix in prefixes(*texts)])
        nl.add_routes([Route(Prefix(prefixes(texts[0])[0].address, 20), "up0", table)])
        assert sorted(nl.routes(family=family, table=table, device="wgt0")) == sorted(prefixes(*texts))
        assert len(nl.routes(family=family, table=table)) == 4
    assert nl.routes(family=family, table=777) == []


@pytest.mark.parametrize("family", [4, 6])
def test_a_table_is_empty_if_ip_shows_nothing(ns: Namespace, nl: RtNetlink, family: int) -> None:
    nl.set_link("wgt0")
    assert nl.table_is_empty(family, 51820)
    nl.add_routes([Route(Prefix.parse("0.0.0.0/0" if family == 4 else "::/0"), "wgt0", 51820)])
    assert not nl.table_is_empty(family, 51820)
    assert nl.table_is_empty(10 - family, 51820)
    assert nl.table_is_empty(family, 51821)


def test_paths_equal_those_of_ip_route_get(ns: Namespace, nl: RtNetlink) -> None:
    ip(ns, "route add 10.9.0.0/16 dev up0 mtu 1300", "route add 10.10.0.0/16 dev up0 mtu lock 1200")
    ip(ns, "route add fd09::/64 dev up0 mtu 1290", "route add unreachable 10.11.0.0/16")
    ip(ns, "route add blackhole 10.12.0.0/16", "route add unreachable fd12::/64", "route add prohibit 10.13.0.0/16")
    assert nl.path("198.51.100.1") == RoutePath("up0", None)
    assert nl.path("10.9.1.1") == RoutePath("up0", 1300)
    assert nl.path("10.10.1.1") == RoutePath("up0", None)
    assert nl.path("fd09::1") == RoutePath("up0", 1290)
    assert nl.path("2001:db8:5::1") == RoutePath("up0", None)
    assert nl.path("127.0.0.1") == RoutePath("lo", None)
    for address in ("10.11.0.1", "10.12.0.1", "10.13.0.1", "fd12::1"):
        assert nl.path(address) is None
    ip(ns, "route del default")
    assert nl.path("198.51.100.1") is None


def test_the_default_path_is_the_first_default_route(ns: Namespace, nl: RtNetlink) -> None:
    assert nl.default_path() == RoutePath("up0", None)
    ip(ns, "route add 0.0.0.0/8 dev up0", "route add default dev lo metric 5", "route add default dev up1 metric 9")
    assert nl.default_path() == RoutePath("up0", None)
    ip(ns, "route change default via 192.0.2.1 mtu 1400")
    assert nl.default_path() == RoutePath("up0", 1400)
    ip(ns, "route del default via 192.0.2.1")
    assert nl.default_path() == RoutePath("lo", None)
    ip(ns, "route del default", "route del default")
    assert nl.default_path() is None


def test_a_multipath_default_route_names_no_link(ns: Namespace, nl: RtNetlink) -> None:
    ip(ns, "route del default", "route add default nexthop via 192.0.2.1 nexthop via 192.0.2.7")
    assert nl.default_path() == RoutePath("", None)


@pytest.mark.parametrize("family", [4, 6])
def test_rules_are_read_in_order_and_wg_quicks_recognised(ns: Namespace, nl: RtNetlink, family: int) -> None:
    source = "10.0.0.0/8" if family == 4 else "fd00::/8"
    for words in (f"from {source} table 77", "fwmark 9 table 9", "not fwmark 8/15 table 8", "iif lo table 7"):
        ns.run(["ip", f"-{family}", "rule", "add", *words.split()])
    ns.run(["ip", f"-{family}", "rule", "add", "not", "fwmark", "51820", "table", "51820"])
    ns.run(["ip", f"-{family}", "rule", "add", "table", "main", "suppress_prefixlength", "0"])
    rules = nl.rules(family)
    priorities = [each["priority"] for each in json.loads(ns.out("ip", f"-{family}", "-j", "rule"))]
    assert [rule.priority for rule in rules] == priorities
    known = [rule for rule in rules if not rule.other]
    assert [rule._replace(priority=None) for rule in known] == [
        SUPPRESSION._replace(family=family),
        TABLE_RULE._replace(family=family),
    ]


def test_a_rule_is_added_at_its_priority_and_only_once(ns: Namespace, nl: RtNetlink) -> None:
    wanted = TABLE_RULE._replace(priority=1234)
    nl.add_rule(wanted)
    assert wanted in nl.rules(4)
    assert errno_of(lambda: nl.add_rule(wanted)) == errno.EEXIST


@pytest.mark.parametrize("family", [4, 6])
def test_delete_removes_exactly_the_given_rule(ns: Namespace, nl: RtNetlink, family: int) -> None:
    suppression = SUPPRESSION._replace(family=family)
    nl.add_rule(suppression._replace(priority=100))
    nl.add_rule(suppression._replace(priority=200))
    nl.add_rule(TABLE_RULE._replace(family=family, priority=300))
    nl.delete_rule(suppression._replace(priority=200))
    assert [rule.priority for rule in nl.rules(family) if not rule.other] == [100, 300]
    nl.delete_rule(suppression)
    assert [rule.priority for rule in nl.rules(family) if not rule.other] == [300]
    assert errno_of(lambda: nl.delete_rule(suppression)) == errno.ENOENT
    assert errno_of(lambda: nl.delete_rule(suppression._replace(priority=300))) == errno.ENOENT


def test_delete_spares_rules_that_only_resemble_ours(ns: Namespace, nl: RtNetlink) -> None:
    ip(ns, "rule add from 10.0.0.0/8 not fwmark 51820 table 51820 priority 50")
    ip(ns, "rule add fwmark 51820 table 51820 priority 60")
    for rule in (TABLE_RULE, TABLE_RULE._replace(priority=50), TABLE_RULE._replace(priority=60)):
        assert errno_of(functools.partial(nl.delete_rule, rule)) == errno.ENOENT
    assert [rule.priority for rule in nl.rules(4)][:3] == [0, 50, 60]


def test_netlink_works_with_ipv6_disabled(ns: Namespace, nl: RtNetlink) -> None:
    nl.set_link("wgt0")
    ns.run(["sysctl", "-q", "net.ipv6.conf.wgt0.disable_ipv6=1"])
    assert errno_of(lambda: nl.add_addresses("wgt0", prefixes("fd00::1/64"))) == errno.EACCES
    nl.add_addresses("wgt0", prefixes("10.0.0.1/24"))
    assert nl.routes(family=6, table=254, device="wgt0") == []


def test_takes_ipv6_does_not_need_proc_sys(ns: Namespace, nl: RtNetlink) -> None:
    assert nl.takes_ipv6("wgt0")
    nl.set_link("wgt0", mtu=1279)  # less than IPv6 needs
    assert not nl.takes_ipv6("wgt0")
    nl.set_link("wgt0", mtu=1280)
    assert nl.takes_ipv6("wgt0")
    ns.run(["sysctl", "-q", "net.ipv6.conf.wgt0.disable_ipv6=1"])
    assert not nl.takes_ipv6("wgt0")


def test_each_thread_acts_in_its_own_namespace(ns: Namespace, nl: RtNetlink) -> None:
    """The caller's namespace counts, not the one in which the object was made."""
    seen: list[list[str]] = []

    def look(other: Namespace) -> None:
        with other.entered():
            seen.append([link.name for link in nl.links()])

    with namespace() as other:
        thread = threading.Thread(target=look, args=(other,))
        thread.start()
        thread.join()
    assert seen == [["lo"]]
    assert len(nl.links()) == 5


@pytest.mark.parametrize("family", [4, 6])
def test_a_hundred_thousand_routes_take_seconds(ns: Namespace, nl: RtNetlink, family: int) -> None:
    nl.set_link("wgt0")
    if family == 4:
        wanted = [Prefix((0x0B000000 + 256 * n).to_bytes(4, "big"), 24) for n in range(100_000)]
    else:
        wanted = [Prefix(((0xFD00 << 112) + (n << 64)).to_bytes(16, "big"), 64) for n in range(100_000)]
    start = time.process_time()
    nl.add_routes([Route(prefix, "wgt0", 51820) for prefix in wanted])
    added = time.process_time()
    found = nl.routes(family=family, table=51820, device="wgt0")
    assert sorted(found) == wanted
    assert added - start < 10
    assert time.process_time() - added < 10


UNPRIVILEGED = """
from wgquick.errors import BatchError
from wgquick.net import Prefix, Route
from wgquick.system.netlink import RtNetlink

nl = RtNetlink()
nl.set_link("lo")
routes = [Route(Prefix((0x0B000001 + 256 * n).to_bytes(4, "big"), 24), "lo") for n in range(5000)]
try:
    nl.add_routes(routes)
except BatchError as error:
    assert [index for index, _ in error.failures] == list(range(5000))
    print("all refused")
"""


def test_no_error_is_lost_without_a_larger_receive_buffer() -> None:
    """SO_RCVBUFFORCE needs CAP_NET_ADMIN on the whole machine, which root in a container lacks."""
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", UNPRIVILEGED]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("all refused\n", "")
