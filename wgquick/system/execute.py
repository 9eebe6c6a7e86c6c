"""Runs a command in a named network namespace, as `ip netns exec` does, but as the calling user."""

from __future__ import annotations

import os
import pwd
import stat
from typing import TYPE_CHECKING, NamedTuple

from wgquick.errors import NOT_EXECUTABLE, NOT_FOUND, OperationError
from wgquick.system import calls
from wgquick.system.dns import NAMESPACES
from wgquick.system.netns import path_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import NoReturn

_LOOKUP_SOCKETS = ("/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve")
"""Sockets of the host's daemons that resolve names: nscd(8), and systemd-resolved for nss-resolve(8)."""


class User(NamedTuple):
    """A user to run as; `name` is "" if the user database does not have the number."""

    uid: int
    gid: int
    name: str = ""
    home: str = ""
    shell: str = ""


def caller(environ: Mapping[str, str]) -> User | None:
    """The user who ran sudo(8) or doas(1); None if neither was used."""
    uid = environ.get("SUDO_UID", "")
    if os.geteuid() != 0 or not uid.isdecimal():
        return _by_name(environ.get("DOAS_USER", "")) if os.geteuid() == 0 else None
    gid = environ.get("SUDO_GID", "")
    try:
        found = pwd.getpwuid(int(uid))
    except KeyError:
        return User(int(uid), int(gid) if gid.isdecimal() else int(uid))
    return User(found.pw_uid, found.pw_gid, found.pw_name, found.pw_dir, found.pw_shell)


def _by_name(name: str) -> User | None:
    try:
        found = pwd.getpwnam(name) if name else None
    except KeyError:
        return None
    return User(found.pw_uid, found.pw_gid, found.pw_name, found.pw_dir, found.pw_shell) if found else None


def execute(netns: str, command: Sequence[str], user: User | None) -> NoReturn:
    """Replace this process by the command inside the namespace; OperationError if that fails.

    The error's status is 126 or 127 if the command cannot be run or is not found. The command sees the files of
    /etc/netns/NAME in /etc, and the host's daemons resolve no names for it.
    """
    try:
        descriptor = os.open(path_of(netns), os.O_RDONLY | os.O_CLOEXEC)
        calls.enter_network(descriptor)
        calls.unshare(calls.NEW_MOUNTS)
        calls.keep_mounts_inside()
    except OSError as error:
        remedy = "It needs CAP_SYS_ADMIN." if error.errno == 1 else ""
        what = f"cannot enter the network namespace {netns}: {error.strerror}"
        raise OperationError(what, errno=error.errno or 0, remedy=remedy) from None
    _mount_sysfs()
    try:
        for source, target in _binds(netns):
            calls.bind(source, target)
    except OSError as error:
        what = f"cannot mount over {error.filename}: {error.strerror}"
        raise OperationError(what, errno=error.errno or 0) from None
    environment = dict(os.environ)
    if user is not None:
        _become(user, environment)
    try:
        os.execvpe(command[0], list(command), environment)
    except OSError as error:
        status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        what = f"cannot run {command[0]}: {error.strerror}"
        raise OperationError(what, errno=error.errno or 0, status=status) from None


def _mount_sysfs() -> None:
    """Show the namespace's own /sys/class/net, as ip-netns(8) does; a container may not allow it."""
    try:
        calls.mount("sysfs", "/sys")
    except OSError:
        return


def _binds(netns: str) -> Iterator[tuple[str, str]]:
    """Bind mounts (source, target): the namespace's files over the host's, /dev/null over daemons' sockets."""
    directory = f"{NAMESPACES}/{netns}"
    for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        target = f"/etc/{name}"
        if os.path.exists(target):
            yield f"{directory}/{name}", target
        elif name == "resolv.conf":
            remedy = "Create an empty file: the command then sees the namespace's file in its place."
            raise OperationError(f"there is no {target} to mount over", remedy=remedy)
    for path in _LOOKUP_SOCKETS:
        if _is_socket(path):
            yield "/dev/null", path


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _become(user: User, environment: dict[str, str]) -> None:
    """Set the user's IDs and groups, and the environment of a login."""
    try:
        groups = os.getgrouplist(user.name, user.gid) if user.name else [user.gid]
        os.setgroups(groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    except OSError as error:
        what = f"cannot become the user {user.name or user.uid}: {error.strerror}"
        raise OperationError(what, errno=error.errno or 0) from None
    given = {"USER": user.name, "LOGNAME": user.name, "HOME": user.home, "SHELL": user.shell}
    environment.update({name: value for name, value in given.items() if value})
    runtime = f"/run/user/{user.uid}"
    if os.path.isdir(runtime):
        environment.setdefault("XDG_RUNTIME_DIR", runtime)
