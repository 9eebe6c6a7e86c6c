"""Each cause that a tunnel fails by has its pattern on the wire, whatever runs the tunnel."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.pairs import GO, WGQ, End, private_key, public_key
from tests.netns.knocking import Listener, begun, firewall, listening, static
from tests.netns.test_listen import BOTH, EAGER

if TYPE_CHECKING:
    from wgquick.diagnosis.knocks import Heard

PRESHARED = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="


def configure(left: End, right: End, *lines: str) -> None:
    """Both know each other, and the left one begins."""
    right.configure(left.peer())
    left.configure(right.peer(*lines, version=4))


@pytest.mark.parametrize(("program", "version"), [(WGQ, 4), (WGQ, 6), (GO, 4)])
def test_a_tunnel_that_works_has_no_sign_at_either_end(program: str, version: int) -> None:
    with begun(program) as (left, right):
        right.configure(left.peer())
        left.configure(right.peer(version=version))
        with listening(left, read=True) as here, listening(right, read=True) as there:
            left.ping(right)
            left.ping(right, version=6)
            here.heard(1.2), there.heard(0.1)
            assert (here.signs(), there.signs()) == ([], [])
        with listening(left, read=True) as here, listening(right, read=True) as there:
            right.ping(left)
            assert (here.signs(1.2), there.signs()) == ([], [])


@BOTH
def test_a_stranger_is_named_by_key_and_address(program: str) -> None:
    with begun(program) as (left, right):
        right.configure()
        with listening(right, read=True) as here:
            left.configure(right.peer(EAGER, version=4))
            sign = here.sign("knock-unknown-key", "certain")
            assert (str(sign.key), str(sign.address), sign.peer) == (left.public, left.endpoint(), None)


@BOTH
def test_a_peer_that_has_another_key_of_ours_is_told(program: str) -> None:
    former = public_key(private_key())
    with begun(program) as (left, right):
        right.configure(left.peer(version=4))
        with listening(right, read=True, candidates=(former,)) as here:
            left.configure(right.peer(EAGER, version=4).replace(right.public, former))
            sign = here.sign("knock-wrong-key", "certain")
            assert (str(sign.key), str(sign.peer)) == (former, left.public)


@BOTH
def test_preshared_keys_that_differ_are_told_where_the_answer_comes(program: str) -> None:
    with begun(program) as (right, left):  # the program under test begins
        right.configure(left.peer())
        left.configure(right.peer(f"PresharedKey = {PRESHARED}", version=4))
        with listening(left, read=True) as here, listening(right, read=True) as there:
            left.try_ping(right)
            assert str(here.sign("answer-refused", "certain").peer) == right.public
            assert str(there.sign("answer-lost").peer) == left.public


@BOTH
def test_a_firewall_at_this_end_is_told_from_one_elsewhere(program: str) -> None:
    with begun(program) as (left, right):
        configure(left, right)
        firewall(right, "drop")
        with listening(left, read=True) as here, listening(right, read=True) as there:
            left.try_ping(right)
            assert str(there.sign("input-blocked").peer) == left.public
            assert str(here.sign("no-answer").peer) == right.public
            assert [sign.code for sign in here.signs()] == ["no-answer"]


@BOTH
def test_a_firewall_at_this_end_that_drops_the_answer_is_told(program: str) -> None:
    with begun(program) as (right, left):
        configure(left, right)
        firewall(left, "drop")
        with listening(left, read=True) as here:
            left.try_ping(right)
            sign = here.sign("input-blocked", "certain")
            assert str(sign.peer) == right.public
            assert "response" in sign.facts[0]


@BOTH
def test_an_endpoint_that_refuses_is_no_silence(program: str) -> None:
    with begun(program) as (right, left):
        left.configure(right.peer(version=4).replace(f":{right.port}", ":9"))
        with listening(left, read=True) as here:
            left.try_ping(right)
            sign = here.sign("endpoint-refuses", "certain")
            assert (sign.sender, str(sign.peer)) == (right.outer(), right.public)
            assert [each.code for each in here.signs()] == ["endpoint-refuses"]


@BOTH
def test_a_reject_of_this_hosts_own_is_no_refusal_of_the_endpoint(program: str) -> None:
    with begun(program) as (right, left):
        configure(left, right)
        firewall(left, "reject", "output")
        with listening(left, read=True) as here:
            left.try_ping(right)
            assert str(here.sign("output-blocked").peer) == right.public


def get_an_answer(here: Listener, sender: End, receiver: End) -> None:
    """Send initiations until one is answered: a daemon may hear of its link a little later than the test."""
    with sender.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as made:

        def is_answered(heard: Heard) -> bool:
            if not heard.sent:
                made.sendto(static(sender, receiver).initiate(1).message, (receiver.outer(), receiver.port))
            return bool(heard.sent)

        here.until(is_answered, "an answer")


@BOTH
def test_a_clock_that_went_back_is_told(program: str) -> None:
    with begun(program) as (left, right):
        right.configure(left.peer())
        with listening(right, read=True) as here:
            get_an_answer(here, left, right)
            for index in (2, 3):
                old = static(left, right).initiate(index, time.time() - 7200).message
                with left.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                    other.sendto(old, (right.outer(), right.port))
            sign = here.sign("knock-stale-clock", "certain")
            assert str(sign.peer) == left.public
            assert sign.seconds == pytest.approx(-7200, abs=60)
            assert here.sign("clock-wrong").seconds == pytest.approx(-7200, abs=60)


def test_one_key_that_knocks_from_two_places_by_turns_is_told() -> None:
    with begun(WGQ) as (left, right):
        right.configure(left.peer())
        left.ip("addr add 192.0.2.77/24 dev up0")
        with listening(right, read=True) as here:
            for turn, address in enumerate(("192.0.2.1", "192.0.2.77", "192.0.2.1")):
                with left.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.bind((address, 4000))
                    sender.sendto(static(left, right).initiate(turn).message, (right.outer(), right.port))
                here.heard(0.1)
            sign = here.sign("one-key-two-places", "likely")
            assert str(sign.peer) == left.public


@BOTH
def test_data_that_nobody_answers_is_told_while_the_session_works(program: str) -> None:
    with begun(program) as (left, right):
        configure(left, right)
        right.machine.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all"])
        with listening(left, read=True) as here:
            left.try_ping(right)
            assert str(here.sign("no-data-back").peer) == right.public


@BOTH
def test_a_peer_that_nothing_is_sent_to_is_told_as_such(program: str) -> None:
    with begun(program) as (right, left):
        configure(left, right)
        with listening(left, read=True) as here:
            assert [sign.code for sign in here.signs(0.5)] == ["nothing-sent"]
