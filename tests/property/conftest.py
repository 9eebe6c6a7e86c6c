"""The machine on which a verb fails or is killed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.imports import import_wgquick
from tests.namespaces import host as machine_of_its_own
from tests.property.failures import IPTABLES, NFT, PROGRAMS, Setting, state
from tests.property.settling import settle

if TYPE_CHECKING:
    from collections.abc import Iterator


RESOLVCONF = """#!/bin/sh
mkdir -p /run/records
case $1 in -a) cat >/run/records/$2;; -d) rm -f /run/records/$2;; -l) cat /run/records/$2;; esac
"""


@pytest.fixture(
    scope="module",
    params=[(NFT, False), (IPTABLES, False), (NFT, True)],
    ids=["nft and a file", "iptables and resolvconf", "beside another tunnel"],
)
def setting(request: pytest.FixtureRequest) -> Iterator[Setting]:
    """A host with an uplink, and with a suppress rule and firewall rules that are not ours."""
    import_wgquick()
    options, neighbour = request.param
    with machine_of_its_own() as machine:
        machine.run(["sysctl", "-q", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"])
        machine.uplink(ipv6=True)
        machine.run(["sysctl", "-q", "net.ipv4.conf.all.src_valid_mark=0"])
        machine.run(["ip", "rule", "add", "priority", "100", "table", "main", "suppress_prefixlength", "0"])
        machine.run(["nft", "add table inet mine"])
        machine.run(["iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-i", "up0", "-j", "ACCEPT"])
        machine.call(_install_resolvconf)
        made = Setting(machine, options)
        if neighbour:
            made.up(name="wg1")
        settle(machine)
        fresh = state(machine)
        made.up()
        made.down()
        assert state(machine) == fresh
        yield made


def _install_resolvconf() -> None:
    place = Path(PROGRAMS, "resolvconf")
    place.parent.mkdir()
    place.write_text(RESOLVCONF)
    place.chmod(0o755)
