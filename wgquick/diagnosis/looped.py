"""Which endpoints a change would route into the tunnel itself, perhaps through others: traced before it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgquick.diagnosis.trace import trace
from wgquick.net import pack_address
from wgquick.routing import UDP, Query

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.routing import Snapshot


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
