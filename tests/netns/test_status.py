"""`wgq status` on a tunnel between two machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.namespaces import host
from tests.netns.pair import TWO, pair, ping
from tests.netns.tunnels import WGQ, config, wgq, write
from tests.unit.statuses import check_form
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace
    from tests.netns.pair import Pair


@pytest.fixture(scope="module")
def ends() -> Iterator[Pair]:
    """A tunnel that is up on both machines; each test restores it."""
    with pair() as made:
        made.write("PersistentKeepalive = 25", interface="MTU = 1380\nDNS = 192.0.2.53, example.org")
        wgq(made.two, "up", "wg0")
        wgq(made.one, "up", "wg0", "--dns", "file")
        ping(made.one, "10.7.0.2")
        yield made


def read(machine: Namespace, *arguments: str, status: int = 0) -> Any:
    """The JSON of `wgq status`, checked for its form."""
    document = json.loads(wgq(machine, "status", "--json", *arguments, status=status).stdout)
    check_form(document)
    return document


def interface(machine: Namespace) -> Any:
    (found,) = read(machine, "wg0")["interfaces"]
    return found


def test_an_interface_has_backend_origin_and_settings(ends: Pair) -> None:
    found = interface(ends.one)
    assert found["backend"] == "wgq-userspace"
    assert (found["by"], found["file"], found["up"]) == ("wgq", "/etc/wireguard/wg0.conf", True)
    assert abs(found["since"] - time.time()) < 600
    assert (found["mtu"], found["mtu_given"], found["table"], found["fwmark"]) == (1380, True, "main", 0)
    assert found["public_key"] == ends.key_of_one
    assert found["dns"] == {"mode": "file", "servers": ["192.0.2.53"], "search": ["example.org"]}
    assert "10.7.0.1/24" in found["addresses"]
    assert (found["drift"], found["error"]) == ([], None)


def test_peers_have_names_states_and_counters(ends: Pair) -> None:
    (there,) = interface(ends.one)["peers"]
    assert (there["name"], there["state"], there["wanted"]) == ("the other", "up", True)
    assert (there["endpoint"], there["roamed"]) == ("192.0.2.2:51820", False)
    assert there["rx_bytes"] > 100 < there["tx_bytes"]
    assert 0 <= there["handshake_age"] < 180
    (here,) = interface(ends.two)["peers"]
    assert (here["name"], here["state"], here["wanted"]) == ("one", "up", False)
    assert (here["configured_endpoint"], here["roamed"]) == (None, None)


def test_the_text_is_a_plain_table_of_80_columns(ends: Pair) -> None:
    shown = wgq(ends.one, "status").stdout
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    for words in ("wg0: up", "wgq-userspace", "MTU 1380 (from the file)", "the other", "192.0.2.2:51820", "(file)"):
        assert words in shown


def on_terminal(machine: Namespace, *arguments: str, **environment: str) -> str:
    """The output of `wgq` on a terminal."""
    command = ["script", "-qec", " ".join([*WGQ, *arguments]), "/dev/null"]
    return machine.run(command, env={**os.environ, "TERM": "xterm", **environment}).stdout


def test_colours_need_a_terminal_and_no_no_color(ends: Pair) -> None:
    assert "\x1b[32mup" in on_terminal(ends.one, "status")
    assert "\x1b" not in on_terminal(ends.one, "status", NO_COLOR="1")


def test_differences_between_file_and_device_are_listed(ends: Pair) -> None:
    key = ends.key_of_two
    ends.one.run(["wg", "set", "wg0", "peer", key, "persistent-keepalive", "7", "allowed-ips", "10.7.0.3/32"])
    ends.one.run(["ip", "link", "set", "mtu", "1300", "dev", "wg0"])
    try:
        found = {each["code"]: each for each in interface(ends.one)["drift"]}
        assert set(found) == {"keepalive-differs", "allowed-ips-differ", "mtu-differs"}
        assert found["keepalive-differs"]["peer"] == key
        assert "the other: keepalive 25 s in the file, 7 s on the device" in wgq(ends.one, "status").stdout
    finally:
        ends.one.run(["wg", "set", "wg0", "peer", key, "persistent-keepalive", "25", "allowed-ips", "10.7.0.2/32"])
        ends.one.run(["ip", "link", "set", "mtu", "1380", "dev", "wg0"])
    assert interface(ends.one)["drift"] == []


def test_a_peer_with_a_new_endpoint_has_roamed(ends: Pair) -> None:
    ends.two.run(["wg", "set", "wg0", "listen-port", "6000"])
    try:
        ping(ends.two, "10.7.0.1")
        until(lambda: interface(ends.one)["peers"][0]["roamed"], "the new endpoint")
        assert interface(ends.one)["peers"][0]["endpoint"] == "192.0.2.2:6000"
        assert "192.0.2.2:6000 roamed" in wgq(ends.one, "status").stdout
    finally:
        ends.two.run(["wg", "set", "wg0", "listen-port", "51820"])
        ping(ends.two, "10.7.0.1")
        until(lambda: not interface(ends.one)["peers"][0]["roamed"], "the endpoint of the file")


def test_no_peer_is_up_if_the_link_is_down(ends: Pair) -> None:
    ends.one.run(["ip", "link", "set", "down", "dev", "wg0"])
    try:
        found = interface(ends.one)
        assert (found["up"], found["peers"][0]["state"]) == (False, "disabled")
        assert "wg0: down" in wgq(ends.one, "status", "--exit-code", status=4).stdout
    finally:
        ends.one.run(["ip", "link", "set", "up", "dev", "wg0"])
        ping(ends.one, "10.7.0.2")


def test_the_exit_code_needs_all_wanted_peers_up(ends: Pair) -> None:
    wgq(ends.one, "status", "/etc/wireguard/wg0.conf", "--exit-code")
    wgq(ends.two, "status", "--exit-code")
    wgq(ends.one, "status", "other0", "--exit-code", status=4)
    absent = "[Peer]\nPublicKey = TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=\nAllowedIPs = 10.7.0.9/32\n"
    before = ends.one.out("cat", "/etc/wireguard/wg0.conf")
    try:
        write(ends.one, f"{before}{absent}Endpoint = 192.0.2.77:1\n")
        assert "peer-missing" in json.dumps(read(ends.one, "--exit-code", status=4))
        wgq(ends.one, "reload", "wg0")
        wgq(ends.one, "status", "--exit-code", status=4)
    finally:
        write(ends.one, before)
        wgq(ends.one, "reload", "wg0")
    wgq(ends.one, "status", "--exit-code")


def test_watch_prints_rates_and_ends_with_the_signal(ends: Pair) -> None:
    command = [*WGQ, "status", "--watch", "--json"]
    watching = ends.one.popen(command, stdout=subprocess.PIPE)
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    assert first["interfaces"][0]["peers"][0]["rx_rate"] is None
    pings = ends.one.popen(["ping", "-q", "-i0.01", "10.7.0.2"], stdout=subprocess.DEVNULL)
    for line in watching.stdout:  # the first may be from before the ping
        check_form(found := json.loads(line))
        if found["interfaces"][0]["peers"][0]["rx_rate"] > 100:
            break
    pings.terminate()
    watching.send_signal(signal.SIGINT)
    assert watching.wait(60) == 130
    watching.stdout.close()


def test_watch_restores_the_screen(ends: Pair) -> None:
    """It leaves the terminal's alternate screen, also after SIGTERM."""
    command = f"echo $$ >/run/watch; exec {' '.join([*WGQ, 'status', '--watch'])}"
    script = ["script", "-qfc", command, "/run/screen"]
    recording = ends.one.popen(
        script, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm"}
    )
    seen = ["grep", "-q", "the other", "/run/screen"]
    until(lambda: not ends.one.run(seen, check=False).returncode, "the table")
    ends.one.run(["sh", "-c", "kill $(cat /run/watch)"])
    recording.wait(60)
    shown = ends.one.out("cat", "/run/screen")
    assert shown.index("\x1b[?1049h") < shown.index("the other") < shown.index("\x1b[?1049l")


