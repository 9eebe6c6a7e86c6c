"""Times `up` and `down` of wgq and of wg-quick in turn, each time on a fresh machine of the tests' kind.

    python -m benchmarks.updown tunnel routes:1000 peers:1000 --rounds 5
    python -m benchmarks.updown routes:100000 --alone        # wgq only: wg-quick needs a quarter of an hour

A row has the medians of both, their ratio, and the peak memory of `wgq up`. Where the kernel has no WireGuard, both
use the same userspace implementation. Needs root and what scripts/test installs, with .cache/bin on the PATH.
"""

from __future__ import annotations

import argparse
import base64
import ipaddress
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING, NamedTuple

from tests.namespaces import host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

NAME = "wgb0"
USERSPACE = "WG_QUICK_USERSPACE_IMPLEMENTATION"
QUIET = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
FIRST_NETWORK = int(ipaddress.IPv4Address("11.0.0.0"))


class Timing(NamedTuple):
    """Seconds of up and of down, and kilobytes of memory that up had at its peak."""

    up: float
    down: float
    peak: int


def key() -> str:
    """A random WireGuard key."""
    return base64.b64encode(os.urandom(32)).decode()


def configuration(shape: str, size: int) -> str:
    """A file of some shape: a full tunnel, `size` routes to one peer, or `size` peers with a route each."""
    head = f"[Interface]\nPrivateKey = {key()}\nAddress = 10.200.0.1/24, fd00:200::1/64\n"
    networks = [f"{ipaddress.IPv4Address(FIRST_NETWORK + 256 * number)}/24" for number in range(size)]
    match shape:
        case "tunnel":
            return head + _peer("AllowedIPs = 0.0.0.0/0, ::/0\n", endpoint=True)
        case "routes":
            return head + _peer("".join(f"AllowedIPs = {network}\n" for network in networks), endpoint=True)
        case "peers":
            return head + "".join(_peer(f"AllowedIPs = {network}\n") for network in networks)
        case _:
            raise SystemExit(f"{shape}: a shape is tunnel, routes:N or peers:N")


def _peer(allowed: str, *, endpoint: bool = False) -> str:
    where = "Endpoint = 192.0.2.9:51820\n" if endpoint else ""
    return f"[Peer]\nPublicKey = {key()}\n{where}{allowed}"


def measure(command: str, text: str, routes: int) -> Timing:
    """One up and one down; SystemExit where the routes did not come or the link did not go."""
    with host() as machine:
        machine.uplink()
        path = f"/etc/wireguard/{NAME}.conf"
        machine.run(["sh", "-c", f"umask 077; cat >{path}"], input=text)
        up, peak = _timed(machine, [command, "up", NAME])
        if (found := _routes(machine)) != routes:
            raise SystemExit(f"{command} up: {found} of {routes} routes")
        down, _ = _timed(machine, [command, "down", NAME])
        if machine.run(["ip", "link", "show", NAME], check=False).returncode == 0:
            raise SystemExit(f"{command} down: {NAME} is still there")
        return Timing(up, down, peak)


def _timed(machine: Namespace, argv: list[str]) -> tuple[float, int]:
    began = time.perf_counter()
    process = machine.popen(argv, **QUIET)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} exited {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss


def _routes(machine: Namespace) -> int:
    return machine.out("ip", "-4", "route", "show", "dev", NAME, "proto", "boot").count("\n")


def rows(shapes: list[str], commands: list[str], rounds: int) -> Iterator[str]:
    """A line for each shape, as soon as it is measured."""
    for wanted in shapes:
        shape, _, size = wanted.partition(":")
        text, routes = configuration(shape, int(size or 0)), int(size or 0)
        taken: dict[str, list[Timing]] = {command: [] for command in commands}
        for _ in range(rounds):
            for command, timings in taken.items():
                timings.append(measure(command, text, routes))
        yield _row(wanted, *taken.values())


def _row(shape: str, wgq: list[Timing], reference: list[Timing] | None = None) -> str:
    up, down, peak = (statistics.median(figures) for figures in zip(*wgq, strict=True))
    if reference is None:
        return f"{shape:14} up {up:8.3f} s   down {down:8.3f} s   peak {peak / 1024:4.0f} MB"
    old_up, old_down, _ = (statistics.median(figures) for figures in zip(*reference, strict=True))
    return (
        f"{shape:14} up {up:8.3f} s / {old_up:8.3f} s = {up / old_up:6.3f}x   "
        f"down {down:8.3f} s / {old_down:8.3f} s = {down / old_down:6.3f}x   peak {peak / 1024:4.0f} MB"
    )


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmarks.updown"
    )
    parser.add_argument("shapes", nargs="*", default=["tunnel", "routes:1000", "peers:1000"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="measure wgq without wg-quick")
    parser.add_argument("--wgq", default=str(Path(sys.executable).with_name("wgq")))
    parser.add_argument("--reference", default="/usr/bin/wg-quick")
    parser.add_argument("--userspace", default=os.environ.get(USERSPACE, "wireguard-go"), help="what both run")
    given = parser.parse_args()
    if not shutil.which(given.userspace):
        raise SystemExit(f"{given.userspace} is not on the PATH; scripts/test puts wireguard-go into .cache/bin")
    os.environ[USERSPACE] = given.userspace
    commands = [given.wgq] if given.alone else [given.wgq, given.reference]
    for row in rows(given.shapes, commands, given.rounds):
        print(row, flush=True)


if __name__ == "__main__":
    main()
