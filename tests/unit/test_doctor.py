"""The pure parts of doctor: the order of causes, nftables verdicts, and doctor's own handshake."""

from __future__ import annotations

import json
import re

import pytest

from tests.faults import page
from tests.faults.matrix import FAULTS, HEALTHY
from tests.keys import secret
from wgquick.diagnosis.doctor.cause import Cause
from wgquick.diagnosis.doctor.codes import CODES, explains
from wgquick.diagnosis.doctor.firewall_verdict import by, firewall_verdict
from wgquick.diagnosis.doctor.inside import unfragmented
from wgquick.diagnosis.doctor.judge import ordered
from wgquick.diagnosis.doctor.packet import ARRIVING, LEAVING, PASSING, Packet
from wgquick.diagnosis.doctor.ruleset import verdict
from wgquick.diagnosis.finding import CERTAIN, LIKELY
from wgquick.diagnosis.handshake_probe import HandshakeProbe
from wgquick.diagnosis.initiation import Addressee, Reader
from wgquick.diagnosis.keys import public_key_of
from wgquick.observations import PathMtu, Rulesets

PEER, OTHER = "a" * 43 + "=", "b" * 43 + "="


def cause(code: str, peer: str | None = None, confidence: str = CERTAIN, message: str = "") -> Cause:
    return Cause(code, CODES[code].severity, confidence, peer, message or code)


def codes(*causes: Cause) -> list[str]:
    return [each.code for each in ordered(causes)]


def test_consequences_of_a_cause_are_left_out() -> None:
    assert codes(cause("no-answer", PEER), cause("mark-differs")) == ["mark-differs"]
    assert codes(cause("no-answer", PEER), cause("psk-differs", PEER)) == ["psk-differs"]
    assert codes(cause("not-up"), cause("port-in-use"), cause("key-missing")) == ["port-in-use"]


def test_a_cause_of_one_peer_does_not_explain_another_peer() -> None:
    assert codes(cause("no-answer", OTHER), cause("psk-differs", PEER)) == ["psk-differs", "no-answer"]


def test_the_surer_of_two_equal_causes_is_kept_with_all_evidence() -> None:
    first = cause("knock-unknown-key", confidence=LIKELY, message="one")
    (found,) = ordered([first, cause("knock-unknown-key", message="another")])
    assert (found.message, found.evidence) == ("another", ("one",))


def test_errors_come_before_warnings_of_higher_rank() -> None:
    mild = cause("mtu-differs")._replace(severity="warning")
    assert codes(mild, cause("dns-replaced")) == ["dns-replaced", "mtu-differs"]


def test_no_two_codes_explain_each_other() -> None:
    """Otherwise both would be left out."""
    pairs = [(one, two) for one in CODES for two in CODES if explains(one, two) and explains(two, one)]
    assert pairs == []


def test_codes_are_well_formed_and_explain_existing_codes() -> None:
    for name, code in CODES.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert code.explains - {"*"} <= set(CODES)


def ruleset(*rules: list[dict[str, object]], policy: str = "accept", hook: str = "input") -> str:
    chain = {
        "family": "inet",
        "table": "t",
        "name": "c",
        "hook": hook,
        "type": "filter",
        "prio": 0,
        "policy": policy,
    }
    listed = [{"rule": {"family": "inet", "table": "t", "chain": "c", "expr": expr}} for expr in rules]
    return json.dumps({"nftables": [{"chain": chain}, *listed]})


def match(left: dict[str, object], right: object, op: str = "==") -> dict[str, object]:
    return {"match": {"op": op, "left": left, "right": right}}


PORT: dict[str, object] = {"payload": {"protocol": "udp", "field": "dport"}}
LINK: dict[str, object] = {"meta": {"key": "iifname"}}
ACCEPT: dict[str, object] = {"accept": None}
DROP: dict[str, object] = {"drop": None}
PACKET = Packet(4, "eth0", source="192.0.2.7", protocol="udp", destination_port=51820)


