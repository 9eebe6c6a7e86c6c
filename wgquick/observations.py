"""What a machine shows of a live tunnel, as plain values: `wgquick.system.inspection` reads, doctor judges them."""

from __future__ import annotations

from wgquick.lean import NamedTuple


class LinkState(NamedTuple):
    """A link with its error counters (ip-link(8), `-s`). `is_up` is the administrative state.

    `is_moved`: a WireGuard link whose UDP socket is in another network namespace.
    """

    ifindex: int
    name: str
    kind: str = ""
    mtu: int = 0
    is_up: bool = True
    rx_packets: int = 0
    tx_packets: int = 0
    rx_errors: int = 0
    rx_frame_errors: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0
    is_moved: bool = False


class Way(NamedTuple):
    """The kernel's route to an address (RTM_GETROUTE); with `errno` there is none. `mtu` 0: the link's."""

    link: str = ""
    gateway: str = ""
    source: str = ""
    kind: str = "unicast"
    destination: str = ""
    table: int = 0
    mtu: int = 0
    errno: int = 0


class Foreign(NamedTuple):
    """A route of another link; `destination` as `ip route` prints it. `is_connected`: the kernel made it."""

    destination: str
    link: str
    is_connected: bool = False


class Echo(NamedTuple):
    """What came of probing an address through the tunnel. `errno` is the one with which sending was refused.

    `answered` names what came back: "icmp", "udp", "tcp" or nothing. `came` tells that an answer was seen on the
    tunnel's link, whether or not this host let it pass.
    """

    address: str
    answered: str = ""
    errno: int = 0
    came: bool = False


class Arrivals(NamedTuple):
    """What was seen to come out of a tunnel: sources of echo replies, and each packet's source and destination."""

    replies: frozenset[str]
    destinations: frozenset[tuple[str, str]]


class Rulesets(NamedTuple):
    """The host's firewalls as their own programs print them: JSON of nft(8), text of iptables-save(8).

    `legacy` is the variant of iptables beside nftables, `compat` the one inside it, if it uses extensions.
    """

    nft: str = ""
    legacy4: str = ""
    legacy6: str = ""
    compat4: str = ""
    compat6: str = ""


class PathMtu(NamedTuple):
    """What is known of the path's MTU: sizes of whole IP packets in bytes, 0 for unknown.

    `told` is the smallest MTU that an error named, `sender` who sent it ("" for this host's own link). `answered`
    is the largest echo request that was answered, `lost` the smallest larger one that was not.
    """

    told: int = 0
    sender: str = ""
    answered: int = 0
    lost: int = 0

    @property
    def mtu(self) -> int:
        """The best estimate; 0 if nothing is known. It is a lower bound where only answers tell."""
        return min(self.told or self.answered, self.answered or self.told)
