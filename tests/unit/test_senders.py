"""Senders: initiations as their receiver reads them, counted by sender and verdict."""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.forgery import initiation as forged
from tests.interop.noise import Static
from tests.keys import secret
from wgquick.datagram import ADMITTED, ARRIVED, SENT, Datagram, IcmpError, kind_of
from wgquick.diagnosis.initiation import Addressee, Reader
from wgquick.diagnosis.keys import public_key_of
from wgquick.diagnosis.senders import FORGED, KNOWN, UNKNOWN_KEY, UNREAD, WRONG_KEY, Sender, SenderCounter
from wgquick.net import PublicKey, SocketAddress

if TYPE_CHECKING:
    from wgquick.net import SecretKey

HERE = SocketAddress("192.0.2.1", 51820)
THERE = SocketAddress("192.0.2.2", 51821)
ELSEWHERE = SocketAddress("198.51.100.7", 4000)


@pytest.fixture
def ours() -> SecretKey:
    return secret()


@pytest.fixture
def theirs() -> SecretKey:
    return secret()


def static(private: SecretKey, other: SecretKey) -> Static:
    return Static(private.raw, public_key_of(other).raw, bytes(32))


def initiation(sender: SecretKey, receiver: SecretKey, index: int = 1, clock: float | None = None) -> bytes:
    return static(sender, receiver).initiate(index, clock).message


def arrived(payload: bytes, source: SocketAddress = THERE, stage: str = ARRIVED) -> Datagram:
    return Datagram(time.time(), stage, "eth0", source, HERE, len(payload), payload[:148])


def left(payload: bytes, destination: SocketAddress = THERE) -> Datagram:
    return Datagram(time.time(), SENT, "eth0", HERE, destination, len(payload), payload[:148])


def only(counter: SenderCounter) -> Sender:
    (sender,) = counter.result(HERE.port, 1.0).senders
    return sender


def test_an_initiation_shows_its_sender_and_clock(ours: SecretKey, theirs: SecretKey) -> None:
    read = Reader(ours).read(initiation(theirs, ours, clock=1234.5))
    assert read is not None
    assert (read.sender, read.clock) == (public_key_of(theirs), 1234.5)


def test_a_changed_initiation_cannot_be_read(ours: SecretKey, theirs: SecretKey) -> None:
    message, reader = initiation(theirs, ours), Reader(ours)
    for at in range(8, 116):
        assert reader.read(message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :]) is None
    assert reader.read(message[:-1]) is None
    assert reader.read(initiation(theirs, theirs)) is None


def test_an_ephemeral_key_of_low_order_cannot_be_read(ours: SecretKey) -> None:
    assert Reader(ours).read(forged(str(public_key_of(ours)), bytes(32))) is None


def test_the_first_mac_shows_the_addressee(ours: SecretKey, theirs: SecretKey) -> None:
    begun = static(theirs, ours).initiate(1)
    response, _ = static(ours, theirs).respond(begun.message, 2)
    assert Addressee(public_key_of(ours)).fits(begun.message)
    assert Addressee(public_key_of(theirs)).fits(response)
    assert not Addressee(public_key_of(theirs)).fits(begun.message)
    assert not any(Addressee(public_key_of(ours)).fits(begun.message[:size]) for size in range(148))


@pytest.mark.parametrize(
    ("first", "size", "kind"),
    [
        (1, 148, "initiation"),
        (2, 92, "response"),
        (3, 64, "cookie"),
        (4, 32, "keepalive"),
        (4, 48, "data"),
        (4, 31, ""),
        (1, 147, ""),
        (2, 148, ""),
        (5, 148, ""),
        (0, 148, ""),
    ],
)
def test_type_and_size_give_the_kind_of_a_message(first: int, size: int, kind: str) -> None:
    assert kind_of(struct.pack("<I", first) + bytes(28), size) == kind


def test_reserved_bits_in_the_type_make_a_message_invalid() -> None:
    assert kind_of(b"\1\0\0\1" + bytes(144), 148) == ""
    assert kind_of(b"\1", 1) == ""


def test_an_unknown_key_is_listed_with_its_address(ours: SecretKey, theirs: SecretKey) -> None:
    counter = SenderCounter(ours)
    for index in range(3):
        counter.take(arrived(initiation(theirs, ours, index)))
    sender = only(counter)
    assert (sender.verdict, sender.key, sender.source, sender.times) == (
        UNKNOWN_KEY,
        public_key_of(theirs),
        THERE,
        3,
    )


def test_an_initiation_is_answered_once_its_response_leaves(ours: SecretKey, theirs: SecretKey) -> None:
    counter = SenderCounter(ours, [public_key_of(theirs)])
    answered, unanswered = (initiation(theirs, ours, index) for index in (1, 2))
    counter.take(arrived(answered))
    counter.take(arrived(answered, stage=ADMITTED))
    counter.take(arrived(unanswered))
    response, _ = static(ours, theirs).respond(answered, 9)
    counter.take(left(response, ELSEWHERE))
    counter.take(left(response, ELSEWHERE))
    sender = only(counter)
    assert (sender.verdict, sender.times, sender.admitted, sender.answered) == (KNOWN, 2, 1, 1)
    (sent,) = counter.result(1, 1.0).sent
    assert (sent.kind, sent.destination, sent.times) == ("response", ELSEWHERE, 1)


