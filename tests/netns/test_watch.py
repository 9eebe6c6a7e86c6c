"""`wgq watch` on a live tunnel: it restores lost state and does not undo changes of other runs of wgq."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import pytest

import wgquick
from tests.namespaces import host
from tests.netns import name_server
from tests.netns.pair import Pair, pair, ping
from tests.netns.tunnels import FULL, WGQ, config, rules, src_valid_mark, wgq, write
from tests.netns.watches import SOON, Watch, state, watching
from tests.waiting import until
from wgquick import api
from wgquick.upkeep import clocks, pace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.namespaces import Namespace
    from wgquick.upkeep.events import Event


@pytest.fixture
def machine() -> Iterator[Namespace]:
    """A machine with a full tunnel that is up."""
    with host() as made:
        made.uplink(ipv6=True)
        write(made, config("DNS = 10.0.0.53", FULL))
        wgq(made, "up", "wg0")
        yield made


LOSSES = {
    "rule": "ip -4 rule del table 51820; ip -6 rule del table main suppress_prefixlength 0",
    "route": "ip -4 route flush table 51820; ip -6 route flush table 51820",
    "address": "ip -4 addr flush dev wg0",
    "firewall": "nft flush ruleset",
    "sysctl": "echo 0 >/proc/sys/net/ipv4/conf/all/src_valid_mark",
}


def restored_in(machine: Namespace, watch: Watch, kind: str) -> float:
    """The seconds from the beginning of a loss to the event that says that it is restored."""
    whole, began = state(machine), time.time()
    machine.run(["sh", "-c", LOSSES[kind]])

    def times() -> list[float]:
        return [each["time"] for each in watch.events(f"{kind}-restored") if each["time"] >= began]

    until(times, f"{kind}-restored")
    until(lambda: state(machine) == whole, "the state before")
    return times()[0] - began


@pytest.mark.alone
def test_losses_are_restored_within_two_seconds(machine: Namespace, tmp_path: Path) -> None:
    """The best of three times: one may be that of other work on the machine."""
    with watching(machine, tmp_path) as watch:
        took = {kind: min(restored_in(machine, watch, kind) for _ in range(3)) for kind in LOSSES}
    assert max(took.values()) < 2, took


def test_losses_are_restored(machine: Namespace, tmp_path: Path) -> None:
    with watching(machine, tmp_path) as watch:
        for kind in LOSSES:
            restored_in(machine, watch, kind)
    assert {each["interface"] for each in watch.events()} == {"wg0"}
    assert watch.events("firewall-restored")[0]["culprit"] == "nft"


def test_dns_replaced_by_another_program_is_restored(machine: Namespace, tmp_path: Path) -> None:
    with watching(machine, tmp_path) as watch:
        machine.run(["sh", "-c", "echo nameserver 198.51.100.53 >/etc/new; mv /etc/new /etc/resolv.conf"])
        assert watch.await_event("dns-restored")["text"] == "10.0.0.53"
        assert "nameserver 10.0.0.53" in machine.out("cat", "/etc/resolv.conf")
    wgq(machine, "down", "wg0")
    assert machine.out("cat", "/etc/resolv.conf") == "nameserver 198.51.100.53\n"


def test_a_down_is_left_alone_and_the_next_up_is_watched(machine: Namespace, tmp_path: Path) -> None:
    with watching(machine, tmp_path) as watch:
        machine.run(["ip", "rule", "del", "table", "51820"])
        watch.await_event("rule-restored")
        write(machine, config("PreDown = ip -4 rule del table 51820; sleep 2", FULL))
        wgq(machine, "down", "wg0")
        assert "51820" not in rules(machine)
        write(machine, config("", FULL))
        wgq(machine, "up", "wg0")
        assert len(watch.events()) == 1
        machine.run(["ip", "-6", "rule", "del", "table", "51820"])
        until(lambda: len(watch.events("rule-restored")) == 2, "both rules")
        assert rules(machine).count("lookup 51820") == 2


def test_a_watch_without_tunnels_finds_a_new_one(tmp_path: Path) -> None:
    with host() as made, watching(made, tmp_path) as watch:
        made.uplink(ipv6=True)
        write(made, config("", FULL))
        wgq(made, "up", "wg0")
        until(lambda: _restores(made, watch), "the watch restores")
        wgq(made, "down", "wg0")
        assert "51820" not in rules(made)


def _restores(machine: Namespace, watch: Watch) -> bool:
    """Delete the rules, and say if the watch restored them: it may not have read the journal yet."""
    machine.run(["ip", "rule", "del", "table", "51820"], check=False)
    time.sleep(0.5)
    return bool(watch.events("rule-restored"))


def test_a_reload_is_left_alone(machine: Namespace, tmp_path: Path) -> None:
    with watching(machine, tmp_path) as watch:
        write(machine, config("DNS = 10.0.0.53", "AllowedIPs = 10.9.0.0/16", address="10.0.0.2/24"))
        wgq(machine, "reload", "wg0")
        assert "51820" not in rules(machine)
        machine.run(["ip", "route", "del", "10.9.0.0/16"])
        assert watch.await_event("route-restored")["text"] == "10.9.0.0/16"
        assert "51820" not in rules(machine)
        assert [each["event"] for each in watch.events()] == ["route-restored"]
        assert "10.0.0.1" not in machine.out("ip", "addr", "show", "wg0")


def test_only_recorded_state_is_restored(machine: Namespace, tmp_path: Path) -> None:
    machine.run(["ip", "route", "add", "198.51.100.0/24", "dev", "wg0"])
    with watching(machine, tmp_path) as watch:
        machine.run(["ip", "route", "del", "198.51.100.0/24"])
        machine.run(["ip", "rule", "del", "table", "51820"])
        watch.await_event("rule-restored")
        assert "198.51.100.0" not in machine.out("ip", "route")
        assert len(watch.events()) == 1


def test_a_rule_that_a_hook_removed_is_not_restored(machine: Namespace, tmp_path: Path) -> None:
    wgq(machine, "down", "wg0")
    write(machine, config("PostUp = ip -6 rule del table 51820", FULL))
    wgq(machine, "up", "wg0")
    with watching(machine, tmp_path) as watch:
        machine.run(["ip", "rule", "del", "table", "51820"])
        watch.await_event("rule-restored")
        assert rules(machine).count("lookup 51820") == 1


def test_a_route_of_another_link_in_place_of_ours_stays(machine: Namespace) -> None:
    machine.run(["ip", "route", "replace", "default", "dev", "up0", "table", "51820"])
    assert "restored" not in wgq(machine, "watch", "--once", "--json").stdout
    assert "dev up0" in machine.out("ip", "route", "show", "table", "51820")


@pytest.mark.parametrize("verb", ["reload", "down"])
def test_watch_accepts_a_trial_and_its_rollback(machine: Namespace, tmp_path: Path, verb: str) -> None:
    before = rules(machine)
    with watching(machine, tmp_path) as watch:
        write(machine, config("DNS = 10.0.0.53", "AllowedIPs = 10.9.0.0/16", address="10.0.0.2/24"))
        wgq(machine, "try", verb, "wg0", "--timeout", "4", status=4)
        assert watch.events() == []
        assert rules(machine) == before
        machine.run(["ip", "-6", "rule", "del", "table", "51820"])
        watch.await_event("rule-restored")
        assert rules(machine) == before


def test_check_only_changes_nothing(machine: Namespace, tmp_path: Path) -> None:
    machine.run(["nft", "flush", "ruleset"])
    machine.run(["ip", "rule", "del", "table", "51820"])
    before = state(machine)
    with watching(machine, tmp_path, "--check-only") as watch:
        watch.await_event("firewall-missing")
        machine.run(["ip", "-4", "addr", "flush", "dev", "wg0"])
        for kind in ("address", "route", "rule"):
            watch.await_event(f"{kind}-missing")
    assert {each["event"] for each in watch.events()} == {
        f"{kind}-missing" for kind in ("firewall", "rule", "address", "route")
    }
    assert len(watch.events("rule-missing")) == 1
    machine.run(["ip", "addr", "add", "10.0.0.1/24", "dev", "wg0"])
    machine.run(["ip", "route", "add", "default", "dev", "wg0", "table", "51820"])
    assert state(machine) == before
    assert "firewall-missing" in wgq(machine, "watch", "--check-only", "--once", status=1).stdout


def test_once_restores_and_ends(machine: Namespace) -> None:
    before = state(machine)
    assert wgq(machine, "watch", "--once").stdout == ""
    machine.run(["sh", "-c", "; ".join(LOSSES.values())])
    output = wgq(machine, "watch", "--once", "wg0").stdout
    assert "wg0: rule-restored: ip -4 rule: not fwmark 0xca6c lookup 51820\n" in output
    assert state(machine) == before
    assert "`wg9' is not up" in wgq(machine, "watch", "--once", "wg9", status=1).stderr


def test_a_command_runs_for_each_event(machine: Namespace, tmp_path: Path) -> None:
    command = "echo $WGQ_EVENT $WGQ_INTERFACE >>/run/events; exit 3"
    machine.run(["sh", "-c", LOSSES["sysctl"]])
    done = wgq(machine, "watch", "--once", "--exec", command)
    assert machine.out("cat", "/run/events") == "sysctl-restored wg0\n"
    assert src_valid_mark(machine) == "1"
    assert "exited with 3" in done.stderr


def test_other_signals_end_the_watch_with_their_status(machine: Namespace) -> None:
    process = machine.popen([*WGQ, "watch", "--exec", "true"])
    machine.run(["ip", "rule", "del", "table", "51820"])
    until(lambda: rules(machine).count("lookup 51820") == 2, "both rules")
    process.send_signal(signal.SIGHUP)
    assert process.wait(SOON) == 129


def test_a_fight_is_given_up_and_names_the_culprit(machine: Namespace) -> None:
    fight = "while :; do ip rule del table 51820 2>/dev/null || sleep 0.05; done"

    async def last() -> Event:
        pace.PAUSE = 0.05  # after the first ten it would be one each five seconds
        async with aclosing(wgquick.watch()) as events:
            seen = []
            async for event in events:
                seen.append(event)
                if event.event == "gave-up":
                    restored = [each.event for each in seen].count("rule-restored")
                    assert pace.BURST <= restored <= pace.MOST, "the rule may be gone again before the event"
                    return event
        raise AssertionError

    machine.popen(["sh", "-c", fight])
    event = machine.call(lambda: asyncio.run(asyncio.wait_for(last(), 2 * SOON)))
    assert (event.text, event.culprit) == ("rule: restored 20 times in 10 minutes", "ip")


def test_the_kill_switch_is_restored(tmp_path: Path) -> None:
    with host() as machine:
        machine.uplink()
        write(
            machine,
            config("# wgq: kill-switch = on\n# wgq: exclude = 198.51.100.0/24\n# wgq: keep-inbound = on", FULL),
        )
        wgq(machine, "up", "wg0")
        route = "ip", "route", "show", "table", "51820"
        before = machine.out("nft", "list", "ruleset"), machine.out(*route)
        assert "wgq-guard-wg0" in before[0]
        assert "throw 198.51.100.0/24" in before[1]
        with watching(machine, tmp_path) as watch:
            machine.run(["sh", "-c", "nft flush ruleset; ip route flush table 51820"])
            watch.await_event("firewall-restored")
            until(
                lambda: sorted(_lines(machine, "nft list ruleset")) == sorted(before[0].splitlines()),
                "the tables before",
            )
            until(lambda: machine.out(*route) == before[1], "the routes before")
            wgq(machine, "down", "wg0")
        assert machine.out("nft", "list", "ruleset") == ""


def _lines(machine: Namespace, command: str) -> list[str]:
    return machine.out("sh", "-c", command).splitlines()


def test_an_automatic_mtu_follows_the_uplink(machine: Namespace, tmp_path: Path) -> None:
    with watching(machine, tmp_path) as watch:
        machine.run(["ip", "link", "set", "up0", "mtu", "1400"])
        assert watch.await_event("mtu-changed")["text"] == "1420 to 1320"
        assert _mtu(machine) == 1320
    machine.run(["ip", "link", "set", "up0", "mtu", "1500"])
    wgq(machine, "watch", "--once")
    assert _mtu(machine) == 1320, "another MTU than that of up counts as a user's"


def test_an_mtu_in_the_file_is_kept(machine: Namespace) -> None:
    wgq(machine, "down", "wg0")
    write(machine, config("MTU = 1400", FULL))
    wgq(machine, "up", "wg0")
    machine.run(["ip", "link", "set", "up0", "mtu", "1300"])
    assert wgq(machine, "watch", "--once").stdout == ""
    assert _mtu(machine) == 1400


def _mtu(machine: Namespace) -> int:
    return int(machine.out("cat", "/sys/class/net/wg0/mtu"))


def test_an_endpoint_with_a_new_address_is_found(tmp_path: Path) -> None:
    with pair() as ends:
        ends.write("PersistentKeepalive = 25")
        wgq(ends.two, "up", "wg0")
        text = ends.one.out("cat", "/etc/wireguard/wg0.conf").replace("192.0.2.2:", "far.example:")
        write(ends.one, text)
        name(ends.one, "192.0.2.77")
        wgq(ends.one, "up", "wg0")
        name(ends.one, "192.0.2.2")
        with watching(ends.one, tmp_path) as watch:
            found = watch.await_event("endpoint-resolved")
            assert (found["peer"], found["text"]) == (ends.key_of_two, "far.example:51820 is 192.0.2.2:51820")
            assert watch.await_event("peer-up")["peer"] == ends.key_of_two
            assert len(watch.events("endpoint-resolved")) == 1


def test_without_waiting_for_dns_watch_sets_the_endpoint(tmp_path: Path) -> None:
    with pair() as ends:
        ends.write()
        wgq(ends.two, "up", "wg0")
        ends.one.run(["sh", "-c", "echo nameserver 127.0.0.1 >/etc/resolv.conf"])
        text = ends.one.out("cat", "/etc/wireguard/wg0.conf").replace("192.0.2.2:", "far.example:")
        write(ends.one, text)
        transcript = wgq(ends.one, "up", "wg0", "--no-wait-for-dns").stderr
        assert "[!] far.example:51820 cannot be resolved yet: the peer of wg0 has no endpoint until" in transcript
        assert ends.one.out("wg", "show", "wg0", "endpoints").split() == [ends.key_of_two, "(none)"]
        transcript = wgq(ends.one, "reload", "wg0", "--no-wait-for-dns").stderr
        assert "far.example:51820 cannot be resolved yet" in transcript
        with watching(ends.one, tmp_path) as watch:
            name(ends.one, "192.0.2.2")
            assert watch.await_event("endpoint-resolved")["text"] == "far.example:51820 is 192.0.2.2:51820"
            assert watch.await_event("peer-up")["peer"] == ends.key_of_two
        assert ends.one.out("wg", "show", "wg0", "endpoints").split() == [ends.key_of_two, "192.0.2.2:51820"]


def test_without_an_endpoint_the_uplinks_server_is_asked(tmp_path: Path) -> None:
    """Only marked queries leave the host, as the tunnel gets all others."""
    with pair() as ends:
        ends.write()
        wgq(ends.two, "up", "wg0")
        ends.two.run(["ip", "address", "add", "198.51.100.53/32", "dev", "eth0"])
        ends.one.run(["sh", "-c", "echo nameserver 198.51.100.53 >/etc/resolv.conf"])
        text = ends.one.out("cat", "/etc/wireguard/wg0.conf").replace("192.0.2.2:", "far.example:")
        text = text.replace("AllowedIPs = 10.7.0.2/32", "AllowedIPs = 0.0.0.0/0")
        write(ends.one, text.replace("[Peer]", "DNS = 10.7.0.2\n[Peer]"))
        wgq(ends.one, "up", "wg0", "--no-wait-for-dns", "--dns", "file")
        name_server.start(ends.two, "198.51.100.53", far_example="192.0.2.2")
        with watching(ends.one, tmp_path) as watch:
            assert watch.await_event("endpoint-resolved")["text"] == "far.example:51820 is 192.0.2.2:51820"
            watch.await_event("peer-up")
        assert set(name_server.queries(ends.two)) == {"192.0.2.1 far.example"}


def test_the_kill_switch_passes_an_endpoint_that_has_moved(tmp_path: Path) -> None:
    with pair() as ends:
        ends.write()
        wgq(ends.two, "up", "wg0")
        text = ends.one.out("cat", "/etc/wireguard/wg0.conf").replace("192.0.2.2:", "far.example:")
        write(ends.one, text.replace("[Peer]", "# wgq: kill-switch = on\n[Peer]"))
        name(ends.one, "192.0.2.77")
        wgq(ends.one, "up", "wg0")
        before = ends.one.out("nft", "list", "ruleset")
        assert "192.0.2.77" in before
        name(ends.one, "192.0.2.2")
        with watching(ends.one, tmp_path) as watch:
            watch.await_event("endpoint-resolved")
            watch.await_event("peer-up")
            moved = ends.one.out("nft", "list", "ruleset")
            assert moved == before.replace("192.0.2.77", "192.0.2.2")
            ends.one.run(["nft", "flush", "ruleset"])
            watch.await_event("firewall-restored")
            assert ends.one.out("nft", "list", "ruleset") == moved
        transcript = wgq(ends.one, "down", "wg0").stderr
        assert transcript.count("remove the kill switch of wg0") == 1
        assert ends.one.out("nft", "list", "ruleset") == ""


def test_the_kill_switch_follows_a_peer_that_roams(tmp_path: Path) -> None:
    """The old address is blocked once the peer returns. Only the tunnel's packets pass."""
    with pair() as ends:
        ends.write()
        # Without connection tracking packets pass because of the endpoint alone, as after a long silence.
        ends.one.run(["nft", "-f", "-"], input=UNTRACKED)
        wgq(ends.two, "up", "wg0")
        wgq(ends.one, "up", "--kill-switch", "wg0")
        ping(ends.one, "10.7.0.2")
        ends.two.run(["ip", "address", "add", "192.0.2.7/24", "dev", "eth0"])
        before = ends.one.out("nft", "list", "table", "inet", "wgq-guard-wg0")
        with watching(ends.one, tmp_path) as watch:
            roam(ends, "192.0.2.7", "192.0.2.2")
            assert watch.await_event("endpoint-allowed")["text"] == "192.0.2.7:51820"
            ping(ends.one, "10.7.0.2")
        assert send(ends.one, "192.0.2.7", 9) == "refused"
        roam(ends, "192.0.2.2", "192.0.2.7")
        done = wgq(ends.one, "plan", "reload", "wg0", status=2).stdout
        assert "kill switch of wg0" in done
        wgq(ends.one, "reload", "wg0")
        assert ends.one.out("nft", "list", "table", "inet", "wgq-guard-wg0") == before
        assert "nothing to do" in wgq(ends.one, "plan", "reload", "wg0").stderr
        assert wgq(ends.one, "down", "wg0").stderr.count("remove the kill switch of wg0") == 1


