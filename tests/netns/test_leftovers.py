"""State that a power cut or a previous container left: dead name servers are removed before a name is looked up."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.netns import name_server
from tests.netns.tunnels import KEY, PEERS, WGQ, programs, wgq, with_resolvconf, write
from wgquick.system import namespaces

if TYPE_CHECKING:
    import subprocess

    from tests.namespaces import Namespace

NAME_SERVER = "127.0.0.9"
EARLIER = f"# mine\nnameserver {NAME_SERVER}\n"
CONFIG = (
    f"[Interface]\nPrivateKey = {KEY}\nAddress = 10.9.0.2/32\nDNS = 10.9.0.1\n"
    f"[Peer]\nPublicKey = {PEERS[0]}\nAllowedIPs = 10.9.0.0/24\nEndpoint = vpn.example.net:51820\n"
)
NUMERIC = CONFIG.replace("vpn.example.net", "192.0.2.9")
FILE = {"WGQ_DNS": "file", "WG_ENDPOINT_RESOLUTION_RETRIES": "0"}


@pytest.fixture
def named(machine: Namespace) -> Namespace:
    """The machine with a name server that knows the endpoint, and a configuration that sets DNS by file."""
    name_server.start(machine, NAME_SERVER, vpn_example_net="192.0.2.9")
    machine.run(["sh", "-c", "cat >/etc/resolv.conf"], input=EARLIER)
    write(machine, CONFIG)
    return machine


def wgq_by_file(machine: Namespace, verb: str, name: str) -> str:
    """The transcript of `wgq` with DNS by file and one lookup per name."""
    return wgq(machine, verb, name, WGQ_DNS="file", WG_ENDPOINT_RESOLUTION_RETRIES="0").stderr


def content(machine: Namespace) -> str:
    return machine.out("cat", "/etc/resolv.conf")


def cut_power(machine: Namespace) -> None:
    """End the daemon, empty /run, and change the boot ID in /etc/resolv.conf to another one."""
    for daemon in programs(machine, "wgq-userspace"):
        os.kill(daemon, 9)
    boot = machine.call(namespaces.current)[:8]
    machine.run(["sh", "-c", "while [ -e /sys/class/net/wg0 ]; do :; done; rm -rf /run/wgq /run/wireguard/*"])
    machine.run(["sed", "-i", f"s/^# wgq: has wg0 {boot}/# wgq: has wg0 01234567/", "/etc/resolv.conf"])


def test_after_a_power_cut_up_finds_its_endpoint(named: Namespace) -> None:
    wgq_by_file(named, "up", "wg0")
    cut_power(named)
    assert "nameserver 10.9.0.1" in content(named)
    transcript = wgq_by_file(named, "up", "wg0")
    assert "[!] Removed the DNS of wg0, which is gone, from /etc/resolv.conf" in transcript
    wgq(named, "down", "wg0")
    assert content(named) == EARLIER


@pytest.mark.parametrize("has_file", [True, False])
def test_down_after_a_power_cut_repairs_the_file(named: Namespace, has_file: bool) -> None:
    wgq_by_file(named, "up", "wg0")
    cut_power(named)
    named.run(["sh", "-c", "echo 'options rotate' >>/etc/resolv.conf"])
    if not has_file:
        named.run(["rm", "/etc/wireguard/wg0.conf"])
    wgq(named, "down", "wg0")
    assert content(named) == EARLIER + "options rotate\n"
    if has_file:
        assert "is not a WireGuard interface" in wgq(named, "down", "wg0", status=1).stderr


def test_the_next_up_removes_the_dns_of_a_killed_daemon(named: Namespace) -> None:
    """In the same boot and namespace wgq compares the link's index, as another link may have the name."""
    wgq_by_file(named, "up", "wg0")
    for daemon in programs(named, "wgq-userspace"):
        os.kill(daemon, 9)
    named.run(["sh", "-c", "while [ -e /sys/class/net/wg0 ]; do :; done"])
    named.run(["ip", "link", "add", "wg0", "type", "veth", "peer", "name", "wg9"])
    write(named, CONFIG.replace("10.9.0.", "10.8.0."), "wg1")
    wgq_by_file(named, "up", "wg1")
    assert " wg0 " not in content(named)
    wgq(named, "down", "wg1")
    assert content(named) == EARLIER


