"""The units in contrib/systemd: systemd's verdict, and their commands."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.keys import public_key
from tests.namespaces import host
from tests.netns.pair import ping
from tests.resolvers import install

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

UNITS = Path(__file__).parent.parent.parent / "contrib" / "systemd"
SERVICE = UNITS / "wgq@.service"
UNIT_FILES = ("wgq@.service", "wgq-watch.service", "wgq.target")
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
    """The value for the instance wg0, without specifiers and quoting (systemd.service(5))."""
    (value,) = (line.partition("=")[2] for line in SERVICE.read_text().splitlines() if line.startswith(f"{name}="))
    return value.replace("%i", "wg0").replace("%%", "%").replace("$$", "$").replace("\\\\", "\\")


def write(machine: Namespace, text: str) -> None:
    machine.run(["sh", "-c", "umask 077; cat > /etc/wireguard/wg0.conf"], input=text)


def test_systemd_finds_no_fault_in_the_units(machine: Namespace) -> None:
    done = machine.run(
        ["systemd-analyze", "verify", "--man=no", *(str(UNITS / each) for each in UNIT_FILES)], check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


FAR_KEY = "cGtNUBJAyzXSzVvCZ0bJaVTaB4aSnpOqIP2d/Bw1F3w="
HOOKS = "yGtNUBJAyzXSzVvCZ0bJaVTaB4aSnpOqIP2d/Bw1F3w="
NEW, OLD, BY_HOOK = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3))


@pytest.fixture
def far(machine: Namespace) -> Iterator[Namespace]:
    """The far end: 192.0.2.1 on the machine's uplink, with 10.0.0.2 in the tunnel."""
    with host() as other:
        net = other.paths["net"]
        near = [
            "link add up0 type veth peer name up0 netns " + net,
            "addr add 192.0.2.2/24 dev up0",
            "link set up0 up",
        ]
        machine.run(["ip", "-batch", "-"], input="\n".join([*near, "route add default via 192.0.2.1", ""]))
        other.run(["ip", "-batch", "-"], input="addr add 192.0.2.1/24 dev up0\nlink set up0 up\n")
        other.run(["wgq-userspace", "wg0"])
        text = f"[Interface]\nPrivateKey = {FAR_KEY}\nListenPort = 51820\n"
        peer = f"[Peer]\nPublicKey = {public_key(HOOKS)}\nAllowedIPs = 10.0.0.1/32\n"
        other.run(["wg", "setconf", "wg0", "/dev/stdin"], input=text + peer)
        other.run(["ip", "-batch", "-"], input="addr add 10.0.0.2/24 dev wg0\nlink set wg0 up\n")
        yield other


def full_tunnel(*more: str) -> str:
    """A file without key, port and mark: a hook sets the key, and up chooses the others."""
    hooks = f"PostUp = wg set %i private-key /run/key\nPostUp = wg set %i peer {BY_HOOK} allowed-ips 10.77.0.0/16\n"
    first = f"[Peer]\nPublicKey = {public_key(FAR_KEY)}\nEndpoint = 192.0.2.1:51820\nAllowedIPs = 0.0.0.0/0\n"
    return f"[Interface]\nAddress = 10.0.0.1/24\n{hooks}{first}{''.join(more)}"


def dump(machine: Namespace) -> tuple[list[str], dict[str, list[str]]]:
    """The device's fields, and those of each peer (`wg show dump`, wg(8))."""
    first, *peers = [line.split("\t") for line in machine.out("wg", "show", "wg0", "dump").splitlines()]
    return first, {line[0]: line for line in peers}


