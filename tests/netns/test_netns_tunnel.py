"""Tunnels in a network namespace of their own: `# wgq: netns = NAME`, `up --netns` and `wgq exec`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import host
from tests.netns.pair import ONE, Pair, pair
from tests.netns.tunnels import FULL, WGQ, config, journals, links, programs, wgq, with_resolvconf, write
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

VPN = "# wgq: netns = vpn"


@pytest.fixture
def ends() -> Iterator[Pair]:
    """Two machines; the second one's end is up, and the first one's is a full tunnel in the namespace vpn."""
    with pair() as made:
        made.write("AllowedIPs = 0.0.0.0/0, ::/0", interface=f"DNS = 10.7.0.2, corp.example\n{VPN}")
        wgq(made.two, "up", "--backend", "userspace", "wg0")
        yield made


def state(machine: Namespace) -> str:
    """The state of the machine's own network and files."""
    commands = (
        "ip -d link",
        "ip -4 address",
        "ip -4 route show table all",
        "ip rule",
        "ip -6 rule",
        "nft list ruleset",
    )
    files = "cat /etc/resolv.conf; find /run/netns /etc/netns /run/wgq /run/wireguard -not -type d"
    return machine.run(["sh", "-c", "; ".join((*commands, files)) + "; true"]).stdout


def up(machine: Namespace, *arguments: str, status: int = 0, **environment: str) -> str:
    done = wgq(machine, "up", "--backend", "userspace", *arguments, "wg0", status=status, **environment)
    return done.stderr


def namespaces(machine: Namespace) -> list[str]:
    return [line.split()[0] for line in machine.out("ip", "netns").splitlines()]


def inside(machine: Namespace, *command: str) -> str:
    return machine.out("ip", "netns", "exec", "vpn", *command)


def test_only_the_tunnel_is_inside(ends: Pair) -> None:
    """The socket stays outside, so the namespace reaches the peer only through the tunnel. Down leaves nothing."""
    before = state(ends.one)
    transcript = up(ends.one)
    assert "[#] ip netns add vpn" in transcript
    assert "[#] nsenter --net=/run/netns/vpn" in transcript
    assert links(ends.one) == ["eth0", "lo"]
    assert ":51820" in ends.one.out("ss", "-Hlun")
    assert ":51820" not in inside(ends.one, "ss", "-Hlun")
    routes = inside(ends.one, "ip", "route").splitlines()
    assert [route.split(" dev ")[0] for route in routes] == ["default", "10.7.0.0/24"]
    assert "dev wg0" in inside(ends.one, "ip", "-6", "route", "show", "default")
    assert len(inside(ends.one, "ip", "rule").splitlines()) == 3
    assert "10.7.0.2" in ends.one.out("cat", "/etc/netns/vpn/resolv.conf")
    wgq(ends.one, "exec", "wg0", "--", "ping", "-c1", "-w60", "10.7.0.2")
    done = wgq(ends.one, "down", "wg0")
    assert "[#] ip netns delete vpn" in done.stderr
    assert state(ends.one) == before
    until(lambda: not programs(ends.one, "wgq-userspace"), "the end of the daemon")


def test_an_mtu_comes_from_the_path_outside(ends: Pair) -> None:
    ends.one.run(["ip", "link", "set", "eth0", "mtu", "1400"])
    up(ends.one)
    assert " mtu 1320 " in inside(ends.one, "ip", "link", "show", "wg0")


def test_exec_runs_as_the_caller_with_the_tunnels_dns(ends: Pair) -> None:
    up(ends.one)
    assert wgq(ends.one, "exec", "wg0", "sh", "-c", "exit 7", status=7).stderr == ""
    assert "cannot run nonesuch" in wgq(ends.one, "exec", "wg0", "nonesuch", status=127).stderr
    seen = wgq(ends.one, "exec", "wg0", "cat", "/etc/resolv.conf").stdout
    assert "nameserver 10.7.0.2" in seen
    assert "search corp.example" in seen
    assert wgq(ends.one, "exec", "wg0", "ls", "/sys/class/net").stdout.split() == ["lo", "wg0"]
    who = wgq(
        ends.one, "exec", "wg0", "--", "sh", "-c", "id -u; id -g; echo $HOME", SUDO_UID="65534", SUDO_GID="65534"
    )
    assert who.stdout.split() == ["65534", "65534", "/nonexistent"]
    assert "nameserver 192.0.2.53" in ends.one.out("cat", "/etc/resolv.conf")


