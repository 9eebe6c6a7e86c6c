"""The events of `wgq watch`, as values, text and JSON lines."""

from __future__ import annotations

import json
from typing import NamedTuple

RESTORED = "{}-restored"
MISSING = "{}-missing"


class Event(NamedTuple):
    """One event; `time` is in seconds since 1970.

    `event` is KIND-restored or, with `check_only`, KIND-missing, endpoint-resolved, endpoint-allowed,
    exclude-changed, mtu-changed, peer-up, peer-down or gave-up. KIND is rule, route, address, firewall, dns or
    sysctl. `text` has the details. `peer` is a public key in base64, or "". `culprit` is the program that probably
    made the change, "" if unknown.
    """

    time: float
    event: str
    interface: str
    text: str = ""
    peer: str = ""
    culprit: str = ""


def json_line(event: Event) -> str:
    """The event as one line of JSON, without empty fields."""
    fields = {name: value for name, value in event._asdict().items() if value}
    return json.dumps(fields | {"time": round(event.time, 3)}) + "\n"


def text_line(event: Event) -> str:
    """The event as a line of text: `wg0: rule-restored: ip -4 rule: ... (by ip)`."""
    words = [event.interface, event.event, *filter(None, (event.peer, event.text))]
    by = f" (by {event.culprit})" if event.culprit else ""
    return ": ".join(words) + by + "\n"
