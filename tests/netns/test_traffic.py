"""wgq's own settings: the kill switch, excluded networks, and inbound connections beside the tunnel.

A host has an uplink with a network (192.168.7.0/24, fd07::/64) and a router to everything else. A counter on the
uplink counts the packets that leave.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.interop.pairs import private_key
from tests.keys import public_key
from tests.namespaces import host
from tests.netns import name_server
from tests.netns.traffic import (
    COUNTER,
    ENDPOINT,
    MORE,
    OUTSIDE,
    guard_of,
    hosts,
    leaks,
    reaches,
    reload_with_probes,
    tables,
    tunnel,
)
from tests.netns.tunnels import FULL, config, journals, links, programs, rules, wgq, write
from tests.netns.watches import watching
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.namespaces import Namespace


@pytest.fixture
def machines() -> Iterator[tuple[Namespace, Namespace]]:
    with hosts() as made:
        yield made


def try_everything(machine: Namespace) -> None:
    """Send TCP, UDP, ICMP, fragments, multicast and raw packets of both families, bound to the uplink and unbound.

    Some have the tunnel's fwmark, and some are later fragments to the endpoint, which have no port.
    """
    script = f"""
import socket
def attempt(family, kind, proto, target, data, *options):
    try:
        with socket.socket(family, kind, proto) as s:
            s.settimeout(0.3)
            for level, name, value in options:
                s.setsockopt(level, name, value)
            if kind == socket.SOCK_STREAM:
                s.connect(target)
            else:
                s.sendto(data, target)
    except OSError:
        pass
