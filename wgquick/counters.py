"""wgq-userspace's counters of events that WireGuard ignores silently.

`api.diagnostics(name)` reads them with the request `diagnostics=1`, which only this daemon knows.
`userspace/src/diagnostics.rs` describes when each event occurs. A device's counters start with the daemon, a peer's
with the peer. They contain public keys and addresses, and no secrets.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import is_link_local, pack_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wgquick.net import PublicKey, SocketAddress

# The events of the device, without a known peer.
DEVICE_EVENTS = (
    "malformed",
    "no_private_key",
    "mac1_invalid",
    "initiation_undecryptable",
    "unknown_key",
    "response_unexpected",
    "cookie_unexpected",
    "unknown_index",
    "under_load",
    "cookie_missing",
    "cookie_sent",
    "rate_limited",
    "queue_full",
    "no_peer",
    "icmp",
)
PEER_EVENTS = (
    "initiation_sent",
    "initiation_received",
    "response_sent",
    "response_received",
    "stale_timestamp",
    "initiation_replayed",
    "initiation_flood",
    "response_undecryptable",
    "cookie_received",
    "cookie_undecryptable",
    "handshake_given_up",
    "session_expired",
    "undecryptable",
    "replayed",
    "inner_malformed",
    "source_not_allowed",
    "no_endpoint",
    "staged_dropped",
    "roamed",
    "roam_refused",
    "send_error",
    "icmp",
)


class Event(NamedTuple):
    """One kind of event: how often it occurred, and the details of its last occurrence.

    `age` is the seconds since then, independent of the clock. `sender` and `receiver` are addresses of the outer
    packet. For `roamed` they are the old and the new endpoint; for `icmp` the receiver is our packet's destination.
    Unused fields are None, empty or 0. Each variant is a separate Event (`unknown_key` by key, `send_error` by
    errno, `icmp` by kind, `staged_dropped` by reason); the last eight of a name are kept. One more Event without a
    variant counts the earlier ones. `name` is one of DEVICE_EVENTS or PEER_EVENTS.
    """

    name: str
    times: int
    age: float
    sender: SocketAddress | None = None
    receiver: SocketAddress | None = None
    static_key: PublicKey | None = None  # proved by an initiation
    clock: int | None = None  # an initiation's time stamp in seconds since 1970, unchecked
    newest: int | None = None  # the newest accepted time stamp; the peer's next one has to be later
    source: str = ""  # address of the inner packet
    destination: str = ""
    send_errno: int = 0
    icmp: str = ""  # the `meaning` of datagram.IcmpError
    router: str = ""  # the sender of the ICMP error
    mtu: int = 0  # the MTU in the ICMP error
    reason: str = ""  # overflow, handshake_given_up, link_down

    @property
    def is_automatic(self) -> bool:
        """Whether the inner packet is automatic IPv6 traffic, which the kernel sends into every TUN device."""
        address = pack_address(self.source) if self.source else b""
        return is_link_local(address) or address == bytes(16)


class Events(NamedTuple):
    """The events of a device or a peer, and the seconds since counting started."""

    counting: float = 0.0
    events: tuple[Event, ...] = ()

    def of(self, *names: str) -> tuple[Event, ...]:
        """The events with these names, the latest first."""
        found = [each for each in reversed(self.events) if each.name in names]
        return tuple(sorted(found, key=lambda each: each.age))

    def last(self, *names: str) -> Event | None:
        """The latest event with one of these names; None if there is none."""
        found = self.of(*names)
        return found[0] if found else None

    def total(self, *names: str) -> int:
        """The total count of the events with these names."""
        return sum(each.times for each in self.of(*names))


class Diagnostics(NamedTuple):
    """A daemon's counters: of the device, and of the peers with an event."""

    device: Events
    peers: Mapping[PublicKey, Events]

    def peer(self, key: PublicKey) -> Events:
        """The events of a peer; empty if it had none."""
        return self.peers.get(key, Events())
