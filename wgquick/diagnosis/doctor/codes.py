"""The codes of `wgq doctor`: severity, meaning, and which other codes are consequences of it, to be left out.

Causes are reported in the order of the table: what prevents the tunnel from coming up, what makes it differ from
its file, what stops its packets on the way out and in, and what happens inside. Codes stay the same across
releases. A code that `wgq check` also has means the same there.
"""

from __future__ import annotations

from wgquick.diagnosis import codes as check
from wgquick.diagnosis.finding import ERROR, INFO, SEVERITIES, WARNING
from wgquick.lean import NamedTuple


class Code(NamedTuple):
    """A code's usual severity, its meaning, and the codes of its consequences."""

    severity: str
    meaning: str
    explains: frozenset[str] = frozenset()


_REACHING = (
    "no-answer endpoint-refuses endpoint-unreachable answer-refused no-data-back knock-unknown-key knock-wrong-key "
    "knock-stale-clock input-blocked output-blocked endpoint-no-route"
)
_INSIDE = "no-data-back source-not-allowed mtu-too-large"
_ALL = "*"
_AS_IN_CHECK = ""
"""Stands for the meaning in the table of `wgq check` (wgquick.diagnosis.codes)."""

_TABLE = (
    # What prevents the tunnel from coming up.
    ("port-in-use", ERROR, _AS_IN_CHECK, _ALL),
    ("net-in-use", ERROR, "the host already has a route to a network of the tunnel, so up fails", _ALL),
    ("key-missing", ERROR, "the interface has no private key", _ALL),
    ("not-up", ERROR, "the interface is not up"),
    # What makes the tunnel differ from its file.
    ("peer-is-self", ERROR, _AS_IN_CHECK, f"peer-missing {_REACHING}"),
    ("one-key-two-places", ERROR, "two hosts use the same private key", f"key-differs {_REACHING} {_INSIDE}"),
    ("key-differs", ERROR, "the device has another private key than the file", f"{_REACHING} {_INSIDE}"),
    ("public-key-is-private", ERROR, _AS_IN_CHECK, f"peer-one-sided {_REACHING} {_INSIDE}"),
    ("peer-key-mismatch", ERROR, "a peer's PublicKey is not the other end's", f"{_REACHING} {_INSIDE}"),
    ("peer-one-sided", ERROR, "the other end does not have this one as a peer", f"{_REACHING} {_INSIDE}"),
    ("peer-missing", ERROR, "the device lacks a peer of the file", f"route-missing {_REACHING} {_INSIDE}"),
    ("psk-differs", ERROR, "the device has another preshared key than the file", f"{_REACHING} {_INSIDE}"),
    ("allowed-ip-moved", ERROR, "a network in AllowedIPs went to another peer",
     "allowed-ips-differ route-missing no-data-back source-not-allowed"),
    ("allowed-ips-differ", ERROR, "the device has other AllowedIPs for a peer than the file",
     "route-missing source-not-allowed no-data-back"),
    ("mark-differs", ERROR, "the device has another fwmark than the file",
     f"endpoint-in-tunnel rule-missing route-missing {_REACHING}"),
    ("port-differs", ERROR, "the device listens on another port than the file's", _REACHING),
    ("nobody-connects", ERROR, _AS_IN_CHECK, _REACHING),
    ("endpoint-port-differs", ERROR, _AS_IN_CHECK, _REACHING),
    ("address-shared", ERROR, _AS_IN_CHECK, _INSIDE),
    ("clock-wrong", ERROR, _AS_IN_CHECK, _REACHING),
    ("rule-missing", ERROR, "a policy routing rule is missing",
     f"endpoint-in-tunnel route-shadowed route-missing {_REACHING} {_INSIDE}"),
    ("low-mtu", ERROR, _AS_IN_CHECK,
     f"not-up address-missing route-missing {_INSIDE} mtu-differs"),
    ("peer-without-allowed-ips", WARNING, _AS_IN_CHECK),
    ("tunnel-net-unclaimed", ERROR, _AS_IN_CHECK, _INSIDE),
    ("address-missing", ERROR, "the interface lacks an Address of the file",
     f"route-missing route-shadowed output-blocked no-answer {_INSIDE} dns-replaced"),
    ("route-missing", ERROR, "a route into the tunnel is missing", f"route-shadowed rp-filter {_INSIDE}"),
    ("sysctl-reverted", ERROR, "a kernel parameter that the tunnel needs was reset",
     f"rp-filter {_REACHING} {_INSIDE}"),
    # The path to the endpoint.
    ("endpoint-missing", ERROR, "the device has no endpoint for the peer", _REACHING),
    ("endpoint-unresolved", ERROR, _AS_IN_CHECK,
     f"not-up endpoint-missing endpoint-moved {_REACHING}"),
    ("endpoint-in-tunnel", ERROR, "the encrypted packets are routed into the tunnel itself",
     f"{_REACHING} {_INSIDE}"),
    ("endpoint-no-route", ERROR, _AS_IN_CHECK, _REACHING),
    ("endpoint-is-self", ERROR, "the endpoint is this host itself", _REACHING),
    ("uplink-down", ERROR, "the link that leads to the endpoint has no carrier", f"{_REACHING} {_INSIDE}"),
    ("gateway-silent", ERROR, "the gateway on the way to the endpoint does not answer", f"{_REACHING} {_INSIDE}"),
    ("gateway-differs", ERROR, "the gateway's hardware address is wrong, or two hosts have its address",
     f"{_REACHING} {_INSIDE}"),
    ("uplink-address-taken", ERROR, "another host on the uplink's network has this host's address there",
     f"{_REACHING} {_INSIDE}"),
    ("output-blocked", ERROR, "this host's firewall drops outgoing packets",
     f"{_INSIDE} no-answer endpoint-refuses endpoint-unreachable"),
    ("rp-filter", ERROR, _AS_IN_CHECK,
     f"no-answer input-blocked answer-refused {_INSIDE}"),
    ("input-blocked", ERROR, "this host's firewall drops incoming packets", f"no-answer answer-refused {_INSIDE}"),
    ("endpoint-moved", ERROR, "the endpoint's address has changed", _REACHING),
    ("endpoint-refuses", ERROR, "the endpoint's port is closed", "no-answer no-data-back"),
    ("endpoint-unreachable", ERROR, "a router or firewall on the way reports the endpoint as unreachable",
     "no-answer no-data-back"),
    # Received handshakes.
    ("knock-wrong-key", ERROR, "a host sends handshakes for another public key than this interface's",
     "no-answer answer-refused"),
    ("knock-unknown-key", WARNING, "a host sends handshakes with a key that no peer has", "no-answer"),
    ("knock-stale-clock", ERROR, "a peer's clock went back, so its handshakes are rejected", "no-answer"),
    ("not-examined", INFO, "a part was not examined, mostly for lack of time"),
    ("knock-known", INFO, "a peer's handshakes arrive here"),
    ("knock-none", INFO, "no handshake arrived while doctor listened"),
    ("answer-refused", ERROR, "the answer to a handshake is rejected: the preshared keys differ",
     "no-answer no-data-back"),
    ("peer-busy", WARNING, "the other end is under load", "no-answer no-data-back"),
    ("no-answer", ERROR, "the endpoint does not answer", "no-data-back"),
    # Inside the tunnel.
    ("source-not-allowed", ERROR, "a peer sends from an address that is not in its AllowedIPs", "no-data-back"),
    ("no-data-back", ERROR, "the handshake succeeds, but no data comes back", "mtu-too-large"),
    ("route-shadowed", ERROR, "another route or rule takes the tunnel's traffic", "no-data-back"),
    ("mtu-too-large", ERROR, "packets of the tunnel's MTU are lost on the way"),
    ("mtu-differs", ERROR, "the link has another MTU than the file", "mtu-too-large"),
    ("firewall-missing", ERROR, "the firewall rules of the full tunnel are missing"),
    ("dns-replaced", ERROR, "the tunnel's DNS servers are not in use"),
    ("forwarding-off", ERROR, _AS_IN_CHECK),
    ("forward-blocked", ERROR, "this host's firewall drops forwarded packets"),
    ("not-masqueraded", ERROR, "forwarded packets leave with a source address that nobody can reply to"),
    ("not-forwarded", ERROR, "the other end does not pass on what this end sends through it", "dns-silent"),
    ("dns-silent", WARNING, "a DNS server of the tunnel does not answer"),
)  # fmt: skip

CODES: dict[str, Code] = {}
for _code, _severity, _meaning, *_more in _TABLE:
    CODES[_code] = Code(_severity, _meaning or check.CODES[_code][1], frozenset(" ".join(_more).split()))

RANK = {code: at for at, code in enumerate(CODES)}
SEVERITY_RANK = {severity: at for at, severity in enumerate(SEVERITIES)}


def explains(code: str, other: str) -> bool:
    """Whether a cause with code `other` is a consequence of one with this code."""
    found = CODES.get(code)
    if found is None or code == other:
        return False
    return other in found.explains or (_ALL in found.explains and RANK[code] < RANK.get(other, -1))