def test_exec_hides_daemons_that_look_names_up(ends: Pair) -> None:
    """nscd and systemd-resolved would answer from outside the tunnel."""
    up(ends.one)
    place = "/run/systemd/resolve/io.systemd.Resolve"
    ends.one.run(["mkdir", "-p", "/run/systemd/resolve"])
    with ends.one.entered(), socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(place)
        daemon.listen()
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect({place!r})"
        assert ends.one.run(["python3", "-c", connect]).returncode == 0
        refused = wgq(ends.one, "exec", "wg0", "python3", "-c", connect, status=1)
    assert "ConnectionRefusedError" in refused.stderr


def test_exec_needs_a_namespace(ends: Pair) -> None:
    assert "`wg0' is not up" in wgq(ends.one, "exec", "wg0", "true", status=1).stderr
    assert "not in a network namespace" in wgq(ends.two, "exec", "wg0", "true", status=1).stderr


def test_other_verbs_find_the_tunnel(ends: Pair) -> None:
    """Doctor finds no more than that nobody answers at the DNS server of the namespace."""
    up(ends.one)
    wgq(ends.one, "wait", "wg0")
    (shown,) = json.loads(wgq(ends.one, "status", "--json").stdout)["interfaces"]
    assert (shown["netns"], shown["up"], shown["by"], shown["drift"]) == ("vpn", True, "wgq", [])
    assert "wg0: up in the network namespace vpn" in wgq(ends.one, "status", "wg0").stdout
    assert ends.key_of_two in wgq(ends.one, "show", "wg0", "peers").stdout
    found = json.loads(ends.one.run([*WGQ, "doctor", "wg0", "--json"], check=False).stdout)["findings"]
    assert [finding["code"] for finding in found] == ["dns-silent"]
    assert "[#] wg showconf wg0" in wgq(ends.one, "save", "wg0").stderr
    assert VPN in ends.one.out("cat", "/etc/wireguard/wg0.conf")
    assert "already exists in the network namespace vpn" in up(ends.one, status=1)


def test_reload_works_inside(ends: Pair) -> None:
    up(ends.one)
    assert wgq(ends.one, "reload", "wg0").stderr == ""
    ends.write("AllowedIPs = 10.8.0.0/16", interface=f"{VPN}\nDNS = 10.7.0.3")
    wgq(ends.one, "reload", "wg0")
    assert "default" not in inside(ends.one, "ip", "route")
    assert "10.8.0.0/16" in inside(ends.one, "ip", "route")
    assert "nameserver 10.7.0.3" in ends.one.out("cat", "/etc/netns/vpn/resolv.conf")
    ends.write(FULL, interface=VPN)
    wgq(ends.one, "reload", "wg0")
    assert "default dev wg0" in inside(ends.one, "ip", "route")
    assert "default dev wg0" in inside(ends.one, "ip", "-6", "route")
    assert ends.one.run(["test", "-e", "/etc/netns/vpn"], check=False).returncode != 0


def test_another_namespace_needs_a_restart(ends: Pair) -> None:
    up(ends.one)
    ends.write(interface="# wgq: netns = other")
    refused = wgq(ends.one, "reload", "wg0", status=3).stderr
    assert "a restart for the network namespace other (now vpn)" in refused
    wgq(ends.one, "reload", "--or-restart", "wg0")
    assert namespaces(ends.one) == ["other"]
    wgq(ends.one, "down", "wg0")
    assert namespaces(ends.one) == []


