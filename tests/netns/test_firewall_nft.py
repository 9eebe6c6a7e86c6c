"""nftables rules: exactly those that wg-quick makes with nft(8), and removed completely."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.namespaces import Namespace, host, namespace
from wgquick.errors import OperationError
from wgquick.net import FirewallRules, pack_address
from wgquick.system import firewall
from wgquick.system.firewall import nft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

WORDS = {4: "ip", 6: "ip6"}
ADDRESSES = {4: ("10.0.0.2", "172.16.255.1"), 6: ("fd00::2", "fe80::1")}


@pytest.fixture
def ns() -> Iterator[Namespace]:
    with namespace() as inside:
        yield inside


@pytest.fixture
def twin() -> Iterator[Namespace]:
    with namespace() as inside:
        yield inside


def script(name: str, family: int, addresses: tuple[str, ...], fwmark: int, port: int = 0) -> str:
    """wg-quick's input to `nft -f`; with a port, also our rules for reverse path filters."""
    ip, table = WORDS[family], f"wg-quick-{name}"
    lines = [
        f"add table {ip} {table}",
        f"add chain {ip} {table} preraw {{ type filter hook prerouting priority -300; }}",
        f"add chain {ip} {table} premangle {{ type filter hook prerouting priority -150; }}",
        f"add chain {ip} {table} postmangle {{ type filter hook postrouting priority -150; }}",
    ]
    for address in addresses:
        guard = f'iifname != "{name}" {ip} daddr {address} fib saddr type != local drop'
        lines.append(f"add rule {ip} {table} preraw {guard}")
    lines.append(f"add rule {ip} {table} postmangle meta l4proto udp mark {fwmark} ct mark set mark")
    lines.append(f"add rule {ip} {table} premangle meta l4proto udp meta mark set ct mark")
    if port:
        arrivals = f'iifname != "{name}" udp dport {port} fib daddr type local'
        for chain in ("preraw", "premangle"):
            lines.append(f"add rule {ip} {table} {chain} {arrivals} meta mark set {fwmark}")
        lines.append(
            f"add rule {ip} {table} premangle meta l4proto ipv6-icmp ct mark {fwmark} meta mark set ct mark"
        )
    return "\n".join(lines) + "\n"


def add(name: str, family: int, fwmark: int) -> None:
    nft.add(name, family, [pack_address(address) for address in ADDRESSES[family]], fwmark)


@pytest.mark.parametrize("name", ["wg0", "a", "fifteen-letters", "with_dot.0"])
def test_the_rules_equal_those_of_wg_quick(ns: Namespace, twin: Namespace, name: str) -> None:
    for family in (4, 6):
        ns.call(add, name, family, 51820)
        twin.run(["nft", "-f", "-"], input=script(name, family, ADDRESSES[family], 51820))
    for listing in (["nft", "-a", "list", "ruleset"], ["nft", "-j", "list", "ruleset"]):
        assert ns.out(*listing) == twin.out(*listing)
    assert f"wg-quick-{name}" in ns.out("nft", "list", "tables")


@pytest.mark.parametrize(("fwmark", "port"), [(51820, 51820), (0xFFFFFFFE, 1), (1, 65535)])
def test_rules_for_reverse_path_filters_equal_those_of_nft(
    ns: Namespace, twin: Namespace, fwmark: int, port: int
) -> None:
    addresses = [pack_address(address) for address in ADDRESSES[6]]
    ns.call(nft.add, "wg0", 6, addresses, fwmark, port)
    twin.run(["nft", "-f", "-"], input=script("wg0", 6, ADDRESSES[6], fwmark, port))
    for listing in (["nft", "-a", "list", "ruleset"], ["nft", "--debug=netlink", "list", "ruleset"]):
        assert ns.out(*listing) == twin.out(*listing)


def test_rules_with_a_mark_above_31_bits_equal_those_of_nft(ns: Namespace, twin: Namespace) -> None:
    ns.call(add, "wg0", 4, 0xFFFFFFFE)
    twin.run(["nft", "-f", "-"], input=script("wg0", 4, ADDRESSES[4], 0xFFFFFFFE))
    assert ns.out("nft", "list", "ruleset") == twin.out("nft", "list", "ruleset")


