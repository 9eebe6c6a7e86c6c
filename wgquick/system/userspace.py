"""Finds and starts a userspace WireGuard implementation as wg-quick(8)'s add_if does, but in its own session.

So a signal to the caller's process group, such as Ctrl-C, does not end the daemon before `down` removes the link.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from wgquick.errors import ENDING_SIGNALS, OperationError
from wgquick.lean import TYPE_CHECKING, NamedTuple, signal, suppress
from wgquick.options import LOG_LEVEL, PROGRAM, SOCKETS
from wgquick.system import programs
from wgquick.system.hooks import own_directory
from wgquick.system.netlink import RtNetlink
from wgquick.system.wireguard import uapi
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

BUNDLED = "wgq-userspace"
USUAL = "wireguard-go"
_MODULE = "/sys/module/wireguard"
_TUN = "/dev/net/tun"
_DEFAULTS = (signal.SIGPIPE, signal.SIGXFSZ, *ENDING_SIGNALS)  # the daemon must not ignore them
_PATIENCE = 10.0
_END_PATIENCE = 2.0
_OLD_PATIENCE = 5.0  # seconds for the daemon of a link that was deleted just before
_PAUSE = 0.001
_ABANDONED = 0.5  # seconds; between bind(2) and listen(2) no process seems to have the socket
_LONGEST_PAUSE = 0.1
_ERROR_TEXT = 2000
_BOX = "┌│└"  # the box around wireguard-go's advice to use the kernel module


class Candidate(NamedTuple):
    """A program that can run an interface, and the reason for choosing it."""

    program: str
    why: str


def candidates(environ: Mapping[str, str], which: Callable[[str], str | None]) -> list[Candidate]:
    """The programs to try, best first. If the environment names one, it is the only one, even if missing."""
    if named := environ.get(PROGRAM):
        return [Candidate(named, f"set by {PROGRAM}")]
    found = [Candidate(path, "bundled with wgq") for path in _bundled()]
    return found + [Candidate(name, "found on PATH") for name in (BUNDLED, USUAL) if which(name)]


def _bundled() -> Iterator[str]:
    """The bundled program in the scripts directory of this package's environment."""
    for directory in dict.fromkeys((own_directory(), os.path.dirname(sys.executable))):
        if os.access(path := f"{directory}/{BUNDLED}", os.X_OK, effective_ids=True):
            yield path


