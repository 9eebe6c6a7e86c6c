"""Records of the network namespaces that tunnels were moved into: one file each, beside the journals."""

from __future__ import annotations

import os
from errno import ENOENT

from wgquick.directory import opened
from wgquick.errors import OperationError, WgqError
from wgquick.executor.journal import stamps as journal_stamps
from wgquick.lean import TYPE_CHECKING, NamedTuple, dumps, loads, suppress

if TYPE_CHECKING:
    from wgquick.ports import Host

_SUFFIX = ".netns"


class NetnsRecord(NamedTuple):
    """The named network namespace of a tunnel, `netns`.

    `is_ours`: wgq created the namespace and deletes it. `is_starting`: `up` has not ended; if it was killed, a
    daemon's link may still be in the current namespace. `daemon` identifies the daemon; "" for the kernel's
    WireGuard. `directory` has the namespace's journals; "" before wgq enters it. `is_by_option`: an option of `up`
    chose the namespace, so the file's does not count.
    """

    netns: str
    is_ours: bool = False
    is_starting: bool = False
    daemon: str = ""
    directory: str = ""
    is_by_option: bool = True


def record_of(name: str, host: Host) -> NetnsRecord | None:
    """The record of a tunnel that was brought up from the current one; None if it has no other namespace."""
    try:
        with opened(host.journal_directory) as directory:
            descriptor = os.open(f"{name}{_SUFFIX}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            with open(descriptor, encoding="utf-8") as file:
                text = file.read()
    except OSError as error:
        if error.errno == ENOENT:
            return None
        raise OperationError(
            f"cannot read which network namespace {name} is in: {error.strerror}", errno=error.errno or 0
        ) from None
    try:
        read = loads(text)
        return NetnsRecord(
            str(read["netns"]),
            read["is_ours"] is True,
            read["is_starting"] is True,
            str(read["daemon"]),
            str(read["directory"]),
            read.get("is_told") is not False,  # earlier versions did not write it
        )
    except (ValueError, KeyError, TypeError):
        what = f"{host.journal_directory}/{name}{_SUFFIX} is damaged"
        raise WgqError(what, remedy="Take the tunnel down in its namespace, then remove the file.") from None


def is_reachable(where: NetnsRecord, host: Host) -> bool:
    """Whether the tunnel's namespace exists; another one may have its name now."""
    if not host.netns.exists(where.netns):
        return False
    if not where.directory:
        return True
    with host.inside(where.netns) as inner:
        return inner.journal_directory == where.directory


def check_reachable(name: str, where: NetnsRecord, host: Host) -> None:
    """Raise WgqError if the tunnel's namespace is gone."""
    if not is_reachable(where, host):
        what = f"the network namespace {where.netns} of {name} is gone"
        raise WgqError(what, remedy=f"Remove what it left behind: wgq down {name}")


def names(host: Host) -> list[str]:
    """The tunnels that were brought up from the current namespace into another one."""
    try:
        with opened(host.journal_directory) as directory:
            entries = os.listdir(directory)
    except OSError:
        return []
    return sorted(entry.removesuffix(_SUFFIX) for entry in entries if entry.endswith(_SUFFIX))


def stamps(host: Host) -> dict[str, tuple[int, ...]]:
    """The same tunnels, each with a value that changes with its record."""
    return journal_stamps(host.journal_directory, _SUFFIX)


def write(name: str, where: NetnsRecord, host: Host) -> None:
    """Write the record of a tunnel."""
    fields = where._asdict()
    fields["is_told"] = fields.pop("is_by_option")  # as earlier versions read it
    text = dumps(fields)
    file, following = f"{name}{_SUFFIX}", f".{name}{_SUFFIX}.next"
    try:
        with opened(host.journal_directory, make=True) as directory:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(following, flags, 0o600, dir_fd=directory), "wb") as written:
                written.write(text.encode())
            os.rename(following, file, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        what = f"cannot record the network namespace of {name}: {error.strerror}"
        raise OperationError(what, errno=error.errno or 0, remedy="Make room in /run.") from None


def forget(name: str, host: Host) -> None:
    """Remove the record of a tunnel."""
    with suppress(OSError), opened(host.journal_directory) as directory:
        os.unlink(f"{name}{_SUFFIX}", dir_fd=directory)
