"""The evidence about one interface, gathered once, as plain values. The rules judge it."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.plan.file_peers import merged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wgquick.config.settings import PeerSettings, Settings
    from wgquick.counters import Diagnostics
    from wgquick.device import Device, DevicePeer
    from wgquick.diagnosis.senders import CaptureSummary
    from wgquick.diagnosis.signatures import Sign
    from wgquick.errors import Diagnostic
    from wgquick.executor.journal import Record
    from wgquick.net import Endpoint, Prefix, PublicKey, Rule, SocketAddress
    from wgquick.observations import Echo, Foreign, LinkState, Neighbour, PathMtu, Rulesets, Way


class File(NamedTuple):
    """The configuration file: its settings, or its faults. Without a file, `path` is "" and `settings` None.

    `changed` is the time of its last change, in seconds since 1970.
    """

    path: str = ""
    settings: Settings | None = None
    faults: tuple[Diagnostic, ...] = ()
    changed: float = 0.0


class PortState(NamedTuple):
    """The UDP port: whether the device has it, the errno of binding it, and the programs that have it."""

    port: int = 0
    is_bound: bool = True
    refusal: int = 0
    holders: tuple[str, ...] = ()


class Outside(NamedTuple):
    """The route of a peer's encrypted packets. `sent` is the errno of sending, None if nothing was sent.

    `loop` are the tunnels that the packets go into one after the other, if the last leads into one of them again.
    `back` is the route to the endpoint that the reverse path filter looks up. `has_carrier` is about
    the link of that route, and `is_neighbour_silent` about its gateway, or the endpoint if it has none.
    `ports` are the links that carry that link's packets, if it is a bridge, bond or VLAN. `has_arp` is False if it
    looks up no neighbours. `neighbour` is that gateway, or the endpoint, if it was looked up.
    """

    way: Way | None = None
    sent: int | None = None
    back: Way | None = None
    loop: tuple[str, ...] = ()
    has_carrier: bool = True
    is_neighbour_silent: bool = False
    ports: tuple[str, ...] = ()
    has_arp: bool = True
    neighbour: Neighbour | None = None


class HandshakeResult(NamedTuple):
    """The result of doctor's own handshake: `outcome` is "answered", "refused" (wrong preshared key), "cookie", or
    "" if nothing came. `tries` counts the initiations. `link` is where the answer arrived, and `was_admitted` is
    true if it passed this host's firewall. `left_by` are the links that sent initiations, None if that is unknown.
    """

    outcome: str = ""
    tries: int = 0
    link: str = ""
    was_admitted: bool = True
    left_by: frozenset[str] | None = None


class Beyond(NamedTuple):
    """Unanswered packets of one family to a network beyond the other end of a full tunnel.

    `target` is the address that was probed. `is_forwarding` is true if the other end reported a packet without hops
    left, which it does only if it forwards; `is_refused` if it reported the address as unreachable. `sent` are the
    destinations beyond to which this host itself sends. `works` is true if packets of the other family come back
    from beyond.
    """

    peer: PublicKey
    family: int
    target: str
    is_forwarding: bool = False
    is_refused: bool = False
    sent: tuple[str, ...] = ()
    works: bool = False


class Watched(NamedTuple):
    """A peer's activity while doctor watched: the device's values before and after, and the results of probes.

    `endpoints` are the endpoints that it had, in order, without repetitions.
    """

    before: DevicePeer
    after: DevicePeer
    echoes: tuple[Echo, ...] = ()
    handshake_result: HandshakeResult | None = None
    endpoints: tuple[str, ...] = ()
    handshakes: int = 0
    fitting: int | None = None
    """The largest packet that passed, if one of the link's MTU did not; None if that passed or was not tried."""
    unbound: Echo | None = None
    """The result of a probe by this host's own routes to an address that answered one into the tunnel."""
    path: PathMtu | None = None
    """The path to the endpoint outside the tunnel, if a packet of the link's MTU did not pass."""

    @property
    def came(self) -> tuple[str, ...]:
        """The probed addresses with answers that arrived but did not reach the socket, by family."""
        works = {":" in echo.address for echo in self.echoes if echo.answered}
        lost = (echo.address for echo in self.echoes if echo.came and not echo.answered)
        return tuple(each for each in lost if (":" in each) not in works)

    @property
    def has_data(self) -> bool:
        """Whether more bytes came than handshakes (92 or 148 bytes) and a few keepalives (32 bytes).

        A peer that gets no answer repeats its initiation, up to three times while doctor watches.
        """
        rest = self.received - 92 * self.has_new_handshake
        return rest > 0 and not any(rest - 148 * times in range(0, 6 * 32, 32) for times in range(4))

    @property
    def answers(self) -> bool:
        """Whether a probe was answered through the tunnel."""
        return any(echo.answered for echo in self.echoes)

    @property
    def received(self) -> int:
        """The bytes that were received meanwhile."""
        return self.after.rx_bytes - self.before.rx_bytes

    @property
    def sent(self) -> int:
        """The bytes that were sent meanwhile."""
        return self.after.tx_bytes - self.before.tx_bytes

    @property
    def has_new_handshake(self) -> bool:
        """Whether a handshake was completed meanwhile."""
        return self.after.last_handshake > self.before.last_handshake


