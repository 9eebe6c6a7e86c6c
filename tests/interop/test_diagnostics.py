"""The events that wgq-userspace drops silently and counts: each one is provoked over the wire."""

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
from tests.interop.diagnostics import counters, key
from tests.interop.floods import from_sixteen_ports
from tests.interop.pairs import BORINGTUN, GO, GOTATUN, LINK, WGQ, End, join, machines, pair, private_key
from tests.waiting import until
from wgquick import api
from wgquick.counters import DEVICE_EVENTS, PEER_EVENTS, Event, Events
from wgquick.net import PublicKey, SocketAddress

if TYPE_CHECKING:
    from collections.abc import Iterator


DAY = 86400
NO_KEY = bytes(noise.KEY)


def awaited(end: End, other: End | None, name: str) -> Event:
    """Wait for a recent event of the device, or of a peer, and return the latest one."""
    events: list[Event] = []

    def has_come() -> bool:
        counted = counters(end)
        last = (counted.peer(key(other)) if other else counted.device).last(name)
        events[:] = [last] if last is not None and 0 <= last.age < 30 else []
        return bool(events)

    until(has_come, name)
    return events[0]


class Scripted(NamedTuple):
    """Our daemon, and a peer that the test plays itself on one socket."""

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
        """Begin a handshake and return its session; wait until the daemon is no longer under load."""
        for _ in range(30):
            time.sleep(0.03)  # the daemon accepts at most fifty initiations per second
            index = os.urandom(4)
            begun = self.static.initiate(int.from_bytes(index, "little"))
            self.send(begun.message)
            # No response comes while the daemon is under load.
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                for message in self.received():
                    if message[0] == forgery.RESPONSE and message[8:12] == index:
                        return begun.finish(message)
        raise AssertionError("no response to the scripted peer")

    def calm(self) -> None:
        """Finish a handshake: until then, the daemon repeats the initiations of an earlier test and counts them."""
        session, before = self.handshake(), self.ours.transfer(self.theirs)[0]
        self.send(session.data(0, b""))

        def is_counted() -> bool:
            more = self.ours.transfer(self.theirs)[0] - before
            return more % forgery.LENGTHS[forgery.INITIATION] == len(session.data(0, b""))

        until(is_counted, "the session confirmed")

    def received(self) -> Iterator[bytes]:
        """The messages that arrived, after a short wait for the first one."""
        self.socket.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            while True:
                yield self.socket.recv(2000)

    def initiation(self) -> bytes:
        """The daemon's next initiation."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for message in self.received():
                if message[0] == forgery.INITIATION:
                    return message
        raise AssertionError("no initiation to the scripted peer")


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    """A daemon whose one peer is scripted; each test provokes its own events."""
    with machines(WGQ, WGQ) as (ours, theirs):
        join(ours, theirs)
        with theirs.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.bind((theirs.outer(), theirs.port))
            ours.start()
            ours.configure(theirs.peer())
            yield Scripted(ours, theirs, made)
            ours.assert_alive()


def inner(source: str, destination: str) -> bytes:
    """An IPv4 packet without a payload."""
    start = struct.pack("!BBHHHBBH", 0x45, 0, 20, 0, 0, 64, 253, 0)
    return start + socket.inet_aton(source) + socket.inet_aton(destination)


def test_a_malformed_message_is_counted(scripted: Scripted) -> None:
    scripted.send(b"GET / HTTP/1.1\r\n\r\n")
    assert awaited(scripted.ours, None, "malformed").sender == scripted.address


def test_a_wrong_mac1_is_counted(scripted: Scripted) -> None:
    """The initiation is made for another responder's public key."""
    scripted.send(forgery.initiation(scripted.theirs.public))
    assert awaited(scripted.ours, None, "mac1_invalid").sender == scripted.address


def test_an_undecryptable_initiation_is_counted(scripted: Scripted) -> None:
    scripted.send(forgery.initiation(scripted.ours.public))
    assert awaited(scripted.ours, None, "initiation_undecryptable").sender == scripted.address


def test_unknown_keys_are_listed_with_their_senders(scripted: Scripted) -> None:
    strangers = [PublicKey(each.public) for each in (unknown_peer(scripted) for _ in range(3))]
    events = counters(scripted.ours).device.of("unknown_key")[:3]
    assert [each.static_key for each in events] == [*reversed(strangers)]
    assert {each.sender for each in events} == {scripted.address}


def test_unexpected_responses_and_cookies_are_counted(scripted: Scripted) -> None:
    response = struct.pack("<III", forgery.RESPONSE, 1, 2) + os.urandom(48)
    response += forgery.mac1(scripted.ours.public, response) + bytes(16)
    scripted.send(response, struct.pack("<II", forgery.COOKIE, 3) + os.urandom(56))
    for name in ("response_unexpected", "cookie_unexpected"):
        assert awaited(scripted.ours, None, name).sender == scripted.address


