"""Writing a configuration file in one step: after a crash there is the old one or the new one, whole."""

from __future__ import annotations

import os
from errno import EBUSY

from wgquick.errors import OperationError


def write_atomic(path: str, data: bytes) -> None:
    """Replace a file's content in one step that survives a crash; mode, owner and symbolic links stay."""
    target = os.path.realpath(path)
    try:
        _replace(target, data)
    except OSError as error:
        what = f"`{target}' cannot be written: {os.strerror(error.errno or 0)}"
        remedy = "the file before the change is still there"
        raise OperationError(what, errno=error.errno or 0, remedy=remedy) from None


def _replace(target: str, data: bytes) -> None:
    from tempfile import NamedTemporaryFile

    directory, _, name = target.rpartition("/")
    with NamedTemporaryFile(dir=directory or "/", prefix=f".{name}.", delete=False) as file:
        try:
            _keep_mode_and_owner(target, file.fileno())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            _take_place(file.name, target, data)
        except BaseException:
            os.unlink(file.name)
            raise
    _sync_directory(directory or "/")


def _take_place(made: str, target: str, data: bytes) -> None:
    """Rename, or where the target is a mount point (a container's single file) write into it.

    The file beside it holds the whole of the new content until that is done, in case the machine stops half way.
    """
    try:
        os.rename(made, target)
    except OSError as error:
        if error.errno != EBUSY:
            raise
        _write_in_place(target, data)
        os.unlink(made)


def _write_in_place(target: str, data: bytes) -> None:
    with open(target, "r+b") as file:
        file.write(data)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def _keep_mode_and_owner(target: str, descriptor: int) -> None:
    """Of the file that is replaced; a new one is its owner's alone."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        return
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, old.st_mode & 0o7777)


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
