"""The control socket of real daemons, compared with wg(8), and of daemons that misbehave."""

from __future__ import annotations

import errno
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.keys import networks, public, secret
from tests.namespaces import Namespace, host
from tests.waiting import stopped
from wgquick.device import Device, DeviceConfig, PeerConfig
from wgquick.errors import OperationError
from wgquick.net import AllowedIP, SecretKey, SocketAddress, pack_address
from wgquick.system.netlink import RtNetlink
from wgquick.system.userspace import Userspace
from wgquick.system.wireguard import Control
from wgquick.system.wireguard.uapi import Uapi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NO_KEY = SecretKey(bytes(32))


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with host() as inside, inside.entered():
        yield inside


@pytest.fixture
def control(machine: Namespace) -> Control:
    Userspace().start("wireguard-go", "wg0")
    return Control()


def ips(*texts: str) -> tuple[AllowedIP, ...]:
    def one(text: str) -> AllowedIP:
        address, _, length = text.lstrip("+-").partition("/")
        return AllowedIP(pack_address(address), int(length), text[0] if text[0] in "+-" else "")

    return tuple(map(one, texts))


def wg_dump(machine: Namespace) -> list[list[str]]:
    return [line.split("\t") for line in machine.out("wg", "show", "wg0", "dump").splitlines()]


def test_a_device_reads_back_and_wg_shows_the_same(machine: Namespace, control: Control) -> None:
    private, preshared = secret(), secret()
    first = PeerConfig(
        public(),
        preshared_key=preshared,
        endpoint=SocketAddress("192.0.2.9", 51821),
        persistent_keepalive=25,
        replace_allowed_ips=True,
        allowed_ips=ips("10.0.0.0/8", "fd00::/64"),
    )
    second = PeerConfig(public(), endpoint=SocketAddress("fe80::1", 9, 1))
    control.set("wg0", DeviceConfig(private, 51820, 51820, (first, second)))
    device = control.get("wg0")
    assert (device.name, device.private_key, device.listen_port, device.fwmark) == ("wg0", private, 51820, 51820)
    peers = {peer.public_key: peer for peer in device.peers}
    assert set(peers) == {first.public_key, second.public_key}
    found = peers[first.public_key]
    assert (found.preshared_key, found.endpoint, found.persistent_keepalive) == (preshared, first.endpoint, 25)
    assert found.allowed_ips == first.allowed_ips
    assert peers[second.public_key].endpoint == second.endpoint
    assert peers[second.public_key].preshared_key is None
    head, *rest = wg_dump(machine)
    assert head[0] == private.reveal()
    assert head[2:] == ["51820", "0xca6c"]
    assert [str(first.public_key), preshared.reveal(), "192.0.2.9:51821", "10.0.0.0/8,fd00::/64"] in [
        row[:4] for row in rest
    ]


def test_only_given_settings_change_and_zeros_remove_them(machine: Namespace, control: Control) -> None:
    peer = PeerConfig(public(), preshared_key=secret(), persistent_keepalive=25, allowed_ips=ips("10.0.0.0/8"))
    control.set("wg0", DeviceConfig(secret(), fwmark=7, peers=(peer,)))
    control.set("wg0", DeviceConfig(peers=(PeerConfig(peer.public_key, allowed_ips=ips("+10.1.0.0/16")),)))
    device = control.get("wg0")
    assert device.fwmark == 7
    assert device.peers[0].persistent_keepalive == 25
    assert device.peers[0].preshared_key == peer.preshared_key
    assert set(device.peers[0].allowed_ips) == set(ips("10.0.0.0/8", "10.1.0.0/16"))
    off = PeerConfig(
        peer.public_key,
        preshared_key=NO_KEY,
        persistent_keepalive=0,
        replace_allowed_ips=True,
        allowed_ips=ips("10.2.0.0/16"),
    )
    control.set("wg0", DeviceConfig(NO_KEY, fwmark=0, peers=(off,)))
    device = control.get("wg0")
    assert (device.private_key, device.fwmark) == (None, 0)
    assert device.peers[0].preshared_key is None
    assert device.peers[0].persistent_keepalive == 0
    assert device.peers[0].allowed_ips == ips("10.2.0.0/16")


