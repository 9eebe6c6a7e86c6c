"""The kernel's choice of a route: rules in order, the longest prefix in each table, the source address.

Pure: a Snapshot and a Query in, a Walk out. The Walk says for each evaluated rule why it decided or not. Docstrings
name the kernel function that each part follows (net/core/fib_rules.c, net/ipv4/fib_*.c, net/ipv6/route.c).
"""

from __future__ import annotations

from errno import EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH, ENODEV

from wgquick.diagnosis.nets import LINK_LOCAL, LOOPBACK_NETS, contains, head, host
from wgquick.diagnosis.source_address import source_of, vrf_of
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import INITIAL_RULES, MAIN_TABLE, Prefix, address_text
from wgquick.routing import HOST, LINK, LOCAL_TABLE, LOOPBACK, NextHop, PolicyRule, TableRoute

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from wgquick.routing import Ports, Query, Snapshot

_ACTION_ERRORS = {"blackhole": EINVAL, "unreachable": ENETUNREACH, "prohibit": EACCES}
_KIND_ERRORS = {"blackhole": EINVAL, "unreachable": EHOSTUNREACH, "prohibit": EACCES}
_MULTICAST = {4: Prefix.parse("224.0.0.0/4"), 6: Prefix.parse("ff00::/8")}
_LOCAL_MULTICAST = Prefix.parse("224.0.0.0/24")
_BROADCAST = b"\xff\xff\xff\xff"
_AT_ONCE = 1 << 10  # __find_rr_leaf() stops at a blackhole nexthop object
_PREFERENCES = {0: 2, 1: 3, 3: 1}  # IPV6_DECODE_PREF: medium, high, low
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp", 136: "udplite"}


class Passed(NamedTuple):
    """An evaluated rule, and why it decided (`decides`) or not. `table` is the table that it used, or 0."""

    rule: PolicyRule
    decides: bool
    why: str
    table: int = 0


class Walk(NamedTuple):
    """The kernel's choice. `error` is the errno for the sender, 0 if there is a route; `reason` explains an error.
    `is_unforwarded` is whether the error is that this host does not forward.

    `hops` are the usable next hops of the route. If there are several, the kernel chooses one by a hash that cannot
    be predicted; `link` and `gateway` are those of the assumed one. `link` is "lo" for the host's own addresses.
    """

    rules: tuple[Passed, ...]
    error: int = 0
    reason: str = ""
    route: TableRoute | None = None
    hops: tuple[NextHop, ...] = ()
    link: str = ""
    gateway: bytes | None = None
    source: bytes | None = None
    kind: str = ""
    is_unforwarded: bool = False

    @property
    def table(self) -> int:
        """The table of the route; 0 if there is no route."""
        return self.route.table if self.route else 0


class Flow(NamedTuple):
    """The fields that rules match (struct flowi); `vrf` is the packet's VRF, or ""."""

    query: Query
    input_link: str
    output_link: str
    vrf: str
    by_output: bool
    uid: int


class Found(NamedTuple):
    """The result of a table lookup; `error` is 0 if the route is usable."""

    route: TableRoute
    hops: tuple[NextHop, ...]
    error: int = 0


def walk(snapshot: Snapshot, query: Query, preferred: NextHop | None = None) -> Walk:
    """The route of a packet. It uses the next hop `preferred` if the route has it, else the first.

    This follows ip_route_output_key_hash_rcu() and ip6_route_output(), and for an incoming packet
    ip_route_input_slow() and ip6_route_input_lookup(), except for what `wgquick.diagnosis.reverse` does.
    """
    if fault := _fault_of(snapshot, query):
        return Walk((), *fault)
    if query.destination == bytes(4) and not query.input_link:
        return _to_itself(snapshot, query)
    if link := _chosen_link(snapshot, query):
        hop = NextHop(link)
        return _finished(snapshot, query, (), _on_link(query, hop), (hop,), hop)
    passed, found, error = by_rules(snapshot, _flow(snapshot, query))
    rules = tuple(passed)
    if found is None or error:
        if _is_taken_as_on_link(query, snapshot):
            hop = NextHop(query.output_link)
            return _finished(snapshot, query, rules, _on_link(query, hop), (hop,), hop)
        route = found.route if found else None
        return Walk(rules, error, _reason(query, rules, route), route, kind=route.kind if route else "")
    hop = preferred if preferred in found.hops else (found.hops[0] if found.hops else NextHop())
    return _finished(snapshot, query, rules, found.route, found.hops, hop)


