"""Named network namespaces, as ip-netns(8) keeps them: /run/netns/NAME is a mount of the namespace.

The UDP socket of a tunnel stays in the namespace where its link was made; only the link is inside.
`EnteredNamespace` has both namespaces. The kernel's WireGuard opens the socket in the namespace that requests the
link (drivers/net/wireguard/device.c, wg_newlink). A daemon keeps its sockets when its TUN device is moved.
"""

from __future__ import annotations

import errno
import os

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, contextmanager, suppress
from wgquick.net import Path
from wgquick.system.netlink import RtNetlink
from wgquick.system.userspace import Userspace
from wgquick.system.wireguard import Control
from wgquick.transcript import command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from wgquick.net import Link

DIRECTORY = "/run/netns"
_OWN = "/proc/thread-self/ns/net"


def path_of(name: str) -> str:
    """The file of a namespace, whether or not it exists."""
    return f"{DIRECTORY}/{name}"


def exists(name: str) -> bool:
    """Whether a namespace has this name; False for the plain file that remains after its mount is gone."""
    try:
        os.close(opened(name))
    except OperationError:
        return False
    return True


def opened(name: str) -> int:
    """A descriptor of the namespace; OperationError if there is none."""
    path = path_of(name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        what = f"cannot open the network namespace {name}: {error.strerror}"
        raise OperationError(what, errno=error.errno or 0) from None
    if not _is_namespace(descriptor):
        os.close(descriptor)
        what = f"{path} is not a network namespace"
        raise OperationError(what, errno=errno.EINVAL, remedy=f"Remove the file if nothing needs it: {path}")
    return descriptor


def _is_namespace(descriptor: int) -> bool:
    """Whether the file is on the same file system (nsfs) as this thread's own namespace."""
    return os.fstat(descriptor).st_dev == os.stat(_OWN).st_dev


def add(name: str) -> None:
    """`ip netns add NAME`; OperationError names what is missing."""
    _add(name, _bind_new)


def restore(name: str, descriptor: int) -> None:
    """Give an open namespace its name again; does nothing if the name is taken. OperationError as for `add`."""
    from wgquick.system import calls

    if not exists(name):
        _add(name, lambda path: calls.bind(f"/proc/thread-self/fd/{descriptor}", path))


def _bind_new(path: str) -> None:
    from wgquick.system import calls

    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        calls.unshare(calls.NEW_NETWORK)
        try:
            calls.bind(_OWN, path)
        finally:
            calls.enter_network(own)
    finally:
        os.close(own)


def _add(name: str, bind: Callable[[str], None]) -> None:
    """Make the namespace's file and let `bind` mount the namespace there."""

    path = path_of(name)
    try:
        _prepare_directory()
        if _is_slave(DIRECTORY):
            what = (
                f"a network namespace {name} made here would disappear with this process: mounts made in "
                "`ip netns exec', or in a service with its own mounts, do not reach the host"
            )
            remedy = f"Make it outside (ip netns add {name}), or use nsenter --net in place of ip netns exec."
            raise OperationError(what, remedy=remedy)
        if not exists(name):
            with suppress(FileNotFoundError):  # left by a namespace that is gone
                os.unlink(path)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
        bind(path)
    except OSError as error:
        if error.errno != errno.EEXIST:
            with suppress(OSError):
                os.unlink(path)
        remedy = "It needs CAP_SYS_ADMIN." if error.errno == errno.EPERM else ""
        what = f"cannot add the network namespace {name}: {error.strerror}"
        raise OperationError(what, errno=error.errno or 0, remedy=remedy) from None


def _prepare_directory() -> None:
    """Make the directory, and let mounts there reach the other mount namespaces, as ip-netns(8) does."""
    from wgquick.system import calls

    os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
    try:
        calls.share_mounts(DIRECTORY)
    except OSError as error:
        if error.errno != errno.EINVAL:  # not a mount point yet
            raise
        calls.bind(DIRECTORY, DIRECTORY)
        calls.share_mounts(DIRECTORY)


def _is_slave(path: str) -> bool:
    """Whether mounts at this mount point do not reach the mount namespace that this one was copied from."""
    with open("/proc/thread-self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        found = [line.split(" - ")[0].split()[4:] for line in mounts if f" {path} " in line]
    return any(word.startswith("master:") for fields in found if fields[0] == path for word in fields[2:])


def delete(name: str) -> None:
    """`ip netns delete NAME`. The namespace exists until the last process has left it."""
    from wgquick.system import calls

    path = path_of(name)
    with suppress(OSError):  # no mount, only a plain file
        calls.unmount(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        what = f"cannot delete the network namespace {name}: {error.strerror}"
        raise OperationError(what, errno=error.errno or 0) from None


class EnteredNamespace:
    """The calling thread inside a namespace, and the namespace that it came from.

    `origin` and `inside` are descriptors, `name` is the name of the inner namespace.
    """

    def __init__(self, name: str, origin: int, inside: int) -> None:
        self.name, self.origin, self.inside = name, origin, inside

    def enter(self) -> None:
        """Move the thread into the namespace; OperationError without CAP_SYS_ADMIN."""
        from wgquick.system import calls

        try:
            calls.enter_network(self.inside)
        except OSError as error:
            what = f"cannot enter the network namespace {self.name}: {error.strerror}"
            raise OperationError(what, errno=error.errno or 0, remedy="It needs CAP_SYS_ADMIN.") from None

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Move the thread to the namespace where the link is made and its UDP socket stays, and back at the end."""
        from wgquick.system import calls

        calls.enter_network(self.origin)
        try:
            yield
        finally:
            calls.enter_network(self.inside)


def not_entered(name: str) -> EnteredNamespace:
    """The namespace, not entered yet; the caller closes both descriptors."""
    inside = opened(name)
    try:
        return EnteredNamespace(name, os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC), inside)
    except OSError:
        os.close(inside)
        raise


@contextmanager
def entered(name: str) -> Iterator[EnteredNamespace]:
    """Move the calling thread into the namespace, and back at the end.

    OperationError if there is no such namespace, or without CAP_SYS_ADMIN.
    """
    from wgquick.system import calls

    outer = not_entered(name)
    origin, inside = outer.origin, outer.inside
    try:
        outer.enter()
        try:
            yield outer
        finally:
            calls.enter_network(origin)
    finally:
        os.close(origin)
        os.close(inside)


class RunOutside:
    """Calls each method of an object in the namespace where the link was made."""

    def __init__(self, wrapped: object, outer: EnteredNamespace) -> None:
        self._wrapped, self._outer = wrapped, outer

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._wrapped, name)

        def call(*arguments: Any, **named: Any) -> Any:
            with self._outer.outside():
                return method(*arguments, **named)

        return call


class RtNetlinkInside(RtNetlink):
    """rtnetlink(7) inside, but links are made outside, and paths of outer packets are looked up there."""

    def __init__(self, outer: EnteredNamespace) -> None:
        self._outer = outer

    def add_wireguard_link(self, name: str) -> None:
        """`ip link add NAME netns INSIDE type wireguard`, requested outside; errno EOPNOTSUPP if unknown."""
        with self._outer.outside():
            self.add_wireguard_link_in(name, self._outer.inside)

    def path(self, address: str, mark: int = 0) -> Path | None:
        """`ip route get ADDRESS [mark N]` outside, with the MTU of its link if the route has none."""
        with self._outer.outside():
            return _with_mtu(super().path(address, mark), super().links)

    def default_path(self) -> Path | None:
        """The first line of `ip route show default` outside, with the MTU of its link if the route has none."""
        with self._outer.outside():
            return _with_mtu(super().default_path(), super().links)


def _with_mtu(path: Path | None, links: Callable[[], list[Link]]) -> Path | None:
    """The path with its link's MTU, as the link is unknown inside the namespace."""
    if path is None or path.mtu:
        return path
    return Path(path.link, next((link.mtu for link in links() if link.name == path.link), 0))


class ControlInside(Control):
    """The devices inside; the sockets of their daemons were made outside."""

    def __init__(self, outer: EnteredNamespace) -> None:
        self._outer = outer

    def program(self, name: str) -> str:
        """The implementation of the device, as `Control.program` names it."""
        if self.backend(name) == "kernel":
            return "kernel"
        with self._outer.outside():
            return super().program(name)


class UserspaceInside(Userspace):
    """Starts a daemon outside, where its UDP sockets stay, and moves its link inside."""

    def __init__(self, outer: EnteredNamespace, *, say: Callable[[str], object]) -> None:
        super().__init__(say=say)
        self._outer = outer

    def start(self, program: str, name: str) -> None:
        """Start it and move its link; OperationError if a link outside has this name."""
        outside = RtNetlink()
        with self._outer.outside():
            if outside.link(name) is not None:
                raise OperationError(f"`{name}' already exists outside {self._outer.name}", errno=errno.EEXIST)
            super().start(program, name)
            self._say(command(f"ip link set dev {name} netns {self._outer.name}"))
            try:
                outside.move_link(name, self._outer.inside)
            except BaseException:
                with suppress(OperationError):
                    outside.delete_link(name)
                raise
