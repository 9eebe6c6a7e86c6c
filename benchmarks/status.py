"""Times `wgq status` of an interface with many peers, compared with a program that only reads the device.

    python -m benchmarks.status --peers 10000 --rounds 5

Each number is the median of the rounds, in which the programs alternate: elapsed seconds, and processor seconds
(which depend less on other programs). The last columns are the difference from only reading the device. Needs root
and what scripts/test installs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.updown import NAME, key
from tests.namespaces import host

if TYPE_CHECKING:
    from tests.namespaces import Namespace

WGQ = [sys.executable, "-m", "wgquick"]
READING = "from wgquick import api; api.devices(['{}'])"
COMMANDS = {
    "reading": [sys.executable, "-c", READING.format(NAME)],
    "status": [*WGQ, "status", NAME],
    "status --json": [*WGQ, "status", NAME, "--json"],
}


class Timing(NamedTuple):
    """Elapsed seconds and processor seconds."""

    elapsed: float
    processor: float


def configuration(peers: int) -> str:
    """A file of an interface without routes, with a name for each peer, as PiVPN writes it."""
    head = f"[Interface]\nPrivateKey = {key()}\nAddress = 10.0.0.1/8\nTable = off\n"
    return head + "".join(
        f"\n### begin client {n} ###\n[Peer]\nPublicKey = {key()}\nPresharedKey = {key()}\n"
        f"AllowedIPs = 10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32\n### end client {n} ###\n"
        for n in range(1, peers + 1)
    )


def timed(machine: Namespace, command: list[str]) -> Timing:
    """Run a command to its end."""
    before, began = os.times(), time.perf_counter()
    machine.run(command)
    after, ended = os.times(), time.perf_counter()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return Timing(ended - began, processor)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with host() as machine:
        path = f"/etc/wireguard/{NAME}.conf"
        machine.run(["sh", "-c", f"umask 077; cat >{path}"], input=configuration(given.peers))
        machine.run([*WGQ, "up", NAME])
        rounds = [_round(machine) for _ in range(given.rounds)]
    medians = {name: _median([each[name] for each in rounds]) for name in COMMANDS}
    reading = medians["reading"]
    print(f"{given.peers} peers       elapsed  processor  beyond reading")
    for name, each in medians.items():
        beyond = f"{each.elapsed - reading.elapsed:9.2f} {each.processor - reading.processor:9.2f}"
        print(f"{name:<17} {each.elapsed:7.2f} s {each.processor:7.2f} s{beyond if each != reading else ''}")


def _round(machine: Namespace) -> dict[str, Timing]:
    return {name: timed(machine, command) for name, command in COMMANDS.items()}


def _median(timings: list[Timing]) -> Timing:
    return Timing(*map(statistics.median, zip(*timings, strict=True)))


if __name__ == "__main__":
    main()
