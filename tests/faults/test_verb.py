"""`wgq doctor --fix`, `--peer-config`, `--bundle`, `--json` and `--listen`."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.matrix import (
    DNS,
    FULL,
    FULL_SERVER,
    HOSTS,
    NAMED,
    NFT_FORWARD,
    NFT_IN,
    SECOND,
    edited,
    interface,
)
from tests.faults.world import BACKENDS, CLIENT, SERVER, WORDS, filled, world
from tests.netns.tunnels import programs
from tests.waiting import until
from wgquick.net import SecretKey
from wgquick.options import Options

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.world import World


@pytest.fixture
def made() -> Iterator[World]:
    with world() as machines:
        yield machines


def start(made: World, here: str = CLIENT, there: str = SERVER, options: Options | None = None) -> None:
    made.write("here", here)
    made.write("there", there)
    assert not made.up("there")
    assert not made.up("here", options=options)


def doctor(made: World, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wgquick", "doctor", *arguments]
    done = made.here.run(command, check=False, env=dict(os.environ))
    assert done.returncode == status, done.stdout + done.stderr
    return done


def state(made: World) -> str:
    """Everything that doctor must not change: links, addresses, routes, rules, firewall, parameters and DNS."""
    made.here.settle()
    script = (
        "ip -o link; ip -o addr; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule; "
        "nft list ruleset; cat /proc/sys/net/ipv4/conf/all/src_valid_mark /etc/resolv.conf; "
        "for what in allowed-ips endpoints fwmark; do wg show wg0 $what; done; ls -R /run/wgq"
    )
    lines = made.here.out("bash", "-c", script).splitlines()
    # Link-local addresses appear a second after their link, and lifetimes change.
    return "\n".join(re.sub("(expires|valid_lft|state|group) .*", "", line) for line in lines if "fe80" not in line)


BREAKS = {
    "a rule": "ip rule del not fwmark 51820 table 51820",
    "both rules of IPv6": "ip -6 rule del not fwmark 51820 table 51820; "
    "ip -6 rule del table main suppress_prefixlength 0",
    "the route": "ip route flush table 51820",
    "the address": "ip addr del 10.66.0.2/24 dev wg0",
    "the firewall": "nft flush ruleset",
    "the parameter": "sysctl -q net.ipv4.conf.all.src_valid_mark=0",
    "the mark": "wg set wg0 fwmark 0",
    "all of it": "ip rule del not fwmark 51820 table 51820; ip addr flush dev wg0 scope global; nft flush ruleset; "
    "sysctl -q net.ipv4.conf.all.src_valid_mark=0; ip route flush table 51820",
}


@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS)
def test_fix_restores_what_up_made(made: World, script: str) -> None:
    start(made, FULL, FULL_SERVER)
    made.ping()
    before = state(made)
    made.script("here", script)
    done = doctor(made, "--fix", "wg0")
    assert "[#] " in done.stderr
    assert sorted(state(made).splitlines()) == sorted(before.splitlines())
    made.ping("fd66::1")


def test_fix_uses_the_file_if_there_is_no_journal(made: World) -> None:
    """A tunnel of wg-quick has no journal."""
    start(made)
    made.ping()
    made.script("here", "rm /run/wgq/*/wg0.journal")
    before = state(made)
    made.script("here", "ip addr flush dev wg0 scope global")
    assert "[#] ip -4 address add " in doctor(made, "--fix", "wg0").stderr
    assert sorted(state(made).splitlines()) == sorted(before.splitlines())


def test_fix_sets_dns_and_mtu_again(made: World) -> None:
    start(made, interface(DNS, "MTU = 1400"), options=Options(backend="userspace", dns="file"))
    before = state(made)
    made.script("here", "echo nameserver 192.0.2.53 >/etc/resolv.conf; ip link set wg0 mtu 1300")
    doctor(made, "--fix", "wg0")
    assert state(made) == before


def test_fix_does_not_change_a_foreign_firewall(made: World) -> None:
    start(made)
    made.script(
        "here", "nft add table inet guard; nft add chain inet guard in '{ type filter hook input priority 0; }'"
    )
    made.script("here", "nft add rule inet guard in udp sport 51820 drop")
    before = state(made)
    assert "input-blocked" in doctor(made, "--fix", status=1).stdout
    assert state(made) == before


def test_without_fix_the_host_is_unchanged(made: World) -> None:
    start(made, FULL, FULL_SERVER)
    made.ping()
    made.script("here", "ip rule del not fwmark 51820 table 51820; nft flush ruleset")
    before = state(made)
    doctor(made, "wg0", status=1)
    assert state(made) == before


def test_the_other_ends_file_makes_a_finding_certain(made: World) -> None:
    wrong = edited(SERVER, ("10.66.0.2/32", "10.66.0.3/32"))
    start(made, there=wrong)
    made.script("here", "cat >/run/peer.conf", filled(wrong))
    guessed = json.loads(doctor(made, "--json", "wg0", status=1).stdout)["findings"]
    assert [each["code"] for each in guessed] == ["no-data-back"]
    known = json.loads(doctor(made, "--json", "--peer-config", "/run/peer.conf", "wg0", status=1).stdout)[
        "findings"
    ]
    assert [(each["code"], each["confidence"]) for each in known] == [("source-not-allowed", "certain")]


def test_the_bundle_has_no_key_address_or_name(made: World) -> None:
    made.script("here", HOSTS)
    start(made, NAMED + "PresharedKey = @psk@\n", SERVER + "PresharedKey = @psk2@\n")
    report = doctor(made, "--bundle", status=1).stdout
    assert "answer-refused" in report
    assert "== firewall" in report
    addresses = ("192.0.2.2", "198.51.100.2", "10.66.0.2", "10.66.0.1", "10.66.0.0", "2001:db8:1::", "vpn.test")
    for secret in (*WORDS.values(), *addresses, made.here.out("hostname").strip()):
        assert secret not in report


def test_the_json_has_the_documented_fields(made: World) -> None:
    start(made)
    made.script("here", "ip link set wg0 down")
    found = json.loads(doctor(made, "--json", "wg0", status=1).stdout)
    assert found["interface"] == "wg0"
    assert [*found["findings"][0]] == [
        "code", "severity", "confidence", "peer", "message", "evidence", "remedy", "other_end",
    ]  # fmt: skip


def test_without_a_name_every_interface_is_examined(made: World) -> None:
    start(made)
    assert "wg0: no problem found" in doctor(made).stdout
    made.script("here", "ip link delete wg0")
    assert "wg0 was up and is gone" in doctor(made, status=1).stdout
    made.write("here", CLIENT, "wg1")
    assert "no WireGuard interface is up" in doctor(made, status=1).stderr


LISTEN = "12"
"""Seconds: two handshake attempts of a client (REKEY_TIMEOUT is five seconds), and time for doctor to begin."""


def listened(made: World, *arguments: str, backend: str = BACKENDS[0], status: int = 1) -> list[dict[str, str]]:
    """The findings of `doctor --listen` at the other end, while the client sends initiations."""
    assert not made.up("here", backend=backend)
    made.script("here", "(ping -i0.2 10.66.0.1 >/dev/null 2>&1 &)")
    command = [sys.executable, "-m", "wgquick", "doctor", "--listen", LISTEN, "--json", *arguments]
    done = made.there.run(command, check=False, env=dict(os.environ))
    assert done.returncode == status, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("there", "code", "key"),
    [
        (SERVER, "knock-known", WORDS["here"]),
        (edited(SERVER, ("@here@", "@other@")), "knock-unknown-key", WORDS["here"]),
        (edited(SERVER, ("@there_secret@", "@third_secret@")), "knock-wrong-key", WORDS["third"]),
    ],
    ids=["a peer", "a stranger", "another key"],
)
def test_doctor_listens_with_the_file_alone(made: World, backend: str, there: str, code: str, key: str) -> None:
    """The listening end never brought its interface up; the client may have any backend."""
    made.write("here", CLIENT)
    made.write("there", there)
    found = {each["code"]: each for each in listened(made, backend=backend)}
    assert next(iter(found)) == "not-up"
    assert key in str(found[code])


def test_a_firewall_is_found_before_the_interface_is_up(made: World) -> None:
    made.write("here", CLIENT)
    made.write("there", SERVER)
    made.script("there", NFT_IN + "nft add rule inet guard in udp dport 51820 drop")
    found = {each["code"]: each["message"] for each in listened(made, "wg0")}
    assert "by `udp dport 51820 drop' in chain in of table inet guard" in found["input-blocked"]


def test_listening_reports_that_no_initiation_arrived(made: World) -> None:
    made.write("here", edited(CLIENT, ("198.51.100.2", "198.51.100.3")))
    made.write("there", SERVER)
    assert [each["code"] for each in listened(made)] == ["not-up", "knock-none"]
    made.write("there", edited(SERVER, ("ListenPort = 51820\n", "")))
    output = made.there.run([sys.executable, "-m", "wgquick", "doctor", "--listen", "1"], check=False).stdout
    assert "there is no port to listen on" in output


def test_listening_at_a_working_interface_names_the_peer(made: World) -> None:
    made.write("here", CLIENT)
    made.write("there", SERVER)
    assert not made.up("there")
    assert [each["code"] for each in listened(made, "wg0", status=0)] == ["knock-known"]


@pytest.mark.parametrize("seconds", ["x", "-1", "nan", "1e9"])
def test_invalid_seconds_are_refused(made: World, seconds: str) -> None:
    assert "is not a number of seconds" in doctor(made, f"--listen={seconds}", "wg0", status=1).stderr


HANGS = "#!/bin/sh\nsleep 1000 &\nwait\n"


def timed(made: World, *arguments: str, path: str = "") -> tuple[float, list[dict[str, Any]]]:
    """The seconds that doctor takes as a program, and its results for one or more interfaces."""
    began = time.monotonic()
    command = [sys.executable, "-m", "wgquick", "doctor", "--json", *arguments]
    done = made.here.run(command, check=False, env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"})
    seconds = time.monotonic() - began
    found = json.loads(done.stdout)
    return seconds, found if isinstance(found, list) else [found]


@pytest.mark.alone
@pytest.mark.parametrize("option", ["--json", "--fix"])
def test_programs_that_hang_do_not_hold_doctor_up(made: World, tmp_path: Path, option: str) -> None:
    """It says what it could not read, finds the rest, and leaves no process behind."""
    start(made, FULL, FULL_SERVER)
    made.ping()
    script = "iptables-legacy -A INPUT -i lo -j ACCEPT; ip addr del 10.66.0.2/24 dev wg0; wg set wg0 fwmark 0"
    made.script("here", script)
    for name in ("nft", "resolvectl", "resolvconf", "iptables-legacy-save", "iptables-nft-save"):
        (tmp_path / name).write_text(HANGS)
        (tmp_path / name).chmod(0o755)
    seconds, found = timed(made, option, "wg0", path=str(tmp_path))
    causes = {each["code"]: each["message"] for each in found[0]["findings"]}
    assert seconds < 10
    assert ("address-missing" in causes) == (option != "--fix")
    assert "the rules that nft lists" in causes["not-examined"]
    until(lambda: not programs(made.here, "sleep"), "the end of the programs")


@pytest.mark.alone
def test_many_interfaces_are_examined_side_by_side(made: World) -> None:
    """Each silent peer takes seconds, but all together less than ten. The results are in the interfaces' order."""
    start(made)
    names = [f"wg{number}" for number in range(16)]
    for number, name in enumerate(names[1:], 1):
        key = SecretKey(bytes([248, *([number + 99] * 30), 64])).reveal()
        made.write("here", edited(CLIENT, ("10.66.0", f"10.66.{number}"), ("@here_secret@", key)), name)
        assert not made.up("here", name)
    made.script("between", NFT_FORWARD + "nft add rule inet guard way udp dport 51820 drop")
    alone, first = timed(made, "wg0")
    seconds, found = timed(made)
    assert [each["interface"] for each in found] == made.here.out("wg", "show", "interfaces").split()
    assert {each["interface"] for each in found} == {*names}
    assert first[0]["findings"][0]["code"] == "no-answer"
    assert all(each["findings"][0]["code"] == "no-answer" for each in found)
    assert seconds < alone * len(names) / 2
    assert seconds < 10


