"""Times a transfer during a flood of 50,000 forged initiations per second.

    python -m benchmarks.flood --rounds 5

Rounds in which the daemon gets the flood alternate with rounds in which a firewall drops it before the daemon. A
row has the medians of both, in seconds per gigabyte, and their ratio: the part of its rate that the transfer keeps.
Sending and receiving the flood costs the same in both. Needs root and what scripts/test installs.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import TYPE_CHECKING

from tests.interop.floods import FLOODS, deaf_to_initiations, took
from tests.interop.pairs import WGQ, pair

if TYPE_CHECKING:
    from tests.interop.floods import Flood


GIB = 1 << 30


def measured(flooded: Flood, direction: str, rounds: int) -> tuple[float, float]:
    """The median seconds with the flood dropped before the daemon, and with the flood processed by it."""
    dropped, processed = [], []
    with pair(WGQ, WGQ) as (victim, peer):
        victim.ping(peer)
        sender, receiver = (peer, victim) if direction == "to the victim" else (victim, peer)
        with flooded(victim, peer):
            for _ in range(rounds):
                with deaf_to_initiations(victim):
                    dropped.append(took(sender, receiver, GIB))
                processed.append(took(sender, receiver, GIB))
    return median(dropped), median(processed)


def main() -> None:
    """Print a row for each flood and direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{'flood':24} {'transfer':18} {'dropped':>8} {'processed':>9} {'ratio':>6}")
    for flooded in FLOODS:
        for direction in ("to the victim", "from the victim"):
            dropped, processed = measured(flooded, direction, rounds)
            name = flooded.__name__.replace("_", " ")
            print(
                f"{name:24} {direction:18} {dropped:6.2f} s {processed:7.2f} s {dropped / processed:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
