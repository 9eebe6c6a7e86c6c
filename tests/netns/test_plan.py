"""`wgq plan` and `wgq diff`: a plan says what the verb then does, and changes nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.plans import NFNL_SUBSYS_NFTABLES, announced, commands
from tests.netns.reloads import OTHER, events_until, written
from tests.netns.tunnels import (
    FULL,
    KEY,
    PEERS,
    WGQ,
    config,
    journals,
    links,
    programs,
    rules,
    settle,
    src_valid_mark,
    wgq,
    write,
)
from tests.waiting import until

if TYPE_CHECKING:
    from tests.namespaces import Namespace

BOTH = "10.0.0.1/24, fd00::1/64"
PRESHARED = "8Sm5jYiCBBK5fm1iOTv5xMEhRAhVcXIxiJlRhLQHJ6M="
FILES = {
    "plain": config(),
    "full": config(peer=f"{FULL}, 10.9.0.0/16", address=BOTH),
    "dns": config("DNS = 10.0.0.53, example", FULL, address=BOTH),
    "hooks": config("PreUp = true\nPostUp = ip route add 10.55.0.0/16 dev %i\nPreDown = true\nPostDown = true"),
    "table": config("Table = 77\nMTU = 1300\nFwMark = 0x77", FULL),
    "off": config("Table = off\nListenPort = 51999", FULL),
    "secret": config(f"PostUp = echo {PRESHARED} >/dev/null", f"PresharedKey = {PRESHARED}\n{FULL}"),
    "switch": config("# wgq: kill-switch = on\n# wgq: exclude = 10.50.0.0/16\n# wgq: keep-inbound = on", FULL),
}
BY_NAME = pytest.mark.parametrize("text", FILES.values(), ids=FILES.keys())


def plan(machine: Namespace, *arguments: str, status: int = 2, target: str = "wg0") -> dict[str, Any]:
    """The plan as JSON; the text has the same commands, neither has a secret, and stderr has none in JSON."""
    printed = wgq(machine, "plan", *arguments, target, "--json", status=status)
    text = wgq(machine, "plan", *arguments, target, status=status)
    for secret in (KEY, PRESHARED):
        assert secret not in printed.stdout + text.stdout + text.stderr
    found: dict[str, Any] = json.loads(printed.stdout)
    assert printed.stderr == ""
    assert [line[2:].partition("  # ")[0].rstrip() for line in text.stdout.splitlines()] == commands(found)
    assert set(found) == {"verb", "interface", "changes", "restart", "notes"}
    for change in found["changes"]:
        assert set(change) == {"sign", "step", "text", "reason", "interrupts", "undo", "known_after"}
        assert change["sign"] in "+-~"
        assert change["text"]
    return found


def printed_commands(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.removeprefix("[#] ") for line in done.stderr.splitlines() if line.startswith("[#] ")]


_CALLS = "sendto,sendmsg,write,writev,pwrite64,rename,renameat,unlink,unlinkat,execve"


def traced(machine: Namespace, *arguments: str, status: int = 0) -> dict[object, int]:
    """What a run of wgq sends or writes (strace(1)), besides its files in /run; other programs are not traced."""
    words = ["strace", "-f", "-b", "execve", "-y", "-qq", "-s", "6", "-o", "/run/trace", "-e", f"trace={_CALLS}"]
    done = machine.run([*words, *WGQ, *arguments], check=False, env={**os.environ, "WGQ_DNS": "file"})
    assert done.returncode == status, done.stderr
    _, *lines = machine.out("cat", "/run/trace").splitlines()
    return Counter(kind for line in lines if not re.search(r"(---|\+\+\+)$", line) for kind in _kinds(line))


def _kinds(line: str) -> list[object]:
    """What one call sends or writes."""
    call = line.split(maxsplit=1)[1]
    if " = -1 E" in call or "resumed>" in call:
        return []
    if call.startswith("send"):
        types = [int(word, 16) for word in re.findall(r"nlmsg_type=(0x[0-9a-f]+)", call)]
        if any(each >> 8 == NFNL_SUBSYS_NFTABLES for each in types):
            return ["nftables"] if len(types) > 1 else []  # changes come in a batch
        return [each for each in types if each % 4 != 2] or (["uapi"] if '"set=1' in call else [])
    if call.startswith("execve"):
        return ["program"]
    if call.startswith("rename") and '"/etc/resolv.conf"' in call:
        return ["resolv.conf"]
    if "/run/" in call or re.match(r"\w+\(\d+<(pipe:|/dev/null|/etc/.resolv.conf.wgq)", call):
        return []
    return ["sysctl" if "src_valid_mark>" in call else call]


def without_release(lines: list[str]) -> list[str]:
    """Without the restoration of src_valid_mark, which down does silently and a plan shows."""
    return [line for line in lines if not line.startswith("sysctl -q net.ipv4.conf.all.src_valid_mark=0")]


def test_a_plan_announces_everything_that_is_sent(machine: Namespace) -> None:
    """Nothing else is sent or written. A plan and a reload without a difference send and write nothing."""
    write(machine, FILES["dns"])
    backend = ("--backend", "userspace")
    other = config(
        "DNS = 10.0.0.54\nMTU = 1300",
        "AllowedIPs = ::/0, 10.9.0.0/16",
        address="10.0.0.1/24, 10.3.0.1/24, fd00::1/64",
    )
    for verb, options, text in (("up", backend, FILES["dns"]), ("reload", (), other), ("down", (), other)):
        write(machine, text)
        found = plan(machine, verb, *options)
        assert traced(machine, "plan", verb, "wg0", *options, status=2) == {}
        sent = traced(machine, verb, "wg0", *options)
        assert sent == announced(commands(found)), verb
        if verb != "down":
            for words in (("reload",), ("diff",), ("plan", "reload"), ("up", "--ensure")):
                assert traced(machine, *words, "wg0") == {}, words


@BY_NAME
def test_a_plan_says_what_up_and_down_then_do(machine: Namespace, text: str) -> None:
    write(machine, text)
    options = ("--dns", "file")
    found = plan(machine, "up", *options)
    done = wgq(machine, "up", "wg0", *options)
    expected = printed_commands(done)
    if "PreUp" in text:
        assert [line for line in commands(found) if "known after" not in line] == [
            line for line in expected if "mtu" not in line
        ]
    else:
        assert commands(found) == expected
    assert plan(machine, "up", *options, status=0)["changes"] == []
    assert plan(machine, "reload", *options, status=0)["changes"] == []
    found = plan(machine, "down", "--dns", "file")
    assert without_release(commands(found)) == printed_commands(wgq(machine, "down", "wg0", *options))
    assert plan(machine, "down", status=0)["changes"] == []


def test_a_plan_changes_nothing(machine: Namespace) -> None:
    write(machine, FILES["full"])
    state = ("sh", "-c", "find /run/wgq /run/wireguard -printf '%p %T@\\n' | sort")
    machine.run(["mkdir", "-p", "/run/wgq", "/run/wireguard"])
    before = rules(machine), src_valid_mark(machine), links(machine), machine.out(*state)
    plan(machine, "up")
    assert (rules(machine), src_valid_mark(machine), links(machine), machine.out(*state)) == before
    wgq(machine, "up", "wg0")
    settle(machine)
    write(machine, config(peer="AllowedIPs = 10.8.0.0/16", address="10.3.0.1/24"))
    before, files = (rules(machine), src_valid_mark(machine), links(machine), machine.out(*state)), written(machine)
    monitor = machine.popen(["ip", "monitor", "all"], stdout=subprocess.PIPE, bufsize=0)
    assert monitor.stdout is not None
    with monitor.stdout as events:
        events_until(events, machine, "10.77.0.0/16")
        for verb in ("up", "down", "reload"):
            plan(machine, verb)
        assert not [line for line in events_until(events, machine, "10.78.0.0/16") if b"wg0" in line]
    assert (rules(machine), src_valid_mark(machine), links(machine), machine.out(*state)) == before
    assert written(machine) == files


CHANGES = {
    "address and dns": config("DNS = 10.0.0.53", FULL, address="10.0.0.1/24, 10.4.0.1/24"),
    "no longer full": config(peer="AllowedIPs = 10.8.0.0/16"),
    "another peer": config(peer="AllowedIPs = 10.9.0.0/16", n=1),
    "keys": config(peer=f"PresharedKey = {PRESHARED}\n{FULL}").replace(KEY, f"A{KEY[1:]}"),
    "port and mtu": config("ListenPort = 51999\nMTU = 1400", f"PersistentKeepalive = 25\n{FULL}"),
}


@pytest.mark.parametrize("text", CHANGES.values(), ids=CHANGES.keys())
def test_a_plan_says_what_reload_then_does(machine: Namespace, text: str) -> None:
    write(machine, config(peer=FULL))
    wgq(machine, "up", "wg0", "--dns", "file")
    write(machine, text)
    found = plan(machine, "reload", "--dns", "file")
    assert plan(machine, "up", "--dns", "file") == {**found, "verb": "up"}
    differs = json.loads(wgq(machine, "diff", "wg0", "--json", "--dns", "file", status=2).stdout)
    assert differs == {**found, "verb": "diff"}
    assert without_release(commands(found)) == printed_commands(wgq(machine, "reload", "wg0", "--dns", "file"))
    assert plan(machine, "reload", "--dns", "file", status=0)["changes"] == []
    assert wgq(machine, "diff", "wg0", "--dns", "file").stdout == ""


def change(found: dict[str, Any], command: str) -> dict[str, Any]:
    (only,) = [each for each in found["changes"] if command in each["text"][0]]
    return dict(only)


def test_each_change_has_line_undo_and_interrupted_peers(machine: Namespace) -> None:
    path = "/etc/wireguard/wg0.conf"
    write(machine, config(more := "PostUp = true", "AllowedIPs = 10.9.0.0/16, 10.8.0.0/16"))
    found = plan(machine, "up")
    assert change(found, "address add")["reason"] == f"{path}:3"
    assert change(found, "true")["reason"] == f"{path}:4"
    assert change(found, "10.8.0.0/16")["reason"] == f"{path}:7"
    assert change(found, "addconf")["reason"] == f"{path}:2"
    assert change(found, "ip link add")["undo"] == ["ip link delete dev wg0"]
    wgq(machine, "up", "wg0")
    assert change(plan(machine, "down"), "link delete")["interrupts"] == [PEERS[0]]
    other = f"[Peer]\nPublicKey = {OTHER}\nAllowedIPs = 10.8.0.0/16\n"
    write(machine, config(more, "AllowedIPs = 10.9.0.0/16") + other)
    found = plan(machine, "reload")
    moved = change(found, f"wg set wg0 peer {OTHER} allowed-ips +10.8.0.0/16")
    assert (moved["sign"], moved["reason"], moved["interrupts"]) == ("+", f"{path}:11", [])
    assert moved["undo"] == [
        f"wg set wg0 peer {OTHER} remove",
        f"wg set wg0 peer {PEERS[0]} allowed-ips +10.8.0.0/16",
    ]
    write(machine, config(more, "AllowedIPs = 10.7.0.0/16", n=1).replace(KEY, f"A{KEY[1:]}"))
    found = plan(machine, "reload")
    assert change(found, "private-key")["interrupts"] == [PEERS[0]]
    assert change(found, "private-key")["reason"] == f"{path}:2"
    gone = change(found, f"peer {PEERS[0]} remove")
    assert (gone["sign"], gone["reason"], gone["interrupts"]) == ("-", path, [PEERS[0]])
    assert change(found, "route delete 10.9.0.0/16")["undo"] == ["ip -4 route add 10.9.0.0/16 dev wg0"]
    assert "ends the session with" in wgq(machine, "plan", "reload", "wg0", status=2).stdout


def test_a_needed_restart_is_planned(machine: Namespace) -> None:
    write(machine, config(peer=FULL, address="10.0.0.1/24, 10.1.0.1/24"))
    wgq(machine, "up", "wg0")
    write(machine, config(address="10.1.0.1/24, 10.0.0.1/24", peer=FULL))
    found = plan(machine, "reload")
    assert "order of the IPv4 addresses" in found["restart"][0]
    assert change(found, "link delete")["interrupts"] == [PEERS[0]]
    done = printed_commands(wgq(machine, "reload", "--or-restart", "wg0"))
    assert without_release(commands(found)) == done


def test_a_tunnel_of_wg_quick_can_be_planned(machine: Namespace) -> None:
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    write(machine, config(peer=f"{FULL}, 10.9.0.0/16", address=BOTH))
    machine.run(["wg-quick", "up", "wg0"], env=environment)
    assert plan(machine, "up", status=0)["changes"] == plan(machine, "reload", status=0)["changes"] == []
    found = plan(machine, "down")
    assert without_release(commands(found)) == printed_commands(wgq(machine, "down", "wg0"))
    assert journals(machine) == ""


def test_leftovers_of_a_killed_run_are_planned(machine: Namespace) -> None:
    write(machine, config("PostUp = kill -9 $PPID", FULL))
    wgq(machine, "up", "wg0", status=-9)
    write(machine, config(peer=FULL))
    assert "starts over" in plan(machine, "up")["notes"][0]
    wgq(machine, "up", "--ensure", "wg0")
    machine.run(["ip", "link", "delete", "wg0"])
    until(lambda: not programs(machine, "wgq-userspace"), "the end of the daemon")
    found = plan(machine, "up")
    assert [line for line in commands(found) if "rule delete" in line]
    assert "Cleaning up after an earlier wg0" in found["notes"][0]
    wgq(machine, "up", "wg0")
    assert plan(machine, "up", status=0)["changes"] == []


def test_values_that_a_hook_decides_are_left_open(machine: Namespace) -> None:
    write(machine, config("PreUp = true", FULL))
    found = plan(machine, "up")
    assert "ip link set mtu (known after PreUp) up dev wg0" in commands(found)
    assert "ip -4 rule add not fwmark (known after PreUp) table (known after PreUp)" in commands(found)
    assert change(found, "link set mtu")["known_after"] == "PreUp"
    write(machine, config("PreUp = true\nMTU = 1400\nFwMark = 7", FULL))
    assert "(known" not in str(commands(plan(machine, "up")))


def test_a_plan_fails_if_the_verb_would_fail(machine: Namespace) -> None:
    write(machine, config("ListenPort = 51999"))
    holder = machine.popen(["python3", "-c", PORT], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    with holder.stdout as output:
        output.readline()
        assert "UDP port 51999 is in use" in wgq(machine, "plan", "up", "wg0", status=1).stderr
        holder.kill()
        holder.wait()
    write(machine, config(peer="AllowedIPs = 10.9.0.0/99"))
    assert "wg0.conf:7" in wgq(machine, "plan", "up", "wg0", status=1).stderr
    write(machine, config())
    assert "`wg0' is not up" in wgq(machine, "diff", "wg0", status=1).stderr
    assert wgq(machine, "plan", "down", "nothing", status=1).stdout == ""
    assert "`wg0' is not up, down or reload" in wgq(machine, "plan", "wg0", "up", status=1).stderr


PORT = "import socket, time; s = socket.socket(type=2); s.bind(('', 51999)); print(flush=True); time.sleep(600)"


def test_offline_needs_no_root(machine: Namespace) -> None:
    text = config("DNS = 10.0.0.53\nPreUp = true\nPostDown = false", FULL, address=BOTH)
    machine.run(["sh", "-c", "cat >/run/wg0.conf; chmod 644 /run/wg0.conf"], input=text)
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all"]
    machine.run(["ln", "-s", "wg0.conf", "/run/1420.conf"])
    for verb, name, expected in (
        ("up", "wg0", "ip link set mtu (known on the host) up dev wg0"),
        ("up", "1420", "ip link set mtu (known on the host) up dev 1420"),
        ("down", "wg0", "link delete"),
    ):
        done = machine.run([*user, *WGQ, "plan", verb, "--offline", f"/run/{name}.conf"], check=False)
        assert done.returncode == 2, done.stderr
        assert expected in done.stdout
        assert KEY not in done.stdout + done.stderr
    assert links(machine).count("wg0") == 0


def test_a_plan_says_that_it_cuts_off_the_session(machine: Namespace) -> None:
    session = {"SSH_CONNECTION": "198.51.100.7 50000 192.0.2.2 22"}
    write(machine, config(peer=FULL))
    for given, expected in ((session, True), ({}, False)):
        transcript = wgq(machine, "plan", "up", "wg0", status=2, **given).stderr
        assert ("your SSH session from 198.51.100.7" in transcript and "`wgq try up wg0'" in transcript) == expected
    write(machine, config())
    assert "SSH session" not in wgq(machine, "plan", "up", "wg0", status=2, **session).stderr


def test_the_api_plans(machine: Namespace) -> None:
    write(machine, config())
    call = (
        "import wgquick;"
        " plan = wgquick.plan('up', 'wg0');"
        " wgquick.status(); wgquick.status();"
        " again = wgquick.plan('up', wgquick.read('wg0'));"
        " print(plan.changes[0].text[0], len(again.changes) == len(plan.changes))"
    )
    assert machine.out(WGQ[0], "-c", call) == "ip link add dev wg0 type wireguard True\n"


@pytest.mark.parametrize("is_there", [False, True], ids=["new", "existing"])
def test_a_plan_of_a_tunnel_in_a_namespace(machine: Namespace, is_there: bool) -> None:
    if is_there:
        machine.run(["ip", "netns", "add", "inner"])
    write(machine, config("# wgq: netns = inner", f"{FULL}, 10.9.0.0/16", address=BOTH))
    found = plan(machine, "up")
    assert commands(found) == printed_commands(wgq(machine, "up", "wg0"))
    for verb in ("up", "reload"):
        assert plan(machine, verb, status=0)["changes"] == []
    write(machine, config("# wgq: netns = inner", f"{FULL}, 10.8.0.0/16", address=BOTH))
    assert commands(plan(machine, "reload")) == printed_commands(wgq(machine, "reload", "wg0"))
    write(machine, config(peer=FULL).replace("[Peer]", "# wgq: netns = another\n[Peer]"))
    assert "the network namespace another" in plan(machine, "reload")["restart"][0]
    found = plan(machine, "down")
    assert commands(found) == printed_commands(wgq(machine, "down", "wg0"))
    assert plan(machine, "down", status=0)["changes"] == []
