"""The comparison itself: a tool equals itself, and each deliberate change is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.parity import comparison
from tests.parity.case import CASES, Case
from tests.parity.trial import FIREWALLS, WG_QUICK, trial

FULL = Case.load(CASES / "full-tunnel-both.conf")
PREPARED = replace(FULL, name="prepared", directives=(*FULL.directives, ("before", "true")))
CHANGES = {
    "links": "ip link set wg0 mtu 1300",
    "addresses": "ip address add 10.250.0.1/32 dev wg0",
    "routes4": "ip route add 203.0.113.0/24 dev wg0",
    "routes6": "ip -6 route add 2001:db8:7::/64 dev wg0 table 77",
    "rules4": "ip rule add from 203.0.113.0/24 table 77",
    "rules6": "ip -6 rule add priority 5 from 2001:db8:7::/64 table 77",
    "nft": "/usr/sbin/nft add table ip other",
    "iptables": "iptables-legacy -A FORWARD -i wg0 -j DROP",
    "sysctl": "sysctl -qw net.ipv4.conf.all.src_valid_mark=0",
    "resolv.conf": "echo nameserver 192.0.2.54 >>/etc/resolv.conf",
    "resolvconf": "echo resolvconf -d wg0 >>/run/resolvconf.calls",
    "device": "wg set wg0 fwmark 99",
    "sockets": "touch /run/wireguard/wg9.sock",
    "hooks": "echo ran >>/run/hooks",
    "file": "echo '# more' >>/etc/wireguard/wg0.conf",
    "mode": "chmod 0640 /etc/wireguard/wg0.conf",
}


@pytest.mark.parametrize("firewall", FIREWALLS)
def test_two_runs_of_one_tool_are_equal(firewall: str) -> None:
    one, other = trial(FULL, firewall, WG_QUICK, WG_QUICK), trial(PREPARED, firewall, WG_QUICK, WG_QUICK)
    assert comparison.states(one.up.after, other.up.after) == []
    assert comparison.states(one.down.after, other.down.after) == []
    assert one.up.transcript == other.up.transcript
    assert one.up.transcript[0] == "[#] ip link add wg0 type wireguard"


@pytest.mark.parametrize("section", CHANGES)
def test_a_change_in_any_section_is_found(section: str) -> None:
    change = ("then", f"PATH=$PATH:/usr/sbin; {CHANGES[section]}")
    no_socket = ("then", "rm -f /run/wireguard/wg9.sock")  # the trial would wait for its daemon to end
    changed = replace(FULL, directives=(*FULL.directives, change, no_socket))
    ran = trial(changed, "nft", WG_QUICK, WG_QUICK)
    differences = comparison.states(ran.up.after, ran.between[0].after)
    assert differences
    assert {line.partition(":")[0] for line in differences} >= {section}


def test_a_missing_firewall_rule_is_found() -> None:
    with_rules, without = (trial(FULL, firewall, WG_QUICK, WG_QUICK).up.after for firewall in FIREWALLS)
    found = comparison.states(with_rules, without)
    assert any(line.startswith("nft: - ") for line in found)
    assert any(line.startswith("iptables: + ") for line in found)