def _on_link(query: Query, hop: NextHop) -> TableRoute:
    """The route that IPv4 assumes where it needs none of a table."""
    return TableRoute(host(query.destination), hops=(hop,), scope=LINK)


def _chosen_link(snapshot: Snapshot, query: Query) -> str:
    """The link on which IPv4 sends multicast and broadcast without rules and tables; "" if it needs a route.

    It is the socket's link (224.0.0.0/24 and 255.255.255.255 only) or that of the source address.
    """
    destination = host(query.destination)
    if query.family == 6 or query.input_link:
        return ""
    if query.output_link:
        is_near = query.destination == _BROADCAST or contains(_LOCAL_MULTICAST, destination)
        return query.output_link if is_near else ""
    if not query.source or not (query.destination == _BROADCAST or contains(_MULTICAST[4], destination)):
        return ""
    own = ((link.name, each.address) for link in snapshot.links.values() for each in link.addresses)
    return next((name for name, address in own if address == query.source), LOOPBACK)


def _finished(
    snapshot: Snapshot,
    query: Query,
    rules: tuple[Passed, ...],
    route: TableRoute,
    hops: tuple[NextHop, ...],
    hop: NextHop,
) -> Walk:
    """The walk with its source and the link that the packet leaves on."""
    kind = _kind(query, route)
    vrf = vrf_of(snapshot, query.output_link or query.input_link)
    link = hop.link
    if kind in ("local", "anycast"):
        link = _loopback_of(snapshot, hop.link)
    source = query.source
    if source is None and not query.input_link:
        source = source_of(snapshot, query.destination, route, hop, kind, vrf)
    found = Walk(rules, 0, "", route, hops, link, _gateway(snapshot, hop), source, kind)
    if query.family == 4 and (fault := _fault_of_source(snapshot, found)):
        return found._replace(error=EINVAL, reason=fault)
    return found


def _gateway(snapshot: Snapshot, hop: NextHop) -> bytes | None:
    """The gateway; None if it is this host's own address, as the destination is on-link (fib_check_nh_v4_gw())."""
    if hop.gateway and len(hop.gateway) == 4 and not hop.is_onlink and is_local(snapshot, hop.gateway):
        return None
    return hop.gateway


def _to_itself(snapshot: Snapshot, query: Query) -> Walk:
    """The walk of a packet to 0.0.0.0: to the host itself, without rules and tables."""
    route = TableRoute(host(query.destination), kind="local", scope=HOST)
    source = query.source
    if source is None and query.output_link:
        source = source_of(snapshot, query.destination, route, NextHop(query.output_link), "unicast", "")
    return Walk((), route=route, link=LOOPBACK, source=source or b"\x7f\0\0\x01", kind="local")


def _fault_of_source(snapshot: Snapshot, found: Walk) -> str:
    """Why __mkroute_output() rejects the source: 127.0.0.0/8 must not leave the host."""
    link = snapshot.links.get(found.link)
    if not found.source or not link or link.is_loopback or link.vrf_table or link.route_localnet:
        return ""
    if contains(LOOPBACK_NETS[4], host(found.source)):
        return f"a packet from {address_text(found.source)} does not leave the host"
    return ""


def _kind(query: Query, route: TableRoute) -> str:
    if query.family == 4 and route.kind != "local":
        if query.destination == _BROADCAST:
            return "broadcast"
        if contains(_MULTICAST[4], host(query.destination)):
            return "multicast"
    return route.kind


def _loopback_of(snapshot: Snapshot, name: str) -> str:
    """The link for the host's own addresses: lo, or the VRF of the address."""
    return vrf_of(snapshot, name) or LOOPBACK


