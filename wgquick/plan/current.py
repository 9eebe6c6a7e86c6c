"""The current state of one interface on the host, read at one moment by `executor.snapshot`."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.plan.down import own_rules

if TYPE_CHECKING:
    from wgquick.device import Device
    from wgquick.net import FirewallRules, Link, LinkAddress, LinkRoute, Rule


class LinkDns(NamedTuple):
    """The DNS of a link. `mode` sets it: "resolvconf", "resolved", "file" or "off".

    `full_tunnel` is whether the link gets all queries; None if the mode does not show this.
    """

    mode: str
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    full_tunnel: bool | None = None


class Current(NamedTuple):
    """The state of an interface. `link` is None if there is no such link, `device` if it is not a WireGuard link.

    `routes` are those through the link, in all tables; `rules` has all rules of the host, as rules of other tunnels
    may matter. `firewall` has the interface's own rules. `dns` has no servers if the link has none.
    `src_valid_mark` is None if /proc/sys does not show it. `ipv6` is whether the link takes IPv6 addresses.
    """

    name: str
    link: Link | None = None
    device: Device | None = None
    addresses: tuple[LinkAddress, ...] = ()
    routes: tuple[LinkRoute, ...] = ()
    rules: tuple[Rule, ...] = ()
    firewall: tuple[FirewallRules, ...] = ()
    dns: LinkDns = LinkDns("off")
    src_valid_mark: str | None = None
    ipv6: bool = True

    def default_rules(self, family: int) -> tuple[Rule, ...]:
        """The rules of a full tunnel of this family: the rule for the fwmark's table, and the suppress rule below.

        Empty if no rule refers to the fwmark's table. The suppress rule may be missing.
        """
        mark = self.device.fwmark if self.device else 0
        return tuple(rule for rule in own_rules(self.rules, mark) if mark and rule.family == family)

    def is_full(self, family: int) -> bool:
        """Whether a full tunnel of this family is in place: its table rule and a default route in that table."""
        mark = self.device.fwmark if self.device else 0
        has_rule = any(rule.fwmark == rule.table == mark for rule in self.default_rules(family))
        return has_rule and any(
            route.table == mark and route.destination.length == 0 and route.destination.family == family
            for route in self.routes
        )
