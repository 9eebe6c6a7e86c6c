"""Accesses wgq's directories by descriptor, so that it uses the same directory that it has checked.

A path could lead elsewhere between check and use if another user can write to a parent directory (XDG_RUNTIME_DIR,
/tmp).
"""

from __future__ import annotations

import os
from errno import EPERM

from wgquick.lean import TYPE_CHECKING, contextmanager, suppress

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def checked(path: str) -> int:
    """The descriptor of a directory; OSError unless this user owns it and nobody else can write to it."""
    descriptor = os.open(path, _FLAGS)
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        os.close(descriptor)
        raise OSError(EPERM, "another user can write to it", path)
    return descriptor


@contextmanager
def opened(path: str, *, make: bool = False) -> Iterator[int]:
    """A descriptor of the directory `path`; its parent must pass `checked`; with `make`, both are created."""
    parent, _, name = path.rpartition("/")
    if make and not os.path.lexists(parent):
        os.makedirs(parent, mode=0o700, exist_ok=True)
    above = checked(parent)
    try:
        if make:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
        descriptor = os.open(name, _FLAGS, dir_fd=above)
    finally:
        os.close(above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Remove the directory `path` if it is empty, with the checks of `opened`."""
    parent, _, name = path.rpartition("/")
    above = checked(parent)
    try:
        os.rmdir(name, dir_fd=above)
    finally:
        os.close(above)
