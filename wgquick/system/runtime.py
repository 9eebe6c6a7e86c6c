"""Where the journals are: a directory of this network namespace's own below /run.

Locks are files there. They go with the last run that needs them, and so do the directories, all but /run/wgq:
that one is chosen by whether it can be written, and must not go while another run chooses.
"""

from __future__ import annotations

import fcntl
import os
import time

from wgquick import directory
from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING, contextmanager, suppress
from wgquick.system import namespaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROOT = "/run/wgq"
_LOCK = "lock"  # no interface's own lock, whose name ends in .lock
_LOCK_PATIENCE = 10.0  # seconds; not for ever, as a hook may run the tool for its own interface
_LOCK_PAUSE = 0.05


def runtime_directory() -> str:
    """/run/wgq, or for a process that may not write there (ambient CAP_NET_ADMIN) one of its own."""
    for candidate in _candidates():
        with suppress(OSError):
            os.makedirs(candidate, mode=0o700, exist_ok=True)
            if _is_writable(candidate):
                return candidate
    raise WgqError(
        f"no directory for the journal: {_ROOT} cannot be written",
        remedy="Name one that can be in XDG_RUNTIME_DIR; without a journal nothing could be undone safely.",
    )


def _candidates() -> Iterator[str]:
    yield _ROOT
    own = os.environ.get("XDG_RUNTIME_DIR")
    if own:
        yield f"{own}/wgq"
    yield f"/tmp/wgq-{os.geteuid()}"  # noqa: S108 - its owner and mode are checked, here and at each use


def _is_writable(path: str) -> bool:
    """Whether this user, and nobody else, can write to a directory: what stands in it is obeyed by down."""
    descriptor = directory.checked(path)
    try:
        return os.access(".", os.W_OK, dir_fd=descriptor, effective_ids=True)
    finally:
        os.close(descriptor)


def journal_directory() -> str:
    """The directory of the calling thread's network namespace."""
    return f"{runtime_directory()}/{namespaces.current()}"


def other_directories() -> list[str]:
    """The directories of other network namespaces."""
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
    """Remove a journal directory with its files, as far as another run has not done that."""
    with suppress(OSError):
        with directory.opened(path) as descriptor:
            for entry in os.listdir(descriptor):
                os.unlink(entry, dir_fd=descriptor)
        directory.remove(path)


@contextmanager
def locked(place: str) -> Iterator[None]:
    """Hold the lock of a directory, such as the namespace's; it ends with the process, however that ends."""
    path = f"{place}/{_LOCK}"
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
    """Take the file away before it is free: whoever waits for it finds that out by `_is_at`."""
    place, name = os.path.split(path)
    with suppress(OSError), directory.opened(place) as descriptor:
        os.unlink(name, dir_fd=descriptor)
    os.close(fd)
    with suppress(OSError):
        directory.remove(place)  # if it is empty: namespaces come and go


@contextmanager
def locked_interface(
    place: str, name: str, say: Callable[[str], object], *, patience: float = _LOCK_PATIENCE
) -> Iterator[None]:
    """Hold the lock of one interface: two that worked on it at once would take each other's work for their own."""
    path = f"{place}/{name}.lock"
    fd = _locked_file(path)
    if fd is None:
        say(f"[!] Waiting for another wgq that is at work on {name}")
        fd = _awaited_file(path, name, time.monotonic() + patience)
    try:
        yield
    finally:
        _release(fd, path)


@contextmanager
def locked_if_free(place: str, name: str) -> Iterator[bool]:
    """Hold the lock of one interface if nobody else does, and say whether it is held."""
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
                f"another wgq is at work on {name}",
                remedy=f"Wait for it, or end it (`fuser {path}' names its process): it undoes what it did.",
            )
        time.sleep(_LOCK_PAUSE)
    return fd


def _locked_file(path: str) -> int | None:
    """The lock file, held; None if somebody else holds it."""
    fd = _opened(path)
    if _is_taken(fd) and _is_at(fd, path):
        return fd
    os.close(fd)
    return None


def _opened(path: str) -> int:
    """The lock file, made if it is not there; again where `_release` takes the directory away meanwhile."""
    place, name = os.path.split(path)
    while True:
        try:
            with directory.opened(place, make=True) as descriptor:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                return os.open(name, flags, 0o600, dir_fd=descriptor)
        except FileNotFoundError:
            continue
        except OSError as error:
            what = f"the lock {path} cannot be made: {error.strerror}"
            raise WgqError(what, remedy="Make room in /run.") from None


def _is_taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: str) -> bool:
    """Whether the open file still is the one at the path, and not one that its holder has removed meanwhile."""
    place, name = os.path.split(path)
    try:
        with directory.opened(place) as descriptor:
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        return os.path.samestat(os.fstat(fd), found)
    except FileNotFoundError:
        return False
