"""Decodes the answer to `diagnostics=1` (userspace/src/diagnostics.rs)."""

from __future__ import annotations

from wgquick.counters import Diagnostics, Event, Events
from wgquick.net import PublicKey
from wgquick.system.wireguard.uapi_codec import socket_address

REQUEST = b"diagnostics=1\n\n"


def decode(answer: bytes) -> Diagnostics:
    """The counters in an answer; lines of later versions are skipped. ValueError if it cannot be parsed."""
    try:
        return _decode(answer.decode())
    except (ValueError, KeyError):
        raise ValueError("cannot parse the answer") from None


def _decode(answer: str) -> Diagnostics:
    device = _Section()
    section, peers = device, dict[PublicKey, _Section]()
    for line in answer.splitlines():
        name, _, value = line.partition("=")
        if name == "public_key":
            section = peers[PublicKey(bytes.fromhex(value))] = _Section()
        elif name == "event":
            section.events.append({name: value})
        else:
            section.fields()[name] = value
    return Diagnostics(device.read(), {key: each.read() for key, each in peers.items()})


class _Section:
    """The lines of a device or of a peer."""

    def __init__(self) -> None:
        self.own: dict[str, str] = {}
        self.events: list[dict[str, str]] = []

    def fields(self) -> dict[str, str]:
        """The fields of the current section."""
        return self.events[-1] if self.events else self.own

    def read(self) -> Events:
        return Events(int(self.own["counting_ms"]) / 1000, tuple(_event(fields) for fields in self.events))


def _event(fields: dict[str, str]) -> Event:
    def number(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    return Event(
        name=fields["event"],
        times=int(fields["count"]),
        age=int(fields["age_ms"]) / 1000,
        sender=socket_address(fields["from"]) if "from" in fields else None,
        receiver=socket_address(fields["to"]) if "to" in fields else None,
        static_key=PublicKey(bytes.fromhex(fields["static_key"])) if "static_key" in fields else None,
        clock=number("clock_sec"),
        newest=number("newest_sec"),
        source=fields.get("source", ""),
        destination=fields.get("destination", ""),
        send_errno=number("send_errno") or 0,
        icmp=fields.get("icmp", ""),
        router=fields.get("router", ""),
        mtu=number("mtu") or 0,
        reason=fields.get("reason", ""),
    )
