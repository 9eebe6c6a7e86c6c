"""The messages of rtnetlink(7) that `ip link`, `ip address`, `ip route` and `ip rule` send and receive."""

from __future__ import annotations

from struct import Struct

from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import MAIN_TABLE, Link, LinkAddress, LinkRoute, Prefix, Rule
from wgquick.system.netlink.codec import (
    ATTRIBUTE,
    HEADER,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    U32,
    attribute,
    attribute_text,
    attribute_u32,
    attributes,
    message,
    number,
    text,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.system.netlink.codec import Message

NETLINK_ROUTE = 0
AF_INET = 2
AF_INET6 = 10

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

IFF_UP = 1
IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_AF_SPEC, IFLA_NET_NS_FD, IFLA_EXT_MASK = 3, 4, 18, 26, 28, 29
IFLA_INFO_KIND = 1
IFLA_INET6_CONF = 2
DEVCONF_DISABLE_IPV6 = 26  # linux/ipv6.h: the index of net.ipv6.conf.NAME.disable_ipv6 in that array
RTEXT_FILTER_SKIP_STATS = 8
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_PROTO = 1, 2, 8, 11
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 4, 5, 6, 7, 8
RTA_CACHEINFO, RTA_TABLE, RTA_MARK, RTA_PREF = 12, 15, 16, 20
RTAX_LOCK, RTAX_MTU = 1, 2
RTPROT_KERNEL, RTPROT_BOOT = 2, 3
RTN_UNICAST = 1
RTN_THROW = 9
RTM_F_CLONED, RTM_F_LOOKUP_TABLE = 0x200, 0x1000
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254
FRA_PRIORITY, FRA_FWMARK = 6, 10
FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK = 13, 14, 15, 16
FRA_PAD, FRA_PROTOCOL = 18, 21
FR_ACT_TO_TBL = 1
FIB_RULE_INVERT = 2

IFINFO = Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
IFADDR = Struct("=BBBBI")  # struct ifaddrmsg: family, prefixlen, flags, scope, index
RTMSG = Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
FIB_RULE = Struct("=BBBBBxxBI")  # struct fib_rule_hdr: family, dst_len, src_len, tos, table, action, flags

# The attributes of a rule that do not select packets.
_RULE_NEUTRAL = frozenset((FRA_PRIORITY, FRA_TABLE, FRA_PAD, FRA_PROTOCOL))
_NO_SUPPRESSION = 0xFFFFFFFF


def _af(family: int) -> int:
    return AF_INET if family == 4 else AF_INET6


def _name(name: str) -> bytes:
    return attribute_text(IFLA_IFNAME, name)


def link_add(name: str, namespace: int | None = None) -> bytes:
    """`ip link add dev NAME [netns N] type wireguard`; `namespace` is a descriptor."""
    info = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"wireguard"))
    place = b"" if namespace is None else attribute_u32(IFLA_NET_NS_FD, namespace)
    return message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, bytes(IFINFO.size) + _name(name) + place + info)


def link_move(name: str, namespace: int) -> bytes:
    """`ip link set dev NAME netns N`; `namespace` is a descriptor."""
    return message(RTM_NEWLINK, 0, bytes(IFINFO.size) + _name(name) + attribute_u32(IFLA_NET_NS_FD, namespace))


def link_delete(name: str) -> bytes:
    """`ip link delete dev NAME`; the kernel looks the name up, while ip asks for the index first."""
    return message(RTM_DELLINK, 0, bytes(IFINFO.size) + _name(name))


def link_set(name: str, mtu: int | None, up: bool) -> bytes:
    """`ip link set [mtu N] [up] dev NAME`."""
    flags = IFF_UP if up else 0
    size = b"" if mtu is None else attribute_u32(IFLA_MTU, mtu)
    return message(RTM_NEWLINK, 0, IFINFO.pack(0, 0, 0, flags, flags) + _name(name) + size)


def link_get(name: str = "") -> bytes:
    """`ip link show [dev NAME]`, without statistics."""
    body = bytes(IFINFO.size) + attribute_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return message(RTM_GETLINK, 0, body + (_name(name) if name else b""))


def address_add(prefix: Prefix, index: int, sequence: int = 0) -> bytes:
    """`ip address add PREFIX dev LINK`: no broadcast address; host scope for 127.0.0.0/8."""
    scope = RT_SCOPE_HOST if prefix.family == 4 and prefix.address[0] == 127 else RT_SCOPE_UNIVERSE
    head = IFADDR.pack(_af(prefix.family), prefix.length, 0, scope, index)
    body = head + attribute(IFA_LOCAL, prefix.address) + attribute(IFA_ADDRESS, prefix.address)
    return message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, sequence)


_ROUTE_VERBS = {
    "add": (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL),
    "append": (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND),
    "delete": (RTM_DELROUTE, 0),
}