def in_container(machine: Namespace, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in its own network and PID namespaces, which end with it, on the machine's file system."""
    command = "wgq() { " + " ".join(f"'{word}'" for word in WGQ) + ' "$@"; }; '
    argv = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-ec", command + script]
    return machine.run(argv, env={**os.environ, **environment})


def directories(machine: Namespace) -> list[str]:
    return machine.out("ls", "/run/wgq").split()


def test_a_new_container_removes_the_dns_of_the_previous_one(named: Namespace) -> None:
    write(named, NUMERIC)
    in_container(named, "wgq up wg0", **FILE)
    assert "nameserver 10.9.0.1" in content(named)
    assert len(directories(named)) == 1
    in_container(named, "rm -f /run/wireguard/*; wgq up wg0; cat /etc/resolv.conf; wgq down wg0", **FILE)
    assert content(named) == EARLIER
    assert directories(named) == []


def test_down_in_a_new_container_repairs_the_file(named: Namespace) -> None:
    write(named, NUMERIC)
    in_container(named, "wgq up wg0", **FILE)
    in_container(named, "wgq down wg0", **FILE)
    assert content(named) == EARLIER
    assert directories(named) == []


def test_resolvconf_loses_the_previous_containers_record(named: Namespace) -> None:
    path = with_resolvconf(named, 'echo "$@" >>/run/asked')
    write(named, NUMERIC)
    in_container(named, "wgq up wg0", PATH=path, WGQ_DNS="resolvconf")
    assert directories(named) != []
    write(named, NUMERIC.replace("DNS = 10.9.0.1\n", ""), "wg1")
    transcript = in_container(named, "wgq up wg1; wgq down wg1", PATH=path).stderr
    assert "[!] wg0 is gone with its network namespace: removing its DNS" in transcript
    assert "-d wg0" in named.out("cat", "/run/asked").replace("tun.", "")
    assert directories(named) == []


def test_a_tunnel_in_another_namespace_keeps_dns_and_journal(named: Namespace) -> None:
    write(named, NUMERIC)
    named.run(["ip", "netns", "add", "other"])
    try:
        inside = ["ip", "netns", "exec", "other", *WGQ]
        named.run([*inside, "up", "wg0"], env={**os.environ, **FILE})
        write(named, NUMERIC.replace("10.9.0.", "10.8.0."), "wg1")
        wgq_by_file(named, "up", "wg1")
        assert len(directories(named)) == 2
        assert "has wg0 " in content(named)
        wgq(named, "down", "wg1")
        assert "nameserver 10.9.0.1" in content(named)
        named.run([*inside, "down", "wg0"], env={**os.environ, **FILE})
        assert content(named) == EARLIER
        assert directories(named) == []
    finally:
        named.run(["ip", "netns", "delete", "other"])


HELD = f"""
ask() {{ {sys.executable} -c "from wgquick.system import namespaces; print($1)"; }}
ip netns add held
word=$(ip netns exec held {sys.executable} -c 'from wgquick.system import namespaces; print(namespaces.current())')
ask "namespaces.is_gone('$word', contained=True)"
exec 9</run/netns/held
ip netns delete held
ask "namespaces.is_gone('$word', contained=True)"
exec 9<&-
ask "namespaces.is_gone('$word', contained=True)"
ask "namespaces.is_gone('$word', contained=False)"
"""


def test_a_mount_or_a_descriptor_keeps_a_namespace(machine: Namespace) -> None:
    """A container cannot see all namespaces of the host, so there the answer is always "not gone"."""
    assert in_container(machine, HELD).stdout.split() == ["False", "False", "True", "False"]