@pytest.mark.parametrize("name", ["a=b", "wg+1", "=+="])
def test_names_that_break_wg_quick_work(ns: Namespace, name: str) -> None:
    ns.call(nft.add, name, 4, [b"\x0a\0\0\2"], 51820)
    assert f'iifname != "{name}" ip daddr 10.0.0.2 fib saddr type != local drop' in ns.out("nft", "list", "ruleset")
    assert ns.call(nft.present, name)
    ns.call(nft.remove, name)
    assert not ns.out("nft", "list", "ruleset")


def test_a_spoofed_packet_to_the_tunnels_address_is_dropped(ns: Namespace) -> None:
    ns.run(["ip", "address", "add", "10.0.0.2/32", "dev", "lo"])
    ns.run(["ip", "link", "add", "out0", "type", "veth", "peer", "name", "in0"])
    for line in ("address add 192.0.2.1/24 dev out0", "link set out0 up", "link set in0 up"):
        ns.run(["ip", *line.split()])
    ns.call(nft.add, "wg0", 4, [b"\x0a\0\0\2"], 51820)
    reach = ["ping", "-c", "1", "-w", "60"]
    ns.run([*reach, "10.0.0.2"])
    with namespace() as other:
        ns.run(["ip", "link", "set", "in0", "netns", other.name])
        for line in (
            "address add 192.0.2.9/24 dev in0",
            "link set in0 up",
            "route add 10.0.0.2 via 192.0.2.1",
        ):
            other.run(["ip", *line.split()])
        other.run([*reach, "192.0.2.1"])
        assert other.run([*reach, "-w", "1", "10.0.0.2"], check=False).returncode == 1
        ns.call(nft.remove, "wg0")
        other.run([*reach, "10.0.0.2"])


def test_remove_spares_every_other_table(ns: Namespace) -> None:
    ns.run(
        ["nft", "-f", "-"], input="add table ip wg-quick-wg01; add table ip other; add table inet my-wg-quick-wg0\n"
    )
    before = ns.out("nft", "list", "ruleset")
    for family in (4, 6):
        ns.call(add, "wg0", family, 51820)
    ns.call(nft.remove, "wg0")
    assert ns.out("nft", "list", "ruleset") == before


def test_remove_of_one_family_leaves_the_other(ns: Namespace) -> None:
    for family in (4, 6):
        ns.call(add, "wg0", family, 51820)
    ns.call(nft.remove, "wg0", 4)
    assert ns.out("nft", "list", "tables") == "table ip6 wg-quick-wg0\n"


def test_remove_finds_the_table_in_any_family_like_wg_quick(ns: Namespace) -> None:
    ns.run(["nft", "add", "table", "inet", "wg-quick-wg0"])
    assert ns.call(nft.present, "wg0")
    ns.call(nft.remove, "wg0")
    assert not ns.out("nft", "list", "tables")


def test_remove_may_be_repeated(ns: Namespace) -> None:
    ns.call(add, "wg0", 4, 51820)
    ns.call(nft.remove, "wg0")
    ns.call(nft.remove, "wg0")
    assert not ns.call(nft.present, "wg0")


def test_rules_are_read_back_and_a_flushed_chain_is_noticed(ns: Namespace) -> None:
    addresses = {family: tuple(map(pack_address, ADDRESSES[family])) for family in (4, 6)}
    with ns.entered():
        firewall.add("nft", "wg0", 4, addresses[4], 0xFFFFFFF0)
        firewall.add("nft", "wg0", 6, addresses[6], 51820, 4000)
        assert firewall.existing("wg1") == ()
        found = [
            FirewallRules("nft", 4, addresses[4], 0xFFFFFFF0),
            FirewallRules("nft", 6, addresses[6], 51820, 4000),
        ]
        assert sorted(firewall.existing("wg0")) == found
    ns.run(["nft", "flush", "chain", "ip", "wg-quick-wg0", "postmangle"])
    with ns.entered():
        assert [each.whole for each in sorted(firewall.existing("wg0"))] == [False, True]


