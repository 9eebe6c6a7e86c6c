"""`wgq trace` on real tunnels: its text, its JSON, and its errors."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.conftest import fresh_machine
from tests.netns.tunnels import FULL, KEY, PEERS, WGQ, config, wgq, write
from tests.waiting import until
from wgquick import api
from wgquick.cli.packet import query_of
from wgquick.show.trace import as_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

NEIGHBOUR = re.compile(r"^    [0-9.]+ is .*\n", re.MULTILINE)
FULL_TUNNEL = f"""\
198.51.100.7 from this host, tcp port 443:
  rule 0: from all lookup local: no route in the table
  rule 32764: from all lookup main suppress_prefixlength 0: \
its route default is suppressed: its prefix length is not above 0
  rule 32765: not from all fwmark 0xca6c lookup 51820: matches
  route default dev wg0 table 51820
    source 10.0.0.1, MTU 1420, TCP MSS 1380
  peer {PEERS[0]} of wg0, AllowedIPs 0.0.0.0/0
    no handshake yet
  endpoint 192.0.2.9:51820
outer packet to 192.0.2.9, udp port 51820, mark 0xca6c:
  rule 0: from all lookup local: no route in the table
  rule 32764: from all lookup main suppress_prefixlength 0: matches
  route 192.0.2.0/24 dev up0 table main
    source 192.0.2.2, MTU 1500, TCP MSS 1460
delivered through wg0, then up0, largest packet 1420, TCP MSS 1380
"""
MOVED = f"""\
10.9.0.1 from this host, icmp:
  rule 0: from all lookup local: no route in the table
  rule 32766: from all lookup main: matches
  route 10.9.0.0/16 dev wg0 table main
    source 10.0.0.1, MTU 1420, TCP MSS 1380
  peer {PEERS[0]} of wg0, AllowedIPs 10.9.0.0/16
    no handshake yet
  endpoint 192.0.2.9:51820
outer packet to 192.0.2.9, udp port 51820, in the namespace of the device's socket:
  rule 0: from all lookup local: no route in the table
  rule 32766: from all lookup main: matches
  route 192.0.2.0/24 dev up0 table main
    source 192.0.2.2, MTU 1500, TCP MSS 1460
delivered through wg0, then up0 (in another namespace), largest packet 1420, TCP MSS 1380
"""
TWO_TUNNELS = f"""\
10.9.1.1 from this host, icmp:
  rule 0: from all lookup local: no route in the table
  rule 32764: from all lookup main suppress_prefixlength 0: matches
  route 10.9.0.0/16 dev wg1 table main
    source 10.1.0.1, MTU 1340, TCP MSS 1300
  peer {PEERS[1]} of wg1, AllowedIPs 10.9.0.0/16
    no handshake yet
  endpoint 203.0.113.4:51820
outer packet to 203.0.113.4, udp port 51820:
  rule 0: from all lookup local: no route in the table
  rule 32764: from all lookup main suppress_prefixlength 0: \
its route default is suppressed: its prefix length is not above 0
  rule 32765: not from all fwmark 0xca6c lookup 51820: matches
  route default dev wg0 table 51820
    source 10.0.0.1, MTU 1420, TCP MSS 1380
  peer {PEERS[0]} of wg0, AllowedIPs 0.0.0.0/0
    no handshake yet
  endpoint 192.0.2.9:51820
outer packet to 192.0.2.9, udp port 51820, mark 0xca6c:
  rule 0: from all lookup local: no route in the table
  rule 32764: from all lookup main suppress_prefixlength 0: matches
  route 192.0.2.0/24 dev up0 table main
    source 192.0.2.2, MTU 1500, TCP MSS 1460
delivered through wg1, then wg0, then up0, largest packet 1340, TCP MSS 1300
"""


def traced(machine: Namespace, target: str, *words: str) -> dict[str, Any]:
    """The JSON of `wgq trace`, from a fork of this process, which is faster than a new Python."""
    given: dict[str, str | bool] = dict(
        zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True)
    )
    found: dict[str, Any] = machine.call(document, target, given)
    return found


def document(target: str, given: dict[str, str | bool]) -> dict[str, object]:
    far_end = str(given["peer-config"]) if "peer-config" in given else None
    found = api.trace(query_of(target, given), peer_config=far_end)
    return as_json(found.trace)


def text(machine: Namespace, *words: str) -> str:
    """The text of `wgq trace`, without the lines about the gateway's neighbour entry."""
    printed = wgq(machine, "trace", *words).stdout
    return re.sub(r"^but .*\n", "", NEIGHBOUR.sub("", printed), flags=re.MULTILINE)


