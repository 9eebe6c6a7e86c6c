"""What was observed of the host, as data: the planners' only knowledge of the machine."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wgquick.net import AllowedIP, Endpoint, Prefix, Rule, SocketAddress


class EndpointFacts(NamedTuple):
    """What each endpoint of the configuration resolved to."""

    resolved: Mapping[Endpoint, SocketAddress]


class MtuFacts(NamedTuple):
    """The MTU of the path to each endpoint that has a route (bytes), and of the default route's path, if any."""

    endpoints: tuple[int, ...] = ()
    default: int | None = None


class DefaultFacts(NamedTuple):
    """What add_default needs to know; `rules` of both families, `free_table` the next free one from 51820.

    `src_valid_mark` is None where /proc/sys does not show it. `mark_earlier` is what it was before the
    first of the tunnels that need it now, `mark_writable` whether /proc/sys lets us set it.
    """

    fwmark: int = 0
    listen_port: int = 0
    free_table: int = 51820
    rules: tuple[Rule, ...] = ()
    addresses: tuple[Prefix, ...] = ()
    src_valid_mark: str | None = None
    mark_earlier: str | None = None
    mark_writable: bool = True
    firewall: str = "nft"


class RouteFacts(NamedTuple):
    """The device's AllowedIPs in its own order, and the main table's routes through the link.

    `default` is None where no AllowedIP is a /0 that add_default would handle.
    """

    allowed_ips: tuple[AllowedIP, ...] = ()
    routes: tuple[Prefix, ...] = ()
    ipv6: bool = True
    table: int | None = None
    default: DefaultFacts | None = None


class DesiredFacts(NamedTuple):
    """What of the host decides what a file wants.

    `device_fwmark` is the mark that the device has, `has_automatic_fwmark` whether add_default has chosen that.
    `link_addresses` are the link-local addresses that the kernel gave the link, `connected` the networks of these.
    `mtu` is None where the paths lead through the tunnel itself, so that they cannot be measured.
    `mark_earlier` and `mark_writable` are as for add_default.
    """

    ipv6: bool = True
    table: int | None = None
    device_fwmark: int = 0
    has_automatic_fwmark: bool = False
    free_table: int = 51820
    listen_port: int = 0
    link_addresses: tuple[Prefix, ...] = ()
    connected: tuple[Prefix, ...] = ()
    mtu: MtuFacts | None = MtuFacts()
    dns_mode: str = "off"
    firewall: str = "nft"
    mark_earlier: str | None = None
    mark_writable: bool = True


class DownFacts(NamedTuple):
    """What the host shows of a tunnel that has no journal; `other_marks` are the other devices' fwmarks."""

    exists: bool = True
    fwmark: int = 0
    has_default: bool = False
    rules: tuple[Rule, ...] = ()
    dns_mode: str = ""
    other_marks: frozenset[int] = frozenset()
