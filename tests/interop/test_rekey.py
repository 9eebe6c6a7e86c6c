"""What WireGuard's timers do, in real time: seen on tunnels that have been running since before the other tests."""

from __future__ import annotations

import signal
from functools import partial

import pytest

from tests.interop.elders import (
    KEEPALIVE_TIMEOUT,
    REJECT_AFTER,
    REKEY_AFTER,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
    Elder,
    Elders,
)
from tests.interop.pairs import BORINGTUN, GO, until
from tests.interop.traffic import bulk

pytestmark = pytest.mark.alone

# What a machine with much else to do may add to a time.
SLACK = 6


def assert_renewed_every(elder: Elder, period: int) -> None:
    """The left one has begun every handshake, each has been answered, and so much time was between them.

    One more may have been begun while this is asked, and one twice where the machine stood still for five seconds.
    """
    left, right = elder.left, elder.right
    answered, renewed, begun = right.sent("response"), elder.renewed(), left.sent("initiation")
    assert 2 <= answered <= begun <= answered + 2, elder
    assert right.sent("initiation") == left.sent("response") == 0, elder
    # wireguard-go sets its timer for another attempt after the initiation is out: an answer may come before that.
    soonest = 0 if left.program == GO else 1
    possible = [times for times in range(begun - 3, begun) if times > 0]
    assert any(soonest * (period * times - 1) <= renewed <= (period + SLACK) * times for times in possible), elder
    if BORINGTUN not in (left.program, right.program):  # which does not tell the time (test_peers)
        until(lambda: abs(left.handshake(right) - right.handshake(left)) < REKEY_TIMEOUT, f"the same time: {elder}")


def old(elders: list[Elder], age: float) -> list[Elder]:
    for elder in elders:
        elder.wait_until(age)
    return elders


def test_one_way_data_gets_a_keepalive_after_ten_seconds(elders: Elders) -> None:
    for elder in old(elders.silent, KEEPALIVE_TIMEOUT + SLACK):
        until(partial(elder.right.sent, "keepalive"), f"a keepalive: {elder}")
        assert elder.right.sent("keepalive") == 1, elder
        # On a machine with much to do, a late answer to the first ping may be the last that the left one heard.
        assert elder.left.sent("keepalive") <= 1, elder
        assert elder.right.sent("initiation") == 0, elder


def test_the_initiator_renews_a_session_every_two_minutes(elders: Elders) -> None:
    for elder in old(elders.busy, REKEY_AFTER + SLACK):
        assert_renewed_every(elder, REKEY_AFTER)


def test_no_packet_is_lost_when_sessions_are_renewed(elders: Elders) -> None:
    for elder in old(elders.busy, REKEY_AFTER + SLACK):
        sent, answered = elder.pings()
        assert sent > 300, elder
        # The last one may be under way when the pings are ended.
        assert sent - answered <= 1, elder
        bulk(elder.right, elder.left, 1 << 20)


def test_persistent_keepalives_alone_keep_a_session_and_renew_it(elders: Elders) -> None:
    for elder in old(elders.kept, REKEY_AFTER + SLACK):
        assert_renewed_every(elder, REKEY_AFTER)
        assert elder.left.sent("keepalive") >= REKEY_AFTER // 2 * 0.8, elder
        assert elder.left.sent("data") <= 10, elder  # pings until the first answer


def test_one_who_only_listens_renews_the_session_before_it_ends(elders: Elders) -> None:
    last_minute = REJECT_AFTER - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
    for elder in old(elders.listening, last_minute + SLACK):
        assert_renewed_every(elder, last_minute)


def test_a_daemon_stopped_for_three_minutes_reconnects_at_once(elders: Elders) -> None:
    for elder in old(elders.frozen, REJECT_AFTER + SLACK):
        assert not elder.left.try_ping(elder.right), elder
        assert elder.ours.daemon is not None
        elder.ours.daemon.send_signal(signal.SIGCONT)
        elder.left.ping(elder.right, seconds=2 * (REKEY_TIMEOUT + SLACK))
        bulk(elder.left, elder.right, 1 << 20)
        bulk(elder.right, elder.left, 1 << 20)


def test_a_gigabyte_arrives_around_a_stop_of_three_minutes(elders: Elders) -> None:
    for elder in elders.halted:
        assert elder.waking is not None
        assert elder.transfer is not None
        elder.waking.join()
        assert 1 << 28 < elder.arrived_before < 1 << 30, elder
        elder.transfer.finish()


def test_handshakes_with_a_hung_end_are_tried_for_ninety_seconds(elders: Elders) -> None:
    elder = elders.widowed
    elder.wait_until(KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + REKEY_ATTEMPT_TIME + 4 * SLACK)
    calls = elder.left.sent("initiation") - 1
    assert calls in range(REKEY_ATTEMPT_TIME // REKEY_TIMEOUT - 2, REKEY_ATTEMPT_TIME // REKEY_TIMEOUT + 3)
    elder.wait_until(REKEY_AFTER + REKEY_ATTEMPT_TIME)
    assert elder.left.sent("initiation") - 1 == calls
    assert elder.right.daemon is not None
    elder.right.daemon.send_signal(signal.SIGCONT)
    elder.left.ping(elder.right)
    bulk(elder.left, elder.right, 1 << 20)