def up(machine: Namespace, name: str, peer: str, **options: Any) -> None:
    write(machine, config(peer=peer, **options), name)
    wgq(machine, "up", name)


@pytest.fixture
def full(machine: Namespace) -> Namespace:
    up(machine, "wg0", FULL)
    return machine


@pytest.fixture(scope="module")
def unchanged() -> Iterator[Namespace]:
    """One machine with a full tunnel, for tests that do not change it."""
    with fresh_machine() as made:
        up(made, "wg0", FULL)
        yield made


def test_a_trace_through_a_full_tunnel_prints_each_step(unchanged: Namespace) -> None:
    assert text(unchanged, "198.51.100.7", "--port", "tcp/443") == FULL_TUNNEL


def test_a_tunnel_in_a_tunnel_is_followed_to_the_last_uplink(full: Namespace) -> None:
    conf = config(address="10.1.0.1/24", n=1).replace("192.0.2.9", "203.0.113.4")
    write(full, conf, "wg1")
    wgq(full, "up", "wg1")
    assert text(full, "10.9.1.1") == TWO_TUNNELS
    found = traced(full, "10.9.1.1")
    assert [step["kind"] for step in found["steps"] if step["kind"] not in ("rule", "outer-rule")] == [
        "route",
        "peer",
        "endpoint",
        "outer-route",
        "peer",
        "endpoint",
        "outer-route",
    ]
    assert (found["peer"], found["endpoint"], found["uplink"]) == (PEERS[1], "203.0.113.4:51820", "up0")


def test_the_json_has_the_documented_fields(unchanged: Namespace) -> None:
    found = json.loads(wgq(unchanged, "trace", "198.51.100.7", "--json").stdout)
    assert list(found) == [
        "destination",
        "steps",
        "verdict",
        "peer",
        "endpoint",
        "uplink",
        "source",
        "mtu",
        "reason",
    ]
    assert found["verdict"] == "delivered"
    assert (found["peer"], found["endpoint"], found["uplink"]) == (PEERS[0], "192.0.2.9:51820", "up0")
    assert (found["source"], found["mtu"]) == ("10.0.0.1", 1420)
    rule = [step for step in found["steps"] if step["kind"] == "rule"][-1]
    assert (rule["priority"], rule["table"], rule["matched"]) == (32765, 51820, True)
    (route,) = (step for step in found["steps"] if step["kind"] == "route")
    assert (route["link"], route["table"], route["gateway"], route["kernel"]) == ("wg0", 51820, None, "agrees")
    (outer,) = (step for step in found["steps"] if step["kind"] == "outer-route")
    assert (outer["link"], outer["table"], outer["kernel"]) == ("up0", 254, "agrees")
    assert KEY not in json.dumps(found)


def test_a_packet_with_the_tunnels_mark_bypasses_it(unchanged: Namespace) -> None:
    found = traced(unchanged, "198.51.100.7", "--mark", "0xca6c")
    assert (found["uplink"], found["peer"], found["source"]) == ("up0", None, "192.0.2.2")
    (route,) = (step for step in found["steps"] if step["kind"] == "route")
    assert (route["gateway"], route["table"]) == ("192.0.2.1", 254)


def test_a_rule_for_a_user_applies_to_that_user_only(full: Namespace) -> None:
    full.run(["ip", "rule", "add", "pref", "5", "uidrange", "1000-1000", "lookup", "main"])
    assert traced(full, "198.51.100.7", "--uid", "1000")["uplink"] == "up0"
    assert traced(full, "198.51.100.7", "--uid", "1000")["peer"] is None
    assert traced(full, "198.51.100.7", "--uid", "nobody")["peer"] == PEERS[0]


