"""What wgq-userspace passes over in silence, and counts: each event is provoked over the wire."""

from __future__ import annotations

import base64
import contextlib
import errno
import itertools
import os
import socket
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.interop import forgery, noise
from tests.interop.floods import from_sixteen_ports
from tests.interop.pairs import BORINGTUN, GO, GOTATUN, LINK, WGQ, End, join, machines, pair, private_key, until
from wgquick import api
from wgquick.counters import DEVICE_EVENTS, PEER_EVENTS, Event, Events
from wgquick.net import PublicKey, SocketAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.counters import Diagnostics

DAY = 86400
NO_KEY = bytes(noise.KEY)


def counters(end: End) -> Diagnostics:
    """What the end's daemon counts."""
    with end.machine.entered():
        told = api.diagnostics(LINK)
    assert told is not None
    return told


def key(end: End) -> PublicKey:
    return PublicKey.parse(end.public)


def once(end: End, other: End | None, name: str) -> Event:
    """The last event of the device, or of a peer, as soon as there is one; it is as old as it can be."""

    def found() -> Event | None:
        told = counters(end)
        return (told.peer(key(other)) if other else told.device).last(name)

    until(found, name)
    event = found()
    assert event is not None
    assert 0 <= event.age < 30
    return event


class Fellow(NamedTuple):
    """Our daemon, and beside it a machine whose part the test plays, on one socket."""

    ours: End
    theirs: End
    socket: socket.socket

    @property
    def static(self) -> noise.Static:
        return noise.Static(base64.b64decode(self.theirs.private), base64.b64decode(self.ours.public), NO_KEY)

    @property
    def address(self) -> SocketAddress:
        return SocketAddress(self.theirs.outer(), self.theirs.port)

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self.socket.sendto(message, (self.ours.outer(), self.ours.port))

    def handshake(self) -> noise.Session:
        """A session that the fellow has begun; no flood is remembered then."""
        for _ in range(30):
            time.sleep(0.03)  # only fifty initiations a second are listened to
            index = os.urandom(4)
            begun = self.static.initiate(int.from_bytes(index, "little"))
            self.send(begun.message)
            # None comes while a flood is not yet forgotten.
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                for message in self.received():
                    if message[0] == forgery.RESPONSE and message[8:12] == index:
                        return begun.finish(message)
        raise AssertionError("no response to the fellow")

    def received(self) -> Iterator[bytes]:
        """What has come, after a short wait for the first of it."""
        self.socket.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while True:
                yield self.socket.recv(2000)

    def initiation(self) -> bytes:
        """The next initiation of our daemon."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for message in self.received():
                if message[0] == forgery.INITIATION:
                    return message
        raise AssertionError("no initiation to the fellow")


@pytest.fixture(scope="module")
def fellow() -> Iterator[Fellow]:
    """A device with one peer that knows where it is; every test provokes events of its own."""
    with machines(WGQ, WGQ) as (ours, theirs):
        join(ours, theirs)
        with theirs.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.bind((theirs.outer(), theirs.port))
            ours.start()
            ours.configure(theirs.peer())
            yield Fellow(ours, theirs, made)
            ours.assert_alive()


def inner(source: str, destination: str) -> bytes:
    """A whole packet of IPv4 with nothing in it."""
    start = struct.pack("!BBHHHBBH", 0x45, 0, 20, 0, 0, 64, 253, 0)
    return start + socket.inet_aton(source) + socket.inet_aton(destination)


def test_what_is_no_message_is_counted(fellow: Fellow) -> None:
    fellow.send(b"GET / HTTP/1.1\r\n\r\n")
    assert once(fellow.ours, None, "malformed").sender == fellow.address


def test_a_handshake_for_another_key_of_ours_is_counted(fellow: Fellow) -> None:
    fellow.send(forgery.initiation(fellow.theirs.public))
    assert once(fellow.ours, None, "mac1_invalid").sender == fellow.address


def test_an_initiation_that_is_none_is_counted(fellow: Fellow) -> None:
    fellow.send(forgery.initiation(fellow.ours.public))
    assert once(fellow.ours, None, "initiation_undecryptable").sender == fellow.address


def test_unknown_keys_are_named_with_where_they_came_from(fellow: Fellow) -> None:
    strangers = [PublicKey(each.public) for each in (knocked(fellow) for _ in range(3))]
    told = counters(fellow.ours).device.of("unknown_key")[:3]
    assert [each.static_key for each in told] == [*reversed(strangers)]
    assert {each.sender for each in told} == {fellow.address}


def test_answers_that_nobody_waits_for_are_counted(fellow: Fellow) -> None:
    response = struct.pack("<III", forgery.RESPONSE, 1, 2) + os.urandom(48)
    response += forgery.mac1(fellow.ours.public, response) + bytes(16)
    fellow.send(response, struct.pack("<II", forgery.COOKIE, 3) + os.urandom(56))
    for name in ("response_unexpected", "cookie_unexpected"):
        assert once(fellow.ours, None, name).sender == fellow.address


def test_data_of_no_session_is_counted(fellow: Fellow) -> None:
    fellow.send(struct.pack("<IIQ", forgery.DATA, 7, 0) + os.urandom(16))
    assert once(fellow.ours, None, "unknown_index").sender == fellow.address


def test_a_clock_that_is_behind_is_told_with_the_time_that_it_shows(fellow: Fellow) -> None:
    fellow.handshake()
    time.sleep(0.03)
    fellow.send(fellow.static.initiate(1, 7 * DAY).message)
    stale = once(fellow.ours, fellow.theirs, "stale_timestamp")
    assert (stale.sender, stale.clock) == (fellow.address, 7 * DAY)
    assert stale.newest is not None
    assert abs(stale.newest - time.time()) < 30


def test_replayed_and_too_many_initiations_are_told_apart(fellow: Fellow) -> None:
    first, *more = (fellow.static.initiate(number).message for number in range(10))
    fellow.send(first, first, *more)
    for name in ("initiation_replayed", "initiation_flood"):
        assert once(fellow.ours, fellow.theirs, name).sender == fellow.address


def test_data_that_is_replayed_changed_or_of_another_source_is_told_apart(fellow: Fellow) -> None:
    session = fellow.handshake()
    good = session.data(0, inner(fellow.theirs.inner(), fellow.ours.inner()))
    changed = good[:-1] + bytes([good[-1] ^ 1])
    fellow.send(good, good, changed, session.data(1, inner("10.77.0.9", fellow.ours.inner())))
    fellow.send(session.data(2, b"no packet"))
    for name in ("replayed", "undecryptable", "source_not_allowed", "inner_malformed"):
        assert once(fellow.ours, fellow.theirs, name).sender == fellow.address
    assert once(fellow.ours, fellow.theirs, "source_not_allowed").source == "10.77.0.9"


def test_a_peer_that_moves_is_told_with_where_from_and_where_to(fellow: Fellow) -> None:
    session = fellow.handshake()
    with fellow.theirs.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind((fellow.theirs.outer(), 0))
        fellow._replace(socket=elsewhere).send(session.data(0, b""))
        moved = once(fellow.ours, fellow.theirs, "roamed")
        assert moved.sender == fellow.address
        assert moved.receiver == SocketAddress(*elsewhere.getsockname())
    fellow.send(session.data(1, b""))


def test_another_preshared_key_shows_at_the_one_who_is_answered(fellow: Fellow) -> None:
    fellow.handshake()
    fellow.ours.forget(fellow.theirs, "PersistentKeepalive = 5")
    answer, _ = fellow.static._replace(preshared=os.urandom(32)).respond(fellow.initiation(), 1)
    fellow.send(answer)
    assert once(fellow.ours, fellow.theirs, "response_undecryptable").sender == fellow.address
    assert once(fellow.ours, fellow.theirs, "initiation_sent").receiver == fellow.address
    fellow.ours.set_peer(fellow.theirs, "persistent-keepalive", "0")


def test_a_finished_handshake_is_counted_at_both_ends() -> None:
    with pair(WGQ, WGQ) as (left, right):
        left.ping(right)
        sent = once(left, right, "response_received")
        received, answered = once(right, left, "initiation_received"), once(right, left, "response_sent")
        assert sent.sender == SocketAddress(right.outer(), right.port)
        assert received.sender == answered.receiver == SocketAddress(left.outer(), left.port)
        # Nothing else happened at all.
        assert counters(left).device.events == ()
        assert {event.name for event in counters(left).peer(key(right)).events} == {
            "initiation_sent",
            "response_received",
        }


@pytest.fixture
def alone() -> Iterator[End]:
    """A device whose peers, if it has any, are not there."""
    with machines(WGQ, WGQ) as (end, other):
        join(end, other)
        end.start()
        end.configure()
        yield end
        end.assert_alive()


def absent(end: End, network: str, *lines: str) -> PublicKey:
    """Add a peer that is not there."""
    made = End(end.machine, 9, WGQ, private_key())
    end.wg("addconf", LINK, "/dev/stdin", input=f"[Peer]\nPublicKey = {made.public}\nAllowedIPs = {network}\n")
    for line in lines:
        end.wg("set", LINK, "peer", made.public, *line.split())
    return key(made)


def send(end: End, address: str, count: int = 1) -> None:
    """Send datagrams into the tunnel."""
    with end.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            sender.sendto(b"hello", (address, 9))


def test_packets_to_no_peer_and_to_a_peer_without_endpoint_are_told_by_their_destination(alone: End) -> None:
    peer = absent(alone, "10.66.0.8/32")
    send(alone, "10.66.0.7")
    send(alone, "10.66.0.8")
    assert once(alone, None, "no_peer").destination == "10.66.0.7"
    until(lambda: counters(alone).peer(peer).last("no_endpoint"), "no_endpoint")
    told = counters(alone).peer(peer).last("no_endpoint")
    assert told is not None
    assert told.destination == "10.66.0.8"


def test_sends_that_a_firewall_or_the_routes_refuse_are_told_by_their_errno(alone: End) -> None:
    alone.machine.run(
        ["nft", "-f", "-"],
        input="table inet t { chain c { type filter hook output priority 0; ip daddr 192.0.2.77 drop; }; }",
    )
    blocked = absent(alone, "10.66.0.8/32", "endpoint 192.0.2.77:7")
    unrouted = absent(alone, "10.66.0.9/32", "endpoint 203.0.113.1:7")
    send(alone, "10.66.0.8")
    send(alone, "10.66.0.9")

    def total(peer: PublicKey) -> int:
        return counters(alone).peer(peer).total("send_error")

    for peer, code, to in ((blocked, errno.EPERM, "192.0.2.77"), (unrouted, errno.ENETUNREACH, "203.0.113.1")):
        until(partial(total, peer), "send_error")
        told = counters(alone).peer(peer).last("send_error")
        assert told is not None
        assert (told.send_errno, told.receiver) == (code, SocketAddress(to, 7))
        assert counters(alone).peer(peer).total("initiation_sent") == 0


REFUSING = """
table inet t {
    chain c {
        type filter hook input priority 0
        udp dport 8 reject with icmpx type admin-prohibited
    }
}
"""


def heard(end: End, peer: PublicKey) -> Event:
    """The last ICMP error about packets to a peer, as soon as there is one."""
    until(lambda: counters(end).peer(peer).last("icmp"), "an ICMP error")
    error = counters(end).peer(peer).last("icmp")
    assert error is not None
    return error


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_errors_are_told_by_their_kind_with_the_endpoint_and_who_sent_them(version: int) -> None:
    with machines(WGQ, WGQ) as (end, other):
        join(end, other)
        end.start()
        end.configure()
        other.machine.run(["nft", "-f", "-"], input=REFUSING)
        here, there, nowhere = end.outer(version), other.outer(version), end.outer(version)[:-1] + "77"
        told = ((there, 7, there, "port-unreachable"), (there, 8, there, "prohibited"))
        # Of an address that does not answer, this machine itself says so.
        for number, (address, port, router, kind) in enumerate((*told, (nowhere, 9, here, "host-unreachable"))):
            endpoint = SocketAddress(address, port)
            peer = absent(end, f"10.66.0.{100 + number}/32", f"endpoint {endpoint}")
            send(end, f"10.66.0.{100 + number}")
            error = heard(end, peer)
            assert (error.icmp, error.router, error.receiver) == (kind, router, endpoint)
        assert counters(end).device.total("icmp") == 0


def test_an_icmp_error_about_another_program_is_nobodys(alone: End) -> None:
    blocked = absent(alone, "10.66.0.8/32", "endpoint 127.0.0.1:7")
    with alone.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("127.0.0.1", 7))
    send(alone, "10.66.0.8")
    assert heard(alone, blocked).times == 1
    assert counters(alone).device.total("icmp") == 0


def test_without_the_privilege_to_hear_icmp_errors_all_else_works_and_is_counted() -> None:
    with pair(f"setpriv --bounding-set=-net_raw --inh-caps=-all {WGQ}", WGQ) as (left, right):
        left.ping(right)
        peer = absent(left, "10.66.0.8/32", f"endpoint {right.outer()}:7")
        send(left, "10.66.0.8")
        until(lambda: counters(left).peer(peer).total("initiation_sent"), "initiation_sent")
        left.ping(right)
        assert counters(left).peer(peer).total("icmp") == 0


def test_data_that_a_firewall_refuses_is_told_packet_by_packet() -> None:
    with pair(WGQ, WGQ) as (left, right):
        left.ping(right)
        left.machine.run(
            ["nft", "-f", "-"],
            input="table inet t { chain c { type filter hook output priority 0; udp dport 51822 drop; }; }",
        )
        send(left, right.inner(), 20)
        until(lambda: counters(left).peer(key(right)).total("send_error") >= 20, "all that was refused")
        assert once(left, right, "send_error").send_errno == errno.EPERM


def test_packets_that_wait_and_are_dropped_are_counted_by_the_reason(alone: End) -> None:
    peer = absent(alone, "10.66.0.8/32", "endpoint 192.0.2.77:7")
    send(alone, "10.66.0.8", 200)
    until(lambda: counters(alone).peer(peer).total("staged_dropped") == 72, "all but 128 gave way")
    alone.ip(f"link set {LINK} down")
    until(lambda: counters(alone).peer(peer).total("staged_dropped") == 200, "the rest is gone too")
    assert [(each.reason, each.times) for each in counters(alone).peer(peer).of("staged_dropped")] == [
        ("link_down", 128),
        ("overflow", 72),
    ]


def test_a_handshake_message_to_a_device_without_a_key_is_counted(alone: End) -> None:
    alone.wg("set", LINK, "private-key", "/dev/null")
    with alone.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(forgery.initiation(alone.public), ("127.0.0.1", alone.port))
        assert once(alone, None, "no_private_key").sender == SocketAddress("127.0.0.1", sender.getsockname()[1])


def test_load_and_its_cookies_are_told_at_both_ends() -> None:
    with pair(WGQ, WGQ) as (left, right), from_sixteen_ports(right, left):
        until(lambda: counters(right).device.total("cookie_sent") > 1000, "cookies sent")
        left.ping(right, seconds=60)
        assert counters(right).device.total("under_load") >= 1
        assert counters(right).device.total("cookie_missing") > 1000
        if counters(left).peer(key(right)).total("initiation_sent") > 1:
            assert once(left, right, "cookie_received").sender == SocketAddress(right.outer(), right.port)


def test_a_flood_of_forgeries_from_everywhere_takes_no_memory(fellow: Fellow) -> None:
    before = fellow.ours.resident()
    session = fellow.handshake()
    with forgery.raw_socket(fellow.theirs) as sender:
        for number in range(20_000):
            payload = (
                os.urandom(40),
                forgery.initiation(fellow.theirs.public),
                forgery.initiation(fellow.ours.public),
                struct.pack("<IIQ", forgery.DATA, number, 0) + os.urandom(16),
                struct.pack("<IIQ", forgery.DATA, session.theirs, number) + os.urandom(16),
            )[number % 5]
            source = (socket.inet_ntoa(forgery.anyone(4)), 1024 + number)
            forgery.send_as(sender, source, (fellow.ours.outer(), fellow.ours.port), payload)
    until(lambda: counters(fellow.ours).device.total("malformed") >= 1000, "the flood")
    fellow.ours.assert_alive()
    assert len(fellow.ours.request("diagnostics=1\n\n")) < 1 << 14
    # The answers to the flood, which under load wait to go out together, take what they take.
    assert fellow.ours.resident() - before < 4 << 20


def test_many_unknown_keys_leave_the_last_eight_and_the_number_of_all(fellow: Fellow) -> None:
    fellow.handshake()
    before = counters(fellow.ours).device.total("unknown_key")
    strangers = [PublicKey(each.public) for each in (knocked(fellow) for _ in range(12))]
    told = counters(fellow.ours).device.of("unknown_key")
    assert [each.static_key for each in told] == [*reversed(strangers[4:]), None]
    assert sum(each.times for each in told) >= before + 12


def knocked(fellow: Fellow) -> noise.Static:
    """A stranger whose initiation has come: it is sent again where others keep the daemon too busy for it."""
    stranger = fellow.static._replace(private=os.urandom(32))

    def is_told() -> bool:
        fellow.send(stranger.initiate(1).message)
        return PublicKey(stranger.public) in {
            each.static_key for each in counters(fellow.ours).device.of("unknown_key")
        }

    until(is_told, "the stranger's key")
    return stranger


def test_get_and_wg_tell_what_they_told_before_any_event(fellow: Fellow) -> None:
    """Byte for byte: the request is another."""
    asked, shown = fellow.ours.request("get=1\n\n"), fellow.ours.wg("show", LINK, "dump")
    fellow.send(b"noise", forgery.initiation(fellow.theirs.public))
    once(fellow.ours, None, "malformed")
    once(fellow.ours, None, "mac1_invalid")
    assert (fellow.ours.request("get=1\n\n"), fellow.ours.wg("show", LINK, "dump")) == (asked, shown)
    names = [line.partition("=")[0] for line in asked.splitlines() if line]
    assert [name for name, _ in itertools.groupby(names)] == [
        "private_key",
        "listen_port",
        "public_key",
        "preshared_key",
        "protocol_version",
        *(["endpoint"] if "endpoint" in names else []),
        "last_handshake_time_sec",
        "last_handshake_time_nsec",
        "tx_bytes",
        "rx_bytes",
        "persistent_keepalive_interval",
        "allowed_ip",
        "errno",
    ]
    for wrong in ("get=diagnostics\n\n", "diagnostics=2\n\n", "diagnostics=1\nx=1\n\n", "set=1\ndiagnostics=1\n\n"):
        assert fellow.ours.request(wrong).startswith("errno=-")


def test_no_secret_is_told_and_every_name_is_known(fellow: Fellow) -> None:
    session = fellow.handshake()
    told = fellow.ours.request("diagnostics=1\n\n")
    for secret in (base64.b64decode(fellow.ours.private), session.send, session.receive):
        assert secret.hex() not in told
    found = counters(fellow.ours)
    assert {event.name for event in found.device.events} <= {*DEVICE_EVENTS}
    assert {event.name for events in found.peers.values() for event in events.events} <= {*PEER_EVENTS}


@pytest.mark.parametrize("program", [GO, BORINGTUN, GOTATUN])
def test_another_daemon_counts_nothing_and_lives_on(program: str) -> None:
    with machines(program, WGQ) as (end, _):
        end.start()
        with end.machine.entered():
            assert api.diagnostics(LINK) is None
        end.assert_alive()
        end.wg("set", LINK, "listen-port", "51820")


def test_events_of_a_peer_that_had_none_are_none() -> None:
    assert Events().last("roamed") is None
    assert Events().total("roamed", "icmp") == 0
