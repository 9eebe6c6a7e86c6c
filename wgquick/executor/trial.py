"""The file of a trial: the change, the deadline and the phase. It has no secrets.

It is beside the journal. The watchdogs of a trial hold a lock on it while they live. It is written in place: a
process that has it open can read the end of the trial after the file was removed. `up`, `down` and `reload` import
this module, so it imports nothing slow.
"""

from __future__ import annotations

import fcntl
import os
import time

from wgquick.directory import opened
from wgquick.errors import OperationError, WgqError
from wgquick.lean import TYPE_CHECKING, NamedTuple, dumps, loads, suppress
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wgquick.ports import Host

SUFFIX = ".trial"
_SIZE = 1024  # bytes, within one page
_LONGEST_MESSAGE = 400

CHANGING = "changing"  # the change is being made
PENDING = "pending"  # the change is made and waits for a confirmation
RETURNING = "rolling back"
CONFIRMED = "confirmed"
REJECTED = "rejected"  # somebody requested the rollback
ROLLED_BACK = "rolled back"
SUPERSEDED = "superseded"  # by another up, down or reload
FAILED = "failed"  # the change, or the rollback
OUTCOMES = {CONFIRMED: "confirmed", ROLLED_BACK: "rolled-back", SUPERSEDED: "superseded", FAILED: "failed"}
"""The phases that end a trial, with their words in the JSON of `wgq try`."""


class Trial(NamedTuple):
    """A trial. `deadline` is on CLOCK_BOOTTIME, in milliseconds; `by` says what confirmed it.

    While a change is being made, it counts as hanging after `deadline`. `changes` is the number of changes.
    """

    verb: str
    path: str = ""
    phase: str = CHANGING
    deadline: int = 0
    by: str = ""
    message: str = ""
    changes: int = 1

    @property
    def is_over(self) -> bool:
        """Whether the trial has ended."""
        return self.phase in OUTCOMES

    @property
    def left(self) -> float:
        """Seconds until the deadline; 0 if it has passed."""
        return max(0, self.deadline - now()) / 1000


class Seen(NamedTuple):
    """A trial of an interface, and whether its watchdog lives."""

    name: str
    trial: Trial
    has_watchdog: bool


def now() -> int:
    """CLOCK_BOOTTIME in milliseconds. It advances during sleep, and nobody can set it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class TrialFile:
    """The open file of a trial."""

    def __init__(self, directory: str, name: str, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor
        self._directory = directory

    def read(self) -> Trial | None:
        """The content; None if it cannot be parsed."""
        try:
            return Trial(*loads(os.pread(self.descriptor, _SIZE, 0).decode().rstrip()))
        except (ValueError, TypeError):
            return None

    def write(self, trial: Trial) -> None:
        """Replace the content."""
        short = trial._replace(message=trial.message[:_LONGEST_MESSAGE])
        os.pwrite(self.descriptor, dumps(list(short)).encode().ljust(_SIZE)[:_SIZE], 0)

    def has_watchdog(self) -> bool:
        """Whether a watchdog holds the lock. A watchdog must not ask with its own descriptor."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        return False

    def remove(self) -> None:
        """Remove the file, unless a later trial has replaced it."""
        with suppress(FileNotFoundError), opened(self._directory) as directory:
            found = os.stat(f"{self.name}{SUFFIX}", dir_fd=directory, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(self.descriptor)):
                os.unlink(f"{self.name}{SUFFIX}", dir_fd=directory)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


def existing(directory: str, name: str) -> TrialFile | None:
    """The file of an interface's trial; None if there is none."""
    try:
        with opened(directory) as opened_directory:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            return TrialFile(directory, name, os.open(f"{name}{SUFFIX}", flags, dir_fd=opened_directory))
    except FileNotFoundError:
        return None


def begun(directory: str, name: str, trial: Trial) -> TrialFile:
    """Create the file, locked by this process and the processes that it forks."""
    try:
        with opened(directory, make=True) as opened_directory:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = TrialFile(directory, name, os.open(f"{name}{SUFFIX}", flags, 0o600, dir_fd=opened_directory))
    except OSError as error:
        what = f"the trial {directory}/{name}{SUFFIX} cannot be written: {error.strerror}"
        raise OperationError(what, errno=error.errno or 0, remedy="Make room in /run.") from None
    fcntl.flock(file.descriptor, fcntl.LOCK_EX)
    file.write(trial)
    return file


def seen(directory: str, name: str) -> Seen | None:
    """The trial of an interface that has not ended, or that failed; None if there is none."""
    file = existing(directory, name)
    if file is None:
        return None
    try:
        trial = file.read()
        if trial is None or (trial.is_over and trial.phase != FAILED):
            return None
        return Seen(name, trial, file.has_watchdog())
    finally:
        file.close()


def all_seen(directory: str) -> Iterator[Seen]:
    """The trials of the namespace."""
    try:
        with opened(directory) as opened_directory:
            entries = sorted(os.listdir(opened_directory))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.endswith(SUFFIX) and (found := seen(directory, entry.removesuffix(SUFFIX))) is not None:
            yield found


def supersede(directory: str, name: str, say: Callable[[str], None]) -> None:
    """End a trial without a rollback, after a permanent change. The caller holds the interface's lock."""
    file = existing(directory, name)
    if file is None:
        return
    trial = file.read()
    if trial is not None and not trial.is_over:
        say(note(f"This ends the trial of {name}: nothing will be rolled back"))
        file.write(trial._replace(phase=SUPERSEDED))
    file.remove()
    file.close()


def decide(name: str, host: Host, phase: str, *, by: str = "", seconds: float | None = None) -> Trial:
    """Confirm a trial, reject it or, with `seconds`, extend it; returns the changed trial.

    WgqError if there is no pending trial, or its time is up.
    """
    with host.lock():
        file = existing(host.journal_directory, name)
        if file is None:
            raise WgqError(
                f"no trial of {name} is pending", remedy=f"`wgq try' starts one; `wgq status {name}' shows it."
            )
        try:
            trial = file.read()
            if trial is None or trial.is_over:
                raise WgqError(f"no trial of {name} is pending", remedy="It has ended.")
            if not file.has_watchdog():
                return _without_watchdog(file, trial, phase)
            if trial.phase != PENDING or not trial.left:
                raise _too_late(name, trial)
            deadline = trial.deadline if seconds is None else now() + int(seconds * 1000)
            decided = trial._replace(phase=phase, by=by, deadline=deadline)
            file.write(decided)
            return decided
        finally:
            file.close()


def _without_watchdog(file: TrialFile, trial: Trial, phase: str) -> Trial:
    """Confirm a trial without a watchdog, so nobody can roll it back; WgqError for any other `phase`."""
    if phase != CONFIRMED:
        what = f"the watchdogs of the trial of {file.name} were killed: it cannot be rolled back"
        remedy = f"Keep the change: wgq confirm {file.name}\n  Or revert it: {_way_back(trial.verb, file.name)}"
        raise WgqError(what, remedy=remedy)
    file.remove()
    return trial._replace(phase=phase)


def _way_back(verb: str, name: str) -> str:
    """The command that reverts a change after its watchdogs, and with them the earlier keys, are gone."""
    if verb == "reload":
        return f"put the earlier file back, then wgq reload {name}"
    return f"wgq {'down' if verb == 'up' else 'up'} {name}"


def _too_late(name: str, trial: Trial) -> WgqError:
    if trial.phase == CHANGING:
        return WgqError(f"the change of {name} is not made yet", remedy="Confirm it once it is made.")
    return WgqError(f"too late: {name} is being rolled back", remedy=f"Try again: wgq try {trial.verb} {name}")
