"""`wgq reload` applies the changes of a file and interrupts nothing else."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.keys import public_key
from tests.netns.reloads import (
    CHANGES,
    ECHO,
    FAR_KEY,
    OTHER,
    both_ends,
    events_until,
    kill_at_steps,
    peer,
    reload_by_steps,
    state,
    tunnel,
    written,
)
from tests.netns.tunnels import (
    FULL,
    KEY,
    PEERS,
    config,
    journals,
    rules,
    settle,
    src_valid_mark,
    wgq,
    with_resolvconf,
    write,
)
from tests.parity.trial import in_process
from wgquick import api
from wgquick.errors import OperationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace


@pytest.fixture
def ends() -> Iterator[tuple[Namespace, Namespace]]:
    with both_ends() as made:
        yield made


def test_no_probe_is_lost_between_two_steps(ends: tuple[Namespace, Namespace]) -> None:
    """AllowedIPs move, peers come and go, full tunnels of both families too, addresses, MTU, table, port and mark.

    The probes are sent between the steps: a gap of a millisecond is as sure to be found as one of a second.
    """
    near, far = ends
    write(near, CHANGES[-1])
    wgq(near, "up", "wg0")
    near.run(["ping", "-c", "1", "-w", "60", "10.0.0.2"])
    before = near.out("wg", "show", "wg0", "latest-handshakes")
    with far.popen(["python3", "-c", ECHO], stdout=subprocess.PIPE) as echo:
        assert echo.stdout is not None
        echo.stdout.readline()
        for text in CHANGES:
            write(near, text)
            count, lost = near.call(reload_by_steps)
            assert count
            assert lost == []
        echo.kill()
    assert near.out("wg", "show", "wg0", "latest-handshakes") == before
    assert rules(near).count("fwmark") == 0


GUARDED = (
    tunnel(
        "0.0.0.0/0, ::/0",
        "ListenPort = 51820\nFwMark = 9\n# wgq: kill-switch = on\n# wgq: exclude = 198.51.100.0/24, lan",
    ),
    tunnel(
        "0.0.0.0/0, ::/0",
        "ListenPort = 51821\nFwMark = 7\n# wgq: kill-switch = on\n# wgq: keep-inbound = on",
        peer(OTHER, "10.7.0.0/16"),
    ).replace("203.0.113.1", "203.0.113.2")
    + "Endpoint = [2001:db8::7]:51820\n",
)
"""Two files with a kill switch, and other endpoints, port, mark and settings of wgq's own."""
UNGUARDED = tunnel("0.0.0.0/0, ::/0", "ListenPort = 51820\nFwMark = 9")


def call_in_process(machine: Namespace, *arguments: str) -> None:
    status, _, error = machine.call(in_process, list(arguments), {"PATH": os.environ["PATH"]})
    assert status == 0, error


def test_a_killed_reload_is_finished_or_undone(machine: Namespace) -> None:
    """SIGKILL comes at any step. The next reload finishes the change, and down undoes it."""
    assert kill_at_steps(machine, call_in_process) > 30


def test_a_killed_reload_leaves_no_other_kill_switch(machine: Namespace) -> None:
    """The next reload sets the kill switch of the file, or takes it away; and down removes it."""
    assert kill_at_steps(machine, call_in_process, 5, files=GUARDED) > 8
    assert kill_at_steps(machine, call_in_process, 5, files=(UNGUARDED, GUARDED[1])) > 8


def reload_failing_at(step: int) -> bool:
    """Let a reload fail before this step. Returns False if it has fewer steps."""
    lines: list[str] = []

    def record(text: str) -> None:
        lines.append(text)
        if len(lines) > step:
            raise OperationError("injected")

    try:
        api.reload(api.load("wg0", lambda _: None), transcript=record)
    except OperationError:
        return True
    return False


def test_a_failed_reload_brings_the_kill_switch_back(machine: Namespace) -> None:
    """Or takes it away, if there was none."""
    for text, other in (GUARDED, (UNGUARDED, GUARDED[1]), (GUARDED[1], UNGUARDED)):
        write(machine, text)
        wgq(machine, "up", "wg0")
        before = state(machine)
        write(machine, other)
        steps = 0
        while machine.call(reload_failing_at, steps):
            assert state(machine) == before
            steps += 1
        assert steps > 3
        write(machine, text)
        wgq(machine, "reload", "wg0")
        assert state(machine) == before
        assert wgq(machine, "down", "wg0").stderr.count("kill switch") == ("kill-switch" in text)


