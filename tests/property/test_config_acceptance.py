"""What `wg-quick` and `wg setconf` take, the parser takes, with the same meaning; what they refuse, it refuses."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.namespaces import host
from wgquick.config.document import Document
from wgquick.config.grammar import GrammarError, address, mtu, same_address
from wgquick.config.parser import examine
from wgquick.config.strip import strip
from wgquick.config.tables import table_number
from wgquick.errors import ConfigError, WgqError
from wgquick.net import SecretKey, address_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wgquick.config.settings import Settings

DEVICE = "wg0"
RESOLUTION = re.compile(rb"Name or service not known|failure in name resolution|No address associated")
LINK = "tun0"
KEYS = [
    "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
]
bounded = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Peer(NamedTuple):
    """A peer as `wg show dump` prints it."""

    preshared_key: str
    endpoint: str
    allowed_ips: frozenset[str]
    keepalive: str


class Oracle:
    """`wg-quick strip`, `wg setconf` and `ip` on a userspace device of their own."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.environment = os.environ | {"WG_ENDPOINT_RESOLUTION_RETRIES": "0", "LC_ALL": "C"}

    def run(self, *command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, input=given, capture_output=True, check=False, env=self.environment, timeout=30
        )

    def strip(self, data: bytes) -> bytes | None:
        """What `wg-quick strip` prints, or None where it gives up."""
        self.file.write_bytes(data)
        done = self.run("wg-quick", "strip", str(self.file))
        return None if done.returncode else done.stdout

    def accepts(self, stripped: bytes) -> bool | None:
        """Whether `wg setconf` takes the lines that wg-quick would hand it; None where a name server has to say."""
        done = self.run("wg", "setconf", DEVICE, "/dev/stdin", given=stripped)
        return None if RESOLUTION.search(done.stderr) else done.returncode == 0

    def dump(self) -> list[list[str]]:
        lines = self.run("wg", "show", DEVICE, "dump").stdout.decode().splitlines()
        return [line.split("\t") for line in lines]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    directory = tmp_path_factory.mktemp("oracle")
    directory.chmod(0o700)
    with host() as machine:
        machine.run(["wireguard-go", DEVICE])
        machine.run(["ip", "tuntap", "add", "dev", LINK, "mode", "tun"])
        machine.run(["ip", "link", "set", "dev", LINK, "up"])
        with machine.entered():
            yield Oracle(directory / f"{DEVICE}.conf")


# Generated files


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
    """A line that is right, in one of the spellings that are."""
    key = draw(st.sampled_from(keys))
    spelling = draw(st.sampled_from([key, key, key.upper(), key.lower()]))
    equals = draw(st.sampled_from([" = ", " = ", "=", "\t=\t"]))
    comment = draw(st.sampled_from(["", "", "", " # note", "#=x"]))
    return f"{draw(BLANKS)}{spelling}{equals}{draw(good_values(key))}{draw(BLANKS)}{comment}"


@st.composite
def sections(draw: st.DrawFn) -> list[str]:
    """A section that is right."""
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
    """Right files, half of them with one line that may not belong where it is."""
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
    """A right file with one to three small changes, most of them insertions."""
    data = VALID
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        place = draw(st.integers(0, len(data)))
        kept = place + draw(st.sampled_from([0, 0, 0, 1, 2]))
        data = data[:place] + draw(st.sampled_from(SPICE)) + data[kept:]
    return data


# What the settings mean on a device


def dumped(wanted: Settings) -> dict[str, Peer]:
    """The peers as the device has them after every section was applied in its order (wg(8))."""
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
    """The endpoint that `wg` makes of it, "" where a name server would have to know."""
    flags = 0 if host == "*" else socket.AI_NUMERICHOST
    given = (None if host == "*" else host, None if port == "*" else port)
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(*given, 0, socket.SOCK_DGRAM, socket.IPPROTO_UDP, flags)[0][4]
        zone = f"%{socket.if_indextoname(int(found[3]))}" if len(found) > 2 and found[3] else ""
        address, number = str(found[0]), int(found[1])
        return f"[{address}{zone}]:{number}" if ":" in address else f"{address}:{number}"
    return ""


