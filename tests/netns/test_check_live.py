"""`wgq check --live`: each code on a host with that fault, and none on a host without it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.interop.pairs import private_key
from tests.keys import public_key
from tests.namespaces import host
from tests.netns.tunnels import WGQ, await_carriers, wgq, write
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

ADDRESS = "Address = 10.9.0.2/24"
UPLINK = """
link add up0 type veth peer name up1
link set lo up
link set up0 up
link set up1 up
addr add 192.168.7.2/24 dev up0
route add default via 192.168.7.1
"""


@pytest.fixture
def machine() -> Iterator[Namespace]:
    """A host with an uplink and a default route, and no name server that answers."""
    with host() as made:
        made.run(["ip", "-batch", "-"], input=UPLINK)
        await_carriers(made)
        made.run(["sh", "-c", "echo nameserver 127.0.0.1 >/etc/resolv.conf"])
        yield made


def text(*interface: str, allowed: str = "10.9.0.0/24", peer: str = "Endpoint = 192.0.2.1:51820") -> str:
    head = "\n".join(("[Interface]", f"PrivateKey = {private_key()}", *(interface or (ADDRESS,))))
    tail = f"PublicKey = {public_key(private_key())}\nAllowedIPs = {allowed}\n{peer}\n"
    return f"{head}\n[Peer]\n{tail}"


def codes(machine: Namespace, *names: str, path: str = "") -> list[tuple[str, int]]:
    """The codes of errors and warnings, with their lines."""
    environment = ["env", f"PATH={path}"] if path else []
    done = machine.run([*environment, *WGQ, "check", "--live", "--json", *(names or ("wg0",))], check=False)
    assert done.stderr == ""
    found = json.loads(done.stdout)["findings"]
    loud = [(each["code"], each["line"]) for each in found if each["severity"] != "info"]
    assert done.returncode == bool(loud)
    assert all(each["remedy"] for each in found)
    return loud


def test_a_suitable_host_gives_no_finding(machine: Namespace) -> None:
    hooks = "PostUp = sysctl -q net.ipv4.ip_forward=1; iptables -A FORWARD -i %i -o up0 -j ACCEPT"
    undo = "PostDown = iptables -D FORWARD -i %i -o up0 -j ACCEPT"
    write(machine, text(ADDRESS, "ListenPort = 51820", hooks, undo, peer=""))
    assert codes(machine) == []
    write(machine, text(ADDRESS, "DNS = 10.9.0.1", allowed="0.0.0.0/0"))
    assert codes(machine) == []
    wgq(machine, "up", "wg0", "--dns", "file")
    assert codes(machine) == []


def test_without_live_the_host_is_not_examined(machine: Namespace) -> None:
    write(machine, text("Address = 192.168.7.9/24"))
    found = machine.run([*WGQ, "check", "--json", "wg0"], check=False).stdout
    assert "net-in-use" not in found


def test_a_port_in_use_is_reported_with_its_program(machine: Namespace) -> None:
    code = "import time; from socket import *; s = socket(type=SOCK_DGRAM); s.bind(('', 51820)); time.sleep(600)"
    taker = machine.popen(["python3", "-c", code])
    try:
        until(lambda: "51820" in machine.out("ss", "-uln"), "the port")
        write(machine, text(ADDRESS, "ListenPort = 51820"))
        assert codes(machine) == [("port-in-use", 4)]
        assert "by python3" in machine.run([*WGQ, "check", "--live", "wg0"], check=False).stdout
    finally:
        taker.kill()
        taker.wait()


@pytest.mark.parametrize(
    ("address", "allowed", "line"),
    [
        ("192.168.7.9/24", "192.168.7.0/24", 3),
        ("10.9.0.2/24", "10.9.0.0/24, 192.168.7.0/24", 6),
        ("10.9.0.2/24", "10.9.0.0/24, 10.44.0.0/16", 6),
    ],
)
def test_a_network_of_the_host_is_in_use(machine: Namespace, address: str, allowed: str, line: int) -> None:
    machine.run(["ip", "route", "add", "10.44.0.0/16", "via", "192.168.7.1"])
    write(machine, text(f"Address = {address}", allowed=allowed))
    assert codes(machine) == [("net-in-use", line)]


def test_a_more_specific_route_shadows_the_tunnel(machine: Namespace) -> None:
    machine.run(["ip", "route", "add", "10.44.5.0/24", "via", "192.168.7.1"])
    write(machine, text(allowed="10.9.0.0/24, 10.44.0.0/16"))
    assert codes(machine) == [("route-shadowed", 6)]


def test_an_unresolvable_endpoint_is_reported(machine: Namespace) -> None:
    write(machine, text(peer="Endpoint = vpn.invalid:51820"))
    assert codes(machine) == [("endpoint-unresolved", 7)]


def test_an_endpoint_without_a_route_is_reported(machine: Namespace) -> None:
    machine.run(["ip", "route", "add", "unreachable", "192.0.2.0/24"])
    write(machine, text())
    assert codes(machine) == [("endpoint-no-route", 7)]
    write(machine, text(peer="Endpoint = [2001:db8::1]:51820"))
    assert codes(machine) == [("endpoint-no-route", 7)]


def test_a_firewall_that_drops_the_port_is_reported(machine: Namespace) -> None:
    chain = "type filter hook input priority 0; policy drop; ct state established accept;"
    machine.run(["nft", "-f", "-"], input=f"table inet f {{\nchain input {{ {chain} }}\n}}\n")
    write(machine, text(ADDRESS, "ListenPort = 51820", peer=""))
    assert codes(machine) == [("input-blocked", 4)]
    machine.run(["nft", "insert", "rule", "inet", "f", "input", "udp", "dport", "51820", "accept"])
    assert codes(machine) == []


def test_disabled_forwarding_is_reported_at_the_hook(machine: Namespace) -> None:
    hook = "iptables -{} FORWARD -i %i -j ACCEPT"
    lines = f"PostUp = {hook.format('A')}", f"PostDown = {hook.format('D')}"
    write(machine, text(ADDRESS, "ListenPort = 51820", *lines, peer=""))
    assert codes(machine) == [("forwarding-off", 5)]
    machine.run(["sysctl", "-q", "net.ipv4.ip_forward=1"])
    assert codes(machine) == []


def test_a_hook_with_a_missing_link_is_reported(machine: Namespace) -> None:
    hook = "iptables -t nat -{} POSTROUTING -s 10.9.0.0/24 -o eth0 -j MASQUERADE"
    lines = f"PostUp = sysctl -q net.ipv4.ip_forward=1; {hook.format('A')}", f"PostDown = {hook.format('D')}"
    write(machine, text(ADDRESS, *lines))
    assert codes(machine) == [("hook-no-such-link", 4)]
    machine.run(["ip", "link", "set", "up1", "down", "name", "eth0"])
    assert codes(machine) == []


def test_a_file_from_the_future_means_a_wrong_clock(machine: Namespace) -> None:
    write(machine, text())
    machine.run(["touch", "-d", "2 days", "/etc/wireguard/wg0.conf"])
    assert codes(machine) == [("clock-wrong", 1)]


def test_disabled_ipv6_is_reported(machine: Namespace) -> None:
    machine.run(["sysctl", "-q", "net.ipv6.conf.all.disable_ipv6=1"])
    write(machine, text("Address = 10.9.0.2/24, fd09::2/64", allowed="10.9.0.0/24, fd09::/64"))
    assert codes(machine) == [("no-ipv6", 3)]


def test_a_saveconfig_file_unlike_the_device_is_reported(machine: Namespace) -> None:
    write(machine, text(ADDRESS, "SaveConfig = true"))
    wgq(machine, "up", "wg0")
    assert codes(machine) == []
    machine.run(
        [
            "wg",
            "set",
            "wg0",
            "listen-port",
            "51999",
            "peer",
            public_key(private_key()),
            "allowed-ips",
            "10.9.0.7/32",
        ]
    )
    assert codes(machine) == [("save-config-differs", 4)]


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/etc/systemd/network/wg.netdev", "[NetDev]\nName=wg0\nKind=wireguard\n[WireGuard]\n"),
        (
            "/etc/NetworkManager/system-connections/a b.nmconnection",
            "[connection]\nid=a b\ntype=wireguard\ninterface-name=wg0\n",
        ),
    ],
)
def test_another_program_with_the_interface_is_reported(machine: Namespace, path: str, content: str) -> None:
    write(machine, text())
    machine.run(["sh", "-c", 'mkdir -p "$(dirname "$1")"; cat >"$1"', "sh", path], input=content)
    assert codes(machine) == [("managed-twice", 1)]
    machine.run(["sed", "-i", "s/wg0/wg1/", path])
    assert codes(machine) == []


def test_wg_quicks_unit_beside_wgq_is_reported(machine: Namespace) -> None:
    wanted = "/etc/systemd/system/multi-user.target.wants"
    machine.run(["sh", "-c", f"mkdir -p {wanted}; ln -s /dev/null {wanted}/wg-quick@wg0.service"])
    write(machine, text())
    assert codes(machine) == []
    wgq(machine, "up", "wg0")
    assert codes(machine) == [("managed-twice", 1)]


def test_strict_rp_filter_with_a_read_only_proc_is_reported(machine: Namespace) -> None:
    """src_valid_mark cannot be set then, and the filter drops a full tunnel's packets."""
    machine.run(["sysctl", "-q", "net.ipv4.conf.up0.rp_filter=1"])
    write(machine, text(ADDRESS, "DNS = 10.9.0.1", allowed="0.0.0.0/0"))
    assert codes(machine) == []
    machine.run(["mount", "--bind", "-o", "ro", "/proc/sys", "/proc/sys"])
    assert codes(machine) == [("rp-filter", 7)]


