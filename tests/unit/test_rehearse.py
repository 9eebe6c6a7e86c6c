"""Who is where, who means to reach whom, and which cause a failure gets, on hosts that only answer."""

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


def test_a_host_is_where_the_endpoints_with_its_key_say(tmp_path: Path) -> None:
    layout = laid_out(tmp_path, pair(endpoint="[2001:db8::7]:51820"))
    assert "2001:db8::7" in public(layout, 0)
    assert "2001:db8::7" not in public(layout, 1)
    assert {":" in address for address in public(layout, 1)} == {True, False}


def test_the_command_line_is_right_and_the_endpoints_are_wrong(tmp_path: Path) -> None:
    layout = laid_out(tmp_path, pair(), "server.conf=203.0.113.9,client=203.0.113.10,2001:db8::10")
    assert public(layout, 0)[0] == "203.0.113.9"
    assert HUB not in public(layout, 0)
    assert public(layout, 1) == ["203.0.113.10", "2001:db8::10"]


@pytest.mark.parametrize("words", ["203.0.113.7", "other=203.0.113.7", "server="])
def test_nonsense_on_the_command_line_is_refused(tmp_path: Path, words: str) -> None:
    with pytest.raises(WgqError):
        laid_out(tmp_path, pair(), words)


def test_a_name_leads_to_the_host_with_the_key(tmp_path: Path) -> None:
    layout = laid_out(tmp_path, pair(endpoint="vpn.example.net:51820"))
    ((address, name),) = layout.names
    assert name == "vpn.example.net"
    assert address in public(layout, 0)


def test_a_name_of_nobodys_leads_to_nobody(tmp_path: Path) -> None:
    texts = pair()
    texts["client"] += peer(keys()[1], "10.20.0.0/16", "vpn.example.com:51820")
    layout = laid_out(tmp_path, texts)
    ((address, _),) = layout.names
    assert all(address not in public(layout, host) for host in (0, 1))


def test_private_endpoints_are_on_a_switch_with_those_that_name_them(tmp_path: Path) -> None:
    layout = laid_out(tmp_path, pair(endpoint="192.168.7.10:51820"))
    (first,), (second,) = ([c for c in host.cables if c.segment != INTERNET] for host in layout.hosts)
    assert first.segment == second.segment
    assert [str(each) for each in first.addresses] == ["192.168.7.10/24"]
    assert second.addresses != first.addresses


def test_two_private_networks_whose_hosts_point_at_each_other_are_one(tmp_path: Path) -> None:
    one, two = keys(), keys()
    texts = {
        "one": interface(one[0], "10.9.0.1/24") + peer(two[1], "10.9.0.2/32", "172.16.4.9:51820"),
        "two": interface(two[0], "10.9.0.2/24") + peer(one[1], "10.9.0.1/32", "172.16.7.9:51820"),
    }
    layout = laid_out(tmp_path, texts)
    assert [str(host.cables[1].addresses[0]) for host in layout.hosts] == ["172.16.7.9/22", "172.16.4.9/22"]


def test_a_file_that_names_its_own_address_does_not_move_its_peer_there(tmp_path: Path) -> None:
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


def test_an_uplink_is_called_as_the_hooks_call_it(tmp_path: Path) -> None:
    texts = pair()
    hooks = "PostUp = ip route add 10.7.0.0/16 dev br0; iptables -t nat -A POSTROUTING -o ens3 -j MASQUERADE\n"
    made = "PostUp = ip link add vlan7 type bridge; ip link set dev vlan7 up\n"
    texts["server"] = texts["server"].replace("[Peer]", f"{hooks}{made}[Peer]")
    server, client = laid_out(tmp_path, texts).hosts
    assert (server.cables[0].link, server.links) == ("ens3", ("br0",))
    assert (client.cables[0].link, client.links) == ("eth0", ())


