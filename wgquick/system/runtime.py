"""The directories of journals and locks: one for each network namespace, below /run.

The last run that needs a lock file removes it, and then the empty directory. /run/wgq stays, because another run
may be testing whether it is writable.
"""

from __future__ import annotations

import fcntl
import os
import time

from wgquick import directory
from wgquick import patience as deadline
from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING, contextmanager, suppress
from wgquick.system import namespaces
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROOT = "/run/wgq"
_LOCK = "lock"  # the names of interfaces' locks end in .lock
_GUARDS = "guard-lock"
_LOCK_PATIENCE = 10.0  # seconds; limited, as a hook may run wgq for its own interface
_LOCK_PAUSE = 0.05


def runtime_directory() -> str:
    """/run/wgq, or another directory for a process that cannot write there (ambient CAP_NET_ADMIN)."""
    for candidate in _candidates():
        with suppress(OSError):
            os.makedirs(candidate, mode=0o700, exist_ok=True)
            if _is_writable(candidate):
                return candidate
    raise WgqError(
        f"cannot create the journal: {_ROOT} is not writable",
        remedy="Set XDG_RUNTIME_DIR to a writable directory: without a journal wgq could not undo its changes.",
    )


def _candidates() -> Iterator[str]:
    yield _ROOT
    own = os.environ.get("XDG_RUNTIME_DIR")
    if own:
        yield f"{own}/wgq"
    yield f"/tmp/wgq-{os.geteuid()}"  # noqa: S108 - its owner and mode are checked, here and at each use


def _is_writable(path: str) -> bool:
    """Whether only this user can write to a directory: down trusts its content."""
    descriptor = directory.checked(path)
    try:
        return os.access(".", os.W_OK, dir_fd=descriptor, effective_ids=True)
    finally:
        os.close(descriptor)


def journal_directory() -> str:
    """The journal directory of the calling thread's network namespace."""
    return f"{runtime_directory()}/{namespaces.current()}"


def other_directories() -> list[str]:
    """The journal directories of other network namespaces."""
    root, own = runtime_directory(), namespaces.current()
    descriptor = directory.checked(root)
    try:
        entries = sorted(os.listdir(descriptor))
    finally:
        os.close(descriptor)
    return [f"{root}/{entry}" for entry in entries if namespaces.is_word(entry) and entry != own]


def is_gone(path: str, *, contained: bool) -> bool:
    """Whether the namespace of a journal directory is gone; `contained`: whether it is a container's."""
    return namespaces.is_gone(os.path.basename(path), contained=contained)


def remove_directory(path: str) -> None:
    """Remove a journal directory with its files; another run may remove some of them at the same time."""
    with suppress(OSError):
        with directory.opened(path) as descriptor:
            for entry in os.listdir(descriptor):
                os.unlink(entry, dir_fd=descriptor)
        directory.remove(path)


@contextmanager
def locked(place: str) -> Iterator[None]:
    """Hold the lock of a directory, such as the namespace's; the kernel releases it when the process ends."""
    yield from _holding(f"{place}/{_LOCK}")


@contextmanager
def locked_guards() -> Iterator[None]:
    """Hold the lock of this namespace's kill switches; a caller may hold the namespace's lock too."""
    yield from _holding(f"{journal_directory()}/{_GUARDS}")


def _holding(path: str) -> Iterator[None]:
    while True:
        fd = _opened(path)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _is_at(fd, path):
            break
        os.close(fd)
    try:
        yield
    finally:
        _release(fd, path)


def _release(fd: int, path: str) -> None:
    """Remove the file before the lock is released; a waiting process detects this with `_is_at`."""
    place, name = os.path.split(path)
    with suppress(OSError), directory.opened(place) as descriptor:
        os.unlink(name, dir_fd=descriptor)
    os.close(fd)
    with suppress(OSError):
        directory.remove(place)  # only if it is empty


@contextmanager
def locked_interface(
    place: str, name: str, say: Callable[[str], object], *, patience: float = _LOCK_PATIENCE
) -> Iterator[None]:
    """Hold the lock of one interface, so that two runs at once do not mix up their changes."""
    path = f"{place}/{name}.lock"
    fd = _locked_file(path)
    if fd is None:
        say(note(f"Waiting for another wgq process that is working on {name}"))
        fd = _awaited_file(path, name, time.monotonic() + deadline.left(patience))
    try:
        yield
    finally:
        _release(fd, path)


@contextmanager
def locked_if_free(place: str, name: str) -> Iterator[bool]:
    """Hold the lock of one interface if it is free; yields whether it is held."""
    path = f"{place}/{name}.lock"
    fd = _locked_file(path)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            _release(fd, path)


def _awaited_file(path: str, name: str, deadline: float) -> int:
    while (fd := _locked_file(path)) is None:
        if time.monotonic() > deadline:
            raise WgqError(
                f"another wgq process is working on {name}",
                remedy=f"Wait for it, or stop it (`fuser {path}' shows its process ID): it undoes its changes.",
            )
        time.sleep(_LOCK_PAUSE)
    return fd


def _locked_file(path: str) -> int | None:
    """The lock file, locked; None if another process holds the lock."""
    fd = _opened(path)
    if _is_taken(fd) and _is_at(fd, path):
        return fd
    os.close(fd)
    return None


def _opened(path: str) -> int:
    """The lock file, created if necessary; tries again if `_release` removes the directory at the same time."""
    place, name = os.path.split(path)
    while True:
        try:
            with directory.opened(place, make=True) as descriptor:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                return os.open(name, flags, 0o600, dir_fd=descriptor)
        except FileNotFoundError:
            continue
        except OSError as error:
            what = f"cannot create the lock {path}: {error.strerror}"
            raise WgqError(what, remedy="Check the free space and permissions of /run.") from None


def _is_taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: str) -> bool:
    """Whether the open file is still the one at the path; its holder may have removed it."""
    place, name = os.path.split(path)
    try:
        with directory.opened(place) as descriptor:
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        return os.path.samestat(os.fstat(fd), found)
    except FileNotFoundError:
        return False