def address_delete(prefix: Prefix, index: int, sequence: int = 0) -> bytes:
    """`ip address delete PREFIX dev LINK`."""
    head = IFADDR.pack(_af(prefix.family), prefix.length, 0, 0, index)
    body = head + attribute(IFA_LOCAL, prefix.address) + attribute(IFA_ADDRESS, prefix.address)
    return message(RTM_DELADDR, 0, body, sequence)


def route_encoder(family: int, table: int, index: int, verb: str = "add") -> Callable[[Prefix, int], bytes]:
    """`encode(prefix, sequence)` for `ip route add|append|delete PREFIX dev LINK [table N]` of one family.

    Everything but the prefix and the sequence number is encoded once, so that 100,000 routes take a tenth of a
    second. A deletion names the protocol, so that it spares the routes that the kernel added for addresses.
    """
    size = 4 if family == 4 else 16
    far = attribute_u32(RTA_TABLE, table) if table > 255 else b""
    tail = far + attribute_u32(RTA_OIF, index)
    length = HEADER.size + RTMSG.size + ATTRIBUTE.size + size + len(tail)
    kind, flags = _ROUTE_VERBS[verb]
    scope = RT_SCOPE_LINK if family == 4 else RT_SCOPE_UNIVERSE
    near = 0 if far else table
    head = HEADER.pack(length, kind, flags | NLM_F_REQUEST, 0, 0)[:8]
    before = bytes(4) + bytes([_af(family)])
    after = RTMSG.pack(0, 0, 0, 0, near, RTPROT_BOOT, scope, RTN_UNICAST, 0)[2:]
    after += ATTRIBUTE.pack(ATTRIBUTE.size + size, RTA_DST)
    pack = Struct(f"=8sI5sB{len(after)}s{size}s{len(tail)}s").pack

    def encode(prefix: Prefix, sequence: int) -> bytes:
        address, bits = prefix
        return pack(head, sequence, before, bits, after, address, tail)

    return encode


def throw_route(destination: Prefix, table: int, *, delete: bool = False) -> bytes:
    """`ip route add|delete throw PREFIX table N`."""
    near, far = (0, attribute_u32(RTA_TABLE, table)) if table > 255 else (table, b"")
    head = RTMSG.pack(_af(destination.family), destination.length, 0, 0, near, RTPROT_BOOT, 0, RTN_THROW, 0)
    kind, flags = (RTM_DELROUTE, 0) if delete else (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL)
    return message(kind, flags, head + attribute(RTA_DST, destination.address) + far)


def route_dump(family: int, table: int, index: int | None) -> bytes:
    """`ip route show table N [dev LINK]`, filtered by kernels with strict checking (5.0)."""
    near, far = (0, attribute_u32(RTA_TABLE, table)) if table > 255 else (table, b"")
    out = b"" if index is None else attribute_u32(RTA_OIF, index)
    return message(RTM_GETROUTE, 0, RTMSG.pack(_af(family), 0, 0, 0, near, 0, 0, 0, 0) + far + out)


def link_route_dump(family: int, index: int) -> bytes:
    """`ip -FAMILY route show table all dev LINK`, filtered by kernels with strict checking (5.0)."""
    return message(RTM_GETROUTE, 0, RTMSG.pack(_af(family), 0, 0, 0, 0, 0, 0, 0, 0) + attribute_u32(RTA_OIF, index))


def route_get(address: bytes, mark: int = 0) -> bytes:
    """`ip route get ADDRESS [mark N]`."""
    family, flags = (AF_INET, RTM_F_LOOKUP_TABLE) if len(address) == 4 else (AF_INET6, 0)
    head = RTMSG.pack(family, len(address) * 8, 0, 0, 0, 0, 0, 0, flags)
    marked = attribute_u32(RTA_MARK, mark) if mark else b""
    return message(RTM_GETROUTE, 0, head + attribute(RTA_DST, address) + marked)


def _rule(rule: Rule, kind: int, flags: int, more: bytes = b"") -> bytes:
    near, far = (0, attribute_u32(FRA_TABLE, rule.table)) if rule.table > 255 else (rule.table, b"")
    invert = 0 if rule.fwmark is None or rule.other else FIB_RULE_INVERT
    body = FIB_RULE.pack(_af(rule.family), 0, 0, 0, near, FR_ACT_TO_TBL, invert)
    for attr, value in (
        (FRA_PRIORITY, rule.priority),
        (FRA_FWMARK, rule.fwmark),
        (FRA_SUPPRESS_PREFIXLEN, rule.suppress_prefixlength),
    ):
        body += b"" if value is None else attribute_u32(attr, value)
    return message(kind, flags, body + more + far)