class Evidence(NamedTuple):
    """Everything that is known about one interface.

    `routes` are the routes through the link, by table. `ways` are the kernel's routes to addresses in AllowedIPs,
    and `ways_from` those from the link's own address. `ways_back` are those to senders of captured messages.
    `silent` are neighbours, as link and address, that do not answer. `renamed` is the name that the link has now,
    if it was renamed after up. `resolved` has the addresses of each endpoint given by name, None if it does not
    resolve. `local` are all addresses of the host, and `networks` those of other links with their prefix lengths.
    `counters` are the daemon's counters, None if it has none; `counters_before` are those before the watching.
    `signs` are those of `listened` seconds of capture, `heard` is the capture, None if there was none.
    `listen` are the seconds of --listen. `asked_servers` are DNS servers of the file, and whether each answered a
    query. `beyond` are the families in which nothing comes back from beyond a full tunnel. `passed_on` are the
    (source, destination) of packets that came out of the tunnel and are not for this host. `came_out` and
    `went_in` are all such pairs of packets out of the tunnel and into it, doctor's own probes not included.
    `has_sent` is whether any packet went into it, probes included; None if nothing was captured. `rejections` are
    addresses that rejected an echo request themselves.
    `parameters` are kernel parameters by their path below /proc/sys, None if the kernel lacks one.
    `unread` says what was not read for lack of time; `is_unread` is true if nothing was.
    """

    name: str
    now: float
    file: File = File()
    record: Record | None = None
    link: LinkState | None = None
    link_after: LinkState | None = None
    uplink: str = ""
    renamed: str = ""
    device: Device | None = None
    device_error: str = ""
    own_key: PublicKey | None = None
    file_key: PublicKey | None = None
    others: tuple[Device, ...] = ()
    addresses: tuple[Prefix, ...] = ()
    local: frozenset[bytes] = frozenset()
    networks: tuple[tuple[Prefix, str], ...] = ()
    takes_ipv6: bool = True
    table: int | None = None
    routes: Mapping[int, frozenset[Prefix]] = {}
    foreign: tuple[Foreign, ...] = ()
    rules: tuple[Rule, ...] = ()
    firewalls: tuple[tuple[str, int], ...] = ()
    rulesets: Rulesets | None = None
    dns_mode: str = ""
    dns_now: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    name_servers: tuple[str, ...] = ()
    name_servers_file: str = "/etc/resolv.conf"
    unread: tuple[str, ...] = ()
    is_unread: bool = False
    parameters: Mapping[str, str | None] = {}
    ways: Mapping[str, Way] = {}
    ways_from: Mapping[str, Way] = {}
    ways_back: Mapping[str, Way] = {}
    resolved: Mapping[Endpoint, tuple[SocketAddress, ...] | None] = {}
    port: PortState = PortState()
    outside: Mapping[PublicKey, Outside] = {}
    silent: frozenset[tuple[str, str]] = frozenset()
    watched: Mapping[PublicKey, Watched] = {}
    signs: tuple[Sign, ...] = ()
    asked_servers: Mapping[str, bool] = {}
    beyond: tuple[Beyond, ...] = ()
    passed_on: tuple[tuple[str, str], ...] = ()
    came_out: frozenset[tuple[str, str]] = frozenset()
    went_in: frozenset[tuple[str, str]] = frozenset()
    rejections: frozenset[str] = frozenset()
    has_sent: bool | None = None
    listened: float = 0.0
    listen: float = 0.0
    heard: CaptureSummary | None = None
    counters_before: Diagnostics | None = None
    counters: Diagnostics | None = None

    @property
    def settings(self) -> Settings | None:
        """The file's settings; None if there is no file or it has faults."""
        return self.file.settings

    @property
    def is_up(self) -> bool:
        """Whether there is a WireGuard device and its link is up."""
        return self.device is not None and self.link is not None and self.link.is_up

    @property
    def is_moved(self) -> bool:
        """Whether the device's UDP socket is in another network namespace, which cannot be inspected from here."""
        return self.link is not None and self.link.is_moved

    @property
    def peers(self) -> tuple[DevicePeer, ...]:
        """The device's peers; none if there is no device."""
        return self.device.peers if self.device else ()

    @property
    def fwmark(self) -> int:
        """The device's mark; 0 if it has none or there is no device."""
        return self.device.fwmark if self.device else 0

    @property
    def listen_port(self) -> int:
        """The UDP port: the device's, else the file's; 0 if neither has one."""
        own = self.device.listen_port if self.device else 0
        return own or (self.settings.listen_port if self.settings else 0) or 0

    @property
    def hooks(self) -> str:
        """The PreUp and PostUp hooks, one per line."""
        settings = self.settings
        return "\n".join((*settings.pre_up, *settings.post_up)) if settings else ""

    @property
    def wanted(self) -> dict[PublicKey, PeerSettings]:
        """The file's peers."""
        return merged(self.settings) if self.settings else {}

    @property
    def live(self) -> dict[PublicKey, DevicePeer]:
        """The device's peers."""
        return {peer.public_key: peer for peer in self.peers}


def dials(peer: DevicePeer, wanted: PeerSettings | None, *, has_file: bool) -> bool:
    """Whether this end connects: the file has an Endpoint or, without a file, the device has one."""
    return wanted is not None and wanted.endpoint is not None if has_file else peer.endpoint is not None
