"""Data arrives whole despite faults of packets, links, addresses and daemons, and without intervention."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.interop.forwarder import Faults
from tests.interop.pairs import LINK, ROLES, WGQ, WIRE, End, pair
from tests.interop.refused_sends import refusing
from tests.interop.traffic import CAPABLE, EXPERIENCED, NOT_CAPABLE, Transfer, arriving_class, bulk, datagrams
from tests.interop.wire import wired_pair
from tests.waiting import stopped, until

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB, GIB = 1 << 20, 1 << 30
OVER_A_BAD_WIRE = int(os.environ.get("WGQ_TEST_MIB", 256)) * MIB
"""Some 200,000 packets: thousands of them have the fault."""
Ends = tuple[End, End]
ALL_ROLES = [(WGQ, WGQ), *ROLES]
FAULTS = {
    "loss": Faults(loss=0.02),
    "duplication": Faults(duplication=0.2),
    "reordering": Faults(reordering=0.1),
    "corruption": Faults(corruption=0.02),
}
EVERYTHING = Faults(loss=0.01, duplication=0.05, reordering=0.05, corruption=0.01)


@pytest.mark.parametrize("fault", FAULTS)
def test_bulk_data_arrives_over_a_bad_wire(fault: str) -> None:
    with wired_pair(WGQ, WGQ) as (left, right, wire):
        wire.treat(FAULTS[fault])
        bulk(left, right, OVER_A_BAD_WIRE)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("roles", ALL_ROLES, ids="-to-".join)
def test_a_tunnel_works_both_ways_over_the_worst_wire(roles: tuple[str, str], version: int) -> None:
    with wired_pair(*roles, version=version) as (left, right, wire):
        wire.treat(EVERYTHING)
        left.ping(right, seconds=30)
        with Transfer(left, right, 48 * MIB), Transfer(right, left, 48 * MIB, version=6):
            pass


def test_datagrams_arrive_once_despite_duplicates_and_corruption() -> None:
    with wired_pair(WGQ, WGQ) as (left, right, wire):
        left.ping(right)
        wire.treat(Faults(duplication=1))
        datagrams(left, right, range(1, 1400))
        wire.treat(Faults(corruption=1))
        assert not left.try_ping(right)
        wire.treat(Faults())
        left.ping(right)


@pytest.mark.parametrize("outer", [4, 6])
def test_congestion_of_the_outer_packet_reaches_the_inner_one(outer: int) -> None:
    # Only with ours at both ends: wireguard-go ignores ECN, the kernel does not.
    with wired_pair(WGQ, WGQ, version=outer) as (left, right, wire):
        left.ping(right)
        for faults, sent, expected in (
            (Faults(), CAPABLE, CAPABLE),
            (Faults(congestion=1), CAPABLE, EXPERIENCED),
            (Faults(congestion=1), NOT_CAPABLE, NOT_CAPABLE),
        ):
            wire.treat(faults)
            for version in (4, 6):
                assert arriving_class(left, right, sent, version) == expected
                assert arriving_class(right, left, sent, version) == expected


# The first drops nearly every large send, the second holds more than the socket's buffer does.
QUEUES = ["pfifo limit 1", "tbf rate 2gbit burst 128k limit 8m"]


@pytest.mark.parametrize("queue", QUEUES)
def test_a_short_queue_on_the_wire_only_costs_speed(queue: str) -> None:
    with pair(WGQ, WGQ) as (left, right):
        for end in (left, right):
            end.machine.run(["tc", "qdisc", "add", "dev", WIRE, "root", *queue.split()])
        bulk(left, right, GIB)


def test_a_link_queue_of_five_packets_only_costs_speed() -> None:
    with wired_pair(WGQ, WGQ) as (left, right, _):
        for end in (left, right):
            end.ip(f"link set {WIRE} txqueuelen 5")
        bulk(left, right, 16 * MIB)


def test_enobufs_from_the_kernel_only_costs_speed() -> None:
    refused = refusing(errno.ENOBUFS, 20, WGQ)
    with pair(refused, refused) as (left, right):
        bulk(left, right, GIB)


def test_a_gigabyte_arrives() -> None:
    with pair(WGQ, WGQ) as (left, right):
        bulk(left, right, GIB)


@contextlib.contextmanager
def talking(roles: tuple[str, str], version: int = 4) -> Iterator[Ends]:
    """Two ends whose outer packets have one IP version only."""
    with pair(*roles, version=version) as (left, right):
        left.ping(right)
        # With keepalives, a passive end reports a new address or a lost session at once, not after 15 seconds.
        left.set_peer(right, "persistent-keepalive", "1")
        right.set_peer(left, "persistent-keepalive", "1")
        yield left, right


@pytest.fixture(params=ROLES, ids="-to-".join)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    with talking(request.param) as both:
        yield both


def followed(end: End, other: End, address: str) -> bool:
    """Whether `end` sends to `other` at this address."""
    return end.known_endpoint(other) in (f"{address}:{other.port}", f"[{address}]:{other.port}")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("roles", ROLES, ids="-to-".join)
def test_a_transfer_survives_changes_of_either_address(roles: tuple[str, str], version: int) -> None:
    """An end must learn the other's new address before its own changes, or they lose each other."""
    network, length = ("192.0.2.", "24") if version == 4 else ("2001:db8::", "64 nodad")
    with talking(roles, version) as (left, right), Transfer(left, right, GIB) as transfer:
        for share, end, other in ((0.2, left, right), (0.5, right, left), (0.7, left, right)):
            transfer.reaches(share)
            new = f"{network}{int(share * 100) + end.number}"
            end.ip(f"addr flush dev {WIRE} scope global", f"addr add {new}/{length} dev {WIRE}")
            until(partial(followed, other, end, new), f"{new} known to {other.program}")


@pytest.mark.parametrize("link", [WIRE, LINK])
def test_a_transfer_survives_a_link_that_is_down_for_a_while(ends: Ends, link: str) -> None:
    with Transfer(*ends, GIB) as transfer:
        for share, end in zip((0.2, 0.6), ends, strict=True):
            transfer.reaches(share)
            end.ip(f"link set {link} down")
            time.sleep(0.5)
            end.ip(f"link set {link} up")


def test_a_transfer_survives_a_stopped_daemon(ends: Ends) -> None:
    with Transfer(*ends, GIB) as transfer:
        for share, end in zip((0.2, 0.6), ends, strict=True):
            transfer.reaches(share)
            assert end.daemon is not None
            with stopped(end.daemon.pid):
                time.sleep(1.5)


def test_a_transfer_survives_a_killed_daemon_at_either_end(ends: Ends) -> None:
    with Transfer(*ends, GIB) as transfer:
        for share, end, other in zip((0.2, 0.6), ends, reversed(ends), strict=True):
            transfer.reaches(share)
            assert end.daemon is not None
            end.daemon.kill()
            end.daemon.wait()
            end.start()
            end.configure(other.peer("PersistentKeepalive = 1", version=4))
