"""`wgq up` with a UDP port that is not available: nothing is left, and the message names port and holder."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from tests.interop.ports import TAKEN, take
from tests.netns.tunnels import WGQ, config, journals, links, wgq, write
from wgquick import api
from wgquick.errors import OperationError
from wgquick.options import Options
from wgquick.system.netlink import RtNetlink
from wgquick.system.netlink.connection import Refusal, RefusedError
from wgquick.system.wireguard import Control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.namespaces import Namespace
    from wgquick.device import DeviceConfig

PORT = 51821
LISTEN = config(f"ListenPort = {PORT}")
DAEMONS = ("wgq-userspace", "wireguard-go")


@contextmanager
def nothing_left(machine: Namespace) -> Iterator[None]:
    def state() -> tuple[object, ...]:
        return links(machine), journals(machine), machine.out("ls", "-A", "/run/wireguard")

    before = state()
    yield
    assert state() == before


def refused(machine: Namespace, name: str = "wg0", **environment: str) -> str:
    with nothing_left(machine):
        return wgq(machine, "up", name, status=2, **environment).stderr


@pytest.mark.parametrize("daemon", DAEMONS)
@pytest.mark.parametrize("kind", TAKEN)
def test_a_port_of_a_program_is_refused_with_its_name(machine: Namespace, kind: str, daemon: str) -> None:
    write(machine, LISTEN)
    with take(machine, kind):
        error = refused(machine, WG_QUICK_USERSPACE_IMPLEMENTATION=daemon)
    assert f"wgq: cannot bring wg0 up: UDP port {PORT} is in use by " in error
    assert f"(process {os.getpid()})" in error
    wgq(machine, "up", "wg0", WG_QUICK_USERSPACE_IMPLEMENTATION=daemon)


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_port_of_another_tunnel_is_refused_with_its_name(machine: Namespace, daemon: str) -> None:
    write(machine, LISTEN)
    write(machine, config(f"ListenPort = {PORT}", address="10.1.0.1/24", n=1), "wg1")
    wgq(machine, "up", "wg0", WG_QUICK_USERSPACE_IMPLEMENTATION=daemon)
    error = refused(machine, "wg1", WG_QUICK_USERSPACE_IMPLEMENTATION=daemon)
    assert f"UDP port {PORT} is in use by the WireGuard interface wg0\n" in error
    wgq(machine, "down", "wg0")
    wgq(machine, "up", "wg1", WG_QUICK_USERSPACE_IMPLEMENTATION=daemon)


@pytest.mark.parametrize("daemon", DAEMONS)
@pytest.mark.parametrize("kind", TAKEN)
def test_a_reload_to_a_port_in_use_changes_nothing(machine: Namespace, kind: str, daemon: str) -> None:
    write(machine, config("ListenPort = 40000"))
    wgq(machine, "up", "wg0", WG_QUICK_USERSPACE_IMPLEMENTATION=daemon)
    before = machine.out("wg", "showconf", "wg0")
    write(machine, config(f"ListenPort = {PORT}", peer="AllowedIPs = 10.8.0.0/16"))
    with take(machine, kind):
        error = wgq(machine, "reload", "wg0", status=1).stderr
        assert machine.out("wg", "showconf", "wg0") == before
    assert f"wgq: cannot change the ListenPort of wg0: UDP port {PORT} is in use by " in error
    assert f"(process {os.getpid()})" in error
    wgq(machine, "reload", "wg0")
    assert machine.out("wg", "show", "wg0", "listen-port") == f"{PORT}\n"


def taken_once_free(release: Callable[[], None] = lambda: None) -> socket.socket:
    """A socket on the port; `release` may have to be called several times until the port is free."""
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    deadline = time.monotonic() + 60
    while True:
        release()
        try:
            taken.bind(("0.0.0.0", PORT))
        except OSError:
            assert time.monotonic() < deadline, "the port stays in use"
            time.sleep(0.01)
        else:
            return taken


def set_up_and_down(name: str) -> None:
    """The daemon releases the port when the link goes down, if it has seen the link up."""
    for state in ("up", "down"):
        subprocess.run(["ip", "link", "set", name, state], check=True)
        time.sleep(0.05)


def up_while_the_port_is_taken(daemon: str, moment: str) -> str:
    """The error of up if the port is taken after the check, just before the `moment`."""
    control_set, set_link, taken = Control.set, RtNetlink.set_link, []

    def take_and_set(control: Control, name: str, change: DeviceConfig) -> None:
        if moment != "set_link":
            taken.append(taken_once_free())
        if moment == "binding":  # wireguard-go fails to bind the port only later, and then has none
            change = change._replace(listen_port=None)
        control_set(control, name, change)

    def take_and_set_link(rtnl: RtNetlink, name: str, *, mtu: int | None = None, up: bool = True) -> None:
        if moment == "set_link":
            taken.append(taken_once_free(partial(set_up_and_down, name)))
        set_link(rtnl, name, mtu=mtu, up=up)

    with (
        mock.patch.dict(os.environ, WG_QUICK_USERSPACE_IMPLEMENTATION=daemon),
        mock.patch.object(Control, "set", take_and_set),
        mock.patch.object(RtNetlink, "set_link", take_and_set_link),
        pytest.raises(OperationError) as caught,
    ):
        api.up(api.load("/etc/wireguard/wg0.conf"), Options(backend="userspace"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("daemon", "moment"),
    [
        ("wgq-userspace", "set"),
        ("wgq-userspace", "set_link"),
        ("wireguard-go", "set"),
        ("wireguard-go", "binding"),
    ],
)
def test_a_port_taken_after_the_check_is_refused(machine: Namespace, daemon: str, moment: str) -> None:
    write(machine, LISTEN)
    with nothing_left(machine):
        error = machine.call(up_while_the_port_is_taken, daemon, moment)
    assert f"UDP port {PORT} is in use by " in error


def up_over_a_kernel_that_refuses(code: int) -> OperationError:
    """The error of up if the kernel's WireGuard refuses to set the link up."""
    refusal = RefusedError(Refusal(code), "cannot set the link wg0 up")
    with (
        mock.patch.object(RtNetlink, "set_link", side_effect=refusal),
        pytest.raises(OperationError) as caught,
    ):
        api.up(api.load("/etc/wireguard/wg0.conf"), Options(backend="userspace"))
    return caught.value


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EADDRINUSE, f"UDP port {PORT} is in use"),
        (
            errno.EACCES,
            f"UDP port {PORT} is privileged\n  A port below 1024 needs root or CAP_NET_BIND_SERVICE.",
        ),
        (errno.EADDRNOTAVAIL, f"UDP port {PORT} cannot be bound: Cannot assign requested address"),
        (errno.ENOBUFS, "cannot set the link wg0 up: No buffer space available"),
    ],
)
def test_a_refusal_of_the_kernel_is_explained(machine: Namespace, code: int, words: str) -> None:
    write(machine, LISTEN)
    with nothing_left(machine):
        error = machine.call(up_over_a_kernel_that_refuses, code)
    assert words in str(error)
    assert (error.errno, error.status) == (code, 2)


