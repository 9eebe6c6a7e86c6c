"""Tunnels for tests: configurations, runs of `wgq`, and the resulting state of a machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import until

if TYPE_CHECKING:
    import subprocess

    from tests.namespaces import Namespace

KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PEERS = ("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=")
WGQ = [sys.executable, "-m", "wgquick"]


def config(
    interface: str = "", peer: str = "AllowedIPs = 10.9.0.0/16", *, address: str = "10.0.0.1/24", n: int = 0
) -> str:
    """The text of a configuration with one peer, PEERS[n]."""
    return (
        f"[Interface]\nPrivateKey = {KEY}\nAddress = {address}\n{interface}\n"
        f"[Peer]\nPublicKey = {PEERS[n]}\n{peer}\nEndpoint = 192.0.2.9:51820\n"
    )


FULL = "AllowedIPs = 0.0.0.0/0, ::/0"


def programs(machine: Namespace, name: str) -> list[int]:
    """The ids of the machine's processes with this name."""
    return [pid for pid in machine.processes() if _called(pid) == name]


def _called(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # the process has just ended


def write(machine: Namespace, text: str, name: str = "wg0") -> None:
    """Write /etc/wireguard/NAME.conf."""
    machine.run(["sh", "-c", f"umask 077; cat > /etc/wireguard/{name}.conf"], input=text)


def wgq(
    machine: Namespace, *arguments: str, status: int = 0, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `wgq`; assert its exit status, and that it does not print the private key."""
    done = machine.run([*WGQ, *arguments], check=False, input=stdin, env={**os.environ, **environment})
    assert done.returncode == status, done.stderr
    assert KEY not in done.stderr
    return done


def rules(machine: Namespace) -> str:
    """The policy rules of both families."""
    return machine.out("ip", "rule") + machine.out("ip", "-6", "rule")


def src_valid_mark(machine: Namespace) -> str:
    """The value of src_valid_mark."""
    return machine.out("cat", "/proc/sys/net/ipv4/conf/all/src_valid_mark").strip()


def links(machine: Namespace) -> list[str]:
    """The names of the links."""
    return machine.out("ls", "/sys/class/net").split()


def settle(machine: Namespace) -> None:
    """Wait until each IPv6 address has its local route, also the link-local ones that the kernel makes.

    addrconf_dad_work() adds it later than the address, and announces both then.
    """
    until(lambda: not _unsettled(machine), "every IPv6 address with its route")


def _unsettled(machine: Namespace) -> list[str]:
    addresses = machine.out("ip", "-6", "-o", "address").splitlines()
    routes = machine.out("ip", "-6", "route", "show", "table", "local").splitlines()
    local = {tuple(line.split()[1:4]) for line in routes if line.startswith("local")}
    return [
        line
        for line in addresses
        if " tentative " in line or (line.split()[3].split("/")[0], "dev", line.split()[1]) not in local
    ]


def await_carriers(*machines: Namespace) -> None:
    """Wait until the kernel has noticed that both ends of each veth are up (linkwatch_event())."""
    show = ("ip", "-o", "link", "show", "up", "type", "veth")
    until(lambda: not any("NO-CARRIER" in machine.out(*show) for machine in machines), "the carriers")


def journals(machine: Namespace) -> str:
    """The paths of the journals, one a line."""
    return machine.run(["find", "/run/wgq", "-name", "*.journal"], check=False).stdout


def with_resolvconf(machine: Namespace, script: str) -> str:
    """Install a script as resolvconf. Returns a PATH with it in the first place."""
    place = "/run/programs/resolvconf"
    machine.run(
        ["sh", "-c", f"mkdir -p /run/programs; cat >{place}; chmod +x {place}"], input=f"#!/bin/sh\n{script}\n"
    )
    return f"/run/programs:{os.environ['PATH']}"