@pytest.mark.parametrize(
    ("text", "is_dropped", "is_certain"),
    [
        ("", False, True),
        ("no JSON", False, False),
        (ruleset(policy="drop"), True, True),
        (ruleset([match(PORT, 51820), ACCEPT], policy="drop"), False, True),
        (ruleset([match(PORT, {"set": [53, {"range": [51000, 52000]}]}), ACCEPT], policy="drop"), False, True),
        (ruleset([match(PORT, 53), ACCEPT], policy="drop"), True, True),
        (ruleset([match(LINK, "eth*"), DROP]), True, True),
        (ruleset([match(LINK, "eth0", "!="), DROP]), False, True),
        (ruleset([match(PORT, "@ports"), ACCEPT], policy="drop"), True, False),
        (ruleset([{"xt": {"type": "match", "name": "conntrack"}}, ACCEPT], policy="drop"), True, False),
        (ruleset([match({"ct": {"key": "state"}}, ["established", "related"]), ACCEPT], policy="drop"), True, True),
        (ruleset([match({"payload": {"protocol": "ip", "field": "saddr"}},
                        {"prefix": {"addr": "192.0.2.0", "len": 24}}), {"reject": None}]), True, True),
        (ruleset([match({"payload": {"protocol": "tcp", "field": "dport"}}, 51820), DROP]), False, True),
        (ruleset(policy="drop", hook="forward"), False, True),
    ],
)  # fmt: skip
def test_the_verdict_on_a_packet_is_that_of_the_kernel(text: str, is_dropped: bool, is_certain: bool) -> None:
    found = verdict(text, PACKET, "input")
    assert (found.is_dropped, found.is_certain) == (is_dropped, is_certain)


def test_the_dropping_rule_is_named() -> None:
    assert (
        verdict(ruleset([match(PORT, 51820), DROP]), PACKET, "input").where
        == "`udp dport 51820 drop' in chain c of table inet t"
    )


SAVED = """# Generated by iptables-save v1.8.9
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -i eth9 -j DROP
-A OUTPUT -d 203.0.113.0/24 -p udp -m multiport --dports 1:9,51820 -j DROP
COMMIT
*filter
:INPUT DROP [12:900]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:GUARD - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment "what is -j DROP" -j ACCEPT
-A INPUT -m set --match-set friends src -j ACCEPT
-A INPUT ! -s 192.0.2.0/24 -p udp -m udp --dport 53 -j ACCEPT
-A FORWARD -j GUARD
-A GUARD -o wg+ -j RETURN
-A GUARD -m limit --limit 3/sec -j LOG --log-prefix "-j ACCEPT"
-A GUARD -i wg0 -j REJECT --reject-with icmp-port-unreachable
COMMIT
"""


@pytest.mark.parametrize(
    ("packet", "course", "is_certain", "where"),
    [
        (PACKET, ARRIVING, False, "the policy of chain INPUT of table filter (iptables-legacy)"),
        (PACKET._replace(state="established"), ARRIVING, True, ""),
        (PACKET._replace(input_link="lo"), ARRIVING, True, ""),
        (PACKET._replace(source="203.0.113.1", destination_port=53), ARRIVING, False, ""),
        (PACKET._replace(destination_port=53), ARRIVING, False,
         "the policy of chain INPUT of table filter (iptables-legacy)"),
        (PACKET._replace(input_link="eth9"), ARRIVING, True,
         "the rule `-A PREROUTING -i eth9 -j DROP' in chain PREROUTING of table raw (iptables-legacy)"),
        (Packet(4, "wg0", "eth0", protocol="tcp"), PASSING, True,
         "the rule `-A GUARD -i wg0 -j REJECT --reject-with icmp-port-unreachable' in chain GUARD of table filter "
         "(iptables-legacy)"),
        (Packet(4, "wg0", "wg1", protocol="tcp"), PASSING, True, ""),
        (Packet(4, output_link="eth0", destination="203.0.113.7", protocol="udp", destination_port=51820), LEAVING,
         True, "the rule `-A OUTPUT -d 203.0.113.0/24 -p udp -m multiport --dports 1:9,51820 -j DROP' in chain "
         "OUTPUT of table raw (iptables-legacy)"),
        (Packet(6, "eth0", protocol="udp", destination_port=51820), ARRIVING, True, ""),
    ],
)  # fmt: skip
def test_iptables_rules_are_read_as_the_kernel_reads_them(
    packet: Packet, course: tuple[str, ...], is_certain: bool, where: str
) -> None:
    found = firewall_verdict(Rulesets(legacy4=SAVED), packet, course)
    assert (found.is_dropped, found.is_certain, found.where) == (bool(where), is_certain, where)