def test_a_hook_may_free_the_port_or_set_it_on_the_device(machine: Namespace) -> None:
    free = ("PreUp = kill $(cat /run/holder)", f"PreUp = while ss -Hlun | grep -q :{PORT}; do :; done")
    holder = (
        f"import socket, time; s = socket.socket(2, 2); s.bind(('', {PORT})); print(1, flush=True); time.sleep(600)"
    )
    started = machine.popen(["python3", "-c", holder], stdout=-1)
    assert started.stdout is not None
    assert started.stdout.readline() == b"1\n"
    started.stdout.close()
    machine.run(["sh", "-c", f"echo {started.pid} >/run/holder"])
    write(machine, config("\n".join((f"ListenPort = {PORT}", *free))))
    wgq(machine, "up", "wg0")
    wgq(machine, "down", "wg0")
    write(machine, config(f"ListenPort = {PORT}\nPreUp = wg set %i listen-port {PORT}; ip link set %i up"))
    wgq(machine, "up", "wg0")


def test_a_port_below_1024_without_the_capability_is_reported(machine: Namespace) -> None:
    write(machine, config("ListenPort = 443"))
    drop = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service", "--"]
    with nothing_left(machine):
        done = machine.run([*drop, *WGQ, "up", "wg0"], check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert "UDP port 443 is privileged" in done.stderr
    assert "CAP_NET_BIND_SERVICE" in done.stderr
    wgq(machine, "up", "wg0")


def test_a_port_is_bound_without_ipv6(machine: Namespace) -> None:
    machine.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"])
    write(machine, LISTEN)
    wgq(machine, "up", "wg0")
    assert f":{PORT}" in machine.out("ss", "-Hlun")
