"""Runs inside the VM, in forks of one process, because a Python takes ten seconds to start in an emulated machine.

It prints one JSON array per check as soon as the check ends: its name, the seconds, and the error, or an empty
text. Arguments are the names of the checks to run, in place of all.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING

from tests.kernel import clock, device_control, messages, sessions, signatures, traffic, tunnels, verbs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


ON_THE_DISTRIBUTIONS_KERNEL: Sequence[Callable[[], None]] = (
    device_control.a_link_of_the_kernels_wireguard_is_added_and_found,
    device_control.removing_an_allowed_ip_works_or_names_the_needed_kernel,
    device_control.a_deleted_link_is_gone,
    verbs.reload_changes_each_setting_and_keeps_a_hooks_peer,
    verbs.reload_of_a_tunnel_of_wg_quick_works,
    verbs.reload_loses_no_probe_between_two_steps,
    verbs.a_full_tunnel_over_ipv6_passes_a_reverse_path_filter,
)
"""What each run tries on the distribution's kernel; with WGQ_TEST_KERNEL=distribution it tries all there."""


def main() -> None:
    """Run the checks that the arguments name, in their order; without arguments all."""
    checks = {
        check.__name__: check
        for check in (*device_control.CHECKS, *verbs.CHECKS, *messages.CHECKS, *traffic.CHECKS, *sessions.CHECKS)
    } | signatures.CHECKS
    if names := sys.argv[1:]:
        chosen = checks | clock.CHECKS | {check.__name__: check for check in ON_THE_DISTRIBUTIONS_KERNEL}
        for name in names:
            _try(name, chosen[name])
    else:
        _all(checks)


def _all(checks: dict[str, Callable[[], None]]) -> None:
    """Start the tunnels that have to age; meanwhile two processes run the other checks in parallel.

    The clock is set when all others have ended.
    """
    with tunnels.Grown() as aged_tunnels:
        half = len(tunnels.CHECKS) // 2
        shares = list(tunnels.CHECKS.items())[:half], [*checks.items(), *list(tunnels.CHECKS.items())[half:]]
        for worker in [_start(share) for share in shares]:
            os.waitpid(worker, 0)
        for name, aged in tunnels.AGED.items():
            _try(name, partial(aged, aged_tunnels))
    for name, check in clock.CHECKS.items():
        _try(name, check)


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