def clamped(key: SecretKey) -> str:
    """The scalar that a device makes of a private key (curve25519_clamp_secret)."""
    raw = bytearray(key.raw)
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return SecretKey(bytes(raw)).reveal()


def other_than_the_device(wanted: Settings, dump: list[list[str]]) -> list[str]:
    """The differences between what the file asks for and what the device got."""
    found: list[str] = []
    private, _, port, mark = dump[0]
    if (clamped(wanted.private_key) if wanted.private_key else "(none)") != private:
        found.append("private key")
    if wanted.listen_port and str(wanted.listen_port) != port:
        found.append(f"listen port {wanted.listen_port}, not {port}")
    if (hex(wanted.fwmark) if wanted.fwmark else "off") != mark:
        found.append(f"fwmark {wanted.fwmark}, not {mark}")
    real = {
        line[0]: Peer(line[1], line[2], frozenset(line[3].replace("(none)", "").split(",")) - {""}, line[7])
        for line in dump[1:]
    }
    if (expected := dumped(wanted)) != real:
        found.append(f"peers {expected}, not {real}")
    return found


def check_like_wg(oracle: Oracle, data: bytes) -> None:
    stripped = oracle.strip(data)
    report = examine(Document.parse(data), DEVICE)
    ours = report.settings
    if stripped is None:
        assert {fault.code for fault in report.faults} >= {"save-config"}
        return
    beyond = {"address", "duplicate-address", "mtu", "save-config"}  # what only `ip` would refuse
    refused = [fault for fault in report.faults if fault.code not in beyond]
    if ours is not None and any(ip.change for peer in ours.peers for ip in peer.allowed_ips):
        return  # wg of 2021 has no incremental AllowedIPs
    taken = oracle.accepts(stripped)
    assert taken in (not refused, None), (stripped, report.faults)
    if ours is not None and taken:
        assert not other_than_the_device(ours, oracle.dump())


def in_a_file(line: str) -> bytes:
    """The line in the section where its key belongs."""
    section = "[Interface]" if line.partition(" ")[0] in INTERFACE else f"[Peer]\nPublicKey = {KEYS[0]}"
    return f"{section}\n{line}\n".encode()


@pytest.mark.parametrize("key", sorted(GOOD | ODD))
def test_each_value_of_a_key_means_what_it_means_to_wg(oracle: Oracle, key: str) -> None:
    for value in GOOD.get(key, []) + ODD.get(key, []):
        check_like_wg(oracle, in_a_file(f"{key} = {value}"))


@pytest.mark.parametrize("line", HEADERS + NOISE)
@pytest.mark.parametrize("before", ["", "[Interface]\n", f"[Peer]\nPublicKey = {KEYS[0]}\n"])
def test_an_odd_line_means_what_it_means_to_wg(oracle: Oracle, line: str, before: str) -> None:
    check_like_wg(oracle, f"{before}{line}\nAddress = 10.1\n".encode())
    check_like_wg(oracle, f"{before}{line}".encode())


@bounded
@given(data=files())
def test_generated_files_mean_what_they_mean_to_wg(oracle: Oracle, data: bytes) -> None:
    check_like_wg(oracle, data)


@bounded
@given(data=mutants())
@example(data=VALID)
def test_slightly_broken_files_mean_what_they_mean_to_wg(oracle: Oracle, data: bytes) -> None:
    check_like_wg(oracle, data)


@bounded
@given(data=files() | mutants() | st.lists(st.sampled_from([*SPICE, b"Address", b"a"]), max_size=12).map(b"".join))
def test_strip_prints_byte_for_byte_what_wg_quick_strip_prints(oracle: Oracle, data: bytes) -> None:
    expected = oracle.strip(data)
    if expected is None:
        with pytest.raises(ConfigError):
            strip(Document.parse(data))
    else:
        assert strip(Document.parse(data)) == expected


# The words that `ip` reads

