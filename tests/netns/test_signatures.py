"""Each cause of a failing tunnel has its signature on the wire, with any implementation."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.pairs import GO, WGQ, End, private_key
from tests.keys import public_key
from tests.netns.captures import BOTH, EAGER, Listener, daemons, firewall, listening, static

if TYPE_CHECKING:
    from wgquick.diagnosis.senders import CaptureSummary

PRESHARED = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="


def configure(left: End, right: End, *lines: str) -> None:
    """Make both ends known to each other; the left one begins."""
    right.configure(left.peer())
    left.configure(right.peer(*lines, version=4))


@pytest.mark.parametrize(("program", "version"), [(WGQ, 4), (WGQ, 6), (GO, 4)])
def test_a_working_tunnel_has_no_sign_at_either_end(program: str, version: int) -> None:
    with daemons(program) as (left, right):
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
def test_an_unknown_key_is_reported_with_its_address(program: str) -> None:
    with daemons(program) as (left, right):
        right.configure()
        with listening(right, read=True) as here:
            left.configure(right.peer(EAGER, version=4))
            sign = here.sign("knock-unknown-key", "certain")
            assert (str(sign.key), str(sign.address), sign.peer) == (left.public, left.endpoint(), None)


@BOTH
def test_a_peer_with_a_former_key_of_ours_is_reported(program: str) -> None:
    former = public_key(private_key())
    with daemons(program) as (left, right):
        right.configure(left.peer(version=4))
        with listening(right, read=True, candidates=(former,)) as here:
            left.configure(right.peer(EAGER, version=4).replace(right.public, former))
            sign = here.sign("knock-wrong-key", "certain")
            assert (str(sign.key), str(sign.peer)) == (former, left.public)


@BOTH
def test_different_preshared_keys_are_reported_by_the_initiator(program: str) -> None:
    with daemons(program) as (right, left):  # the program under test begins
        right.configure(left.peer())
        left.configure(right.peer(f"PresharedKey = {PRESHARED}", version=4))
        with listening(left, read=True) as here, listening(right, read=True) as there:
            left.try_ping(right)
            assert str(here.sign("answer-refused", "certain").peer) == right.public
            assert str(there.sign("answer-lost").peer) == left.public


@BOTH
def test_a_firewall_here_differs_from_one_elsewhere(program: str) -> None:
    with daemons(program) as (left, right):
        configure(left, right)
        firewall(right, "drop")
        with listening(left, read=True) as here, listening(right, read=True) as there:
            left.try_ping(right)
            assert str(there.sign("input-blocked").peer) == left.public
            assert str(here.sign("no-answer").peer) == right.public
            assert [sign.code for sign in here.signs()] == ["no-answer"]


@BOTH
def test_a_firewall_here_that_drops_the_response_is_reported(program: str) -> None:
    with daemons(program) as (right, left):
        configure(left, right)
        firewall(left, "drop")
        with listening(left, read=True) as here:
            left.try_ping(right)
            sign = here.sign("input-blocked", "certain")
            assert str(sign.peer) == right.public
            assert "response" in sign.facts[0]


@BOTH
def test_an_endpoint_that_refuses_differs_from_a_silent_one(program: str) -> None:
    with daemons(program) as (right, left):
        left.configure(right.peer(version=4).replace(f":{right.port}", ":9"))
        with listening(left, read=True) as here:
            left.try_ping(right)
            sign = here.sign("endpoint-refuses", "certain")
            assert (sign.sender, str(sign.peer)) == (right.outer(), right.public)
            assert [each.code for each in here.signs()] == ["endpoint-refuses"]


@BOTH
def test_a_reject_by_this_host_is_no_refusal_of_the_endpoint(program: str) -> None:
    with daemons(program) as (right, left):
        configure(left, right)
        firewall(left, "reject", "output")
        with listening(left, read=True) as here:
            left.try_ping(right)
            assert str(here.sign("output-blocked").peer) == right.public


def get_a_response(here: Listener, sender: End, receiver: End) -> None:
    """Send initiations until one is answered: the daemon may learn that its link is up after the test does."""
    with sender.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as made:

        def is_answered(heard: CaptureSummary) -> bool:
            if not heard.sent:
                made.sendto(static(sender, receiver).initiate(1).message, (receiver.outer(), receiver.port))
            return bool(heard.sent)

        here.until(is_answered, "a response")


@BOTH
def test_a_clock_that_went_back_is_reported(program: str) -> None:
    with daemons(program) as (left, right):
        right.configure(left.peer())
        with listening(right, read=True) as here:
            get_a_response(here, left, right)
            for index in (2, 3):
                old = static(left, right).initiate(index, time.time() - 7200).message
                with left.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                    other.sendto(old, (right.outer(), right.port))
            sign = here.sign("knock-stale-clock", "certain")
            assert str(sign.peer) == left.public
            assert sign.seconds == pytest.approx(-7200, abs=60)
            assert here.sign("clock-wrong").seconds == pytest.approx(-7200, abs=60)


def test_one_key_at_two_places_is_reported() -> None:
    with daemons(WGQ) as (left, right):
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
def test_missing_return_data_is_reported_despite_a_session(program: str) -> None:
    with daemons(program) as (left, right):
        configure(left, right)
        right.machine.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all"])
        with listening(left, read=True) as here:
            left.try_ping(right)
            assert str(here.sign("no-data-back").peer) == right.public


@BOTH
def test_a_peer_without_traffic_is_reported_as_such(program: str) -> None:
    with daemons(program) as (right, left):
        configure(left, right)
        with listening(left, read=True) as here:
            assert [sign.code for sign in here.signs(0.5)] == ["nothing-sent"]