def test_dns_without_a_way_to_set_it_is_reported(machine: Namespace) -> None:
    machine.run(["mkdir", "/run/empty"])
    write(machine, text(ADDRESS, "DNS = 10.9.0.1"))
    assert codes(machine, path="/run/empty") == []
    machine.run(["mount", "--bind", "-o", "ro", "/etc/resolv.conf", "/etc/resolv.conf"])
    assert codes(machine, path="/run/empty") == [("dns-no-resolver", 4)]


def test_firewallds_filter_is_reported_for_a_tunnel_of_wg_quick(machine: Namespace) -> None:
    """wgq adds rules that let the packets pass, so for its own tunnel this is only an info."""
    machine.run(["ip", "-6", "address", "add", "fd07::2/64", "dev", "up0", "nodad"])
    machine.run(["ip", "-6", "route", "add", "default", "via", "fd07::1"])
    rule = "meta nfproto ipv6 fib saddr . mark . iif oif missing drop"
    chain = f"chain filter_PREROUTING {{\ntype filter hook prerouting priority -140; policy accept; {rule}\n}}"
    machine.run(["nft", "-f", "-"], input=f"table inet firewalld {{\n{chain}\n}}\n")
    write(machine, text("Address = fd09::2/64", allowed="::/0", peer="Endpoint = [2001:db8::1]:51820"))
    assert codes(machine) == []
    assert "firewalld-rpfilter" in machine.run([*WGQ, "check", "--live", "wg0"]).stdout
    machine.run(["wg-quick", "up", "wg0"], env={**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wgq-userspace"})
    assert codes(machine) == [("firewalld-rpfilter", 7)]


def test_two_files_with_one_port_are_reported_on_one_host(machine: Namespace) -> None:
    write(machine, text(ADDRESS, "ListenPort = 51820", allowed="10.9.0.0/24"))
    write(machine, text("Address = 10.8.0.2/24", "ListenPort = 51820", allowed="10.8.0.0/24"), "wg1")
    assert [code for code, _ in codes(machine, "wg0", "wg1")] == ["listen-port-shared"]
    plain = [*WGQ, "check", "wg0", "wg1"]
    assert machine.run(plain, check=False).returncode == 0


def test_no_key_is_printed(machine: Namespace) -> None:
    file = text("Address = 192.168.7.9/24", "ListenPort = 51820", allowed="192.168.7.0/24")
    write(machine, file)
    done = machine.run([*WGQ, "check", "--live", "wg0"], check=False)
    secret = file.split("PrivateKey = ")[1].split()[0]
    assert secret not in done.stdout + done.stderr
