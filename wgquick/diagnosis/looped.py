"""Which endpoints a change would route into the tunnel itself, perhaps through others: traced before it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgquick.diagnosis import nets
from wgquick.diagnosis.trace import trace
from wgquick.executor.observe import MOST_TRACED
from wgquick.net import pack_address
from wgquick.routing import UDP, Query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wgquick.config.settings import Settings
    from wgquick.routing import Snapshot


def known_endpoints(settings: Settings) -> list[str]:
    """The first MOST_TRACED endpoints that are addresses without a zone."""
    hosts = dict.fromkeys(peer.endpoint.host for peer in settings.peers if peer.endpoint is not None)
    return [each for each in hosts if nets.literal(each) is not None and "%" not in each][:MOST_TRACED]


def may_loop(name: str, settings: Settings, tunnels: Callable[[], Iterable[str]]) -> bool:
    """Whether an endpoint is in an AllowedIP, or a full tunnel is one of several `tunnels`. A trace decides."""
    ips = [ip for peer in settings.peers for ip in peer.allowed_ips]
    inside = nets.NetworkSet(ip for ip in ips if ip.length)
    if any(inside.covers(nets.host(pack_address(each))) for each in known_endpoints(settings)):
        return True
    return any(not ip.length for ip in ips) and any(each != name for each in tunnels())


def looped(after: Snapshot, name: str, mark: int, addresses: Iterable[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The endpoints to which packets with the tunnel's mark go into the tunnel, each with the tunnels on the way.

    `after` is the namespace after the change (`diagnosis.cut_off.planned`).
    """
    found = []
    for address in addresses:
        links = trace(after, Query(pack_address(address), mark=mark, protocol=UDP)).links
        if name in links:
            found.append((address, (name, *links[: links.index(name)])))
    return found