def test_without_a_difference_nothing_is_printed_or_written(machine: Namespace) -> None:
    write(machine, config("DNS = 10.0.0.53, example", FULL, address="10.0.0.1/24, fd00::1/64"))
    wgq(machine, "up", "wg0", "--dns", "file")
    settle(machine)
    before = written(machine)
    monitor = machine.popen(
        ["ip", "monitor", "link", "address", "route", "rule"], stdout=subprocess.PIPE, bufsize=0
    )
    assert monitor.stdout is not None
    with monitor.stdout as events:
        events_until(events, machine, "10.77.0.0/16")
        done = wgq(machine, "reload", "wg0", "--dns", "file")
        assert (done.stdout, done.stderr) == ("", "")
        assert not [line for line in events_until(events, machine, "10.78.0.0/16") if b"wg0" in line]
    assert written(machine) == before


def test_down_undoes_what_a_reload_did(machine: Namespace) -> None:
    before = rules(machine)
    write(machine, config())
    wgq(machine, "up", "wg0")
    write(machine, config("DNS = 10.0.0.53", FULL))
    transcript = wgq(machine, "reload", "wg0", "--dns", "file").stderr
    assert "[#] ip -4 rule add not fwmark 51820 table 51820\n" in transcript
    assert src_valid_mark(machine) == "1"
    machine.run(["rm", "/etc/wireguard/wg0.conf"])
    wgq(machine, "down", "wg0")
    assert (rules(machine), src_valid_mark(machine), journals(machine)) == (before, "0", "")
    assert machine.out("cat", "/etc/resolv.conf") == "nameserver 192.0.2.53\n"
    assert machine.out("nft", "list", "ruleset") == ""


def test_the_mark_of_a_full_tunnel_goes_with_it(machine: Namespace) -> None:
    write(machine, config(peer=FULL))
    wgq(machine, "up", "wg0")
    write(machine, config())
    wgq(machine, "reload", "wg0")
    assert machine.out("wg", "show", "wg0", "fwmark") == "off\n"
    assert "51820" not in rules(machine)
    assert (src_valid_mark(machine), machine.out("nft", "list", "ruleset")) == ("0", "")


def test_ten_reloads_keep_port_mark_and_size_of_the_journal(machine: Namespace) -> None:
    texts = [config(peer=FULL), config(peer=f"{FULL}, 10.8.0.0/16")]
    write(machine, texts[0])
    wgq(machine, "up", "wg0")
    before = [machine.out("wg", "show", "wg0", what) for what in ("listen-port", "fwmark")]
    sizes = set()
    for n in range(10):
        write(machine, texts[(n + 1) % 2])
        wgq(machine, "reload", "wg0")
        sizes.add((n % 2, machine.out("sh", "-c", "stat -c %s /run/wgq/*/wg0.journal")))
    assert [machine.out("wg", "show", "wg0", what) for what in ("listen-port", "fwmark")] == before
    assert len(sizes) == 2


def test_reload_keeps_what_other_programs_added(machine: Namespace) -> None:
    foreign = (
        "route add 10.66.0.0/16 dev wg0",
        "route add 10.9.0.0/16 dev wg0 metric 5",
        "route add 10.67.0.0/16 dev wg0 table 51820",
        "rule add priority 50 table main suppress_prefixlength 0",
        "rule add priority 51 not fwmark 9 table 9",
        "address add 10.5.0.1/24 dev wg0",
    )
    write(machine, config(peer=f"{FULL}, 10.9.0.0/16"))
    wgq(machine, "up", "wg0")
    for command in foreign:
        machine.run(["ip", *command.split()])
    write(machine, config(peer="AllowedIPs = 10.8.0.0/16", address="10.3.0.1/24"))
    wgq(machine, "reload", "wg0")
    routes = machine.out("ip", "route", "show", "dev", "wg0", "table", "all")
    for network in ("10.66.0.0/16", "10.9.0.0/16 scope link metric 5", "10.67.0.0/16", "10.5.0.1", "10.8.0.0/16"):
        assert network in routes
    assert "10.9.0.0/16 scope link \n" not in routes
    assert "50:" in rules(machine)
    assert "51:" in rules(machine)


def test_unknown_peers_are_removed_unless_keep_foreign(machine: Namespace) -> None:
    hooked = base64.b64encode(b"\x08" * 32).decode()
    write(machine, config(f"PostUp = wg set %i peer {hooked} allowed-ips 10.77.0.0/16"))
    wgq(machine, "up", "wg0")
    machine.run(["wg", "set", "wg0", "peer", OTHER, "allowed-ips", "10.78.0.0/16"])
    assert wgq(machine, "reload", "wg0", "--keep-foreign").stderr == ""
    transcript = wgq(machine, "reload", "wg0").stderr
    assert f"[#] wg set wg0 peer {OTHER} remove\n" in transcript
    assert f"[!] Peer {OTHER} is in neither the file nor the journal" in transcript
    assert set(machine.out("wg", "show", "wg0", "peers").split()) == {PEERS[0], hooked}


