"""Routes, rules and route lookups with all their attributes, through pyroute2 (rtnetlink(7)).

`wgq up NAME` does not import this module: importing pyroute2 takes longer than that verb.
"""

from __future__ import annotations

import itertools
from errno import ENETUNREACH
from typing import TYPE_CHECKING

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl import RTM_GETROUTE, RTM_NEWROUTE, RTM_NEWRULE
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg_base

from wgquick.net import MAIN_TABLE, Prefix, address_text, pack_address
from wgquick.routing import Answer, NextHop, PolicyRule, Ports, TableRoute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self

    from wgquick.routing import Query

FAMILIES = {4: 2, 6: 10}  # AF_INET, AF_INET6
KINDS = {
    1: "unicast",
    2: "local",
    3: "broadcast",
    4: "anycast",
    5: "multicast",
    6: "blackhole",
    7: "unreachable",
    8: "prohibit",
    9: "throw",
    10: "nat",
}
"""The kinds of routes (RTN_*), as `ip route` names them."""
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_NONE = 0xFFFFFFFF  # no suppression
_INVERT = 0x2  # FIB_RULE_INVERT
_DEAD, _ONLINK, _NO_CARRIER = 1, 4, 16  # RTNH_F_*
_CLONED = 0x200  # RTM_F_CLONED: an entry of a cache
_LOOKUP_TABLE = 0x1000  # RTM_F_LOOKUP_TABLE: report the route's table, not always main
_NLM_F_REQUEST = 1
# Selectors of a rule that wgq does not evaluate.
_UNREAD = {"FRA_TUN_ID": "tun_id", "FRA_FLOWLABEL": "flowlabel"}


# pyroute2 compiles a class's attributes once and subclasses inherit the result, so these are not subclasses.
class _RouteMessage(rtmsg_base, nlmsg):  # type: ignore[misc]
    """pyroute2's rtmsg, and the attributes that it does not know (linux/rtnetlink.h)."""

    __slots__ = ()
    nla_map = (
        *rtmsg_base.nla_map,
        ("RTA_PAD", "hex"),
        ("RTA_UID", "uint32"),
        ("RTA_TTL_PROPAGATE", "uint8"),
        ("RTA_IP_PROTO", "uint8"),
        ("RTA_SPORT", "be16"),
        ("RTA_DPORT", "be16"),
        ("RTA_NH_ID", "uint32"),
        ("RTA_FLOWLABEL", "be32"),
    )


class _RuleMessage(nlmsg):  # type: ignore[misc]
    """pyroute2's fibmsg, and the attributes that it does not know (linux/fib_rules.h)."""

    __slots__ = ()
    prefix, fields = fibmsg.prefix, fibmsg.fields
    uid_range, port_range = fibmsg.uid_range, fibmsg.port_range
    nla_map = (
        *fibmsg.nla_map,
        (25, "FRA_DSCP", "uint8"),
        (26, "FRA_FLOWLABEL", "be32"),
        (27, "FRA_FLOWLABEL_MASK", "be32"),
        (28, "FRA_SPORT_MASK", "uint16"),
        (29, "FRA_DPORT_MASK", "uint16"),
        (30, "FRA_DSCP_MASK", "uint8"),
    )