def _fault_of(snapshot: Snapshot, query: Query) -> tuple[int, str] | None:
    """The errno and the reason if the kernel rejects the packet before it evaluates rules; else None."""
    for name in (query.output_link, query.input_link):
        if name and name not in snapshot.links:
            return ENODEV, f"there is no link {name}"
    if query.family == 6 or query.input_link:
        return None
    if query.output_link and not snapshot.links[query.output_link].is_up:
        return ENETUNREACH, f"{query.output_link} is down"
    if query.source is not None and not is_local(snapshot, query.source):
        return EINVAL, f"{address_text(query.source)} is not an address of this host"
    if query.destination[0] == 0 and query.destination != bytes(4):
        return EINVAL, "0.0.0.0/8 is not a valid destination"
    return None


def is_local(snapshot: Snapshot, address: bytes) -> bool:
    """Whether an address is this host's own (__ip_dev_find())."""
    if any(address == own.address for link in snapshot.links.values() for own in link.addresses):
        return True
    family = 4 if len(address) == 4 else 6
    found = max(
        (route for route in snapshot.routes[family] if route.table == LOCAL_TABLE and _covers(route, address)),
        key=lambda route: route.destination.length,
        default=None,
    )
    return found is not None and found.kind == "local"


def _is_taken_as_on_link(query: Query, snapshot: Snapshot) -> bool:
    """Whether IPv4 treats a destination without a route as on-link, because the socket is bound to a link."""
    return bool(query.family == 4 and query.output_link and not vrf_of(snapshot, query.output_link))


def by_rules(snapshot: Snapshot, flow: Flow) -> tuple[list[Passed], Found | None, int]:
    """fib_rules_lookup(): the evaluated rules, the result, and the errno."""
    rules = snapshot.rules[flow.query.family]
    if flow.query.family == 4 and is_untouched(rules):
        return _by_merged_tables(snapshot, flow, rules)
    passed: list[Passed] = []
    at = 0
    while at < len(rules):
        rule = rules[at]
        differs = difference(rule, flow, snapshot)
        at += 1
        if differs:
            passed.append(Passed(rule, False, differs))
        elif rule.action == "goto":
            target = _place(rules, rule.target)
            there = target is not None and target >= at
            passed.append(Passed(rule, False, "continues there" if there else "no later rule has that priority"))
            at = target if there and target is not None else at
        elif rule.action == "nop":
            passed.append(Passed(rule, False, "does nothing"))
        elif rule.action != "lookup":
            passed.append(Passed(rule, True, "matches"))
            return passed, None, _ACTION_ERRORS.get(rule.action, EINVAL)
        else:
            table = snapshot.links[flow.vrf].vrf_table if rule.l3mdev else rule.table
            found, why = _in_table(snapshot, table, flow, rule)
            if found:
                passed.append(Passed(rule, True, why, table))
                return passed, found, found.error
            passed.append(Passed(rule, False, why, table))
    return passed, None, ENETUNREACH


def _in_table(snapshot: Snapshot, table: int, flow: Flow, rule: PolicyRule) -> tuple[Found | None, str]:
    """The result of a rule's table, None if the next rule is tried, and why."""
    found = lookup(snapshot, table, flow)
    if found is None:
        return None, "no route in the table"
    if found.route.kind == "throw":
        return None, f"the table has the route throw {text_of(found.route.destination)}"
    if not found.error and (why := _suppressed(snapshot, rule, found)):
        return None, why
    return found, "matches"


def _suppressed(snapshot: Snapshot, rule: PolicyRule, found: Found) -> str:
    """fib4_rule_suppress(), fib6_rule_suppress(): why a rule ignores the result; "" if it does not."""
    route = found.route
    length = rule.suppress_prefixlength
    if length is not None and route.destination.length <= length:
        return f"its route {text_of(route.destination)} is suppressed: its prefix length is not above {length}"
    link = snapshot.links.get(found.hops[0].link) if found.hops else None
    if rule.suppress_group is not None and link and link.group == rule.suppress_group:
        return f"its route {text_of(route.destination)} is suppressed: {link.name} is in the group {link.group}"
    return ""


