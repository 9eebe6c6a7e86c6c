"""Waits for what the kernel and a daemon do after a command has ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.waiting import until

if TYPE_CHECKING:
    from tests.namespaces import Namespace


def settle(machine: Namespace) -> None:
    """Wait until each IPv6 address has its local route; `Namespace.settle` does not wait for link-local ones.

    addrconf_dad_work() of the kernel adds it later, also without duplicate address detection.
    """
    until(lambda: _has_local_routes(machine), f"a local route of each IPv6 address in {machine.name}")


def _has_local_routes(machine: Namespace) -> bool:
    shown = machine.out("sh", "-c", "ip -j -6 address; ip -j -6 route show type local table local")
    links, routes = (json.loads(line) for line in shown.splitlines())
    addresses = [(each, link["ifname"]) for link in links for each in link.get("addr_info", ())]
    local = {(route["dst"], route["dev"]) for route in routes}
    return all("tentative" not in each and (each["local"], link) in local for each, link in addresses)


def await_ports(machine: Namespace) -> None:
    """Wait until each device has its port: a daemon binds it once it notices that its link is up."""
    until(lambda: "0" not in machine.out("wg", "show", "all", "listen-port").split(), "a port of each device")
