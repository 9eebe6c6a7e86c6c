"""rtnetlink(7): the operations of `ip link`, `ip address`, `ip route` and `ip rule`.

Every call opens its own socket, which takes microseconds, so that it works in the calling thread's network
namespace despite threads and forks.
"""

from __future__ import annotations

import errno

from wgquick.errors import BatchError, OperationError
from wgquick.lean import TYPE_CHECKING
from wgquick.net import MAIN_TABLE, Path, pack_address
from wgquick.system.netlink import rtnl_codec
from wgquick.system.netlink.connection import Connection, Refusal, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import TypeVar

    from wgquick.net import Link, LinkAddress, LinkRoute, Prefix, Route, Rule
    from wgquick.system.netlink.codec import Message
    from wgquick.system.netlink.rtnl_codec import RouteEntry

    T = TypeVar("T")


class RtNetlink:
    """The links, addresses, routes and rules of the host (wgquick.ports.RtNetlink)."""

    def _ask(self, request: bytes, what: str) -> list[Message]:
        with Connection(rtnl_codec.NETLINK_ROUTE) as connection:
            return connection.request(request, what)

    def _dump(self, request: bytes, what: str) -> list[Message]:
        with Connection(rtnl_codec.NETLINK_ROUTE) as connection:
            return connection.dump(request, what)

    def add_wireguard_link(self, name: str) -> None:
        """`ip link add dev NAME type wireguard`; errno EOPNOTSUPP if the kernel does not know the type."""
        self._ask(rtnl_codec.link_add(name), f"cannot add the WireGuard link {name}")

    def add_wireguard_link_in(self, name: str, namespace: int) -> None:
        """The same inside another network namespace, a descriptor; the device's UDP socket stays in this one."""
        self._ask(rtnl_codec.link_add(name, namespace), f"cannot add the WireGuard link {name}")

    def move_link(self, name: str, namespace: int) -> None:
        """`ip link set dev NAME netns N`; `namespace` is a descriptor."""
        self._ask(rtnl_codec.link_move(name, namespace), f"cannot move the link {name}")

    def delete_link(self, name: str) -> None:
        """`ip link delete dev NAME`; errno ENODEV if there is none."""
        self._ask(rtnl_codec.link_delete(name), f"cannot delete the link {name}")

    def set_link(self, name: str, *, mtu: int | None = None, up: bool = True) -> None:
        """`ip link set [mtu N] up dev NAME`."""
        size = "" if mtu is None else f" to mtu {mtu}"
        self._ask(rtnl_codec.link_set(name, mtu, up), f"cannot set the link {name}{size}{' up' if up else ''}")

    def link(self, name: str) -> Link | None:
        """The link of that name, or None."""
        try:
            answers = self._ask(rtnl_codec.link_get(name), f"cannot read the link {name}")
        except RefusedError as refused:
            if refused.errno == errno.ENODEV:
                return None
            raise
        return rtnl_codec.decode_link(answers[0])

    def links(self) -> list[Link]:
        """All links."""
        return [
            rtnl_codec.decode_link(answer) for answer in self._dump(rtnl_codec.link_get(), "cannot read the links")
        ]

    def takes_ipv6(self, name: str) -> bool:
        """Whether the link can have IPv6 addresses; asked by netlink, as /proc/sys may be masked or not mounted."""
        answers = self._ask(rtnl_codec.link_get(name), f"cannot read the link {name}")
        return rtnl_codec.takes_ipv6(answers[0])

    def _index(self, name: str) -> int:
        link = self.link(name)
        if link is None:
            raise OperationError(f"there is no link named {name}", errno=errno.ENODEV)
        return link.ifindex

    def _link_name(self, index: int) -> str:
        """The name of a link; "" for index 0 and for a link that is gone."""
        try:
            return rtnl_codec.decode_link(self._ask(rtnl_codec.link_by_index(index), "")[0]).name if index else ""
        except RefusedError:
            return ""

    def addresses(self, name: str) -> list[Prefix]:
        """The link's addresses, in the kernel's order."""
        index = self._index(name)
        request = rtnl_codec.address_dump(index)
        found = map(rtnl_codec.decode_address, self._dump(request, f"cannot read the addresses of {name}"))
        return [prefix for owner, prefix in found if owner == index]

    def link_addresses(self, name: str) -> list[LinkAddress]:
        """The link's addresses with all their attributes, in the kernel's order."""
        index = self._index(name)
        request = rtnl_codec.address_dump(index)
        found = map(rtnl_codec.decode_link_address, self._dump(request, f"cannot read the addresses of {name}"))
        return [address for owner, address in found if owner == index]

    def add_addresses(self, name: str, addresses: Sequence[Prefix]) -> None:
        """`ip address add` for each; BatchError has the indices of the refused ones."""
        self._change_addresses(name, addresses, rtnl_codec.address_add, "add")

    def delete_addresses(self, name: str, addresses: Sequence[Prefix]) -> None:
        """`ip address delete` for each; BatchError has the indices of the refused ones."""
        self._change_addresses(name, addresses, rtnl_codec.address_delete, "delete")

    def _change_addresses(
        self, name: str, addresses: Sequence[Prefix], encode: Callable[[Prefix, int, int], bytes], verb: str
    ) -> None:
        index = self._index(name)
        with Connection(rtnl_codec.NETLINK_ROUTE) as connection:
            refused = connection.batch(addresses, lambda prefix, sequence: encode(prefix, index, sequence))
        _check_batch(refused, verb, "addresses", addresses, lambda prefix: f"{prefix} on {name}")

    def add_throw(self, destination: Prefix, table: int) -> None:
        """`ip route add throw PREFIX table N`."""
        self._ask(rtnl_codec.throw_route(destination, table), f"cannot exclude {destination} in table {table}")

    def delete_throw(self, destination: Prefix, table: int) -> None:
        """`ip route delete throw PREFIX table N`; errno ESRCH if there is none."""
        request = rtnl_codec.throw_route(destination, table, delete=True)
        self._ask(request, f"cannot delete the throw route to {destination} in table {table}")

    def add_routes(self, routes: Sequence[Route], *, beside: bool = False) -> None:
        """`ip route add` for each, in order (`beside`: append); BatchError has the indices of the refused ones."""
        self._change_routes(routes, "append" if beside else "add")

    def delete_routes(self, routes: Sequence[Route]) -> None:
        """`ip route delete PREFIX dev LINK proto boot` for each; BatchError has the indices of the refused ones."""
        self._change_routes(routes, "delete")

    def _change_routes(self, routes: Sequence[Route], verb: str) -> None:
        indexes = {device: self._index(device) for device in {route.device for route in routes}}
        encoders: dict[tuple[int, str, int], Callable[[Prefix, int], bytes]] = {}

        def encode(route: Route, sequence: int) -> bytes:
            destination, device, table = route
            shape = (len(destination[0]), device, table)
            encoder = encoders.get(shape)
            if encoder is None:
                encoder = encoders[shape] = rtnl_codec.route_encoder(
                    destination.family, table, indexes[device], verb
                )
            return encoder(destination, sequence)

        with Connection(rtnl_codec.NETLINK_ROUTE) as connection:
            refused = connection.batch(routes, encode)
        _check_batch(refused, verb, "routes", routes, _route_text)

    def link_routes(self, name: str) -> list[LinkRoute]:
        """The routes through a link, of both families and every table, with all their attributes."""
        index = self._index(name)
        found: list[LinkRoute] = []
        for family in (4, 6):
            try:
                answers = self._dump(rtnl_codec.link_route_dump(family, index), f"cannot read the routes of {name}")
            except RefusedError as refused:
                if refused.errno in (errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                    continue
                raise
            entries = map(rtnl_codec.link_route_decoder(), answers)
            size = 4 if family == 4 else 16
            found += [
                route
                for output, route in entries
                if output == index and route is not None and len(route[0][0]) == size
            ]
        return found

    def _routes(self, family: int, table: int, index: int | None) -> list[RouteEntry]:
        what = f"cannot read the IPv{family} routes of table {table}"
        try:
            found = [
                rtnl_codec.decode_route(answer)
                for answer in self._dump(rtnl_codec.route_dump(family, table, index), what)
            ]
        except RefusedError as refused:
            if refused.errno in (errno.ENOENT, errno.EAFNOSUPPORT):  # no such table; no such family
                return []
            raise
        return list(_wanted(found, family, table, index))

    def routes(self, *, family: int, table: int, device: str | None = None) -> list[Prefix]:
        """The destinations of a table's routes (default: 0/0); only those through `device` if it is given."""
        index = None if device is None else self._index(device)
        return [entry.destination for entry in self._routes(family, table, index)]

    def table_is_empty(self, family: int, table: int) -> bool:
        """Whether `ip -FAMILY route show table TABLE` prints nothing."""
        return self._first(family, table, lambda _: True) is None

    def _first(self, family: int, table: int, chosen: Callable[[RouteEntry], bool]) -> RouteEntry | None:
        """The first route of a table that is `chosen`; reads no further."""
        with Connection(rtnl_codec.NETLINK_ROUTE) as connection:
            answers = connection.each(
                rtnl_codec.route_dump(family, table, None), f"cannot read the routes of table {table}"
            )
            try:
                return next(
                    filter(chosen, _wanted(map(rtnl_codec.decode_route, answers), family, table, None)), None
                )
            except RefusedError as refused:
                if refused.errno in (errno.ENOENT, errno.EAFNOSUPPORT):
                    return None
                raise

    def path(self, address: str, mark: int = 0) -> Path | None:
        """`ip route get ADDRESS [mark N]`; None if there is no route."""
        request = rtnl_codec.route_get(pack_address(address), mark)
        try:
            answers = self._ask(request, f"cannot look up the route to {address}")
        except RefusedError:  # unreachable, prohibit, blackhole, missing family: ip prints no route either
            return None
        return self._path(rtnl_codec.decode_route(answers[0]))

    def _path(self, entry: RouteEntry) -> Path:
        return Path(self._link_name(entry.output), entry.mtu)

    def default_path(self) -> Path | None:
        """The first line of `ip route show default` (IPv4, main table); None if there is none.

        For a default route with several next hops that line has no link: then `link` is "".
        """
        entry = self._first(4, MAIN_TABLE, lambda entry: entry.destination.length == 0)
        return None if entry is None else self._path(entry)

    def rules(self, family: int) -> list[Rule]:
        """The policy rules in the kernel's order; empty if the kernel lacks the family."""
        try:
            answers = self._dump(rtnl_codec.rule_dump(family), f"cannot read the IPv{family} rules")
        except RefusedError as refused:
            if refused.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                return []
            raise
        return [rule for rule in map(rtnl_codec.decode_rule, answers) if rule.family == family]

    def add_rule(self, rule: Rule) -> None:
        """`ip rule add`, with the rule's priority if it has one."""
        self._ask(rtnl_codec.rule_add(rule), f"cannot add the rule {_rule_text(rule)}")

    def delete_rule(self, rule: Rule) -> None:
        """`ip rule delete` of exactly this rule (with its priority if set); errno ENOENT if there is none.

        The kernel would also delete a rule with more selectors than the given ones, so the rule is looked up first.
        """
        what = f"cannot delete the rule {_rule_text(rule)}"
        found = next((present for present in self.rules(rule.family) if _same(rule, present)), None)
        if found is None:
            raise RefusedError(Refusal(errno.ENOENT), what)
        self._ask(rtnl_codec.rule_delete(found), what)


def _wanted(
    entries: Iterable[RouteEntry], family: int, table: int, index: int | None = None
) -> Iterator[RouteEntry]:
    """The requested routes only; older kernels ignore the filter of a dump and return more."""
    for entry in entries:
        asked = entry.destination.family == family and entry.table == table and index in (None, entry.output)
        if asked and not entry.cloned:
            yield entry


def _same(wanted: Rule, present: Rule) -> bool:
    return present == (wanted if wanted.priority is not None else wanted._replace(priority=present.priority))


def _check_batch(
    refused: list[tuple[int, Refusal]], verb: str, noun: str, items: Sequence[T], words: Callable[[T], str]
) -> None:
    if not refused:
        return
    shown = "; ".join(f"{words(items[index])}: {refusal}" for index, refusal in refused[:3])
    rest = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
    what = f"cannot {verb} {len(refused)} of {len(items)} {noun}: {shown}{rest}"
    raise BatchError(what, ((index, refusal.errno) for index, refusal in refused))


def _route_text(route: Route) -> str:
    table = "" if route.table == MAIN_TABLE else f" in table {route.table}"
    return f"{route.destination} through {route.device}{table}"


def _rule_text(rule: Rule) -> str:
    mark = "" if rule.fwmark is None else f"{'' if rule.other else 'not '}fwmark {rule.fwmark} "
    suppress = "" if rule.suppress_prefixlength is None else f" suppress_prefixlength {rule.suppress_prefixlength}"
    return f"{mark}table {rule.table}{suppress} (IPv{rule.family})"
