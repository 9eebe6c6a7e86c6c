"""The MTU of a path with a narrow link, as routers and the far end report it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import Namespace, namespace
from wgquick.errors import OperationError
from wgquick.observations import PathMtu
from wgquick.system.path_mtu import path_mtu

if TYPE_CHECKING:
    from collections.abc import Iterator

FAR = {4: "198.51.100.2", 6: "2001:db8:2::2"}
ROUTER = {4: "192.0.2.1", 6: "2001:db8:1::1"}


class Path:
    """Two hosts with a router between them; the MTU behind the router is 1400."""

    def __init__(self, here: Namespace, router: Namespace, far: Namespace) -> None:
        self.here, self.router, self.far = here, router, far

    def probe(self, version: int, patience: float = 1.0) -> PathMtu:
        return self.here.call(path_mtu, FAR[version], patience=patience)


@pytest.fixture
def path() -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        here, router, far = (stack.enter_context(namespace()) for _ in range(3))
        for machine in (here, router, far):  # otherwise nothing is sent for two seconds
            machine.run(["sysctl", "-q", "net.ipv6.conf.default.accept_dad=0"])
        batch(
            router,
            f"link add r0 type veth peer name eth0 netns {here.name}",
            f"link add r1 mtu 1400 type veth peer name eth0 mtu 1400 netns {far.name}",
            "addr add 192.0.2.1/24 dev r0",
            "addr add 2001:db8:1::1/64 dev r0 nodad",
            "addr add 198.51.100.1/24 dev r1",
            "addr add 2001:db8:2::1/64 dev r1 nodad",
            "link set r0 up",
            "link set r1 up",
        )
        for machine, four, six in ((here, "192.0.2", "2001:db8:1:"), (far, "198.51.100", "2001:db8:2:")):
            batch(
                machine,
                f"addr add {four}.2/24 dev eth0",
                f"addr add {six}:2/64 dev eth0 nodad",
                "link set eth0 up",
                f"route add default via {four}.1",
                f"route add ::/0 via {six}:1 dev eth0",
            )
        router.run(["sysctl", "-q", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        for version, address in FAR.items():
            here.run(["sh", "-c", f"until ping -{version} -c1 -W0.1 -q {address} >/dev/null; do :; done"])
        yield Path(here, router, far)


def batch(machine: Namespace, *lines: str) -> None:
    machine.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n")


def drop(machine: Namespace, chain: str, what: str) -> None:
    rules = f"table inet t {{\nchain c {{\ntype filter hook {chain} priority 0\n{what} drop\n}}\n}}\n"
    machine.run(["nft", "-f", "-"], input=rules)


@pytest.mark.parametrize("version", [4, 6])
def test_a_router_reports_the_mtu_and_the_far_end_confirms_it(path: Path, version: int) -> None:
    found = path.probe(version)
    assert found == PathMtu(reported=1400, sender=ROUTER[version], answered=1400, lost=1420)
    assert found.mtu == 1400


@pytest.mark.parametrize("version", [4, 6])
def test_a_black_hole_is_found_by_the_answered_sizes(path: Path, version: int) -> None:
    drop(
        path.router, "output", "icmpv6 type packet-too-big" if version == 6 else "icmp type destination-unreachable"
    )
    assert path.probe(version) == PathMtu(answered=1400, lost=1420)


def test_a_silent_far_end_leaves_the_routers_report(path: Path) -> None:
    drop(path.far, "input", "meta l4proto icmp")
    assert path.probe(4) == PathMtu(reported=1400, sender=ROUTER[4])


def test_the_links_own_mtu_is_reported_by_this_host(path: Path) -> None:
    batch(path.here, "link set eth0 mtu 1300")
    found = path.probe(4)
    assert (found.reported, found.sender, found.mtu) == (1300, "", 1280)


def test_a_missing_route_to_the_endpoint_is_an_error(path: Path) -> None:
    batch(path.here, "route delete default")
    with pytest.raises(OperationError, match=r"cannot probe 198.51.100.2: Network is unreachable"):
        path.probe(4)
