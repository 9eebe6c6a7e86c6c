"""`wgq wait` and `wgq up --wait` between two machines."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

import wgquick
from tests.netns.pair import Pair, pair, ping
from tests.netns.tunnels import WGQ, links, wgq
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

# The programs that serve the first machine's link.
BACKENDS = ("wgq-userspace", "wireguard-go")
INITIATION, KEEPALIVE = 148, 32


@pytest.fixture
def ends() -> Iterator[Pair]:
    """Two machines with files; the second machine's tunnel is up."""
    with pair() as made:
        made.write()
        wgq(made.two, "up", "wg0")
        yield made


def up(ends: Pair, *arguments: str, status: int = 0, backend: str = "wgq-userspace") -> str:
    """Bring the first machine's tunnel up. Returns the transcript."""
    program = {} if backend == "wgq-userspace" else {"WG_QUICK_USERSPACE_IMPLEMENTATION": backend}
    return wgq(ends.one, "up", "wg0", *arguments, status=status, **program).stderr


def shown(ends: Pair, word: str) -> str:
    """A value of the first machine's peer."""
    return ends.one.out("wg", "show", "wg0", word).split()[1]


def silence(ends: Pair) -> None:
    """Set the second machine's tunnel down, so that it does not answer."""
    ends.two.run(["ip", "link", "set", "down", "dev", "wg0"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_up_waits_for_the_handshake(ends: Pair, backend: str) -> None:
    up(ends, "--wait=60", backend=backend)
    assert int(shown(ends, "latest-handshakes")) > 0
    assert shown(ends, "persistent-keepalive") == "off"
    sent = int(ends.one.out("wg", "show", "wg0", "transfer").split()[2])
    assert sent % INITIATION % KEEPALIVE == 0, "no packet inside"


def test_up_without_an_answer_exits_4_and_stays_up(ends: Pair) -> None:
    silence(ends)
    error = up(ends, "--wait=1", status=4)
    assert "no handshake with the other (192.0.2.2:51820) within 1 s" in error
    assert "wg0" in links(ends.one)
    wgq(ends.one, "down", "wg0")


def test_or_down_takes_the_tunnel_down_again(ends: Pair) -> None:
    silence(ends)
    up(ends, "--wait=1", "--or-down", status=4)
    assert "wg0" not in links(ends.one)


def test_an_interrupted_wait_ends_with_the_signal(ends: Pair) -> None:
    silence(ends)
    waiting = ends.one.popen([*WGQ, "up", "wg0", "--wait=60", "--or-down"], stderr=subprocess.PIPE)
    until(lambda: "wg0" in links(ends.one), "the link")
    until(lambda: "state UNKNOWN" in ends.one.out("ip", "-o", "link", "show", "dev", "wg0"), "the link is up")
    waiting.send_signal(signal.SIGTERM)
    waiting.communicate(timeout=60)
    assert waiting.returncode == 128 + signal.SIGTERM
    assert "wg0" not in links(ends.one)


def test_an_unknown_peer_or_option_is_refused_before_any_change(ends: Pair) -> None:
    for arguments in (("--wait", "--wait-for", "nobody"), ("--or-down",), ("--wait=soon",)):
        up(ends, *arguments, status=1)
    assert "wg0" not in links(ends.one)
    up(ends, "--wait=60", "--wait-for", "the other")


@pytest.mark.parametrize("backend", BACKENDS)
def test_wait_begins_a_handshake(ends: Pair, backend: str) -> None:
    up(ends, backend=backend)
    assert shown(ends, "latest-handshakes") == "0"
    wgq(ends.one, "wait", "wg0", "--timeout", "60")
    assert int(shown(ends, "latest-handshakes")) > 0
    assert shown(ends, "persistent-keepalive") == "off"


def test_wait_needs_a_handshake_newer_than_the_call(ends: Pair) -> None:
    up(ends, "--wait=60")
    first = shown(ends, "latest-handshakes")
    wgq(ends.one, "wait", "wg0", "--for", ends.key_of_two, "--timeout", "60")
    assert shown(ends, "latest-handshakes") > first
    silence(ends)
    error = wgq(ends.one, "wait", "wg0", "--timeout", "1", status=4).stderr
    assert "no handshake with the other" in error
    ping(ends.one, "192.0.2.2")


def test_wait_says_why_it_cannot_wait(ends: Pair) -> None:
    wgq(ends.one, "wait", "wg0", status=1)
    up(ends)
    assert "(the other)" in wgq(ends.one, "wait", "wg0", "--for", "x", status=1).stderr
    assert "no peer has an endpoint" in wgq(ends.two, "wait", "wg0", status=1).stderr
    wgq(ends.two, "wait", "wg0", "--for", "one", "--timeout", "0", status=4)
    ends.one.run(["ip", "link", "set", "down", "dev", "wg0"])
    assert "the link is down" in wgq(ends.one, "wait", "wg0", status=1).stderr


def test_wait_from_python_returns_the_keys(ends: Pair) -> None:
    up(ends)
    keys = ends.one.call(wgquick.wait, "wg0", 60.0, "all")
    assert [str(key) for key in keys] == [ends.key_of_two]
    silence(ends)
    with pytest.raises(wgquick.NoHandshakeError):
        ends.one.call(wgquick.wait, "wg0", 0.5)


def test_up_without_wait_does_not_import_its_code(ends: Pair) -> None:
    done = ends.one.run([WGQ[0], "-X", "importtime", *WGQ[1:], "up", "wg0"], env=dict(os.environ))
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "wgquick.executor.up" in imported
    heavy = {"wgquick.cli.waiting", "wgquick.executor.waiting", "wgquick.status", "rich", "prometheus_client"}
    assert not imported & heavy
