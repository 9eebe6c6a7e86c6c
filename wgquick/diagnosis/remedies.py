"""Remedies that both `wgq check` and `wgq doctor` print."""

from __future__ import annotations

NEW_KEY = "write the other end's public key, and generate a new private key: others may know this one"
OTHER_NETWORK = "choose another network for the tunnel, at both ends"
SET_CLOCK = "set the clock (timedatectl, chronyc makestep): peers reject handshakes with an old timestamp"


def resolve(name: str) -> str:
    """The remedy for a name that does not resolve."""
    return f"try `getent ahosts {name}'; correct the name, or this host's DNS"
