"""A packet as a firewall sees it, what becomes of it, and the hooks of Netfilter that it passes, in order."""

from __future__ import annotations

from wgquick.lean import NamedTuple

ARRIVING = ("ingress", "prerouting", "input")
LEAVING = ("output", "postrouting")
PASSING = ("prerouting", "forward", "postrouting")


class Packet(NamedTuple):
    """What is known of a packet; "" and 0: nothing. `state` as conntrack has it, `icmp` as nft(8) names the type.

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
    """Whether a packet is dropped, whether that is certain, and by what, in words.

    `suspect` is a rule, in words, that drops the packet if what is not known of it matches.
    """

    is_dropped: bool = False
    is_certain: bool = True
    where: str = ""
    suspect: str = ""
