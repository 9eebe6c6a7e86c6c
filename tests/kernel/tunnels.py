"""Checks of tests/interop with ours and the kernel's WireGuard, which run inside the VM."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.interop import test_rekey as rekey
from tests.interop import test_sessions as sessions
from tests.interop import test_traffic as traffic
from tests.interop.aged_tunnels import AgedTunnels
from tests.interop.forwarder import Faults
from tests.interop.pairs import KERNEL, MTU, End, both_ways, pair
from tests.interop.traffic import CAPABLE, EXPERIENCED, NOT_CAPABLE, arriving_class, datagrams
from tests.interop.wire import wired_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Ends = tuple[End, End]
Roles = tuple[str, str]

ROLES = both_ways(KERNEL)
FITTING = MTU - traffic.HEADERS[6]
SIZES = [*range(0, FITTING, 7), FITTING, MTU, 9000, 65507 - 20]

traffic.BULK = 1 << 20  # for an emulated processor


class Grown(AgedTunnels):
    """The tunnels that have the kernel at one end."""

    def _begin(self) -> None:
        self.busy = [self._busy(*roles) for roles in ROLES]


def traffic_of_every_kind_passes(ends: Ends) -> None:
    left, right = ends
    for version in (4, 6):
        traffic.test_both_ends_answer_pings_of_every_kind(ends, version)
        traffic.test_a_bulk_transfer_arrives_unchanged_both_ways(ends, version)
        datagrams(left, right, SIZES, version=version)
        datagrams(right, left, SIZES, version=version)


def congestion_on_the_way_reaches_the_inner_packet(roles: Roles) -> None:
    with wired_pair(*roles) as (here, there, wire):
        here.ping(there)
        for likely, sent, expected in (
            (0, CAPABLE, CAPABLE),
            (1, CAPABLE, EXPERIENCED),
            (1, NOT_CAPABLE, NOT_CAPABLE),
        ):
            wire.treat(Faults(congestion=likely))
            assert arriving_class(here, there, sent, 4) == expected
            assert arriving_class(there, here, sent, 6) == expected


def _of_ends(roles: Roles) -> Iterator[tuple[str, Callable[[], None]]]:
    checks = (
        sessions.test_both_ends_report_the_same_handshake_and_transfer,
        sessions.test_a_preshared_key_changes_live_and_a_wrong_one_blocks,
        sessions.test_a_changed_private_key_takes_effect_at_once,
        sessions.test_either_end_may_change_its_port,
        sessions.test_the_outer_ip_version_can_change_and_change_back,
        sessions.test_a_link_that_is_down_passes_nothing_until_it_is_up,
    )
    for check in checks:
        yield check.__name__, partial(_with_ends, roles, check)
    for version in (4, 6):
        moved = partial(sessions.test_either_end_may_change_its_address, version=version)
        yield f"test_either_end_may_change_its_address, ipv{version}", partial(_with_ends, roles, moved)
        over = partial(_with_ends, roles, traffic_of_every_kind_passes, version)
        yield f"traffic_of_every_kind_passes, over ipv{version}", over


def _of_roles(roles: Roles) -> Iterator[tuple[str, Callable[[], None]]]:
    checks = (
        sessions.test_persistent_keepalives_begin_and_keep_the_session,
        traffic.test_jumbo_packets_cross_a_wire_with_a_jumbo_mtu,
        congestion_on_the_way_reaches_the_inner_packet,
    )
    for check in checks:
        yield check.__name__, partial(check, roles)
    crossing = traffic.test_a_tunnel_of_any_mtu_crosses_a_wire_of_1500
    for version, mtu in ((4, traffic.LARGEST), (6, 1280)):
        yield f"{crossing.__name__}, {mtu} over ipv{version}", partial(crossing, roles, version, mtu)


def _with_ends(roles: Roles, check: Callable[[Ends], None], version: int = 4) -> None:
    with pair(*roles, version=version) as ends:
        ends[0].ping(ends[1])
        check(ends)


CHECKS: dict[str, Callable[[], None]] = {
    f"{name}: {' to '.join(roles)}": check
    for roles in ROLES
    for checks in (_of_ends, _of_roles)
    for name, check in checks(roles)
}
# Sessions are renewed after two minutes, so these run last.
AGED: dict[str, Callable[[AgedTunnels], None]] = {
    check.__name__: check
    for check in (
        rekey.test_the_initiator_renews_a_session_every_two_minutes,
        rekey.test_no_packet_is_lost_when_sessions_are_renewed,
    )
}
