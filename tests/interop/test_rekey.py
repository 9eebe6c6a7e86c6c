"""WireGuard's timers in real time, on tunnels that are older than the other tests."""

from __future__ import annotations

import signal
from functools import partial

from tests.interop.aged_tunnels import (
    KEEPALIVE_TIMEOUT,
    REJECT_AFTER,
    REKEY_AFTER,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
    AgedTunnel,
    AgedTunnels,
)
from tests.interop.pairs import BORINGTUN, GO
from tests.interop.traffic import bulk
from tests.waiting import until

# Seconds that a busy machine may add.
SLACK = 6


def assert_renewed_every(aged: AgedTunnel, period: int) -> None:
    """The left end began every handshake, each was answered, and about `period` seconds were between them.

    One more may begin during the check, and one may be repeated if the machine stood still for five seconds.
    """
    left, right = aged.left, aged.right
    answered, renewed, begun = right.sent("response"), aged.renewed(), left.sent("initiation")
    assert 2 <= answered <= begun <= answered + 2, aged
    assert right.sent("initiation") == left.sent("response") == 0, aged
    # wireguard-go sets its retry timer after it sends the initiation: the answer may come first.
    soonest = 0 if left.program == GO else 1
    possible = [times for times in range(begun - 3, begun) if times > 0]
    assert any(soonest * (period * times - 1) <= renewed <= (period + SLACK) * times for times in possible), aged
    if BORINGTUN not in (left.program, right.program):  # it reports no time (test_peers)
        until(lambda: abs(left.handshake(right) - right.handshake(left)) < REKEY_TIMEOUT, f"the same time: {aged}")


def old(aged_tunnels: list[AgedTunnel], age: float) -> list[AgedTunnel]:
    for aged in aged_tunnels:
        aged.wait_until(age)
    return aged_tunnels


def test_one_way_data_gets_a_keepalive_after_ten_seconds(aged_tunnels: AgedTunnels) -> None:
    for aged in old(aged_tunnels.silent, KEEPALIVE_TIMEOUT + SLACK):
        until(partial(aged.right.sent, "keepalive"), f"a keepalive: {aged}")
        assert aged.right.sent("keepalive") == 1, aged
        # On a busy machine, a late answer to the first ping may be the last message that the left end received.
        assert aged.left.sent("keepalive") <= 1, aged
        assert aged.right.sent("initiation") == 0, aged


def test_the_initiator_renews_a_session_every_two_minutes(aged_tunnels: AgedTunnels) -> None:
    for aged in old(aged_tunnels.busy, REKEY_AFTER + SLACK):
        assert_renewed_every(aged, REKEY_AFTER)


def test_no_packet_is_lost_when_sessions_are_renewed(aged_tunnels: AgedTunnels) -> None:
    for aged in old(aged_tunnels.busy, REKEY_AFTER + SLACK):
        assert aged.pings() > 300, aged
        bulk(aged.right, aged.left, 1 << 20)


def test_persistent_keepalives_alone_keep_a_session_and_renew_it(aged_tunnels: AgedTunnels) -> None:
    for aged in old(aged_tunnels.kept, REKEY_AFTER + SLACK):
        assert_renewed_every(aged, REKEY_AFTER)
        assert aged.left.sent("keepalive") >= REKEY_AFTER // 2 * 0.8, aged
        assert aged.left.sent("data") <= 10, aged  # pings until the first answer


def test_a_listening_initiator_renews_the_session_before_it_ends(aged_tunnels: AgedTunnels) -> None:
    last_minute = REJECT_AFTER - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
    for aged in old(aged_tunnels.listening, last_minute + SLACK):
        assert_renewed_every(aged, last_minute)


def test_a_daemon_stopped_for_three_minutes_reconnects_at_once(aged_tunnels: AgedTunnels) -> None:
    for aged in old(aged_tunnels.frozen, REJECT_AFTER + SLACK):
        assert not aged.left.try_ping(aged.right), aged
        assert aged.ours.daemon is not None
        aged.ours.daemon.send_signal(signal.SIGCONT)
        aged.left.ping(aged.right, seconds=2 * (REKEY_TIMEOUT + SLACK))
        bulk(aged.left, aged.right, 1 << 20)
        bulk(aged.right, aged.left, 1 << 20)


def test_a_gigabyte_arrives_around_a_stop_of_three_minutes(aged_tunnels: AgedTunnels) -> None:
    for aged in aged_tunnels.halted:
        assert aged.waking is not None
        assert aged.transfer is not None
        aged.waking.join()
        assert 1 << 28 < aged.arrived_before < 1 << 30, aged
        aged.transfer.finish()


def test_handshakes_with_a_hung_end_are_tried_for_ninety_seconds(aged_tunnels: AgedTunnels) -> None:
    aged = aged_tunnels.unanswered
    aged.wait_until(KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + REKEY_ATTEMPT_TIME + 4 * SLACK)
    retries = aged.left.sent("initiation") - 1
    assert retries in range(REKEY_ATTEMPT_TIME // REKEY_TIMEOUT - 2, REKEY_ATTEMPT_TIME // REKEY_TIMEOUT + 3)
    aged.wait_until(REKEY_AFTER + REKEY_ATTEMPT_TIME)
    assert aged.left.sent("initiation") - 1 == retries
    assert aged.right.daemon is not None
    aged.right.daemon.send_signal(signal.SIGCONT)
    aged.left.ping(aged.right)
    bulk(aged.left, aged.right, 1 << 20)
