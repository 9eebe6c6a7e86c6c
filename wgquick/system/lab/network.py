"""The cables: each host's link to the router, and the private networks' switches, through pyroute2 (rtnetlink(7)).

The router has routes to the hosts' public addresses and to no private network. Its own addresses are link-local.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from pyroute2 import IPRoute, NetlinkError

from wgquick.lean import contextmanager, suppress
from wgquick.net import address_text
from wgquick.rehearsal import INTERNET

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from wgquick.net import Prefix
    from wgquick.rehearsal import Host, Layout

_GATEWAYS = {4: "169.254.0.1", 6: "fe80::1"}
_BEHIND = "lan0"
_FIRST_TABLE = 1000
_FAMILIES = {4: 2, 6: 10}
_UDP = 17
_ONLINK = 4  # RTNH_F_ONLINK
_PATIENCE = 30.0
_PAUSE = 0.005


def set_parameters(*, router: bool = False) -> None:
    """Set the kernel's defaults, as a new namespace inherits the machine's values; a router forwards.

    It affects links that are added later; duplicate address detection is off for them.
    """
    for scope in ("all", "default", "lo"):
        for name in ("rp_filter", "src_valid_mark", "accept_local", "send_redirects"):
            _set(f"ipv4/conf/{scope}/{name}", 0)
        _set(f"ipv4/conf/{scope}/forwarding", int(router))
        _set(f"ipv6/conf/{scope}/disable_ipv6", 0)
        _set(f"ipv6/conf/{scope}/forwarding", int(router))
        _set(f"ipv6/conf/{scope}/accept_dad", 0)
        _set(f"ipv6/conf/{scope}/accept_ra", 0)


def forward(families: Iterable[int]) -> None:
    """Turn forwarding on."""
    for family in families:
        _set(f"ipv{family}/conf/all/forwarding", 1)


def forwards() -> tuple[int, ...]:
    """The families (4, 6) that this namespace forwards."""
    return tuple(family for family in (4, 6) if _get(f"ipv{family}/conf/all/forwarding") == "1")


def _set(name: str, value: int) -> None:
    # A kernel without IPv6 has no such file.
    with suppress(OSError), open(f"/proc/sys/net/{name}", "w", encoding="ascii") as file:
        file.write(str(value))


def _get(name: str) -> str:
    try:
        with open(f"/proc/sys/net/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _has_ipv6() -> bool:
    return _get("ipv6/conf/all/disable_ipv6") == "0"


@contextmanager
def _kernel(what: str) -> Iterator[Any]:
    """An rtnetlink socket; the OSError of a refused request says what it was for."""
    try:
        with IPRoute() as kernel:
            yield kernel
    except NetlinkError as refusal:
        raise OSError(refusal.code, f"{what}: {refusal.args[1]}") from None


def connect_hosts(layout: Layout, processes: Sequence[int]) -> None:
    """In the router's namespace: add a cable for each link of each host; `processes` are the hosts' process IDs."""
    set_parameters(router=True)
    if 4 not in forwards():
        raise OSError(errno.EROFS, "the router cannot forward: /proc/sys/net is not writable")
    with _kernel("the router's links") as kernel:
        _up(kernel, "lo")
        switches = {cable.segment for host in layout.hosts for cable in host.cables if cable.segment != INTERNET}
        bridges = {segment: f"switch{number}" for number, segment in enumerate(sorted(switches))}
        for name in bridges.values():
            kernel.link("add", ifname=name, kind="bridge")
            _up(kernel, name)
        for number, (host, process) in enumerate(zip(layout.hosts, processes, strict=True)):
            for at, cable in enumerate(host.cables):
                name = f"host{number}.{at}"
                peer = {"ifname": cable.link, "net_ns_pid": process}
                kernel.link("add", ifname=name, kind="veth", peer=peer)
                if cable.segment != INTERNET:
                    kernel.link("set", index=_index(kernel, name), master=_index(kernel, bridges[cable.segment]))
                _up(kernel, name)
                if cable.segment == INTERNET:
                    _serve(kernel, name)
        _route(kernel, layout)


def _serve(kernel: Any, name: str) -> None:
    """Add the gateway's addresses to that link."""
    index = _index(kernel, name)
    kernel.addr("add", index=index, address=_GATEWAYS[4], prefixlen=32)
    if _has_ipv6():
        kernel.addr("add", index=index, address=_GATEWAYS[6], prefixlen=64)


