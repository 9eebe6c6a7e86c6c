"""Runs programs: finds them on PATH, starts them by posix_spawn(3), waits for them, leaves none behind.

`subprocess` does all this too; its import alone takes longer than the hooks of most configurations.
"""

from __future__ import annotations

import os
import time
from errno import ETIMEDOUT

from wgquick import patience
from wgquick.errors import ENDING_SIGNALS, OperationError, status_of_signal
from wgquick.lean import TYPE_CHECKING, signal, suppress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATIENCE = 10.0  # seconds between TERM and KILL
_PAUSE = 0.01
_PYTHONS_OWN = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
)  # the interpreter ignores them, but programs expect the default action


def search_path() -> str:
    """PATH, or the shells' default if it is not set."""
    return os.environ.get("PATH") or DEFAULT_PATH


def find(name: str, path: str = "") -> str | None:
    """The executable file with a name on `path` (default: PATH), as bash's `type -P` finds it.

    It checks access by the effective IDs, for which capabilities count.
    """
    for directory in (path or search_path()).split(":"):
        candidate = f"{directory or '.'}/{name}"
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
    return None


def run(argv: Sequence[str], environment: Mapping[str, str], descriptors: Mapping[int, int]) -> int:
    """Run argv[0], a path, to its end; returns its exit status, or 128 + N if signal N ended it.

    `descriptors` maps our descriptors to the program's; otherwise it inherits 0, 1 and 2.
    An exception during the run, as from a signal handler, ends the program and its descendants. So does a deadline
    (`wgquick.patience`), with OperationError and the errno ETIMEDOUT.
    """
    if patience.is_over():
        raise _late(argv[0])
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)  # until the child's ID is known
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
    return _await(child, blocked, argv[0])


def output(argv: Sequence[str], environment: Mapping[str, str], text: bytes) -> tuple[int, str, str]:
    """Run argv[0] with `text` as standard input; returns status, output and errors."""
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
    """The content of a file in memory, which unlike a pipe needs no reader during the run."""
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")


def _await(child: int, blocked: set[int | signal.Signals], path: str) -> int:
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if patience.is_limited() and not _ends(child):
            _signal(_descendants(child), signal.SIGKILL)
            os.waitpid(child, 0)
            raise _late(path)
        return _status(os.waitpid(child, 0)[1])
    except ChildProcessError:
        raise OperationError(
            "a program's exit status cannot be read, as this process ignores SIGCHLD",
            remedy="Let it have its default action: signal.signal(signal.SIGCHLD, signal.SIG_DFL).",
        ) from None
    except BaseException:
        with suppress(ChildProcessError):  # ended by the same signal (Ctrl-C) and already reaped
            _end(child)
        raise


def _ends(child: int) -> bool:
    """Whether the program ends before the deadline."""
    import select

    descriptor = os.pidfd_open(child)
    try:
        return bool(select.select([descriptor], [], [], patience.left())[0])
    finally:
        os.close(descriptor)


def _late(path: str) -> OperationError:
    return OperationError(f"{path.rpartition('/')[2]} does not end", errno=ETIMEDOUT)


def _status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else status_of_signal(-code)


def _end(child: int) -> None:
    """Send TERM to the child and its descendants, later KILL to those that remain; reap the child."""
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
    """The process and its descendants, if the kernel shows them (CONFIG_PROC_CHILDREN)."""
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
