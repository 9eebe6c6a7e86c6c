"""The values of `wgq status`, without secrets. Times are in seconds since 1970, sizes in bytes."""

from __future__ import annotations

from typing import NamedTuple

VERSION = 1
"""The version of the JSON. It changes if a field is removed or changes its meaning, not if a field is added."""

STATES = ("never", "connecting", "up", "idle", "stale", "disabled")
"""docs/status.md defines them."""


class Drift(NamedTuple):
    """A difference between the file and the live interface; `peer` is a public key, or ""."""

    code: str
    message: str
    peer: str = ""


class Error(NamedTuple):
    """The last error of a peer: a stable code, a message, and the time (None if unknown)."""

    code: str
    message: str
    time: float | None = None


class PeerStatus(NamedTuple):
    """A peer; None means unknown. `name` is "" without a comment; `roamed` is None without an Endpoint in the file.

    `on_device` is false for a peer that only the file has. `wanted` is true if the file has the peer with an
    Endpoint and AllowedIPs, so this side should connect to it. `state` is one of STATES.
    """

    public_key: str
    name: str
    state: str
    wanted: bool
    on_device: bool
    endpoint: str | None
    configured_endpoint: str | None
    roamed: bool | None
    allowed_ips: tuple[str, ...]
    latest_handshake: float | None
    handshake_age: float | None
    rx_bytes: int
    tx_bytes: int
    rx_rate: float | None
    tx_rate: float | None
    persistent_keepalive: int
    last_error: Error | None = None


class DnsStatus(NamedTuple):
    """The DNS of an interface; `mode` is resolvconf, resolved or file."""

    mode: str
    servers: tuple[str, ...]
    search: tuple[str, ...]


class InterfaceStatus(NamedTuple):
    """An interface; None means unknown.

    `backend` is kernel, wgq-userspace, wireguard-go or the name of another program. `by` is wgq, wg-quick,
    NetworkManager or systemd-networkd. `up` is None if the link is in another network namespace. `table` is
    off, main, or a table's number or name. `drift` is None if there is no file, or the file has faults.
    `error` says why the device or the file cannot be read. `netns` is the network namespace into which wgq has put
    the link; "" is the current one.
    """

    name: str
    public_key: str | None = None
    backend: str = ""
    up: bool | None = None
    since: float | None = None
    by: str | None = None
    file: str | None = None
    listen_port: int = 0
    fwmark: int = 0
    mtu: int | None = None
    mtu_given: bool | None = None
    table: str | None = None
    addresses: tuple[str, ...] = ()
    dns: DnsStatus | None = None
    kill_switch: bool | None = None
    drift: tuple[Drift, ...] | None = None
    error: str | None = None
    netns: str = ""
    peers: tuple[PeerStatus, ...] = ()


class TrialStatus(NamedTuple):
    """A change that `wgq try` has made. `phase` is changing, pending, rejected, rolling back or failed.

    `seconds_left` is the time until the rollback; `has_watchdog` is whether a process lives that would do it.
    `message` says why a rollback failed.
    """

    interface: str
    verb: str
    phase: str
    seconds_left: float
    has_watchdog: bool
    message: str = ""


class Status(NamedTuple):
    """The interfaces at one time. `remaining_kill_switches`: names of deleted interfaces that still have one."""

    time: float
    interfaces: tuple[InterfaceStatus, ...]
    remaining_kill_switches: tuple[str, ...] = ()
    trials: tuple[TrialStatus, ...] = ()

    @property
    def is_well(self) -> bool:
        """Whether there is an interface, each is readable, and each wanted peer is up."""
        return bool(self.interfaces) and all(map(_is_well, self.interfaces))


def _is_well(interface: InterfaceStatus) -> bool:
    readable = bool(interface.backend)
    return readable and all(peer.state == "up" for peer in interface.peers if peer.wanted)
