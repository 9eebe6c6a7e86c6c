"""Runs all trials inside the VM in forks of one process, because a Python takes ten seconds to start in an
emulated machine.

It prints one JSON array per trial as soon as the trial ends: the job's name, the seconds, the trial.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING

from tests.imports import import_wgquick
from tests.kernel.cases import wanted
from tests.parity.trial import trial

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.kernel.cases import Job

WORKERS = 2


def main() -> None:
    """Divide the trials between two processes: one works while the other waits."""
    import_wgquick()
    workers = [_start(wanted()[worker::WORKERS]) for worker in range(WORKERS)]
    statuses = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
    sys.exit(any(statuses))


def _start(jobs: Iterable[Job]) -> int:
    if (child := os.fork()) == 0:
        status = 1
        try:
            with open(os.devnull) as lock:
                for job in jobs:
                    _report(job, lock.fileno())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def _report(job: Job, lock: int) -> None:
    began = time.monotonic()
    result = asdict(trial(job.case, *job.how))
    line = json.dumps([job.key, round(time.monotonic() - began, 1), result])
    fcntl.flock(lock, fcntl.LOCK_EX)  # a line is longer than what a pipe takes at once
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    fcntl.flock(lock, fcntl.LOCK_UN)


if __name__ == "__main__":
    main()
