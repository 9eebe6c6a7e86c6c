"""The codes of `wgq doctor`: severity, meaning, and what else follows from each, so that it is left out.

The order is that in which causes are told: what keeps the tunnel from being there, what makes it another one than
its file describes, what keeps its packets from leaving and arriving, and what happens inside. Codes stay the same
across releases; one that `wgq check` has too means the same there.
"""

from __future__ import annotations

from wgquick.diagnosis.finding import ERROR, INFO, WARNING
from wgquick.lean import NamedTuple


class Code(NamedTuple):
    """A code's usual severity, its meaning, and the codes of what follows from it."""

    severity: str
    meaning: str
    explains: frozenset[str] = frozenset()


_REACHING = (
    "no-answer endpoint-refuses endpoint-unreachable answer-refused no-data-back knock-unknown-key knock-wrong-key "
    "knock-stale-clock input-blocked output-blocked endpoint-no-route"
)
_INSIDE = "no-data-back source-not-allowed mtu-too-large"
_ALL = "*"

_TABLE = (
    # What keeps the tunnel from being there.
    ("port-in-use", ERROR, "something else has the UDP port", _ALL),
    ("net-in-use", ERROR, "the host has a route to a network of the tunnel already, so that up fails", _ALL),
    ("key-missing", ERROR, "the interface has no private key", _ALL),
    ("not-up", ERROR, "the interface is not up"),
    # What makes it another tunnel than its file describes.
    ("peer-is-self", ERROR, "a peer's PublicKey is this interface's own", f"peer-missing {_REACHING}"),
    ("one-key-two-places", ERROR, "two hosts have one private key", f"key-differs {_REACHING} {_INSIDE}"),
    ("key-differs", ERROR, "the device has another private key than the file", f"{_REACHING} {_INSIDE}"),
    ("peer-key-mismatch", ERROR, "a peer's PublicKey is not the other end's", f"{_REACHING} {_INSIDE}"),
    ("peer-one-sided", ERROR, "the other end does not have this one as a peer", f"{_REACHING} {_INSIDE}"),
    ("peer-missing", ERROR, "the device lacks a peer of the file", f"route-missing {_REACHING} {_INSIDE}"),
    ("psk-differs", ERROR, "the PresharedKey is another one", f"{_REACHING} {_INSIDE}"),
    ("allowed-ip-moved", ERROR, "two peers claim a network, which one of them has lost",
     "allowed-ips-differ route-missing no-data-back source-not-allowed"),
    ("allowed-ips-differ", ERROR, "a peer's AllowedIPs are other ones on the device",
     "route-missing source-not-allowed no-data-back"),
    ("mark-differs", ERROR, "the device has another FwMark",
     f"endpoint-in-tunnel rule-missing route-missing {_REACHING}"),
    ("port-differs", ERROR, "the device listens on another port", _REACHING),
    ("endpoint-port-differs", ERROR, "the Endpoint's port is not the other end's ListenPort", _REACHING),
    ("address-shared", ERROR, "both ends have one Address", _INSIDE),
    ("clock-wrong", ERROR, "this host's clock is wrong", f"{_REACHING}"),
    ("rule-missing", ERROR, "a policy routing rule is gone",
     f"endpoint-in-tunnel route-shadowed route-missing {_REACHING} {_INSIDE}"),
    ("address-missing", ERROR, "the interface lacks an Address",
     f"route-missing route-shadowed output-blocked no-answer {_INSIDE} dns-replaced"),
    ("route-missing", ERROR, "a route into the tunnel is gone", f"route-shadowed rp-filter {_INSIDE}"),
    ("sysctl-reverted", ERROR, "a kernel parameter that the tunnel needs is back at another value",
     f"rp-filter {_REACHING} {_INSIDE}"),
    # The way out.
    ("endpoint-missing", ERROR, "the device has no endpoint for the peer", _REACHING),
    ("endpoint-unresolved", ERROR, "the endpoint's name does not resolve",
     f"not-up endpoint-missing endpoint-moved {_REACHING}"),
    ("endpoint-in-tunnel", ERROR, "the encrypted packets are routed into the tunnel itself",
     f"{_REACHING} {_INSIDE}"),
    ("endpoint-no-route", ERROR, "the host has no route to the endpoint", _REACHING),
    ("output-blocked", ERROR, "this host's firewall drops what is sent",
     f"{_INSIDE} no-answer endpoint-refuses endpoint-unreachable"),
    ("rp-filter", ERROR, "the reverse path filter drops what arrives",
     f"no-answer input-blocked answer-refused {_INSIDE}"),
    ("input-blocked", ERROR, "this host's firewall drops what arrives", f"no-answer answer-refused {_INSIDE}"),
    ("endpoint-moved", ERROR, "the endpoint's name has another address now", _REACHING),
    ("endpoint-refuses", ERROR, "the endpoint's host answers that nobody listens there", "no-answer no-data-back"),
    ("endpoint-unreachable", ERROR, "a router or firewall on the way answers that it cannot be reached",
     "no-answer no-data-back"),
    # Who knocks.
    ("knock-wrong-key", ERROR, "somebody knocks who has another public key of this interface",
     "no-answer answer-refused"),
    ("knock-unknown-key", WARNING, "somebody knocks whose key no peer has", "no-answer"),
    ("knock-stale-clock", ERROR, "a peer knocks with a clock that is behind", "no-answer"),
    ("knock-known", INFO, "a peer knocks: the way from there to here is clear"),
    ("knock-none", INFO, "nobody knocked while doctor listened"),
    ("answer-refused", ERROR, "an answer comes and is not accepted: the preshared keys differ",
     "no-answer no-data-back"),
    ("peer-busy", WARNING, "the other end is under load", "no-answer no-data-back"),
    ("no-answer", ERROR, "nobody answers at the endpoint", "no-data-back"),
    # Inside.
    ("source-not-allowed", ERROR, "a source address is in no AllowedIPs of its peer", "no-data-back"),
    ("no-data-back", ERROR, "the peer shakes hands, and no data comes back", "mtu-too-large"),
    ("route-shadowed", ERROR, "another route or rule takes what is meant for the tunnel", "no-data-back"),
    ("mtu-too-large", ERROR, "packets of the tunnel's MTU are lost on the way"),
    ("mtu-differs", ERROR, "the link has another MTU than the file", "mtu-too-large"),
    ("firewall-missing", ERROR, "the firewall rules of the full tunnel are gone"),
    ("dns-replaced", ERROR, "the tunnel's DNS is not in force"),
    ("forwarding-off", ERROR, "the host does not forward what peers send through it"),
    ("forward-blocked", ERROR, "the firewall drops what peers send through this host"),
)  # fmt: skip

CODES: dict[str, Code] = {}
for _code, _severity, _meaning, *_more in _TABLE:
    CODES[_code] = Code(_severity, _meaning, frozenset(" ".join(_more).split()))

RANK = {code: at for at, code in enumerate(CODES)}
SEVERITY_RANK = {ERROR: 0, WARNING: 1, INFO: 2}


def explains(code: str, other: str) -> bool:
    """Whether a cause of this code leaves out one of the other, as that follows from it."""
    found = CODES.get(code)
    if found is None or code == other:
        return False
    return other in found.explains or (_ALL in found.explains and RANK[code] < RANK.get(other, -1))
