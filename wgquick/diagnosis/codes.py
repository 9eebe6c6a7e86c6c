"""The codes of `wgq check`, each with its severity and meaning. Codes stay the same across releases."""

from __future__ import annotations

from wgquick.config.codes import FAULTS, WARNINGS
from wgquick.diagnosis.finding import ERROR, INFO, WARNING

_ONE_FILE = {
    "no-private-key": (WARNING, "the interface has no PrivateKey, so no handshake can succeed"),
    "no-address": (WARNING, "the interface has no Address"),
    "peer-without-allowed-ips": (WARNING, "a peer has no AllowedIPs, so no packet to or from it is accepted"),
    "allowed-ip-moves": (WARNING, "two peers have one network in AllowedIPs; the later peer gets it"),
    "repeated-peer": (WARNING, "two [Peer] sections have the same PublicKey; the device has one peer"),
    "full-tunnel-without-routes": (WARNING, "a full tunnel has Table = off, and nothing adds its routes"),
    "search-without-server": (WARNING, "DNS has search domains but no server, so they are not set"),
    "low-mtu": (WARNING, "the MTU is below 1280, the minimum for IPv6"),
    "nobody-connects": (WARNING, "neither side has an Endpoint or a ListenPort, so neither can connect"),
    "peer-is-self": (ERROR, "a peer's PublicKey is this interface's own"),
    "private-key-is-public": (ERROR, "a PrivateKey is a public key"),
    "repeated-key": (WARNING, "a section has two PrivateKeys or PublicKeys; only the last one counts"),
    "public-key-is-private": (ERROR, "a PublicKey is a private key"),
    "preshared-key-is-key": (WARNING, "a PresharedKey is also a private or public key"),
    "example-key": (ERROR, "a key is an example from documentation"),
    "zero-key": (ERROR, "a PrivateKey or PublicKey is all zeros"),
    "tunnel-net-unclaimed": (WARNING, "no peer's AllowedIPs is in the network of an Address"),
    "address-not-host": (WARNING, "an Address is the network or broadcast address of its network"),
    "own-address-allowed": (WARNING, "a peer's AllowedIPs has this interface's own address"),
    "endpoint-in-tunnel": (ERROR, "an Endpoint is routed into the tunnel itself"),
    "endpoint-no-host": (ERROR, "an Endpoint is not the address or name of a host"),
    "endpoint-port-zero": (ERROR, "an Endpoint has port 0"),
    "port-too-large": (ERROR, "a ListenPort or the port of an Endpoint is above 65535"),
    "endpoint-shared": (WARNING, "two peers have the same Endpoint"),
    "peer-cannot-connect": (WARNING, "a peer has no Endpoint, and the interface has no ListenPort"),
    "family-without-address": (WARNING, "AllowedIPs has IPv4 or IPv6 networks, but no Address of that family"),
    "ipv6-beside-tunnel": (INFO, "IPv6 traffic bypasses the full tunnel"),
    "full-tunnel-without-dns": (INFO, "all traffic goes into the tunnel, but DNS is not set"),
    "dns-outside-tunnel": (WARNING, "a private DNS server is in no peer's AllowedIPs"),
    "mtu-too-large": (WARNING, "the MTU is too large for packets of 1500 bytes"),
    "table-unused": (WARNING, "no rule uses the routing table"),
    "hook-without-undo": (WARNING, "a hook adds something that no later hook removes"),
    "masquerade-everywhere": (WARNING, "a hook also masquerades packets into the tunnel"),
    "hook-other-interface": (WARNING, "a hook names another WireGuard interface"),
    "hook-substitution": (WARNING, "a hook has a misspelled %i"),
    "hook-sets-key": (INFO, "a hook sets the private key"),
    "save-config-overwrites": (INFO, "with SaveConfig, down overwrites edits made while the interface is up"),
    "common-home-net": (INFO, "a network is a default of home routers or Docker"),
    "endpoint-private": (INFO, "an Endpoint is a private address"),
    "keepalive-advised": (INFO, "without PersistentKeepalive, NAT may cut this side off"),
    "mss-not-clamped": (INFO, "a hook forwards packets, but no hook clamps the TCP MSS"),
    "interface-name": (ERROR, "the file's name does not give a valid interface name"),
    "world-accessible": (WARNING, "every user of this machine can read or write the file"),
}
_SEVERAL_FILES = {
    "one-key-two-places": (ERROR, "two files have the same PrivateKey"),
    "peer-key-mismatch": (ERROR, "a [Peer] for another file's interface has the wrong PublicKey"),
    "peer-one-sided": (ERROR, "one end does not have the other as a peer"),
    "psk-differs": (ERROR, "the two ends do not have the same PresharedKey"),
    "address-shared": (ERROR, "two ends of one tunnel have the same Address"),
    "source-not-allowed": (ERROR, "one end's Address is not in the other end's AllowedIPs"),
    "endpoint-port-differs": (ERROR, "an Endpoint's port is not the other end's ListenPort"),
    "endpoint-is-self": (WARNING, "an Endpoint is this interface's own, which the other end has too"),
    "mtu-unequal": (INFO, "the two ends have different MTUs"),
    "private-key-elsewhere": (INFO, "one host has the private keys of both ends"),
    "no-forwarding-hook": (INFO, "a client sends all traffic to a server, but no hook there forwards it"),
    "tunnels-overlap": (INFO, "two files route the same network into their tunnels"),
    "listen-port-shared": (INFO, "two files have the same ListenPort"),
    "mark-shared": (INFO, "two files have the same FwMark or Table"),
}

LIVE = {
    "port-in-use": (ERROR, "the UDP port is in use"),
    "net-in-use": (ERROR, "the host already has a network or route of the tunnel"),
    "endpoint-unresolved": (ERROR, "the endpoint's name does not resolve"),
    "endpoint-no-route": (ERROR, "the host has no route to the endpoint"),
    "input-blocked": (ERROR, "this host's firewall drops packets to the port"),
    "rp-filter": (ERROR, "the reverse path filter drops incoming packets"),
    "forwarding-off": (ERROR, "forwarding is off on this host"),
    "clock-wrong": (ERROR, "this host's clock is wrong"),
    "route-shadowed": (WARNING, "another route takes a part of the tunnel's traffic"),
    "hook-no-such-link": (ERROR, "a hook names a link that this host does not have"),
    "dns-no-resolver": (ERROR, "the file has DNS, but this host cannot set it"),
    "no-ipv6": (WARNING, "the file has IPv6, but the host has no IPv6"),
    "save-config-differs": (WARNING, "with SaveConfig, down will overwrite a file that differs from the device"),
    "managed-twice": (WARNING, "another program also manages this interface"),
    "firewalld-rpfilter": (WARNING, "firewalld's IPv6_rpfilter drops packets from an IPv6 endpoint"),
}
"""The codes of --live. A code that `wgq doctor` also has means the same there."""

CODES: dict[str, tuple[str, str]] = {
    **{code: (ERROR, text) for code, text in FAULTS.items()},
    **{code: (WARNING, text) for code, text in WARNINGS.items()},
    **_ONE_FILE,
    **_SEVERAL_FILES,
    **LIVE,
}
"""The usual severity and the meaning of each code."""