def test_the_firewalls_copy_of_a_message_may_come_first(ours: SecretKey, theirs: SecretKey) -> None:
    counter, message = SenderCounter(ours, [public_key_of(theirs)]), initiation(theirs, ours)
    counter.take(arrived(message, stage=ADMITTED)._replace(link=""))
    assert (only(counter).times, only(counter).admitted, only(counter).link) == (1, 1, "")
    counter.take(arrived(message))
    assert (only(counter).times, only(counter).admitted, only(counter).link) == (1, 1, "eth0")


def test_a_message_for_another_key_names_the_candidate(ours: SecretKey, theirs: SecretKey) -> None:
    other = secret()
    counter = SenderCounter(ours, [public_key_of(theirs)], [public_key_of(other)])
    counter.take(arrived(initiation(theirs, other)))
    assert (only(counter).verdict, only(counter).addressed_to) == (WRONG_KEY, public_key_of(other))
    counter = SenderCounter(ours)
    counter.take(arrived(initiation(theirs, other)))
    assert (only(counter).verdict, only(counter).addressed_to, only(counter).key) == (WRONG_KEY, None, None)


def test_a_clock_that_is_behind_or_goes_back_is_reported(ours: SecretKey, theirs: SecretKey) -> None:
    counter, now = SenderCounter(ours, [public_key_of(theirs)]), time.time()
    counter.take(arrived(initiation(theirs, ours, 1, now)))
    assert not only(counter).went_back
    counter.take(arrived(initiation(theirs, ours, 2, now - 86400)))
    sender = only(counter)
    assert sender.went_back
    assert sender.clock_ahead == pytest.approx(-86400, abs=60)


def test_a_forged_initiation_names_no_key(ours: SecretKey) -> None:
    counter = SenderCounter(ours)
    counter.take(arrived(forged(str(public_key_of(ours)))))
    assert (only(counter).verdict, only(counter).key) == (FORGED, None)


def test_initiations_are_unread_without_the_private_key(ours: SecretKey, theirs: SecretKey) -> None:
    counter = SenderCounter(None)
    counter.take(arrived(initiation(theirs, ours)))
    assert only(counter).verdict == UNREAD


def test_a_response_is_solicited_if_it_answers_an_initiation(ours: SecretKey, theirs: SecretKey) -> None:
    counter = SenderCounter(ours, [public_key_of(theirs)])
    begun = static(ours, theirs).initiate(77)
    response, _ = static(theirs, ours).respond(begun.message, 78)
    counter.take(left(begun.message))
    counter.take(arrived(response))
    counter.take(arrived(response[:8] + b"\1\1\1\1" + response[12:], ELSEWHERE))
    by_source = {sender.source: sender.solicited for sender in counter.result(1, 1.0).senders}
    assert by_source == {THERE: 1, ELSEWHERE: 0}


def test_a_flood_leaves_memory_bounded_and_the_peers_row(ours: SecretKey, theirs: SecretKey) -> None:
    counter, public = SenderCounter(ours, [public_key_of(theirs)]), str(public_key_of(ours))
    counter.take(arrived(initiation(theirs, ours, 1)))
    start = time.time()
    for number in range(20_000):
        source = SocketAddress(f"203.0.{number >> 8 & 255}.{number & 255}", 1024 + number)
        payload = forged(public) if number % 10 == 0 else struct.pack("<I", 1) + os.urandom(144)
        counter.take(Datagram(start, ARRIVED, "eth0", source, HERE, 148, payload))
    counter.take(arrived(initiation(theirs, ours, 2))._replace(at=start + 5))
    heard = counter.result(1, 1.0)
    assert {(sender.verdict, sender.times) for sender in heard.senders} >= {(KNOWN, 2)}
    assert len(heard.senders) < 250
    assert heard.others > 19_000


def test_icmp_errors_are_counted_with_the_smallest_mtu() -> None:
    """One row for each meaning, endpoint and sender."""
    counter = SenderCounter(None)
    for mtu in (1400, 1300, 1350):
        counter.take(IcmpError(1.0, "eth0", "192.0.2.254", THERE, "too-big", mtu))
    counter.take(IcmpError(1.0, "eth0", "192.0.2.2", THERE, "port-unreachable"))
    first, second = counter.result(1, 1.0).icmp_errors
    assert (first.meaning, first.times, first.mtu) == ("too-big", 3, 1300)
    assert (second.meaning, second.sender, second.times) == ("port-unreachable", "192.0.2.2", 1)


def test_results_show_no_private_key(ours: SecretKey, theirs: SecretKey) -> None:
    counter = SenderCounter(ours, [PublicKey(os.urandom(32))])
    counter.take(arrived(initiation(theirs, ours)))
    assert ours.reveal() not in repr(counter.result(1, 1.0))
    assert theirs.reveal() not in repr(counter.result(1, 1.0))