def test_watch_and_exit_code_exclude_each_other(ends: Pair) -> None:
    assert "--watch" in wgq(ends.one, "status", "--watch", "--exit-code", status=1).stderr


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with host() as made:
        made.uplink()
        yield made


def test_status_reports_that_there_are_no_interfaces(machine: Namespace) -> None:
    assert wgq(machine, "status").stdout == "No WireGuard interface is up.\n"
    assert read(machine)["interfaces"] == []
    wgq(machine, "status", "--exit-code", status=4)
    for name in ("", "a b", "x" * 16, "/etc/wireguard/wg9.conf"):
        assert "is not up" in wgq(machine, "status", name, status=1).stderr
    write(machine, config())
    assert "wgq up wg0" in wgq(machine, "status", "wg0", status=1).stderr
    assert "not a WireGuard interface" in wgq(machine, "status", "up0", status=1).stderr


def test_an_interface_of_another_program_is_shown(machine: Namespace) -> None:
    machine.run(["wireguard-go", "wg7"])
    found = read(machine)["interfaces"][0]
    assert (found["name"], found["backend"], found["up"]) == ("wg7", "wireguard-go", False)
    assert (found["by"], found["file"], found["drift"], found["peers"]) == (None, None, None, [])
    assert "not by wgq" in wgq(machine, "status").stdout