def test_a_tunnel_moved_to_a_namespace_is_examined_there(made: World) -> None:
    start(made)
    made.script("here", "ip netns add inner; ip -n inner link set lo up; ip link set wg0 netns inner")
    made.script("here", "ip -n inner addr add 10.66.0.2/24 dev wg0; ip -n inner link set wg0 up")
    inside = ["ip", "netns", "exec", "inner", sys.executable, "-m", "wgquick", "doctor", "wg0"]
    assert "no problem found" in made.here.run(inside, env=dict(os.environ)).stdout
    made.script("between", NFT_FORWARD + "nft add rule inet guard way udp dport 51820 drop")
    made.script("there", "ip link delete wg0")
    done = made.here.run(inside, check=False, env=dict(os.environ))
    assert "was moved here from another network namespace" in done.stdout


def test_a_moved_tunnels_counters_show_a_closed_port(made: World) -> None:
    """No capture of this namespace has the ICMP error, as the daemon's socket is in another one."""
    start(made)
    made.script("here", "ip netns add inner; ip -n inner link set lo up; ip link set wg0 netns inner")
    made.script("here", "ip -n inner addr add 10.66.0.2/24 dev wg0; ip -n inner link set wg0 up")
    made.script("there", "ip link delete wg0")
    inside = ["ip", "netns", "exec", "inner", sys.executable, "-m", "wgquick", "doctor", "wg0"]
    done = made.here.run(inside, check=False, env=dict(os.environ))
    assert "the port of 198.51.100.2:51820 is closed" in done.stdout
    assert "[endpoint-refuses]" in done.stdout


