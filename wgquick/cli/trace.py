"""`wgq trace`: which way a packet goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgquick import api
from wgquick.cli import privilege
from wgquick.cli.packet import query_of
from wgquick.cli.verbs import write
from wgquick.errors import WgqError
from wgquick.show import trace as show

if TYPE_CHECKING:
    from wgquick.cli.verbs import Given


def trace(target: str, given: Given) -> None:
    """Print the way; the status is 0 whatever the verdict is, as the question was answered."""
    query = query_of(target, given)
    if "probe" in given and query.input_link:
        raise WgqError("--probe sends a packet from this host, and --iif is for one that comes in")
    privilege.acquire()
    far_end = str(given["peer-config"]) if "peer-config" in given else None
    found = api.trace(query, peer_config=far_end, probe="probe" in given)
    write(show.json_text(found.trace) if given.get("json") else show.text(*found))
