"""The status of an interface, and the form of its JSON."""

from __future__ import annotations

from typing import Any

from wgquick.net import PublicKey
from wgquick.status.values import STATES, VERSION, InterfaceStatus, PeerStatus

NOW = 1_700_000_000.0


def shown(n: int = 0, **fields: Any) -> PeerStatus:
    """The status of a peer, with most fields set."""
    blank: dict[str, Any] = {
        "public_key": str(PublicKey(bytes([n]) * 32)),
        "name": "",
        "state": "up",
        "wanted": True,
        "on_device": True,
        "endpoint": "192.0.2.1:51820",
        "configured_endpoint": "192.0.2.1:51820",
        "roamed": False,
        "allowed_ips": ("10.0.0.2/32",),
        "latest_handshake": NOW - 65,
        "handshake_age": 65.0,
        "rx_bytes": 1234567,
        "tx_bytes": 999,
        "rx_rate": None,
        "tx_rate": None,
        "persistent_keepalive": 0,
    }
    return PeerStatus(**{**blank, **fields})


def interface(*peers: PeerStatus, **fields: Any) -> InterfaceStatus:
    return InterfaceStatus(**{"name": "wg0", "backend": "kernel", "up": True, "peers": peers, **fields})


# The fields of the JSON; they stay as long as VERSION is 1.
PEER_FIELDS = {
    "public_key": str,
    "name": str,
    "state": str,
    "wanted": bool,
    "on_device": bool,
    "endpoint": (str, type(None)),
    "configured_endpoint": (str, type(None)),
    "roamed": (bool, type(None)),
    "allowed_ips": list,
    "latest_handshake": (float, type(None)),
    "handshake_age": (float, type(None)),
    "rx_bytes": int,
    "tx_bytes": int,
    "rx_rate": (float, type(None)),
    "tx_rate": (float, type(None)),
    "persistent_keepalive": int,
    "last_error": (dict, type(None)),
}
INTERFACE_FIELDS = {
    "name": str,
    "public_key": (str, type(None)),
    "backend": str,
    "up": (bool, type(None)),
    "since": (float, int, type(None)),
    "by": (str, type(None)),
    "file": (str, type(None)),
    "listen_port": int,
    "fwmark": int,
    "mtu": (int, type(None)),
    "mtu_given": (bool, type(None)),
    "table": (str, type(None)),
    "addresses": list,
    "dns": (dict, type(None)),
    "kill_switch": (bool, type(None)),
    "drift": (list, type(None)),
    "error": (str, type(None)),
    "netns": str,
    "peers": list,
}


def check_form(document: Any) -> None:
    """Assert that the document has the form of version 1."""
    assert document["version"] == VERSION == 1
    assert set(document) == {"version", "time", "interfaces", "standing_kill_switches", "trials"}
    for each in document["interfaces"]:
        _check_fields(each, INTERFACE_FIELDS)
        for one in each["peers"]:
            _check_fields(one, PEER_FIELDS)
            assert one["state"] in STATES
        for one in each["drift"] or ():
            assert set(one) == {"code", "message", "peer"}


def _check_fields(found: dict[str, Any], fields: dict[str, Any]) -> None:
    assert set(found) == set(fields)
    for name, kind in fields.items():
        assert isinstance(found[name], kind), name
