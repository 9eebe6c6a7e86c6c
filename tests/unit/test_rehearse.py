"""The layout of a rehearsal, and the causes of failures, on hosts with prepared answers."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from tests.netns.rehearsals import HUB, interface, keys, pair, peer, written
from wgquick.diagnosis.layout import Ties, lay_out, names_of, placements
from wgquick.diagnosis.rehearse import rehearse
from wgquick.diagnosis.source import read
from wgquick.errors import ConfigError, WgqError
from wgquick.net import address_text
from wgquick.rehearsal import INTERNET, Reach, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from wgquick.diagnosis.source import Source
    from wgquick.rehearsal import Entry, Layout, Probe, Report

ALL = Reach(True, True, True)


def sources(folder: Path, texts: dict[str, str]) -> list[Source]:
    return [read(path) for path in written(folder, texts)]


def laid_out(folder: Path, texts: dict[str, str], hosts: str = "") -> Layout:
    found = sources(folder, texts)
    names = names_of(found)
    return lay_out(found, Ties(found), names, placements(hosts, found, names))


def public(layout: Layout, host: int) -> list[str]:
    return [address_text(each.address) for each in layout.hosts[host].cables[0].addresses]


def test_a_host_has_the_address_in_the_endpoints_of_its_key(tmp_path: Path) -> None:
    layout = laid_out(tmp_path, pair(endpoint="[2001:db8::7]:51820"))
    assert "2001:db8::7" in public(layout, 0)
    assert "2001:db8::7" not in public(layout, 1)
    assert {":" in address for address in public(layout, 1)} == {True, False}


def test_addresses_on_the_command_line_override_endpoints(tmp_path: Path) -> None:
    layout = laid_out(tmp_path, pair(), "server.conf=203.0.113.9,client=203.0.113.10,2001:db8::10")
    assert public(layout, 0)[0] == "203.0.113.9"
    assert HUB not in public(layout, 0)
    assert public(layout, 1) == ["203.0.113.10", "2001:db8::10"]


@pytest.mark.parametrize("words", ["203.0.113.7", "other=203.0.113.7", "server="])
def test_invalid_hosts_on_the_command_line_are_refused(tmp_path: Path, words: str) -> None:
    with pytest.raises(WgqError):
        laid_out(tmp_path, pair(), words)


def test_a_name_resolves_to_the_host_with_the_key(tmp_path: Path) -> None:
    layout = laid_out(tmp_path, pair(endpoint="vpn.example.net:51820"))
    ((address, name),) = layout.names
    assert name == "vpn.example.net"
    assert address in public(layout, 0)


def test_a_name_of_an_unknown_key_resolves_to_no_host(tmp_path: Path) -> None:
    texts = pair()
    texts["client"] += peer(keys()[1], "10.20.0.0/16", "vpn.example.com:51820")
    layout = laid_out(tmp_path, texts)
    ((address, _),) = layout.names
    assert all(address not in public(layout, host) for host in (0, 1))


def test_a_private_endpoint_is_on_one_switch_with_its_clients(tmp_path: Path) -> None:
    layout = laid_out(tmp_path, pair(endpoint="192.168.7.10:51820"))
    (first,), (second,) = ([c for c in host.cables if c.segment != INTERNET] for host in layout.hosts)
    assert first.segment == second.segment
    assert [str(each) for each in first.addresses] == ["192.168.7.10/24"]
    assert second.addresses != first.addresses


def test_private_networks_that_refer_to_each_other_are_joined(tmp_path: Path) -> None:
    one, two = keys(), keys()
    texts = {
        "one": interface(one[0], "10.9.0.1/24") + peer(two[1], "10.9.0.2/32", "172.16.4.9:51820"),
        "two": interface(two[0], "10.9.0.2/24") + peer(one[1], "10.9.0.1/32", "172.16.7.9:51820"),
    }
    layout = laid_out(tmp_path, texts)
    assert [str(host.cables[1].addresses[0]) for host in layout.hosts] == ["172.16.7.9/22", "172.16.4.9/22"]


def test_a_file_with_its_own_address_as_endpoint_keeps_it(tmp_path: Path) -> None:
    texts = pair()
    texts["server"] += f"Endpoint = {HUB}:51820\n"
    layout = laid_out(tmp_path, texts)
    assert HUB in public(layout, 0)
    assert HUB not in public(layout, 1)


def test_networks_of_a_full_tunnel_are_not_behind_the_server(tmp_path: Path) -> None:
    texts = pair()
    halves = "0.0.0.0/1, 128.0.0.0/2, 192.168.40.0/24, 10.9.0.1/32"
    texts["client"] = texts["client"].replace("10.9.0.1/32", halves)
    assert laid_out(tmp_path, texts).hosts[0].behind == ()
    texts["client"] = texts["client"].replace(halves, "192.168.40.0/24, 10.9.0.1/32")
    assert [str(each) for each in laid_out(tmp_path, texts).hosts[0].behind] == ["192.168.40.1/24"]


def test_an_uplink_has_the_name_used_in_the_hooks(tmp_path: Path) -> None:
    texts = pair()
    hooks = "PostUp = ip route add 10.7.0.0/16 dev br0; iptables -t nat -A POSTROUTING -o ens3 -j MASQUERADE\n"
    made = "PostUp = ip link add vlan7 type bridge; ip link set dev vlan7 up\n"
    texts["server"] = texts["server"].replace("[Peer]", f"{hooks}{made}[Peer]")
    server, client = laid_out(tmp_path, texts).hosts
    assert (server.cables[0].link, server.links) == ("ens3", ("br0",))
    assert (client.cables[0].link, client.links) == ("eth0", ())


class Answers:
    """Hosts with prepared answers; `rounds` are the results of each trial."""

    holder = 1
    is_root = True

    def __init__(self, *rounds: list[Reach], shakes: bool = True, doctor: Sequence[dict[str, str]] = ()) -> None:
        self._rounds = list(rounds)
        self._shakes = shakes
        self._doctor = doctor
        self.commands: list[list[str]] = []
        self._keys: set[bytes] = set()

    def up(self) -> list[State]:
        return [State(mtu=1420, listen_port=51820), State(mtu=1420, listen_port=40000)]

    def looked_at(self, states: Sequence[State]) -> list[State]:
        return [each._replace(handshakes=frozenset(self._keys)) for each in states]

    def tried(self, probes: Sequence[Probe], states: Sequence[State]) -> list[Reach]:
        self._keys |= {probe.peer for probe in probes if self._shakes}
        return self._rounds.pop(0)

    def run(self, arguments: Mapping[int, list[str]], patience: float) -> dict[int, tuple[int, str]]:
        self.commands += arguments.values()
        output = json.dumps({"interface": "x", "findings": list(self._doctor)})
        return dict.fromkeys(arguments, (1, f"[!] something\n{output}"))

    def keep(self) -> list[Entry]:
        return []


def rehearsed(folder: Path, answers: Answers, texts: dict[str, str] | None = None) -> Report:
    def build(_layout: Layout) -> AbstractContextManager[Answers]:
        return nullcontext(answers)

    return rehearse(sources(folder, texts or pair()), build, lambda _: None)


def finding(code: str, severity: str = "error") -> dict[str, str]:
    return {"code": code, "severity": severity, "message": "m", "remedy": "r"}


def test_the_first_error_of_doctor_is_the_cause(tmp_path: Path) -> None:
    found = [finding("no-answer"), finding("worth-knowing", "info"), finding("input-blocked"), finding("other")]
    answers = Answers([Reach(), Reach()], shakes=False, doctor=found)
    report = rehearsed(tmp_path, answers)
    assert [pair.cause and pair.cause.code for pair in report.pairs] == ["input-blocked"] * 2
    assert answers.commands == [["doctor", "server", "--json"], ["doctor", "client", "--json"]]


def test_doctor_does_not_run_if_the_files_show_the_cause(tmp_path: Path) -> None:
    texts = pair()
    texts["client"] += "PresharedKey = 5Q5tcTw7SWyWGFbB5xjJkE3QVSU9HXjvvqpbN8OBmWw=\n"
    answers = Answers([Reach(), Reach()], shakes=False, doctor=[finding("input-blocked")])
    report = rehearsed(tmp_path, answers, texts)
    assert {pair.cause and pair.cause.code for pair in report.pairs} == {"psk-differs"}
    assert answers.commands == []


@pytest.mark.parametrize(
    ("reach", "shakes", "code"),
    [
        (Reach(), False, "no-answer"),
        (Reach(), True, "no-data-back"),
        (Reach(True, False, True), True, "mtu-too-large"),
        (Reach(True, True, False), True, "tcp-blocked"),
    ],
)
def test_without_a_finding_the_failure_is_the_cause(tmp_path: Path, reach: Reach, shakes: bool, code: str) -> None:
    report = rehearsed(tmp_path, Answers([reach, ALL], [reach], shakes=shakes))
    assert report.pairs[0].cause
    assert report.pairs[0].cause.code == code
    assert not report.is_good


def test_a_partial_result_is_tried_again(tmp_path: Path) -> None:
    report = rehearsed(tmp_path, Answers([Reach(True, True, False), ALL], [Reach(True, False, True)]))
    assert report.is_good


def test_the_faults_of_all_files_are_reported(tmp_path: Path) -> None:
    texts = {name: text.replace("AllowedIPs", "Allowed") for name, text in pair().items()}
    with pytest.raises(ConfigError) as caught:
        rehearsed(tmp_path, Answers(), texts)
    assert "server.conf:7:1" in str(caught.value)
    assert "client.conf:6:1" in str(caught.value)


def test_a_file_given_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, pair())[0]
    with pytest.raises(WgqError, match="given twice"):
        names_of([read(path), read(path)])
