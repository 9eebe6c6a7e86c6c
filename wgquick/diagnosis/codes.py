"""The codes of `wgq check`, each with its severity and what it means, once. Codes stay the same across releases."""

from __future__ import annotations

from wgquick.config.codes import FAULTS, WARNINGS
from wgquick.diagnosis.finding import ERROR, INFO, WARNING

_ONE_FILE = {
    "no-private-key": (WARNING, "the interface cannot shake hands"),
    "no-address": (WARNING, "the interface has no address of its own"),
    "peer-without-allowed-ips": (WARNING, "nothing is sent to the peer, and nothing that it sends is taken"),
    "allowed-ip-moves": (WARNING, "two peers claim a network, which the later one gets"),
    "repeated-peer": (WARNING, "two sections for one key are one peer to the device"),
    "full-tunnel-without-routes": (WARNING, "with Table = off no route leads into the full tunnel"),
    "search-without-server": (WARNING, "wg-quick sets no search domains unless there is a DNS server"),
    "low-mtu": (WARNING, "IPv6 needs an MTU of 1280"),
    "nobody-connects": (WARNING, "neither side knows where the other is"),
    "peer-is-self": (ERROR, "a peer's PublicKey is this interface's own"),
    "public-key-is-private": (ERROR, "a PublicKey is somebody's private key"),
    "preshared-key-is-key": (WARNING, "a PresharedKey is a private or public key that stands in the files"),
    "example-key": (ERROR, "a key is one that a manual prints"),
    "zero-key": (ERROR, "a PrivateKey or PublicKey is all zeros"),
    "tunnel-net-unclaimed": (WARNING, "no peer has an address of the tunnel's own network"),
    "address-not-host": (WARNING, "an Address is its network's network or broadcast address"),
    "own-address-allowed": (WARNING, "a peer's AllowedIPs names this interface's own address"),
    "endpoint-in-tunnel": (ERROR, "an Endpoint is routed into the tunnel itself"),
    "endpoint-port-zero": (ERROR, "an Endpoint's port is 0"),
    "endpoint-shared": (WARNING, "two peers have one Endpoint"),
    "peer-cannot-connect": (WARNING, "neither end of one peer knows where the other is"),
    "family-without-address": (WARNING, "AllowedIPs of a family in which the interface has no Address"),
    "ipv6-beside-tunnel": (INFO, "IPv6 goes beside the full tunnel"),
    "full-tunnel-without-dns": (INFO, "all traffic goes into the tunnel, and no DNS is set"),
    "dns-outside-tunnel": (WARNING, "no peer takes what is sent to a private DNS server"),
    "mtu-too-large": (WARNING, "the MTU is more than a path of 1500 bytes carries"),
    "table-unused": (WARNING, "no rule looks the routing table up"),
    "hook-without-undo": (WARNING, "a hook adds what no later hook takes away"),
    "masquerade-everywhere": (WARNING, "a hook masquerades what goes into the tunnel too"),
    "hook-other-interface": (WARNING, "a hook names another WireGuard interface in place of this one"),
    "hook-substitution": (WARNING, "a hook has a substitution that wg-quick does not know"),
    "hook-sets-key": (INFO, "a hook sets the private key"),
    "save-config-overwrites": (INFO, "what is edited while the interface is up is lost at down"),
    "common-home-net": (INFO, "a network that home routers and docker use too"),
    "endpoint-private": (INFO, "an Endpoint that can be reached from within one network only"),
    "keepalive-advised": (INFO, "a translator of addresses in between may forget this side"),
    "mss-not-clamped": (INFO, "a hook forwards, and nothing clamps TCP's segment size"),
    "interface-name": (ERROR, "the file's name makes no interface name"),
    "world-accessible": (WARNING, "everybody on this machine can read or write the file"),
}
_SEVERAL_FILES = {
    "one-key-two-places": (ERROR, "two files have one PrivateKey"),
    "peer-key-mismatch": (ERROR, "a section is meant for another file's interface and has another key"),
    "peer-one-sided": (ERROR, "one end does not have the other as a peer"),
    "psk-differs": (ERROR, "the two ends do not have the same PresharedKey"),
    "address-shared": (ERROR, "two files have one Address in one tunnel"),
    "source-not-allowed": (ERROR, "one end does not accept the other's Address"),
    "endpoint-port-differs": (ERROR, "an Endpoint's port is not the other end's ListenPort"),
    "mtu-unequal": (INFO, "the two ends have different MTUs"),
    "private-key-elsewhere": (INFO, "the private keys of both ends are in one place"),
    "tunnels-overlap": (INFO, "two files claim one network"),
    "listen-port-shared": (INFO, "two files have one ListenPort"),
    "mark-shared": (INFO, "two files have one FwMark or Table"),
}

LIVE = {
    "port-in-use": (ERROR, "something else has the UDP port"),
    "net-in-use": (ERROR, "the host has a network or a route of the tunnel already"),
    "endpoint-unresolved": (ERROR, "the endpoint's name does not resolve"),
    "endpoint-no-route": (ERROR, "the host has no route to the endpoint"),
    "input-blocked": (ERROR, "this host's firewall drops what arrives at the port"),
    "rp-filter": (ERROR, "the reverse path filter drops what arrives"),
    "forwarding-off": (ERROR, "the host does not forward what peers send through it"),
    "clock-wrong": (ERROR, "this host's clock is wrong"),
    "route-shadowed": (WARNING, "another route takes a part of what is meant for the tunnel"),
    "hook-no-such-link": (ERROR, "a hook names a link that this host does not have"),
    "dns-no-resolver": (ERROR, "DNS is given, and nothing on this host can set it"),
    "no-ipv6": (WARNING, "the file has IPv6, and the host has it disabled"),
    "save-config-differs": (WARNING, "SaveConfig = true, and down will overwrite a file that is not what is up"),
    "managed-twice": (WARNING, "another program has this interface too"),
    "firewalld-rpfilter": (WARNING, "firewalld's IPv6_rpfilter drops what comes from an IPv6 endpoint"),
}
"""With --live; those that doctor has too mean the same there."""

CODES: dict[str, tuple[str, str]] = {
    **{code: (ERROR, text) for code, text in FAULTS.items()},
    **{code: (WARNING, text) for code, text in WARNINGS.items()},
    **_ONE_FILE,
    **_SEVERAL_FILES,
    **LIVE,
}
"""A code to its usual severity and what it means."""
