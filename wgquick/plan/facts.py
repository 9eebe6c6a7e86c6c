"""What a stage of up, down or reload needs to know of the host, beside the current state (`plan.current`)."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import FIRST_TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wgquick.net import AllowedIP, Endpoint, Prefix, Rule, SocketAddress
    from wgquick.plan.lost import CurrentExtras


class EndpointFacts(NamedTuple):
    """The address of each endpoint of the configuration; a name without an address yet is left out."""

    resolved: Mapping[Endpoint, SocketAddress]


class MtuFacts(NamedTuple):
    """The path MTUs (bytes) of the endpoints that have a route, and that of the default route, if any."""

    endpoints: tuple[int, ...] = ()
    default: int | None = None


class DefaultFacts(NamedTuple):
    """The facts for add_default. `rules` has both families; `free_table` is the first free table from 51820.

    `src_valid_mark` is None if /proc/sys does not show it. `src_valid_mark_earlier` is its value before the first
    of the tunnels that need it now, `src_valid_mark_writable` whether it can be set.
    """

    fwmark: int = 0
    listen_port: int = 0
    free_table: int = FIRST_TABLE
    rules: tuple[Rule, ...] = ()
    addresses: tuple[Prefix, ...] = ()
    src_valid_mark: str | None = None
    src_valid_mark_earlier: str | None = None
    src_valid_mark_writable: bool = True
    firewall: str = "nft"


class RouteFacts(NamedTuple):
    """The device's AllowedIPs in its own order, and the main table's routes through the link.

    `default` is None if no AllowedIP is a /0 for add_default.
    """

    allowed_ips: tuple[AllowedIP, ...] = ()
    routes: tuple[Prefix, ...] = ()
    ipv6: bool = True
    table: int | None = None
    default: DefaultFacts | None = None


class DesiredFacts(NamedTuple):
    """The facts that the desired state depends on.

    `device_fwmark` is the device's fwmark, `has_automatic_fwmark` whether add_default chose it.
    `link_addresses` are the link-local addresses that the kernel gave the link, `connected` their networks.
    `mtu` is None if the paths lead through the tunnel itself and cannot be measured. The facts
    about src_valid_mark are as for add_default. `lans` are the networks that `exclude = lan` means, `extras` the
    current state of wgq's own settings (None: as the journal has it).
    """

    ipv6: bool = True
    table: int | None = None
    device_fwmark: int = 0
    has_automatic_fwmark: bool = False
    free_table: int = FIRST_TABLE
    listen_port: int = 0
    link_addresses: tuple[Prefix, ...] = ()
    connected: tuple[Prefix, ...] = ()
    mtu: MtuFacts | None = MtuFacts()
    dns_mode: str = "off"
    firewall: str = "nft"
    src_valid_mark: str | None = "0"
    src_valid_mark_earlier: str | None = None
    src_valid_mark_writable: bool = True
    lans: tuple[Prefix, ...] = ()
    extras: CurrentExtras | None = None


class DownFacts(NamedTuple):
    """The facts about a tunnel without a journal; `other_marks` are the other devices' fwmarks."""

    exists: bool = True
    fwmark: int = 0
    has_default: bool = False
    rules: tuple[Rule, ...] = ()
    dns_mode: str = ""
    other_marks: frozenset[int] = frozenset()
