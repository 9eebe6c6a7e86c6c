"""What the present wg-quick does and Debian's does not: claims that no run of Debian's can show."""

from __future__ import annotations

from dataclasses import replace

from tests.parity.case import CASES, Case
from tests.parity.trial import Trial, trial, wgq

PLAIN = Case.load(CASES / "address-one.conf")
ADDED = "/v3iDC2p0O+LxxNA5b3MGijZ2HrJsFal18IBHqPIbU0="


def with_lines(name: str, *lines: str) -> Trial:
    """The plain tunnel with some more lines for the interface, brought up and taken down by wgq."""
    content = PLAIN.content.replace(b"[Peer]", "\n".join([*lines, "[Peer]"]).encode())
    return trial(replace(PLAIN, name=name, content=content), "nft", wgq(), wgq())


def test_what_a_pre_up_hook_sets_is_added_to_and_gets_its_route() -> None:
    up = with_lines("added", f"PreUp = wg set %i fwmark 7 peer {ADDED} allowed-ips 10.55.0.0/24").up
    assert up.status == 0
    assert {f"PublicKey = {ADDED}", "FwMark = 0x7"} <= set(up.after["device"])
    assert "[#] ip -4 route add 10.55.0.0/24 dev wg0" in up.transcript
    assert any('dst="10.55.0.0/24"' in route and 'dev="wg0"' in route for route in up.after["routes4"])


def test_a_failing_pre_up_hook_takes_the_link_away_again() -> None:
    ran = with_lines("failed", "PreUp = ip link show %i >>/run/hooks; exit 7")
    assert ran.up.status == 7
    assert ran.up.after == ran.before | {"hooks": ran.up.after["hooks"]}
    assert any("wg0" in line for line in ran.up.after["hooks"])
    assert ran.up.transcript[-1] == "[#] ip link delete dev wg0"