def test_a_changed_order_of_addresses_needs_a_restart(machine: Namespace) -> None:
    write(machine, config(address="10.0.0.1/24, 10.1.0.1/24"))
    wgq(machine, "up", "wg0")
    before = machine.out("ip", "address", "show", "dev", "wg0")
    write(machine, config(address="10.1.0.1/24, 10.0.0.1/24", peer="AllowedIPs = 10.8.0.0/16"))
    done = wgq(machine, "reload", "wg0", "--json", status=3)
    assert "wg0 needs a restart for the order of the IPv4 addresses" in done.stderr
    assert json.loads(done.stdout)["restart"]
    assert machine.out("ip", "address", "show", "dev", "wg0") == before
    assert machine.out("wg", "show", "wg0", "allowed-ips").split()[1:] == ["10.9.0.0/16"]
    transcript = wgq(machine, "reload", "wg0", "--or-restart").stderr
    assert "[!] Restarting wg0" in transcript
    addresses = re.findall(r"inet (\S+)", machine.out("ip", "-4", "address", "show", "dev", "wg0"))
    assert addresses == ["10.1.0.1/24", "10.0.0.1/24"]
    assert wgq(machine, "reload", "wg0").stderr == ""


@pytest.mark.parametrize("before", ["fd00::1/64, 2001:db8::1/64", "2001:db8::1/64"])
def test_an_ipv6_address_can_be_inserted(machine: Namespace, before: str) -> None:
    """The kernel prefers a source of the destination's kind. Among sources of one kind the order decides."""
    write(machine, config(address=before))
    wgq(machine, "up", "wg0")
    inserted = before.replace("2001:db8::1/64", "fd01::1/64, 2001:db8::1/64")
    write(machine, config(address=inserted))
    wgq(machine, "reload", "wg0")
    shown = machine.out("ip", "-6", "address", "show", "dev", "wg0", "scope", "global")
    assert set(re.findall(r"inet6 (\S+)", shown)) == set(inserted.split(", "))
    write(machine, config(address=inserted.replace("2001:db8::1/64", "2001:db8:1::1/64, 2001:db8::1/64")))
    assert "the order of the IPv6 addresses" in wgq(machine, "reload", "wg0", status=3).stderr


def test_a_private_key_that_a_peer_has_is_refused(machine: Namespace) -> None:
    """The device would silently remove that peer. A file that has itself as a peer can be reloaded."""
    text = config() + peer(public_key(FAR_KEY), "10.8.0.0/16")
    write(machine, text)
    wgq(machine, "up", "wg0")
    before = machine.out("wg", "showconf", "wg0")
    write(machine, text.replace(KEY, FAR_KEY))
    transcript = wgq(machine, "reload", "wg0", status=1).stderr
    assert f"wg0.conf: the new PrivateKey is that of the peer {public_key(FAR_KEY)}" in transcript
    assert machine.out("wg", "showconf", "wg0") == before
    write(machine, text + peer(public_key(KEY), "10.7.0.0/16"))
    assert wgq(machine, "reload", "wg0").stderr == ""
    write(machine, text + peer(public_key(KEY), "10.7.0.0/16") + peer(OTHER, "10.6.0.0/16"))
    assert f"ignores the peer {public_key(KEY)}" in wgq(machine, "reload", "wg0").stderr
    assert "10.7.0.0/16" not in machine.out("ip", "route", "show", "dev", "wg0")


def test_a_dry_run_prints_what_the_reload_then_does(machine: Namespace) -> None:
    write(machine, config())
    wgq(machine, "up", "wg0")
    before = written(machine)
    write(machine, config("DNS = 10.0.0.53", FULL, address="10.0.0.1/24, fd00::1/64"))
    planned = wgq(machine, "reload", "wg0", "--dry-run", "--dns", "file")
    assert planned.stderr == ""
    assert written(machine) == before
    document = json.loads(wgq(machine, "reload", "wg0", "--dry-run", "--json", "--dns", "file").stdout)
    done = wgq(machine, "reload", "wg0", "--dns", "file")
    assert planned.stdout == done.stderr
    assert [f"[#] {line}" for change in document["changes"] for line in change["text"]] == done.stderr.splitlines()
    assert KEY not in str(document)


