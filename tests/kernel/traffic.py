"""The kill switch around the kernel's WireGuard, inside the VM; tests/netns/test_traffic.py has the other cases."""

from __future__ import annotations

from subprocess import CompletedProcess
from typing import TYPE_CHECKING
from unittest import mock

from tests.kernel import verbs
from tests.netns import test_traffic
from tests.netns.traffic import (
    COUNTER,
    ENDPOINT,
    MORE,
    OUTSIDE,
    guard_of,
    hosts,
    leaks,
    reaches,
    reload_with_probes,
    tables,
    tunnel,
)
from tests.netns.tunnels import write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.namespaces import Namespace


def wgq(machine: Namespace, *arguments: str, status: int = 0, **environment: str) -> CompletedProcess[str]:
    """`tests.netns.tunnels.wgq` in a fork of this process."""
    output, error = verbs.wgq(machine, *arguments, status=status, environment=environment)
    return CompletedProcess(arguments, status, output, error)


def the_kill_switch_follows_a_live_change() -> None:
    """New endpoints and peers, and its restoration; it outlives the link, and nothing leaves beside the tunnel."""
    with hosts() as (near, router), mock.patch.object(test_traffic, "wgq", wgq):
        tunnel(near, router, "kill-switch = on", extra="ListenPort = 51999\n")
        text = near.out("cat", "/etc/wireguard/wg0.conf")
        wgq(near, "up", "wg0")
        assert verbs.is_kernels(near)
        assert reaches(near, "10.9.0.1", seconds=60)
        near.run(["nft", "-f", "-"], input=COUNTER.replace("ip daddr 192.0.2.1 ", "meta mark 51820 "))
        write(near, text.replace(f"{ENDPOINT}:51820", f"{OUTSIDE}:51820") + MORE)
        lines, lost = near.call(reload_with_probes)
        assert lines
        assert lost == []
        reloaded = guard_of(near)
        assert f"{OUTSIDE} . 51820" in reloaded
        near.run(["nft", "delete", "table", "inet", "wgq-guard-wg0"])
        wgq(near, "up", "--ensure", "wg0")
        assert guard_of(near) == reloaded
        near.run(["ip", "link", "delete", "wg0"])
        assert not reaches(near, OUTSIDE, "-I", "up0", seconds=1)
        assert leaks(near) == 0
        wgq(near, "down", "wg0")
        assert tables(near) == []
        assert reaches(near, OUTSIDE)


CHECKS: Sequence[Callable[[], None]] = (the_kill_switch_follows_a_live_change,)
