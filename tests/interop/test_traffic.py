"""Data of every size and both IP versions crosses a tunnel between two implementations unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.pairs import EVERY_ROLE, GO, GOTATUN, LINK, MTU, WGQ, End, pair
from tests.interop.traffic import bulk, datagrams, zero_sums

if TYPE_CHECKING:
    from collections.abc import Iterator

Ends = tuple[End, End]
OUTER = [(*roles, version) for roles in EVERY_ROLE for version in (4, 6)]
LARGEST = 9000
BULK = 32 << 20
HEADERS = {4: 20 + 8, 6: 40 + 8}


@pytest.fixture(scope="module", params=OUTER, ids=lambda case: f"{case[0]}-to-{case[1]}-over-ipv{case[2]}")
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    left, right, version = request.param
    with pair(left, right, version=version) as made:
        made[0].ping(made[1])
        yield made


def mtu_of(mtu: int, *ends: End) -> int:
    """Set the tunnel's MTU, at most 4000 with gotatun, whose buffers have 4096 bytes (test_peers)."""
    if GOTATUN in [end.program for end in ends]:
        mtu = min(mtu, 4000)
    for end in ends:
        end.ip(f"link set {LINK} mtu {mtu}")
    return mtu


@pytest.mark.parametrize("version", [4, 6])
def test_both_ends_answer_pings_of_every_kind(ends: Ends, version: int) -> None:
    left, right = ends
    for one, other in ((left, right), (right, left)):
        one.ping(other, version=version)
        one.ping(other, "-s", "0", version=version)
        one.ping(other, "-s", str(MTU - HEADERS[version]), "-M", "do", version=version)
        one.ping(other, "-s", "20000", version=version)


@pytest.mark.parametrize("version", [4, 6])
def test_a_bulk_transfer_arrives_unchanged_both_ways(ends: Ends, version: int) -> None:
    left, right = ends
    bulk(left, right, BULK, version=version)
    bulk(right, left, BULK, version=version)


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_of_every_size_arrive_both_ways(ends: Ends, version: int) -> None:
    left, right = ends
    fitting = range(MTU - HEADERS[version] + 1)
    fragmented = [MTU - HEADERS[version] + 1, 1500, 2800, 4096, 9000, 30000, 65507 - 20]
    for one, other in ((left, right), (right, left)):
        datagrams(one, other, fitting, version=version)
        # One at a time: boringtun's socket buffer holds only a few large ones.
        datagrams(one, other, fragmented, version=version, window=1)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("at_once", [False, True])
def test_datagrams_with_a_checksum_of_zero_arrive(ends: Ends, version: int, at_once: bool) -> None:
    left, right = ends
    for one, other in ((left, right), (right, left)):
        if (one.program, version) != (GO, 6):  # wireguard-go loses them (test_peers)
            assert zero_sums(one, other, version=version, at_once=at_once) == 20


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("roles", EVERY_ROLE, ids="-to-".join)
@pytest.mark.parametrize("mtu", [1280, LARGEST])
def test_a_tunnel_of_any_mtu_crosses_a_wire_of_1500(roles: tuple[str, str], version: int, mtu: int) -> None:
    with pair(*roles, version=version) as (left, right):
        mtu = mtu_of(mtu, left, right)
        for one, other in ((left, right), (right, left)):
            one.ping(other, "-s", str(mtu - HEADERS[4]))  # boringtun reads the MTU once a second
        for inner in (4, 6):
            sizes = [1, mtu - HEADERS[inner] - 1, mtu - HEADERS[inner], mtu, 2 * mtu]
            datagrams(left, right, sizes, version=inner)
            datagrams(right, left, sizes, version=inner)
        # wireguard-go loses every large send with packets above the wire's MTU, so only our end sends in bulk.
        ours, theirs = (left, right) if left.program == WGQ else (right, left)
        bulk(ours, theirs, 4 << 20)


@pytest.mark.parametrize("roles", EVERY_ROLE, ids="-to-".join)
def test_jumbo_packets_cross_a_wire_with_a_jumbo_mtu(roles: tuple[str, str]) -> None:
    with pair(*roles, mtu=9100) as (left, right):
        mtu = mtu_of(LARGEST, left, right)
        left.ping(right, "-s", str(mtu - HEADERS[4]), "-M", "do")
        bulk(left, right, BULK)
        bulk(right, left, BULK)


def test_two_of_our_daemons_exchange_data() -> None:
    with pair(WGQ, WGQ) as (left, right):
        left.ping(right)
        for version in (4, 6):
            bulk(left, right, BULK, version=version)
            bulk(right, left, BULK, version=version)
            datagrams(left, right, range(MTU), version=version)


def test_a_changed_mtu_takes_effect_in_a_running_tunnel() -> None:
    with pair(WGQ, GO) as (left, right):
        left.ping(right)
        for mtu in (1300, 1420):
            left.ip(f"link set {LINK} mtu {mtu}")
            left.ping(right, "-s", str(mtu - HEADERS[4]), "-M", "do")
            bulk(left, right, 1 << 20)