class Answers:
    """Hosts that answer as they are told; `rounds` are the results of each trial."""

    holder = 1
    is_root = True

    def __init__(self, *rounds: list[Reach], shaken: bool = True, doctor: Sequence[dict[str, str]] = ()) -> None:
        self._rounds = list(rounds)
        self._shaken = shaken
        self._doctor = doctor
        self.asked: list[list[str]] = []
        self._keys: set[bytes] = set()

    def up(self) -> list[State]:
        return [State(mtu=1420, listen_port=51820), State(mtu=1420, listen_port=40000)]

    def looked_at(self, states: Sequence[State]) -> list[State]:
        return [each._replace(handshakes=frozenset(self._keys)) for each in states]

    def tried(self, probes: Sequence[Probe], states: Sequence[State]) -> list[Reach]:
        self._keys |= {probe.peer for probe in probes if self._shaken}
        return self._rounds.pop(0)

    def run(self, arguments: Mapping[int, list[str]], patience: float) -> dict[int, tuple[int, str]]:
        self.asked += arguments.values()
        said = json.dumps({"interface": "x", "findings": list(self._doctor)})
        return dict.fromkeys(arguments, (1, f"[!] something\n{said}"))

    def keep(self) -> list[Entry]:
        return []


def played(folder: Path, answers: Answers, texts: dict[str, str] | None = None) -> Report:
    def build(_layout: Layout) -> AbstractContextManager[Answers]:
        return nullcontext(answers)

    return rehearse(sources(folder, texts or pair()), build, lambda _: None)


def finding(code: str, severity: str = "error") -> dict[str, str]:
    return {"code": code, "severity": severity, "message": "m", "remedy": "r"}


def test_what_the_doctor_names_first_is_the_cause(tmp_path: Path) -> None:
    found = [finding("no-answer"), finding("worth-knowing", "info"), finding("input-blocked"), finding("other")]
    answers = Answers([Reach(), Reach()], shaken=False, doctor=found)
    report = played(tmp_path, answers)
    assert [pair.cause and pair.cause.code for pair in report.pairs] == ["input-blocked"] * 2
    assert answers.asked == [["doctor", "server", "--json"], ["doctor", "client", "--json"]]


def test_the_doctor_is_not_asked_where_the_files_tell_the_cause(tmp_path: Path) -> None:
    texts = pair()
    texts["client"] += "PresharedKey = 5Q5tcTw7SWyWGFbB5xjJkE3QVSU9HXjvvqpbN8OBmWw=\n"
    answers = Answers([Reach(), Reach()], shaken=False, doctor=[finding("input-blocked")])
    report = played(tmp_path, answers, texts)
    assert {pair.cause and pair.cause.code for pair in report.pairs} == {"psk-differs"}
    assert answers.asked == []


@pytest.mark.parametrize(
    ("reach", "shaken", "code"),
    [
        (Reach(), False, "no-answer"),
        (Reach(), True, "no-data-back"),
        (Reach(True, False, True), True, "mtu-too-large"),
        (Reach(True, True, False), True, "tcp-blocked"),
    ],
)
def test_without_a_finding_the_cause_is_what_does_not_work(
    tmp_path: Path, reach: Reach, shaken: bool, code: str
) -> None:
    report = played(tmp_path, Answers([reach, ALL], [reach], shaken=shaken))
    assert report.pairs[0].cause
    assert report.pairs[0].cause.code == code
    assert not report.is_good


def test_what_passes_in_part_is_tried_again(tmp_path: Path) -> None:
    report = played(tmp_path, Answers([Reach(True, True, False), ALL], [Reach(True, False, True)]))
    assert report.is_good


def test_the_faults_of_all_files_are_told(tmp_path: Path) -> None:
    texts = {name: text.replace("AllowedIPs", "Allowed") for name, text in pair().items()}
    with pytest.raises(ConfigError) as caught:
        played(tmp_path, Answers(), texts)
    assert "server.conf:7:1" in str(caught.value)
    assert "client.conf:6:1" in str(caught.value)


def test_one_file_given_twice_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, pair())[0]
    with pytest.raises(WgqError, match="given twice"):
        names_of([read(path), read(path)])
