"""The units of contrib/systemd: what systemd says of them, and what a reload does."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import host
from tests.resolvers import install

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

UNITS = Path(__file__).parent.parent.parent / "contrib" / "systemd"
SERVICE = UNITS / "wgq@.service"
KEYS = ("YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=")
TEXT = f"[Interface]\nPrivateKey = {KEYS[0]}\nAddress = 10.0.0.1/24\n[Peer]\nPublicKey = {KEYS[1]}\n"


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with host() as made:
        made.run(
            ["sh", "-c", "mkdir -p /run/.hidden/local/bin; cat > /run/.hidden/local/bin/wgq"], input=wgq_script()
        )
        made.run(["chmod", "755", "/run/.hidden/local/bin/wgq"])
        install(made, "libsystemd-shared", "systemd")
        yield made


def wgq_script() -> str:
    return f"#!/bin/sh\nPYTHONPATH='{os.environ.get('PYTHONPATH', '')}' exec '{sys.executable}' -m wgquick \"$@\"\n"


def setting(name: str) -> str:
    """The value as systemd hands it on for the instance wg0: specifiers and quotes gone (systemd.service(5))."""
    (value,) = (line.partition("=")[2] for line in SERVICE.read_text().splitlines() if line.startswith(f"{name}="))
    return value.replace("%i", "wg0").replace("%%", "%").replace("$$", "$").replace("\\\\", "\\")


def write(machine: Namespace, text: str) -> None:
    machine.run(["sh", "-c", "umask 077; cat > /etc/wireguard/wg0.conf"], input=text)


def test_systemd_finds_no_fault_in_the_units(machine: Namespace) -> None:
    done = machine.run(["systemd-analyze", "verify", str(SERVICE), str(UNITS / "wgq.target")], check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_description_names_the_interface_as_it_is() -> None:
    """%I would turn the `-` of a name into a `/`."""
    assert setting("Description") == "WireGuard via wgq for wg0"


def test_start_reload_and_stop_do_what_those_of_wg_quicks_unit_do(machine: Namespace) -> None:
    write(machine, f"{TEXT}AllowedIPs = 10.8.0.0/16\n")
    machine.run(["sh", "-c", setting("ExecStart")])
    write(machine, f"{TEXT}AllowedIPs = 10.9.0.0/16\n")
    machine.run(["sh", "-c", setting("ExecReload")])
    assert machine.out("wg", "show", "wg0", "allowed-ips") == f"{KEYS[1]}\t10.9.0.0/16\n"
    machine.run(["sh", "-c", setting("ExecStop")])
    assert "wg0" not in machine.out("ls", "/sys/class/net").split()


@pytest.mark.parametrize("damage", ["rm /etc/wireguard/wg0.conf", "echo '[Peer]' >> /etc/wireguard/wg0.conf"])
def test_a_reload_that_fails_leaves_the_peers_as_they_are(machine: Namespace, damage: str) -> None:
    write(machine, f"{TEXT}AllowedIPs = 10.8.0.0/16\n")
    machine.run(["sh", "-c", setting("ExecStart")])
    machine.run(["sh", "-c", damage])
    assert machine.run(["sh", "-c", setting("ExecReload")], check=False).returncode != 0
    assert machine.out("wg", "show", "wg0", "allowed-ips") == f"{KEYS[1]}\t10.8.0.0/16\n"