ADDRESS_PARTS = [
    "10.0.0.1",
    "10",
    "10.1",
    "0x0a.1",
    "010.1.1.1",
    "+10.1",
    "0",
    "1.2.3.4.5",
    "256.1",
    "1..2",
    "default",
]
ADDRESS_PARTS += [
    "fd00::1",
    "::1",
    "::",
    "ff02::1",
    "fe80::1",
    "::ffff:1.2.3.4",
    "fe80::1%lo",
    "1::2::3",
    "a",
    "",
    "1.2.3.",
]
ADDRESS_PARTS += ["0.0.0.0", "255.255.255.255", "224.0.0.1", "any", "-1", "08.1.1.1", "0x", "1.0x1"]
LENGTHS = ["", "/", "/24", "/0", "/32", "/33", "/64", "/128", "/129", "/0x18", "/030", "/08", "/+8", "/-1"]
LENGTHS += ["/255.255.0.0", "/255.0.255.0", "/255", "/0xff.0xff", "/default", "/any", "/8/8", "/4294967296", "/ff"]


@bounded
@given(word=st.builds(str.__add__, st.sampled_from(ADDRESS_PARTS), st.sampled_from(LENGTHS)))
def test_an_address_is_what_ip_address_add_takes(oracle: Oracle, word: str) -> None:
    assume(word)
    family = "-6" if ":" in word else "-4"
    added = oracle.run("ip", family, "address", "add", word, "dev", LINK)
    shown = oracle.run("ip", family, "-brief", "address", "show", "dev", LINK).stdout.decode().split()[2:]
    oracle.run("ip", family, "address", "flush", "dev", LINK)
    try:
        ours = address(word)
    except GrammarError:
        assert added.returncode, word
        return
    assert not added.returncode, word
    assert f"{address_text(ours.address)}/{ours.length}" in shown or ours.address == bytes(
        4
    )  # the kernel takes 0.0.0.0 and does nothing


@pytest.mark.parametrize("one", ["10.0.0.1/24", "10.0.0.1/32", "fd00::1/64", "0/0"])
@pytest.mark.parametrize(
    "other", ["10.0.0.1/24", "10.0.0.1", "10.0.0.2/24", "10.1/24", "fd00::1/128", "fd00::2/64", "0/0"]
)
def test_an_address_is_given_twice_where_the_kernel_says_so(oracle: Oracle, one: str, other: str) -> None:
    codes = [oracle.run("ip", "address", "add", word, "dev", LINK).returncode for word in (one, other)]
    for family in ("-4", "-6"):
        oracle.run("ip", family, "address", "flush", "dev", LINK)
    assert (codes[1] != 0) == same_address(address(one), address(other))


SIGNS = ["", "", "", "+", "-", "0x", "0X", "0", "00", "0b"]
DIGITS = ["1420", "0", "58c", "2614", "1", "1e3", "", "9", "1_0", "1420a", "65535", "²"]
NUMERALS = st.builds(str.__add__, st.sampled_from(SIGNS), st.sampled_from(DIGITS))


@bounded
@given(word=NUMERALS)
def test_an_mtu_is_a_number_that_ip_link_reads(oracle: Oracle, word: str) -> None:
    """The kernel's own bounds are each link type's; a tun link has 68 to 65535."""
    assume(word)
    taken = oracle.run("ip", "link", "set", "dev", LINK, "mtu", word).returncode == 0
    try:
        ours = mtu(word)
    except GrammarError:
        assert not taken, word
    else:
        assert taken == (68 <= ours <= 65535), word


@bounded
@given(word=NUMERALS | st.sampled_from(["main", "Main", "local", "default", "unspec", "off", "auto", "all", "lan"]))
def test_a_table_is_what_ip_route_looks_up(oracle: Oracle, word: str) -> None:
    names = {"unspec": 0, "local": 255, "main": 254, "default": 253}
    route = ("198.51.100.0/24", "dev", LINK, "table", word)
    taken = oracle.run("ip", "route", "add", *route).returncode == 0
    oracle.run("ip", "route", "delete", *route)
    try:
        number = table_number(word, names)
    except WgqError:
        assert not taken, word
    else:
        assert taken, (word, number)
