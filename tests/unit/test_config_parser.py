"""The grammar of wg-quick(8) and wg(8): what is accepted, what it means, and how faults are reported."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from wgquick.config.codes import FAULTS, WARNINGS
from wgquick.config.document import Document
from wgquick.config.grammar import GrammarError
from wgquick.config.parser import examine, parse
from wgquick.config.settings import Settings
from wgquick.config.tables import table_number
from wgquick.errors import ConfigError, Diagnostic

KEY = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
OTHER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
PEER = f"[Peer]\nPublicKey = {KEY}\n"
HEX = "00" * 32


def read(text: str | bytes) -> Settings:
    return parse(Document.parse(text.encode() if isinstance(text, str) else text), "wg0")


def faults(text: str | bytes) -> tuple[Diagnostic, ...]:
    return examine(Document.parse(text.encode() if isinstance(text, str) else text), "wg0").faults


def interface(line: str) -> Settings:
    return read(f"[Interface]\n{line}\n")


def allowed(line: str) -> list[str]:
    return [str(ip) for ip in read(PEER + line).peers[0].allowed_ips]


def test_every_key_of_a_file_is_read() -> None:
    found = read(
        f"""[Interface]
Address = 10.0.0.1/24, fd00::1/64
Address = 10.0.0.2
DNS = 1.1.1.1, example.com, fd00::53 lan
MTU = 1400
Table = 123
PreUp = a
PostUp = b; c
PostUp = d
PreDown = e
PostDown = f
SaveConfig = true
PrivateKey = {KEY}
ListenPort = 51820
FwMark = 0x10

