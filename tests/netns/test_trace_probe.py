"""`wgq trace --probe` sends one packet and names the nftables rule that drops it or its consequences."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.tunnels import config, wgq, write
from tests.waiting import until

if TYPE_CHECKING:
    from tests.namespaces import Namespace

CHAINS = """
add table inet mine
add chain inet mine out { type filter hook output priority 0; }
add chain inet mine in { type filter hook input priority 0; }
"""


@pytest.fixture
def filtered(machine: Namespace) -> Namespace:
    machine.run(["nft", "-f", "-"], input=CHAINS)
    machine.run(["ip", "neigh", "add", "192.0.2.9", "lladdr", "02:00:00:00:00:09", "dev", "up0"])
    return machine


def probed(machine: Namespace, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(wgq(machine, "trace", *words, "--probe", "--json").stdout)
    return found


def handle(machine: Namespace, word: str) -> int:
    (line,) = (line for line in machine.out("nft", "-a", "list", "ruleset").splitlines() if word in line)
    return int(line.rpartition("# handle ")[2])


def test_the_rule_that_drops_the_packet_is_named(filtered: Namespace) -> None:
    filtered.run(["nft", 'add rule inet mine out ip daddr 192.0.2.9 tcp dport 22 counter drop comment "mine"'])
    tables = filtered.out("nft", "list", "tables")
    found = probed(filtered, "192.0.2.9", "--port", "tcp/22")
    number = handle(filtered, "dport 22")
    assert found["verdict"] == "dropped"
    assert found["probe"]["dropped"] == [
        {
            "what": "the packet to 192.0.2.9",
            "is_reply": False,
            "family": "inet",
            "table": "mine",
            "chain": "out",
            "handle": number,
            "text": 'ip daddr 192.0.2.9 tcp dport 22 counter drop comment "mine"',
        }
    ]
    assert f"nft table inet mine chain out handle {number} drops" in found["reason"]
    assert filtered.out("nft", "list", "tables") == tables
    near = probed(filtered, "192.0.2.9", "--port", "udp/22")
    assert (near["verdict"], near["probe"]["dropped"], near["probe"]["unseen"]) == ("delivered", [], [])


def test_a_rule_for_a_user_only_drops_packets_of_that_user(filtered: Namespace) -> None:
    filtered.run(["nft", "add rule inet mine out meta skuid 1000 reject"])
    assert probed(filtered, "192.0.2.9", "--port", "tcp/22", "--uid", "1000")["verdict"] == "dropped"
    assert probed(filtered, "192.0.2.9", "--port", "tcp/22", "--uid", "1001")["verdict"] == "delivered"


def test_the_policy_of_a_chain_is_named(filtered: Namespace) -> None:
    filtered.run(["nft", "add chain inet mine in { policy drop; }"])
    found = probed(filtered, "192.0.2.2")
    assert found["verdict"] == "dropped"
    assert found["reason"] == "the policy of nft table inet mine chain in drops the packet to 192.0.2.2"


def test_a_rule_of_iptables_nft_is_named(filtered: Namespace) -> None:
    filtered.run(["iptables-nft", "-A", "OUTPUT", "-d", "192.0.2.9", "-p", "icmp", "-j", "DROP"])
    (dropped,) = probed(filtered, "192.0.2.9")["probe"]["dropped"]
    assert (dropped["family"], dropped["table"], dropped["chain"]) == ("ip", "filter", "OUTPUT")
    assert dropped["text"].endswith("drop")


def test_the_rule_that_drops_the_outer_packet_is_named(filtered: Namespace) -> None:
    write(filtered, config())
    wgq(filtered, "up", "wg0")
    filtered.run(["nft", "add rule inet mine out udp dport 51820 drop"])
    found = probed(filtered, "10.9.0.1")
    assert found["verdict"] == "dropped"
    (dropped,) = found["probe"]["dropped"]
    assert (dropped["what"], dropped["handle"]) == ("the outer packet to 192.0.2.9", handle(filtered, "51820"))


def test_the_rule_that_drops_the_reply_is_named(filtered: Namespace) -> None:
    own = os.readlink("/proc/self/ns/net")
    here = os.readlink(f"/proc/{filtered.paths['net'].split('/')[2]}/ns/net")
    other = filtered.popen(["unshare", "--net", "sleep", "600"])
    until(lambda: os.readlink(f"/proc/{other.pid}/ns/net") not in (here, own), "the other namespace")
    inside = ["nsenter", f"--net=/proc/{other.pid}/ns/net", "--", "ip", "-batch", "-"]
    near = f"link add r0 type veth peer name r1 netns {other.pid}\naddr add 10.5.0.1/24 dev r0\nlink set r0 up\n"
    filtered.run(["ip", "-batch", "-"], input=near)
    filtered.run(inside, input="link set lo up\naddr add 10.5.0.2/24 dev r1\nlink set r1 up\n")
    until(lambda: filtered.run(["ping", "-c1", "-W1", "10.5.0.2"], check=False).returncode == 0, "an answer")
    filtered.run(["nft", "add rule inet mine in icmp type echo-reply drop"])
    found = probed(filtered, "10.5.0.2")
    assert found["verdict"] == "delivered"
    (dropped,) = found["probe"]["dropped"]
    assert (dropped["is_reply"], dropped["handle"]) == (True, handle(filtered, "echo-reply"))
    assert "drops a reply to the packet to 10.5.0.2" in found["reason"]
    early = "add table netdev early\nadd chain netdev early c { type filter hook ingress device r0 priority 0; }\n"
    filtered.run(["nft", "-f", "-"], input=f"{early}add rule netdev early c icmp type echo-reply drop\n")
    (dropped,) = probed(filtered, "10.5.0.2")["probe"]["dropped"]
    assert (dropped["family"], dropped["is_reply"]) == ("netdev", True)


def test_an_error_without_an_nftables_rule_is_reported_by_errno(machine: Namespace) -> None:
    machine.run(["ip", "route", "add", "prohibit", "198.51.100.0/24"])
    found = probed(machine, "198.51.100.7")
    assert (found["verdict"], found["probe"]["error"]) == ("unreachable", "EACCES")


def test_an_incoming_packet_cannot_be_probed(machine: Namespace) -> None:
    done = wgq(machine, "trace", "192.0.2.9", "--iif", "up0", "--probe", status=1)
    assert "--probe sends a packet from this host" in done.stderr