def test_another_tunnel_that_lacks_the_endpoint_is_named(made: World) -> None:
    """status reports the renamed link, too."""
    start(made)
    made.write("here", SECOND, "wg1")
    assert not made.up("here", "wg1")
    made.script("here", "ip route add 198.51.100.2 dev wg1")
    assert "go into wg1, and none of its peers has it in AllowedIPs" in doctor(made, "wg0", status=1).stdout
    made.script("here", "ip link set wg0 down; ip link set wg0 name vpn0; ip link set vpn0 up")
    shown = made.here.out(sys.executable, "-m", "wgquick", "status", "wg0")
    assert "the link was renamed to vpn0" in shown
    assert "another network namespace" not in shown


def test_two_full_tunnels_catch_each_others_packets(made: World) -> None:
    start(made, FULL, FULL_SERVER)
    other = edited(FULL, ("@here_secret@", "@other_secret@"), ("10.66.0.2/24, fd66::2/64", "10.67.0.2/24"))
    made.write("here", other, "wg1")
    assert not made.up("here", "wg1")
    output = doctor(made, "wg0", status=1).stdout
    assert "go round in a loop, through wg0 and wg1 [endpoint-in-tunnel]" in output


def test_a_private_key_in_place_of_a_public_one_is_not_printed(made: World) -> None:
    start(made, edited(CLIENT, ("@there@", "@here_secret@")))
    output = doctor(made, "wg0", status=1).stdout
    assert "[public-key-is-private]" in output
    assert WORDS["here_secret"] not in output