def is_untouched(rules: Sequence[PolicyRule]) -> bool:
    """Whether the rules are those of a new network namespace."""
    return [(rule, rule.table) for rule in rules] == [
        (PolicyRule(priority, table=table), table) for priority, table in INITIAL_RULES
    ]


def _by_merged_tables(
    snapshot: Snapshot, flow: Flow, rules: Sequence[PolicyRule]
) -> tuple[list[Passed], Found | None, int]:
    """With the initial rules, IPv4 looks up local and main merged, then default (fib_lookup(), ip_fib.h)."""
    found = lookup(snapshot, LOCAL_TABLE, flow, MAIN_TABLE)
    if found is None or found.error or found.route.kind == "throw":
        other = lookup(snapshot, rules[2].table, flow)
        found = other or (found if not _has_routes(snapshot, rules[2].table) else None)
    if found and found.route.kind == "throw":
        found = None
    passed: list[Passed] = []
    for rule in rules:
        if found and found.route.table == rule.table:
            return [*passed, Passed(rule, True, "matches", rule.table)], found, found.error
        passed.append(Passed(rule, False, "no route in the table", rule.table))
    return passed, None, ENETUNREACH


def _has_routes(snapshot: Snapshot, table: int) -> bool:
    return any(route.table == table for route in snapshot.routes[4])


def _place(rules: Sequence[PolicyRule], priority: int) -> int | None:
    return next((at for at, rule in enumerate(rules) if rule.priority == priority), None)


def _flow(snapshot: Snapshot, query: Query) -> Flow:
    """l3mdev_update_flow(): the VRF is that of the packet's output or input link."""
    output, came = query.output_link, query.input_link or LOOPBACK
    if output:
        vrf = vrf_of(snapshot, output)
        return Flow(query, came, "" if vrf == output else output, vrf, True, _uid(query))
    vrf = vrf_of(snapshot, came) if came != LOOPBACK else ""
    return Flow(query, came, "", vrf, False, _uid(query))


def _uid(query: Query) -> int:
    """The socket's user; 0 for an incoming packet, as sock_net_uid() has it."""
    return 0 if query.input_link else query.uid


def difference(rule: PolicyRule, flow: Flow, snapshot: Snapshot) -> str:
    """Why a rule does not match (fib_rule_match()); "" if it does."""
    why = next(iter(_differences(rule, flow, snapshot)), "")
    if rule.unread:
        return why or f"wgq does not support its conditions: {', '.join(rule.unread)}"
    if rule.inverted:
        return "" if why else _inverse(rule, flow.query)
    return why


def _inverse(rule: PolicyRule, query: Query) -> str:
    """Why an inverted rule does not match: its conditions hold."""
    if rule.fwmask:
        return f"the mark is {query.mark:#x}, and the rule is for all other marks"
    return "its conditions hold, and the rule is inverted"


def _differences(rule: PolicyRule, flow: Flow, snapshot: Snapshot) -> Iterator[str]:
    query = flow.query
    if rule.input_link and not _enters(rule, flow, snapshot):
        yield f"it arrives on {flow.input_link}" if query.input_link else "this host sends it"
    if rule.output_link and not _leaves(rule, flow, snapshot):
        yield f"its socket is not bound to {rule.output_link}"
    if (rule.fwmark ^ query.mark) & rule.fwmask:
        yield f"the mark is {query.mark:#x}"
    if rule.l3mdev and not flow.vrf:
        yield "it belongs to no VRF"
    if rule.uids and not rule.uids[0] <= flow.uid <= rule.uids[1]:
        yield f"the user is {flow.uid}" if not query.input_link else "no user of this host sends it"
    yield from _differences_of_addresses(rule, query)
    yield from _differences_of_ports(rule, query)


def _differences_of_addresses(rule: PolicyRule, query: Query) -> Iterator[str]:
    if rule.source and not contains(rule.source, host(query.source or bytes(len(query.destination)))):
        yield f"the source is {address_text(query.source)}" if query.source else "it has no source yet"
    elif rule.source and query.family == 6 and not query.source:
        yield "it has no source yet"
    if rule.destination and not contains(rule.destination, host(query.destination)):
        yield f"the destination is {address_text(query.destination)}"
    if (rule.tos ^ query.tos) & rule.tos_mask:
        yield f"its DS field is {query.tos:#04x}"


