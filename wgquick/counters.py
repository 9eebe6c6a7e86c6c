"""What wgq-userspace counts of the events that WireGuard passes over in silence.

`api.diagnostics(name)` reads it, by the daemon's own request `diagnostics=1`. `userspace/src/diagnostics.rs` says
when each event occurs. The counters of a device begin with the daemon, those of a peer with that peer. They hold
public keys and addresses, and no secret.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wgquick.net import PublicKey, SocketAddress

# The events of the device: nobody knows of which peer they are.
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
    """One kind of event: how often it occurred, and what is known of the last time.

    `age` is seconds since the last time, whatever became of the clock. `sender` and `receiver` are of the outer
    packet; of `roamed` they are the old and the new endpoint, of `icmp` the receiver is where our packet went. What
    does not belong to an event is None, empty or 0. Each variant is an Event of its own (`unknown_key` by key,
    `send_error` by errno, `icmp` by kind, `staged_dropped` by reason): the last eight of a name. One more without
    its variant counts those before them.
    """

    name: str
    times: int
    age: float
    sender: SocketAddress | None = None
    receiver: SocketAddress | None = None
    static_key: PublicKey | None = None  # that an initiation proved to have
    clock: int | None = None  # of an initiation's time stamp: seconds since 1970, any number
    newest: int | None = None  # of the newest one accepted before: what their clock has to pass
    source: str = ""  # address of the inner packet
    destination: str = ""
    send_errno: int = 0
    icmp: str = ""  # the `meaning` of datagram.IcmpError
    router: str = ""  # who sent the ICMP error
    mtu: int = 0  # that it asks for
    reason: str = ""  # overflow, handshake_given_up, link_down


class Events(NamedTuple):
    """The events of a device or of a peer, and for how many seconds they have been counted."""

    counting: float = 0.0
    events: tuple[Event, ...] = ()

    def of(self, *names: str) -> tuple[Event, ...]:
        """The events of these names, the last one first."""
        found = [each for each in reversed(self.events) if each.name in names]
        return tuple(sorted(found, key=lambda each: each.age))

    def last(self, *names: str) -> Event | None:
        """What happened last of these names; None if none of it ever did."""
        found = self.of(*names)
        return found[0] if found else None

    def total(self, *names: str) -> int:
        """How often any of these happened."""
        return sum(each.times for each in self.of(*names))


class Diagnostics(NamedTuple):
    """What a daemon counts: of the device, and of the peers that had an event."""

    device: Events
    peers: Mapping[PublicKey, Events]

    def peer(self, key: PublicKey) -> Events:
        """The events of a peer, none where it had none."""
        return self.peers.get(key, Events())
