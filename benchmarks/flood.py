"""Times a transfer while 50,000 forged initiations a second come in, and while they are dropped in front.

    python -m benchmarks.flood --rounds 5

A row has the medians of both in turn, in seconds for a gigabyte, and the share of its rate that the transfer keeps:
what the flood costs the machine anyway, its sending and its way in, is in both. Needs root and what scripts/test
installs.
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
    """Seconds with the flood dropped in front of the victim, and with the flood heard by it."""
    dropped, heard = [], []
    with pair(WGQ, WGQ) as (victim, peer):
        victim.ping(peer)
        sender, receiver = (peer, victim) if direction == "to the victim" else (victim, peer)
        with flooded(victim, peer):
            for _ in range(rounds):
                with deaf_to_initiations(victim):
                    dropped.append(took(sender, receiver, GIB))
                heard.append(took(sender, receiver, GIB))
    return median(dropped), median(heard)


def main() -> None:
    """The rows: each flood, in each direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{'flood':24} {'transfer':18} {'dropped':>8} {'heard':>8} {'keeps':>6}")
    for flooded in FLOODS:
        for direction in ("to the victim", "from the victim"):
            dropped, heard = measured(flooded, direction, rounds)
            name = flooded.__name__.replace("_", " ")
            print(f"{name:24} {direction:18} {dropped:6.2f} s {heard:6.2f} s {dropped / heard:6.2f}", flush=True)


if __name__ == "__main__":
    main()
