"""What a watch tells, as values, as text and as JSON lines."""

from __future__ import annotations

import json
from typing import NamedTuple

RESTORED = "{}-restored"
MISSING = "{}-missing"


class Event(NamedTuple):
    """One thing that happened, at `time` (seconds since the epoch).

    `event` is KIND-restored or, with `check_only`, KIND-missing (rule, route, address, firewall, dns, sysctl),
    endpoint-resolved, mtu-changed, peer-up, peer-down or gave-up. `text` is what it is about, `peer` a public key
    in base64, "" if it is about none. `culprit` is who has probably done it, "" if nobody is known.
    """

    time: float
    event: str
    interface: str
    text: str = ""
    peer: str = ""
    culprit: str = ""


def json_line(event: Event) -> str:
    """One line, with the fields that are not empty."""
    fields = {name: value for name, value in event._asdict().items() if value}
    return json.dumps(fields | {"time": round(event.time, 3)}) + "\n"


def text_line(event: Event) -> str:
    """`wg0: rule-restored: ip -4 rule: ... (by ip)`."""
    words = [event.interface, event.event, *filter(None, (event.peer, event.text))]
    by = f" (by {event.culprit})" if event.culprit else ""
    return ": ".join(words) + by + "\n"
