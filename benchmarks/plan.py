"""Times `wgq plan` with many routes: interface down, no change, all routes new, and --offline.

    python -m benchmarks.plan --routes 10000 --rounds 5

Each number is the median of the rounds: elapsed seconds, and processor seconds (which depend less on other
programs). Needs root and what scripts/test installs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import TYPE_CHECKING

from benchmarks.status import Timing, timed
from benchmarks.updown import NAME, key
from tests.namespaces import host

if TYPE_CHECKING:
    from tests.namespaces import Namespace

WGQ = [sys.executable, "-m", "wgquick"]
PATH = f"/etc/wireguard/{NAME}.conf"


def configuration(routes: int, first: int) -> str:
    """A file with one peer and a route for each of its networks, all in `first`/8."""
    networks = "".join(f"AllowedIPs = {first}.{n >> 8}.{n & 255}.0/24\n" for n in range(routes))
    return f"[Interface]\nPrivateKey = {key()}\nAddress = 10.0.0.1/24\n[Peer]\nPublicKey = {key()}\n{networks}"


def planned(machine: Namespace, *arguments: str) -> Timing:
    """Make a plan; exit status 2 means that there are changes."""
    return timed(machine, ["sh", "-c", '"$@" >/dev/null || [ $? = 2 ]', "sh", *WGQ, "plan", *arguments])


def rounds(machine: Namespace, routes: int, number: int) -> dict[str, list[Timing]]:
    """The timings by the kind of plan."""
    found: dict[str, list[Timing]] = {}

    def time(name: str, *arguments: str) -> None:
        found[name] = [planned(machine, *arguments) for _ in range(number)]

    texts = [configuration(routes, 11), configuration(routes, 12)]
    texts[1] = texts[0].split("AllowedIPs", 1)[0] + "AllowedIPs" + texts[1].split("AllowedIPs", 1)[1]
    machine.run(["sh", "-c", f"umask 077; cat >{PATH}"], input=texts[0])
    time("up, offline", "up", "--offline", PATH)
    time("up", "up", NAME)
    time("up, JSON", "up", NAME, "--json")
    machine.run([*WGQ, "up", NAME])
    time("reload, nothing to do", "reload", NAME)
    time("down", "down", NAME)
    machine.run(["sh", "-c", f"umask 077; cat >{PATH}"], input=texts[1])
    time("reload, all new", "reload", NAME)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with host() as machine:
        found = rounds(machine, given.routes, given.rounds)
    print(f"{given.routes} routes              elapsed  processor")
    for name, timings in found.items():
        median = Timing(*map(statistics.median, zip(*timings, strict=True)))
        print(f"{name:<24} {median.elapsed:7.2f} s {median.processor:7.2f} s")


if __name__ == "__main__":
    main()
