"""The state that decides a packet's path in a network namespace: rules, routes, links, neighbours, devices.

`wgquick.system.snapshot` reads it as a Snapshot. To simulate a change, replace parts of it: it has only tuples
and mappings. Addresses are packed (4 or 16 bytes), links are names, numbers and words are the kernel's
(linux/rtnetlink.h, linux/fib_rules.h, ip-rule(8), ip-route(8)).
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import MAIN_TABLE, TABLES, family_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wgquick.device import Device
    from wgquick.net import Prefix, PublicKey

LOCAL_TABLE = TABLES["local"]
UNIVERSE, LINK, HOST = 0, 253, 254
"""Scopes (RT_SCOPE_*): of routes and of IPv4 addresses."""
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
"""Protocols (IPPROTO_*)."""
LOOPBACK = "lo"


class Ports(NamedTuple):
    """A range of ports; with a `mask`, the ports that equal `first` in the mask's bits."""

    first: int
    last: int
    mask: int = 0


class PolicyRule(NamedTuple):
    """A policy routing rule. Unused selectors are None, "" or 0.

    `action` is "lookup" (in `table`), "goto" (the rule of priority `target`), "nop", "blackhole", "unreachable" or
    "prohibit". `fwmask` 0: any mark. `tos_mask` 0: any DS field. The rule ignores routes with a prefix length of at
    most `suppress_prefixlength` and routes through links of the group `suppress_group`. `l3mdev`: the table is that
    of the packet's VRF. `unread` names selectors that wgq does not evaluate: such a rule counts as not matching.
    """

    priority: int
    action: str = "lookup"
    table: int = 0
    target: int = 0
    inverted: bool = False
    source: Prefix | None = None
    destination: Prefix | None = None
    input_link: str = ""
    output_link: str = ""
    fwmark: int = 0
    fwmask: int = 0
    tos: int = 0
    tos_mask: int = 0
    uids: tuple[int, int] | None = None
    protocol: int = 0
    source_ports: Ports | None = None
    destination_ports: Ports | None = None
    l3mdev: bool = False
    suppress_prefixlength: int | None = None
    suppress_group: int | None = None
    unread: tuple[str, ...] = ()


class NextHop(NamedTuple):
    """One next hop; with `gateway` None the destination is on the link. The gateway may be of the other family."""

    link: str = ""
    gateway: bytes | None = None
    weight: int = 1
    is_dead: bool = False
    has_no_carrier: bool = False
    is_onlink: bool = False


class TableRoute(NamedTuple):
    """A route of a table; `kind` as in ip-route(8), `source` is the preferred source address (`src`).

    `origin` is the prefix of the source addresses that it matches (IPv6 `from`); `preference` is the router's (RFC
    4191: 0 medium, 1 high, 3 low). `nexthop` is the ID of a nexthop object (ip-nexthop(8)), resolved in `hops`.
    """

    destination: Prefix
    table: int = MAIN_TABLE
    kind: str = "unicast"
    hops: tuple[NextHop, ...] = ()
    metric: int = 0
    tos: int = 0
    scope: int = UNIVERSE
    source: bytes | None = None
    origin: Prefix | None = None
    mtu: int | None = None
    preference: int = 0
    nexthop: int = 0


class LocalAddress(NamedTuple):
    """An address of a link. `peer` is the other end's address if it is point-to-point, else None."""

    address: bytes
    length: int
    scope: int = UNIVERSE
    peer: bytes | None = None
    is_secondary: bool = False
    is_tentative: bool = False
    is_deprecated: bool = False


class NetworkLink(NamedTuple):
    """A link with its kernel parameters.

    `master` is the link that it is enslaved to; `vrf_table` the table of a VRF, else 0. `rp_filter` (0, 1 strict, 2
    loose), `src_valid_mark` and `accept_local` are the effective values, combined with conf/all; `forwards` is
    IPv4's. `ignores_linkdown` has the families in which routes without carrier are ignored.
    """

    ifindex: int
    name: str
    mtu: int = 1500
    is_up: bool = True
    has_carrier: bool = True
    kind: str = ""
    master: str = ""
    vrf_table: int = 0
    group: int = 0
    is_loopback: bool = False
    addresses: tuple[LocalAddress, ...] = ()
    rp_filter: int = 0
    src_valid_mark: bool = False
    accept_local: bool = False
    forwards: bool = False
    route_localnet: bool = False
    ignores_linkdown: tuple[int, ...] = ()


class TunnelDevice(NamedTuple):
    """A WireGuard device, without its secrets; `public_key` is its own, None without a private key."""

    device: Device
    public_key: PublicKey | None = None


class Neighbour(NamedTuple):
    """A neighbour entry; `state` as in ip-neighbour(8)."""

    state: str
    link_address: str = ""


class Snapshot(NamedTuple):
    """A network namespace at one moment.

    `rules` and `routes` are by family (4, 6); rules and `links` are in the kernel's order. `outside` has the
    namespaces of WireGuard links with a socket in another one, None if it cannot be read. `unread` maps WireGuard
    links to the reason why their daemons do not answer. `time` is in seconds since the epoch.
    """

    rules: Mapping[int, tuple[PolicyRule, ...]]
    routes: Mapping[int, tuple[TableRoute, ...]]
    links: Mapping[str, NetworkLink]
    devices: Mapping[str, TunnelDevice] = {}
    neighbours: Mapping[tuple[str, bytes], Neighbour] = {}
    outside: Mapping[str, Snapshot | None] = {}
    unread: Mapping[str, str] = {}
    forwards6: bool = False
    table_names: Mapping[int, str] = {}
    time: float = 0.0


class Query(NamedTuple):
    """A query for the path of a packet.

    `input_link` "": this host sends it. `output_link`: the socket is bound to that link (a VRF, the zone of a
    link-local address). `uid` is the sending socket's user. `protocol` 0, ports 0: unknown.
    """

    destination: bytes
    source: bytes | None = None
    mark: int = 0
    input_link: str = ""
    output_link: str = ""
    uid: int = 0
    protocol: int = 0
    source_port: int = 0
    destination_port: int = 0
    tos: int = 0

    @property
    def family(self) -> int:
        """4 or 6."""
        return family_of(self.destination)


class Flow(NamedTuple):
    """The packets that a probe follows: those to an address, and the replies from it.

    `what` describes them for people. `port` is the destination port of TCP or UDP, 0 for any.
    """

    what: str
    address: bytes
    protocol: int = 0
    port: int = 0


class Dropped(NamedTuple):
    """A dropped packet of a probe: `what` describes it, `is_reply` is whether it was a reply.

    The rule is number `handle` in a chain of a table, `text` is its text in nft(8)'s syntax. Handle 0 is the
    chain's policy.
    """

    what: str
    is_reply: bool
    family: str
    table: str
    chain: str
    handle: int = 0
    text: str = ""


class Probe(NamedTuple):
    """The result of a probe: `error` is the errno with which the kernel refused to send it, 0 on success.

    `unseen` describes the packets that were not sent in time.
    """

    error: int = 0
    dropped: tuple[Dropped, ...] = ()
    unseen: tuple[str, ...] = ()


class Answer(NamedTuple):
    """The kernel's answer to a query (RTM_GETROUTE); `error` is its errno, 0 if there is a route."""

    error: int = 0
    kind: str = "unicast"
    table: int = 0
    link: str = ""
    gateway: bytes | None = None
    source: bytes | None = None
    mtu: int | None = None
