"""Random links, rules and routes for a network namespace, and random queries about them.

`ip -force` goes on after an error, so commands that the kernel refuses have no effect.
"""

from __future__ import annotations

import ipaddress
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wgquick.net import pack_address
from wgquick.routing import ICMP, ICMPV6, TCP, UDP, Query

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from wgquick.routing import Snapshot

LINKS = ("a0", "a1", "b0", "b1", "c0", "c1")
MARKS = (0, 1, 2, 3, 0x10, 51820)
# A nexthop object keeps the source address that it was made with until an address changes, whatever the route's
# scope is (fib_result_prefsrc()). A snapshot cannot show which source holds, so only these links have scopes.
SCOPED = ("c0", "c1")
SPECIAL = {
    4: ("255.255.255.255", "224.0.0.1", "239.1.2.3", "127.0.0.1", "127.1.2.3", "10.0.255.255", "240.0.0.1"),
    6: ("ff02::1", "ff05::2", "::1", "::", "2001:db8:0:1::", "::ffff:10.0.0.1"),
}
"""Destinations of multicast and broadcast, and of the host itself."""
TABLES = (254, 254, 100, 101, 102, 51820)
PORTS = (0, 22, 53, 80, 443, 51820)
UIDS = (0, 1, 1000, 1001, 65534)


def build(draw: random.Random) -> None:
    """Create the links, routes, rules and parameters in the calling process's namespace."""
    links, inet, inet6 = lines(draw)
    for family, batch in (("-4", links), ("-4", inet), ("-6", inet6)):
        command = ["ip", "-force", family, "-batch", "-"]
        subprocess.run(command, input="\n".join(batch) + "\n", text=True, capture_output=True, check=False)
    for path, value in parameters(draw):
        with suppress(FileNotFoundError):
            Path(f"/proc/sys/net/{path}").write_text(str(value))


def lines(draw: random.Random) -> tuple[list[str], list[str], list[str]]:
    """Batches for ip(8): the links with addresses, and the routes and rules of each family."""
    made: list[str] = []
    for one, two in (LINKS[0:2], LINKS[2:4], LINKS[4:6]):
        made.append(f"link add {one} mtu {draw.choice((1280, 1400, 1500))} type veth peer name {two}")
    for name in LINKS:
        made += [f"link set {name} group {draw.randrange(3)}", f"link set {name} addrgenmode none"]
        if draw.random() < 0.85:
            made.append(f"link set {name} up")
        for _ in range(draw.randrange(4)):
            made.append(_address(draw, name))
    return made, _of_family(draw, 4), _of_family(draw, 6)


def _of_family(draw: random.Random, family: int) -> list[str]:
    first = 10 * family  # both families share one range of nexthop ids
    made = [f"nexthop add id {first + number} {' '.join(_hop(draw, family, LINKS[:4]))}" for number in range(3)]
    made += [f"nexthop add id {first + 3} group {first}/{first + 1},3", f"nexthop add id {first + 4} blackhole"]
    made += [_route(draw, family) for _ in range(draw.randrange(4, 20))]
    made += [_rule(draw, family) for _ in range(draw.choice((0, draw.randrange(1, 8), draw.randrange(1, 8))))]
    if draw.random() < 0.1:
        made.append(f"link set {draw.choice(LINKS)} down")
    return made


def parameters(draw: random.Random) -> list[tuple[str, int]]:
    """Kernel parameters below /proc/sys/net, and their values."""
    chosen = [("ipv6/conf/all/forwarding", draw.randrange(2))] if draw.random() < 0.5 else []
    for name in (*LINKS, "all"):
        chosen.append((f"ipv4/conf/{name}/rp_filter", draw.choice((0, 0, 1, 1, 2))))
        chosen.append((f"ipv4/conf/{name}/forwarding", int(draw.random() < 0.8)))
        for word in ("accept_local", "src_valid_mark", "route_localnet"):
            chosen.append((f"ipv4/conf/{name}/{word}", int(draw.random() < 0.15)))
        for family in (4, 6):
            chosen.append((f"ipv{family}/conf/{name}/ignore_routes_with_linkdown", int(draw.random() < 0.2)))
    return chosen


def _address(draw: random.Random, name: str) -> str:
    if draw.random() < 0.5:
        scope = draw.choice(("", "", "", " scope link", " scope host")) if name in SCOPED else ""
        peer = f" peer {_address4(draw)}/32" if draw.random() < 0.2 else ""
        own = _address4(draw)
        return f"addr add {own}{peer or f'/{draw.choice((8, 16, 24, 30, 32))}'} dev {name}{scope}"
    own = _address6(draw)
    flags = draw.choice(("", "", " preferred_lft 0"))
    return f"addr add {own}/{draw.choice((16, 48, 64, 128))} dev {name} nodad{flags}"


def _address4(draw: random.Random) -> str:
    return f"10.{draw.randrange(3)}.{draw.randrange(3)}.{draw.randrange(1, 6)}"


def _address6(draw: random.Random) -> str:
    head = draw.choice(("2001:db8", "2001:db8", "fd00", "fec0", "2002", "fe80::", "2001:0"))
    return str(
        ipaddress.IPv6Address(
            f"{head}:0:{draw.randrange(3)}::{draw.randrange(1, 6)}".replace(":::", "::")
            if head != "fe80::"
            else f"fe80::{draw.randrange(1, 6)}"
        )
    )


def _network(draw: random.Random, family: int) -> str:
    if family == 4:
        length = draw.choice((0, 1, 8, 15, 16, 23, 24, 30, 31, 32))
        return str(ipaddress.ip_network(f"{_address4(draw)}/{length}", strict=False))
    length = draw.choice((0, 1, 16, 32, 47, 48, 63, 64, 126, 128))
    return str(ipaddress.ip_network(f"{_address6(draw)}/{length}", strict=False))


