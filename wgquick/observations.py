"""What doctor reads from a host, as plain values: `wgquick.system.inspection` reads, doctor judges."""

from __future__ import annotations

from wgquick.lean import NamedTuple


class LinkState(NamedTuple):
    """A link with its counters (ip-link(8), `-s`), which doctor's bundle prints; `is_up`: the administrative state.

    `is_moved`: a WireGuard link that has its UDP socket in another network namespace. `has_carrier` is False if no
    cable is connected or no wireless network is joined. `master` is the index of its bridge or bond, `parent` that
    of the link that carries a VLAN, 0 for none. `has_arp` is False for Ethernet without ARP.
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
    has_carrier: bool = True
    master: int = 0
    parent: int = 0
    has_arp: bool = True


class Neighbour(NamedTuple):
    """What is known of a neighbour on an Ethernet link: the link-layer address that the kernel uses, "" for none,
    whether it was set by hand, and those that answered an ARP request for it. `others` are the link-layer addresses
    of other hosts that have this host's own address on that link.
    """

    used: str = ""
    is_permanent: bool = False
    answers: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class Way(NamedTuple):
    """The kernel's route to an address (RTM_GETROUTE); `errno` is set if there is none. `mtu` 0: the link's."""

    link: str = ""
    gateway: str = ""
    source: str = ""
    kind: str = "unicast"
    destination: str = ""
    table: int = 0
    mtu: int = 0
    errno: int = 0


class Foreign(NamedTuple):
    """A route of another link; `destination` as `ip route` prints it. `is_connected`: the kernel added it."""

    destination: str
    link: str
    is_connected: bool = False


class Echo(NamedTuple):
    """The result of probing an address through the tunnel. `errno` is set if the kernel refused to send.

    `answered` is the kind of the answer: "icmp", "udp", "tcp" or "". `came`: an answer was captured on the tunnel's
    link, before this host's firewall.
    """

    address: str
    answered: str = ""
    errno: int = 0
    came: bool = False


class Arrivals(NamedTuple):
    """The packets captured on a tunnel's link: the sources of echo replies that came out of it, and the (source,
    destination) pairs of all packets that came out, and of all that went in. `refusals` are the destinations
    about which ICMP errors came out, with the `meaning` of the error (`datagram.IcmpError`). `rejections` are
    addresses that answered an echo request with such an error themselves, as only a firewall does. `has_sent` is
    whether any packet went in, doctor's included; None if nothing can be captured.
    """

    replies: frozenset[str]
    destinations: frozenset[tuple[str, str]]
    returned: frozenset[tuple[str, str]] = frozenset()
    refusals: frozenset[tuple[str, str]] = frozenset()
    rejections: frozenset[str] = frozenset()
    has_sent: bool | None = None


class Rulesets(NamedTuple):
    """The host's firewall rules: JSON of nft(8), and text of iptables-save(8).

    `legacy` is the legacy variant of iptables, `compat` the nft variant if its rules use extensions.
    `unread` are the programs that did not end in time.
    """

    nft: str = ""
    legacy4: str = ""
    legacy6: str = ""
    compat4: str = ""
    compat6: str = ""
    unread: tuple[str, ...] = ()


class PathMtu(NamedTuple):
    """What is known of the path's MTU: sizes of IP packets in bytes, 0 for unknown.

    `reported` is the smallest MTU in an error, `sender` the error's source ("" for this host). `answered` is the
    largest echo request that was answered, `lost` the next larger size.
    """

    reported: int = 0
    sender: str = ""
    answered: int = 0
    lost: int = 0

    @property
    def mtu(self) -> int:
        """The best estimate; 0 if nothing is known. Without a reported MTU it is a lower bound."""
        return min(self.reported or self.answered, self.answered or self.reported)
