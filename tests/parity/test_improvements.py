"""Behaviour that Debian's wg-quick cannot show: the current wg-quick's, and what wgq does better."""

from __future__ import annotations

from dataclasses import replace

from tests.parity import comparison
from tests.parity.case import CASES, Case
from tests.parity.trial import Trial, trial, wgq

PLAIN = Case.load(CASES / "address-one.conf")
ADDED = "/v3iDC2p0O+LxxNA5b3MGijZ2HrJsFal18IBHqPIbU0="


def with_lines(name: str, *lines: str) -> Trial:
    """Up and down by wgq of the plain tunnel with more lines in [Interface]."""
    content = PLAIN.content.replace(b"[Peer]", "\n".join([*lines, "[Peer]"]).encode())
    return trial(replace(PLAIN, name=name, content=content), "nft", wgq(), wgq())


def test_peers_from_a_pre_up_hook_are_kept_and_get_routes() -> None:
    up = with_lines("added", f"PreUp = wg set %i fwmark 7 peer {ADDED} allowed-ips 10.55.0.0/24").up
    assert up.status == 0
    assert {f"PublicKey = {ADDED}", "FwMark = 0x7"} <= set(up.after["device"])
    assert "[#] ip -4 route add 10.55.0.0/24 dev wg0" in up.transcript
    assert any('dst="10.55.0.0/24"' in route and 'dev="wg0"' in route for route in up.after["routes4"])


def test_a_failing_pre_up_hook_removes_the_link() -> None:
    ran = with_lines("failed", "PreUp = ip link show %i >>/run/hooks; exit 7")
    assert ran.up.status == 7
    assert ran.up.after == ran.before | {"hooks": ran.up.after["hooks"]}
    assert any("wg0" in line for line in ran.up.after["hooks"])
    assert ran.up.transcript[-1] == "[#] ip link delete dev wg0"


def test_a_journal_does_not_apply_to_a_later_link_of_that_name() -> None:
    """wg-quick takes wgq's tunnel down and brings up another with the same name and a different fwmark."""
    full = Case.load(CASES / "full-tunnel-both.conf")
    file = "/etc/wireguard/wg0.conf"
    edited = f"wg-quick down wg0 && sed -i 's/^Address/FwMark = 777\\n&/' {file} && wg-quick up wg0"
    case = replace(full, name="later", directives=(*full.directives, ("then", edited)))
    ran = trial(case, "nft", wgq(), wgq())
    assert [ran.up.status, ran.between[0].status, ran.down.status] == [0, 0, 0]
    assert "FwMark = 0x309" in ran.between[0].after["device"]
    remaining = comparison.states(
        ran.before | {"file": [], "sysctl": []}, ran.down.after | {"file": [], "sysctl": []}
    )
    assert remaining == []


def test_save_keeps_a_host_name_that_still_resolves_to_the_peer() -> None:
    """wg-quick saves addresses."""
    names = [("before", "printf '192.0.2.77 hub.example\\n192.0.2.9 far.example\\n' >>/etc/hosts"), ("run", "save")]
    second = f"[Peer]\nPublicKey = {ADDED}\nEndpoint = hub.example:51821\n"
    content = PLAIN.content.replace(b"192.0.2.9", b"far.example") + second.encode()
    moved = ("then", f"wg set wg0 peer {ADDED} endpoint 192.0.2.10:51821")
    case = replace(PLAIN, name="names", content=content, directives=(names[0], moved, names[1]))
    lines = trial(case, "nft", wgq(), wgq()).between[-1].after["file"]
    assert [line for line in lines if "Endpoint" in line] == [
        "Endpoint = far.example:51820",
        "Endpoint = 192.0.2.10:51821",
    ]
