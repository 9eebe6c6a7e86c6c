"""`wgq trace`: shows the path of a packet."""

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
    """Print the path; the status is 0 for every verdict."""
    query = query_of(target, given)
    if "probe" in given and query.input_link:
        what = "--probe sends a packet from this host, but --iif is for a packet that arrives"
        raise WgqError(what, remedy="Omit one of them.")
    privilege.acquire()
    other_end = str(given["peer-config"]) if "peer-config" in given else None
    found = api.trace(query, peer_config=other_end, probe="probe" in given)
    write(show.json_text(found.trace) if given.get("json") else show.text(*found))
