"""Runs inside the VM, in forks of one process, because a Python takes ten seconds to start there.

It prints one JSON array per check as soon as the check ends: its name, the seconds, and the error, or an empty
text.
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
    """Start the tunnels that have to age; meanwhile two processes, one per processor, run all other checks."""
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
    os.write(sys.stdout.fileno(), f"{line}\n".encode())  # a pipe takes a line of this size at once


if __name__ == "__main__":
    main()