def _differences_of_ports(rule: PolicyRule, query: Query) -> Iterator[str]:
    if rule.protocol and rule.protocol != query.protocol:
        yield f"its protocol is {PROTOCOLS.get(query.protocol, query.protocol) if query.protocol else 'unknown'}"
    for ports, port, word in (
        (rule.source_ports, query.source_port, "source port"),
        (rule.destination_ports, query.destination_port, "destination port"),
    ):
        if ports and not _is_among(port, ports):
            yield f"its {word} is {port}" if port else f"its {word} is unknown"


def _is_among(port: int, ports: Ports) -> bool:
    if ports.mask:
        return not (ports.first ^ port) & ports.mask
    return ports.first <= port <= ports.last


def _enters(rule: PolicyRule, flow: Flow, snapshot: Snapshot) -> bool:
    link = snapshot.links.get(rule.input_link)
    if link is None:
        return False
    if link.vrf_table:
        return not flow.by_output and flow.vrf == link.name
    return flow.input_link == link.name


def _leaves(rule: PolicyRule, flow: Flow, snapshot: Snapshot) -> bool:
    link = snapshot.links.get(rule.output_link)
    if link is None:
        return False
    if link.vrf_table:
        return flow.by_output and flow.vrf == link.name
    return flow.output_link == link.name


def lookup(snapshot: Snapshot, table: int, flow: Flow, merged: int = 0) -> Found | None:
    """The result of a table (with `merged`, of two merged tables); None if it has no usable route."""
    query = flow.query
    routes = [
        route
        for route in snapshot.routes[query.family]
        if route.table in (table, merged) and table and _covers(route, query.destination)
    ]
    return _lookup4(snapshot, routes, flow) if query.family == 4 else _lookup6(snapshot, routes, flow)


def _covers(route: TableRoute, address: bytes) -> bool:
    net = route.destination
    return head(net.address, net.length) == head(address, net.length)


def _lookup4(snapshot: Snapshot, routes: Iterable[TableRoute], flow: Flow) -> Found | None:
    """fib_table_lookup(): the usable route with the longest prefix, then the DS field, then the lowest metric."""
    order = sorted(routes, key=lambda each: (-each.destination.length, -each.table, -each.tos, each.metric))
    for route in order:
        if route.tos and route.tos != flow.query.tos & 0xFC:
            continue
        if route.kind == "throw" or route.kind in _KIND_ERRORS:
            return Found(route, (), _KIND_ERRORS.get(route.kind, 0))
        hops = tuple(hop for hop in route.hops if _works(snapshot, hop, 4))
        if flow.output_link:
            hops = tuple(hop for hop in hops if hop.link == flow.output_link)
        if hops:
            return Found(route, hops)
    return None


def _works(snapshot: Snapshot, hop: NextHop, family: int) -> bool:
    """fib_lookup_good_nhc(), find_match(): whether a next hop is usable."""
    if hop.is_dead:
        return False
    link = snapshot.links.get(hop.link)
    return not (hop.has_no_carrier and link and family in link.ignores_linkdown)


def _lookup6(snapshot: Snapshot, routes: Iterable[TableRoute], flow: Flow) -> Found | None:
    """fib6_table_lookup(): by destination prefix, then source prefix; routes with a failed gateway come last."""
    source = host(flow.query.source or bytes(16))
    nodes: dict[tuple[int, int], list[TableRoute]] = {}
    with_sources: set[int] = set()
    for route in routes:
        if route.origin:
            with_sources.add(route.destination.length)
        if route.origin is None or contains(route.origin, source):
            key = (route.destination.length, route.origin.length if route.origin else 0)
            nodes.setdefault(key, []).append(route)
    keys = sorted(nodes, reverse=True)
    # fib6_node_lookup_1() skips a prefix, except the default, if all its routes have a source that does not match.
    while keys and not keys[0][1] and keys[0][0] in with_sources and keys[0][0]:
        del keys[0]
    order = [sorted(nodes[key], key=lambda each: each.metric) for key in keys]
    for reachable in (False,) if snapshot.forwards6 else (True, False):
        for node in order:
            if found := _select6(snapshot, node, flow, reachable=reachable):
                return found
    return None


