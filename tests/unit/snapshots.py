"""Snapshots of a host's routing."""

from __future__ import annotations

from typing import Any

from wgquick.api import parse
from wgquick.diagnosis.cut_off import planned
from wgquick.net import Prefix, pack_address
from wgquick.plan.desired import desired
from wgquick.plan.facts import DesiredFacts
from wgquick.routing import (
    HOST,
    LINK,
    LocalAddress,
    NetworkLink,
    NextHop,
    PolicyRule,
    Snapshot,
    TableRoute,
)

LOCAL, MAIN, DEFAULT = (
    PolicyRule(*each) for each in ((0, "lookup", 255), (32766, "lookup", 254), (32767, "lookup", 253))
)


def address(text: str) -> bytes:
    return pack_address(text)


def route(destination: str, link: str = "", gateway: str = "", **more: Any) -> TableRoute:
    prefix = Prefix.parse({"default": "0.0.0.0/0", "default6": "::/0"}.get(destination, destination))
    hops = (NextHop(link, address(gateway) if gateway else None),) if link else ()
    return TableRoute(prefix, **{"hops": hops, "scope": 0 if gateway else LINK, **more})


def link(number: int, name: str, *addresses: str, **more: Any) -> NetworkLink:
    own = []
    for each in addresses:
        prefix = Prefix.parse(each)
        own.append(LocalAddress(prefix.address, prefix.length, HOST if name == "lo" else 0))
    return NetworkLink(number, name, addresses=tuple(own), is_loopback=name == "lo", **more)


def local(text: str, name: str) -> TableRoute:
    return TableRoute(Prefix.parse(text), 255, "local", (NextHop(name),), scope=HOST, source=address(text))


def snapshot(
    rules: tuple[PolicyRule, ...] = (LOCAL, MAIN, DEFAULT),
    routes: tuple[TableRoute, ...] = (),
    links: tuple[NetworkLink, ...] = (),
    **more: Any,
) -> Snapshot:
    """eth0 with 192.0.2.2/24 and a default route, and the given rules, routes and links."""
    every = (link(1, "lo", "127.0.0.1/8"), link(2, "eth0", "192.0.2.2/24"), *links)
    own = (local("127.0.0.1", "lo"), local("192.0.2.2", "eth0"), route("192.0.2.0/24", "eth0"))
    way = (route("default", "eth0", "192.0.2.1"),)
    more = {"table_names": {253: "default", 254: "main", 255: "local"}, **more}
    return Snapshot(
        {4: rules, 6: rules[:-1]}, {4: (*own, *way, *routes), 6: ()}, {each.name: each for each in every}, **more
    )


KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PEER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
FAR = "203.0.113.7 50000 192.0.2.2 22"
NEAR = "192.0.2.7 50000 192.0.2.2 22"


def after(seen: Snapshot, allowed_ips: str, interface: str = "") -> Snapshot:
    text = (
        f"[Interface]\nPrivateKey = {KEY}\nAddress = 10.0.0.2/24\n{interface}\n"
        f"[Peer]\nPublicKey = {PEER}\nAllowedIPs = {allowed_ips}\nEndpoint = 198.51.100.9:51820\n"
    )
    return planned(seen, desired(parse(text).settings, DesiredFacts(free_table=51820)))