[Peer]
PublicKey = {OTHER}
PresharedKey = {KEY}
AllowedIPs = 10.0.0.0/8, fd00::/64
AllowedIPs = 192.0.2.1
Endpoint = example.com:51820
PersistentKeepalive = 25
"""
    )
    assert [address.text for address in found.addresses] == ["10.0.0.1/24", "fd00::1/64", "10.0.0.2"]
    assert found.addresses[2][:2] == (bytes([10, 0, 0, 2]), 32)
    assert (found.dns, found.dns_search) == (("1.1.1.1", "fd00::53"), ("example.com", "lan"))
    assert (found.mtu, found.table, found.save_config) == (1400, "123", True)
    assert (found.pre_up, found.post_up, found.pre_down, found.post_down) == (("a",), ("b; c", "d"), ("e",), ("f",))
    assert found.private_key is not None
    assert found.private_key.reveal() == KEY
    assert (found.listen_port, found.fwmark) == (51820, 16)
    (peer,) = found.peers
    assert str(peer.public_key) == OTHER
    assert peer.preshared_key == found.private_key
    assert [str(ip) for ip in peer.allowed_ips] == ["10.0.0.0/8", "fd00::/64", "192.0.2.1/32"]
    assert (peer.endpoint, peer.persistent_keepalive) == (("example.com", "51820"), 25)


def test_an_empty_file_is_a_valid_configuration() -> None:
    assert read("") == Settings("wg0")


@pytest.mark.parametrize(
    "text",
    [
        "[Interface]\r\nMTU = 1400\r\n",
        "\ufeff[Interface]\nMTU = 1400\n",
        "[Interface]\nMTU = 1400",
        "[Interface]\nMTU=1400   ",
        "\t[iNTERFACE]  # x\n \v mtu \f = \r 1400 # y\n",
        "[Interface]\nMTU = 14\x0000\n",
        "[Interface]\nMTU = nonsense\nMTU = 1400\n",
        "[Interface]\nMTU = 0x578\n",
        f"{PEER}[Interface]\nMTU = 1400\n",
    ],
)
def test_a_value_is_found_despite_blanks_comments_and_bom(text: str) -> None:
    assert read(text).mtu == 1400


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("MTU =", "mtu", None),
        ("MTU = 02610", "mtu", 0o2610),
        ("Table = off", "table", "off"),
        ("Table = Off # x", "table", "Off"),
        ("Table =", "table", ""),
        ("SaveConfig = FALSE", "save_config", False),
        ("FwMark = off", "fwmark", 0),
        ("FwMark = 4294967295", "fwmark", 0xFFFFFFFF),
        ("FwMark = 010", "fwmark", 10),
        ("Fw Mark = 1 2", "fwmark", 12),
        ("ListenPort = 65616", "listen_port", 80),
        ("ListenPort = domain", "listen_port", 53),
        ("PostUp = echo '#1' # kept=x", "post_up", ("echo '#1' # kept=x",)),
        ("PostUp = a = b", "post_up", ("a = b",)),
        ("PostUp # x = y", "post_up", ("y",)),
        ("PostUp =", "post_up", ("",)),
        ("PostUp = caf\u00e9", "post_up", ("caf\u00e9",)),
        ("DNS", "dns_search", ("DNS",)),
        ("DNS = 1.2.3.4.5,a:b", "dns", ("1.2.3.4.5", "a:b")),
        ("Address = ,", "addresses", ()),
    ],
)
def test_interface_keys_mean_the_same_as_to_wg_quick(line: str, field: str, value: Any) -> None:
    assert getattr(interface(line), field) == value


def test_a_hook_keeps_bytes_that_are_not_utf8() -> None:
    (hook,) = read(b"[Interface]\nPostUp = echo \xff\xfe\n").post_up
    assert hook.encode("utf-8", "surrogateescape") == b"echo \xff\xfe"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("AllowedIPs = 10.0.0.1", ["10.0.0.1/32"]),
        ("AllowedIPs = 10.0.0.1/8", ["10.0.0.0/8"]),
        ("Allowed IPs = 1 0.0.0.0 /8,fd00::1", ["10.0.0.0/8", "fd00::1/128"]),
        ("AllowedIPs = 0.0.0.0/0, ::/0", ["0.0.0.0/0", "::/0"]),
        ("AllowedIPs = 10.0.0.0/008", ["10.0.0.0/8"]),
        ("AllowedIPs = +10.0.0.0/8,-fd00::1/64", ["+10.0.0.0/8", "-fd00::/64"]),
    ],
)
def test_allowed_ips_mean_the_same_as_to_wg(line: str, expected: list[str]) -> None:
    assert allowed(line) == expected


@pytest.mark.parametrize(
    ("lines", "replaces"),
    [
        ("", True),
        ("AllowedIPs = 10.0.0.0/8", True),
        ("AllowedIPs = +10.0.0.0/8", False),
        ("AllowedIPs = +10.0.0.0/8\nAllowedIPs = 10.0.0.0/8", True),
        ("AllowedIPs = 10.0.0.0/8\nAllowedIPs = 10.0.0.0/8, -10.0.0.1", False),
    ],
)
def test_the_last_allowed_ips_line_decides_about_replacing(lines: str, replaces: bool) -> None:
    assert read(PEER + lines).peers[0].replace_allowed_ips is replaces


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        ("192.0.2.1:51820", "192.0.2.1", "51820"),
        ("[2001:db8::1]:51820", "2001:db8::1", "51820"),
        ("2001:db8::1:51820", "2001:db8::1", "51820"),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", "1"),
        ("vpn.example.com:domain", "vpn.example.com", "domain"),
        ("caf\u00e9.example:1", "caf\u00e9.example", "1"),
    ],
)
def test_an_endpoint_is_split_before_the_port(value: str, host: str, port: str) -> None:
    assert read(f"{PEER}Endpoint = {value}").peers[0].endpoint == (host, port)


def test_the_last_value_of_a_repeated_peer_key_wins() -> None:
    (peer,) = read(f"{PEER}PublicKey = {OTHER}\nPersistentKeepalive = 5\nPersistentKeepalive = off\n").peers
    assert (str(peer.public_key), peer.persistent_keepalive) == (OTHER, 0)


def test_two_peers_with_one_key_stay_separate() -> None:
    assert [len(peer.allowed_ips) for peer in read(f"{PEER}AllowedIPs = 10.1.0.0/16\n{PEER}").peers] == [1, 0]


def test_host_bits_give_the_warning_of_wg() -> None:
    report = examine(Document.parse(f"{PEER}AllowedIPs = 10.0.0.0/8, + 10.1.0.1/16\n".encode()), "wg0")
    (warning,) = report.warnings
    assert warning[:4] == (3, 28, "allowed-ip-host-bits", "AllowedIP has nonzero host part: 10.1.0.1/16")
    assert warning.code in WARNINGS
    assert report.settings is not None


# Each text with line, column and code of its faults

FAULTY: list[tuple[str, list[tuple[int, int, str]]]] = [
    ("MTU = 1400\n", [(1, 1, "no-section")]),
    ("# c\n  key\n", [(2, 3, "unknown-line")]),
    ("[Interface]\n\tAdress = 10.0.0.1\n", [(2, 2, "unknown-key")]),
    ("[Interface]\nColour = red\n", [(2, 1, "unknown-key")]),
    ("[Interface]\nAddress = 10.0.0.1/24, 10.0.0.300/24,x\n", [(2, 24, "address"), (2, 38, "address")]),
    ("[Interface]\nAddress = 10.0.0.1/33\n", [(2, 20, "address")]),
    ("[Interface]\nAddress = ::1/128\n", [(2, 11, "address")]),
    ("[Interface]\nAddress = 10.0.0.1\nAddress = 10.1 10.0.0.1/32\n", [(3, 16, "duplicate-address")]),
    ("[Interface]\nMTU = 1400\nMTU = big\n", [(3, 7, "mtu")]),
    ("[Interface]\nMTU = -1\n", [(2, 7, "mtu")]),
    ("[Interface]\nSaveConfig = maybe # x\n", [(2, 14, "save-config")]),
    ("[Interface]\nListenPort = nosuchservice\n", [(2, 14, "listen-port")]),
    ("[Interface]\nFwMark = 0xg\n", [(2, 10, "fwmark")]),
    ("[Interface]\nPrivateKey = short\n", [(2, 14, "wireguard-key")]),
    (f"[Interface]\nPrivateKey {KEY}\n", [(2, 1, "missing-equals")]),
    ("[Interface]\nPrivateKey =\n", [(2, 13, "missing-value")]),
    (f"[Interface]\nPublicKey = {KEY}\n", [(2, 1, "misplaced-key")]),
    (f"{PEER}Address = 10.0.0.1\n", [(3, 1, "misplaced-key")]),
    ("[ Interface ]\nAddress = 10.0.0.1\n", [(2, 1, "misplaced-key")]),
    ("[Interface]\nPost Up = true\n", [(2, 1, "misplaced-key")]),
    ("[Peer]\nAllowedIPs = 10.0.0.0/8\n", [(1, 1, "peer-without-key")]),
    ("[Peer]\nPublicKey = x\n", [(2, 13, "wireguard-key")]),
    (
        f"{PEER}AllowedIPs = 10.0.0.0/33, , foo,\n",
        [(3, 23, "allowed-ip"), (3, 27, "allowed-ip"), (3, 29, "allowed-ip"), (3, 33, "allowed-ip")],
    ),
    (f"{PEER}Allowed IPs = 1.2.3.4 / 3 3\n", [(3, 25, "allowed-ip")]),
    (f"{PEER}AllowedIPs =\n", [(3, 13, "missing-value")]),
    (f"{PEER}AllowedIPs\n", [(3, 1, "missing-value")]),
    (f"{PEER}Endpoint = 192.0.2.1\n", [(3, 12, "endpoint")]),
    (f"{PEER}Endpoint = [::1:5\n", [(3, 12, "endpoint")]),
    (f"{PEER}Endpoint = :51820\n", [(3, 12, "endpoint")]),
    (f"{PEER}Endpoint = 2001:db8::1\n", [(3, 12, "endpoint")]),
    (f"{PEER}Endpoint = [2001:db8::g]:51820\n", [(3, 12, "endpoint")]),
    (f"{PEER}Endpoint = 192.0.2.256:51820\n", [(3, 12, "endpoint")]),
    (f"{PEER}AllowedIPs = \u00e9, 10.0.0.0/33\n", [(3, 14, "allowed-ip"), (3, 26, "allowed-ip")]),
    (f"{PEER}Endpoint = host:nosuchservice\n", [(3, 17, "endpoint")]),
    (f"{PEER}PersistentKeepalive = -1\n", [(3, 23, "persistent-keepalive")]),
    ("[Pear]\n", [(1, 1, "unknown-section")]),
    ("[Peer] x\n", [(1, 1, "unknown-section")]),
    ("[Peer x]\nAllowedIPs = y\n", [(1, 1, "other-program")]),
    ("[Interface]\nJc = 1\nJmin = 2\n", [(2, 1, "amnezia-key")]),
    ("[Interface]\n# wgq: network = x\n", [(2, 8, "wgq-setting")]),
]


@pytest.mark.parametrize(("text", "expected"), FAULTY)
def test_each_fault_has_its_place_and_code(text: str, expected: list[tuple[int, int, str]]) -> None:
    assert [fault[:3] for fault in faults(text)] == expected


@pytest.mark.parametrize("text", [text for text, _ in FAULTY])
def test_each_fault_has_a_message_and_a_remedy(text: str) -> None:
    assert all(fault.remedy and fault.message for fault in faults(text))


def test_every_code_is_in_the_table_and_used() -> None:
    used = {code for _, expected in FAULTY for *_, code in expected}
    assert used | {"encoding", "table"} == set(FAULTS)  # UTF-16 has its own test; tables need a host


def test_a_utf16_file_has_its_own_fault() -> None:
    assert [fault.code for fault in faults("[Interface]\n".encode("utf-16"))] == ["encoding"]


def test_columns_count_characters_after_a_byte_order_mark() -> None:
    assert faults("\ufeffCaf\u00e9\n[Interface]\nFwMark = \u00e9")[0][:2] == (1, 1)
    assert faults("[Interface]\n\u00a0 FwMark = 1")[0][:2] == (2, 1)


def test_all_faults_are_reported_in_the_order_of_lines() -> None:
    text = f"[Interface]\nFwMark = x\nAddress = y\nListenPort = -1\n[Peer]\nEndpoint = z\n{PEER}Colour = 1\n"
    with pytest.raises(ConfigError) as caught:
        parse(Document.parse(text.encode()), "wg0", "/etc/wireguard/wg0.conf")
    assert [fault.line for fault in caught.value.diagnostics] == [2, 3, 4, 5, 6, 9]
    lines = str(caught.value).splitlines()
    assert lines[0] == "/etc/wireguard/wg0.conf:2:10: FwMark `x' is neither off nor a number of 32 bits [fwmark]"
    assert lines[1] == "  write off, 0 to 4294967295, or 0x0 to 0xffffffff"


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("[Interface]\nAdress = 1", "did you mean Address?"),
        (f"{PEER}AlowedIP = 1", "did you mean AllowedIPs?"),
        (f"{PEER}Address = 1", "move it to [Interface]"),
        (f"[Interface]\nPublicKey = {KEY}", "PrivateKey"),
        (f'[Interface]\nPrivateKey = "{KEY}"', "remove the quotation marks"),
        ("[Interface]\nAddress = '10.0.0.1'", "remove the quotation marks"),
        (f"[Interface]\nPrivateKey = {HEX}", "base64"),
        (f"[Interface]\nPrivateKey = {KEY[:-1]}", "copy the whole key"),
        (f"[Interface]\nPrivateKey = {KEY.replace('+', '-')}", "write + for -"),
        (f"{PEER}AllowedIPs = 10.0.0.0/8,", "remove the extra comma"),
        (f"{PEER}Endpoint = 192.0.2.1", "add the peer's port"),
        (f"{PEER}Endpoint = 2001:db8::1", "[2001:db8::1]:51820"),
        ("[Interface]\nZ9 = 15", "see wg(8) and wg-quick(8)"),
        (f"{PEER}AllowedIPs = 10.0.0.0/8 10.1.0.0/16", "a comma between two"),
        (f"{PEER}AllowedIPs = 10.0.0.0/8; 10.1.0.0/16", "a comma between two"),
        (f"{PEER}Endpoint = https://vpn.example:51820", "only host:port"),
        (f"{PEER}Endpoint = 192.0.2.1:51820, 192.0.2.2:51820", "one host:port"),
    ],
)
def test_the_remedy_fits_the_mistake(line: str, remedy: str) -> None:
    assert remedy in faults(line)[0].remedy


@pytest.mark.parametrize(
    "value", ["192.0.2.1", "10.1", "0x7f.1", "[fe80::1%eth0]", "2001:db8::1", "*", "a..b", "é"]
)
def test_a_host_that_the_resolver_may_know_is_no_fault(value: str) -> None:
    assert not faults(f"{PEER}Endpoint = {value}:51820\n")


MANY_DIGITS = "0" * 5000 + "7"


def test_leading_zeros_are_ignored() -> None:
    peer = f"{PEER}PersistentKeepalive = {MANY_DIGITS}\nAllowedIPs = 10.0.0.0/{MANY_DIGITS}\n"
    found = read(f"[Interface]\nFwMark = {MANY_DIGITS}\nListenPort = {MANY_DIGITS}\n{peer}")
    assert (found.fwmark, found.listen_port, found.peers[0].persistent_keepalive) == (7, 7, 7)
    assert found.peers[0].allowed_ips[0].length == 7


@pytest.mark.parametrize("key", ["FwMark", "ListenPort", "MTU", "PersistentKeepalive", "AllowedIPs", "Address"])
def test_a_number_of_thousands_of_digits_has_a_short_message(key: str) -> None:
    value = ("10.0.0.0/" if key in ("AllowedIPs", "Address") else "") + "9" * 5000
    section = PEER if key in ("PersistentKeepalive", "AllowedIPs") else "[Interface]"
    found = faults(f"{section}\n{key} = {value}\n")
    assert [len(fault.message) < 200 for fault in found] == [True]


def test_a_long_value_is_shortened_in_messages() -> None:
    assert len(faults(f"{PEER}AllowedIPs = {'.x' * 5000}\n")[0].message) < 200


def test_ten_thousand_warnings_take_less_than_five_seconds() -> None:
    entries = ", ".join(f"10.{high}.{low}.1/24" for high in range(40) for low in range(250))
    began = time.process_time()
    report = examine(Document.parse(f"{PEER}AllowedIPs = {entries}\n".encode()), "wg0")
    assert len(report.warnings) == 10_000
    assert report.warnings[-1].column == len(f"AllowedIPs = {entries}") - len("10.39.249.1/24") + 1
    assert time.process_time() - began < 5


def test_twenty_thousand_addresses_take_less_than_five_seconds() -> None:
    words = ", ".join(f"10.{number // 250}.{number % 250}.1/24" for number in range(20_000))
    began = time.process_time()
    report = examine(Document.parse(f"[Interface]\nAddress = {words}, 10.0.0.1/24\n".encode()), "wg0")
    assert [fault.code for fault in report.faults] == ["duplicate-address"]
    assert time.process_time() - began < 5


def test_faults_of_a_text_without_a_file_begin_with_the_line() -> None:
    with pytest.raises(ConfigError) as caught:
        read("[Interface]\nMTU = x\n")
    assert str(caught.value).startswith("2:7: MTU")


SECRET = "kEyMaTeRiAl/abcdefghijklmnopqrstuvwxyz+0123="
LEAKS = [
    *(
        f"[Interface]\n{key} = {SECRET}"
        for key in ("PrivateKey", "ListenPort", "FwMark", "Address", "MTU", "SaveConfig")
    ),
    *(f"{PEER}{key} = {SECRET}" for key in ("PublicKey", "PresharedKey", "AllowedIPs", "PersistentKeepalive")),
    f"{PEER}Endpoint = {SECRET}",
    f"{PEER}Endpoint = host:{SECRET}",
    f"{PEER}Endpoint = [{SECRET}",
    f"{PEER}AllowedIPs = 10.0.0.1/{SECRET}",
    f"[Interface]\nAddress = 10.0.0.1/{SECRET}",
    f"[Interface]\nPrivateKey {SECRET}",
    f"[Interface]\n{SECRET}",
    f"[Interface]\n{SECRET[:-1]}",
    f"[Interface]\nPrivatKey = {SECRET}",
    f"[Interface]\nPrivatKey {SECRET}",
    f"[Interface]\nPrivateKey = {SECRET[:20]}\n{SECRET[20:]}",
    f"[Interface]\nPrivateKey: {SECRET}",
    f"[{SECRET}]",
    f"{PEER}PresharedKey = {SECRET} {SECRET}",
    f"{SECRET} = x",
]


@pytest.mark.parametrize("text", LEAKS)
def test_no_fault_shows_key_material(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    shown = str(caught.value) + repr(caught.value) + repr(caught.value.diagnostics)
    assert not [
        part for part in (SECRET[i : i + 8] for i in range(len(SECRET) - 8)) if part.lower() in shown.lower()
    ]


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("main", 254),
        ("local", 255),
        ("default", 253),
        ("vpn", 7),
        ("0", 254),
        ("0x64", 100),
        ("0100", 64),
        ("4294967295", 0xFFFFFFFF),
    ],
)
def test_a_table_is_a_name_or_a_number_as_in_ip(word: str, number: int) -> None:
    assert table_number(word, {"vpn": 7}) == number


@pytest.mark.parametrize("word", ["Main", "off", "auto", "nosuch", "-1", "4294967296", "12a", ""])
def test_an_unknown_table_name_is_an_error(word: str) -> None:
    with pytest.raises(GrammarError) as caught:
        table_number(word, {"vpn": 7})
    assert "rt_tables" in caught.value.remedy


@pytest.mark.parametrize("module", ["dataclasses", "pydantic", "ipaddress", "pathlib", "difflib", "inspect"])
def test_the_parser_does_not_import_slow_modules(module: str) -> None:
    program = f"import sys, wgquick.config.reading, wgquick.config.parser; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-S", "-c", program], check=False, cwd=_root()).returncode == 0


def _root() -> str:
    import wgquick

    return wgquick.__path__[0] + "/.."