@pytest.mark.parametrize(
    ("command", "verdict", "reason"),
    [
        ("ip route add blackhole 198.51.100.0/24", "dropped", "the route blackhole 198.51.100.0/24"),
        ("ip route add prohibit 198.51.100.0/24", "unreachable", "the route prohibit 198.51.100.0/24"),
        ("ip route add unreachable 198.51.100.0/24", "unreachable", "the route unreachable 198.51.100.0/24"),
        ("ip route del default", "unreachable", "no route to 198.51.100.7"),
        ("ip rule add pref 7 to 198.51.100.0/24 blackhole", "dropped", "rule 7 has the action blackhole"),
        ("ip rule add pref 7 to 198.51.100.0/24 prohibit", "unreachable", "rule 7 has the action prohibit"),
    ],
)
def test_a_packet_without_a_route_is_reported_with_its_cause(
    machine: Namespace, command: str, verdict: str, reason: str
) -> None:
    machine.run(command.split())
    found = traced(machine, "198.51.100.7")
    assert (found["verdict"], found["reason"], found["uplink"]) == (verdict, reason, None)


def test_an_address_without_a_peer_is_unreachable(machine: Namespace) -> None:
    up(machine, "wg0", "AllowedIPs = 10.9.0.0/16")
    machine.run(["ip", "route", "add", "10.8.0.0/16", "dev", "wg0"])
    found = traced(machine, "10.8.0.1")
    assert (found["verdict"], found["peer"], found["uplink"]) == ("unreachable", None, None)
    assert "ENOKEY" in found["reason"]
    (peer,) = (step for step in found["steps"] if step["kind"] == "peer")
    assert peer["public_key"] is None


def test_a_peer_without_an_endpoint_is_unreachable(machine: Namespace) -> None:
    write(machine, config().replace("Endpoint = 192.0.2.9:51820\n", ""))
    wgq(machine, "up", "wg0")
    found = traced(machine, "10.9.0.1")
    assert (found["verdict"], found["peer"], found["endpoint"]) == ("unreachable", PEERS[0], None)
    assert "EDESTADDRREQ" in found["reason"]


def test_an_endpoint_in_its_own_tunnel_is_a_loop(machine: Namespace) -> None:
    up(machine, "wg0", "AllowedIPs = 10.9.0.0/16")
    machine.run(["ip", "route", "add", "192.0.2.9", "dev", "wg0"])
    machine.run(["wg", "set", "wg0", "peer", PEERS[0], "allowed-ips", "10.9.0.0/16,192.0.2.9/32"])
    found = traced(machine, "10.9.0.1")
    assert (found["verdict"], found["uplink"]) == ("loop", "wg0")
    assert "192.0.2.9" in found["reason"]


def test_the_longest_allowed_ip_decides_on_the_peer(machine: Namespace) -> None:
    up(machine, "wg0", "AllowedIPs = 10.9.0.0/16")
    machine.run(["wg", "set", "wg0", "peer", PEERS[1], "allowed-ips", "10.9.7.0/24", "endpoint", "192.0.2.8:1"])
    assert traced(machine, "10.9.7.1")["peer"] == PEERS[1]
    assert traced(machine, "10.9.6.1")["peer"] == PEERS[0]


def test_the_mtu_of_the_uplink_limits_the_largest_packet(full: Namespace) -> None:
    full.run(["ip", "link", "set", "up0", "mtu", "1400"])
    assert traced(full, "198.51.100.7")["mtu"] == (1400 - 60) // 16 * 16


def test_a_strict_reverse_path_filter_on_the_uplink_is_reported(full: Namespace) -> None:
    full.run(["sysctl", "-q", "net.ipv4.conf.up0.rp_filter=1", "net.ipv4.conf.all.src_valid_mark=0"])
    full.run(["ip", "route", "add", "192.0.2.9", "via", "192.0.2.1", "dev", "up0", "table", "51820"])
    assert traced(full, "198.51.100.7")["reason"] in ("", "192.0.2.9 has not answered yet on up0")
    full.run(["ip", "route", "replace", "192.0.2.9", "dev", "wg0", "table", "51820"])
    full.run(["ip", "rule", "add", "pref", "3", "not", "fwmark", "51820", "lookup", "51820"])
    found = traced(full, "198.51.100.7")
    assert found["verdict"] == "delivered"
    assert "rp_filter is 1 on up0" in found["reason"]
    assert "src_valid_mark is 0" in found["reason"]
    full.run(["sysctl", "-q", "net.ipv4.conf.all.src_valid_mark=1"])
    assert "rp_filter" not in traced(full, "198.51.100.7")["reason"]


