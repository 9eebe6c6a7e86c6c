"""Reloads of live tunnels: the changes to apply, and runs that are killed at each step."""

from __future__ import annotations

import base64
import os
import re
import select
import signal
import socket
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from tests.keys import public_key
from tests.namespaces import host
from tests.netns.tunnels import (
    KEY,
    PEERS,
    await_carriers,
    journals,
    rules,
    src_valid_mark,
    write,
)
from wgquick import api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.namespaces import Namespace


FAR_KEY = "cGtNUBJAyzXSzVvCZ0bJaVTaB4aSnpOqIP2d/Bw1F3w="
OTHER = base64.b64encode(b"\x09" * 32).decode()


@contextmanager
def both_ends(*, kernel: bool = False) -> Iterator[tuple[Namespace, Namespace]]:
    """A machine, and another beyond its gateway, at 203.0.113.1, that has 10.0.0.2 in the tunnel."""
    with host() as near, host() as far:
        near.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", far.paths["net"]])
        lines = ["addr add 192.0.2.2/24 dev up0", "link set up0 up", "route add default via 192.0.2.1", ""]
        near.run(["ip", "-batch", "-"], input="\n".join(lines))
        lines = ["addr add 192.0.2.1/24 dev up0", "addr add 203.0.113.1/32 dev up0", "link set up0 up", ""]
        far.run(["ip", "-batch", "-"], input="\n".join(lines))
        await_carriers(near, far)
        far.run(["ip", "link", "add", "wg0", "type", "wireguard"] if kernel else ["wgq-userspace", "wg0"])
        text = f"[Interface]\nPrivateKey = {FAR_KEY}\nListenPort = 51820\n[Peer]\nPublicKey = {public_key(KEY)}\n"
        far.run(["wg", "setconf", "wg0", "/dev/stdin"], input=f"{text}AllowedIPs = 0.0.0.0/0\n")
        far.run(["ip", "-batch", "-"], input="addr add 10.0.0.2/24 dev wg0\nlink set wg0 up\n")
        yield near, far


def tunnel(networks: str, interface: str = "", more: str = "", *, address: str = "10.0.0.1/24") -> str:
    return (
        f"[Interface]\nPrivateKey = {KEY}\nAddress = {address}\n{interface}\n"
        f"[Peer]\nPublicKey = {public_key(FAR_KEY)}\n"
        f"Endpoint = 203.0.113.1:51820\nAllowedIPs = {networks}\n{more}"
    )


def peer(key: str, networks: str) -> str:
    return f"[Peer]\nPublicKey = {key}\nAllowedIPs = {networks}\n"


