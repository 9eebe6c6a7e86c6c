"""Programs that are run: found on PATH, started by posix_spawn(3), waited for, never left behind.

`subprocess` does all this too; its import alone takes longer than the hooks of most configurations.
"""

from __future__ import annotations

import os
import time

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, signal, suppress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATIENCE = 10.0  # seconds between TERM and KILL
_PAUSE = 0.01
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # what the command line heeds
_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)  # ignored by the interpreter, expected to kill by everyone else


def search_path() -> str:
    """PATH, or if it is not set what shells assume."""
    return os.environ.get("PATH") or DEFAULT_PATH


def find(name: str, path: str = "") -> str | None:
    """The executable file of that name on a path, PATH unless another is given, as `type -P` of bash finds it.

    By the effective ids, with which capabilities count: the real ones would not do in a directory of root's.
    """
    for directory in (path or search_path()).split(":"):
        candidate = f"{directory or '.'}/{name}"
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
    return None


def run(argv: Sequence[str], environment: Mapping[str, str], descriptors: Mapping[int, int]) -> int:
    """Run argv[0], a path, to its end; its exit status, or 128 + N where signal N ended it.

    `descriptors` says which of ours it gets as which of its own; 0, 1 and 2 are inherited otherwise.
    An exception while it runs, as a signal handler raises it, ends it and what it started.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # no exception may come before the child is known
    try:
        child = os.posix_spawn(
            argv[0],
            list(argv),
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in descriptors.items()],
            setsigmask=blocked,
            setsigdef=_PYTHONS_OWN,
        )
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        raise
    return _await(child, blocked)


def output(argv: Sequence[str], environment: Mapping[str, str], text: bytes) -> tuple[int, str, str]:
    """Run argv[0] with that standard input; its status, its output and its errors."""
    files = [os.memfd_create(name) for name in ("input", "output", "errors")]
    try:
        os.write(files[0], text)
        os.lseek(files[0], 0, os.SEEK_SET)
        status = run(argv, environment, dict(enumerate(files)))
        return status, _contents(files[1]), _contents(files[2])
    finally:
        for file in files:
            os.close(file)


def _contents(file: int) -> str:
    """Files in memory hold any amount of output: there is no pipe to be emptied meanwhile."""
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")


def _await(child: int, blocked: set[int | signal.Signals]) -> int:
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return _status(os.waitpid(child, 0)[1])
    except ChildProcessError:
        raise OperationError(
            "a program's exit status cannot be read, as this process ignores SIGCHLD",
            remedy="Let it have its default action: signal.signal(signal.SIGCHLD, signal.SIG_DFL).",
        ) from None
    except BaseException:
        with suppress(ChildProcessError):  # ended by the same signal (Ctrl-C), and reaped before that was raised
            _end(child)
        raise


def _status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def _end(child: int) -> None:
    """TERM to the child and all below it, KILL to those that it does not impress; the child is reaped."""
    family = _descendants(child)
    _signal(family, signal.SIGTERM)
    deadline = time.monotonic() + _PATIENCE
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            _signal(_descendants(child), signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(_PAUSE)


def _descendants(process: int) -> list[int]:
    """The process and all below it, as far as the kernel shows them (CONFIG_PROC_CHILDREN)."""
    try:
        with open(f"/proc/{process}/task/{process}/children", encoding="ascii") as children:
            found = [int(child) for child in children.read().split()]
    except OSError:
        found = []
    return [process, *(below for child in found for below in _descendants(child))]


def _signal(processes: Sequence[int], number: int) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