def _any(draw: random.Random, family: int) -> str:
    return _address4(draw) if family == 4 else _address6(draw)


def _route(draw: random.Random, family: int) -> str:
    words = ["route", draw.choice(("add", "add", "append"))]
    kind = draw.choice(("unicast",) * 12 + ("blackhole", "unreachable", "prohibit", "throw", "local", "throw"))
    words += [kind, _network(draw, family)]
    if family == 6 and draw.random() < 0.15:
        words += ["from", _network(draw, family)]
    if family == 4 and draw.random() < 0.15:
        words += ["tos", draw.choice(("4", "8", "0x10"))]
    if draw.random() < 0.5:
        words += ["metric", str(draw.choice((1, 10, 100, 1024)))]
    words += ["table", str(draw.choice(TABLES))]
    if kind == "local":
        words += ["dev", draw.choice((*LINKS, "lo"))]
    elif kind == "unicast":
        if draw.random() < 0.1:
            words += ["nhid", str(10 * family + draw.randrange(5))]
        elif draw.random() < 0.2:
            for _ in range(draw.randrange(1, 4)):
                words += ["nexthop", *_hop(draw, family), "weight", str(draw.randrange(1, 4))]
        else:
            words += _hop(draw, family)
            if draw.random() < 0.2:
                words += ["src", _any(draw, family)]
            if draw.random() < 0.2:
                words += ["mtu", str(draw.choice((1280, 1350, 9000)))]
    return " ".join(filter(None, words))


def _hop(draw: random.Random, family: int, links: Sequence[str] = LINKS) -> list[str]:
    name = draw.choice(links)
    if draw.random() < 0.6:
        onlink = ["onlink"] if draw.random() < 0.6 else []
        if family == 4 and draw.random() < 0.1:
            return ["via", "inet6", _address6(draw), "dev", name, *onlink]
        return ["via", _any(draw, family), "dev", name, *onlink]
    return ["dev", name]


def _rule(draw: random.Random, family: int) -> str:
    words = ["rule", "add"]
    if draw.random() < 0.3:
        words.append("not")
    if draw.random() < 0.3:
        words += ["from", _network(draw, family)]
    if draw.random() < 0.2:
        words += ["to", _network(draw, family)]
    if draw.random() < 0.4:
        mask = draw.choice(("", "", "/0x3", "/0xff", "/0xffffffff"))
        words += ["fwmark", f"{draw.choice(MARKS)}{mask}"]
    if draw.random() < 0.15:
        words += ["iif", draw.choice((*LINKS, "lo", "gone"))]
    if draw.random() < 0.1:
        words += ["oif", draw.choice((*LINKS, "gone"))]
    if draw.random() < 0.15:
        first = draw.choice(UIDS)
        words += ["uidrange", f"{first}-{first + draw.choice((0, 1, 5000))}"]
    if draw.random() < 0.2:
        words += ["ipproto", draw.choice(("6", "17", "1" if family == 4 else "58"))]
    for side in ("sport", "dport"):
        if draw.random() < 0.1:
            first = draw.choice(PORTS[1:])
            words += [side, draw.choice((str(first), f"{first}-{first + 400}"))]
    if draw.random() < 0.1:
        words += ["tos", draw.choice(("0x04", "0x10"))]
    words += ["priority", str(draw.choice((draw.randrange(1, 40), draw.randrange(1, 40), 32766, 40000)))]
    action = draw.random()
    if action < 0.7:
        words += ["lookup", str(draw.choice((*TABLES, 255, 777)))]
        if draw.random() < 0.4:
            words += ["suppress_prefixlength", str(draw.choice((0, 0, 8, 16, 24, 32)))]
        if draw.random() < 0.1:
            words += ["suppress_ifgroup", str(draw.randrange(3))]
    elif action < 0.85:
        words += ["goto", str(draw.choice((draw.randrange(1, 45), 32766, 50000)))]
    else:
        words.append(draw.choice(("nop", "blackhole", "unreachable", "prohibit")))
    return " ".join(filter(None, words))


def query(draw: random.Random, snapshot: Snapshot) -> Query:
    """A packet that this host sends or, in one of five cases, receives by a link."""
    family = draw.choice((4, 6))
    known = [each.address for link in snapshot.links.values() for each in link.addresses]
    own = [each for each in known if len(each) == (4 if family == 4 else 16)]
    near = [route.destination.address for route in snapshot.routes[family]]
    destination = pack_address(_any(draw, family)) if draw.random() < 0.8 or not near else draw.choice(near)
    if draw.random() < 0.1:
        destination = pack_address(draw.choice(SPECIAL[family]))
    protocol = draw.choice((ICMP if family == 4 else ICMPV6, TCP, UDP))
    has_ports = protocol in (TCP, UDP)
    source, output, input_link = None, "", ""
    # Only the kernel knows which link it prefers if several have the source of a multicast packet.
    unique = [each for each in own if known.count(each) == 1]
    if unique and draw.random() < 0.4:
        source = draw.choice(unique if destination[0] >= 224 else own)
    if draw.random() < 0.2 and destination[0] < 224:
        input_link = draw.choice(LINKS)
        source = pack_address(_any(draw, family))
    elif draw.random() < 0.1:
        output = draw.choice(LINKS)
    return Query(
        destination,
        source,
        draw.choice(MARKS),
        input_link,
        output,
        draw.choice(UIDS),
        protocol,
        draw.choice(PORTS) if has_ports else 0,
        draw.choice(PORTS) if has_ports else 0,
        draw.choice((0, 0, 4, 8, 0x10)),
    )
