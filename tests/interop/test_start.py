"""The environment that our daemon starts in: signals, descriptors, an existing link and a stale socket."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.interop.daemons import answers
from tests.interop.pairs import GO, LINK, SOCKET, WGQ, join, machines
from tests.namespaces import host
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

TUNSETIFF, TUNSETPERSIST, TUNSETVNETHDRSZ = 0x400454CA, 0x400454CB, 0x400454D8
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x1000, 0x4000


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with host() as made:
        yield made


def in_foreground(machine: Namespace, *prefix: str) -> subprocess.Popen[bytes]:
    daemon = machine.popen([*prefix, WGQ, "-f", LINK], stderr=subprocess.DEVNULL)
    until(lambda: answers(machine), "started")  # wg(8) would remove a socket that does not listen yet
    return daemon


@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_the_caller_ignores_is_ignored(machine: Namespace, sent: signal.Signals) -> None:
    daemon = in_foreground(machine, "env", f"--ignore-signal={sent.name.removeprefix('SIG')}")
    daemon.send_signal(sent)
    machine.run(["wg", "set", LINK, "fwmark", "1"])
    assert machine.out("wg", "show", LINK, "fwmark") == "0x1\n"
    daemon.terminate()
    assert daemon.wait(30) == 0


@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_the_caller_does_not_ignore_ends_it(machine: Namespace, sent: signal.Signals) -> None:
    daemon = in_foreground(machine, "env", f"--default-signal={sent.name.removeprefix('SIG')}")
    daemon.send_signal(sent)
    assert daemon.wait(30) == 0


def test_a_background_daemon_holds_no_lock_of_the_caller(machine: Namespace) -> None:
    lock = machine.paths["mnt"].replace("/ns/mnt", "/root/run/lock/tunnels")
    machine.run(["bash", "-c", f"exec 9>/run/lock/tunnels && flock -n 9 && exec {WGQ} {LINK}"])
    with open(lock, "rb") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_non_utf8_argument_gives_an_error_message(machine: Namespace) -> None:
    done = machine.run(["bash", "-c", f"{WGQ} $'w\\xffg'"], check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("wgq-userspace: ")
    assert len(done.stderr.splitlines()) == 1


def with_long_headers(name: str) -> None:
    """A persistent TUN device that its last user set to the longer virtio header."""
    with open("/dev/net/tun", "r+b", buffering=0) as device:
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(device, TUNSETVNETHDRSZ, struct.pack("i", 12))
        fcntl.ioctl(device, TUNSETPERSIST, 1)


def test_an_existing_tun_device_carries_packets() -> None:
    with machines(WGQ, GO) as (left, right):
        join(left, right)
        left.machine.call(with_long_headers, LINK)
        for end in (left, right):
            end.start()
        right.configure(left.peer())
        left.configure(right.peer(version=4))
        left.ping(right)


def test_two_starts_at_once_take_turns_at_a_stale_socket(machine: Namespace) -> None:
    with socket.socket(socket.AF_UNIX) as dead, machine.entered():
        dead.bind(SOCKET)
        lock = os.open("/run/wireguard", os.O_RDONLY | os.O_CLOEXEC)
        stale = Path(SOCKET).stat().st_ino
    fcntl.flock(lock, fcntl.LOCK_EX)
    daemon = machine.popen([WGQ, LINK], stderr=subprocess.DEVNULL)
    until(lambda: waits_for_a_lock(machine), "waiting for the lock")
    assert int(machine.out("stat", "-c", "%i", SOCKET)) == stale
    os.close(lock)
    assert daemon.wait(30) == 0
    machine.run(["wg", "show", LINK])


def waits_for_a_lock(machine: Namespace) -> bool:
    """Whether a process of this machine waits in flock(2) (proc_locks(5))."""
    waiting = {int(line.split()[5]) for line in Path("/proc/locks").read_text().splitlines() if "-> FLOCK" in line}
    return not waiting.isdisjoint(machine.processes())


def peer_without_answer(key: str) -> str:
    return f"[Peer]\nPublicKey = {key}\nEndpoint = 192.0.2.2:9\nPersistentKeepalive = 1\n"


def test_handshakes_begin_once_the_private_key_is_set() -> None:
    with machines(WGQ, WGQ) as (left, right):
        join(left, right)
        for end in (left, right):
            end.start()
        right.configure(left.peer())
        left.wg("setconf", LINK, "/dev/stdin", input=right.peer("PersistentKeepalive = 20", version=4))
        left.addresses()
        left.wg("set", LINK, "private-key", "/dev/stdin", input=left.private)
        until(lambda: left.handshake(right), "the handshake")


def test_no_handshake_begins_with_a_low_order_key() -> None:
    """The kernel's `curve25519` fails for points of low order, and so does the initiation."""
    low_order = (
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
        "7P///////////////////////////////////////38=",
    )
    with machines(WGQ, WGQ) as (left, right):
        join(left, right)
        left.start()
        left.count_messages()
        sections = [peer_without_answer(key) for key in low_order]
        left.configure(*sections, peer_without_answer(right.public))
        assert len(left.wg("show", LINK, "peers").split()) == len(low_order) + 1
        # The peers are contacted in the order of the configuration.
        until(lambda: left.sent("initiation"), "an initiation")
        assert left.sent("initiation") == 1
