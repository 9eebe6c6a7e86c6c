"""Kernel parameters through /proc/sys; a key is the path there. net/* is of this network namespace."""

from __future__ import annotations

import errno
import os

from wgquick.errors import OperationError

_ROOT = "/proc/sys"


def read(key: str, root: str = _ROOT) -> str | None:
    """The value without its newline; None if the kernel has no such parameter or does not show it."""
    try:
        with open(f"{root}/{key}", encoding="ascii") as parameter:
            return parameter.read().rstrip("\n")
    except OSError:
        return None


def writable(key: str, root: str = _ROOT) -> bool:
    """Whether `write` may succeed; tested by opening, as access(2) ignores ambient capabilities."""
    try:
        os.close(os.open(f"{root}/{key}", os.O_WRONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def write(key: str, value: str, root: str = _ROOT) -> None:
    """Set the parameter, `sysctl -q KEY=VALUE`; OperationError with EROFS (many containers), EACCES, ..."""
    try:
        # Unbuffered, so that write() raises the error and close() does not raise it again.
        with open(f"{root}/{key}", "wb", buffering=0) as parameter:
            parameter.write(value.encode() + b"\n")
    except OSError as refusal:
        raise _error(key.replace("/", "."), value, refusal.errno or 0) from None


def _error(key: str, value: str, number: int) -> OperationError:
    what = f"{key} could not be set to {value}: {os.strerror(number)}"
    return OperationError(what, errno=number, remedy=_remedy(key, value, number))


def _remedy(key: str, value: str, number: int) -> str:
    match number:
        case errno.EROFS:
            return f"/proc/sys is read-only here: start the container with `--sysctl {key}={value}'."
        case errno.EACCES | errno.EPERM:
            return f"Set it as root: `sysctl -w {key}={value}'."
        case errno.ENOENT:
            return "This kernel has no such parameter; it may lack the feature, or its module is not loaded."
        case _:
            return f"`sysctl {key}' shows the value that the kernel holds."
