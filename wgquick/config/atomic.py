"""Atomic writes of configuration files: after a crash either the old or the new content is complete."""

from __future__ import annotations

import os
from errno import EBUSY, ENOSPC

from wgquick.errors import OperationError
from wgquick.lean import suppress

_LONGEST = 60  # characters of the file's name in the temporary name; at four bytes each they are below NAME_MAX


def write_atomic(path: str, data: bytes) -> None:
    """Replace a file's content atomically; its mode and owner and symbolic links to it stay."""
    target = os.path.realpath(path)
    parent, _, name = target.rpartition("/")
    try:
        directory = os.open(parent or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _replace(directory, name, data)
        finally:
            os.close(directory)
    except OSError as error:
        what = f"cannot write `{target}': {os.strerror(error.errno or 0)}"
        remedy = "The file is unchanged."
        raise OperationError(what, errno=error.errno or 0, remedy=remedy) from None


def _replace(directory: int, name: str, data: bytes) -> None:
    """Replace a file through the directory's descriptor, as the path could change between two steps."""
    made = f".{name[:_LONGEST]}.{os.urandom(6).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(made, flags, 0o600, dir_fd=directory)
    try:
        _keep_mode_and_owner(directory, name, file)
        _write(file, data)
        _take_place(directory, made, name, data)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(made, dir_fd=directory)
        raise
    finally:
        os.close(file)
    os.fsync(directory)


def _take_place(directory: int, made: str, name: str, data: bytes) -> None:
    """Rename the new file, or write into the target if it is a mount point (a single file of a container).

    Until the write is complete the new file keeps the content, in case of a crash.
    """
    try:
        os.rename(made, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        if error.errno != EBUSY:
            raise
        _write_in_place(directory, name, data)
        os.unlink(made, dir_fd=directory)


def _write_in_place(directory: int, name: str, data: bytes) -> None:
    file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        _write(file, data)
        os.ftruncate(file, len(data))
        os.fsync(file)
    finally:
        os.close(file)


def _write(file: int, data: bytes) -> None:
    """Write the data at the start of the file and sync it to disk."""
    if os.pwrite(file, data, 0) != len(data):
        raise OSError(ENOSPC, os.strerror(ENOSPC))
    os.fsync(file)


def _keep_mode_and_owner(directory: int, name: str, file: int) -> None:
    """Copy mode and owner of the replaced file; only the owner may access a new file."""
    try:
        old = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(file, old.st_uid, old.st_gid)
    os.fchmod(file, old.st_mode & 0o7777)