def test_ensure_works_inside(ends: Pair) -> None:
    assert "[#] ip netns add vpn" in up(ends.one, "--ensure")
    assert "nothing to do" in up(ends.one, "--ensure")
    ends.write("AllowedIPs = 10.8.0.0/16", interface=VPN)
    up(ends.one, "--ensure")
    assert "10.8.0.0/16" in inside(ends.one, "ip", "route")
    ends.write(interface="# wgq: netns = other")
    assert "a restart for the network namespace other" in up(ends.one, "--ensure", status=3)
    up(ends.one, "--ensure", "--or-restart")
    assert namespaces(ends.one) == ["other"]


def test_the_option_chooses_the_namespace(ends: Pair) -> None:
    """Reload keeps it: the file does not name one."""
    ends.write()
    up(ends.one, "--netns", "apart")
    assert wgq(ends.one, "reload", "wg0").stderr == ""
    assert namespaces(ends.one) == ["apart"]
    wgq(ends.one, "down", "wg0")
    assert namespaces(ends.one) == []


def test_an_existing_namespace_stays(ends: Pair) -> None:
    ends.one.run(["ip", "netns", "add", "vpn"])
    assert "ip netns add" not in up(ends.one)
    assert "netns delete" not in wgq(ends.one, "down", "wg0").stderr
    assert namespaces(ends.one) == ["vpn"]


def test_the_last_tunnel_deletes_the_namespace(ends: Pair) -> None:
    up(ends.one)
    write(ends.one, config(VPN), "wg1")
    wgq(ends.one, "up", "--backend", "userspace", "wg1")
    wgq(ends.one, "down", "wg0")
    assert namespaces(ends.one) == ["vpn"]
    assert "[#] ip netns delete vpn" in wgq(ends.one, "down", "wg1").stderr
    assert namespaces(ends.one) == []


def test_a_namespace_with_other_links_stays(ends: Pair) -> None:
    up(ends.one)
    inside(ends.one, "ip", "link", "add", "bridge7", "type", "bridge")
    assert "stays, as it has other links: bridge7" in wgq(ends.one, "down", "wg0").stderr
    assert namespaces(ends.one) == ["vpn"]


def test_hooks_run_inside(ends: Pair) -> None:
    ends.write(interface=f"{VPN}\nPreUp = ip -o link show %i >/run/seen\nPostDown = ip -o link >>/run/seen")
    up(ends.one)
    wgq(ends.one, "down", "wg0")
    seen = ends.one.out("cat", "/run/seen")
    assert "wg0" in seen
    assert "eth0" not in seen


def test_a_failing_hook_takes_the_namespace_away(ends: Pair) -> None:
    before = state(ends.one)
    ends.write(FULL, interface=f"{VPN}\nDNS = 10.7.0.2\nPostUp = exit 5")
    assert "ip netns delete vpn" in up(ends.one, status=5)
    assert state(ends.one) == before


def test_a_failing_post_down_still_deletes_the_namespace(ends: Pair) -> None:
    before = state(ends.one)
    ends.write(FULL, interface=f"{VPN}\nDNS = 10.7.0.2\nPostDown = exit 5")
    up(ends.one)
    assert "ip netns delete vpn" in wgq(ends.one, "down", "wg0", status=5).stderr
    assert state(ends.one) == before


def test_down_saves_the_device_inside(ends: Pair) -> None:
    ends.write(interface=f"{VPN}\nSaveConfig = true")
    up(ends.one)
    inside(ends.one, "ip", "address", "add", "10.7.5.1/24", "dev", "wg0")
    wgq(ends.one, "down", "wg0")
    assert "10.7.5.1/24" in ends.one.out("cat", "/etc/wireguard/wg0.conf")


@pytest.mark.parametrize("stage", ["PreUp", "PostUp"])
def test_down_repairs_a_killed_up(ends: Pair, stage: str) -> None:
    before = state(ends.one)
    ends.write(FULL, interface=f"{VPN}\nDNS = 10.7.0.2\n{stage} = kill -KILL $PPID")
    up(ends.one, status=-9)
    wgq(ends.one, "down", "wg0")
    assert state(ends.one) == before