def test_a_reload_with_saveconfig_needs_force(machine: Namespace) -> None:
    write(machine, config("SaveConfig = true"))
    wgq(machine, "up", "wg0")
    write(machine, config("SaveConfig = true", "AllowedIPs = 10.8.0.0/16"))
    error = wgq(machine, "reload", "wg0", status=1).stderr
    assert "SaveConfig = true" in error
    assert "wgq reload --force" in error
    assert machine.out("wg", "show", "wg0", "allowed-ips").split()[1:] == ["10.9.0.0/16"]
    wgq(machine, "reload", "wg0", "--force")
    assert machine.out("wg", "show", "wg0", "allowed-ips").split()[1:] == ["10.8.0.0/16"]


def test_a_tunnel_of_wg_quick_can_be_reloaded(machine: Namespace) -> None:
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    pristine = rules(machine)
    extra = f"PersistentKeepalive = 9\nPresharedKey = {OTHER}\n"
    write(machine, config(peer=f"{FULL}, 10.9.0.0/16") + extra)
    machine.run(["wg-quick", "up", "wg0"], env=environment)
    assert wgq(machine, "reload", "wg0").stderr == ""
    hook = "PostUp = wg set %i peer X preshared-key /etc/psk"  # it may have set what the file lacks
    write(machine, config(hook, peer=f"{FULL}, 10.9.0.0/16"))
    assert wgq(machine, "reload", "wg0").stderr == ""
    write(machine, config(peer="AllowedIPs = 10.8.0.0/16, ::/0", address="10.1.0.1/24"))
    wgq(machine, "reload", "wg0")
    assert machine.out("wg", "show", "wg0", "preshared-keys").split()[1] == "(none)"
    assert machine.out("wg", "show", "wg0", "persistent-keepalive").split()[1] == "off"
    found = machine.out("ip", "route", "show", "dev", "wg0")
    assert (journals(machine), "10.8.0.0/16" in found, "10.9" in found, "10.1.0.0/24" in found) == (
        "",
        True,
        False,
        True,
    )
    assert "51820" not in machine.out("ip", "-4", "rule")
    assert "51820" in machine.out("ip", "-6", "rule")
    assert wgq(machine, "reload", "wg0").stderr == ""
    machine.run(["wg-quick", "down", "wg0"], env=environment)
    assert rules(machine) == pristine


def test_a_failed_reload_is_rolled_back(machine: Namespace) -> None:
    """The host already has one of the routes, and later resolvconf fails: both after the peers have changed."""
    write(machine, config())
    wgq(machine, "up", "wg0")
    machine.run(["ip", "route", "add", "10.8.0.0/16", "dev", "up0"])
    path = with_resolvconf(machine, "exit 3")

    def seen() -> list[str]:
        commands = ("wg showconf wg0", "ip address show dev wg0", "ip route show dev wg0", "ip rule")
        return [machine.out(*command.split()) for command in commands]

    before = seen()
    write(machine, config(peer=f"{FULL}, 10.7.0.0/16, 10.8.0.0/16", address="10.3.0.1/24"))
    error = wgq(machine, "reload", "wg0", status=2).stderr
    assert "wgq: `ip -4 route add 10.8.0.0/16 dev wg0' failed: File exists\n" in error
    assert seen() == before
    write(machine, config("DNS = 10.0.0.53", f"{FULL}, 10.7.0.0/16", address="10.3.0.1/24"))
    wgq(machine, "reload", "wg0", "--dns", "resolvconf", status=3, PATH=path)
    assert seen() == before
    write(machine, config())
    assert wgq(machine, "reload", "wg0").stderr == ""


def test_reload_works_if_the_applied_record_is_damaged(machine: Namespace) -> None:
    write(machine, config(peer="AllowedIPs = 10.9.0.0/16, 10.8.0.0/16"))
    wgq(machine, "up", "wg0")
    machine.run(["sh", "-c", 'sed -i \'s/"applied": {/"applied": {"x": 1}, "y": {/\' /run/wgq/*/wg0.journal'])
    write(machine, config(peer="AllowedIPs = 10.7.0.0/16"))
    wgq(machine, "reload", "wg0")
    assert machine.out("wg", "show", "wg0", "allowed-ips").split()[1:] == ["10.7.0.0/16"]
    assert "10.7.0.0/16" in machine.out("ip", "route", "show", "dev", "wg0")
    wgq(machine, "down", "wg0")