def test_an_incoming_packet_needs_forwarding(full: Namespace) -> None:
    found = traced(full, "198.51.100.7", "--iif", "up0", "--from", "192.0.2.77")
    assert (found["verdict"], "IPv4 forwarding is off" in found["reason"]) == ("dropped", True)
    full.run(["sysctl", "-q", "net.ipv4.ip_forward=1"])
    found = traced(full, "198.51.100.7", "--iif", "up0", "--from", "192.0.2.77")
    assert (found["verdict"], found["peer"], found["source"]) == ("delivered", PEERS[0], "192.0.2.77")


def test_the_other_ends_file_decides_about_the_source(unchanged: Namespace) -> None:
    own = unchanged.run(["wg", "pubkey"], input=KEY).stdout.strip()
    other = f"[Interface]\nAddress = 10.0.0.9/24\n[Peer]\nPublicKey = {own}\nAllowedIPs = "
    write(unchanged, other + "10.0.0.1/32\n", "good")
    write(unchanged, other + "10.0.0.2/32\n", "bad")
    write(unchanged, "[Interface]\nAddress = 10.0.0.9/24\n", "none")
    assert traced(unchanged, "198.51.100.7", "--peer-config", "good")["verdict"] == "delivered"
    found = traced(unchanged, "198.51.100.7", "--peer-config", "bad")
    assert (found["verdict"], "the source 10.0.0.1 is not in AllowedIPs" in found["reason"]) == ("dropped", True)
    assert (
        "no peer with this end's public key" in traced(unchanged, "198.51.100.7", "--peer-config", "none")["reason"]
    )


def test_a_link_in_another_namespace_is_followed_to_its_socket(machine: Namespace) -> None:
    up(machine, "wg0", "AllowedIPs = 10.9.0.0/16")
    own = os.readlink("/proc/self/ns/net")
    other = machine.popen(["unshare", "--net", "sleep", "600"])
    here = os.readlink(f"/proc/{machine.paths['net'].split('/')[2]}/ns/net")
    until(lambda: os.readlink(f"/proc/{other.pid}/ns/net") not in (here, own), "the other namespace")
    inside = ["nsenter", f"--net=/proc/{other.pid}/ns/net", "--"]
    machine.run(["ip", "link", "set", "wg0", "netns", str(other.pid)])
    for words in (
        "link set lo up",
        "addr add 10.0.0.1/24 dev wg0",
        "link set wg0 up",
        "route add 10.9.0.0/16 dev wg0",
    ):
        machine.run([*inside, "ip", *words.split()])
    printed = machine.out(*inside, *WGQ, "trace", "10.9.0.1")
    assert re.sub(r"^but .*\n", "", NEIGHBOUR.sub("", printed), flags=re.MULTILINE) == MOVED


def test_an_invalid_argument_is_an_error_with_a_remedy(unchanged: Namespace) -> None:
    for words in (["vpn.example.com"], ["10.0.0.1", "--iif", "none0"], ["10.0.0.1", "--peer-config", "absent"]):
        done = wgq(unchanged, "trace", *words, status=1)
        assert done.stdout == ""
        assert done.stderr.startswith("wgq: ")
        assert "Traceback" not in done.stderr


def test_special_destinations_agree_with_the_kernel(unchanged: Namespace) -> None:
    for address in ("0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", "::1", "ff02::1", "::", "fe80::1%up0"):
        answers = {step["kernel"] for step in traced(unchanged, address)["steps"] if "kernel" in step}
        assert answers == {"agrees"}, address


def test_up_warns_first_that_the_ssh_session_will_hang(machine: Namespace) -> None:
    write(machine, config(peer=FULL))
    far = wgq(machine, "up", "wg0", SSH_CONNECTION="203.0.113.7 50000 192.0.2.2 22").stderr.splitlines()
    wgq(machine, "down", "wg0")
    note = "[!] Your SSH session from 203.0.113.7 may hang: its replies will go into wg0"
    assert far[0] == f"{note} (`wgq try up wg0' rolls it back by itself)"
    near = wgq(machine, "up", "wg0", SSH_CONNECTION="192.0.2.7 50000 192.0.2.2 22").stderr
    assert "SSH" not in near
