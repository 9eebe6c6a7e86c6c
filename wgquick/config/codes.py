"""The codes of a configuration's faults and warnings. They are stable across releases."""

FAULTS = {
    "address": "an Address is not valid for `ip address add`",
    "allowed-ip": "an AllowedIPs entry is not a network",
    "amnezia-key": "a key belongs to AmneziaWG; plain WireGuard does not understand it",
    "duplicate-address": "an Address is given twice, which the kernel refuses",
    "encoding": "the file is UTF-16, its lines end with CR alone, or it has half of a surrogate pair",
    "endpoint": "an Endpoint is not host:port",
    "fwmark": "a FwMark is neither off nor a number of 32 bits",
    "listen-port": "a ListenPort is neither a port nor a service",
    "misplaced-key": "a key is in the wrong section",
    "missing-equals": "there is no `=' between a key and its value",
    "missing-value": "a key of wg(8) has no value",
    "mtu": "an MTU is not a number",
    "no-section": "a key is before the first section",
    "other-program": "a key, a section or the file belongs to another program",
    "peer-without-key": "a [Peer] has no PublicKey",
    "persistent-keepalive": "a PersistentKeepalive is neither off nor a number of seconds",
    "save-config": "a SaveConfig is neither true nor false",
    "table": "a Table is neither the number nor the name of a routing table",
    "unknown-key": "a key is unknown",
    "unknown-line": "a line is neither a section nor `Key = value'",
    "unknown-section": "a section is unknown",
    "wgq-setting": "a `# wgq:' comment has no known setting",
    "wireguard-key": "a key is not 32 bytes in base64",
}
WARNINGS = {
    "allowed-ip-host-bits": "an AllowedIPs entry has bits set after its prefix, which are ignored",
    "dns-search": "a DNS word counts as a search domain and is not a valid one",
    "dns-server": "a DNS word counts as a server and is not an address",
}