class Routing:
    """A socket to rtnetlink in the network namespace of the thread that opens it; a context manager."""

    def __init__(self) -> None:
        self.kernel: Any = IPRoute()
        known = self.kernel.marshal.msg_map
        self.kernel.marshal.msg_map = {**known, RTM_NEWROUTE: _RouteMessage, RTM_NEWRULE: _RuleMessage}
        self._names: dict[int, str] = {}
        self._sequence = itertools.count(1 << 20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kernel.close()

    def name(self, index: int | None) -> str:
        """The name of a link; "" without an index or if the link no longer exists."""
        if not index:
            return ""
        if index not in self._names:
            self._names = {link["index"]: str(link.get("IFLA_IFNAME")) for link in self.kernel.get_links()}
        return self._names.get(index, "")

    def rules(self, family: int) -> tuple[PolicyRule, ...]:
        """All rules of a family (4 or 6), in the kernel's order."""
        return tuple(_rule(rule) for rule in self.kernel.get_rules(family=FAMILIES[family]))

    def routes(self, family: int) -> tuple[TableRoute, ...]:
        """All routes of a family (4 or 6), of every table, each table's in the kernel's order."""
        found = self.kernel.get_routes(family=FAMILIES[family])
        return tuple(_route(route, self.name) for route in found if not route["flags"] & _CLONED)

    def ask(self, query: Query) -> Answer:
        """The route that the kernel chooses (RTM_GETROUTE)."""
        try:
            route = self.look_up(query)
        except NetlinkError as refusal:
            return Answer(refusal.code or ENETUNREACH)
        found = _route(route, self.name)
        hop = found.hops[0] if found.hops else NextHop()
        error = (route.get("RTA_CACHEINFO") or {}).get("rta_error", 0)
        return Answer(abs(error), found.kind, found.table, hop.link, hop.gateway, found.source, found.mtu)

    def look_up(self, query: Query, flags: int = 0) -> Any:
        """The kernel's answer as pyroute2 reads it, or NetlinkError; `flags` are further ones of rtm_flags."""
        message = _RouteMessage()
        message["family"] = FAMILIES[query.family]
        message["dst_len"] = len(query.destination) * 8
        message["tos"] = query.tos
        message["flags"] = _LOOKUP_TABLE | flags
        message["attrs"] = list(self._question(query))
        if query.source:
            message["src_len"] = len(query.source) * 8
        number = next(self._sequence)
        self.kernel.put(message, RTM_GETROUTE, _NLM_F_REQUEST, msg_seq=number)
        (route,) = self.kernel.get(msg_seq=number)
        return route

    def _question(self, query: Query) -> Iterator[tuple[str, object]]:
        yield "RTA_DST", address_text(query.destination)
        if query.source:
            yield "RTA_SRC", address_text(query.source)
        for attribute, name in (("RTA_IIF", query.input_link), ("RTA_OIF", query.output_link)):
            if name:
                yield attribute, self.kernel.link_lookup(ifname=name)[0]
        if query.mark:
            yield "RTA_MARK", query.mark
        yield "RTA_UID", 0 if query.input_link else query.uid
        if query.protocol in (1, 6, 17, 58):
            yield "RTA_IP_PROTO", query.protocol
            if query.source_port:
                yield "RTA_SPORT", query.source_port
            if query.destination_port:
                yield "RTA_DPORT", query.destination_port


def _rule(rule: Any) -> PolicyRule:
    mark, mask = rule.get("FRA_FWMARK") or 0, rule.get("FRA_FWMASK")
    dscp = rule.get("FRA_DSCP")
    by_dscp = dscp is not None
    dscp_mask = rule.get("FRA_DSCP_MASK")
    group = rule.get("FRA_SUPPRESS_IFGROUP")
    length = rule.get("FRA_SUPPRESS_PREFIXLEN")
    action = _ACTIONS.get(rule["action"], "blackhole")  # fib4_rule_action(): `default:' is FR_ACT_BLACKHOLE
    return PolicyRule(
        rule.get("FRA_PRIORITY") or 0,
        action,
        (rule.get("FRA_TABLE") or rule["table"]) if action == "lookup" else 0,
        rule.get("FRA_GOTO") or 0,
        bool(rule["flags"] & _INVERT),
        _prefix(rule.get("FRA_SRC"), rule["src_len"], rule["family"]),
        _prefix(rule.get("FRA_DST"), rule["dst_len"], rule["family"]),
        rule.get("FRA_IIFNAME") or "",
        rule.get("FRA_OIFNAME") or "",
        mark,
        mask if mask is not None else (_NONE if mark else 0),
        (dscp << 2 if by_dscp else rule["tos"]),
        ((dscp_mask if dscp_mask is not None else 0x3F) << 2) if by_dscp else (0xFC if rule["tos"] else 0),
        _range(rule.get("FRA_UID_RANGE")),
        rule.get("FRA_IP_PROTO") or 0,
        _ports(rule.get("FRA_SPORT_RANGE"), rule.get("FRA_SPORT_MASK")),
        _ports(rule.get("FRA_DPORT_RANGE"), rule.get("FRA_DPORT_MASK")),
        bool(rule.get("FRA_L3MDEV")),
        None if length is None or length == _NONE else length,
        None if group is None or group == _NONE else group,
        tuple(word for attribute, word in _UNREAD.items() if rule.get(attribute)),
    )


def _range(value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, _, last = value.partition(":")
    return int(first), int(last)


def _ports(value: str | None, mask: int | None) -> Ports | None:
    bounds = _range(value)
    if bounds is None:
        return None
    return Ports(*bounds, mask if mask is not None and mask != 0xFFFF else 0)


def _route(route: Any, name: Callable[[int | None], str]) -> TableRoute:
    metrics = route.get("RTA_METRICS")
    family = route["family"]
    source = route.get("RTA_PREFSRC")
    return TableRoute(
        _prefix(route.get("RTA_DST"), route["dst_len"], family) or Prefix(bytes(4 if family == 2 else 16), 0),
        route.get("RTA_TABLE") or route["table"] or MAIN_TABLE,
        KINDS.get(route["type"], str(route["type"])),
        _hops(route, name),
        route.get("RTA_PRIORITY") or 0,
        route["tos"],
        route["scope"],
        pack_address(source) if source else None,
        _prefix(route.get("RTA_SRC"), route["src_len"], family),
        metrics.get("RTAX_MTU") if metrics else None,
        route.get("RTA_PREF") or 0,
        route.get("RTA_NH_ID") or 0,
    )


def _hops(route: Any, name: Callable[[int | None], str]) -> tuple[NextHop, ...]:
    several = route.get("RTA_MULTIPATH")
    if several:
        return tuple(_hop(each, name(each["oif"]), each["flags"], each["hops"] + 1) for each in several)
    link = name(route.get("RTA_OIF"))
    return (_hop(route, link, route["flags"], 1),) if link else ()


def _hop(message: Any, link: str, flags: int, weight: int) -> NextHop:
    return NextHop(
        link, _gateway(message), weight, bool(flags & _DEAD), bool(flags & _NO_CARRIER), bool(flags & _ONLINK)
    )


def _gateway(message: Any) -> bytes | None:
    """The gateway; a gateway of the other family is in RTA_VIA."""
    if gateway := message.get("RTA_GATEWAY"):
        return pack_address(gateway)
    via = message.get("RTA_VIA")
    return pack_address(via["addr"]) if via else None


def _prefix(address: str | None, length: int, family: int) -> Prefix | None:
    if not length:
        return None
    return Prefix(pack_address(address or ("0.0.0.0" if family == FAMILIES[4] else "::")), length)  # noqa: S104
