"""Valid and invalid configurations for the property tests, and their effect on a device."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import strategies as st

from wgquick.net import SecretKey

if TYPE_CHECKING:
    from wgquick.config.settings import Settings

KEYS = [
    "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
]


def words(text: str) -> list[str]:
    return text.split()


HOSTS = ["192.0.2.1", "[2001:db8::1]", "2001:db8::2", "10.1", "[192.0.2.9]", "0x7f.1", "[fe80::1%lo]", "*"]
PORTS = ["51820", "1", "65535", "65536", "domain", "+7", "*"]
NO_PORTS = ["-1", "0x10", "4294967295", "4294967296", "18446744073709551617", "nosuchservice", "", '"1"', "²", "9a"]
NUMBERS = ["25", "0", "off", "OFF", "65535", "010", "1 2"]
NO_NUMBERS = ["65536", "0x19", "0X19", "0xffffffff", "4294967295", "4294967296", "", "-1", "+1", "0x", "0xg", "1a"]
NO_NUMBERS += ["99999999999999999999999", "²", "o f f", "on"]
NO_KEYS = [
    "",
    KEYS[0][:-1],
    KEYS[0] + "=",
    KEYS[0][:-2] + "l=",
    KEYS[0].replace("+", "-"),
    "0" * 64,
    f'"{KEYS[0]}"',
]
NO_KEYS += ["A" * 44, "A" * 43 + "é", f"{KEYS[0][:20]} {KEYS[0][20:]}", "A" * 42 + "==", "A" * 42 + "B="]
GOOD = {
    "PrivateKey": KEYS,
    "ListenPort": PORTS[:-1],
    "FwMark": [*NUMBERS, "0x10", "0xffffffff"],
    "PublicKey": KEYS,
    "PresharedKey": [*KEYS, "A" * 43 + "="],
    "PersistentKeepalive": NUMBERS,
    "AllowedIPs": [
        *words("10.0.0.0/8 10.0.0.1 10.0.0.1/8 fd00::/64 fd00::1 ::/0 0.0.0.0/0 10.0.0.0/08 ::ffff:1.2.3.4/96"),
        *("1.2.3.4/3 2", "10.0.0.2,10.0.0.3/32 , fd00::2", "fd00::1/127"),
    ],
    "Endpoint": [f"{name}:{port}" for name in HOSTS for port in PORTS],
    "Address": ["10.0.0.1/24", "", "fd00::1/64,, 10.0.0.2", ","],
    "DNS": ["1.1.1.1, example.com", "", "fd00::53 # x"],
    "MTU": ["1420", "", "0x58c"],
    "Table": ["off", "auto", "123", "Off", "nosuchtable", ""],
    "PreUp": ["true # x = y", ""],
    "PostUp": ["echo a=b\\\\"],
    "PreDown": ["# x"],
    "PostDown": ["[Peer]"],
    "SaveConfig": ["true", "False", "TRUE", "true # yes"],
}
ODD = {
    "PrivateKey": NO_KEYS,
    "ListenPort": [*NO_PORTS, "*"],
    "FwMark": NO_NUMBERS,
    "PublicKey": NO_KEYS,
    "PresharedKey": NO_KEYS,
    "PersistentKeepalive": NO_NUMBERS,
    "AllowedIPs": [
        *words("10.0.0.0/33 10.0.0.0/ fd00::/129 1.2.3 01.2.3.4 10.0.0.0/-1 10.0.0.0/8/8 , 10.0.0.1, ,10.0.0.1"),
        *words("fe80::1%lo 10.0.0.0/255.0.0.0 10.0.0.0/+8 \u0661\u0660.0.0.0/8 all ::1::/64 [fd00::1]/64 x"),
        *("", "1.2.3.4/99999999999999999999999", "10.0.0.1;10.0.0.2"),
    ],
    "Endpoint": [
        *(f"192.0.2.1:{port}" for port in NO_PORTS),
        *words("192.0.2.1 [::1] [::1]: [::1:1 [::1]1 ::1 : [ ]:1"),
        *("", "[::1] :5"),
    ],
    "SaveConfig": ["yes", "", "1", "tru e"],
    "Unknown": ["1", ""],
}
INTERFACE = words("PrivateKey ListenPort FwMark Address DNS MTU Table PreUp PostUp PreDown PostDown SaveConfig")
PEER = ["PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"]
HEADERS = [
    "[ Peer ]",
    "[ Interface ]",
    "[Peer",
    "[Pear]",
    "[Peer]=1",
    "[Interface]=1",
    "[",
    "x[Peer]",
    "[Inter\0face]",
]
NOISE = [
    "PrivateKey",
    "= x",
    "Address",
    "x",
    "\0",
    "]",
    "Kelvin",
    "\\",
    "DNS",
    "PreUp",
    "PreUp # a = b",
    "Add ress = 10.1",
]
NOISE += ["AllowedIPs", "Private\0Key = x", "MTU = 14\x0020", "\u212aey = 1", "FwMar\u212a = 1", "SaveConfig"]
BLANKS = st.text(" \t\r\v\f", max_size=2)


def good_values(key: str) -> st.SearchStrategy[str]:
    return st.sampled_from(GOOD[key])


@st.composite
def entries(draw: st.DrawFn, keys: list[str]) -> str:
    """A valid line in one of its possible spellings."""
    key = draw(st.sampled_from(keys))
    spelling = draw(st.sampled_from([key, key, key.upper(), key.lower()]))
    equals = draw(st.sampled_from([" = ", " = ", "=", "\t=\t"]))
    comment = draw(st.sampled_from(["", "", "", " # note", "#=x"]))
    return f"{draw(BLANKS)}{spelling}{equals}{draw(good_values(key))}{draw(BLANKS)}{comment}"


@st.composite
def sections(draw: st.DrawFn) -> list[str]:
    """A valid section."""
    if draw(st.booleans()):
        header, keys, first = draw(st.sampled_from(["[Interface]", " [INTERFACE] # x"])), INTERFACE, []
    else:
        first = [f"PublicKey = {draw(st.sampled_from(KEYS))}"]
        header, keys = draw(st.sampled_from(["[Peer]", "[peer]", "\t[Peer]\r", "[ Peer ]"])), PEER
    lines = entries(keys) | st.sampled_from(["", "# comment", "#", " \v"])
    return [header, *first, *draw(st.lists(lines, max_size=5))]


ODD_LINES = [f"{key} = {value}" for key, choice in ODD.items() for value in choice] + HEADERS + NOISE
ANY_LINES = st.sampled_from(ODD_LINES) | entries(PEER) | entries(INTERFACE)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Valid files; half of them have one more line that may be misplaced."""
    lines = [line for section in draw(st.lists(sections(), min_size=1, max_size=4)) for line in section]
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), draw(ANY_LINES))
    ending = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    text = ending.join(lines) + draw(st.sampled_from([ending, "", " ", "\n\n"]))
    return text.encode()