class Userspace:
    """Userspace implementations (wgquick.ports.Userspace)."""

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        patience: float = _PATIENCE,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._patience = patience
        self._say = say

    def kernel_has_wireguard(self) -> bool:
        """Whether /sys/module/wireguard exists: then a refused link is an error, not a missing module."""
        return os.path.exists(_MODULE)

    def kernel_offers_wireguard(self) -> bool:
        """Whether the kernel has WireGuard or a module for it; loads nothing."""
        if self.kernel_has_wireguard():
            return True
        directory = f"/lib/modules/{os.uname().release}"
        for name in ("modules.dep", "modules.builtin"):
            with suppress(OSError), open(f"{directory}/{name}", "rb") as modules:
                if any(b"/net/wireguard/wireguard.ko" in line.partition(b":")[0] for line in modules):
                    return True
        return False

    def choose(self) -> tuple[str, str] | None:
        """The program to run and the reason for the choice; None if there is none."""
        return next(iter(candidates(self._environ, programs.find)), None)

    def start(self, program: str, name: str) -> None:
        """Run the program, and wait until it has returned, its link exists and its control socket answers."""
        path = program if "/" in program else programs.find(program)
        if path is None:
            remedy = f"Install it, or unset {PROGRAM}."
            raise OperationError(f"cannot run {program}: command not found", errno=errno.ENOENT, remedy=remedy)
        self._outlasts(name, min(self._patience, _OLD_PATIENCE), _OLD_PATIENCE)
        log = os.memfd_create("userspace")
        try:
            _Start(path, name, time.monotonic() + self._patience, log).run(self._environ)
        finally:
            os.close(log)

    def await_exit(self, name: str) -> None:
        """Wait until the daemon of a deleted link has removed its socket, for a limited time.

        wireguard-go removes it some milliseconds after the link is gone; before that another daemon cannot start. A
        daemon that was killed leaves a dead socket, which is removed here.
        """
        if self._outlasts(name, self._patience, _LONGEST_PAUSE):
            self._say(note(f"The daemon of {name} does not exit and still has {uapi.socket_path(name)}: kill it"))
        else:
            self.clear(name)

    @staticmethod
    def _outlasts(name: str, patience: float, pause: float) -> bool:
        """Whether a process still has the control socket after `patience` seconds; connects after each `pause`.

        A hung process accepts no connections, and its queue of them is short.
        """
        deadline = time.monotonic() + patience
        while uapi.outlasts(name, min(pause, max(_PAUSE, deadline - time.monotonic()))):
            if time.monotonic() > deadline:
                return True
            time.sleep(_PAUSE)
        return False

    def clear(self, name: str) -> None:
        """Remove the control socket of a killed program; a socket that answers stays."""
        uapi.remove_stale(name)

    def identity(self, name: str) -> str:
        """The control socket's inode and time; "" if there is none."""
        try:
            found = os.stat(uapi.socket_path(name))
        except OSError:
            return ""
        return f"{found.st_ino}-{found.st_mtime_ns}"

    def end(self, name: str, identity: str) -> None:
        """End the program, as its link cannot be deleted: the link's network namespace has no name any more."""
        from wgquick.system.wireguard.origin import server

        if identity and self.identity(name) == identity and (process := server(name)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
            self.await_exit(name)


class _Start(NamedTuple):
    """One start of a program; its output goes to the file `log` until it returns."""

    path: str
    name: str
    deadline: float
    log: int

    def run(self, environ: Mapping[str, str]) -> None:
        """Start the program; after an exception, as from a signal handler, end all started processes."""
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)  # until the child's ID is known
        child = 0
        try:
            child = self._spawn(environ)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._await_return(child)
            self._await_answer()
            self._await(lambda: RtNetlink().link(self.name) is not None, "its link does not exist")
        except BaseException:
            if child:
                _end_session(child)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _spawn(self, environ: Mapping[str, str]) -> int:
        """Start it without our other descriptors; with LOG_LEVEL set, its output goes to standard error."""
        logs = environ.get(LOG_LEVEL, "silent") not in ("", "silent")
        output = 2 if logs else self.log
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable()),
        ]
        try:
            return os.posix_spawn(
                self.path,
                [self.path, self.name],
                environ,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULTS,
            )
        except OSError as error:
            raise self._failed(f"{error.strerror}", error.errno or 0) from None

    def _await_return(self, child: int) -> None:
        def returned() -> bool:
            try:
                found, status = os.waitpid(child, os.WNOHANG)
            except ChildProcessError:  # this process ignores SIGCHLD; check only socket and link
                return True
            if found and (code := os.waitstatus_to_exitcode(status)):
                raise self._failed(f"it exited with status {code}" if code > 0 else f"signal {-code} ended it")
            return bool(found)

        self._await(returned, "it does not return")

    def _await_answer(self) -> None:
        """Wait for an answer on the control socket; fail at once if the process that should give it has ended."""
        alive = time.monotonic()

        def answered() -> bool:
            nonlocal alive
            if uapi.serves(self.name):
                return True
            if not uapi.is_abandoned(self.name):
                alive = time.monotonic()
            elif time.monotonic() - alive > _ABANDONED:
                raise self._failed("it ended after its start")
            return False

        self._await(answered, "its control socket does not answer")

    def _await(self, done: Callable[[], bool], otherwise: str) -> None:
        while not done():
            if time.monotonic() > self.deadline:
                raise self._failed(otherwise, errno.ETIMEDOUT)
            time.sleep(_PAUSE)

    def _failed(self, reason: str, code: int = 0) -> OperationError:
        text = os.pread(self.log, _ERROR_TEXT, max(0, os.fstat(self.log).st_size - _ERROR_TEXT))
        lines = (line.strip() for line in text.decode(errors="replace").splitlines())
        kept = "; ".join(line for line in lines if line and line[0] not in _BOX)
        output = f": {kept}" if kept else ""
        what = f"{self.path} could not bring up {self.name}: {reason}{output}"
        return OperationError(what, errno=code, remedy=_remedy())


def _remedy() -> str:
    """What userspace implementations need and this machine lacks, as many containers do."""
    if not os.path.exists(_TUN):
        return f"{_TUN} does not exist: run `modprobe tun', or in a container: docker run --device {_TUN}."
    if not os.access(_TUN, os.R_OK | os.W_OK, effective_ids=True):
        return f"This user cannot open {_TUN}."
    place = SOCKETS if os.path.isdir(SOCKETS) else os.path.dirname(SOCKETS)
    if not os.access(place, os.W_OK, effective_ids=True):
        return f"This user cannot write to {place}: create {SOCKETS} for this user's control sockets."
    if not _has_inotify():
        return "This user has no inotify instance left: raise fs.inotify.max_user_instances (sysctl)."
    return ""


def _has_inotify() -> bool:
    """Whether inotify_init(2) works. wireguard-go needs an instance for each interface."""
    from ctypes import CDLL

    descriptor = CDLL(None).inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return False
    os.close(descriptor)
    return True


def _inheritable() -> list[int]:
    """The descriptors above standard error that a child would inherit."""
    try:
        opened = [int(entry) for entry in os.listdir("/proc/self/fd")]
    except OSError:
        return []
    return [descriptor for descriptor in opened if descriptor > 2 and _passes_on(descriptor)]


def _passes_on(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:  # the descriptor that listed the directory
        return False


def _end_session(child: int) -> None:
    """Send TERM, then KILL, to the program and its session's process group."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child, sent)
        except ProcessLookupError:
            break
        if _reaped(child, time.monotonic() + _END_PATIENCE):
            break


def _reaped(child: int, deadline: float) -> bool:
    """Whether the child has ended; True if it was already reaped."""
    try:
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
    except ChildProcessError:
        return True
    return True