def test_a_tunnel_of_wg_quick_is_recognised_by_its_file(machine: Namespace) -> None:
    write(machine, config(interface="FwMark = 7", peer="AllowedIPs = 0.0.0.0/0\nPersistentKeepalive = 9"))
    machine.run(["wg-quick", "up", "wg0"])
    found = read(machine)["interfaces"][0]
    assert (found["by"], found["drift"], found["fwmark"], found["mtu_given"]) == ("wg-quick", [], 7, False)
    assert found["peers"][0]["state"] == "connecting"
    machine.run(["wg-quick", "down", "wg0"])


def test_a_full_tunnel_has_its_mark_and_table(machine: Namespace) -> None:
    write(machine, config(peer="AllowedIPs = 0.0.0.0/0"))
    wgq(machine, "up", "wg0")
    found = read(machine)["interfaces"][0]
    assert (found["table"], found["fwmark"], found["peers"][0]["state"]) == ("51820", 51820, "never")
    assert found["drift"] == []
    machine.run(["ip", "rule", "del", "table", "main", "suppress_prefixlength", "0"])
    machine.run(["ip", "route", "flush", "table", "51820"])
    codes = [each["code"] for each in read(machine)["interfaces"][0]["drift"]]
    assert codes == ["route-missing", "rule-missing"], "as after a network manager's clean-up"
    write(machine, "[Interface]\nPrivateKey = x\n")
    broken = read(machine)["interfaces"][0]
    assert "wgq check" in broken["error"]
    assert (broken["drift"], broken["peers"][0]["wanted"]) == (None, True), "the journal knows the endpoint"
    wgq(machine, "down", "wg0")


def test_no_secret_is_shown(ends: Pair) -> None:
    for arguments in ((), ("--json",)):
        assert TWO not in wgq(ends.two, "status", *arguments).stdout


def test_a_missing_kill_switch_is_reported(machine: Namespace) -> None:
    write(machine, config(peer="AllowedIPs = 0.0.0.0/0"))
    wgq(machine, "up", "wg0", "--kill-switch")
    found = read(machine)["interfaces"][0]
    assert (found["kill_switch"], found["drift"]) == (True, [])
    assert "kill switch" in wgq(machine, "status").stdout
    machine.run(["nft", "flush", "ruleset"])
    found = read(machine)["interfaces"][0]
    assert (found["kill_switch"], [each["code"] for each in found["drift"]]) == (False, ["kill-switch-missing"])
    wgq(machine, "down", "wg0")
    wgq(machine, "up", "wg0")
    assert read(machine)["interfaces"][0]["kill_switch"] is False
    wgq(machine, "down", "wg0")


def test_the_last_error_of_a_peer_is_printed(machine: Namespace) -> None:
    write(machine, config(peer="AllowedIPs = 10.9.0.0/16\nPersistentKeepalive = 25"))
    machine.run(["ip", "route", "add", "unreachable", "192.0.2.9/32"])
    wgq(machine, "up", "wg0")
    until(lambda: read(machine)["interfaces"][0]["peers"][0]["last_error"], "the error")
    (peer,) = read(machine)["interfaces"][0]["peers"]
    assert peer["state"] == "connecting"
    assert (peer["last_error"]["code"], abs(peer["last_error"]["time"] - time.time()) < 60) == ("send-error", True)
    shown = wgq(machine, "status").stdout
    assert "! cannot send to 192.0.2.9:51820: No route to host" in shown
    wgq(machine, "down", "wg0")