def test_a_reload_of_a_full_tunnel_changes_only_the_peers(machine: Namespace, far: Namespace) -> None:
    machine.run(["sh", "-c", "umask 077; cat >/run/key"], input=HOOKS)
    write(machine, full_tunnel(f"[Peer]\nPublicKey = {OLD}\nAllowedIPs = 10.66.0.0/16\n"))
    machine.run(["sh", "-c", setting("ExecStart")])
    ping(machine, "10.0.0.2")
    far.run(["wg", "set", "wg0", "listen-port", "51999"])
    ping(far, "10.0.0.1")
    device, peers = dump(machine)
    assert (device[0], device[3]) == (HOOKS, "0xca6c")
    assert peers[public_key(FAR_KEY)][2] == "192.0.2.1:51999"
    pings = machine.popen(["ping", "-i", "0.1", "-c", "30", "-W", "60", "10.0.0.2"], stdout=subprocess.PIPE)
    write(machine, full_tunnel(f"[Peer]\nPublicKey = {NEW}\nAllowedIPs = 10.88.0.0/16\n"))
    done = machine.run(["sh", "-c", setting("ExecReload")])
    output, _ = pings.communicate(timeout=120)
    assert b" 0% packet loss" in output
    device_now, peers_now = dump(machine)
    assert device_now == device
    assert peers_now[public_key(FAR_KEY)][2:5] == peers[public_key(FAR_KEY)][2:5]
    assert set(peers_now) == {public_key(FAR_KEY), BY_HOOK, NEW}
    assert HOOKS not in done.stderr
    assert machine.run(["sh", "-c", setting("ExecReload")]).stderr == ""


def test_a_reload_needs_an_interface_that_is_up_but_no_wg(machine: Namespace) -> None:
    write(machine, f"{TEXT}AllowedIPs = 10.8.0.0/16\n")
    done = machine.run(["sh", "-c", setting("ExecReload")], check=False)
    assert done.returncode == 1
    assert "wgq: `wg0' is not up\n  Bring it up: wgq up wg0\n" in done.stderr
    assert "wg " not in setting("ExecReload").replace("wgq", "")


def test_a_tunnel_of_wg_quick_can_be_reloaded(machine: Namespace) -> None:
    write(machine, f"{TEXT}AllowedIPs = 10.8.0.0/16\n")
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    machine.run(["wg-quick", "up", "wg0"], env=environment)
    write(machine, f"{TEXT}AllowedIPs = 10.8.0.0/16, 10.9.0.0/16\n")
    machine.run(["sh", "-c", setting("ExecReload")])
    assert machine.out("wg", "show", "wg0", "allowed-ips") == f"{KEYS[1]}\t10.8.0.0/16 10.9.0.0/16\n"


def test_the_description_has_the_interfaces_name_unescaped() -> None:
    """%I would turn a `-` in the name into a `/`."""
    assert setting("Description") == "WireGuard via wgq for wg0"


def test_start_reload_and_stop_work_like_wg_quicks_unit(machine: Namespace) -> None:
    write(machine, f"{TEXT}AllowedIPs = 10.8.0.0/16\n")
    machine.run(["sh", "-c", setting("ExecStart")])
    write(machine, f"{TEXT}AllowedIPs = 10.9.0.0/16\n")
    machine.run(["sh", "-c", setting("ExecReload")])
    assert machine.out("wg", "show", "wg0", "allowed-ips") == f"{KEYS[1]}\t10.9.0.0/16\n"
    machine.run(["sh", "-c", setting("ExecStop")])
    assert "wg0" not in machine.out("ls", "/sys/class/net").split()


@pytest.mark.parametrize("damage", ["rm /etc/wireguard/wg0.conf", "echo '[Peer]' >> /etc/wireguard/wg0.conf"])
def test_a_failed_reload_leaves_the_peers_unchanged(machine: Namespace, damage: str) -> None:
    write(machine, f"{TEXT}AllowedIPs = 10.8.0.0/16\n")
    machine.run(["sh", "-c", setting("ExecStart")])
    machine.run(["sh", "-c", damage])
    assert machine.run(["sh", "-c", setting("ExecReload")], check=False).returncode != 0
    assert machine.out("wg", "show", "wg0", "allowed-ips") == f"{KEYS[1]}\t10.8.0.0/16\n"
