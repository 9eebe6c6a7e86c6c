"""A full tunnel beside the programs that manage a host's network and firewall, the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.namespaces import host
from tests.netns.managers import install_networkd, start_networkd
from tests.netns.pair import until
from tests.netns.tunnels import FULL, config, rules, wgq, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

MANAGED = "[Match]\nName=nd0\n[Network]\nLinkLocalAddressing=no\n"


@pytest.fixture
def machine() -> Iterator[Namespace]:
    """A machine with an uplink and the file of a full tunnel, wg0."""
    with host() as made:
        made.uplink(ipv6=True)
        write(made, config("", FULL))
        yield made


def sweep(machine: Namespace) -> None:
    """Have networkd remove foreign rules: it does for each link that it begins to configure."""
    foreign = ["ip", "rule", "add", "not", "fwmark", "7", "table", "777"]
    machine.run(foreign)
    machine.run(["ip", "link", "add", "nd0", "type", "veth", "peer", "name", "nd1"])
    until(lambda: "lookup 777" not in rules(machine))


def test_networkd_spares_the_rules_of_a_tunnel(machine: Namespace) -> None:
    """Those of any other program it removes."""
    install_networkd(machine, nd0=MANAGED)
    wgq(machine, "up", "wg0")
    before = rules(machine)
    assert before.count("lookup 51820") == before.count("suppress_prefixlength 0") == 2
    start_networkd(machine)
    sweep(machine)
    assert rules(machine) == before


def test_wg_quick_finds_the_rules_that_networkd_spares(machine: Namespace) -> None:
    before = rules(machine)
    wgq(machine, "up", "wg0")
    machine.run(["wg-quick", "down", "wg0"])
    assert rules(machine) == before