def test_data_of_no_session_is_counted(scripted: Scripted) -> None:
    scripted.send(struct.pack("<IIQ", forgery.DATA, 7, 0) + os.urandom(16))
    assert awaited(scripted.ours, None, "unknown_index").sender == scripted.address


def test_a_stale_timestamp_is_reported_with_both_times(scripted: Scripted) -> None:
    """With the peer's clock, and with the newest timestamp that it sent before."""
    scripted.handshake()
    time.sleep(0.03)
    scripted.send(scripted.static.initiate(1, 7 * DAY).message)
    stale = awaited(scripted.ours, scripted.theirs, "stale_timestamp")
    assert (stale.sender, stale.clock) == (scripted.address, 7 * DAY)
    assert stale.newest is not None
    assert abs(stale.newest - time.time()) < 30


def test_replayed_initiations_and_floods_have_separate_counters(scripted: Scripted) -> None:
    first, *more = (scripted.static.initiate(number).message for number in range(10))
    scripted.send(first, first, *more)
    for name in ("initiation_replayed", "initiation_flood"):
        assert awaited(scripted.ours, scripted.theirs, name).sender == scripted.address


def test_each_kind_of_refused_data_has_its_own_counter(scripted: Scripted) -> None:
    """Replayed, changed, from a source that the peer may not use, and not an IP packet."""
    session = scripted.handshake()
    good = session.data(0, inner(scripted.theirs.inner(), scripted.ours.inner()))
    changed = good[:-1] + bytes([good[-1] ^ 1])
    scripted.send(good, good, changed, session.data(1, inner("10.77.0.9", scripted.ours.inner())))
    scripted.send(session.data(2, b"no packet"))
    for name in ("replayed", "undecryptable", "source_not_allowed", "inner_malformed"):
        assert awaited(scripted.ours, scripted.theirs, name).sender == scripted.address
    assert awaited(scripted.ours, scripted.theirs, "source_not_allowed").source == "10.77.0.9"


def test_roaming_is_reported_with_both_endpoints(scripted: Scripted) -> None:
    session = scripted.handshake()
    with scripted.theirs.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind((scripted.theirs.outer(), 0))
        scripted._replace(socket=elsewhere).send(session.data(0, b""))
        moved = awaited(scripted.ours, scripted.theirs, "roamed")
        assert moved.sender == scripted.address
        assert moved.receiver == SocketAddress(*elsewhere.getsockname())
    scripted.send(session.data(1, b""))


def test_a_different_preshared_key_is_counted_at_the_initiator(scripted: Scripted) -> None:
    scripted.handshake()
    scripted.ours.forget(scripted.theirs, "PersistentKeepalive = 5")

    def is_refused() -> bool:
        # On a busy machine the daemon may have begun the next one.
        answer, _ = scripted.static._replace(preshared=os.urandom(32)).respond(scripted.initiation(), 1)
        scripted.send(answer)
        return counters(scripted.ours).peer(key(scripted.theirs)).last("response_undecryptable") is not None

    until(is_refused, "a refused answer")
    assert awaited(scripted.ours, scripted.theirs, "response_undecryptable").sender == scripted.address
    assert awaited(scripted.ours, scripted.theirs, "initiation_sent").receiver == scripted.address
    scripted.ours.set_peer(scripted.theirs, "persistent-keepalive", "0")


def test_a_finished_handshake_is_counted_at_both_ends() -> None:
    """No other event is counted."""
    with pair(WGQ, WGQ) as (left, right):
        left.ping(right)
        sent = awaited(left, right, "response_received")
        received, answered = awaited(right, left, "initiation_received"), awaited(right, left, "response_sent")
        assert sent.sender == SocketAddress(right.outer(), right.port)
        assert received.sender == answered.receiver == SocketAddress(left.outer(), left.port)
        assert counters(left).device.events == ()
        assert {event.name for event in counters(left).peer(key(right)).events} == {
            "initiation_sent",
            "response_received",
        }


@pytest.fixture
def alone() -> Iterator[End]:
    """A device without a reachable peer."""
    with machines(WGQ, WGQ) as (end, other):
        join(end, other)
        end.start()
        end.configure()
        yield end
        end.assert_alive()


def absent(end: End, network: str, *lines: str) -> PublicKey:
    """Add a peer that does not exist. Returns its key."""
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


