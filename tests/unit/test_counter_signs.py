"""The conclusions from a daemon's counters; old events no longer count."""

from __future__ import annotations

import errno

import pytest

from tests.keys import public
from wgquick.counters import Diagnostics, Event, Events
from wgquick.device import Device, DevicePeer
from wgquick.diagnosis.counter_signs import merged, signs_of_counters
from wgquick.diagnosis.finding import CERTAIN, LIKELY, POSSIBLE
from wgquick.diagnosis.signatures import Sign
from wgquick.net import SocketAddress

NOW = 1_800_000_000.0
END = SocketAddress("192.0.2.2", 51820)
ELSEWHERE = SocketAddress("198.51.100.9", 9)
PEER = DevicePeer(public(), endpoint=END)
STRANGER = public()


def of_device(*events: Event, peer: DevicePeer = PEER) -> list[Sign]:
    return signs_of_counters(Device("wg0", peers=(peer,)), Diagnostics(Events(600, events), {}), NOW)


def of_peer(*events: Event, peer: DevicePeer = PEER) -> list[Sign]:
    found = Diagnostics(Events(600), {peer.public_key: Events(600, events)})
    return signs_of_counters(Device("wg0", peers=(peer,)), found, NOW)


def test_a_recent_unknown_key_is_reported() -> None:
    event = Event("unknown_key", 3, 5.0, sender=ELSEWHERE, static_key=STRANGER)
    (sign,) = of_device(event)
    assert (sign.code, sign.confidence, sign.key, sign.address) == (
        "knock-unknown-key",
        CERTAIN,
        STRANGER,
        ELSEWHERE,
    )
    assert sign.facts == (
        f"3 initiations from 198.51.100.9:9 (the last 5 s ago) with the key {STRANGER}, which no peer has",
    )
    assert of_device(event, peer=DevicePeer(STRANGER)) == []
    assert of_device(event._replace(age=181)) == []
    assert of_device(event._replace(static_key=None)) == []


@pytest.mark.parametrize(
    ("sender", "times", "confidence"), [(ELSEWHERE, 1, POSSIBLE), (ELSEWHERE, 2, LIKELY), (END, 1, LIKELY)]
)
def test_one_initiation_for_another_key_is_only_possible(
    sender: SocketAddress, times: int, confidence: str
) -> None:
    (sign,) = of_device(Event("mac1_invalid", times, 1.0, sender=sender))
    assert (sign.code, sign.confidence) == ("knock-wrong-key", confidence)
    assert sign.peer == (PEER.public_key if sender == END else None)


PEERS_EVENTS = {
    "knock-stale-clock": Event("stale_timestamp", 2, 4.0, sender=END, clock=int(NOW) - 7204, newest=int(NOW) - 50),
    "answer-refused": Event("response_undecryptable", 2, 4.0, sender=END),
    "answer-lost": Event("response_sent", 2, 4.0),
    "output-blocked": Event("send_error", 2, 4.0, receiver=END, send_errno=errno.EPERM),
    "endpoint-no-route": Event("send_error", 2, 4.0, receiver=END, send_errno=errno.ENETUNREACH),
    "endpoint-refuses": Event("icmp", 2, 4.0, receiver=END, icmp="port-unreachable", router="192.0.2.2"),
    "endpoint-unreachable": Event("icmp", 2, 4.0, receiver=END, icmp="prohibited", router="192.0.2.9"),
}


@pytest.mark.parametrize("code", PEERS_EVENTS)
def test_an_event_of_a_peer_counts_until_a_handshake(code: str) -> None:
    event = PEERS_EVENTS[code]
    (sign,) = of_peer(event)
    assert (sign.code, sign.peer) == (code, PEER.public_key)
    assert of_peer(event, peer=PEER._replace(last_handshake=NOW - 1)) == []
    assert of_peer(event._replace(age=200)) == []


def test_a_stale_clock_is_reported_with_its_delay() -> None:
    (sign,) = of_peer(PEERS_EVENTS["knock-stale-clock"])
    assert sign.seconds == -7200
    assert "7154 s older" in sign.facts[1]


def test_a_refused_source_is_reported_despite_a_session() -> None:
    peer = PEER._replace(last_handshake=NOW - 1)
    event = Event("source_not_allowed", 4, 2.0, sender=END, source="10.9.0.7")
    (sign,) = of_peer(event, peer=peer)
    assert (sign.code, sign.confidence, sign.source) == ("source-not-allowed", CERTAIN, "10.9.0.7")


@pytest.mark.parametrize("source", ["fe80::1", "::", ""])
def test_link_local_sources_are_not_reported(source: str) -> None:
    assert of_peer(Event("source_not_allowed", 4, 2.0, sender=END, source=source)) == []


def test_a_missing_endpoint_counts_until_there_is_one() -> None:
    event = Event("no_endpoint", 4, 2.0)
    assert [sign.code for sign in of_peer(event, peer=PEER._replace(endpoint=None))] == ["endpoint-missing"]
    assert of_peer(event) == []


def test_a_too_big_error_is_reported_despite_a_session() -> None:
    event = Event("icmp", 2, 4.0, receiver=END, icmp="too-big", router="192.0.2.9", mtu=1400)
    (sign,) = of_peer(event, peer=PEER._replace(last_handshake=NOW - 1))
    assert (sign.code, sign.mtu, sign.meaning, sign.confidence) == ("mtu-too-large", 1400, "too-big", LIKELY)


def test_the_surer_of_two_equal_signs_is_kept() -> None:
    wire, same, other = (Sign(code, LIKELY, PEER.public_key) for code in ("answer-refused", "answer-refused", "x"))
    assert merged([wire], [same._replace(facts=("more",)), other]) == [wire, other]
    surer = same._replace(confidence=CERTAIN)
    assert merged([wire], [surer, other]) == [surer, other]
