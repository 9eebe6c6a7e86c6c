"""A capture at a WireGuard port, with real implementations and made-up messages, in two namespaces."""

from __future__ import annotations

import socket
import struct
import sys
import time

import pytest

from tests.interop.forgery import raw_socket, send_as
from tests.interop.pairs import LINK, WGQ, join, machines, private_key
from tests.keys import public_key
from tests.netns.captures import BOTH, EAGER, daemons, firewall, listening, send, static
from wgquick import api
from wgquick.device import Device, DevicePeer
from wgquick.diagnosis.senders import KNOWN, UNKNOWN_KEY, WRONG_KEY
from wgquick.net import PublicKey, SecretKey

REDIRECT = """
table ip n {{
    chain c {{
        type nat hook prerouting priority -100
        udp dport 443 redirect to :{port}
    }}
}}
"""


@BOTH
@pytest.mark.parametrize("version", [4, 6])
def test_a_known_peers_initiation_is_admitted_and_answered(program: str, version: int) -> None:
    with daemons(program) as (left, right), listening(right, left) as here, listening(left, right) as there:
        right.configure(left.peer())
        left.configure(right.peer(version=version))
        left.ping(right)
        sender = here.sender()
        here.until(lambda heard: any(sender.admitted and sender.answered for sender in heard.senders), "an answer")
        assert (sender.verdict, str(sender.key), str(sender.source)) == (KNOWN, left.public, left.endpoint(version))
        assert abs(sender.clock_ahead) < 60
        assert here.heard().sent[0].link == "up0"
        assert there.sender("response").solicited


@BOTH
def test_an_unknown_key_is_reported_and_gets_no_answer(program: str) -> None:
    with daemons(program) as (left, right), listening(right) as here:
        right.configure()
        left.configure(right.peer(EAGER, version=4))
        sender = here.sender()
        assert (sender.verdict, str(sender.key)) == (UNKNOWN_KEY, left.public)
        assert str(sender.source) == left.endpoint()
        assert not here.heard(0.5).sent