UNTRACKED = """
table inet untracked {
    chain incoming { type filter hook prerouting priority raw; udp sport 51820 notrack; }
}
"""


def roam(ends: Pair, address: str, old: str) -> None:
    """Let `two` send from another address, until `one` has it as its endpoint."""
    ends.two.run(["ip", "address", "del", f"{old}/24", "dev", "eth0"])
    ends.two.run(["ip", "address", "replace", f"{address}/24", "dev", "eth0"])
    ends.two.run(["ip", "route", "replace", "default", "via", "192.0.2.1"])

    def is_there() -> bool:
        ends.two.run(["ping", "-c1", "-W1", "10.7.0.1"], check=False)
        return f"{address}:51820" in ends.one.out("wg", "show", "wg0", "endpoints")

    until(is_there, f"the endpoint {address}")


def send(machine: Namespace, address: str, port: int) -> str:
    """Send a UDP packet without a mark: sent, or refused by the kill switch."""
    script = f"from socket import *; socket(AF_INET, SOCK_DGRAM).sendto(b'x', ('{address}', {port}))"
    done = machine.run(["python3", "-c", script], check=False)
    return "sent" if done.returncode == 0 else "refused"


def test_a_kill_switch_does_not_wait_for_dns(tmp_path: Path) -> None:
    """With --no-wait-for-dns it blocks everything at first, and watch resolves the endpoint with marked queries."""
    with pair() as ends:
        ends.write(interface="DNS = 10.7.0.53")
        text = ends.one.out("cat", "/etc/wireguard/wg0.conf").replace("192.0.2.2:", "far.example:")
        text = text.replace("10.7.0.2/32", "0.0.0.0/0")
        write(ends.one, text.replace("[Peer]", "# wgq: kill-switch = on\n[Peer]"))
        ends.one.run(["sh", "-c", "echo 'nameserver 192.0.2.2' >/etc/resolv.conf"])
        wgq(ends.two, "up", "wg0")
        transcript = wgq(ends.one, "up", "wg0", "--no-wait-for-dns", "--dns", "file").stderr
        assert "far.example:51820 cannot be resolved yet" in transcript
        assert "dport 51820" not in ends.one.out("nft", "list", "ruleset")
        # The host has got another server meanwhile.
        manager = "/run/NetworkManager"
        ends.one.run(["sh", "-c", f"mkdir {manager}; echo nameserver 192.0.2.8 >{manager}/no-stub-resolv.conf"])
        ends.two.run(["ip", "address", "add", "192.0.2.8/24", "dev", "eth0"])
        name_server.start(ends.two, "192.0.2.8", far_example="192.0.2.2")
        assert send(ends.one, "192.0.2.8", 53) == "refused"
        with watching(ends.one, tmp_path) as watch:
            watch.await_event("endpoint-resolved")
            watch.await_event("peer-up")
            ping(ends.one, "10.7.0.2")
        assert send(ends.one, "192.0.2.2", 53) == "refused"