CHANGES = (
    tunnel("10.0.0.0/24, 10.8.0.0/16, 0.0.0.0/0, ::/0"),
    tunnel("10.0.0.0/24, 0.0.0.0/0, ::/0", more=peer(OTHER, "10.8.0.0/16, 10.7.0.0/16")),
    tunnel("10.0.0.0/24, 0.0.0.0/0, ::/0", "FwMark = 7", more=peer(OTHER, "10.8.0.0/16, 10.7.0.0/16")),
    tunnel("10.0.0.0/24, 0.0.0.0/0, ::/0", "FwMark = 8\nListenPort = 41000", more=peer(OTHER, "10.8.0.0/16")),
    tunnel("10.0.0.0/24, 10.8.0.0/16", "FwMark = 9"),
    tunnel("10.0.0.0/24, 0.0.0.0/0", "FwMark = 9"),
    tunnel("0.0.0.0/0, 10.8.0.0/16", more=peer(PEERS[0], "10.7.0.0/16"), address="10.0.0.1/24, 10.4.0.1/24"),
    tunnel("10.0.0.2/32, 10.8.0.0/16", "MTU = 1300", address="10.0.0.1/24, fd00::1/64"),
    tunnel("10.0.0.0/24, 10.8.0.0/16", "MTU = 1400\nTable = 77"),
    tunnel("10.0.0.0/24, 10.8.0.0/16"),
)

ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 7777)); print("ready", flush=True)
while True: data, where = s.recvfrom(64); s.sendto(data, where)
"""


def answers() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(30)
        try:
            for _ in range(3):
                probe.sendto(b"probe", ("10.0.0.2", 7777))
                probe.recv(64)
        except OSError:
            return False
    return True


def reload_by_steps() -> tuple[int, list[str]]:
    """How many lines a reload prints, and those before whose steps a probe through the tunnel is lost."""
    lines: list[str] = []
    lost: list[str] = []

    def record(text: str) -> None:
        lines.append(text)
        if not answers():
            lost.append(text)

    api.reload(api.load("wg0", lines.append), transcript=record)
    if not answers():
        lost.append("the end")
    return len(lines), lost


STATE = (
    "wg showconf wg0",
    "ip address show dev wg0",
    "ip route show table all dev wg0",
    "ip -6 route show table all dev wg0",
    "ip route show table all type throw",
    "ip rule",
    "ip -6 rule",
    "nft list ruleset",
    "sysctl net.ipv4.conf.all.src_valid_mark",
)
KILLED = (
    tunnel("10.0.0.0/24, 10.8.0.0/16, 10.6.0.0/16", "ListenPort = 51820\nFwMark = 9", peer(OTHER, "10.7.0.0/16")),
    tunnel(
        "10.0.0.0/24, 0.0.0.0/0, ::/0",
        "ListenPort = 51821\nFwMark = 7\nMTU = 1380",
        peer(PEERS[0], "10.8.0.0/16"),
        address="10.0.0.1/24, 10.4.0.1/24, fd00::1/64",
    ),
)
"""Two files; a reload from the one to the other, and back, takes steps of all kinds but DNS."""


def state(machine: Namespace) -> list[list[str]]:
    """What the machine has, without indexes, orders, priorities, and the link-local address of the kernel."""
    machine.settle()
    shown = (machine.out(*command.split()) for command in STATE)
    plain = (re.sub(r"^\d+:(\t| wg0)", "", text, flags=re.MULTILINE) for text in shown)
    return [sorted(line for line in text.splitlines() if "fe80::" not in line) for text in plain]


def reload_killed_at(step: int) -> bool:
    """Kill a reload before this step. Returns False if it has fewer steps."""
    if (child := os.fork()) == 0:
        lines: list[str] = []

        def record(text: str) -> None:
            lines.append(text)
            if len(lines) > step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            api.reload(api.load("wg0", lines.append), transcript=record)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_at_steps(
    machine: Namespace, call: Callable[..., object], stride: int = 1, files: tuple[str, str] = KILLED
) -> int:
    """Kill reloads. The next reload must leave the state of up, and down that of the untouched machine.

    `call` runs wgq. A reload is killed before every step, or with `stride` before every such step. Returns how
    many reloads there were.
    """
    pristine = rules(machine), src_valid_mark(machine), machine.out("nft", "list", "ruleset")
    steps = 0
    for before, after in (files, files[::-1]):
        write(machine, after)
        call(machine, "up", "wg0")
        wanted = state(machine)
        call(machine, "down", "wg0")
        for verb in ("reload", "down"):
            at, is_killed = 0, True
            while is_killed:
                write(machine, before)
                call(machine, "up", "wg0")
                write(machine, after)
                is_killed = machine.call(reload_killed_at, at)
                at += stride
                if verb == "reload":
                    call(machine, "reload", "wg0")
                    assert state(machine) == wanted, at
                call(machine, "down", "wg0")
                assert (
                    rules(machine),
                    src_valid_mark(machine),
                    machine.out("nft", "list", "ruleset"),
                ) == pristine, at
                assert journals(machine) == ""
                steps += 1
    return steps


def written(machine: Namespace) -> str:
    """The inodes and modification times of the files that a reload may write."""
    return machine.out("sh", "-c", "stat -c '%n %i %y' /run/wgq/*/*.journal /run/wgq/*/*.key /etc/resolv.conf")


def events_until(events: IO[bytes], machine: Namespace, network: str) -> list[bytes]:
    """The lines of `ip monitor` up to a route that is added repeatedly, as the monitor starts with a delay."""
    lines: list[bytes] = []
    while not lines or network.encode() not in lines[-1]:
        if select.select([events], [], [], 0.05)[0]:
            lines.append(events.readline())
        else:
            machine.run(["ip", "route", "delete", network], check=False)
            machine.run(["ip", "route", "add", network, "dev", "lo"])
    return lines