def test_an_initiation_for_a_former_key_names_that_key() -> None:
    former = public_key(private_key())
    with daemons(WGQ) as (left, right), listening(right, left, candidates=(former,)) as here:
        right.configure(left.peer())
        wrong = right.peer(EAGER, version=4).replace(right.public, former)
        left.configure(wrong)
        sender = here.sender()
        assert (sender.verdict, str(sender.addressed_to), sender.answered) == (WRONG_KEY, former, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_a_message_that_the_firewall_drops_is_not_admitted(version: int) -> None:
    with daemons(WGQ) as (left, right), listening(right, left) as here:
        firewall(right, "drop")
        right.configure(left.peer())
        left.configure(right.peer(EAGER, version=version))
        here.sender()
        here.heard(0.5)
        sender = here.sender()
        assert (sender.verdict, sender.admitted, sender.answered) == (KNOWN, 0, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_an_endpoint_that_refuses_is_reported_with_the_sender(version: int) -> None:
    with machines(WGQ, WGQ) as (left, right):
        join(left, right)
        left.start()
        with listening(left, right) as here:
            left.configure(right.peer(EAGER, version=version))
            heard = here.until(lambda heard: bool(heard.icmp_errors), "an ICMP error")
            (complaint,) = heard.icmp_errors
            assert (complaint.meaning, complaint.sender) == ("port-unreachable", right.outer(version))
            assert str(complaint.destination) == right.endpoint(version)
            assert heard.sent[0].kind == "initiation"


@pytest.mark.parametrize("version", [4, 6])
def test_a_prohibiting_firewall_differs_from_a_closed_port(version: int) -> None:
    with machines(WGQ, WGQ) as (left, right):
        join(left, right)
        left.start()
        firewall(right, "reject with icmpx type admin-prohibited")
        with listening(left, right) as here:
            left.configure(right.peer(EAGER, version=version))
            (complaint,) = here.until(lambda heard: bool(heard.icmp_errors), "an ICMP error").icmp_errors
            assert complaint.meaning == "prohibited"


def test_a_missing_neighbour_is_reported_by_this_host() -> None:
    with machines(WGQ, WGQ) as (left, right):
        join(left, right)
        left.start()
        with listening(left, right) as here:
            away = right.peer(EAGER, version=4).replace(right.outer(), "192.0.2.99")
            left.configure(away)
            (complaint,) = here.until(lambda heard: bool(heard.icmp_errors), "an ICMP error").icmp_errors
            assert (complaint.meaning, complaint.link, complaint.sender) == (
                "host-unreachable",
                "lo",
                left.outer(),
            )


@pytest.mark.parametrize("version", [4, 6])
def test_too_big_gives_the_mtu_of_the_path(version: int) -> None:
    with machines(WGQ, WGQ) as (left, right):
        join(left, right)
        with listening(left, right) as here, raw_socket(right) as sender:
            if version == 4:
                quoted = ip4(left.outer(), right.outer(), socket.IPPROTO_UDP, udp(left.port, right.port))
                error = struct.pack("!BBHHH", 3, 4, 0, 0, 1380) + quoted
                sender.sendto(ip4(right.outer(), left.outer(), socket.IPPROTO_ICMP, error), (left.outer(), 0))
            else:
                quoted = ip6(left.outer(6), right.outer(6), udp(left.port, right.port))
                with right.open_socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sender6:
                    sender6.sendto(struct.pack("!BBHI", 2, 0, 0, 1380) + quoted, (left.outer(6), 0))
            (complaint,) = here.until(lambda heard: bool(heard.icmp_errors), "an ICMP error").icmp_errors
            assert (complaint.meaning, complaint.mtu) == ("too-big", 1380)


def udp(source: int, destination: int) -> bytes:
    return struct.pack("!HHHH", source, destination, 8 + 148, 0)


def ip4(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    start = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return start + socket.inet_aton(source) + socket.inet_aton(destination) + payload


def ip6(source: str, destination: str, payload: bytes) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack("!IHBB", 6 << 28, len(payload), socket.IPPROTO_UDP, 64) + addresses + payload


def test_packets_and_errors_of_other_hosts_are_ignored() -> None:
    with machines(WGQ, WGQ) as (left, right):
        join(left, right)
        left.ip(f"route add default via {right.outer()}")
        other = ("203.0.113.9", right.port)
        message = static(left, right).initiate(1).message
        with listening(right, left) as here, raw_socket(left) as sender:
            send_as(sender, (left.outer(), 9), other, message)
            quoted = ip4(other[0], left.outer(), socket.IPPROTO_UDP, udp(right.port, 9))
            error = ip4(left.outer(), right.outer(), socket.IPPROTO_ICMP, bytes((3, 3)) + bytes(6) + quoted)
            sender.sendto(error, (right.outer(), 0))
            send_as(sender, (left.outer(), 10), (right.outer(), right.port), message)
            assert here.sender().source.port == 10
            assert not here.heard().icmp_errors


def test_a_redirected_port_hides_no_initiation() -> None:
    with daemons(WGQ) as (left, right), listening(right) as here:
        right.machine.run(["nft", "-f", "-"], input=REDIRECT.format(port=right.port))
        right.configure()
        left.configure(right.peer(EAGER, version=4).replace(f":{right.port}", ":443"))
        sender = here.sender()
        assert (sender.verdict, str(sender.key), sender.link) == (UNKNOWN_KEY, left.public, "")


def test_listening_needs_no_device_and_no_daemon() -> None:
    with machines(WGQ, WGQ) as (left, right):
        join(left, right)
        peer = DevicePeer(PublicKey.parse(left.public))
        device = Device(LINK, SecretKey.parse(right.private), right.port, peers=(peer,))
        send(left, right, static(left, right).initiate(1).message, 0.05)
        with listening(right, left) as here:
            here.sender()
        with right.machine.entered():
            heard = api.listen(device, 2)
        (sender,) = heard.senders
        assert (sender.verdict, str(sender.key)) == (KNOWN, left.public)
        assert (heard.port, heard.seconds, heard.dropped) == (right.port, 2, 0)


def test_the_error_without_cap_net_raw_names_it() -> None:
    with machines(WGQ, WGQ) as (left, _):
        program = (
            "from wgquick import api; from wgquick.device import Device;"
            "api.listen(Device('wg0', listen_port=51820), 0.1)"
        )
        done = left.machine.run(
            ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", sys.executable, "-c", program],
            check=False,
        )
        assert "packet sockets need CAP_NET_RAW" in done.stderr


def test_a_flood_does_not_delay_the_capture_or_hide_the_peer() -> None:
    with daemons(WGQ) as (left, right), listening(right, left) as here:
        for number in range(2):
            send(left, right, struct.pack("<II", 1, number) + bytes(140), 0)
        here.until(lambda heard: heard.dropped > 0, "dropped messages")
        begin = time.monotonic()
        heard = here.heard(1.0)
        assert time.monotonic() - begin < 60  # the flood does not end
        assert {sender.verdict for sender in heard.senders} == {WRONG_KEY}
        left.machine.end_processes()
        send(left, right, static(left, right).initiate(3).message, 0.05)
        here.until(lambda heard: any(sender.verdict == KNOWN for sender in heard.senders), "the peer")