def test_rules_are_replaced_completely_or_not_at_all(ns: Namespace) -> None:
    with ns.entered():
        for fwmark, addresses in ((7, ["10.0.0.1"]), (8, []), (8, ["10.0.0.2", "10.0.0.3"])):
            packed = tuple(map(pack_address, addresses))
            firewall.replace("nft", "wg0", 4, packed, fwmark)
            assert firewall.existing("wg0") == (FirewallRules("nft", 4, packed, fwmark),)
        with pytest.raises(OperationError):
            firewall.replace("nft", "wg0", 4, [b"too long an address"], 9)
        assert firewall.existing("wg0")[0].fwmark == 8


def test_a_refused_rule_leaves_no_part_of_the_table(ns: Namespace) -> None:
    with pytest.raises(OperationError, match=r"cannot add the nftables rules of wg0: ") as refusal:
        ns.call(nft.add, "wg0", 4, [b"\x0a\0\0\2", b""], 51820)
    assert refusal.value.errno
    assert refusal.value.remedy
    assert not ns.out("nft", "list", "ruleset")


def test_a_conflicting_table_does_not_mean_a_kernel_without_nft(ns: Namespace) -> None:
    chain = "add chain ip wg-quick-wg0 premangle { type filter hook input priority 5; }"
    ns.run(["nft", "-f", "-"], input=f"add table ip wg-quick-wg0\n{chain}\n")
    with pytest.raises(OperationError) as refusal:
        ns.call(nft.add, "wg0", 4, [], 51820)
    assert "nft list ruleset" in refusal.value.remedy


def test_a_thousand_addresses_fit_in_one_transaction(ns: Namespace) -> None:
    ns.call(nft.add, "wg0", 4, [bytes([10, 0, at >> 8, at & 255]) for at in range(1000)], 51820)
    assert ns.out("nft", "list", "ruleset").count("fib saddr type != local drop") == 1000


def unprivileged(function: Callable[[], T]) -> T:
    os.seteuid(65534)
    try:
        return function()
    finally:
        os.seteuid(0)


def test_the_error_without_cap_net_admin_names_it(ns: Namespace) -> None:
    assert ns.call(unprivileged, nft.available)
    with pytest.raises(OperationError) as refusal:
        ns.call(unprivileged, partial(nft.add, "wg0", 4, [], 51820))
    assert "CAP_NET_ADMIN" in refusal.value.remedy


def test_auto_uses_nft_if_the_kernel_has_it(ns: Namespace) -> None:
    assert ns.call(firewall.choose, "auto") == "nft"
    assert [ns.call(firewall.choose, word) for word in ("nft", "iptables")] == ["nft", "iptables"]


def test_probing_creates_no_table(ns: Namespace) -> None:
    ns.call(nft.available)
    ns.call(nft.present, "wg0")
    assert not ns.out("nft", "list", "tables")


def test_the_transcript_of_nft_is_that_of_wg_quick() -> None:
    assert firewall.add_lines("nft", 4) == ("[#] nft -f /dev/fd/63",)
    assert firewall.remove_lines("nft", 0) == ("[#] nft -f /dev/fd/63",)


CONFIG = """[Interface]
PrivateKey = 2MtBlbfEoJf5kqHjTNmNhDhM1hCZgsXWaGP9UTdBVUo=
Address = 10.0.0.2/24, fd00::2/64
[Peer]
PublicKey = cPkfAcaIBvRgBnIRqOYK2vCVqZt2LTZyxdxDyNKEWzE=
AllowedIPs = 0.0.0.0/0
"""


def test_rules_made_by_wg_quick_are_the_same_and_can_be_removed() -> None:
    with host() as machine:
        machine.uplink()
        machine.run(["sh", "-c", "cat >/etc/wireguard/wg0.conf"], input=CONFIG)
        machine.run(["wg-quick", "up", "wg0"])
        theirs = machine.out("nft", "list", "ruleset")
        machine.call(nft.remove, "wg0")
        assert not machine.out("nft", "list", "ruleset")
        machine.call(nft.add, "wg0", 4, [b"\x0a\0\0\2"], 51820)
        assert machine.out("nft", "list", "ruleset") == theirs
        machine.run(["wg-quick", "down", "wg0"])
        assert not machine.out("nft", "list", "ruleset")
