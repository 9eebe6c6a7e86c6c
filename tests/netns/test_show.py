"""`wgq show` and `wg show` print the same bytes for any device."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import host
from wgquick.show.wg import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.namespaces import Namespace

WGQ = [sys.executable, "-m", "wgquick"]
DIRECTORY = "/var/run/wireguard"


def device(draw: random.Random) -> str:
    """A random device's answer to `get=1`; rare values are frequent."""
    lines = []
    if draw.random() < 0.8:
        lines.append(f"private_key={key(draw)}")
    lines += [f"listen_port={draw.choice((0, 1, 51820, 65535))}", f"fwmark={draw.choice((0, 1, 51820, 2**32 - 1))}"]
    for _ in range(draw.randrange(4)):
        lines += peer(draw)
    return "\n".join([*lines, "errno=0", "", ""])


def key(draw: random.Random) -> str:
    """A clamped private key in hexadecimal, as devices report it."""
    raw = bytearray(draw.randbytes(32))
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return raw.hex()


def peer(draw: random.Random) -> list[str]:
    lines = [f"public_key={key(draw)}", f"preshared_key={draw.choice((key(draw), '0' * 64))}"]
    if draw.random() < 0.7:
        lines.append(f"endpoint={draw.choice(('192.0.2.1:51820', '[2001:db8::1]:1', '[fe80::1%1]:65535'))}")
    now = int(time.time())
    ages = (0, 1, 59, 60, 61, 3600, 3661, 86400, 90061, 31536000, 63072002, now, draw.randrange(10**8))
    lines.append(f"last_handshake_time_sec={now - draw.choice(ages)}")
    lines.append(f"last_handshake_time_nsec={draw.choice((0, draw.randrange(10**9)))}")
    sizes = (0, 1, 1023, 1024, 1025, 1024**2 - 1, 1024**2, 1024**3, 1024**4, 5 * 1024**4, draw.randrange(10**12))
    lines += [f"rx_bytes={draw.choice(sizes)}", f"tx_bytes={draw.choice(sizes)}"]
    lines.append(f"persistent_keepalive_interval={draw.choice((0, 1, 25, 60, 65535))}")
    networks = ("0.0.0.0/0", "::/0", "10.0.0.1/32", "fd00::/64", "192.0.2.0/24", "::ffff:192.0.2.1/128")
    lines += [f"allowed_ip={each}" for each in draw.sample(networks, draw.randrange(4))]
    return [*lines, "protocol_version=1"]


@contextmanager
def answering(answers: dict[str, str]) -> Iterator[None]:
    """Sockets of devices; each answers every request with its text."""
    sockets = []
    for name, text in answers.items():
        server = socket.socket(socket.AF_UNIX)
        path = f"{DIRECTORY}/{name}.sock"
        with suppress(FileNotFoundError):
            os.unlink(path)
        server.bind(path)
        server.listen()
        threading.Thread(target=_serve, args=(server, text), daemon=True).start()
        sockets.append(server)
    try:
        yield
    finally:
        for server in sockets:
            os.unlink(server.getsockname())
            server.shutdown(socket.SHUT_RDWR)
            server.close()


def _serve(server: socket.socket, text: str) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:
            return
        with client, suppress(OSError):
            if client.recv(4096):
                client.sendall(text.encode())


@pytest.fixture(scope="module")
def machine() -> Iterator[Namespace]:
    with host() as machine:
        yield machine


def _output(tool: list[str], arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[str, int]:
    """Output and exit status of a tool."""
    env = {**os.environ, **environment}
    done = subprocess.run([*tool, *arguments], check=False, env=env, capture_output=True, text=True)
    return done.stdout, done.returncode


def _outputs(*arguments: str) -> list[tuple[str, int]]:
    """Output and exit status of wg and of wgq."""
    return [_output(tool, arguments, {}) for tool in (["wg"], WGQ)]


def _compare(*arguments: str, **environment: str) -> None:
    """Each line of wgq is one that wg prints just before or just after, as handshake ages are in seconds.

    If wgq prints in a third second, the comparison is repeated.
    """
    for _ in range(10):
        (one, _), (own, status), (two, wanted) = (
            _output(tool, arguments, environment) for tool in (["wg"], WGQ, ["wg"])
        )
        assert status == wanted
        lines = [text.splitlines(keepends=True) for text in (one, own, two)]
        if all(mine in (before, after) for before, mine, after in zip(*lines, strict=True)):
            return
    assert own == two


def _compare_all(answers: dict[str, str], word: str) -> None:
    with answering(answers):
        _compare("show")
        _compare("show", "wg0", WG_COLOR_MODE="always", WG_HIDE_KEYS="never")
        _compare("show", "all", word)
        _compare("show", "wg0", word)
        _compare("show", "interfaces")


@pytest.mark.parametrize("seed", range(12))
def test_the_output_equals_that_of_wg(machine: Namespace, seed: int) -> None:
    draw = random.Random(seed)
    answers = {f"wg{n}": device(draw) for n in range(draw.choice((1, 2)))}
    machine.call(_compare_all, answers, WORDS[seed])


def test_a_missing_interface_is_an_error_with_its_name(machine: Namespace) -> None:
    (_, status), (printed, own) = machine.call(_outputs, "show", "none0")
    assert (printed, own) == ("", status) == ("", 1)
    assert "none0" in machine.run([*WGQ, "show", "none0"], check=False).stderr


def test_an_unknown_word_is_refused_as_by_wg(machine: Namespace) -> None:
    (_, status), (printed, own) = machine.call(_outputs, "show", "wg0", "colours")
    assert (printed, own) == ("", status) == ("", 1)


def test_an_empty_name_is_refused_as_by_wg(machine: Namespace) -> None:
    (_, status), (printed, own) = machine.call(_outputs, "show", "")
    assert (printed, own) == ("", status) == ("", 1)


def test_without_interfaces_nothing_is_printed(machine: Namespace) -> None:
    for arguments in ((), ("all",), ("interfaces",), ("all", "dump")):
        wg, wgq = machine.call(_outputs, "show", *arguments)
        assert wg == wgq == ("", 0)