def test_tunnels_in_other_namespaces_are_watched(tmp_path: Path) -> None:
    """Their endpoints are resolved outside. A namespace that is deleted and made again has no tunnel."""
    with pair() as ends:
        ends.write(interface="# wgq: netns = vpn\nDNS = 10.7.0.53")
        text = ends.one.out("cat", "/etc/wireguard/wg0.conf").replace("192.0.2.2:", "far.example:")
        write(ends.one, text.replace("10.7.0.2/32", "0.0.0.0/0"))
        name(ends.one, "192.0.2.77")
        wgq(ends.two, "up", "wg0")
        wgq(ends.one, "up", "wg0")
        name(ends.one, "192.0.2.2")
        with watching(ends.one, tmp_path) as watch:
            inside = ["ip", "-n", "vpn"]
            ends.one.run([*inside, "route", "del", "default"])
            assert watch.await_event("route-restored")["text"] == "0.0.0.0/0"
            ends.one.run([*inside, "address", "del", "10.7.0.1/24", "dev", "wg0"])
            watch.await_event("address-restored")
            ends.one.run(["sh", "-c", "cd /etc/netns; echo >new; mv new vpn/resolv.conf"])
            watch.await_event("dns-restored")
            assert "10.7.0.53" in ends.one.out("cat", "/etc/netns/vpn/resolv.conf")
            watch.await_event("endpoint-resolved")
            watch.await_event("peer-up")
            ends.one.run(["ip", "netns", "delete", "vpn"])
            ends.one.run(["ip", "netns", "add", "vpn"])
            until(lambda: open_namespaces(ends.one, watch) == 0, "no namespace open")
            assert "gone" in wgq(ends.one, "show", "wg0", status=1).stderr
            wgq(ends.one, "up", "wg0")
            assert "netns delete" not in wgq(ends.one, "down", "wg0").stderr  # it is not wgq's any more
            wgq(ends.one, "up", "wg0")
            until(lambda: open_namespaces(ends.one, watch) == 1, "the namespace open")
            before = len(watch.events("route-restored"))
            ends.one.run([*inside, "route", "del", "default"])
            until(lambda: len(watch.events("route-restored")) > before, "the route")
            wgq(ends.one, "down", "wg0")
            until(lambda: open_namespaces(ends.one, watch) == 0, "no namespace open")