def test_packets_without_a_peer_are_reported_by_destination(alone: End) -> None:
    peer = absent(alone, "10.66.0.8/32")
    send(alone, "10.66.0.7")
    send(alone, "10.66.0.8")
    assert awaited(alone, None, "no_peer").destination == "10.66.0.7"
    until(lambda: counters(alone).peer(peer).last("no_endpoint"), "no_endpoint")
    event = counters(alone).peer(peer).last("no_endpoint")
    assert event is not None
    assert event.destination == "10.66.0.8"


def test_failed_sends_are_reported_by_errno(alone: End) -> None:
    """EPERM from a firewall, ENETUNREACH from the routes."""
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
        event = counters(alone).peer(peer).last("send_error")
        assert event is not None
        assert (event.send_errno, event.receiver) == (code, SocketAddress(to, 7))
        assert counters(alone).peer(peer).total("initiation_sent") == 0


REFUSING = """
table inet t {
    chain c {
        type filter hook input priority 0
        udp dport 8 reject with icmpx type admin-prohibited
    }
}
"""


def icmp_error(end: End, peer: PublicKey) -> Event:
    """Wait for an ICMP error about packets to a peer, and return the latest one."""
    until(lambda: counters(end).peer(peer).last("icmp"), "an ICMP error")
    error = counters(end).peer(peer).last("icmp")
    assert error is not None
    return error


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_errors_are_reported_with_kind_router_and_endpoint(version: int) -> None:
    with machines(WGQ, WGQ) as (end, other):
        join(end, other)
        end.start()
        end.configure()
        other.machine.run(["nft", "-f", "-"], input=REFUSING)
        here, there, nowhere = end.outer(version), other.outer(version), end.outer(version)[:-1] + "77"
        answers = ((there, 7, there, "port-unreachable"), (there, 8, there, "prohibited"))
        # If an address does not answer, this machine itself reports it.
        for number, (address, port, router, kind) in enumerate((*answers, (nowhere, 9, here, "host-unreachable"))):
            endpoint = SocketAddress(address, port)
            peer = absent(end, f"10.66.0.{100 + number}/32", f"endpoint {endpoint}")
            send(end, f"10.66.0.{100 + number}")
            error = icmp_error(end, peer)
            assert (error.icmp, error.router, error.receiver) == (kind, router, endpoint)
        assert counters(end).device.total("icmp") == 0


def test_icmp_errors_of_other_programs_are_not_counted(alone: End) -> None:
    blocked = absent(alone, "10.66.0.8/32", "endpoint 127.0.0.1:7")
    with alone.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("127.0.0.1", 7))
    send(alone, "10.66.0.8")
    assert icmp_error(alone, blocked).times == 1
    assert counters(alone).device.total("icmp") == 0


def test_the_daemon_works_without_cap_net_raw() -> None:
    """Without this capability it receives no ICMP errors; it counts everything else."""
    with pair(f"setpriv --bounding-set=-net_raw --inh-caps=-all {WGQ}", WGQ) as (left, right):
        left.ping(right)
        peer = absent(left, "10.66.0.8/32", f"endpoint {right.outer()}:7")
        send(left, "10.66.0.8")
        until(lambda: counters(left).peer(peer).total("initiation_sent"), "initiation_sent")
        left.ping(right)
        assert counters(left).peer(peer).total("icmp") == 0


def test_refused_sends_of_data_are_counted_per_packet() -> None:
    with pair(WGQ, WGQ) as (left, right):
        left.ping(right)
        left.machine.run(
            ["nft", "-f", "-"],
            input="table inet t { chain c { type filter hook output priority 0; udp dport 51822 drop; }; }",
        )
        send(left, right.inner(), 20)
        until(lambda: counters(left).peer(key(right)).total("send_error") >= 20, "all refused sends counted")
        assert awaited(left, right, "send_error").send_errno == errno.EPERM


def test_dropped_staged_packets_are_counted_by_reason(alone: End) -> None:
    peer = absent(alone, "10.66.0.8/32", "endpoint 192.0.2.77:7")
    send(alone, "10.66.0.8", 200)
    until(lambda: counters(alone).peer(peer).total("staged_dropped") == 72, "all but 128 dropped")
    alone.ip(f"link set {LINK} down")
    until(lambda: counters(alone).peer(peer).total("staged_dropped") == 200, "the rest dropped")
    assert [(each.reason, each.times) for each in counters(alone).peer(peer).of("staged_dropped")] == [
        ("link_down", 128),
        ("overflow", 72),
    ]


def test_a_handshake_with_a_keyless_device_is_counted(alone: End) -> None:
    alone.wg("set", LINK, "private-key", "/dev/null")
    with alone.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(forgery.initiation(alone.public), ("127.0.0.1", alone.port))
        assert awaited(alone, None, "no_private_key").sender == SocketAddress("127.0.0.1", sender.getsockname()[1])