def test_down_removes_a_link_that_did_not_move(ends: Pair) -> None:
    """A kill between the daemon's start and the move leaves its link outside."""
    before = state(ends.one)
    script = 'wgq-userspace "$1"; kill -KILL $PPID'
    path = with_resolvconf(ends.one, script)
    real = WGQ[0].rpartition("/")[0]
    program = {"WG_QUICK_USERSPACE_IMPLEMENTATION": "/run/programs/resolvconf", "PATH": f"{real}:{path}"}
    up(ends.one, status=-9, **program)
    assert "wg0" in links(ends.one)
    wgq(ends.one, "down", "wg0")
    assert links(ends.one) == ["eth0", "lo"]
    ends.one.run(["rm", "-r", "/run/programs"])
    assert state(ends.one) == before
    up(ends.one)


def test_up_cleans_up_after_a_deleted_namespace(ends: Pair) -> None:
    up(ends.one)
    ends.one.run(["ip", "netns", "delete", "vpn"])
    for verb in (("show",), ("status",), ("reload",), ("exec", "wg0", "true")):
        transcript = wgq(ends.one, *(verb if len(verb) > 1 else (*verb, "wg0")), status=1).stderr
        assert "the network namespace vpn of wg0 is gone" in transcript
    for option in ([], ["--json"]):
        assert (
            "the network namespace vpn is gone: `wgq down wg0' removes" in wgq(ends.one, "status", *option).stdout
        )
    wgq(ends.one, "status", "--exit-code", status=4)
    assert "Cleaning up after an earlier wg0" in up(ends.one)
    wgq(ends.one, "exec", "wg0", "ping", "-c1", "-w60", "10.7.0.2")


def test_down_cleans_up_after_a_deleted_namespace(ends: Pair) -> None:
    before = state(ends.one)
    up(ends.one)
    ends.one.run(["ip", "netns", "delete", "vpn"])
    assert "vpn is gone already" in wgq(ends.one, "down", "wg0").stderr
    assert state(ends.one) == before
    assert journals(ends.one) == ""


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("# wgq: netns = a/b", "wg0.conf:5:16: `a/b' is not a name for a network namespace"),
        ("# wgq: netns = ..", "wg0.conf:5:16: `..' is not a name for a network namespace"),
        (f"{VPN}\n# wgq: kill-switch = on", "kill-switch, exclude and keep-inbound have no effect with netns"),
    ],
    ids=["path", "parent", "kill-switch"],
)
def test_up_refuses_netns_with_traffic_settings(ends: Pair, line: str, fault: str) -> None:
    before = state(ends.one)
    ends.write(interface=line)
    assert fault in up(ends.one, status=1)
    assert state(ends.one) == before


def test_up_refuses_a_resolver_outside(ends: Pair) -> None:
    before = state(ends.one)
    assert "`resolved' has no effect in the network namespace vpn" in up(ends.one, "--dns", "resolved", status=1)
    assert state(ends.one) == before


def test_up_refuses_a_name_that_is_taken(ends: Pair) -> None:
    ends.one.run(["ip", "link", "add", "wg0", "type", "bridge"])
    before = state(ends.one)
    assert "already exists outside the network namespace vpn" in up(ends.one, status=1)
    assert state(ends.one) == before


def test_up_refuses_a_namespace_that_would_not_last(ends: Pair) -> None:
    """Mounts that are made under `ip netns exec` end with it."""
    with host() as machine:
        machine.run(["ip", "netns", "add", "base"])
        write(machine, config(VPN))
        command = ["ip", "netns", "exec", "base", *WGQ, "up", "wg0"]
        refused = machine.run(command, check=False)
        assert refused.returncode == 1
        assert "would disappear with this process" in refused.stderr
        assert namespaces(machine) == ["base"]


def test_the_private_key_is_not_shown(ends: Pair) -> None:
    assert ONE not in up(ends.one) + ends.one.out("sh", "-c", "cat /run/wgq/*/*.netns")


def state_inside(machine: Namespace) -> list[str]:
    """What both namespaces show."""
    commands = (
        "wg show wg0 dump | cut -f 1-4,8 | tr , '\\n'",
        "ip -o address show dev wg0",
        "ip route show table all",
        "ip rule",
        "ip -6 route",
        "cat /etc/resolv.conf",
    )
    return lasting(state(machine) + inside(machine, "sh", "-c", "; ".join(commands)))


