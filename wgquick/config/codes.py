"""The codes of the faults and warnings of a configuration; they stay the same across releases."""

FAULTS = {
    "address": "an Address word is nothing that `ip address add` takes",
    "allowed-ip": "an AllowedIPs entry is no network",
    "amnezia-key": "a key is one of AmneziaWG, which plain WireGuard does not understand",
    "duplicate-address": "an Address is given twice, which the kernel refuses",
    "encoding": "the file is UTF-16, or a text has half of a surrogate pair",
    "endpoint": "an Endpoint is not host:port",
    "fwmark": "a FwMark is neither off nor a number of 32 bits",
    "listen-port": "a ListenPort is neither a port nor a service",
    "misplaced-key": "a key stands in the wrong section",
    "missing-equals": "a key and its value have no `=' between them",
    "missing-value": "a key of wg(8) has no value",
    "mtu": "an MTU is not a number",
    "no-section": "a key stands before the first section",
    "other-program": "a key or section is one of another program",
    "peer-without-key": "a [Peer] has no PublicKey",
    "persistent-keepalive": "a PersistentKeepalive is neither off nor a number of seconds",
    "save-config": "a SaveConfig is neither true nor false",
    "table": "a Table is neither the number nor the name of a routing table",
    "unknown-key": "there is no such key",
    "unknown-line": "a line is neither a section nor a key with its value",
    "unknown-section": "there is no such section",
    "wgq-setting": "a comment `# wgq:' has no setting that there is",
    "wireguard-key": "a key is not 32 bytes in base64",
}
WARNINGS = {
    "allowed-ip-host-bits": "an AllowedIPs entry has bits set after its prefix, which do not count",
    "dns-search": "a DNS word is taken for a search domain, and is not the name of one",
    "dns-server": "a DNS word is taken for a server, and is not an address",
}
