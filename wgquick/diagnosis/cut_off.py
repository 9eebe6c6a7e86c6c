"""Whether a change cuts the operator off: the SSH session that wgq runs in, traced before and after. Pure.

after = planned(seen, desired(settings, facts))
warning = cut_off(seen, after, os.environ.get("SSH_CONNECTION", ""))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgquick.config.grammar import mask
from wgquick.diagnosis.trace import DELIVERED, trace
from wgquick.net import MAIN_TABLE, Prefix
from wgquick.plan.operator import session_of
from wgquick.plan.up import DEFAULT_MTU
from wgquick.routing import (
    LINK,
    LOCAL_TABLE,
    TCP,
    UNIVERSE,
    LocalAddress,
    NetworkLink,
    NextHop,
    PolicyRule,
    Query,
    TableRoute,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.net import Rule
    from wgquick.plan.desired import Desired
    from wgquick.routing import Snapshot

_EXACT = 0xFFFFFFFF
_METRIC_OF_ADDRESS = {4: 0, 6: 256}  # of the route to an address's network (addrconf_prefix_route())
_METRIC_OF_ROUTE = {4: 0, 6: 1024}


def replies(connection: str) -> Query | None:
    """The packets that an SSH server sends to the client of SSH_CONNECTION (ssh(1)); None if it names none."""
    session = session_of(connection)
    if session is None:
        return None
    return Query(
        session.client,
        session.server,
        output_link=session.link,
        protocol=TCP,
        source_port=session.server_port,
        destination_port=session.client_port,
    )


def cut_off(before: Snapshot, after: Snapshot, connection: str) -> str:
    """How a change of `before` to `after` cuts off the session of SSH_CONNECTION, as a sentence; "" if it does not.

    A session that does not work before, or that stays on its link, is not cut off.
    """
    query = replies(connection)
    if query is None:
        return ""
    now, then = trace(before, query), trace(after, query)
    if now.verdict != DELIVERED or (now.links[:1] == then.links[:1] and then.verdict == DELIVERED):
        return ""
    client = connection.split()[0]
    was = now.links[0]
    what = f"your SSH session from {client} comes in by {was}; its replies will"
    if not then.links:
        return f"{what} not leave after this: {then.reason}"
    return f"{what} go into {then.links[0]} after this"


def without(seen: Snapshot, name: str) -> Snapshot:
    """The namespace after `down` of an interface: without its link, its routes and its full tunnel's rules."""
    device = seen.devices.get(name)
    mark = device.device.fwmark if device is not None else 0
    return seen._replace(
        links={each: link for each, link in seen.links.items() if each != name},
        devices={each: device for each, device in seen.devices.items() if each != name},
        routes={
            family: tuple(
                route for route in routes if all(hop.link != name for hop in route.hops) or not route.hops
            )
            for family, routes in seen.routes.items()
        },
        rules={
            family: tuple(rule for rule in rules if not (mark and rule.fwmark == rule.table == mark))
            for family, rules in seen.rules.items()
        },
    )


def planned(seen: Snapshot, wanted: Desired) -> Snapshot:
    """The namespace after `up` to the desired state, without the device's peers and the effects of hooks."""
    name = wanted.settings.name
    addresses = tuple(LocalAddress(each.address, each.length) for each in wanted.addresses)
    number = max((link.ifindex for link in seen.links.values()), default=0) + 1
    link = NetworkLink(number, name, wanted.mtu or DEFAULT_MTU, kind="wireguard", addresses=addresses)
    if wanted.src_valid_mark:
        every = {each.name: each._replace(src_valid_mark=True) for each in seen.links.values()}
    else:
        every = dict(seen.links)
    added = [
        *_of_addresses(name, addresses),
        *(_route(each.destination, name, each.table) for each in wanted.routes),
    ]
    return seen._replace(
        links={**every, name: link},
        routes={
            family: (*routes, *(each for each in added if each.destination.family == family))
            for family, routes in seen.routes.items()
        },
        rules={family: _with_rules(rules, family, wanted.rules) for family, rules in seen.rules.items()},
    )


def _of_addresses(name: str, addresses: Iterable[LocalAddress]) -> Iterable[TableRoute]:
    """The routes that the kernel makes for a link's addresses: to themselves, and to their networks."""
    for each in addresses:
        bits = len(each.address) * 8
        yield TableRoute(Prefix(each.address, bits), LOCAL_TABLE, "local", (NextHop(name),), source=each.address)
        if each.length < 32 or bits == 128:
            network = Prefix(mask(each.address, each.length), each.length)
            found = _route(network, name, MAIN_TABLE)
            yield found._replace(metric=_METRIC_OF_ADDRESS[network.family], source=each.address)


def _route(destination: Prefix, name: str, table: int) -> TableRoute:
    """A route as wg-quick adds it."""
    family = destination.family
    scope = LINK if family == 4 else UNIVERSE
    return TableRoute(destination, table, hops=(NextHop(name),), metric=_METRIC_OF_ROUTE[family], scope=scope)


def _with_rules(rules: tuple[PolicyRule, ...], family: int, added: Iterable[Rule]) -> tuple[PolicyRule, ...]:
    """The rules with the added ones, each with the priority that the kernel chooses (fib_default_rule_pref())."""
    for rule in added:
        if rule.family != family:
            continue
        second = rules[1].priority if len(rules) > 1 else 0
        made = PolicyRule(
            rule.priority if rule.priority is not None else max(0, second - 1),
            table=rule.table,
            inverted=rule.fwmark is not None,
            fwmark=rule.fwmark or 0,
            fwmask=_EXACT if rule.fwmark is not None else 0,
            suppress_prefixlength=rule.suppress_prefixlength,
        )
        place = next((at for at, each in enumerate(rules) if each.priority > made.priority), len(rules))
        rules = (*rules[:place], made, *rules[place:])
    return rules