def rule_add(rule: Rule) -> bytes:
    """`ip rule add [priority P] not fwmark N table T`, or `... table main suppress_prefixlength 0`.

    The protocol is `kernel`, as systemd-networkd removes the rules of other protocols than its own and the kernel's
    (ManageForeignRoutingPolicyRules=, networkd.conf(5)). `ip rule` does not show the protocol, and a deletion
    without a protocol matches such a rule. Kernels before 4.17 ignore the attribute.
    """
    return _rule(rule, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, attribute(FRA_PROTOCOL, bytes((RTPROT_KERNEL,))))


def rule_delete(rule: Rule) -> bytes:
    """`ip rule delete` with all fields, as the kernel deletes the first rule that matches the given ones."""
    mask = b"" if rule.fwmark is None else attribute_u32(FRA_FWMASK, 0xFFFFFFFF)
    return _rule(rule, RTM_DELRULE, 0, mask)


def rule_dump(family: int) -> bytes:
    """`ip rule show`."""
    return message(RTM_GETRULE, 0, FIB_RULE.pack(_af(family), 0, 0, 0, 0, 0, 0))


def decode_link(answer: Message) -> Link:
    """An RTM_NEWLINK."""
    _, _, index, flags, _ = IFINFO.unpack_from(answer.body)
    found = attributes(answer.body, IFINFO.size)
    info = attributes(found.get(IFLA_LINKINFO, b""))
    kind = text(info.get(IFLA_INFO_KIND, b""))
    return Link(index, text(found[IFLA_IFNAME]), number(found.get(IFLA_MTU, b"")), bool(flags & IFF_UP), kind)


def takes_ipv6(answer: Message) -> bool:
    """Whether the link of an RTM_NEWLINK has IPv6 and it is not disabled (inet6_fill_link_af)."""
    families = attributes(attributes(answer.body, IFINFO.size).get(IFLA_AF_SPEC, b""))
    settings = attributes(families.get(AF_INET6, b"")).get(IFLA_INET6_CONF, b"")
    at = DEVCONF_DISABLE_IPV6 * U32.size
    return len(settings) >= at + U32.size and U32.unpack_from(settings, at) == (0,)


class RouteEntry(NamedTuple):
    """A route of a dump or of `route get`; `output` is a link's index, 0 if there is none."""

    destination: Prefix
    table: int
    output: int
    mtu: int | None
    cloned: bool


def decode_route(answer: Message) -> RouteEntry:
    """An RTM_NEWROUTE; `mtu` is None for a locked metric, which ip(8) prints as `mtu lock N`."""
    family, length, _, _, table, _, _, _, flags = RTMSG.unpack_from(answer.body)
    found = attributes(answer.body, RTMSG.size)
    address = found.get(RTA_DST) or bytes(4 if family == AF_INET else 16)
    table = number(found[RTA_TABLE]) if RTA_TABLE in found else table
    output = number(found.get(RTA_OIF, b""))
    mtu = _mtu(found[RTA_METRICS]) if RTA_METRICS in found else None
    return RouteEntry(Prefix(address, length), table, output, mtu, bool(flags & RTM_F_CLONED))


def _mtu(metrics: bytes) -> int | None:
    values = attributes(metrics)
    locked = number(values.get(RTAX_LOCK, b"")) & 1 << RTAX_MTU
    return number(values[RTAX_MTU]) if RTAX_MTU in values and not locked else None


# Of a route's attributes: those that are read, and those without meaning (of the cache, and RTA_PREF's default,
# medium).
_ROUTE_READ = frozenset((RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_TABLE))
_MEDIUM = b"\0"


def decode_link_route(answer: Message) -> tuple[int, LinkRoute | None]:
    """An RTM_NEWROUTE with all attributes: the index of its output link and the route; None for a cached route."""
    family, length, source, tos, table, protocol, scope, kind, flags = RTMSG.unpack_from(answer.body)
    found = attributes(answer.body, RTMSG.size)
    output = number(found.get(RTA_OIF, b""))
    if flags & RTM_F_CLONED:
        return output, None
    others = len(found.keys() - _ROUTE_READ - {RTA_CACHEINFO}) - (found.get(RTA_PREF) == _MEDIUM)
    metrics = attributes(found[RTA_METRICS]) if RTA_METRICS in found else {}
    route = LinkRoute(
        Prefix(found.get(RTA_DST) or bytes(4 if family == AF_INET else 16), length),
        number(found[RTA_TABLE]) if RTA_TABLE in found else table,
        protocol,
        scope,
        kind,
        number(found.get(RTA_PRIORITY, b"")),
        found.get(RTA_GATEWAY, b""),
        found.get(RTA_PREFSRC, b""),
        number(metrics[RTAX_MTU]) if RTAX_MTU in metrics else None,
        others + bool(source) + bool(tos) + len(metrics.keys() - {RTAX_MTU}),
    )
    return output, route