VALID = f"""[Interface]
PrivateKey = {KEYS[0]}
ListenPort = 51820 # port
Address = 10.0.0.1/24, fd00::1/64
PostUp = echo '#'; true
FwMark = 0x10

[Peer]
PublicKey = {KEYS[1]}
PresharedKey = {KEYS[2]}
AllowedIPs = 10.0.0.2/32, fd00::/64
AllowedIPs = 0.0.0.0/0
Endpoint = 192.0.2.1:51820
PersistentKeepalive = 25

[Peer]
PublicKey = {KEYS[2]}
AllowedIPs = 10.0.0.2/32
""".encode()
SPICE = [bytes([byte]) for byte in b" \t\r\n\v\f\0#"] * 2 + [bytes([byte]) for byte in b"=[],/:.+-0aA\x7f\x80\xff"]
SPICE += [b"[Peer]\n", b"[Interface]\n", b"= "]


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A valid file with one to three small changes, mostly insertions."""
    data = VALID
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        place = draw(st.integers(0, len(data)))
        kept = place + draw(st.sampled_from([0, 0, 0, 1, 2]))
        data = data[:place] + draw(st.sampled_from(SPICE)) + data[kept:]
    return data


class Peer(NamedTuple):
    """A peer as `wg show dump` prints it."""

    preshared_key: str
    endpoint: str
    allowed_ips: frozenset[str]
    keepalive: str


def dumped(wanted: Settings) -> dict[str, Peer]:
    """The peers on the device after all sections are applied in order (wg(8))."""
    peers: dict[str, Peer] = {}
    for peer in wanted.peers:
        key = str(peer.public_key)
        old = peers.get(key, Peer("(none)", "(none)", frozenset(), "off"))
        new = frozenset(map(str, peer.allowed_ips))
        peers = {name: other._replace(allowed_ips=other.allowed_ips - new) for name, other in peers.items()}
        peers[key] = Peer(
            _preshared(peer.preshared_key.reveal()) if peer.preshared_key else old.preshared_key,
            numeric(peer.endpoint.host, peer.endpoint.port) if peer.endpoint else old.endpoint,
            new,
            old.keepalive if peer.persistent_keepalive is None else str(peer.persistent_keepalive or "off"),
        )
    return peers


def _preshared(text: str) -> str:
    return "(none)" if set(text) <= {"A", "="} else text


def numeric(host: str, port: str) -> str:
    """The endpoint as wg(8) prints it; "" if it takes a name server."""
    flags = 0 if host == "*" else socket.AI_NUMERICHOST
    given = (None if host == "*" else host, None if port == "*" else port)
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(*given, 0, socket.SOCK_DGRAM, socket.IPPROTO_UDP, flags)[0][4]
        zone = f"%{socket.if_indextoname(int(found[3]))}" if len(found) > 2 and found[3] else ""
        address, number = str(found[0]), int(found[1])
        return f"[{address}{zone}]:{number}" if ":" in address else f"{address}:{number}"
    return ""


def clamped(key: SecretKey) -> str:
    """The private key as a device clamps it (curve25519_clamp_secret)."""
    raw = bytearray(key.raw)
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return SecretKey(bytes(raw)).reveal()
