"""A packet as a firewall sees it, a firewall's verdict, and the netfilter hooks of each direction, in order."""

from __future__ import annotations

from wgquick.lean import NamedTuple

ARRIVING = ("ingress", "prerouting", "input")
LEAVING = ("output", "postrouting")
PASSING = ("prerouting", "forward", "postrouting")
INTO_BRIDGE = ("bridge prerouting", "bridge input")
OUT_OF_BRIDGE = ("bridge output", "bridge postrouting")
"""The hooks of nftables' family bridge for this host's own packets, with the bridge's port as their link."""


class Packet(NamedTuple):
    """A packet; "" and 0 mean unknown. `state` is the conntrack state, `icmp` the ICMP type as nft(8) names it.

    `protocol` is "udp", "tcp", "icmp" or "icmpv6".
    """

    family: int = 4
    input_link: str = ""
    output_link: str = ""
    source: str = ""
    destination: str = ""
    protocol: str = ""
    source_port: int = 0
    destination_port: int = 0
    state: str = "new"
    mark: int = 0
    icmp: str = ""


class Verdict(NamedTuple):
    """Whether a packet is dropped, whether that is certain, and by what: `where` describes it for people.

    `suspect` describes a rule that drops the packet if its unknown conditions match.
    """

    is_dropped: bool = False
    is_certain: bool = True
    where: str = ""
    suspect: str = ""
