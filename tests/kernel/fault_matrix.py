"""Runs inside the VM: the whole fault matrix with the kernel's WireGuard, many cases at the same time.

Most of a case is waiting, and the rest is the start of programs and forks, which costs twenty times what it costs
outside, as the processors are emulated. So everything is imported once, before the first fork.

It prints one JSON array per case as soon as the case ends: its name and its outcome.
"""

from __future__ import annotations

import json
import os
import sys

from tests.faults.matrix import FAULTS, HEALTHY
from tests.faults.trial import attempt
from tests.imports import import_wgquick
from tests.interop.pairs import KERNEL

WORKERS = 10
SHOWN = 700
"""Characters of a text: a pipe takes a line of at most 4096 bytes at once (pipe(7))."""


def main() -> None:
    """Try them all; each worker takes the next case until there is none."""
    import_wgquick()
    cases = range(len(FAULTS) + len(HEALTHY))
    queue, entrance = os.pipe()
    os.write(entrance, bytes(cases))
    os.close(entrance)
    for worker in [_start(queue) for _ in range(WORKERS)]:
        os.waitpid(worker, 0)


def _start(queue: int) -> int:
    if child := os.fork():
        return child
    try:
        while taken := os.read(queue, 1):
            case = (*FAULTS, *HEALTHY)[taken[0]]
            outcome = attempt(case, KERNEL)
            shown = outcome._replace(text=outcome.text[:SHOWN], fault=outcome.fault[-SHOWN:])
            line = json.dumps([f"{case.name}, {KERNEL}", shown])
            os.write(sys.stdout.fileno(), f"{line}\n".encode())
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