def link_route_decoder() -> Callable[[Message], tuple[int, LinkRoute | None]]:
    """`decode_link_route` for a dump: routes that differ in the network alone are decoded once."""
    known: dict[tuple[bytes, bytes, bytes], tuple[int, tuple[object, ...]]] = {}
    new = tuple.__new__

    def decode(answer: Message) -> tuple[int, LinkRoute | None]:
        body = answer.body
        start, end = (24, 28) if body[:1] == _AF_INET else (24, 40)
        shape = body[:1], body[2:start], body[end:]
        like = known.get(shape)
        if like is not None:
            output, rest = like
            return output, new(LinkRoute, (new(Prefix, (body[start:end], body[1])), *rest))
        output, route = decode_link_route(answer)
        # RTMSG, RTA_TABLE, and then the header of RTA_DST (fib_dump_info, rt6_fill_node)
        if route is not None and body[20:24] == ATTRIBUTE.pack(4 + end - start, RTA_DST):
            known[shape] = output, route[1:]
        return output, route

    return decode


_AF_INET = bytes([AF_INET])


def decode_link_address(answer: Message) -> tuple[int, LinkAddress]:
    """An RTM_NEWADDR with all attributes: the link's index and the address."""
    _, length, flags, scope, index = IFADDR.unpack_from(answer.body)
    found = attributes(answer.body, IFADDR.size)
    local = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    far = found.get(IFA_ADDRESS, local)
    flags = number(found[IFA_FLAGS]) if IFA_FLAGS in found else flags
    protocol = number(found.get(IFA_PROTO, b""))
    return index, LinkAddress(Prefix(local, length), scope, flags, protocol, b"" if far == local else far)


def decode_address(answer: Message) -> tuple[int, Prefix]:
    """An RTM_NEWADDR: the link's index and the address (the local one of a point-to-point address)."""
    _, length, _, _, index = IFADDR.unpack_from(answer.body)
    found = attributes(answer.body, IFADDR.size)
    return index, Prefix(found.get(IFA_LOCAL) or found[IFA_ADDRESS], length)


def decode_rule(answer: Message) -> Rule:
    """An RTM_NEWRULE; `other` is True unless it is exactly a rule of wg-quick."""
    af, dst, src, tos, table, action, flags = FIB_RULE.unpack_from(answer.body)
    found = attributes(answer.body, FIB_RULE.size)
    values = {kind: number(payload) for kind, payload in found.items() if len(payload) <= 4}
    rule = Rule(
        family=4 if af == AF_INET else 6,
        table=values.get(FRA_TABLE, table),
        priority=values.get(FRA_PRIORITY, 0),
        fwmark=values.get(FRA_FWMARK),
        suppress_prefixlength=_suppression(values),
    )
    plain = action == FR_ACT_TO_TBL and not (dst or src or tos)
    ours = plain and (_is_table_rule(flags, values, found) or _is_suppress_rule(rule, flags, found))
    return rule if ours else rule._replace(other=True)


def _suppression(values: dict[int, int]) -> int | None:
    length = values.get(FRA_SUPPRESS_PREFIXLEN, _NO_SUPPRESSION)
    return None if length == _NO_SUPPRESSION else length


def _selectors(found: dict[int, bytes]) -> set[int]:
    """The attributes that select packets or routes, without an empty suppression."""
    return {
        kind
        for kind, payload in found.items()
        if kind not in _RULE_NEUTRAL
        and not (kind in (FRA_SUPPRESS_PREFIXLEN, FRA_SUPPRESS_IFGROUP) and payload == b"\xff\xff\xff\xff")
    }


def _is_table_rule(flags: int, values: dict[int, int], found: dict[int, bytes]) -> bool:
    """Whether it is `not fwmark N table T` with the full mask."""
    whole = values.get(FRA_FWMASK, 0xFFFFFFFF) == 0xFFFFFFFF
    return bool(flags & FIB_RULE_INVERT) and whole and _selectors(found) - {FRA_FWMASK} == {FRA_FWMARK}


def _is_suppress_rule(rule: Rule, flags: int, found: dict[int, bytes]) -> bool:
    """Whether it is `table main suppress_prefixlength 0`."""
    suppresses = rule.table == MAIN_TABLE and rule.suppress_prefixlength == 0
    return suppresses and not flags & FIB_RULE_INVERT and _selectors(found) == {FRA_SUPPRESS_PREFIXLEN}


def link_by_index(index: int) -> bytes:
    """`ip link show` of the link with that index."""
    return message(RTM_GETLINK, 0, IFINFO.pack(0, 0, index, 0, 0))


def address_dump(index: int) -> bytes:
    """`ip address show dev LINK`."""
    return message(RTM_GETADDR, 0, IFADDR.pack(0, 0, 0, 0, index))
