"""A host's own /etc, /run, /proc and /sys, so that its changes do not reach the machine.

The machine's /etc is copied once into a file system in memory. Each host has its own overlay above that.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from wgquick.lean import suppress
from wgquick.options import DIRECTORY
from wgquick.system import calls
from wgquick.system.dns import RESOLV_CONF

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.rehearsal import File

_COPY = "/run/etc"
_LAYERS = "/run/hosts"


def prepare() -> None:
    """For all hosts: private mounts, an empty /run with a copy of /etc in it, and a /proc of these processes."""
    calls.keep_mounts_private()
    calls.mount("tmpfs", "/run", "mode=0755")
    with suppress(shutil.Error):  # files that this user cannot read are skipped
        shutil.copytree("/etc", _COPY, symlinks=True, ignore=_special)
    os.makedirs(_LAYERS)
    with suppress(OSError):  # refused in a user namespace if a container hides parts of /proc
        calls.mount("proc", "/proc")


def _special(folder: str, entries: list[str]) -> list[str]:
    """The entries to skip: pipes, sockets, devices, and the directory with keys of the machine's tunnels."""
    if folder == DIRECTORY:
        return entries
    return [each for each in entries if not _is_plain(f"{folder}/{each}")]


def _is_plain(path: str) -> bool:
    return os.path.islink(path) or os.path.isfile(path) or os.path.isdir(path)


def make_own(number: int, name: str, names: Iterable[tuple[str, str]], files: Iterable[File]) -> None:
    """Set up one host's files, in its own mount namespace."""
    _layer(number)
    os.makedirs(DIRECTORY, 0o700, exist_ok=True)
    for file in files:
        _write(file.path, file.data, 0o700 if file.executable else 0o600)
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost", f"127.0.1.1 {name}"]
    lines += [f"{address} {word}" for address, word in names]
    _write("/etc/hosts", "".join(f"{line}\n" for line in lines).encode(), 0o644)
    _write("/etc/hostname", f"{name}\n".encode(), 0o644)
    _write(RESOLV_CONF, b"", 0o644)
    _write("/etc/nsswitch.conf", _name_services(), 0o644)
    calls.mount("tmpfs", "/run", "mode=0755")
    os.makedirs("/run/lock")
    with suppress(OSError):  # refused like /proc
        calls.mount("sysfs", "/sys")


def _layer(number: int) -> None:
    own = f"{_LAYERS}/{number}"
    for part in ("upper", "work"):
        os.makedirs(f"{own}/{part}")
    try:
        calls.mount("overlay", "/etc", f"lowerdir={_COPY},upperdir={own}/upper,workdir={own}/work")
    except OSError:  # a kernel without overlayfs
        calls.mount("tmpfs", "/etc", "mode=0755")
        shutil.copytree(_COPY, "/etc", symlinks=True, dirs_exist_ok=True)


def _write(path: str, data: bytes, mode: int) -> None:
    """Write a new file in place of an existing one, which may be a symbolic link to the machine's."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)


def _name_services() -> bytes:
    """The machine's nsswitch.conf with /etc/hosts first, before services that ask a daemon of the machine."""
    try:
        with open("/etc/nsswitch.conf", "rb") as file:
            lines = [line for line in file.read().splitlines() if not line.strip().startswith(b"hosts:")]
    except OSError:
        lines = []
    return b"\n".join([*lines, b"hosts: files dns", b""])