def _select6(snapshot: Snapshot, node: Sequence[TableRoute], flow: Flow, *, reachable: bool) -> Found | None:
    """rt6_select(): the best score among routes of the lowest metric; if none is usable, among all others."""
    lowest = node[0].metric
    first = [route for route in node if route.metric == lowest]
    rest = [route for route in node if route.metric != lowest]
    for group in (first, rest):
        scored = [(_score6(snapshot, route, flow, reachable=reachable), route) for route in group]
        best = max((score for score, _ in scored), default=-1)
        if best >= 0:
            route = next(route for score, route in scored if score == best)
            return _answer6(snapshot, route, flow, reachable=reachable)
    return None


def _answer6(snapshot: Snapshot, route: TableRoute, flow: Flow, *, reachable: bool) -> Found:
    if route.kind in _KIND_ERRORS:
        return Found(route, (), _KIND_ERRORS[route.kind])
    scored = [(_score_hop6(snapshot, route, hop, flow, reachable=reachable), hop) for hop in route.hops]
    return Found(route, tuple(hop for score, hop in scored if score >= 0))


def _score6(snapshot: Snapshot, route: TableRoute, flow: Flow, *, reachable: bool) -> int:
    """rt6_score_route() of a route's best next hop; negative if it is unusable."""
    if route.kind == "blackhole" and route.nexthop:
        return _AT_ONCE
    if not route.hops and route.kind in (*_KIND_ERRORS, "throw"):
        return 2 | _PREFERENCES[0] << 2
    return max((_score_hop6(snapshot, route, hop, flow, reachable=reachable) for hop in route.hops), default=-1)


def _score_hop6(snapshot: Snapshot, route: TableRoute, hop: NextHop, flow: Flow, *, reachable: bool) -> int:
    if not _works(snapshot, hop, 6):
        return -1
    wanted = flow.output_link or flow.query.input_link
    score = 2 if not wanted or wanted == hop.link else 0
    if not score and _is_strict(flow):
        return -1
    if reachable and hop.gateway and _is_silent(snapshot, hop):
        return -1
    return score | _PREFERENCES.get(route.preference, 2) << 2


def _is_strict(flow: Flow) -> bool:
    """Whether the link must be the one asked for (RT6_LOOKUP_F_IFACE)."""
    destination = host(flow.query.destination)
    needs = any(contains(each, destination) for each in (LINK_LOCAL[6], _MULTICAST[6], LOOPBACK_NETS[6]))
    return needs or (bool(flow.output_link) and not flow.query.source)


def _is_silent(snapshot: Snapshot, hop: NextHop) -> bool:
    """rt6_check_neigh(): whether the gateway's neighbour entry is FAILED."""
    known = snapshot.neighbours.get((hop.link, hop.gateway or b""))
    return known is not None and known.state == "FAILED"


def _reason(query: Query, rules: Sequence[Passed], route: TableRoute | None) -> str:
    """Why no route can be used: the route itself, the action of a rule, or that there is no route."""
    if route:
        return f"the route {route.kind} {text_of(route.destination)}"
    if rules and rules[-1].decides:
        return f"rule {rules[-1].rule.priority} has the action {rules[-1].rule.action}"
    return f"no route to {address_text(query.destination)}"


def text_of(prefix: Prefix) -> str:
    """A prefix as ip(8) prints it: `default`, an address, or a network."""
    if not prefix.length:
        return "default"
    return address_text(prefix.address) if prefix.length == len(prefix.address) * 8 else str(prefix)


def mark_text(mark: int, mask: int) -> str:
    """A mark as ip-rule(8) prints it."""
    text = f"{mark:#x}" if mark else "0"
    return text if mask == 0xFFFFFFFF else f"{text}/{mask:#x}"