def test_allowed_ips_and_peers_can_be_removed(machine: Namespace, control: Control) -> None:
    first, second = public(), public()
    wanted = tuple(
        PeerConfig(key, allowed_ips=ips(f"10.{n}.0.0/16", f"10.{n}.1.0/24"))
        for n, key in enumerate((first, second))
    )
    control.set("wg0", DeviceConfig(peers=wanted))
    control.set("wg0", DeviceConfig(peers=(PeerConfig(first, allowed_ips=ips("-10.0.1.0/24")),)))
    assert {peer.public_key: peer.allowed_ips for peer in control.get("wg0").peers}[first] == ips("10.0.0.0/16")
    control.set("wg0", DeviceConfig(peers=(PeerConfig(first, remove=True),)))
    assert [peer.public_key for peer in control.get("wg0").peers] == [second]
    control.set("wg0", DeviceConfig(peers=(PeerConfig(first, update_only=True, persistent_keepalive=5),)))
    assert [peer.public_key for peer in control.get("wg0").peers] == [second]


def test_interfaces_are_those_with_an_answering_daemon(machine: Namespace, control: Control) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind("/run/wireguard/stale.sock")
    stale.close()
    Path("/run/wireguard/file.sock").write_text("")
    Path("/run/wireguard/other").write_text("")
    assert control.interfaces() == ["wg0"]
    assert [control.backend(name) for name in ("wg0", "stale", "file", "up0")] == ["userspace", "", "", ""]
    assert machine.out("wg", "show", "interfaces").split() == ["wg0"]


@pytest.mark.parametrize("name", ["stale", "file", "none"])
def test_a_name_without_a_daemon_is_no_device(machine: Namespace, name: str) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind("/run/wireguard/stale.sock")
    stale.close()
    Path("/run/wireguard/file.sock").write_text("")
    with pytest.raises(OperationError, match=f"`{name}' is not a WireGuard interface") as caught:
        Control().get(name)
    assert caught.value.errno == errno.ENODEV


def refused(function: Callable[[], object]) -> OperationError:
    with pytest.raises(OperationError) as caught:
        function()
    return caught.value


def test_a_refused_request_names_its_only_peer(machine: Namespace, control: Control) -> None:
    peer = PeerConfig(public(), preshared_key=secret(), endpoint=SocketAddress("192.0.2.300", 9))
    error = refused(lambda: control.set("wg0", DeviceConfig(secret(), peers=(peer,))))
    assert error.errno == errno.EINVAL
    assert str(error) == f"cannot configure wg0: its daemon: Invalid argument (peer {peer.public_key})"


def test_a_refused_request_names_the_range_of_its_peers(machine: Namespace, control: Control) -> None:
    peers = tuple(PeerConfig(public(), endpoint=SocketAddress("192.0.2.300", 9)) for _ in range(3))
    error = refused(lambda: control.set("wg0", DeviceConfig(peers=peers)))
    assert f"3 peers, {peers[0].public_key} to {peers[2].public_key}" in str(error)


def test_a_refusal_within_a_long_request_is_reported(machine: Namespace, control: Control) -> None:
    """wireguard-go answers at the faulty line and stops reading while we still send."""
    bad = PeerConfig(public(), endpoint=SocketAddress("192.0.2.300", 9))
    rest = PeerConfig(public(), allowed_ips=networks(50_000))
    assert refused(lambda: control.set("wg0", DeviceConfig(peers=(bad, rest)))).errno == errno.EINVAL


def test_a_hundred_thousand_allowed_ips_take_less_than_a_second(machine: Namespace, control: Control) -> None:
    wanted = networks(100_000)
    start = time.process_time()
    control.set("wg0", DeviceConfig(peers=(PeerConfig(public(), allowed_ips=wanted),)))
    was_set = time.process_time()
    (peer,) = control.get("wg0").peers
    assert time.process_time() - was_set < 1
    assert was_set - start < 1
    assert sorted(peer.allowed_ips) == sorted(wanted)