def test_a_rule_that_may_apply_is_named_as_probable() -> None:
    """The packet is known to be dropped, and only one rule can do that, but its condition cannot be evaluated."""
    limited = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m limit --limit 1/hour -j DROP\nCOMMIT\n"
    assert "probably by the rule `-A INPUT -m limit" in by(Rulesets(legacy4=limited), PACKET, ARRIVING)
    nft = ruleset([match(PORT, "@ports"), DROP])
    assert ", probably by `udp dport @ports drop'" in by(Rulesets(nft), PACKET, ARRIVING)


def test_iptables_extensions_are_read_from_its_own_text() -> None:
    """nft's JSON has only the name of an extension, not its comparison or its target."""
    nft = json.dumps({"nftables": [
        {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "type": "filter", "hook": "input", "prio": 0,
                   "policy": "drop"}},
        {"rule": {"family": "ip", "table": "filter", "chain": "INPUT",
                  "expr": [{"xt": {"type": "match", "name": "conntrack"}}, {"accept": None}]}},
    ]})  # fmt: skip
    saved = "*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n"
    assert not firewall_verdict(Rulesets(nft, compat4=saved), PACKET, ARRIVING).is_dropped
    assert firewall_verdict(Rulesets(nft), PACKET, ARRIVING).is_dropped
    assert not firewall_verdict(Rulesets(nft), PACKET, ARRIVING).is_certain


def test_the_advised_mtu_needs_no_fragments() -> None:
    assert unfragmented(544, 60, PathMtu(reported=576)) == 512
    assert unfragmented(496, 60, PathMtu(reported=576)) == 496
    assert unfragmented(1312, 80, PathMtu(reported=1280)) == 1200
    assert unfragmented(544, 60, PathMtu()) == unfragmented(544, 60, PathMtu(reported=68)) == 544


def test_doctors_own_initiation_is_valid() -> None:
    ours, theirs = secret(), secret()
    attempt = HandshakeProbe(ours, public_key_of(theirs), None, 1_700_000_000.5)
    read = Reader(theirs).read(attempt.message)
    assert read is not None
    assert read.sender == public_key_of(ours)
    assert 0 <= 1_700_000_000.5 - read.clock < 0.02
    assert Addressee(public_key_of(theirs)).fits(attempt.message)


def test_a_forged_response_is_not_accepted() -> None:
    attempt = HandshakeProbe(secret(), public_key_of(secret()), None, 1_700_000_000.0)
    forged = b"\2\0\0\0" + bytes(4) + attempt.index + bytes(80)
    assert not attempt.accepts(forged)
    assert not attempt.accepts(forged[:12] + b"\1" * 80)


def test_the_documentation_has_every_code_and_every_case() -> None:
    """If this fails, run: python -m tests.faults.page"""
    text = page.PAGE.read_text()
    assert page.codes() in text
    assert [case.name for case in (*FAULTS, *HEALTHY) if f"\n| {case.name} | " not in text] == []
    assert "| no: " not in text