def _route(kernel: Any, layout: Layout) -> None:
    """Add routes to the hosts' public addresses; a shared address goes to the host that has the port."""
    routed = set()
    for number, host in enumerate(layout.hosts):
        for address in _usable(host.cables[0].addresses):
            if address not in routed:
                routed.add(address)
                _route_to(kernel, address, number)
    for shared in layout.shared:
        if _usable([shared.address]):
            table = _FIRST_TABLE + shared.host
            _route_to(kernel, shared.address, shared.host, table=table)
            kernel.rule(
                "add",
                family=_FAMILIES[shared.address.family],
                dst=address_text(shared.address.address),
                dst_len=shared.address.length,
                ip_proto=_UDP,
                dport_range=f"{shared.port}:{shared.port}",
                table=table,
            )


def _usable(addresses: Iterable[Prefix]) -> list[Prefix]:
    has_ipv6 = _has_ipv6()
    return [each for each in addresses if each.family == 4 or has_ipv6]


def _route_to(kernel: Any, address: Prefix, host: int, **more: int) -> None:
    link = _index(kernel, f"host{host}.0")
    kernel.route("replace", dst=str(address), family=_FAMILIES[address.family], oif=link, **more)


def set_up(host: Host) -> None:
    """In a host's namespace: add its links, addresses and default routes to the existing cables."""
    with _kernel(f"the links of {host.name}") as kernel:
        _up(kernel, "lo")
        for cable in host.cables:
            index = _index(kernel, cable.link)
            _up(kernel, cable.link)
            for address in _usable(cable.addresses):
                kernel.addr("add", index=index, address=address_text(address.address), prefixlen=address.length)
            if cable.segment == INTERNET:
                _default_routes(kernel, index, _usable(cable.addresses))
        for number, name in enumerate((*host.links, *[_BEHIND] * bool(host.behind))):
            far = f"far{number}"
            kernel.link("add", ifname=name, kind="veth", peer={"ifname": far})
            _up(kernel, far)
            _up(kernel, name)
        if host.behind:
            for own in _usable(host.behind):
                text = address_text(own.address)
                kernel.addr("add", index=_index(kernel, _BEHIND), address=text, prefixlen=own.length)
        _await_carriers(kernel, [cable.link for cable in host.cables])
    forward(host.forwards)


def _default_routes(kernel: Any, index: int, addresses: Sequence[Prefix]) -> None:
    for family in dict.fromkeys(address.family for address in addresses):
        first = next(address for address in addresses if address.family == family)
        # IPv6 selects the source address itself, and link-local gateways need no onlink flag.
        more = {"prefsrc": address_text(first.address), "flags": _ONLINK} if family == 4 else {}
        way = {"dst": "default", "family": _FAMILIES[family], "gateway": _GATEWAYS[family], "oif": index}
        kernel.route("add", **way, **more)


def _up(kernel: Any, name: str) -> None:
    kernel.link("set", index=_index(kernel, name), state="up")


def _index(kernel: Any, name: str) -> int:
    return int(kernel.link_lookup(ifname=name)[0])


def _await_carriers(kernel: Any, names: Iterable[str]) -> None:
    """Wait for linkwatch_event(), which sets the carrier some time after both ends of a link are up."""
    deadline = time.monotonic() + _PATIENCE
    for name in names:
        while kernel.get_links(_index(kernel, name))[0].get("IFLA_OPERSTATE") != "UP":
            if time.monotonic() > deadline:
                raise OSError(f"the link {name} has no carrier")
            time.sleep(_PAUSE)