def open_namespaces(machine: Namespace, watch: Watch) -> int:
    """The number of other network namespaces that the watch keeps open."""
    found = machine.run(["sh", "-c", f"ls -l /proc/{watch.process.pid}/fd | grep -c net:"], check=False)
    return int(found.stdout)


def name(machine: Namespace, address: str) -> None:
    """Set the address of the far end's name; a reader sees the old file or the new one."""
    machine.run(["sh", "-c", "cat >/etc/new; mv /etc/new /etc/hosts"], input=f"{address} far.example\n")


def test_watch_starts_new_sessions_after_sleep(tmp_path: Path) -> None:
    """A session does not survive sleep: the other end has discarded it."""

    def handshake() -> float:
        return api.devices(["wg0"])[0].peers[0].last_handshake

    async def consume() -> None:
        async with aclosing(wgquick.watch()) as events:
            async for _ in events:
                pass

    async def watch_until_handshake(before: float) -> None:
        watching = asyncio.create_task(consume())
        async with asyncio.timeout(SOON):
            while handshake() == before:
                await asyncio.sleep(0.1)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    def watch_after_sleep() -> None:
        clocks.Clocks.jumped = lambda self: True  # type: ignore[method-assign]
        asyncio.run(watch_until_handshake(handshake()))

    with pair() as ends:
        ends.write("PersistentKeepalive = 25")
        wgq(ends.two, "up", "wg0")
        wgq(ends.one, "up", "wg0", "--wait=60")
        ends.one.call(watch_after_sleep)


def test_python_iterates_over_the_events(machine: Namespace) -> None:
    async def first() -> Event:
        async with aclosing(wgquick.watch(["wg0"])) as events:
            async for event in events:
                return event
        raise AssertionError

    machine.run(["ip", "rule", "del", "table", "51820"])
    event = machine.call(lambda: asyncio.run(asyncio.wait_for(first(), SOON)))
    assert (event.event, event.interface) == ("rule-restored", "wg0")
    assert rules(machine).count("lookup 51820") == 2
