"""Our control socket: wg(8) gets and sets everything through it, and no input harms the daemon."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import random
import re
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.interop.pairs import GO, LINK, WGQ, End, answer, machines, pair, private_key
from tests.keys import public_key
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

MIB = 1 << 20
PEERS = ("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=")
HEX = base64.b64decode(PEERS[0]).hex()
PRESHARED = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
CONFIG = f"""[Interface]
ListenPort = 51821
FwMark = 0xca6c
PrivateKey = {{key}}

[Peer]
PublicKey = {PEERS[0]}
PresharedKey = {PRESHARED}
AllowedIPs = 10.1.0.0/16, 10.2.3.4/32, fd01::/16
Endpoint = 192.0.2.77:51820
PersistentKeepalive = 25

[Peer]
PublicKey = {PEERS[1]}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = [2001:db8::77]:1
"""


@pytest.fixture
def end() -> Iterator[End]:
    """A single device that is not configured."""
    with machines(WGQ, GO) as (made, _):
        made.start()
        yield made
        made.assert_alive()


@pytest.fixture(scope="module")
def device() -> Iterator[End]:
    """A configured device; no request of these tests may change it."""
    with machines(WGQ, GO) as (made, _):
        made.start()
        made.wg("setconf", LINK, "/dev/stdin", input=CONFIG.format(key=made.private))
        before = made.request("get=1\n\n")
        yield made
        assert made.request("get=1\n\n") == before
        made.assert_alive()


def sections(config: str) -> list[set[str]]:
    """A configuration as sets of lines, as the order of lines and of peers does not matter."""
    return sorted(({line for line in part.splitlines() if line} for part in config.split("\n[")), key=sorted)


def test_setconf_restores_what_showconf_prints(end: End) -> None:
    config = CONFIG.format(key=end.private)
    end.wg("setconf", LINK, "/dev/stdin", input=config)
    shown = end.wg("showconf", LINK)
    assert sections(shown) == sections(config)
    end.wg("setconf", LINK, "/dev/stdin", input=f"[Interface]\nPrivateKey = {private_key()}\n")
    assert end.wg("show", LINK, "peers") == ""
    end.wg("setconf", LINK, "/dev/stdin", input=shown)
    assert end.wg("showconf", LINK) == shown


def test_wg_show_prints_everything_about_a_device(end: End) -> None:
    end.wg("setconf", LINK, "/dev/stdin", input=CONFIG.format(key=end.private))
    shown = end.wg("show", LINK)
    for line in (
        f"interface: {LINK}",
        f"  public key: {end.public}",
        "  private key: (hidden)",
        "  listening port: 51821",
        "  fwmark: 0xca6c",
        f"peer: {PEERS[0]}",
        "  preshared key: (hidden)",
        "  endpoint: 192.0.2.77:51820",
        "  allowed ips: 10.1.0.0/16, 10.2.3.4/32, fd01::/16",
        "  persistent keepalive: every 25 seconds",
        "  endpoint: [2001:db8::77]:1",
        "  allowed ips: 0.0.0.0/0, ::/0",
    ):
        assert f"{line}\n" in shown
    assert end.wg("show", "interfaces").split() == [LINK]
    dump = end.wg("show", LINK, "dump").splitlines()
    assert dump[0].split("\t") == [end.private, end.public, "51821", "0xca6c"]
    allowed = "10.1.0.0/16,10.2.3.4/32,fd01::/16"
    assert dump[1].split("\t") == [PEERS[0], PRESHARED, "192.0.2.77:51820", allowed, "0", "0", "0", "25"]


def test_a_fresh_device_is_empty(end: End) -> None:
    assert end.wg("show", LINK, "dump").split("\t") == ["(none)", "(none)", "0", "off\n"]
    assert sections(end.wg("showconf", LINK)) == [{"[Interface]"}]


def test_addconf_adds_and_setconf_replaces(end: End) -> None:
    end.wg("setconf", LINK, "/dev/stdin", input=f"[Peer]\nPublicKey = {PEERS[0]}\nAllowedIPs = 10.1.0.0/16\n")
    end.wg("addconf", LINK, "/dev/stdin", input=f"[Peer]\nPublicKey = {PEERS[1]}\nAllowedIPs = 10.2.0.0/16\n")
    assert end.wg("show", LINK, "peers").split() == [*PEERS]
    end.wg("addconf", LINK, "/dev/stdin", input=f"[Peer]\nPublicKey = {PEERS[0]}\nAllowedIPs = 10.2.0.0/16\n")
    assert end.wg("show", LINK, "allowed-ips").split() == [PEERS[0], "10.2.0.0/16", PEERS[1], "(none)"]
    end.wg("setconf", LINK, "/dev/stdin", input=f"[Peer]\nPublicKey = {PEERS[1]}\n")
    assert end.wg("show", LINK, "peers").split() == [PEERS[1]]


def test_syncconf_keeps_the_session_of_an_unchanged_peer() -> None:
    with pair(WGQ, GO) as (left, right):
        left.wg("addconf", LINK, "/dev/stdin", input=f"[Peer]\nPublicKey = {PEERS[0]}\nAllowedIPs = 10.9.0.0/16\n")
        left.ping(right)
        left.count_messages()
        before = left.handshake(right)
        other = f"[Peer]\nPublicKey = {PEERS[1]}\nAllowedIPs = 10.8.0.0/16\n"
        left.wg("syncconf", LINK, "/dev/stdin", input=left.interface() + right.peer(version=4) + other)
        assert set(left.wg("show", LINK, "peers").split()) == {right.public, PEERS[1]}
        left.ping(right)
        assert (left.handshake(right), left.sent("initiation")) == (before, 0)


def test_wg_set_changes_only_the_given_setting(end: End) -> None:
    config = CONFIG.format(key=end.private)
    end.wg("setconf", LINK, "/dev/stdin", input=config)
    for arguments, old, new in (
        (("listen-port", "40000"), "ListenPort = 51821", "ListenPort = 40000"),
        (("fwmark", "7"), "FwMark = 0xca6c", "FwMark = 0x7"),
        (("peer", PEERS[0], "persistent-keepalive", "0"), "PersistentKeepalive = 25\n", ""),
        (("peer", PEERS[0], "preshared-key", "/dev/null"), f"PresharedKey = {PRESHARED}\n", ""),
        (("peer", PEERS[1], "endpoint", "192.0.2.78:9"), "[2001:db8::77]:1", "192.0.2.78:9"),
        (("peer", PEERS[1], "allowed-ips", "10.8.0.0/16,fd08::/16"), "0.0.0.0/0, ::/0", "10.8.0.0/16, fd08::/16"),
        (("peer", PEERS[0], "allowed-ips", ""), "AllowedIPs = 10.1.0.0/16, 10.2.3.4/32, fd01::/16\n", ""),
        (("private-key", "/dev/null"), f"PrivateKey = {end.private}\n", ""),
    ):
        end.wg("set", LINK, *arguments)
        config = config.replace(old, new)
        assert sections(end.wg("showconf", LINK)) == sections(config), arguments


def test_a_device_does_not_accept_its_own_key_as_a_peer(end: End) -> None:
    end.wg("set", LINK, "private-key", "/dev/stdin", input=end.private)
    end.wg("set", LINK, "peer", end.public, "allowed-ips", "10.0.0.0/8")
    assert end.wg("show", LINK, "peers") == ""
    new = private_key()
    end.wg("set", LINK, "peer", public_key(new), "allowed-ips", "10.0.0.0/8")
    end.wg("set", LINK, "private-key", "/dev/stdin", input=new)
    assert end.wg("show", LINK, "peers") == ""


def test_the_kernel_chooses_port_zero_when_the_link_goes_up(end: End) -> None:
    assert end.wg("show", LINK, "listen-port").strip() == "0"
    end.ip(f"link set {LINK} up")
    until(lambda: end.wg("show", LINK, "listen-port").strip() != "0", "a port of the kernel's choice")


def test_wg_says_why_a_change_is_refused(end: End) -> None:
    end.wg("setconf", LINK, "/dev/stdin", input=CONFIG.format(key=end.private))
    end.ip(f"link set {LINK} up")
    with end.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 40000))
        until(lambda: refused(end.machine, "40000"), "the link up")
        done = end.machine.run(["wg", "set", LINK, "listen-port", "40000", "fwmark", "9"], check=False)
    assert (done.returncode, done.stderr) == (1, "Unable to modify interface: Address already in use\n")
    assert sections(end.wg("showconf", LINK)) == sections(CONFIG.format(key=end.private))


def refused(machine: Namespace, port: str) -> bool:
    return machine.run(["wg", "set", LINK, "listen-port", port], check=False).returncode != 0


KEY_LINES = ["", "=", "00", "zz" * 32, HEX[:-1], HEX + "0", HEX[:-1] + "g", " " + HEX[1:], "+" + HEX[1:]]
DEVICE_LINES = [
    *(f"private_key={value}" for value in KEY_LINES),
    *(f"public_key={value}" for value in KEY_LINES),
    *(f"listen_port={value}" for value in ("", "x", "-1", "+1", "65536", "1 ", " 1", "0x10", "9" * 20)),
    *(f"fwmark={value}" for value in ("x", "-1", "4294967296", "off")),
    *(f"replace_peers={value}" for value in ("", "false", "1", "True")),
    "endpoint=192.0.2.1:1",
    "allowed_ip=10.0.0.0/8",
    "unknown=1",
    "=",
    " listen_port=1",
    "LISTEN_PORT=1",
]
PEER_LINES = [
    *(f"preshared_key={value}" for value in KEY_LINES),
    *(f"endpoint={value}" for value in ("", "x", "192.0.2.1", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.256:1")),
    *(f"endpoint={value}" for value in (":1", "example.com:1", "2001:db8::1:1", "[2001:db8::1]", "[192.0.2.1]:1")),
    "endpoint=[fe80::1%nolink]:1",
    *(f"allowed_ip={value}" for value in ("", "x", "/8", "10.0.0.0/", "10.0.0.0/33", "fd00::/129", "10.0.0/8")),
    *(f"allowed_ip={value}" for value in ("10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/8/8", "10.0.0.0 /8")),
    *(f"persistent_keepalive_interval={value}" for value in ("", "x", "-1", "65536", "off")),
    *(f"{name}={value}" for name in ("remove", "update_only", "replace_allowed_ips") for value in ("", "1", "no")),
    "protocol_version=2",
    "protocol_version=",
    "listen_port=1",
    "private_key=" + HEX,
    "unknown=1",
]
# A request with a bad line applies none of its lines: these come before the bad one.
VALID = (
    f"private_key={'11' * 32}\nlisten_port=1\nfwmark=1\nreplace_peers=true\n"
    f"public_key={'22' * 32}\nallowed_ip=10.1.0.0/16\n"
)


def refusal(text: str) -> int:
    """The errno of an answer, positive as wg(8) reads it."""
    found = re.fullmatch(r"errno=(-?\d+)\n\n", text)
    assert found, text
    return -int(found[1])


@pytest.mark.parametrize("line", DEVICE_LINES)
def test_a_bad_line_for_the_device_is_einval_and_changes_nothing(device: End, line: str) -> None:
    before = device.request("get=1\n\n")
    assert refusal(device.request(f"set=1\nlisten_port=1\nreplace_peers=true\n{line}\n\n")) == errno.EINVAL
    assert device.request("get=1\n\n") == before


@pytest.mark.parametrize("line", PEER_LINES)
def test_a_bad_line_for_a_peer_is_einval_and_changes_nothing(device: End, line: str) -> None:
    before = device.request("get=1\n\n")
    assert refusal(device.request(f"set=1\n{VALID}{line}\n\n")) == errno.EINVAL
    assert refusal(device.request(f"set=1\n{VALID}{line}\npublic_key={HEX}\nremove=true\n\n")) == errno.EINVAL
    assert device.request("get=1\n\n") == before


@pytest.mark.parametrize("request_", ["got=1\n\n", "get=2\n\n", "set=0\n\n", "\n\n", "set=1\nno equals sign\n\n"])
def test_an_invalid_request_gets_an_error_or_no_answer(device: End, request_: str) -> None:
    reply = device.request(request_)
    assert reply == "" or refusal(reply) in (errno.EPROTO, errno.EINVAL)


def test_a_truncated_request_changes_nothing(device: End) -> None:
    before = device.request("get=1\n\n")
    whole = f"set=1\n{VALID}\n"
    for length in range(len(whole)):
        with device.uapi() as connection:
            connection.sendall(whole[:length].encode())
    assert device.request("get=1\n\n") == before


def test_requests_on_one_connection_are_answered_in_turn(device: End) -> None:
    with device.uapi() as connection:
        assert "private_key=" in ask(connection, b"get=1\n\n")
        assert refusal(ask(connection, b"set=1\nunknown=1\n\n")) == errno.EINVAL
        assert refusal(ask(connection, b"set=1\n\n")) == 0
        connection.sendall(b"get=1\n\nset=1\n\n")
        assert answer(connection).count("errno=0\n\n") in (1, 2)


def ask(connection: socket.socket, request: bytes) -> str:
    connection.sendall(request)
    return answer(connection)


def test_a_request_may_arrive_byte_by_byte(device: End) -> None:
    with device.uapi() as connection:
        for byte in b"get=1\n\n":
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        assert answer(connection).endswith("errno=0\n\n")


def test_binary_noise_on_the_socket_changes_nothing(device: End) -> None:
    before = device.request("get=1\n\n")
    chance = random.Random(51820)
    for length in (1, 7, 100, 5000, MIB):
        for prefix in (b"", b"set=1\n", b"set=1\nprivate_key=", b"get=1\n", f"set=1\n{VALID}".encode()):
            noise = chance.randbytes(length).replace(b"\n\n", b"\n-")
            with device.uapi() as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                ask(connection, prefix + noise + b"\n\n")
    assert device.request("get=1\n\n") == before


def test_an_endless_line_takes_little_memory_and_frees_it(device: End) -> None:
    usual = device.resident()
    with device.uapi() as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(b"set=1\nprivate_key=")
        for _ in range(64):
            connection.sendall(b"a" * MIB)
    assert refusal(device.request("set=1\n\n")) == 0
    until(lambda: device.resident() < usual + 4 * MIB, "the memory given back")


def test_silent_connections_do_not_block_others(device: End) -> None:
    with contextlib.ExitStack() as silent:
        for number in range(200):
            connection = silent.enter_context(device.uapi())
            if number % 2:
                connection.sendall(b"set=1\nprivate_key=")
        for _ in range(3):
            assert device.machine.run(["wg", "show", LINK, "listen-port"], timeout=30).stdout == "51821\n"


def test_many_clients_at_once_are_all_answered(device: End) -> None:
    clients = [device.uapi() for _ in range(50)]
    for client in clients:
        client.sendall(b"get=1\n\n")
    answers = {answer(client) for client in clients}
    for client in clients:
        client.close()
    assert len(answers) == 1
    assert answers.pop().endswith("errno=0\n\n")


def test_a_client_that_does_not_read_blocks_no_other(end: End) -> None:
    peers = [f"public_key={os.urandom(32).hex()}\nallowed_ip=10.{n >> 8}.{n & 255}.0/24\n" for n in range(5000)]
    assert refusal(end.request(f"set=1\n{''.join(peers)}\n")) == 0
    with end.uapi() as slow:
        slow.sendall(b"get=1\n\n")
        assert end.request("get=1\n\n").count("public_key=") == 5000
        assert answer(slow).count("public_key=") == 5000


KEYS = [f"{n:064x}" for n in range(1, 7)]
NETWORKS = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.99/24", "10.1.2.3/32"]
NETWORKS += ["::/0", "fd00::/8", "fd00::1/96", "fd00::1/128"]
ENDPOINTS = ["192.0.2.1:1", "[2001:db8::1]:65535", "[fe80::1%1]:9"]


def random_request(chance: random.Random) -> str:
    """A valid `set` request with random lines."""
    lines = [f"listen_port={chance.randrange(1, 65536)}", f"fwmark={chance.getrandbits(32)}", "fwmark=0"]
    lines = ["set=1", *chance.sample(lines, chance.choice([0, 0, 0, 1]))]
    if chance.random() < 0.05:
        lines.append("replace_peers=true")
    for _ in range(chance.randrange(4)):
        lines += random_peer(chance)
    return "\n".join(lines) + "\n\n"


def random_peer(chance: random.Random) -> list[str]:
    options = [
        f"preshared_key={chance.choice([*KEYS, '0' * 64])}",
        f"endpoint={chance.choice(ENDPOINTS)}",
        f"persistent_keepalive_interval={chance.choice([0, 25, 65535])}",
        "protocol_version=1",
        "replace_allowed_ips=true",
    ]
    return [
        f"public_key={chance.choice(KEYS)}",
        *chance.sample(["remove=true", "update_only=true"], chance.choice([0, 0, 0, 0, 1])),
        *chance.sample(options, chance.randrange(4)),
        *(f"allowed_ip={chance.choice(NETWORKS)}" for _ in range(chance.randrange(4))),
    ]


def configured(end: End) -> tuple[object, ...]:
    """The configuration in a fixed order, without statistics."""
    device, peers = end.get()
    names = ("preshared_key", "endpoint", "persistent_keepalive_interval", "protocol_version")
    found = [(peer.key, [peer.values.get(name) for name in names], sorted(peer.allowed_ips)) for peer in peers]
    return device, sorted(found)


@pytest.mark.parametrize("seed", range(5))
def test_random_requests_have_the_same_effect_as_on_wireguard_go(seed: int) -> None:
    chance = random.Random(seed)
    with machines(WGQ, GO) as ends:
        for end in ends:
            end.start()
            assert end.request("set=1\nlisten_port=1000\n\n") == "errno=0\n\n"
        for _ in range(100):
            request = random_request(chance)
            ours, theirs = (end.request(request) for end in ends)
            assert (ours, configured(ends[0])) == (theirs, configured(ends[1])), request
