"""The command line under bad conditions: faulty files, missing privileges, closed streams."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

WGQ = [sys.executable, "-m", "wgquick"]
TEXT = """[Interface]
PrivateKey = YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.0.0.1/24
PreDown = touch /run/pre-%i
PostDown = touch /run/post-%i
"""
PEER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
FAULTS = ["[Peer]\nPublicKey = short\n", "Adress = 10.0.0.2\n", "MTU = big\n", "SaveConfig = perhaps\n"]


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with host() as made:
        write(made, TEXT)
        yield made


def write(machine: Namespace, text: str) -> None:
    machine.run(["sh", "-c", "umask 077; cat > /etc/wireguard/wg0.conf"], input=text)


@pytest.mark.parametrize("fault", FAULTS)
def test_down_of_wg_quicks_tunnel_runs_a_faulty_files_hooks(machine: Namespace, fault: str) -> None:
    """wg-quick's down reads only the hooks and SaveConfig."""
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    machine.run(["wg-quick", "up", "wg0"], env=environment)
    write(machine, TEXT + fault)
    done = machine.run([*WGQ, "down", "wg0"])
    assert "/etc/wireguard/wg0.conf:" in done.stderr
    assert "wg0" not in machine.out("ls", "/sys/class/net").split()
    assert {"pre-wg0", "post-wg0"} <= set(machine.out("ls", "/run").split())


@pytest.mark.parametrize("fault", FAULTS)
def test_down_of_a_missing_tunnel_ignores_faults_of_the_file(machine: Namespace, fault: str) -> None:
    write(machine, TEXT + fault)
    done = machine.run([*WGQ, "down", "wg0"], check=False)
    text = "wgq: `wg0' is not a WireGuard interface\n  There is no interface wg0: it is not up.\n"
    assert (done.returncode, done.stderr) == (1, text)


def test_a_table_without_routes_is_not_looked_up(machine: Namespace) -> None:
    """wg-quick passes its name only to `ip route add`."""
    text = TEXT.replace("[Interface]", "[Interface]\nTable = nosuch")
    write(machine, text)
    machine.run([*WGQ, "up", "wg0"])
    machine.run([*WGQ, "down", "wg0"])
    write(machine, f"{text}[Peer]\nPublicKey = {PEER}\nAllowedIPs = 10.9.0.0/16\n")
    done = machine.run([*WGQ, "up", "wg0"], check=False)
    assert done.returncode != 0
    assert "/etc/wireguard/wg0.conf:2:9: Table `nosuch' is not a routing table [table]" in done.stderr


def test_a_tunnel_from_standard_input_goes_down_by_its_name(machine: Namespace) -> None:
    machine.run([*WGQ, "up", "-", "--name", "ci0"], input=TEXT)
    done = machine.run([*WGQ, "down", "ci0"])
    assert done.stderr.startswith("[!] `/etc/wireguard/ci0.conf' does not exist: taking ci0 down by its journal")
    assert {"pre-ci0", "post-ci0"} <= set(machine.out("ls", "/run").split())


@pytest.mark.parametrize("name", ["a b", "../../etc/x", "a234567890123456"])
def test_up_and_down_refuse_an_invalid_name(machine: Namespace, name: str) -> None:
    for verb in ("up", "down"):
        done = machine.run([*WGQ, verb, "-", "--name", name], check=False, input=TEXT)
        assert done.returncode == 1
        assert f"`{name}' is not a valid interface name" in done.stderr


def test_root_without_cap_net_admin_does_not_run_sudo(machine: Namespace) -> None:
    """In a container with sudo but without CAP_NET_ADMIN, sudo would start wgq in an endless loop."""
    machine.run(
        [
            "sh",
            "-c",
            "mkdir /run/bin; printf '#!/bin/sh\\ntouch /run/asked' > /run/bin/sudo; chmod 755 /run/bin/sudo",
        ]
    )
    environment = {**os.environ, "PATH": f"/run/bin:{os.environ['PATH']}"}
    bound = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    done = machine.run([*bound, *WGQ, "up", "wg0"], check=False, env=environment)
    assert done.returncode == 1
    assert "CAP_NET_ADMIN" in done.stderr
    assert "--cap-add NET_ADMIN" in done.stderr
    assert "asked" not in machine.out("ls", "/run").split()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_up_and_down_work_with_closed_streams(machine: Namespace, closed: str) -> None:
    command = f"'{sys.executable}' -m wgquick"
    machine.run(["sh", "-c", f"{command} up wg0 {closed}"])
    assert "wg0" in machine.out("ls", "/sys/class/net").split()
    machine.run(["sh", "-c", f"{command} down wg0 {closed}"])
    assert "wg0" not in machine.out("ls", "/sys/class/net").split()


def test_a_kernel_without_wireguard_is_reported_with_a_remedy(machine: Namespace) -> None:
    has_module = machine.run(["ip", "link", "add", "probe", "type", "wireguard"], check=False).returncode == 0
    done = machine.run([*WGQ, "up", "--backend", "kernel", "wg0"], check=False)
    assert (done.returncode == 0) == has_module
    assert ("--backend userspace" in done.stderr) != has_module
    assert ("wg0" in machine.out("ls", "/sys/class/net").split()) == has_module


def test_a_file_in_a_closed_directory_is_not_said_to_be_missing(machine: Namespace) -> None:
    """Without CAP_DAC_OVERRIDE, root cannot look into the directory of another user either."""
    write(machine, TEXT)
    machine.run(["chown", "65534", "/etc/wireguard"])
    caps = "-dac_override,-dac_read_search"
    argv = ["setpriv", "--bounding-set", caps, "--inh-caps", caps, *WGQ, "check", "wg0"]
    done = machine.run(argv, check=False)
    assert done.returncode == 1
    assert "cannot read `/etc/wireguard/wg0.conf': Permission denied" in done.stderr
    assert "with sudo" in done.stderr


@pytest.mark.parametrize("verb", ["reload", "diff", "try reload", "plan reload", "wait", "save"])
def test_the_remedy_for_a_missing_interface_names_the_given_file(machine: Namespace, verb: str) -> None:
    path = "/run/wg9.conf"
    machine.run(["sh", "-c", f"umask 077; cat >{path}"], input=TEXT)
    done = machine.run([*WGQ, *verb.split(), path], check=False)
    what, remedy = "is not up", f"Bring it up: wgq up {path}"
    if verb == "save":  # in wg-quick's words
        what, remedy = "is not a WireGuard interface", "There is no interface wg9: it is not up."
    if verb == "wait":
        remedy = "Bring it up: wgq up wg9"
    assert (done.returncode, done.stderr) == (1, f"wgq: `wg9' {what}\n  {remedy}\n")
