"""DNS by file if /etc/resolv.conf cannot be replaced: bind mounts, read-only places, other processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.resolvers import UPSTREAM, plain
from wgquick.errors import OperationError
from wgquick.system.dns import Dns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

DNS = Dns("/run/wgq", print)
EARLIER = f"nameserver {UPSTREAM}\n"


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with plain() as made:
        yield made


@pytest.fixture
def container(machine: Namespace) -> Namespace:
    """The machine with a bind mount on /etc/resolv.conf, as container runtimes make it."""
    machine.run(["sh", "-c", "cp -p /etc/resolv.conf /run/mounted; mount --bind /run/mounted /etc/resolv.conf"])
    return machine


def content(machine: Namespace) -> str:
    return machine.out("cat", "/etc/resolv.conf")


def servers(machine: Namespace) -> list[str]:
    return [line.split()[1] for line in content(machine).splitlines() if line.startswith("nameserver")]


def set_dns(machine: Namespace, name: str, server: str) -> None:
    machine.call(DNS.set, "file", name, (server,), ("lan",), True)


def test_auto_uses_the_file_if_there_is_nothing_else(machine: Namespace) -> None:
    assert machine.call(DNS.detect, "auto") == "file"


def question_at(address: str) -> bytes:
    """The question that a server at this address gets when a program looks up `name`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        server.settimeout(60)
        with subprocess.Popen(["getent", "ahosts", "name"]) as asking:
            question = server.recv(4096)
            asking.kill()
    return question


def test_the_c_library_asks_the_tunnels_server(machine: Namespace) -> None:
    set_dns(machine, "wg0", "127.0.0.9")
    assert b"\4name\3lan\0" in machine.call(question_at, "127.0.0.9")


def test_a_mounted_file_is_written_in_place_and_restored(container: Namespace) -> None:
    inode = container.out("stat", "-c", "%i %a %U", "/etc/resolv.conf")
    set_dns(container, "wg0", "10.0.0.1")
    assert servers(container) == ["10.0.0.1"]
    set_dns(container, "wg1", "10.1.0.1")
    assert servers(container) == ["10.1.0.1"]
    container.call(DNS.unset, "file", "wg0")
    assert servers(container) == ["10.1.0.1"]
    container.call(DNS.unset, "file", "wg1")
    assert content(container) == EARLIER
    assert container.out("stat", "-c", "%i %a %U", "/etc/resolv.conf") == inode
    assert container.out("sh", "-c", "ls -A /etc | grep resolv") == "resolv.conf\n"


def test_a_mounted_file_in_a_read_only_etc_is_written_in_place(container: Namespace) -> None:
    container.run(["mount", "--bind", "/etc", "/etc"])
    container.run(["sh", "-c", "mount --bind /run/mounted /etc/resolv.conf; mount -o remount,ro,bind /etc"])
    set_dns(container, "wg0", "10.0.0.1")
    assert servers(container) == ["10.0.0.1"]
    container.call(DNS.unset, "file", "wg0")
    assert content(container) == EARLIER


def test_in_a_read_only_etc_the_target_of_a_link_is_written(machine: Namespace) -> None:
    machine.run(["sh", "-c", "mv /etc/resolv.conf /run/mounted; ln -s /run/mounted /etc/resolv.conf"])
    machine.run(["sh", "-c", "mount --bind /etc /etc; mount -o remount,ro,bind /etc"])
    set_dns(machine, "wg0", "10.0.0.1")
    assert servers(machine) == ["10.0.0.1"]
    machine.call(DNS.unset, "file", "wg0")
    assert content(machine) == EARLIER
    assert machine.out("readlink", "/etc/resolv.conf") == "/run/mounted\n"


def test_an_empty_mounted_file_is_empty_again(container: Namespace) -> None:
    container.run(["truncate", "-s", "0", "/etc/resolv.conf"])
    set_dns(container, "wg0", "10.0.0.1")
    container.call(DNS.unset, "file", "wg0")
    assert content(container) == ""


def test_an_unwritable_file_is_an_error_and_unchanged(container: Namespace) -> None:
    container.run(["mount", "-o", "remount,ro,bind", "/etc/resolv.conf"])
    with pytest.raises(OperationError, match=r"/etc/resolv\.conf cannot be changed: Read-only") as refusal:
        set_dns(container, "wg0", "10.0.0.1")
    assert "--dns off" in refusal.value.remedy
    assert content(container) == EARLIER


def test_extended_attributes_of_the_file_are_kept(machine: Namespace) -> None:
    machine.call(os.setxattr, "/etc/resolv.conf", "security.selinux", b"system_u:object_r:net_conf_t:s0")
    set_dns(machine, "wg0", "10.0.0.1")
    machine.call(DNS.unset, "file", "wg0")
    label = machine.call(os.getxattr, "/etc/resolv.conf", "security.selinux")
    assert label == b"system_u:object_r:net_conf_t:s0"


def test_twenty_processes_at_once_restore_the_original_file(machine: Namespace) -> None:
    script = (
        "import sys; from wgquick.system.dns import Dns; dns = Dns('/run/wgq', print); name = sys.argv[1]\n"
        "for _ in range(5):\n"
        "    dns.set('file', name, ('10.0.0.1',), (), True); dns.unset('file', name)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [machine.popen([sys.executable, "-c", script, f"wg{at}"], env=environment) for at in range(20)]
    assert [process.wait(300) for process in running] == [0] * 20
    assert content(machine) == EARLIER
