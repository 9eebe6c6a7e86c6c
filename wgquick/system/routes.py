"""Routes, rules and route lookups with all their attributes, through pyroute2 (rtnetlink(7)).

Nothing on the path of `wgq up NAME` imports this module: the import of pyroute2 takes longer than that verb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyroute2 import IPRoute, NetlinkError

from wgquick.errors import OperationError

if TYPE_CHECKING:
    from typing import Any

_FAMILIES = {4: 2, 6: 10}  # AF_INET, AF_INET6
_KINDS = {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_NO_SUPPRESSION = 0xFFFFFFFF
_LOOKUP_TABLE = 0x1000  # RTM_F_LOOKUP_TABLE: name the table that the route is in, not always main


class Found(NamedTuple):
    """A route, or the answer to a lookup; `kind` as ip-route(8) names it.

    `destination` is a prefix, or in an answer the address; `link`, `gateway`, `source` are "" and `metric`, `mtu`
    None if the route has none.
    """

    kind: str
    destination: str
    table: int
    link: str = ""
    gateway: str = ""
    source: str = ""
    metric: int | None = None
    mtu: int | None = None


class PolicyRule(NamedTuple):
    """A policy routing rule (ip-rule(8)). None: the rule does not look at it."""

    priority: int
    table: int
    fwmark: int | None = None
    inverted: bool = False
    suppress_prefixlength: int | None = None
    source: str = ""
    input_link: str = ""


def lookup(address: str, *, mark: int = 0, source: str = "") -> Found:
    """The route that the kernel takes to an address for packets with that mark and source.

    OperationError with the kernel's errno if it has none (ENETUNREACH, EHOSTUNREACH, EACCES, ...).
    """
    asked = {
        "dst": address,
        "flags": _LOOKUP_TABLE,
        **({"mark": mark} if mark else {}),
        **({"src": source} if source else {}),
    }
    with IPRoute() as kernel:
        try:
            return _found(kernel, kernel.route("get", **asked)[0])
        except NetlinkError as refusal:
            raise OperationError(f"no route to {address}: {refusal.args[1]}", errno=refusal.code) from None


def routes(family: int) -> list[Found]:
    """All routes of a family (4 or 6), of every table."""
    with IPRoute() as kernel:
        return [_found(kernel, route) for route in kernel.get_routes(family=_FAMILIES[family])]


def rules(family: int) -> list[PolicyRule]:
    """All rules of a family (4 or 6), in the order in which the kernel looks at them."""
    with IPRoute() as kernel:
        return sorted(_rule(rule) for rule in kernel.get_rules(family=_FAMILIES[family]))


def _found(kernel: Any, route: Any) -> Found:
    metrics = route.get("RTA_METRICS")
    return Found(
        _KINDS.get(route["type"], str(route["type"])),
        _prefix(route.get("RTA_DST"), route["dst_len"], route["family"]),
        route.get("RTA_TABLE"),
        _name(kernel, route.get("RTA_OIF")),
        route.get("RTA_GATEWAY") or "",
        route.get("RTA_PREFSRC") or "",
        route.get("RTA_PRIORITY"),
        metrics.get("RTAX_MTU") if metrics else None,
    )


def _rule(rule: Any) -> PolicyRule:
    suppressed = rule.get("FRA_SUPPRESS_PREFIXLEN")
    return PolicyRule(
        rule.get("FRA_PRIORITY") or 0,
        rule.get("FRA_TABLE"),
        rule.get("FRA_FWMARK"),
        bool(rule["flags"] & 2),  # FIB_RULE_INVERT
        None if suppressed == _NO_SUPPRESSION else suppressed,
        _prefix(rule.get("FRA_SRC"), rule["src_len"], rule["family"]) if rule["src_len"] else "",
        rule.get("FRA_IIFNAME") or "",
    )


def _name(kernel: Any, index: int | None) -> str:
    """The name of a link; "" if the route has none, or if the link has gone since."""
    if index is None:
        return ""
    try:
        return str(kernel.link("get", index=index)[0].get("IFLA_IFNAME"))
    except NetlinkError:
        return ""


def _prefix(address: str | None, length: int, family: int) -> str:
    """As `ip` prints it: `default`, an address, or a network."""
    if address is None or not length:
        return "default"
    return address if length == (32 if family == _FAMILIES[4] else 128) else f"{address}/{length}"
