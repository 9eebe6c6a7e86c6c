"""The parser accepts what wg-quick and `wg setconf` accept, with the same meaning, and refuses the rest."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.namespaces import host
from tests.property.configurations import (
    GOOD,
    HEADERS,
    INTERFACE,
    KEYS,
    NOISE,
    ODD,
    SPICE,
    VALID,
    Peer,
    clamped,
    dumped,
    files,
    mutants,
)
from wgquick.config.document import Document
from wgquick.config.grammar import GrammarError, address, identity, mtu
from wgquick.config.parser import examine
from wgquick.config.strip import strip
from wgquick.config.tables import table_number
from wgquick.errors import ConfigError
from wgquick.net import address_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wgquick.config.settings import Settings

pytestmark = pytest.mark.machine

DEVICE = "wg0"
RESOLUTION = re.compile(rb"Name or service not known|failure in name resolution|No address associated")
LINK = "tun0"
bounded = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Oracle:
    """`wg-quick strip`, `wg setconf` and `ip`, on a separate userspace device."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.environment = os.environ | {"WG_ENDPOINT_RESOLUTION_RETRIES": "0", "LC_ALL": "C"}

    def run(self, *command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command, input=given, capture_output=True, check=False, env=self.environment, timeout=30
        )

    def strip(self, data: bytes) -> bytes | None:
        """The output of `wg-quick strip`, or None if it fails."""
        self.file.write_bytes(data)
        done = self.run("wg-quick", "strip", str(self.file))
        return None if done.returncode else done.stdout

    def accepts(self, stripped: bytes) -> bool | None:
        """Whether `wg setconf` accepts the stripped file; None if that depends on a name server."""
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


def other_than_the_device(wanted: Settings, dump: list[list[str]]) -> list[str]:
    """The differences between the file's settings and the device."""
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
    beyond = {"address", "duplicate-address", "mtu", "save-config"}  # faults that only `ip` would find
    refused = [fault for fault in report.faults if fault.code not in beyond]
    if ours is not None and any(ip.change for peer in ours.peers for ip in peer.allowed_ips):
        return  # the wg of 2021 has no incremental AllowedIPs
    accepted = oracle.accepts(stripped)
    assert accepted in (not refused, None), (stripped, report.faults)
    if ours is not None and accepted:
        assert not other_than_the_device(ours, oracle.dump())


def in_a_file(line: str) -> bytes:
    """The line in its key's section."""
    section = "[Interface]" if line.partition(" ")[0] in INTERFACE else f"[Peer]\nPublicKey = {KEYS[0]}"
    return f"{section}\n{line}\n".encode()


@pytest.mark.parametrize("key", sorted(GOOD | ODD))
def test_each_value_of_a_key_means_the_same_as_to_wg(oracle: Oracle, key: str) -> None:
    for value in GOOD.get(key, []) + ODD.get(key, []):
        check_like_wg(oracle, in_a_file(f"{key} = {value}"))


@pytest.mark.parametrize("line", HEADERS + NOISE)
@pytest.mark.parametrize("before", ["", "[Interface]\n", f"[Peer]\nPublicKey = {KEYS[0]}\n"])
def test_an_odd_line_means_the_same_as_to_wg(oracle: Oracle, line: str, before: str) -> None:
    check_like_wg(oracle, f"{before}{line}\nAddress = 10.1\n".encode())
    check_like_wg(oracle, f"{before}{line}".encode())


@bounded
@given(data=files())
def test_generated_files_mean_the_same_as_to_wg(oracle: Oracle, data: bytes) -> None:
    check_like_wg(oracle, data)


@bounded
@given(data=mutants())
@example(data=VALID)
def test_slightly_broken_files_mean_the_same_as_to_wg(oracle: Oracle, data: bytes) -> None:
    check_like_wg(oracle, data)


@bounded
@given(data=files() | mutants() | st.lists(st.sampled_from([*SPICE, b"Address", b"a"]), max_size=12).map(b"".join))
def test_strip_prints_the_bytes_of_wg_quick_strip(oracle: Oracle, data: bytes) -> None:
    expected = oracle.strip(data)
    if expected is None:
        with pytest.raises(ConfigError):
            strip(Document.parse(data))
    else:
        assert strip(Document.parse(data)) == expected


# Values that `ip` reads

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
def test_an_address_is_valid_if_ip_address_add_accepts_it(oracle: Oracle, word: str) -> None:
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
    )  # the kernel accepts 0.0.0.0 and does nothing


@pytest.mark.parametrize("one", ["10.0.0.1/24", "10.0.0.1/32", "fd00::1/64", "0/0"])
@pytest.mark.parametrize(
    "other", ["10.0.0.1/24", "10.0.0.1", "10.0.0.2/24", "10.1/24", "fd00::1/128", "fd00::2/64", "0/0"]
)
def test_addresses_are_duplicates_if_the_kernel_refuses_both(oracle: Oracle, one: str, other: str) -> None:
    codes = [oracle.run("ip", "address", "add", word, "dev", LINK).returncode for word in (one, other)]
    for family in ("-4", "-6"):
        oracle.run("ip", family, "address", "flush", "dev", LINK)
    known = identity(address(one))
    assert (codes[1] != 0) == (known is not None and identity(address(other)) == known)


SIGNS = ["", "", "", "+", "-", "0x", "0X", "0", "00", "0b"]
DIGITS = ["1420", "0", "58c", "2614", "1", "1e3", "", "9", "1_0", "1420a", "65535", "²"]
NUMERALS = st.builds(str.__add__, st.sampled_from(SIGNS), st.sampled_from(DIGITS))


def read_as_binary(word: str) -> bool:
    """Whether `ip` reads a binary number because its C library is newer (glibc 2.38, C23) than Debian 12's."""
    return word.lower().startswith("0b") and word[2:].isdecimal()


@bounded
@given(word=NUMERALS)
def test_an_mtu_is_valid_if_ip_link_accepts_it(oracle: Oracle, word: str) -> None:
    """The limits depend on the link type; a tun link takes 68 to 65535."""
    assume(word)
    accepted = oracle.run("ip", "link", "set", "dev", LINK, "mtu", word).returncode == 0
    try:
        ours = mtu(word)
    except GrammarError:
        assert not accepted or read_as_binary(word), word
    else:
        assert accepted == (68 <= ours <= 65535), word


@bounded
@given(word=NUMERALS | st.sampled_from(["main", "Main", "local", "default", "unspec", "off", "auto", "all", "lan"]))
def test_a_table_is_valid_if_ip_route_accepts_it(oracle: Oracle, word: str) -> None:
    names = {"local": 255, "main": 254, "default": 253}  # the machine has no rt_tables
    route = ("198.51.100.0/24", "dev", LINK, "table", word)
    accepted = oracle.run("ip", "route", "add", *route).returncode == 0
    oracle.run("ip", "route", "delete", *route)
    try:
        number = table_number(word, names)
    except GrammarError:
        assert not accepted or read_as_binary(word), word
    else:
        assert accepted, (word, number)
