"""Runs inside the VM: the processes are forks of one, because a Python takes ten seconds to start there.

Its standard output is one JSON array a line, as each check has been tried: its name, the seconds it took, and what
came of it, an empty text where it holds.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING

from tests.kernel import device_control, signatures, tunnels, verbs

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """The tunnels that have to grow old begin; meanwhile two processes, one a processor, try everything else."""
    with tunnels.Grown() as aged_tunnels:
        checks = {check.__name__: check for check in (*device_control.CHECKS, *verbs.CHECKS)} | signatures.CHECKS
        half = len(tunnels.CHECKS) // 2
        shares = list(tunnels.CHECKS.items())[:half], [*checks.items(), *list(tunnels.CHECKS.items())[half:]]
        for worker in [_start(share) for share in shares]:
            os.waitpid(worker, 0)
        for name, aged in tunnels.AGED.items():
            _try(name, partial(aged, aged_tunnels))


def _start(share: list[tuple[str, Callable[[], None]]]) -> int:
    if (child := os.fork()) == 0:
        for name, check in share:
            _try(name, check)
        os._exit(0)
    return child


def _try(name: str, check: Callable[[], None]) -> None:
    began = time.monotonic()
    outcome = ""
    try:
        check()
    except Exception:
        outcome = traceback.format_exc()
    line = json.dumps([name, round(time.monotonic() - began, 1), outcome[-3000:]])
    os.write(sys.stdout.fileno(), f"{line}\n".encode())  # a pipe takes so much of it at once


if __name__ == "__main__":
    main()