def lasting(text: str) -> list[str]:
    """The lines without what the kernel generates for a link or adds with a delay. AllowedIPs are sorted."""
    lines = [re.sub(r"^\d+: |# wgq: has.*", "", line) for line in text.splitlines()]
    return sorted(line for line in lines if not re.search("fe80:|multicast|^anycast", line))


@pytest.mark.parametrize("verb", ["reload", "down"])
def test_a_trial_inside_is_rolled_back(ends: Pair, verb: str) -> None:
    """Programs inside stay in the namespace, which the watchdogs keep while nothing else has it."""
    up(ends.one)
    before = state_inside(ends.one)
    program = ends.one.popen(["ip", "netns", "exec", "vpn", "sleep", "600"])
    until(lambda: Path(f"/proc/{program.pid}/comm").read_text() == "sleep\n", "the program inside")
    ends.write("AllowedIPs = 10.8.0.0/16", interface=f"{VPN}\nDNS = 10.7.0.3")
    transcript = wgq(ends.one, "try", verb, "wg0", "--timeout", "0.5", status=4).stderr
    assert "[!] wg0 was not confirmed: it is as it was before\n" in transcript
    assert state_inside(ends.one) == before
    own = os.stat(f"/proc/{program.pid}/ns/net").st_ino
    assert int(inside(ends.one, "stat", "-L", "-c", "%i", "/proc/self/ns/net")) == own
    program.kill()
    program.wait()
    wgq(ends.one, "try", verb, "wg0", "--timeout", "120", "--confirm-when", PING[verb])
    assert namespaces(ends.one) == (["vpn"] if verb == "reload" else [])
    assert journals(ends.one).count("wg0") == (verb == "reload")


PING = {"reload": "handshake", "down": "ping:192.0.2.2"}


def test_up_inside_is_taken_down_again(ends: Pair) -> None:
    before = state(ends.one)
    ends.write(FULL, interface="DNS = 10.7.0.2")
    trying = ("try", "up", "--backend", "userspace", "--netns", "vpn", "wg0", "--timeout")
    wgq(ends.one, *trying, "0.5", status=4)
    assert state(ends.one) == before
    wgq(ends.one, *trying, "120", "--confirm-when", "ping:10.7.0.2")
    assert (
        "already exists in the network namespace vpn"
        in wgq(ends.one, "try", "up", "--netns", "vpn", "wg0", status=1).stderr
    )
    assert namespaces(ends.one) == ["vpn"]


def test_a_move_between_namespaces_is_rolled_back(ends: Pair) -> None:
    up(ends.one)
    before = state_inside(ends.one)
    ends.write(FULL, interface="DNS = 10.7.0.2\n# wgq: netns = other")
    assert "needs a restart for" in wgq(ends.one, "try", "reload", "wg0", status=1).stderr
    for line in ("# wgq: netns = other", ""):
        wgq(ends.one, "try", "reload", "--or-restart", "wg0", "--timeout", "0.5", status=4)
        assert state_inside(ends.one) == before, line
        ends.write(FULL, interface="DNS = 10.7.0.2")
    wgq(ends.one, "down", "wg0")
    up(ends.one, "--dns", "off")
    before = lasting(state(ends.one))
    ends.write(FULL, interface=VPN)
    wgq(ends.one, "try", "reload", "--or-restart", "wg0", "--timeout", "0.5", status=4)
    assert lasting(state(ends.one)) == before


def test_another_command_ends_a_trial_inside(ends: Pair) -> None:
    up(ends.one)
    for verb in ("reload", "down"):
        ends.write("AllowedIPs = 10.8.0.0/16", interface=VPN)
        process = ends.one.popen([*WGQ, "try", "reload", "wg0", "--timeout", "300"], stderr=subprocess.PIPE)
        until(lambda: "wg0 is on trial" in wgq(ends.one, "status", "wg0").stdout, "the trial")
        ends.write(interface=VPN)
        assert "This ends the trial of wg0" in wgq(ends.one, verb, "wg0").stderr
        assert b"another command has changed wg0" in process.communicate(timeout=60)[1]
