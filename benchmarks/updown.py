"""Times `up` and `down` of wgq and wg-quick alternately, each time on a new one of the tests' machines.

    python -m benchmarks.updown tunnel together:10 routes:1000 peers:1000 --rounds 5
    python -m benchmarks.updown routes:100000 --alone        # wgq only: wg-quick needs a quarter of an hour

A row has both medians and their ratio, for elapsed and processor time (which depends less on other programs), and
the peak memory of `wgq up`. Programs that a command waits for are included, the userspace implementation is not. On
a kernel without WireGuard both use the same userspace implementation. Needs root and what scripts/test installs,
with .cache/bin on the PATH.
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

NAME = "wgb"
USERSPACE = "WG_QUICK_USERSPACE_IMPLEMENTATION"
QUIET = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
FIRST_NETWORK = int(ipaddress.IPv4Address("11.0.0.0"))


class Timing(NamedTuple):
    """Elapsed and processor seconds of up and of down, and up's peak memory in kilobytes."""

    up: float
    down: float
    up_processor: float
    down_processor: float
    peak: float


def key() -> str:
    """A random WireGuard key."""
    return base64.b64encode(os.urandom(32)).decode()


def configurations(shape: str, size: int) -> list[str]:
    """The files to bring up at the same time: `size` small tunnels, or one file of another shape."""
    return [_small(number) for number in range(size)] if shape == "together" else [configuration(shape, size)]


def _small(number: int) -> str:
    head = f"[Interface]\nPrivateKey = {key()}\nAddress = 10.200.{number}.1/32\n"
    return head + _peer(f"AllowedIPs = 10.201.{number}.0/24\n", endpoint=True)


def configuration(shape: str, size: int) -> str:
    """A file of a shape: a full tunnel, `size` routes to one peer, or `size` peers with a route each."""
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
            raise SystemExit(f"{shape}: a shape is tunnel, together:N, routes:N or peers:N")


def _peer(allowed: str, *, endpoint: bool = False) -> str:
    where = "Endpoint = 192.0.2.9:51820\n" if endpoint else ""
    return f"[Peer]\nPublicKey = {key()}\n{where}{allowed}"


def measure(command: str, texts: list[str], routes: int) -> Timing:
    """One up and one down; SystemExit if routes are missing or a link stays."""
    names = [f"{NAME}{number}" for number in range(len(texts))]
    with host() as machine:
        machine.uplink()
        for name, text in zip(names, texts, strict=True):
            machine.run(["sh", "-c", f"umask 077; cat >/etc/wireguard/{name}.conf"], input=text)
        up, up_processor, peak = _timed(machine, [[command, "up", name] for name in names])
        if (found := _routes(machine)) != routes:
            raise SystemExit(f"{command} up: {found} of {routes} routes")
        down, down_processor, _ = _timed(machine, [[command, "down", name] for name in names])
        if NAME in machine.out("ip", "-o", "link", "show"):
            raise SystemExit(f"{command} down: a link is still there")
        return Timing(up, down, up_processor, down_processor, peak)


def _timed(machine: Namespace, commands: list[list[str]]) -> tuple[float, float, float]:
    """Seconds until the last command has ended, all processor seconds, and the largest peak memory."""
    began = time.perf_counter()
    started = [machine.popen(argv, **QUIET) for argv in commands]
    usages = []
    for process in started:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        usages.append(usage)
    took = time.perf_counter() - began
    if failed := [argv for argv, process in zip(commands, started, strict=True) if process.returncode]:
        raise SystemExit(f"{' '.join(failed[0])} failed")
    processor = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return took, processor, max(usage.ru_maxrss for usage in usages)


def _routes(machine: Namespace) -> int:
    shown = machine.out("ip", "-4", "route", "show", "proto", "boot")
    return sum(f"dev {NAME}" in line for line in shown.splitlines())


def rows(shapes: list[str], commands: list[str], rounds: int) -> Iterator[str]:
    """Yield a line for each shape when it is measured."""
    for wanted in shapes:
        shape, _, size = wanted.partition(":")
        texts, routes = configurations(shape, int(size or 0)), int(size or 0)
        taken: dict[str, list[Timing]] = {command: [] for command in commands}
        for _ in range(rounds):
            for command, timings in taken.items():
                timings.append(measure(command, texts, routes))
        yield _row(wanted, *taken.values())


def _row(shape: str, wgq: list[Timing], reference: list[Timing] | None = None) -> str:
    ours = _medians(wgq)
    peak = f"peak {ours.peak / 1024:4.0f} MB"
    if reference is None:
        return f"{shape:14} up {ours.up:8.3f} s   down {ours.down:8.3f} s   {peak}"
    theirs = _medians(reference)
    shown = (
        f"{name} {one:8.3f} s / {other:8.3f} s = {one / other:6.3f}x   "
        for name, one, other in zip(("up", "down", "processor: up", "down"), ours[:4], theirs[:4], strict=True)
    )
    return f"{shape:14} {''.join(shown)}{peak}"


def _medians(timings: list[Timing]) -> Timing:
    return Timing(*(statistics.median(figures) for figures in zip(*timings, strict=True)))


def main() -> None:
    """Measure the shapes in the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmarks.updown"
    )
    parser.add_argument("shapes", nargs="*", default=["tunnel", "together:10", "routes:1000", "peers:1000"])
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
