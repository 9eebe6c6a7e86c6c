"""The last error of a peer as text."""

from __future__ import annotations

import errno

import pytest

from wgquick.counters import PEER_EVENTS, Event, Events
from wgquick.net import SocketAddress
from wgquick.status.errors import RECENT, is_being_tried, last_error

NOW = 1_700_000_000.0
THERE = SocketAddress("192.0.2.1", 51820)


def code(*events: Event, handshake_age: float | None = None) -> str | None:
    found = last_error(Events(1000.0, events), NOW, handshake_age)
    return found.code if found else None


def test_a_handshake_error_counts_until_the_next_handshake() -> None:
    given_up = Event("handshake_given_up", 1, 5000.0)
    assert code(given_up) == "handshake-given-up"
    assert code(given_up, handshake_age=6000.0) == "handshake-given-up"
    assert code(given_up, handshake_age=4000.0) is None


def test_a_data_error_counts_for_some_minutes() -> None:
    refused = Event("source_not_allowed", 3, RECENT - 1, source="10.9.9.9")
    assert code(refused, handshake_age=1.0) == "source-not-allowed"
    assert code(refused._replace(age=RECENT + 1), handshake_age=1.0) is None
    assert code(refused._replace(source="fe80::1"), handshake_age=1.0) is None


def test_the_newest_error_is_reported_with_its_details() -> None:
    events = (
        Event("send_error", 9, 20.0, receiver=THERE, send_errno=errno.EPERM),
        Event("icmp", 1, 7.5, receiver=THERE, icmp="port-unreachable", router="192.0.2.254"),
        Event("initiation_sent", 4, 1.0),
    )
    found = last_error(Events(1000.0, events), NOW, None)
    assert found is not None
    assert found.time == NOW - 7.5
    assert found.message == "ICMP error from 192.0.2.254 about packets to 192.0.2.1:51820: port unreachable"


def test_a_peer_is_being_tried_shortly_after_an_initiation() -> None:
    assert is_being_tried(Events(1.0, (Event("initiation_sent", 1, 6.0),)))
    assert not is_being_tried(Events(1.0, (Event("initiation_sent", 1, 60.0),)))
    assert not is_being_tried(Events())


@pytest.mark.parametrize("name", PEER_EVENTS)
def test_each_event_is_understood(name: str) -> None:
    event = Event(name, 1, 1.0, receiver=THERE, send_errno=errno.ENETUNREACH, icmp="other", source="10.0.0.1")
    found = last_error(Events(1.0, (event,)), NOW, None)
    assert found is None or (found.message and found.code == name.replace("_", "-"))
