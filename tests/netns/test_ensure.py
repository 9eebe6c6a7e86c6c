"""`wgq up --ensure`: an interface is up as its file says, whatever it was before."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.netns.reloads import events_until, written
from tests.netns.tunnels import FULL, KEY, PEERS, WGQ, config, journals, links, programs, rules, settle, wgq, write

if TYPE_CHECKING:
    from tests.namespaces import Namespace

OTHER = base64.b64encode(b"\x09" * 32).decode()
NOTHING = "[!] wg0 is up as /etc/wireguard/wg0.conf says: nothing to do\n"


def ensure(machine: Namespace, *options: str, status: int = 0, target: str = "wg0") -> str:
    return wgq(machine, "up", "--ensure", target, *options, status=status).stderr


def networks(machine: Namespace) -> list[str]:
    return machine.out("wg", "show", "wg0", "allowed-ips").split()[1:]


def test_ensure_brings_an_absent_interface_up(machine: Namespace) -> None:
    write(machine, config("PostUp = echo hooked >>/run/hooks", FULL, address="10.0.0.1/24, fd00::1/64"))
    assert "[#] wg addconf wg0 /dev/fd/63\n" in ensure(machine)
    assert ensure(machine) == NOTHING
    assert machine.out("cat", "/run/hooks") == "hooked\n"


def test_a_second_ensure_writes_nothing(machine: Namespace) -> None:
    write(machine, config("DNS = 10.0.0.53, example", FULL, address="10.0.0.1/24, fd00::1/64"))
    ensure(machine, "--dns", "file")
    settle(machine)
    before = written(machine)
    monitor = machine.popen(["ip", "monitor", "all"], stdout=subprocess.PIPE, bufsize=0)
    assert monitor.stdout is not None
    with monitor.stdout as events:
        events_until(events, machine, "10.77.0.0/16")
        assert ensure(machine, "--dns", "file") == NOTHING
        assert not [line for line in events_until(events, machine, "10.78.0.0/16") if b"wg0" in line]
    assert written(machine) == before


def test_a_changed_file_is_applied_without_hooks(machine: Namespace) -> None:
    write(machine, config("PostUp = echo hooked >>/run/hooks"))
    ensure(machine)
    write(machine, config("PostUp = echo hooked >>/run/hooks", "AllowedIPs = 10.8.0.0/16"))
    run = wgq(machine, "up", "--ensure", "--json", "wg0")
    done = json.loads(run.stdout)
    assert (done["verb"], done["interface"], done["action"], done["restart"]) == ("up", "wg0", "reload", [])
    assert [f"[#] {line}" for line in done["commands"]] == [s for s in run.stderr.splitlines() if s[:3] == "[#]"]
    assert "ip -4 route add 10.8.0.0/16 dev wg0" in done["commands"]
    assert networks(machine) == ["10.8.0.0/16"]
    assert machine.out("cat", "/run/hooks") == "hooked\n"
    assert json.loads(wgq(machine, "up", "--ensure", "--json", "wg0").stdout)["action"] == "none"


def test_a_change_that_needs_a_restart_needs_the_option(machine: Namespace) -> None:
    write(machine, config(address="10.0.0.1/24, 10.1.0.1/24"))
    ensure(machine)
    before = machine.out("ip", "address", "show", "dev", "wg0")
    write(machine, config(address="10.1.0.1/24, 10.0.0.1/24", peer="AllowedIPs = 10.8.0.0/16"))
    done = wgq(machine, "up", "--ensure", "--json", "wg0", status=3)
    assert "`wgq up --ensure --or-restart wg0'. Nothing was changed." in done.stderr
    assert "order of the IPv4 addresses" in json.loads(done.stdout)["restart"][0]
    assert (machine.out("ip", "address", "show", "dev", "wg0"), networks(machine)) == (before, ["10.9.0.0/16"])
    assert json.loads(wgq(machine, "up", "--ensure", "--or-restart", "--json", "wg0").stdout)["action"] == "restart"
    assert networks(machine) == ["10.8.0.0/16"]
    assert ensure(machine) == NOTHING


@pytest.mark.parametrize("stage", ["PreUp", "PostUp"])
@pytest.mark.parametrize("has_kill_switch", [False, True])
def test_a_killed_up_is_repeated(machine: Namespace, stage: str, has_kill_switch: bool) -> None:
    pristine = rules(machine)
    switch = "# wgq: kill-switch = on\n" if has_kill_switch else ""
    write(machine, config(f"{switch}{stage} = kill -9 $PPID", f"{FULL}, 10.9.0.0/16"))
    ensure(machine, status=-9)
    assert "wg0" in links(machine)
    write(machine, config(switch, f"{FULL}, 10.9.0.0/16"))
    assert "[!] wg0 was not brought up completely: starting over\n" in ensure(machine)
    assert ensure(machine) == NOTHING
    wgq(machine, "down", "wg0")
    assert (rules(machine), journals(machine), machine.out("nft", "list", "ruleset")) == (pristine, "", "")


def test_a_killed_daemon_is_started_again(machine: Namespace) -> None:
    write(machine, config(peer=FULL))
    ensure(machine)
    for daemon in programs(machine, "wgq-userspace"):
        os.kill(daemon, 9)
    machine.run(["sh", "-c", "while [ -e /sys/class/net/wg0 ]; do sleep 0.02; done"])
    assert "[!] Cleaning up after an earlier wg0" in ensure(machine)
    assert ensure(machine) == NOTHING


def test_deleted_rules_and_routes_are_restored(machine: Namespace) -> None:
    write(machine, config(peer=f"{FULL}, 10.9.0.0/16"))
    ensure(machine)
    before = machine.out("ip", "route", "show", "dev", "wg0", "table", "51820")
    machine.run(["ip", "link", "set", "down", "dev", "wg0"])
    for family in ("-4", "-6"):
        machine.run(["ip", family, "rule", "delete", "table", "51820"])
    assert "[#] ip link set mtu" in ensure(machine)
    assert machine.out("ip", "route", "show", "dev", "wg0", "table", "51820") == before != ""
    assert rules(machine).count("lookup 51820") == rules(machine).count("suppress_prefixlength 0") == 2
    assert ensure(machine) == NOTHING


def test_concurrent_runs_bring_the_interface_up_once(machine: Namespace) -> None:
    write(machine, config("PostUp = sleep 1; echo hooked >>/run/hooks"))
    outputs: list[str] = []
    runs = [threading.Thread(target=lambda: outputs.append(ensure(machine))) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len([text for text in outputs if "addconf" in text]) == 1
    assert len([text for text in outputs if text.endswith(NOTHING)]) == 3
    assert machine.out("cat", "/run/hooks") == "hooked\n"


def test_a_file_changed_during_the_wait_is_read_again(machine: Namespace) -> None:
    write(machine, config("PostUp = touch /run/began; while [ ! -e /run/go ]; do sleep 0.02; done"))
    first = machine.popen([*WGQ, "up", "--ensure", "wg0"], stderr=subprocess.DEVNULL)
    machine.run(["sh", "-c", "while [ ! -e /run/began ]; do sleep 0.02; done"])
    second = machine.popen([*WGQ, "up", "--ensure", "wg0"], stderr=subprocess.PIPE)
    assert second.stderr is not None
    with second.stderr as output:
        assert b"Waiting for another wgq" in output.readline()
        write(machine, config(peer="AllowedIPs = 10.8.0.0/16"))
        machine.run(["touch", "/run/go"])
        assert (first.wait(), second.wait()) == (0, 0)
    assert networks(machine) == ["10.8.0.0/16"]


def test_an_interface_of_wg_quick_is_accepted(machine: Namespace) -> None:
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    write(machine, config(peer=f"{FULL}, 10.9.0.0/16", address="10.0.0.1/24, fd00::1/64"))
    machine.run(["wg-quick", "up", "wg0"], env=environment)
    assert ensure(machine) == NOTHING
    write(machine, config(peer=f"{FULL}, 10.8.0.0/16", address="10.0.0.1/24, fd00::1/64"))
    ensure(machine)
    assert "10.8.0.0/16" in networks(machine)
    assert "a restart for kill-switch" in ensure(machine, "--kill-switch", status=3)  # no journal would remove it
    machine.run(["wg-quick", "down", "wg0"], env=environment)
    assert "wg0" not in links(machine)


def test_a_file_given_by_its_path_is_used(machine: Namespace) -> None:
    machine.run(["sh", "-c", "umask 077; mkdir /run/there; cat >/run/there/wg0.conf"], input=config())
    ensure(machine, target="/run/there/wg0.conf")
    assert ensure(machine, target="/run/there/wg0.conf") == NOTHING.replace("/etc/wireguard", "/run/there")
    write(machine, config(peer="AllowedIPs = 10.8.0.0/16"))
    ensure(machine)
    assert networks(machine) == ["10.8.0.0/16"]


def test_a_difference_with_saveconfig_needs_force(machine: Namespace) -> None:
    write(machine, config("SaveConfig = true"))
    ensure(machine)
    assert ensure(machine) == NOTHING
    write(machine, config("SaveConfig = true", "AllowedIPs = 10.8.0.0/16"))
    assert "wgq up --ensure --force wg0" in ensure(machine, status=1)
    assert networks(machine) == ["10.9.0.0/16"]
    ensure(machine, "--force")
    assert networks(machine) == ["10.8.0.0/16"]


def test_a_kill_switch_of_the_command_line_comes_and_stays(machine: Namespace) -> None:
    write(machine, config(peer=FULL))
    ensure(machine)
    assert "# kill switch of wg0" in ensure(machine, "--kill-switch")
    assert ensure(machine, "--kill-switch") == NOTHING
    assert ensure(machine) == NOTHING


def test_a_link_of_another_kind_is_left_alone(machine: Namespace) -> None:
    write(machine, config())
    machine.run(["ip", "link", "add", "wg0", "type", "veth", "peer", "name", "far"])
    assert "rename the file" in ensure(machine, status=1)
    assert "wg0" in links(machine)


def test_a_fault_in_the_file_leaves_a_live_interface_alone(machine: Namespace) -> None:
    write(machine, config())
    ensure(machine)
    write(machine, config(peer="AllowedIPs = 10.8.0.0/99"))
    assert "wg0.conf:7:23" in ensure(machine, status=1)
    assert networks(machine) == ["10.9.0.0/16"]


def test_options_that_need_ensure_are_refused_without_it(machine: Namespace) -> None:
    write(machine, config())
    refused = wgq(machine, "up", "wg0", "--or-restart", status=1).stderr
    assert "without --ensure, up does not take --or-restart" in refused
    assert "wg0" not in links(machine)


def test_or_down_leaves_an_interface_that_was_up(machine: Namespace) -> None:
    write(machine, config())
    wait = ("--wait=0.2", "--or-down")
    ensure(machine, *wait, status=4)
    assert "wg0" not in links(machine)
    ensure(machine)
    ensure(machine, *wait, status=4)
    assert "wg0" in links(machine)
    assert PEERS[0] in machine.out("wg", "show", "wg0", "peers")


def test_the_api_says_what_was_done(machine: Namespace) -> None:
    write(machine, config())
    call = (
        "import wgquick; print([wgquick.ensure(source).action for source in ('wg0', 'wg0', wgquick.read('wg0'))])"
    )
    assert machine.out(WGQ[0], "-c", call) == "['up', 'none', 'none']\n"
    assert KEY not in journals(machine)


def test_values_that_a_hook_set_over_the_files_stay(machine: Namespace) -> None:
    """PostUp replaces the file's. Values that changed in the file are applied; values that others set stay."""
    peer = f"wg set %i peer {PEERS[0]} persistent-keepalive 7 preshared-key /run/key allowed-ips"
    hook = (
        "PostUp = wg genkey >/run/key; wg set %i private-key /run/key listen-port 51993\n"
        f"PostUp = {peer} 10.9.0.0/16,10.8.0.0/16"
    )
    write(machine, config(f"{hook}\nListenPort = 51992", "AllowedIPs = 10.9.0.0/16, 10.7.0.0/16"))
    ensure(machine)
    before = machine.out("wg", "showconf", "wg0")
    assert ensure(machine) == NOTHING
    write(machine, config(f"{hook}\nListenPort = 51994", "AllowedIPs = 10.9.0.0/16, 10.7.0.0/16"))
    assert "[#] wg set wg0 listen-port 51994\n" in ensure(machine)
    assert ensure(machine) == NOTHING
    assert machine.out("wg", "showconf", "wg0") == before.replace("51993", "51994")
    machine.run(["wg", "set", "wg0", "private-key", "/dev/stdin"], input=OTHER)
    assert "private-key (hidden)" in ensure(machine)
