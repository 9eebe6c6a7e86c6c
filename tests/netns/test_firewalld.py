"""A full tunnel to an IPv6 endpoint on a host with a reverse path filter: the real firewalld, and a filter
that runs as early as the raw table."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.netns.firewalld import EARLY_FILTER, PORT, firewalld, hosts, reaches, tunnel, without_marks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace


@pytest.fixture
def machines() -> Iterator[tuple[Namespace, Namespace]]:
    with hosts() as made:
        yield made


def up(machine: Namespace, text: str, firewall: str = "nft", **environment: str) -> None:
    machine.run(["sh", "-c", "umask 077; cat > /etc/wireguard/wg0.conf"], input=text)
    command = [sys.executable, "-m", "wgquick", "up", "wg0", "--firewall", firewall]
    machine.run(command, env={**os.environ, **environment})


@pytest.mark.parametrize("firewall", ["nft", "iptables"])
def test_firewalld_admits_a_handshake_of_the_far_end(machines: tuple[Namespace, Namespace], firewall: str) -> None:
    """No connection has the mark yet, so wg-quick's rules have nothing to restore."""
    near, far = machines
    firewalld(near)
    near_text, far_text = tunnel(near, far, begins="far")
    up(near, near_text, firewall)
    without_marks(near, firewall)
    up(far, far_text)
    assert not reaches(far, "fd00:9::2", 3)
    near.run([sys.executable, "-m", "wgquick", "down", "wg0"])
    up(near, near_text, firewall)
    assert reaches(far, "fd00:9::2")


@pytest.mark.parametrize("firewall", ["nft", "iptables"])
def test_replies_pass_a_filter_before_the_mangle_table(
    machines: tuple[Namespace, Namespace], firewall: str
) -> None:
    near, far = machines
    near.run(["nft", "-f", "-"], input=EARLY_FILTER)
    near_text, far_text = tunnel(near, far)
    up(far, far_text)
    up(near, near_text, firewall)
    assert reaches(near, "fd00:9::1")
    without_marks(near, firewall)
    assert not reaches(near, "fd00:9::1", 3)


@pytest.mark.parametrize("daemon", ["wgq-userspace", "wireguard-go"])
def test_packets_to_a_port_chosen_by_the_device_are_marked(
    machines: tuple[Namespace, Namespace], daemon: str
) -> None:
    """The device has no port before its link is up."""
    near, far = machines
    text = tunnel(near, far)[0].replace(f"ListenPort = {PORT}\n", "")
    up(near, text, WG_QUICK_USERSPACE_IMPLEMENTATION=daemon)
    port = near.out("wg", "show", "wg0", "listen-port").strip()
    assert port != "0"
    assert near.out("nft", "list", "table", "ip6", "wg-quick-wg0").count(f"udp dport {port} ") == 2
