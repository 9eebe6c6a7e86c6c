"""Keys, addresses and links that change in a running tunnel, with ours at either end."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.interop.pairs import (
    BORINGTUN,
    EVERY_ROLE,
    GO,
    GOTATUN,
    LINK,
    ROLES,
    WGQ,
    WIRE,
    End,
    both_ways,
    pair,
    private_key,
    threads,
)
from tests.interop.traffic import bulk
from tests.waiting import stopped, until

if TYPE_CHECKING:
    from collections.abc import Iterator

Ends = tuple[End, End]

PRESHARED = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
OTHER_PRESHARED = "mDDRFVOIkjFGhJ4gmVZTWKqZWOQmDSSgjzA2UxRd8XU="


@pytest.fixture(params=ROLES, ids="-to-".join)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    with pair(*request.param) as made:
        made[0].ping(made[1])
        yield made


# Ours with every other implementation, not only with wireguard-go.
with_everyone = pytest.mark.parametrize("ends", EVERY_ROLE, ids="-to-".join, indirect=True)


def each(ends: Ends) -> tuple[Ends, Ends]:
    """Both orders of the two ends."""
    left, right = ends
    return (left, right), (right, left)


def assert_cut(left: End, right: End) -> None:
    """No packet passes in either direction."""
    for one, other in each((left, right)):
        assert not one.try_ping(other), f"{one.program} at end {one.number} still reaches the other"


def until_known(one: End, other: End, endpoint: str) -> None:
    """Wait until `one` sends to the other end at this endpoint."""
    until(lambda: endpoint in one.known_endpoint(other), f"{endpoint} known to {one.program}")


def test_both_ends_report_the_same_handshake_and_transfer(ends: Ends) -> None:
    left, right = ends
    bulk(left, right, 1 << 20)
    assert abs(left.handshake(right) - right.handshake(left)) < 5  # a retry would come after five seconds
    assert left.known_endpoint(right) == right.endpoint()
    assert right.known_endpoint(left) == left.endpoint()

    def agree() -> bool:
        # Both count whole messages, with headers and tags.
        return left.transfer(right) == tuple(reversed(right.transfer(left)))

    until(agree, "the same count of bytes at both ends")
    assert left.transfer(right)[1] > 1 << 20


def test_a_preshared_key_changes_live_and_a_wrong_one_blocks(ends: Ends) -> None:
    left, right = ends

    def preshare(one: End, other: End, key: str) -> None:
        one.set_peer(other, "preshared-key", "/dev/stdin", input=key)

    for key in (PRESHARED, OTHER_PRESHARED):
        preshare(right, left, key)
        bulk(left, right, 1 << 20)  # the session continues; the key is used from the next handshake on
        left.forget(right)
        assert_cut(left, right)
        left.forget(right)
        preshare(left, right, key)
        left.ping(right)
    right.set_peer(left, "preshared-key", "/dev/null")
    left.forget(right)
    left.ping(right)


@pytest.mark.parametrize("roles", EVERY_ROLE, ids="-to-".join)
def test_a_preshared_key_is_required_at_both_ends(roles: tuple[str, str]) -> None:
    right_key, wrong_key = f"PresharedKey = {PRESHARED}", f"PresharedKey = {OTHER_PRESHARED}"
    with pair(*roles, right_key) as (left, right):
        left.ping(right)
        bulk(left, right, 1 << 20)
        bulk(right, left, 1 << 20)
        for lines in ([wrong_key], []):
            left.forget(right, *lines)
            assert_cut(left, right)
        left.forget(right, right_key)
        left.ping(right)
        right.ping(left)


def test_a_changed_private_key_takes_effect_at_once(ends: Ends) -> None:
    for one, other in each(ends):
        old, new = one.public, private_key()
        one.rekey_by_hand(new)
        assert_cut(one, other)
        other.wg("set", LINK, "peer", old, "remove")
        endpoint = [] if other.number == 2 else ["endpoint", one.endpoint()]
        other.set_peer(one, "allowed-ips", f"{one.inner(4)}/32,{one.inner(6)}/128", *endpoint)
        # The end that knows an endpoint begins: the first handshake is retried after five seconds.
        ends[0].ping(ends[1])
        bulk(other, one, 1 << 20)


@with_everyone
def test_a_removed_peer_is_cut_off_until_it_is_added_again(ends: Ends) -> None:
    left, right = ends
    for one, other in each(ends):
        one.set_peer(other, "remove")
        assert_cut(left, right)
        assert one.wg("show", LINK, "peers") == ""
        one.wg("addconf", LINK, "/dev/stdin", input=other.peer(version=4))
        one.ping(other)
        bulk(right, left, 1 << 20)


# gotatun exits after several changes of its port: see test_peers.
@pytest.mark.parametrize("ends", both_ways(GO, BORINGTUN), ids="-to-".join, indirect=True)
def test_either_end_may_change_its_port(ends: Ends) -> None:
    for one, other in each(ends):
        one.wg("set", LINK, "listen-port", str(one.port + 1000))
        one.ping(other)
        until_known(other, one, f"{one.outer()}:{one.port + 1000}")
        other.ping(one)
        bulk(other, one, 1 << 20)


@with_everyone
@pytest.mark.parametrize("version", [4, 6])
def test_either_end_may_change_its_address(ends: Ends, version: int) -> None:
    ends[0].set_peer(ends[1], "endpoint", ends[1].endpoint(version))
    ends[0].ping(ends[1])
    for one, other in each(ends):
        moved = f"192.0.2.10{one.number}" if version == 4 else f"2001:db8::10{one.number}"
        length = 24 if version == 4 else 64
        one.ip(
            f"addr del {one.outer(version)}/{length} dev {WIRE}",
            f"addr add {moved}/{length} dev {WIRE}" + (" nodad" if version == 6 else ""),
        )
        one.ping(other)
        until_known(other, one, moved)
        other.ping(one)
        bulk(other, one, 1 << 20)
        bulk(one, other, 1 << 20)


@with_everyone
def test_the_outer_ip_version_can_change_and_change_back(ends: Ends) -> None:
    left, right = ends
    for version in (6, 4, 6):
        left.set_peer(right, "endpoint", right.endpoint(version))
        left.ping(right)
        until_known(right, left, left.endpoint(version))
        right.ping(left)
    bulk(right, left, 1 << 20)
    bulk(left, right, 1 << 20)


@with_everyone
def test_a_link_that_is_down_passes_nothing_until_it_is_up(ends: Ends) -> None:
    left, right = ends
    for one, other in each(ends):
        one.ip(f"link set {LINK} down")
        assert not other.try_ping(one)
        one.ip(f"link set {LINK} up")
        # Its sessions are gone, so this end begins; it remembers the other's endpoint.
        one.ping(other)
        bulk(left, right, 1 << 20)


@pytest.mark.parametrize("roles", EVERY_ROLE, ids="-to-".join)
def test_persistent_keepalives_begin_and_keep_the_session(roles: tuple[str, str]) -> None:
    with pair(*roles) as (left, right):
        assert left.handshake(right) == 0
        left.set_peer(right, "persistent-keepalive", "1")
        until(lambda: right.handshake(left) != 0, "a handshake with no traffic")
        left.count_messages()
        before = right.transfer(left)[0]
        until(lambda: left.sent("keepalive") >= 3, "a keepalive a second", 15)
        if right.program not in (BORINGTUN, GOTATUN):  # they count inner bytes only (test_peers)
            until(lambda: right.transfer(left)[0] >= before + 2 * 32, "two of them counted at the other end")
        left.set_peer(right, "persistent-keepalive", "off")
        assert left.wg("show", LINK, "persistent-keepalive").split() == [right.public, "off"]


_NO_RESPONSES = """
table inet lossy {
    chain received {
        type filter hook input priority 0
        meta l4proto udp @th,64,8 2 drop
    }
}
"""


def test_an_end_whose_response_is_lost_begins_a_handshake() -> None:
    """The keepalive is due within five seconds after the response, when no handshake may begin yet."""
    with pair(GO, WGQ) as (left, right):
        right.count_messages()
        left.machine.run(["nft", "-f", "-"], input=_NO_RESPONSES)
        right.set_peer(left, "persistent-keepalive", "1")
        left.try_ping(right)
        until(lambda: right.sent("response"), "a response")
        assert left.daemon is not None
        with stopped(left.daemon.pid):
            until(lambda: right.sent("initiation") > 1, "initiations")


@pytest.mark.parametrize("version", [4, 6])
def test_every_packet_carries_the_fwmark_and_is_routed_by_it(version: int) -> None:
    rules = f"""