def test_a_kill_switch_from_the_command_line_survives_reload(machine: Namespace) -> None:
    write(machine, config(peer=FULL))
    wgq(machine, "up", "wg0", "--kill-switch")
    assert wgq(machine, "reload", "wg0").stderr == ""
    write(machine, config(peer=f"{FULL}, 10.8.0.0/16"))
    wgq(machine, "reload", "wg0")
    assert "table inet wgq-guard-wg0" in machine.out("nft", "list", "tables")
    write(machine, config("ListenPort = 41000", FULL))
    wgq(machine, "reload", "wg0")
    assert "udp sport 41000" in machine.out("nft", "list", "ruleset")
    assert "table inet wgq-guard-wg0" in machine.out("nft", "list", "tables")
    wgq(machine, "down", "wg0")
    assert "wgq-guard" not in machine.out("nft", "list", "tables")


def test_a_reload_can_wait_for_a_handshake(ends: tuple[Namespace, Namespace]) -> None:
    near, _ = ends
    write(near, tunnel("10.0.0.0/24"))
    wgq(near, "up", "wg0")
    write(near, tunnel("10.0.0.0/24, 10.8.0.0/16"))
    wgq(near, "reload", "wg0", "--wait=120")
    assert int(near.out("wg", "show", "wg0", "latest-handshakes").split()[1])
    write(near, tunnel("10.0.0.0/24").replace(public_key(FAR_KEY), OTHER))
    wgq(near, "reload", "wg0", "--wait=0.5", status=4)
    assert OTHER in near.out("wg", "show", "wg0", "peers")


def test_routes_of_hooks_survive_the_last_ipv4_address(machine: Namespace) -> None:
    """The kernel removes all IPv4 routes through the link then, in every table."""
    hook = "PostUp = ip route add 10.50.0.0/16 dev %i table 99; ip route add 10.51.0.0/16 dev %i"
    write(machine, config(hook))
    wgq(machine, "up", "wg0")
    write(machine, config(hook, "AllowedIPs = 10.9.0.0/16, 10.8.0.0/16", address="fd00::1/64"))
    wgq(machine, "reload", "wg0")
    found = machine.out("ip", "-4", "route", "show", "table", "all", "dev", "wg0")
    assert [line.partition(" proto")[0].strip() for line in sorted(found.splitlines())] == [
        "10.50.0.0/16 table 99 scope link",
        "10.51.0.0/16 scope link",
        "10.8.0.0/16 scope link",
        "10.9.0.0/16 scope link",
    ]
    assert wgq(machine, "reload", "wg0").stderr == ""


def test_reload_refuses_ipv6_at_a_small_mtu_like_up(machine: Namespace) -> None:
    """It does not matter whether the link had IPv6 before. A larger MTU brings IPv6 back."""
    small, six = config("MTU = 1200"), "AllowedIPs = 10.9.0.0/16, fd09::/64"
    both = "10.0.0.1/24, fd00::1/64"
    write(machine, config("MTU = 1200", six))
    wgq(machine, "up", "wg0", status=2)
    for first in (small, config()):
        write(machine, first)
        wgq(machine, "up", "wg0")
        before = state(machine)
        write(machine, config("MTU = 1200", six, address=both))
        for verb in (("reload",), ("plan", "reload"), ("up", "--ensure"), ("try", "reload")):
            assert "MTU 1200 is too small for IPv6" in wgq(machine, *verb, "wg0", status=1).stderr
        assert state(machine) == before
        write(machine, config("MTU = 1280", six, address=both))
        wgq(machine, "reload", "wg0")
        reloaded = state(machine)
        assert wgq(machine, "reload", "wg0").stderr == ""
        wgq(machine, "down", "wg0")
        wgq(machine, "up", "wg0")
        assert (without_port(state(machine)), "fd09::/64" in str(reloaded)) == (without_port(reloaded), True)
        wgq(machine, "down", "wg0")
    write(machine, config("PostUp = ip link set %i mtu 1200", six.replace(", fd09::/64", "")))
    wgq(machine, "up", "wg0")
    write(machine, config("PostUp = ip link set %i mtu 1200", six))
    assert "skipping the IPv6" in wgq(machine, "reload", "wg0").stderr  # the MTU is the hook's


def without_port(lines: list[list[str]]) -> list[list[str]]:
    return [[line for line in each if "ListenPort" not in line] for each in lines]


def test_an_mtu_set_by_a_hook_stays(machine: Namespace) -> None:
    write(machine, config("PostUp = ip link set %i mtu 1333"))
    wgq(machine, "up", "wg0")
    assert wgq(machine, "reload", "wg0").stderr == ""
    assert "mtu 1333" in machine.out("ip", "link", "show", "wg0")