def test_load_and_cookies_are_counted_at_both_ends() -> None:
    with pair(WGQ, WGQ) as (left, right), from_sixteen_ports(right, left):
        until(lambda: counters(right).device.total("cookie_sent") > 1000, "cookies sent")
        left.ping(right, seconds=60)
        assert counters(right).device.total("under_load") >= 1
        assert counters(right).device.total("cookie_missing") > 1000
        while (cookie := counters(left).peer(key(right)).last("cookie_received")) is None:
            left.forget(right)  # its initiation came when the flood paused
            left.ping(right)
        assert cookie.sender == SocketAddress(right.outer(), right.port)


def test_a_flood_of_forgeries_leaves_memory_bounded(scripted: Scripted) -> None:
    before = scripted.ours.resident()
    session = scripted.handshake()
    with forgery.raw_socket(scripted.theirs) as sender:
        for number in range(20_000):
            payload = (
                os.urandom(40),
                forgery.initiation(scripted.theirs.public),
                forgery.initiation(scripted.ours.public),
                struct.pack("<IIQ", forgery.DATA, number, 0) + os.urandom(16),
                struct.pack("<IIQ", forgery.DATA, session.theirs, number) + os.urandom(16),
            )[number % 5]
            source = (socket.inet_ntoa(forgery.anyone(4)), 1024 + number)
            forgery.send_as(sender, source, (scripted.ours.outer(), scripted.ours.port), payload)
    until(lambda: counters(scripted.ours).device.total("malformed") >= 1000, "the flood")
    scripted.ours.assert_alive()
    assert len(scripted.ours.request("diagnostics=1\n\n")) < 1 << 14
    # Under load, replies to the flood wait in a queue, which takes some memory.
    assert scripted.ours.resident() - before < 4 << 20


def test_only_the_last_eight_unknown_keys_are_listed(scripted: Scripted) -> None:
    """The others are counted together."""
    scripted.handshake()
    before = counters(scripted.ours).device.total("unknown_key")
    strangers = [PublicKey(each.public) for each in (unknown_peer(scripted) for _ in range(12))]
    events = counters(scripted.ours).device.of("unknown_key")
    keys = [each.static_key for each in events]
    # The place of the others depends on when the fourth stranger came last, perhaps at the same time as the fifth.
    assert keys.count(None) == 1
    assert [each for each in keys if each is not None] == [*reversed(strangers[4:])]
    assert sum(each.times for each in events) >= before + 12


def unknown_peer(scripted: Scripted) -> noise.Static:
    """An unknown peer whose initiation was counted. It is sent again, as a busy daemon may drop it."""
    stranger = scripted.static._replace(private=os.urandom(32))

    def is_listed() -> bool:
        scripted.send(stranger.initiate(1).message)
        return PublicKey(stranger.public) in {
            each.static_key for each in counters(scripted.ours).device.of("unknown_key")
        }

    until(is_listed, "the unknown peer's key")
    return stranger


def test_events_do_not_change_get_or_wg_show(scripted: Scripted) -> None:
    """Both print the same bytes as before; the counters have a request of their own."""
    scripted.calm()
    asked, shown = scripted.ours.request("get=1\n\n"), scripted.ours.wg("show", LINK, "dump")
    before = counters(scripted.ours).device
    scripted.send(b"noise", forgery.initiation(scripted.theirs.public))
    for name in ("malformed", "mac1_invalid"):
        until(lambda name=name: counters(scripted.ours).device.total(name) > before.total(name), name)  # type: ignore[misc]
    assert (scripted.ours.request("get=1\n\n"), scripted.ours.wg("show", LINK, "dump")) == (asked, shown)
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
        assert scripted.ours.request(wrong).startswith("errno=-")


def test_diagnostics_hold_no_secret_and_only_known_names(scripted: Scripted) -> None:
    session = scripted.handshake()
    answer = scripted.ours.request("diagnostics=1\n\n")
    for secret in (base64.b64decode(scripted.ours.private), session.send, session.receive):
        assert secret.hex() not in answer
    found = counters(scripted.ours)
    assert {event.name for event in found.device.events} <= {*DEVICE_EVENTS}
    assert {event.name for events in found.peers.values() for event in events.events} <= {*PEER_EVENTS}


@pytest.mark.parametrize("program", [GO, BORINGTUN, GOTATUN])
def test_other_daemons_have_no_diagnostics(program: str) -> None:
    with machines(program, WGQ) as (end, _):
        end.start()
        with end.machine.entered():
            assert api.diagnostics(LINK) is None
        end.assert_alive()
        end.wg("set", LINK, "listen-port", "51820")


def test_a_peer_without_events_counts_zero() -> None:
    assert Events().last("roamed") is None
    assert Events().total("roamed", "icmp") == 0