table inet marks {{
    counter marked {{ }}
    counter plain {{ }}
    chain out {{
        type filter hook output priority 0
        oifname != "{WIRE}" return
        meta l4proto udp meta mark 0xca6c counter name marked return
        meta l4proto udp counter name plain
    }}
}}"""

    def count(end: End, name: str) -> int:
        words = end.machine.out("nft", "list", "counter", "inet", "marks", name).split()
        return int(words[words.index("packets") + 1])

    with pair(WGQ, GO, version=version) as (left, right):
        # Only marked packets have a route: the main table's is deleted.
        left.wg("set", LINK, "fwmark", "0xca6c")
        prefix = "192.0.2.0/24" if version == 4 else "2001:db8::/64"
        left.machine.run(["ip", f"-{version}", "rule", "add", "fwmark", "0xca6c", "lookup", "51820"])
        left.ip(
            f"route add {prefix} dev {WIRE} table 51820",
            f"route del {prefix} dev {WIRE}",
        )
        left.machine.run(["nft", "-f", "-"], input=rules)
        left.ping(right)
        bulk(left, right, 1 << 20)
        assert (count(left, "marked") > 20, count(left, "plain")) == (True, 0)
        left.wg("set", LINK, "fwmark", "off")
        assert not left.try_ping(right)
        left.wg("set", LINK, "fwmark", "51820")
        left.ping(right)


def _received(incoming: socket.socket, honest: socket.socket, to: tuple[str, int]) -> set[bytes]:
    """The datagrams that arrive until an honest one does; it is sent again, as a busy machine may lose one."""
    incoming.settimeout(2)
    received: set[bytes] = set()

    def has_arrived() -> bool:
        honest.sendto(b"honest", to)
        with contextlib.suppress(TimeoutError):
            received.add(incoming.recv(100))
        return b"honest" in received

    until(has_arrived, "the honest datagram")
    incoming.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            received.add(incoming.recv(100))
    return received


def test_a_packet_from_a_source_outside_allowed_ips_is_dropped() -> None:
    for roles in ROLES:
        with pair(*roles) as (left, right):
            left.ping(right)
            ours, theirs = (left, right) if left.program == WGQ else (right, left)
            theirs.ip(f"addr add 10.66.0.99/24 dev {LINK}", f"addr add fd66::99/64 dev {LINK} nodad")
            for version, family, stranger in ((4, socket.AF_INET, "10.66.0.99"), (6, socket.AF_INET6, "fd66::99")):
                with (
                    ours.open_socket(family, socket.SOCK_DGRAM) as incoming,
                    theirs.open_socket(family, socket.SOCK_DGRAM) as forged,
                    theirs.open_socket(family, socket.SOCK_DGRAM) as honest,
                ):
                    incoming.bind((ours.inner(version), 9999))
                    forged.bind((stranger, 0))
                    honest.bind((theirs.inner(version), 0))
                    for _ in range(3):
                        forged.sendto(b"forged", (ours.inner(version), 9999))
                    assert _received(incoming, honest, (ours.inner(version), 9999)) == {b"honest"}


def test_an_allowed_ip_moves_to_the_peer_that_got_it_last() -> None:
    with pair(WGQ, GO) as (left, right):
        left.ping(right)
        other = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
        left.wg("set", LINK, "peer", other, "allowed-ips", f"{right.inner(4)}/32")
        assert not left.try_ping(right)
        left.ping(right, version=6)
        left.set_peer(right, "allowed-ips", f"{right.inner(4)}/32")
        left.ping(right)
        assert f"{other}\t(none)" in left.wg("show", LINK, "allowed-ips")
        # The longest prefix wins, so the other peer may have the whole network.
        left.wg("set", LINK, "peer", other, "allowed-ips", "10.66.0.0/24")
        left.ping(right)


@pytest.mark.parametrize(("version", "family"), [(4, socket.AF_INET), (6, socket.AF_INET6)])
def test_a_packet_without_a_peer_is_unreachable_at_once(version: int, family: int) -> None:
    target = ("10.66.0.77" if version == 4 else "fd66::77", 9)
    level, receive_errors = (socket.SOL_IP, 11) if version == 4 else (socket.IPPROTO_IPV6, 25)
    with pair(WGQ, GO) as (left, right):
        left.ping(right, version=version)  # its own address is usable then
        with left.open_socket(family, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(level, receive_errors, 1)
            asking.connect(target)
            for size in (0, 1, 500, 1392, 5000):
                asking.send(bytes(size))
                with pytest.raises(OSError, match="No route to host"):
                    asking.recv(1)
        with left.open_socket(family, socket.SOCK_STREAM) as calling:
            assert calling.connect_ex(target) == errno.EHOSTUNREACH


@with_everyone
def test_a_killed_daemon_has_its_tunnel_back_after_a_restart(ends: Ends) -> None:
    for one, other in each(ends):
        assert one.daemon is not None
        os.kill(one.daemon.pid, signal.SIGKILL)
        one.daemon.wait()
        one.start()
        one.configure(other.peer(version=4))
        one.ping(other)
        bulk(*ends, 1 << 20)


# Each send goes out at once and returns 0.3 seconds later.
HOLD = ["-e", "trace=sendmsg,sendmmsg", "-e", "inject=sendmsg,sendmmsg:delay_exit=300000"]


def traced(process: int) -> bool:
    return all(thread["TracerPid"] != "0" for thread in threads(process))


def test_data_that_arrives_during_a_send_gets_a_keepalive() -> None:
    with pair(WGQ, WGQ) as (left, right):
        left.ping(right)
        assert right.daemon is not None
        for end in (left, right):
            end.count_messages()
        tracer = right.machine.popen(["strace", "-fqq", "-o", "/dev/null", *HOLD, "-p", str(right.daemon.pid)])
        until(lambda: right.daemon and traced(right.daemon.pid), "each send delayed")
        with (
            right.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as listening,
            left.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
        ):
            listening.bind((right.inner(), 0))
            left.ping(right)
            sending.sendto(b"one word", listening.getsockname())
            assert listening.recv(100) == b"one word"
            tracer.terminate()
            tracer.wait()
            until(lambda: right.sent("keepalive") or left.sent("initiation"), "a keepalive after ten seconds")
            assert left.sent("initiation") == 0  # it would come after fifteen seconds
