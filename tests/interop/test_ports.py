"""UDP ports that other programs use: the port is refused, as with the kernel's WireGuard."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.interop.pairs import GO, LINK, WGQ, machines, pair, private_key
from tests.interop.ports import PORT, TAKEN, take
from tests.keys import public_key
from tests.namespaces import host
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.pairs import End
    from tests.namespaces import Namespace

IN_USE = "Unable to modify interface: Address already in use\n"


@pytest.fixture
def end() -> Iterator[End]:
    with machines(WGQ, WGQ) as (one, _):
        one.start()
        yield one


def is_up(end: End) -> bool:
    return "UP" in end.machine.out("ip", "-o", "link", "show", LINK).partition(">")[0]


def is_bound(machine: Namespace) -> bool:
    """Whether a socket has the port. `is_free` would bind it briefly, and the daemon could fail to bind it."""
    return f":{PORT} " in machine.out("ss", "-Huln")


def is_free(machine: Namespace) -> bool:
    try:
        take(machine, "any").close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("kind", TAKEN)
def test_a_taken_port_is_refused_while_the_link_is_down(end: End, kind: str) -> None:
    with take(end.machine, kind):
        done = end.machine.run(["wg", "set", LINK, "listen-port", str(PORT)], check=False)
        assert (done.returncode, done.stderr) == (1, IN_USE)
    end.wg("set", LINK, "listen-port", str(PORT))


def test_a_request_with_a_taken_port_changes_nothing(end: End) -> None:
    end.wg("set", LINK, "fwmark", "7", "peer", public_key(private_key()))
    before = end.get()
    with take(end.machine, "any-ipv4"):
        request = f"set=1\nlisten_port={PORT}\nfwmark=9\nreplace_peers=true\n\n"
        assert end.request(request) == f"errno=-{errno.EADDRINUSE}\n\n"
    assert end.get() == before


@pytest.mark.parametrize("kind", TAKEN)
def test_wg_quick_fails_on_a_taken_port_and_leaves_nothing(kind: str) -> None:
    """The kernel's WireGuard refuses likewise, at `ip link set up`."""
    text = f"[Interface]\nPrivateKey = {private_key()}\nAddress = 10.0.0.1/24\nListenPort = {PORT}\n"
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": WGQ}
    with host() as machine:
        machine.run(["sh", "-c", "umask 077; cat >/etc/wireguard/wg0.conf"], input=text)
        with take(machine, kind):
            done = machine.run(["wg-quick", "up", "wg0"], check=False, env=environment)
        assert done.returncode != 0
        assert "Address already in use" in done.stderr
        assert "wg0" not in machine.out("ls", "/sys/class/net")
        machine.run(["wg-quick", "up", "wg0"], env=environment)


def test_a_refused_change_leaves_the_old_port_at_work() -> None:
    with pair(WGQ, GO) as (left, right):
        left.ping(right)
        with take(left.machine, "any-ipv6", 40000):
            done = left.machine.run(["wg", "set", LINK, "listen-port", "40000"], check=False)
        assert (done.returncode, done.stderr) == (1, IN_USE)
        assert left.wg("show", LINK, "listen-port") == f"{left.port}\n"
        left.ping(right)
        assert right.known_endpoint(left) == left.endpoint()


def test_a_link_that_cannot_bind_its_port_is_set_down_again(end: End) -> None:
    """The daemon releases the port with the link, and another program takes it."""
    end.wg("set", LINK, "listen-port", str(PORT))
    end.ip(f"link set {LINK} up")
    until(lambda: is_bound(end.machine), "the port bound")
    end.ip(f"link set {LINK} down")
    until(lambda: is_free(end.machine), "the port released")
    with take(end.machine, "any"):
        end.ip(f"link set {LINK} up")
        until(lambda: not is_up(end), "the link down again")
        assert f"cannot bind UDP port {PORT}" in end.machine.out("cat", "/run/daemon.log")
    end.ip(f"link set {LINK} up")
    until(lambda: is_bound(end.machine), "the port bound")
    assert is_up(end)


def test_a_port_is_held_from_its_setting_to_the_next_one(end: End) -> None:
    end.wg("set", LINK, "listen-port", str(PORT))
    assert not is_free(end.machine)
    with take(end.machine, "any", 40000):
        assert end.machine.run(["wg", "set", LINK, "listen-port", "40000"], check=False).stderr == IN_USE
    assert not is_free(end.machine)
    end.wg("set", LINK, "listen-port", "0")
    assert is_free(end.machine)


def test_the_port_is_free_once_the_control_socket_is_gone(end: End) -> None:
    end.wg("set", LINK, "listen-port", str(PORT))
    end.ip(f"link set {LINK} up")
    until(lambda: is_bound(end.machine), "the port bound")
    end.ip(f"link delete {LINK}")
    until(lambda: end.machine.out("ls", "/run/wireguard") == "", "the control socket gone")
    assert is_free(end.machine)
