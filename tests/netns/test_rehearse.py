"""`wgq rehearse`: which hosts reach which, why others do not, and that nothing remains on the machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import host
from tests.netns.rehearsals import (
    FORWARDING,
    HUB,
    WGQ,
    causes,
    interface,
    keys,
    pair,
    pairs,
    peer,
    rehearse,
    written,
)
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.namespaces import Namespace

WORKS = {"handshake": True, "ping": True, "full_size": True, "tcp": True, "cause": None}


def test_a_matching_pair_reaches_each_other(tmp_path: Path) -> None:
    found = pairs(tmp_path, pair())
    assert set(found) == {("server", "client", "10.9.0.2"), ("client", "server", "10.9.0.1")}
    for each in found.values():
        assert {name: each[name] for name in WORKS} == WORKS


def test_a_pair_with_ipv6_inside_and_outside_works(tmp_path: Path) -> None:
    one, two = keys(), keys()
    texts = {
        "left": interface(one[0], "fd77::1/64", "ListenPort = 51820\n") + peer(two[1], "fd77::2/128"),
        "right": interface(two[0], "fd77::2/64") + peer(one[1], "fd77::/64", "[2001:db8::7]:51820"),
    }
    assert set(pairs(tmp_path, texts)) == {("left", "right", "fd77::2"), ("right", "left", "fd77::1")}


def hub_and_clients(hooks: str, *, count: int = 3, allowed: str = "10.9.0.0/24") -> dict[str, str]:
    hub, clients = keys(), [keys() for _ in range(count)]
    hubs = "".join(peer(public, f"10.9.0.{n}/32") for n, (_, public) in enumerate(clients, 2))
    texts = {"hub": interface(hub[0], "10.9.0.1/24", f"ListenPort = 51820\n{hooks}") + hubs}
    for n, (private, _) in enumerate(clients, 2):
        texts[f"client{n}"] = interface(private, f"10.9.0.{n}/32") + peer(hub[1], allowed, "vpn.example.net:51820")
    return texts


def test_clients_reach_each_other_through_a_forwarding_hub(tmp_path: Path) -> None:
    found = pairs(tmp_path, hub_and_clients(FORWARDING))
    assert len(found) == 4 * 3
    assert ("client2", "client3", "10.9.0.3") in found
    assert causes(found) == {None}


def test_a_hub_without_forwarding_gives_no_pairs_of_clients(tmp_path: Path) -> None:
    found = pairs(tmp_path, hub_and_clients(""))
    assert {key[:2] for key in found} == {
        pair for n in (2, 3, 4) for pair in (("hub", f"client{n}"), (f"client{n}", "hub"))
    }


def test_no_hooks_takes_forwarding_from_the_text_of_the_hooks(tmp_path: Path) -> None:
    hooks = FORWARDING + "PostUp = false\n"
    assert len(pairs(tmp_path, hub_and_clients(hooks), "--no-hooks")) == 4 * 3


def test_a_full_tunnel_reaches_its_server(tmp_path: Path) -> None:
    texts = pair()
    texts["client"] = (
        texts["client"]
        .replace("10.9.0.1/32", "0.0.0.0/0, ::/0")
        .replace("10.9.0.2/24\n", "10.9.0.2/24\nDNS = 10.9.0.1\n")
    )
    assert causes(pairs(tmp_path, texts)) == {None}


def test_networks_behind_two_gateways_reach_each_other(tmp_path: Path) -> None:
    one, two = keys(), keys()
    texts = {
        "west": interface(one[0], "10.255.0.1/30", "ListenPort = 51820\n")
        + peer(two[1], "10.255.0.2/32, 192.168.20.0/24", "198.51.100.20:51820"),
        "east": interface(two[0], "10.255.0.2/30", "ListenPort = 51820\n")
        + peer(one[1], "10.255.0.1/32, 192.168.10.0/24", "198.51.100.10:51820"),
    }
    found = pairs(tmp_path, texts)
    assert {key for key in found if key[2].startswith("192.168.")} == {
        ("west", "east", "192.168.20.1"),
        ("east", "west", "192.168.10.1"),
    }
    assert causes(found) == {None}


def test_hosts_with_private_endpoints_share_a_local_network(tmp_path: Path) -> None:
    one, two = keys(), keys()
    texts = {
        "nas": interface(one[0], "10.9.0.1/24", "ListenPort = 51820\n")
        + peer(two[1], "10.9.0.2/32", "192.168.7.20:51820"),
        "desk": interface(two[0], "10.9.0.2/24", "ListenPort = 51820\n")
        + peer(one[1], "10.9.0.1/32", "192.168.7.10:51820"),
    }
    assert causes(pairs(tmp_path, texts)) == {None}


def test_a_private_endpoint_is_unreachable_from_elsewhere(tmp_path: Path) -> None:
    texts = pair(endpoint="192.168.7.10:51820")
    assert causes(pairs(tmp_path, texts)) == {None}
    found = pairs(tmp_path, texts, "--host", "client=203.0.113.99", status=1)
    assert causes(found) == {"endpoint-private"}


def test_two_interfaces_of_one_host_differ_by_their_ports(tmp_path: Path) -> None:
    texts: dict[str, str] = {}
    for name, port, net in (("wg0", 51820, "10.9.0"), ("wg1", 51821, "10.10.0")):
        one, two = keys(), keys()
        texts[name] = interface(one[0], f"{net}.1/24", f"ListenPort = {port}\n") + peer(two[1], f"{net}.2/32")
        texts[f"of-{name}"] = interface(two[0], f"{net}.2/32") + peer(one[1], f"{net}.1/32", f"{HUB}:{port}")
    found = pairs(tmp_path, texts)
    assert len(found) == 4
    assert causes(found) == {None}


def test_files_with_the_same_name_differ_by_their_folders(tmp_path: Path) -> None:
    texts = pair()
    found = pairs(tmp_path, {"hub/wg0": texts["server"], "laptop/wg0": texts["client"]})
    assert set(found) == {("hub/wg0", "laptop/wg0", "10.9.0.2"), ("laptop/wg0", "hub/wg0", "10.9.0.1")}


def test_a_wrong_endpoint_at_one_end_is_a_failure(tmp_path: Path) -> None:
    """It is a failure although the other end can connect."""
    one, two = keys(), keys()
    texts = {
        "left": interface(one[0], "10.9.0.1/24", "ListenPort = 51820\n")
        + peer(two[1], "10.9.0.2/32", "192.0.2.2:51899"),
        "right": interface(two[0], "10.9.0.2/24", "ListenPort = 51820\n")
        + peer(one[1], "10.9.0.1/32", "192.0.2.1:51820"),
    }
    found = pairs(tmp_path, texts, status=1)
    assert found["right", "left", "10.9.0.1"]["cause"] is None
    wrong = found["left", "right", "10.9.0.2"]
    assert (wrong["handshake"], wrong["tcp"], wrong["cause"]) == (False, True, "endpoint-port-differs")


def test_a_host_has_the_address_from_the_command_line(tmp_path: Path) -> None:
    found = pairs(tmp_path, pair(), "--host", "server.conf=203.0.113.8", status=1)
    assert causes(found) == {"endpoint-unreachable"}


def test_links_in_hooks_exist_and_a_hook_may_set_the_key(tmp_path: Path) -> None:
    texts = pair()
    hooks = (
        "PostUp = iptables -t nat -A POSTROUTING -o ens18 -j MASQUERADE; ip route add 192.168.44.0/24 dev br-lan\n"
        "PostUp = ip route get 192.0.2.200 | grep -q 'dev ens18'\n"
    )
    texts["server"] = texts["server"].replace("[Peer]", f"{hooks}[Peer]")
    private = texts["client"].partition("PrivateKey = ")[2].partition("\n")[0]
    texts["client"] = (
        texts["client"]
        .replace(f"PrivateKey = {private}\n", "")
        .replace("[Peer]", f"PostUp = echo {private} | wg set %i private-key /dev/stdin\n[Peer]")
    )
    found = pairs(tmp_path, texts)
    assert len(found) == 2
    assert causes(found) == {None}


PSK = "PresharedKey = 5Q5tcTw7SWyWGFbB5xjJkE3QVSU9HXjvvqpbN8OBmWw=\n"


def key_of(text: str) -> str:
    return text.partition("PrivateKey = ")[2].partition("\n")[0]


def with_peer_key(text: str, key: str) -> str:
    return re.sub(r"PublicKey = .*", f"PublicKey = {key}", text)


# The changed texts: the server's file, the client's file, and a copy of the client's file on a third host.
FAULTS: dict[str, Callable[[str, str], tuple[str, ...]]] = {
    "peer-key-mismatch": lambda server, client: (with_peer_key(server, keys()[1]), client),
    "peer-one-sided": lambda server, client: (server.partition("[Peer]")[0], client),
    "psk-differs": lambda server, client: (server, client + PSK),
    "source-not-allowed": lambda server, client: (server.replace(".2/32", ".3/32"), client),
    "endpoint-port-differs": lambda server, client: (server, client.replace(":51820", ":51821")),
    "endpoint-no-host": lambda server, client: (server, re.sub(r"(Endpoint = ).*:", r"\1<server>:", client)),
    "nobody-connects": lambda server, client: (server, re.sub(r"Endpoint.*\n", "", client)),
    "public-key-is-private": lambda server, client: (server, with_peer_key(client, key_of(server))),
    "one-key-two-places": lambda server, client: (server, client, client.replace(".2/24", ".9/24")),
}


def test_a_fault_between_two_files_is_the_cause(tmp_path: Path) -> None:
    """All faults in one rehearsal, each between its own files."""
    texts: dict[str, str] = {}
    for number, (code, change) in enumerate(FAULTS.items()):
        ends = pair(net=f"10.{number}.0", endpoint=f"203.0.113.{number}:51820")
        for end, text in enumerate(change(ends["server"], ends["client"])):
            texts[f"{code}/wg{end}" if end < 2 else f"{code}-copy/wg1"] = text
    found = pairs(tmp_path, texts, status=1)
    for code in FAULTS:
        own = {each["cause"] for (one, _, _), each in found.items() if one.startswith(code)}
        assert code in own
        assert own <= {code, None}
    assert all(one.partition("/")[0].removesuffix("-copy") in two for one, two, _ in found)


def test_one_address_at_two_clients_is_the_cause(tmp_path: Path) -> None:
    texts = {
        name: text.replace("10.9.0.3/32", "10.9.0.2/32")
        for name, text in hub_and_clients("", count=2, allowed="10.9.0.1/32").items()
    }
    found = pairs(tmp_path, texts, status=1)
    assert causes(found) <= {"address-shared", None}
    assert found["client2", "hub", "10.9.0.1"]["cause"] == "address-shared"


def test_a_failing_hook_is_reported(tmp_path: Path) -> None:
    texts = pair()
    texts["server"] = texts["server"].replace("[Peer]", "PostUp = echo it broke >&2; exit 7\n[Peer]")
    done = rehearse(tmp_path, texts, status=1)
    assert "server: wgq up exited with 7" in done.stderr
    assert "it broke" in done.stderr
    assert "server did not come up [not-up]" in done.stdout


def test_a_faulty_file_is_reported_and_nothing_is_tried(tmp_path: Path) -> None:
    texts = pair()
    texts["client"] = texts["client"].replace("AllowedIPs", "AllowedIP")
    done = rehearse(tmp_path, texts, status=1)
    assert re.search(r"client\.conf:\d+:1: .*\[unknown-key\]", done.stderr)
    assert done.stdout == ""


def mounts(machine: Namespace) -> list[str]:
    """The lines of mountinfo."""
    return machine.out("cat", "/proc/self/mountinfo").splitlines()


def surroundings(machine: Namespace) -> list[str]:
    """Everything on this machine that a rehearsal could change, but mounts."""
    commands = (
        ["ip", "-o", "link"],
        ["ip", "-o", "address"],
        ["ip", "rule"],
        ["ip", "route", "show", "table", "all"],
        ["nft", "list", "ruleset"],
        ["hostname"],
        ["sh", "-c", "find /etc /run -path /etc/alternatives -prune -o -type f -exec cksum {} +"],
        ["sh", "-c", "cat /proc/sys/net/ipv[46]/conf/all/* 2>/dev/null || true"],
    )
    return [machine.out(*command) for command in commands]


def test_the_machine_is_unchanged(tmp_path: Path) -> None:
    """The machine's mounts propagate to other namespaces.

    It has copies of the real host's mounts below /run/netns, which go when other tests delete their namespaces.
    """
    texts = hub_and_clients(
        FORWARDING + "PostUp = echo x >/etc/wgq-was-here; echo x >/run/wgq-was-here; hostname other\n", count=1
    )
    texts["client2"] = texts["client2"].replace("[Peer]", "DNS = 10.9.0.1\n[Peer]")
    paths = written(tmp_path, texts)
    with host() as machine:
        machine.run(["mount", "--make-rshared", "/"])
        before, mounted = surroundings(machine), mounts(machine)
        machine.run([*WGQ, "rehearse", *paths])
        assert surroundings(machine) == before
        left = mounts(machine)
        assert left == [line for line in mounted if line in left or " - nsfs " not in line]


def processes_with(word: str) -> list[int]:
    """The processes with this text in their environment."""
    found = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if word.encode() in Path(f"/proc/{entry}/environ").read_bytes():
                found.append(int(entry))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_a_signal_leaves_nothing(tmp_path: Path, sent: signal.Signals) -> None:
    texts = pair()
    started = tmp_path / "up"
    daemon = f"PostUp = setsid sleep 1000 & touch {started}; sleep 1000\n[Peer]"
    texts["server"] = texts["server"].replace("[Peer]", daemon)
    word = f"WGQ_TEST_MARK={tmp_path}"
    command = [*WGQ, "rehearse", *written(tmp_path, texts)]
    environment = {**os.environ, "MARK": word}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True) as run:
        until(started.exists, "the hook runs")
        until(lambda: len(processes_with(word)) > 4, "five processes of the rehearsal")
        os.killpg(run.pid, sent)
        _, errors = run.communicate(timeout=60)
    assert b"Traceback" not in errors
    assert run.returncode == (-9 if sent == signal.SIGKILL else 128 + sent)
    until(lambda: not processes_with(word), "the end of the processes")


def without(*capabilities: str) -> list[str]:
    """A prefix that runs a command as root without these capabilities, as in a container."""
    dropped = ",".join(f"-{name}" for name in capabilities)
    return ["setpriv", "--bounding-set", dropped, "--inh-caps", dropped, "--"]


def test_user_namespaces_replace_missing_capabilities(tmp_path: Path) -> None:
    paths = written(tmp_path, pair())
    command = [*without("sys_admin", "net_raw"), *WGQ, "rehearse", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 of 2" in done.stdout


def test_a_machine_without_namespaces_or_tun_is_reported(tmp_path: Path) -> None:
    paths = written(tmp_path, pair())
    for preparation, message in (
        ("echo 0 >/proc/sys/user/max_net_namespaces", "/proc/sys/user/max_*_namespaces"),
        ("mount -t tmpfs tmpfs /dev/net", "the bundled backend needs /dev/net/tun"),
    ):
        script = f'{preparation}; exec "$@"'
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", *WGQ, "rehearse"]
        done = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert message in done.stderr


def test_kept_hosts_can_be_entered_and_removed(tmp_path: Path) -> None:
    texts = pair()
    done = rehearse(tmp_path, texts, "--keep")
    enter = re.search(r"^  (nsenter .*)bash    # client$", done.stdout, re.MULTILINE)
    remove = re.search(r"^  kill (\d+)$", done.stdout, re.MULTILINE)
    assert enter
    assert remove
    holder = int(remove[1])
    try:
        ping = [*enter[1].split(), "ping", "-c", "1", "-w", "60", "10.9.0.1"]
        subprocess.run(ping, check=True, stdout=subprocess.DEVNULL)
        process = int(enter[1].split()[2])
    finally:
        os.kill(holder, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{process}").exists(), f"the end of {process}")


def test_ten_files_take_less_than_twenty_seconds(tmp_path: Path) -> None:
    began = time.monotonic()
    found = pairs(tmp_path, hub_and_clients(FORWARDING, count=9))
    assert len(found) == 90
    assert time.monotonic() - began < 20