def test_thousands_of_peers_read_back_the_same(machine: Namespace, control: Control) -> None:
    wanted = tuple(
        PeerConfig(
            public(), preshared_key=secret(), endpoint=SocketAddress("192.0.2.1", 1000 + n), allowed_ips=(ip,)
        )
        for n, ip in enumerate(networks(2000))
    )
    control.set("wg0", DeviceConfig(peers=wanted))
    found = {peer.public_key: peer for peer in control.get("wg0").peers}
    for peer in wanted:
        there = found.pop(peer.public_key)
        assert (there.preshared_key, there.endpoint, there.allowed_ips) == (
            peer.preshared_key,
            peer.endpoint,
            peer.allowed_ips,
        )
    assert found == {}


def test_a_stopped_daemon_does_not_hang_the_caller(machine: Namespace, control: Control) -> None:
    with stopped(machine.process()):
        patient = Uapi(get_patience=0.2, set_patience=0.3)
        peer = PeerConfig(public(), allowed_ips=networks(50_000))
        for call in (lambda: patient.get("wg0"), lambda: patient.set("wg0", DeviceConfig(secret(), peers=(peer,)))):
            error = refused(call)
            assert error.errno == errno.ETIMEDOUT
            assert "its daemon has not answered for 0." in str(error)


@contextmanager
def daemon(answer: bytes | None) -> Iterator[None]:
    """A daemon at wg7's socket that reads a little of each request and sends this answer."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(16)
                if answer is not None:
                    connection.sendall(answer)

    listener = socket.socket(socket.AF_UNIX)
    listener.bind("/run/wireguard/wg7.sock")
    listener.listen()
    server = threading.Thread(target=serve)
    server.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        server.join()


KEY_LINE = b"private_key=" + b"ab" * 31 + b"\nerrno=0\n\n"


@pytest.mark.parametrize("answer", [None, b"", b"listen_port=5\n", b"listen_port=5\nerrno=0\n"])
def test_a_daemon_that_closes_the_connection_is_an_error(machine: Namespace, answer: bytes | None) -> None:
    with daemon(answer):
        for call in (lambda: Uapi().get("wg7"), lambda: Uapi().set("wg7", DeviceConfig(secret()))):
            assert refused(call).errno == errno.ECONNRESET


@pytest.mark.parametrize("answer", [b"\n\n", b"hello\n\n", KEY_LINE, b"listen_port=\xff\nerrno=0\n\n"])
def test_an_invalid_answer_is_an_error_without_its_text(machine: Namespace, answer: bytes) -> None:
    with daemon(answer):
        error = refused(lambda: Uapi().get("wg7"))
    assert error.errno == errno.EPROTO
    assert "abab" not in repr(error) + str(error)
    assert error.__context__ is None or error.__suppress_context__


def test_no_error_shows_a_key(machine: Namespace, control: Control) -> None:
    private, preshared = secret(), secret()
    peer = PeerConfig(public(), preshared_key=preshared, endpoint=SocketAddress("192.0.2.300", 9))
    config = DeviceConfig(private, peers=(peer,))
    error = refused(lambda: control.set("wg0", config))
    shown = f"{error!s}{error!r}{error.args!r}{config!r}"
    for key in (private, preshared):
        assert key.reveal() not in shown
        assert key.raw.hex() not in shown


def test_a_deleted_link_has_no_device(machine: Namespace, control: Control) -> None:
    RtNetlink().delete_link("wg0")
    Userspace().await_exit("wg0")
    assert control.interfaces() == []
    assert refused(lambda: control.get("wg0")).errno == errno.ENODEV


def test_a_new_device_is_empty(machine: Namespace, control: Control) -> None:
    assert control.get("wg0")._replace(listen_port=0) == Device("wg0")