bound = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"up0")
whole = (socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
marked = (socket.SOL_SOCKET, 36, 51820)  # SO_MARK
apart = (socket.IPPROTO_IP, 22, 1)  # IP_NODEFRAG
whole6 = (socket.IPPROTO_IPV6, 36, 1)  # IPV6_HDRINCL
header = bytes.fromhex("4500001c0001200040fd0000c0a80702") + socket.inet_aton("{OUTSIDE}") + b"12345678"
part = bytes.fromhex("4500001c0002000840110000c0a80702") + socket.inet_aton("{ENDPOINT}") + b"12345678"
near6, far6 = (socket.inet_pton(socket.AF_INET6, each) for each in ("fd07::2", "2001:db8:9::9"))
whole_packet6 = bytes.fromhex("600000000008fd40") + near6 + far6 + b"12345678"
part6 = bytes.fromhex("6000000000102c40") + near6 + far6 + bytes.fromhex("1100000900000001") + b"12345678"
echo, echo6 = bytes.fromhex("0800f7fe00010000"), bytes.fromhex("8000000000010000")
for options in ((), (bound,), (bound, marked)):
    attempt(socket.AF_INET, socket.SOCK_RAW, 17, ("{ENDPOINT}", 0), part, whole, apart, *options)
    for packet in (whole_packet6, part6):
        attempt(socket.AF_INET6, socket.SOCK_RAW, 255, ("2001:db8:9::9", 0), packet, whole6, *options)
    attempt(socket.AF_INET, socket.SOCK_RAW, 1, ("{OUTSIDE}", 0), echo, *options)
    attempt(socket.AF_INET6, socket.SOCK_RAW, 58, ("2001:db8:9::9", 0), echo6, *options)
    attempt(socket.AF_INET, socket.SOCK_DGRAM, 0, ("224.0.0.251", 5353), b"x", *options)
    group = ("ff02::fb", 5353, 0, socket.if_nametoindex("up0"))
    attempt(socket.AF_INET6, socket.SOCK_DGRAM, 0, group, b"x", *options)
    attempt(socket.AF_INET, socket.SOCK_DGRAM, 0, ("255.255.255.255", 9), b"x", (socket.SOL_SOCKET, 6, 1), *options)
    for family, address in ((socket.AF_INET, "{OUTSIDE}"), (socket.AF_INET6, "2001:db8:9::9")):
        attempt(family, socket.SOCK_STREAM, 0, (address, 80), b"", *options)
        attempt(family, socket.SOCK_DGRAM, 0, (address, 53), b"x" * 4000, *options)
        attempt(family, socket.SOCK_RAW, 253, (address, 0), b"x" * 100, *options)
    attempt(socket.AF_INET, socket.SOCK_RAW, 253, ("{OUTSIDE}", 0), header, whole, *options)
    attempt(socket.AF_INET, socket.SOCK_DGRAM, 0, ("{ENDPOINT}", 53), b"x", *options)
"""
    machine.run(["python3", "-c", script])


def test_the_kill_switch_lets_nothing_out_beside_the_tunnel(machines: tuple[Namespace, Namespace]) -> None:
    """It holds while up, with the daemon killed, without the link, and after a failed up; until down."""
    near, router = machines
    tunnel(near, router, "kill-switch = on")
    near.run(["nft", "-f", "-"], input=COUNTER)
    try_everything(near)
    before = leaks(near)
    assert before > 5  # the capture sees them
    wgq(near, "up", "wg0")
    assert reaches(near, "10.9.0.1")
    assert reaches(near, "fd09::1")
    sender = near.popen(["python3", "-c", SEND])  # during all that follows
    try_everything(near)
    assert leaks(near) == before
    near.run(["sed", "-i", "s/^Address/MTU = 1300\\n&/", "/etc/wireguard/wg0.conf"])
    wgq(near, "reload", "wg0")
    try_everything(near)
    assert leaks(near) == before
    (daemon,) = programs(near, "wgq-userspace")
    os.kill(daemon, signal.SIGKILL)
    until(lambda: "wg0" not in links(near), "the end of the link")
    try_everything(near)
    assert leaks(near) == before
    near.run(
        ["sh", "-c", "echo 'PostUp = exit 7' >/run/hook; sed -i '/^Address/r /run/hook' /etc/wireguard/wg0.conf"]
    )
    assert "wgq down wg0" in wgq(near, "up", "wg0", status=7).stderr
    assert wgq(near, "status").stdout.startswith(
        "wg0 is deleted, but its kill switch is still active: `wgq down wg0'"
    )
    assert '"standing_kill_switches": ["wg0"]' in wgq(near, "status", "--json").stdout
    assert "wg0" not in links(near)
    try_everything(near)
    near.run(["ip", "neighbour", "flush", "all"])
    near.run(["sed", "-i", "/PostUp/d", "/etc/wireguard/wg0.conf"])
    wgq(near, "up", "wg0")
    assert reaches(near, "10.9.0.1")  # ARP and neighbour discovery pass
    assert reaches(near, "fd09::1")
    assert leaks(near) == before
    sender.kill()
    sender.wait()
    wgq(near, "down", "wg0")
    assert tables(near) == []
    assert reaches(near, OUTSIDE)


def directed(machine: Namespace) -> list[str]:
    """wgq's own nft tables, and the excluded networks."""
    listed = [machine.out("nft", "list", *each.split()) for each in tables(machine)]
    routes = machine.out("ip", "route", "show", "table", "all", "type", "throw").splitlines()
    return [*listed, *sorted(routes)]


def test_a_reload_changes_all_under_the_kill_switch(machines: tuple[Namespace, Namespace]) -> None:
    """The endpoints of both families, by name, and of new peers change, the port, the mark and the extras too.

    No probe is lost between its steps, and nothing else leaves. Afterwards the kill switch and the other tables
    are as after `up` of the file.
    """
    near, router = machines
    near.run(["sh", "-c", "echo '203.0.113.9 vpn.example' >>/etc/hosts"])
    tunnel(near, router, extra="ListenPort = 51999\n")
    plain = near.out("cat", "/etc/wireguard/wg0.conf")
    kept = plain.replace("[Peer]", "# wgq: kill-switch = on\n[Peer]")
    text = kept.replace("[Peer]", "# wgq: exclude = lan, 198.51.100.0/24\n[Peer]")
    moved = kept.replace("51999", "51998\nFwMark = 77\n# wgq: keep-inbound = on\n# wgq: exclude = 198.51.100.8/29")
    near.run(["nft", "-f", "-"], input=COUNTER.replace("ip daddr 192.0.2.1 ", "meta mark { 51820, 77 } "))
    wgq(near, "up", "wg0")
    assert reaches(near, "10.9.0.1")
    beside = "from time import sleep\n" + SEND.replace("try:", "try:\n            sleep(0.001)")
    bound = beside.replace(
        "while", "for each, _ in sockets: each.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b'up0')\nwhile"
    )
    sender = near.popen(["python3", "-c", bound])  # during all that follows
    for wanted in (
        kept,
        text.replace(ENDPOINT, "[2001:db8:9::9]") + MORE,
        text.replace(ENDPOINT, "vpn.example") + MORE.replace("4000", "4001"),
        moved,
        plain,
        text,
    ):
        write(near, wanted)
        planned = wgq(near, "plan", "reload", "wg0", status=2).stdout
        lines, lost = near.call(reload_with_probes)
        assert [line for line in lines if line.startswith("[#]")] == [
            f"[#] {line[2:].partition('  #')[0].rstrip()}" for line in planned.splitlines() if line[0] in "+-~"
        ]
        assert lost == []
        reloaded = directed(near)
        assert "nothing to do" in wgq(near, "diff", "wg0").stderr
        if wanted == plain:
            until(lambda: leaks(near) > 0, "a packet beside the tunnel")
        else:
            assert leaks(near) == 0
        wgq(near, "down", "wg0")
        wgq(near, "up", "wg0")
        assert directed(near) == reloaded
        assert reaches(near, "10.9.0.1")
    sender.kill()
    sender.wait()
    assert wgq(near, "down", "wg0").stderr.count("kill switch") == 1
    assert tables(near) == []


def test_a_reload_resolves_a_new_name_under_the_kill_switch(machines: tuple[Namespace, Namespace]) -> None:
    """Only the tunnel's marked queries to the host's server leave; the host's resolver stays blocked.

    A plan asks once, and says that the address is not known.
    """
    near, router = machines
    near.run(["sh", "-c", "echo 'nameserver 192.168.7.1\noptions timeout:1 attempts:1' >/etc/resolv.conf"])
    tunnel(near, router, "kill-switch = on")
    text = near.out("cat", "/etc/wireguard/wg0.conf")
    passed = (
        f"ip daddr {OUTSIDE} udp dport 51820 accept\n ip daddr 192.168.7.1 meta mark 51820 udp dport 53 accept\n"
    )
    near.run(["nft", "-f", "-"], input=COUNTER.replace("counter name leaks", f"{passed} counter name leaks"))
    wgq(near, "up", "wg0")
    before = leaks(near)
    name_server.start(router, "192.168.7.1", vpn_example=OUTSIDE, far_example=ENDPOINT)
    for name, address in (("vpn.example", OUTSIDE), ("far.example", ENDPOINT)):
        write(near, text.replace(f"{ENDPOINT}:", f"{name}:"))
        wgq(near, "reload", "wg0", WG_ENDPOINT_RESOLUTION_RETRIES="0")
        assert f"{address}:51820" in near.out("wg", "show", "wg0", "endpoints")
        assert reaches(near, "10.9.0.1")
        assert wgq(near, "reload", "wg0").stderr == ""
    assert leaks(near) == before
    write(near, text.replace(f"{ENDPOINT}:", "none.example:"))
    guarded = guard_of(near)
    planned = wgq(near, "plan", "reload", "wg0", status=2)
    assert "none.example:51820 cannot be resolved now: its address is not known yet" in planned.stderr
    assert "endpoint none.example:51820" in planned.stdout
    wgq(near, "reload", "wg0", status=1, WG_ENDPOINT_RESOLUTION_RETRIES="0")
    assert guard_of(near) == guarded
    assert leaks(near) == before


def test_the_kill_switch_passes_what_hooks_set(machines: tuple[Namespace, Namespace]) -> None:
    """It passes an endpoint and a port right after `up`, before any watch or reload."""
    near, router = machines
    tunnel(near, router, "kill-switch = on")
    text = near.out("cat", "/etc/wireguard/wg0.conf")
    endpoint = f"Endpoint = {ENDPOINT}:51820"
    key = text.partition("PublicKey = ")[2].split()[0]
    for stage in ("PreUp", "PostUp"):
        port = "listen-port 51998" if stage == "PreUp" else ""
        hook = f"{stage} = wg set %i {port} peer {key} endpoint {ENDPOINT}:51820"
        write(near, text.replace(f"{endpoint}\n", "").replace("[Peer]", f"{hook}\n[Peer]"))
        wgq(near, "up", "wg0")
        assert f"{ENDPOINT} . 51820" in guard_of(near)
        assert ("udp sport 51998" in guard_of(near)) == bool(port)
        assert reaches(near, "10.9.0.1")
        assert wgq(near, "reload", "wg0").stderr == ""
        assert wgq(near, "down", "wg0").stderr.count("kill switch") == 1


def query(machine: Namespace, server: str, protocol: str = "DGRAM") -> str:
    """Send a DNS query with the tunnel's mark: sent, or refused by the kill switch."""
    family = "AF_INET6" if ":" in server else "AF_INET"
    script = f"""
from socket import *
s = socket({family}, SOCK_{protocol}); s.settimeout(60); s.setsockopt(SOL_SOCKET, SO_MARK, 51820)
s.connect(("{server}", 53)); s.send(b"x")
"""
    done = machine.run(["python3", "-c", script], check=False)
    is_refused = "Connection refused" in done.stderr  # by the router, which has no server
    return "sent" if done.returncode == 0 or (protocol == "STREAM" and is_refused) else "refused"


def test_the_kill_switch_passes_queries_to_the_hosts_servers(
    machines: tuple[Namespace, Namespace],
) -> None:
    """watch may query the servers that the host had before the tunnel, but only while an endpoint is a name."""
    near, router = machines
    servers = "nameserver 198.51.100.9\\nnameserver 2001:db8:9::53\\nnameserver 127.0.0.53"
    near.run(["sh", "-c", f"echo '{ENDPOINT} vpn.example' >>/etc/hosts; printf '{servers}\\n' >/etc/resolv.conf"])
    tunnel(near, router, "kill-switch = on", endpoint="vpn.example", extra="DNS = 10.9.0.1\nMTU = 1300\n")
    router.run(["ip", "address", "add", "2001:db8:9::53/128", "dev", "lo"])
    queries = "ip daddr 198.51.100.9 meta mark 51820 accept\n ip6 daddr 2001:db8:9::53 meta mark 51820 accept\n"
    near.run(["nft", "-f", "-"], input=COUNTER.replace("counter name leaks", f"{queries} counter name leaks"))
    wgq(near, "up", "wg0", "--dns", "file")
    before = leaks(near)
    try_everything(near)
    for other in (OUTSIDE, "192.168.7.1", ENDPOINT, "fd07::1"):
        assert query(near, other) == query(near, other, "STREAM") == "refused"
    assert leaks(near) == before
    for server in ("198.51.100.9", "2001:db8:9::53"):
        assert query(near, server) == query(near, server, "STREAM") == "sent"
    assert leaks(near) == before
    assert "nothing to do" in wgq(near, "plan", "reload", "wg0").stderr
    near.run(["sed", "-i.named", f"s/vpn.example/{ENDPOINT}/", "/etc/wireguard/wg0.conf"])
    wgq(near, "reload", "wg0")
    assert query(near, "198.51.100.9") == query(near, "2001:db8:9::53") == "refused"
    near.run(["mv", "/etc/wireguard/wg0.conf.named", "/etc/wireguard/wg0.conf"])
    wgq(near, "reload", "wg0")
    assert query(near, "198.51.100.9") == "sent"


DHCP_SERVER = f"""start 192.168.7.50
end 192.168.7.60
interface up1
lease_file /run/udhcpd.leases
pidfile /run/udhcpd.pid
opt subnet 255.255.255.0
opt router 192.168.7.1
opt staticroutes {OUTSIDE}/32 192.168.7.1, 198.51.100.0/24 192.168.7.1
"""
DHCP_CLIENT = """#!/bin/sh
[ "$1" = bound ] || exit 0
set -- $staticroutes
while [ $# -ge 2 ]; do ip route replace "$1" via "$2"; shift 2; done
"""


def test_routes_pushed_by_dhcp_do_not_open_the_kill_switch(machines: tuple[Namespace, Namespace]) -> None:
    """A DHCP server that pushes routes (option 121) leads packets past a tunnel without one (CVE-2024-3661)."""
    near, router = machines
    tunnel(near, router, "kill-switch = on")
    near.run(["nft", "-f", "-"], input=COUNTER.replace("accept\n", "accept\n        udp dport 67 accept\n", 1))
    wgq(near, "up", "wg0")
    router.run(["sh", "-c", "cat >/run/udhcpd.conf"], input=DHCP_SERVER)
    near.run(["sh", "-c", "cat >/run/lease; chmod +x /run/lease"], input=DHCP_CLIENT)
    router.run(["touch", "/run/udhcpd.leases"])
    router.popen(["busybox", "udhcpd", "-f", "/run/udhcpd.conf"])
    client = ["busybox", "udhcpc", "-f", "-q", "-n", "-t", "20"]  # 20 attempts in a minute
    near.run([*client, "-i", "up0", "-s", "/run/lease", "-O", "staticroutes"])
    assert "via 192.168.7.1 dev up0" in near.out("ip", "route", "get", OUTSIDE)
    try_everything(near)
    assert leaks(near) == 0
    assert reaches(near, "10.9.0.1")
    wgq(near, "down", "wg0")
    assert reaches(near, OUTSIDE)


def test_the_kill_switch_survives_a_killed_up(machines: tuple[Namespace, Namespace]) -> None:
    near, router = machines
    tunnel(near, router, "kill-switch = on", extra="PostUp = kill -9 $PPID\n")
    wgq(near, "up", "wg0", status=-9)
    assert tables(near) == ["table inet wgq-guard-wg0"]
    assert not reaches(near, OUTSIDE, "-I", "up0", seconds=2)
    wgq(near, "down", "wg0")
    assert tables(near) == []


def test_a_repeated_up_does_not_open_the_kill_switch_for_dns(machines: tuple[Namespace, Namespace]) -> None:
    """A name that was resolved before the kill switch keeps its address."""
    near, router = machines
    near.run(["sh", "-c", f"echo '{ENDPOINT} vpn.example' >>/etc/hosts"])
    tunnel(near, router, "kill-switch = on", endpoint="vpn.example", extra="PostUp = exit 7\n")
    wgq(near, "up", "wg0", status=7)
    near.run(["sh", "-c", "sed -i /vpn/d /etc/hosts; sed -i /PostUp/d /etc/wireguard/wg0.conf"])
    wgq(near, "up", "wg0")
    assert reaches(near, "10.9.0.1")
    wgq(near, "down", "wg0")
    assert tables(near) == []


def test_the_kill_switch_without_nft_fails_before_any_change(machine: Namespace) -> None:
    """Nothing remains for down to remove."""
    write(machine, f"[Interface]\n# wgq: kill-switch = on\nPrivateKey = {private_key()}\n")
    code = "import sys; from wgquick.system import programs; programs.find = lambda *_: None\n"
    code += "from wgquick.cli.main import run; sys.exit(run(['up', 'wg0']))"
    done = machine.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 1
    assert "cannot find nft" in done.stderr
    assert journals(machine) == ""


def test_inbound_connections_pass_the_kill_switch(machines: tuple[Namespace, Namespace]) -> None:
    """With keep-inbound, of a full tunnel or another one, and after a reload."""
    near, router = machines
    tunnel(near, router, "kill-switch = on", "keep-inbound = on")
    wgq(near, "up", "wg0")
    assert reaches(router, "192.168.7.2", "-I", OUTSIDE)
    near.run(["sed", "-i", "s/AllowedIPs = .*/AllowedIPs = 10.9.0.0\\/24/", "/etc/wireguard/wg0.conf"])
    wgq(near, "reload", "wg0")
    assert reaches(router, "192.168.7.2", "-I", OUTSIDE)
    near.run(["sed", "-i", f"s/{ENDPOINT}/{OUTSIDE}/", "/etc/wireguard/wg0.conf"])
    wgq(near, "reload", "wg0")
    assert reaches(router, "192.168.7.2", "-I", OUTSIDE)


def test_the_options_are_equivalent_to_the_lines_in_the_file(machines: tuple[Namespace, Namespace]) -> None:
    near, router = machines
    tunnel(near, router)
    wgq(near, "up", "--kill-switch", "--keep-inbound", "--exclude", "198.51.100.0/24,lan", "wg0")
    assert tables(near) == ["table inet wgq-guard-wg0", "table inet wgq-inbound-wg0"]
    assert "dev up0" in near.out("ip", "route", "get", "198.51.100.9")
    wgq(near, "down", "wg0")
    assert tables(near) == []


OPTIONS = (
    ("--kill-switch", "--exclude", "198.51.100.0/24,lan", "--keep-inbound", "--dns", "off"),
    ("--exclude", "lan", "--firewall", "iptables", "--dns", "off"),
    ("--netns", "vpn", "--dns", "off"),
)


def test_a_reload_keeps_the_options_of_up(machines: tuple[Namespace, Namespace]) -> None:
    """A reload without the options changes nothing. The file's own settings can still change."""
    near, router = machines
    tunnel(near, router, extra="DNS = 10.9.0.1\n")
    for options in OPTIONS:
        wgq(near, "up", *options, "wg0")
        for verb in (("plan", "up"), ("plan", "reload"), ("diff",), ("up", "--ensure")):
            assert "nothing to do" in wgq(near, *verb, "wg0").stderr
        assert wgq(near, "reload", "wg0").stderr == ""
        near.run(["sed", "-i", "s/^Address/MTU = 1300\\n&/", "/etc/wireguard/wg0.conf"])
        assert "mtu 1300" in wgq(near, "reload", "wg0").stderr
        assert wgq(near, "reload", "wg0").stderr == ""
        near.run(["sed", "-i", "/MTU/d", "/etc/wireguard/wg0.conf"])
        wgq(near, "down", "wg0")
    assert tables(near) == []


def test_a_setting_that_left_the_file_goes(machines: tuple[Namespace, Namespace]) -> None:
    """An option of up stays."""
    near, router = machines
    tunnel(near, router, "kill-switch = on", "keep-inbound = on")
    wgq(near, "up", "--exclude", "lan", "wg0")
    near.run(["sed", "-i", "/kill-switch/d", "/etc/wireguard/wg0.conf"])
    assert "- nft -f /dev/fd/63 # remove the kill switch" in wgq(near, "plan", "reload", "wg0", status=2).stdout
    wgq(near, "reload", "wg0")
    assert tables(near) == ["table inet wgq-inbound-wg0"]
    assert "throw 192.168.7.0/24" in near.out("ip", "route", "show", "table", "all", "type", "throw")
    assert "# kill switch of wg0" in wgq(near, "up", "--ensure", "--kill-switch", "wg0").stderr
    assert wgq(near, "reload", "wg0").stderr == ""
    near.run(["sed", "-i", "/keep-inbound/d", "/etc/wireguard/wg0.conf"])
    wgq(near, "reload", "wg0")
    assert tables(near) == ["table inet wgq-guard-wg0"]
    wgq(near, "down", "wg0")
    assert tables(near) == []


def test_down_removes_a_kill_switch_without_a_journal(machines: tuple[Namespace, Namespace]) -> None:
    near, router = machines
    tunnel(near, router, "kill-switch = on")
    wgq(near, "up", "wg0")
    near.run(["sh", "-c", "rm /run/wgq/*/wg0.journal; ip link delete wg0"])
    wgq(near, "down", "wg0")
    assert tables(near) == []


SEND = """
from socket import *
targets = (AF_INET, "203.0.113.9"), (AF_INET6, "2001:db8:9::9")
sockets = [(socket(family, SOCK_DGRAM), to) for family, to in targets]
while True:
    for socket, to in sockets:
        try:
            socket.sendto(b"x", (to, 9))
        except OSError:
            pass
"""


def test_a_restart_does_not_open_the_kill_switch(machines: tuple[Namespace, Namespace]) -> None:
    """The endpoint's name is not resolved again under it, although a reload has set it."""
    near, router = machines
    near.run(["sh", "-c", f"echo '{ENDPOINT} vpn.example' >>/etc/hosts"])
    tunnel(near, router, endpoint="vpn.example")
    path = "/etc/wireguard/wg0.conf"
    wgq(near, "up", "wg0")
    near.run(["nft", "-f", "-"], input=COUNTER)
    near.run(["sed", "-i", "s/^Address/# wgq: kill-switch = on\\n&/", path])
    wgq(near, "reload", "wg0")
    sender = near.popen(["python3", "-c", SEND])
    near.run(["sh", "-c", "sed /vpn/d /etc/hosts >/run/hosts; cat /run/hosts >/etc/hosts"])
    near.run(["sed", "-i", "s/^Address = /&10.9.0.3\\/32, /", path])
    assert "order of the IPv4 addresses" in wgq(near, "reload", "wg0", status=3).stderr
    before = leaks(near)
    wgq(near, "reload", "--or-restart", "wg0")
    assert leaks(near) == before
    sender.kill()
    sender.wait()
    assert reaches(near, "10.9.0.1", "-I", "10.9.0.2")
    wgq(near, "down", "wg0")
    assert tables(near) == []


def test_a_change_of_only_excluded_networks_is_applied(machines: tuple[Namespace, Namespace]) -> None:
    """Without a table of their own they are only in the kill switch."""
    near, router = machines
    tunnel(
        near,
        router,
        "exclude = lan, 198.51.100.0/24",
        "kill-switch = on",
        extra="Table = off\nListenPort = 51999\n",
    )
    wgq(near, "up", "wg0")
    assert wgq(near, "reload", "wg0").stderr == ""
    for edit, gone in (("s/lan, //", "192.168.7.0/24"), ("s/exclude = .*/exclude = lan/", "198.51.100.0/24")):
        near.run(["sed", "-i", edit, "/etc/wireguard/wg0.conf"])
        wgq(near, "reload", "wg0")
        assert gone not in guard_of(near)
        reloaded = directed(near)
        wgq(near, "down", "wg0")
        wgq(near, "up", "wg0")
        assert directed(near) == reloaded
    wgq(near, "down", "wg0")


def test_excluded_networks_follow_the_table(machines: tuple[Namespace, Namespace]) -> None:
    """Tunnels with a mark have them too. Without a table reload fails like `up`."""
    near, router = machines
    tunnel(near, router, "exclude = 198.51.100.0/24", extra="Table = 77\nFwMark = 9\n")
    wgq(near, "up", "wg0")
    throws = ("ip", "route", "show", "table", "all", "type", "throw")
    assert "198.51.100.0/24 table 77" in near.out(*throws)
    near.run(["sed", "-i", "s/Table = 77/Table = 78/", "/etc/wireguard/wg0.conf"])
    wgq(near, "reload", "wg0")
    assert "198.51.100.0/24 table 78" in near.out(*throws)
    assert "table 77" not in near.out(*throws)
    near.run(["sed", "-i", "s/Table = 78//; s/0.0.0.0.0, //", "/etc/wireguard/wg0.conf"])
    wgq(near, "reload", "wg0")
    assert near.out(*throws) == ""  # a full tunnel of IPv6 alone
    near.run(["sed", "-i", "s/FwMark/Table = 78\\n&/", "/etc/wireguard/wg0.conf"])
    wgq(near, "reload", "wg0")
    assert "198.51.100.0/24 table 78" in near.out(*throws)
    near.run(["sed", "-i", "s/Table = 78/Table = off/", "/etc/wireguard/wg0.conf"])
    for verb in (("reload",), ("reload", "--or-restart"), ("plan", "reload"), ("up", "--ensure")):
        assert "exclude needs a separate routing table" in wgq(near, *verb, "wg0", status=1).stderr
    wgq(near, "down", "wg0")
    assert near.out(*throws) == ""


def test_kept_connections_have_a_mark_of_their_own(machines: tuple[Namespace, Namespace]) -> None:
    """The tunnel's mark may use the same bit."""
    near, router = machines
    tunnel(near, router, "keep-inbound = on", "kill-switch = on", extra="FwMark = 0x40000000\n")
    wgq(near, "up", "wg0")
    assert reaches(router, "192.168.7.2", "-I", OUTSIDE)
    assert " 0x00000000" not in near.out("nft", "list", "ruleset")
    wgq(near, "down", "wg0")


def test_a_kill_switch_names_the_other_tunnels_it_stops(machine: Namespace) -> None:
    write(machine, config(), "wg1")
    wgq(machine, "up", "wg1")
    write(machine, config("# wgq: kill-switch = on", FULL))
    assert "[!] The kill switch of wg0 blocks the packets of wg1" in wgq(machine, "up", "wg0").stderr


def test_two_kill_switches_let_each_other_pass(machines: tuple[Namespace, Namespace]) -> None:
    """Both tunnels work in either order, and each works after the other is removed. No other packet leaves."""
    near, router = machines
    tunnel(near, router, "kill-switch = on")
    keys = private_key(), private_key()
    far = f"[Interface]\nPrivateKey = {keys[1]}\nListenPort = 51821\nAddress = 10.19.0.1/24\n"
    write(router, f"{far}[Peer]\nPublicKey = {public_key(keys[0])}\nAllowedIPs = 10.19.0.2/32\n", "far1")
    wgq(router, "up", "far1")
    text = f"[Interface]\n# wgq: kill-switch = on\nPrivateKey = {keys[0]}\nAddress = 10.19.0.2/24\n"
    peer = f"Endpoint = {ENDPOINT}:51821\nAllowedIPs = 10.19.0.0/24\n"
    write(near, f"{text}[Peer]\nPublicKey = {public_key(keys[1])}\n{peer}", "wg1")
    near.run(["nft", "-f", "-"], input=COUNTER.replace("dport 51820", "dport { 51820, 51821 }"))
    for first, second in (("wg0", "wg1"), ("wg1", "wg0")):
        wgq(near, "up", first)
        before = leaks(near)
        assert "lets nothing of" not in wgq(near, "up", second).stderr
        assert tables(near) == ["table inet wgq-guard-wg0", "table inet wgq-guard-wg1"]
        assert reaches(near, "10.9.0.1")
        assert reaches(near, "10.19.0.1")
        try_everything(near)
        assert leaks(near) == before
        wgq(near, "down", first)
        assert "51820" not in near.out("nft", "list", "table", "inet", "wgq-guard-wg1") if first == "wg0" else True
        assert reaches(near, "10.19.0.1" if first == "wg0" else "10.9.0.1")
        assert not reaches(near, OUTSIDE, "-I", "up0", seconds=2)
        try_everything(near)
        assert leaks(near) == before
        wgq(near, "down", second)
        assert tables(near) == []


AT_ONCE = """
import os
import re
from wgquick.net import Guard, Prefix
from wgquick.system.firewall import traffic
def at_once(work):
    start, go = os.pipe(); children = []
    for number in (0, 1):
        child = os.fork()
        if not child:
            os.close(go); os.read(start, 1)
            try:
                work(number)
            except Exception as error:
                print(error, flush=True); os._exit(1)
            os._exit(0)
        children.append(child)
    os.close(start); os.close(go)
    return [os.waitpid(child, 0)[1] for child in children] == [0, 0]
wanted = [Guard(0, 0, ((Prefix.parse("192.0.2.1/32"), 51820 + n),), (), False) for n in (0, 1)]
for turn in range(ROUNDS):
    assert at_once(lambda n: traffic.guard(f"wg{n}", wanted[n])), "guard failed"
    for n in (0, 1):
        others = traffic._listed("chain", "inet", f"wgq-guard-wg{n}", "others-output")
        assert f"192.0.2.1 . {51820 + 1 - n}" in others, (turn, n, others)
    if turn % 2:
        assert at_once(lambda n: traffic.remove_guard(f"wg{n}")), "remove failed"
        assert "wgq-guard" not in traffic._listed("tables")
"""


def test_kill_switches_set_at_once_let_each_other_pass(machine: Namespace) -> None:
    """Each has rules for the other, and does not fail if the other is removed at the same time."""
    done = machine.run([sys.executable, "-c", AT_ONCE.replace("ROUNDS", "30")], check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_failed_lookup_sets_the_kill_switch(machines: tuple[Namespace, Namespace]) -> None:
    """No packet leaves then. The next up queries the uplink's DNS server, and no other packet leaves."""
    near, router = machines
    tunnel(near, router, "kill-switch = on", endpoint="vpn.example")
    near.run(
        ["nft", "-f", "-"],
        input=COUNTER.replace("counter name", "ip daddr 192.168.7.1 udp dport 53 accept\n counter name"),
    )
    near.run(["sh", "-c", "echo 'nameserver 192.168.7.1\noptions timeout:1 attempts:1' >/etc/resolv.conf"])
    environment = {"WG_ENDPOINT_RESOLUTION_RETRIES": "0"}
    transcript = wgq(near, "up", "wg0", status=1, **environment).stderr
    assert "[!] The kill switch stays: `wgq down wg0' removes it" in transcript
    assert tables(near) == ["table inet wgq-guard-wg0"]
    before = leaks(near)
    try_everything(near)
    assert leaks(near) == before
    others = near.popen(["python3", "-c", SEND.replace("(to, 9)", "(to, 53)")])  # queries to other servers
    wgq(near, "up", "wg0", status=1, **environment)
    assert "dport { 53" not in near.out("nft", "list", "ruleset")
    answer = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("192.168.7.1", 53)); print("ready", flush=True)
while True:
    q, a = s.recvfrom(512); end = q.index(b"\\0", 12) + 5; is_a = q[end - 4 : end - 2] == b"\\0\\1"
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + socket.inet_aton("{ENDPOINT}")
    head = q[:2] + b"\\x81\\x80\\0\\1\\0" + bytes([is_a]) + b"\\0" * 4
    s.sendto(head + q[12:end] + is_a * record, a)
"""
    with router.popen(["python3", "-c", answer], stdout=-1) as server:
        assert server.stdout is not None
        server.stdout.readline()
        wgq(near, "up", "wg0")
        server.kill()
    assert leaks(near) == before
    others.kill()
    others.wait()
    assert reaches(near, "10.9.0.1")
    wgq(near, "down", "wg0")
    assert tables(near) == []


def test_a_network_in_allowed_ips_cannot_be_excluded(machine: Namespace) -> None:
    write(machine, config("# wgq: kill-switch = on\n# wgq: exclude = 0.0.0.0/0", FULL))
    assert "is excluded, and a peer has it in AllowedIPs" in wgq(machine, "up", "wg0", status=1).stderr
    assert tables(machine) == []


def test_interface_names_invalid_in_nft_get_distinct_tables(machine: Namespace) -> None:
    text = f"[Interface]\n# wgq: kill-switch = on\nPrivateKey = {private_key()}\n"
    for name in ("a=b", "a-3d-b"):
        write(machine, text, name)
        wgq(machine, "up", name)
    assert tables(machine) == ["table inet wgq-guard-a-3d-b", "table inet wgq-guard-a/3d/b"]
    for name in ("a=b", "a-3d-b"):
        wgq(machine, "down", name)
    assert tables(machine) == []


def test_excluded_networks_stay_outside_the_tunnel(machines: tuple[Namespace, Namespace]) -> None:
    near, router = machines
    tunnel(near, router, "exclude = lan, 198.51.100.0/24", "kill-switch = on")
    before = rules(near)
    planned = wgq(near, "plan", "up", "wg0", status=2).stdout.splitlines()
    assert next(line for line in planned if " throw " in line).endswith("# wg0.conf:2")
    assert next(line for line in planned if "kill switch" in line).endswith("# wg0.conf:3")
    wgq(near, "up", "wg0")
    assert "dev up0" in near.out("ip", "route", "get", "198.51.100.9")
    assert "dev wg0" in near.out("ip", "route", "get", OUTSIDE)
    assert reaches(near, "198.51.100.9")
    assert reaches(near, "192.168.7.1")
    assert not reaches(near, OUTSIDE, "-I", "up0", seconds=2)
    assert reaches(near, "10.9.0.1")
    assert "error" not in wgq(near, "doctor", "wg0").stdout
    wgq(near, "down", "wg0")
    assert near.out("ip", "route", "show", "table", "all", "type", "throw") == ""
    assert rules(near) == before


def test_a_reload_restores_what_another_program_removed(machines: tuple[Namespace, Namespace]) -> None:
    """It restores the kill switch, then excluded networks and the rules of keep-inbound, without restart."""
    near, router = machines
    tunnel(near, router, "exclude = 198.51.100.0/24, lan", "kill-switch = on", "keep-inbound = on")

    def state() -> list[str]:
        texts = rules(near), near.out("nft", "list", "ruleset"), near.out("ip", "route", "show", "table", "51820")
        return [re.sub(r"^\d+:", "", line) for text in texts for line in text.splitlines()]

    wgq(near, "up", "wg0")
    before = state()
    near.run(["nft", "-f", "-"], input=COUNTER)
    flush = "nft delete table inet wgq-guard-wg0; nft delete table inet wgq-inbound-wg0; ip link set wg0 down"
    flush += "; ip route flush table 51820; ip rule del table 51820; ip -6 rule del table 51820"
    near.run(["sh", "-c", flush])
    planned = wgq(near, "plan", "up", "wg0", status=2).stdout
    assert planned.startswith("+ nft -f /dev/fd/63 # kill switch of wg0")
    assert "ip link delete" not in planned
    transcript = wgq(near, "up", "--ensure", "wg0").stderr
    assert "# kill switch of wg0" in transcript
    assert "ip -4 route add throw 198.51.100.0/24 table 51820" in transcript
    near.run(["nft", "delete", "table", "netdev", "capture"])
    assert sorted(state()) == sorted(before)
    assert "nothing to do" in wgq(near, "plan", "reload", "wg0").stderr
    assert reaches(near, "10.9.0.1")


def test_watch_follows_the_lan(machines: tuple[Namespace, Namespace], tmp_path: Path) -> None:
    near, router = machines
    tunnel(near, router, "exclude = lan", "kill-switch = on")
    router.run(["ip", "address", "add", "192.168.8.1/24", "dev", "up1"])
    wgq(near, "up", "wg0")
    with watching(near, tmp_path) as watch:
        near.run(["ip", "address", "add", "192.168.8.2/24", "dev", "up0"])
        assert "192.168.8.0/24" in watch.await_event("exclude-changed")["text"]
        assert reaches(near, "192.168.8.1")
        assert reaches(near, "192.168.7.1")
        near.run(["ip", "address", "del", "192.168.8.2/24", "dev", "up0"])
        until(lambda: len(watch.events("exclude-changed")) > 1, "the end of the network")
    assert "192.168.8" not in near.out("nft", "list", "ruleset") + near.out("ip", "route", "show", "table", "all")
    assert wgq(near, "reload", "wg0").stderr == ""
    wgq(near, "down", "wg0")
    assert near.out("ip", "route", "show", "table", "all", "type", "throw") == ""
    assert tables(near) == []


@pytest.mark.parametrize("filter_mode", ["0", "1"])
def test_inbound_connections_are_answered_through_the_uplink(
    machines: tuple[Namespace, Namespace], filter_mode: str
) -> None:
    """TCP, UDP and ICMP of both families, also with a strict reverse path filter; and not without keep-inbound."""
    near, router = machines
    for key in ("all", "up0"):
        near.run(["sysctl", "-q", f"net.ipv4.conf.{key}.rp_filter={filter_mode}"])
    tunnel(near, router)
    wgq(near, "up", "wg0")
    assert not reaches(router, "192.168.7.2", "-I", OUTSIDE, seconds=2)
    wgq(near, "down", "wg0")
    near.run(["sed", "-i", "s/^.Interface.$/&\\n# wgq: keep-inbound = on/", "/etc/wireguard/wg0.conf"])
    wgq(near, "up", "wg0")
    assert reaches(router, "192.168.7.2", "-I", OUTSIDE)
    assert reaches(router, "fd07::2", "-I", "2001:db8:9::9")
    assert exchange(near, router, "tcp") == exchange(near, router, "udp") == "pong"
    assert "dev wg0" in near.out("ip", "route", "get", OUTSIDE)
    assert reaches(near, "10.9.0.1")
    wgq(near, "down", "wg0")
    assert tables(near) == []


TALK = f"""
import socket, sys
if sys.argv[1] == "serve":
    s = socket.socket(); s.bind(("192.168.7.2", 7000)); s.listen(); print("ready", flush=True)
    c, _ = s.accept()
    while data := c.recv(9): c.send(data)
s = socket.socket(); s.settimeout(60); s.bind(("{OUTSIDE}", 0)); s.connect(("192.168.7.2", 7000))
for line in sys.stdin:
    s.send(b"x"); print(s.recv(9).decode(), flush=True)
"""


def test_connections_older_than_keep_inbound_are_kept(machines: tuple[Namespace, Namespace]) -> None:
    """One with an entry in conntrack already, over a reload into a full tunnel, and over a change of the mark."""
    near, router = machines
    near.run(
        ["nft", "-f", "-"],
        input="table inet f {\nchain i {\ntype filter hook input priority 0\nct state new\n}\n}\n",
    )
    tunnel(near, router)
    path = "/etc/wireguard/wg0.conf"
    full = near.out("cat", path)
    write(near, full.replace("0.0.0.0/0, ::/0", "10.9.0.0/24"))
    wgq(near, "up", "wg0")
    server = near.popen(["python3", "-c", TALK, "serve"], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    client = router.popen(["python3", "-c", TALK, "ask"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin is not None
    assert client.stdout is not None
    for more in (
        "",
        "# wgq: keep-inbound = on\n# wgq: kill-switch = on\n",
        "FwMark = 77\n# wgq: keep-inbound = on\n",
    ):
        if more:
            write(near, full.replace("[Interface]\n", f"[Interface]\n{more}"))
            wgq(near, "reload", "wg0")
        client.stdin.write(b"\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"x\n", more
    for process in (client, server):
        process.kill()
        process.communicate()


def exchange(near: Namespace, router: Namespace, protocol: str) -> str:
    """The second answer of a server on `near` to a client outside, on one connection."""
    kind = "SOCK_STREAM" if protocol == "tcp" else "SOCK_DGRAM"
    serve = f"""
import socket
s = socket.socket(socket.AF_INET, socket.{kind}); s.bind(("192.168.7.2", 7000))
if s.type == socket.SOCK_STREAM: s.listen()
print("ready", flush=True)
if s.type == socket.SOCK_STREAM:
    c, _ = s.accept()
    for _ in range(2): c.recv(9); c.send(b"pong")
    c.recv(9)
else:
    for _ in range(2): _, a = s.recvfrom(9); s.sendto(b"pong", a)
"""
    ask = f"""
import socket
s = socket.socket(socket.AF_INET, socket.{kind}); s.settimeout(60); s.bind(("{OUTSIDE}", 0))
s.connect(("192.168.7.2", 7000)); s.send(b"ping"); s.recv(9); s.send(b"ping"); print(s.recv(9).decode())
"""
    near.run(["sh", "-c", "rm -f /run/ready"])
    server = near.popen(["sh", "-c", 'exec python3 -c "$1" >/run/ready', "sh", serve])
    until(lambda: "ready" in near.run(["cat", "/run/ready"], check=False).stdout, "the server")
    try:
        return router.out("python3", "-c", ask).strip()
    finally:
        server.kill()
        server.wait()


LINK6 = "addr add fd30::{0}/64 dev {1} nodad\nlink set {1} up\n"


def test_a_forwarded_connection_goes_into_the_tunnel(machines: tuple[Namespace, Namespace]) -> None:
    """For example a container's: keep-inbound marks only connections to the host itself.

    With a kill switch nothing of it leaves by the uplink when the tunnel dies, until down.
    """
    near, router = machines
    tunnel(near, router, "keep-inbound = on")
    near.run(["ip", "link", "add", "c0", "type", "veth", "peer", "name", "c1"])
    with host() as container:
        near.run(["ip", "link", "set", "c1", "netns", container.paths["net"].split("/")[2]])
        near.run(["ip", "-batch", "-"], input=f"addr add 172.30.0.1/24 dev c0\n{LINK6.format(1, 'c0')}")
        script = f"addr add 172.30.0.2/24 dev c1\n{LINK6.format(2, 'c1')}"
        script += "route add default via 172.30.0.1\nroute add default via fd30::1\n"
        container.run(["ip", "-batch", "-"], input=script)
        near.run(["sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        near.run(["nft", "-f", "-"], input=COUNTER)
        wgq(near, "up", "wg0")
        before = leaks(near)
        send = "from socket import *; s = socket(AF_INET, SOCK_DGRAM)\nfor _ in range(5): s.sendto(b'x', ('{}', 9))"
        scripts = [send.format(OUTSIDE), send.format("2001:db8:9::9").replace("AF_INET", "AF_INET6")]
        container.run(["python3", "-c", scripts[0]])
        assert not reaches(container, OUTSIDE, seconds=2)
        assert leaks(near) == before
        near.run(["sed", "-i", "s/^Address/# wgq: kill-switch = on\\n&/", "/etc/wireguard/wg0.conf"])
        wgq(near, "reload", "wg0")
        assert reaches(container, "172.30.0.1")
        (daemon,) = programs(near, "wgq-userspace")
        os.kill(daemon, signal.SIGKILL)  # the uplink has the default route again
        until(lambda: "wg0" not in links(near), "the end of the link")
        for each in scripts:
            container.run(["python3", "-c", each])
        assert not reaches(container, OUTSIDE, seconds=2)
        assert not reaches(container, "2001:db8:9::9", seconds=2)
        assert leaks(near) == before
        wgq(near, "down", "wg0")

        def leaves(program: str) -> bool:
            container.run(["python3", "-c", program])
            return leaks(near) > before

        for each in scripts:
            before = leaks(near)
            until(partial(leaves, each), "a packet of each family after down")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("# wgq: kill-switch = perhaps", "wg0.conf:2:22: "),
        ("# wgq: killswitch = on", "wg0.conf:2:8: "),
        ("# wgq: exclude = 10.0.0.1/8", "wg0.conf:2:18: "),
        ("#wgq:exclude=lan,home", "wg0.conf:2:18: "),
    ],
)
def test_an_invalid_setting_is_an_error_with_its_place(machine: Namespace, line: str, words: str) -> None:
    write(machine, f"[Interface]\n{line}\nPrivateKey = {private_key()}\n")
    assert words in wgq(machine, "up", "wg0", status=1).stderr
    assert "wg0" not in links(machine)


def test_exclude_without_the_tunnels_own_table_is_refused(machine: Namespace) -> None:
    text = f"[Interface]\n# wgq: exclude = 10.1.0.0/16\nPrivateKey = {private_key()}\nAddress = 10.0.0.1/32\n"
    write(machine, f"{text}[Peer]\nPublicKey = {public_key(private_key())}\nAllowedIPs = 10.0.0.0/8\n")
    assert "wgq allowed-ips" in wgq(machine, "up", "wg0", status=1).stderr
    assert "wg0" not in links(machine)
