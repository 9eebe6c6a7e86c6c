"""Starts the watchdog of a trial and its standby, which survive their terminal, their caller and each other.

The watchdog starts as a child of the caller, in a separate session. It writes to files in memory, which the caller
shows: a pipe or terminal without a reader would block it during a change. If systemd runs, the watchdog moves to a
separate scope, as systemd kills the control group of a login session or service that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import syslog
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from wgquick.errors import reason_of
from wgquick.ports import Watchdog
from wgquick.system import calls
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_SYSTEMD = "/run/systemd/system"
_BUS_PATIENCE = 3.0
_LOOK_AGAIN = 0.01
_PAUSE = 500  # milliseconds between the standby's checks of the watchdog
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_PR_SET_DUMPABLE = 4
_CAP_IPC_LOCK = 1 << 14


class Watchdogs:
    """Implements wgquick.ports.Watchdogs, in the watchdog and in its standby."""

    def __init__(self, news: int) -> None:
        self._news = news
        self._standby = 0
        self._lifeline = -1
        self._again: tuple[Callable[[], None], Callable[[], bool], tuple[int, ...]] | None = None
        self.is_told_to_stop = False
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, _ignore)  # a handler, as hooks would inherit SIG_IGN
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.is_told_to_stop = True

    def share(self, take_over: Callable[[], None], hangs: Callable[[], bool], keep: tuple[int, ...]) -> None:
        """Start a standby, which kills this process if it `hangs`, and runs `take_over` if it dies.

        The standby closes all descriptors that are not in `keep`.
        """
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self._again = (take_over, hangs, keep)
        watchdog = os.getpid()
        end, lifeline = os.pipe()
        _flush()
        standby = os.fork()
        if standby:
            os.close(end)
            self._standby, self._lifeline = standby, lifeline
            return
        try:
            os.setpgid(0, 0)
            _close_all_but((0, 1, 2, end, self._news, *keep))
            hold_memory()
            _name("wgq-standby")
            with _spared():
                has_died = _outlives(end, watchdog, hangs)
            if has_died:
                os.close(end)
                _name("wgq-watchdog")
                take_over()
        finally:
            os._exit(0)

    def renew(self) -> None:
        """Start another standby if the current one has died."""
        try:
            has_died = os.waitpid(self._standby, os.WNOHANG)[0] != 0
        except ChildProcessError:
            has_died = True
        if has_died and self._again is not None:
            self.share(*self._again)

    def tell(self, news: dict[str, str | int]) -> None:
        """Send news to the caller, if it still runs."""
        with suppress(OSError):
            os.write(self._news, json.dumps(news).encode() + b"\n")

    def note(self, text: str) -> None:
        """Write a line to the system's log, as the terminal may be gone."""
        syslog.openlog("wgq", syslog.LOG_PID, syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_NOTICE, text)
        syslog.closelog()

    def end(self) -> None:
        """End the standby."""
        if self._lifeline >= 0:
            with suppress(OSError):
                os.write(self._lifeline, b".")
            with suppress(ChildProcessError):
                os.waitpid(self._standby, 0)


def begin(work: Callable[[Watchdogs], None], description: str) -> Watchdog:
    """Start a process that runs `work` and then ends; `description` is for its scope.

    No other thread may be running: it forks.
    """
    output = os.memfd_create("wgq-output"), os.memfd_create("wgq-errors")
    news, end = os.pipe()
    _flush()
    process = os.fork()
    if process:
        os.close(end)
        return Watchdog(process, news, output)
    try:
        os.setsid()
        os.close(news)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, memory in zip((1, 2), output, strict=True):
            # Opened again to append, as hooks and this process write to the same file.
            os.dup2(os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_APPEND), descriptor)
        _close_all_but((0, 1, 2, end))
        hold_memory()
        _name("wgq-watchdog")
        try:
            leave_control_group(description)
        except OSError as error:
            print(
                note(f"systemd: {reason_of(error)}: the watchdog stays in this session's control group"),
                file=sys.stderr,
            )
        work(Watchdogs(end))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _flush()
        os._exit(0)


def _outlives(end: int, watchdog: int, hangs: Callable[[], bool]) -> bool:
    """Wait for the watchdog's end; returns whether it died."""
    poller = select.poll()
    poller.register(end, select.POLLIN)
    while not poller.poll(_PAUSE):
        if hangs():
            with suppress(ProcessLookupError):
                os.killpg(watchdog, signal.SIGKILL)  # and the hook that it waits for
    return os.read(end, 1) == b""


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the caller handles the terminal's keys and its end."""


def _flush() -> None:
    """Write buffered output, which a child would print again."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()


def _close_all_but(kept: tuple[int, ...]) -> None:
    """Close inherited descriptors: they would keep a caller's pipe open or an earlier watchdog's lock held."""
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) not in kept:
            with suppress(OSError):
                os.close(int(entry))


def hold_memory() -> None:
    """Keep the keys out of core files and, if this process may lock memory, out of swap (mlockall(2))."""
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if calls.effective_capabilities() & _CAP_IPC_LOCK:  # else a limit would make later allocations fail
        library.mlockall(_MCL_CURRENT | _MCL_FUTURE)


def _name(name: str) -> None:
    """Name this process as ps(1) and killall(1) show it, so that `killall wgq` does not kill both watchdogs."""
    with suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)


@contextmanager
def _spared() -> Iterator[None]:
    """Keep the standby from the kernel's out-of-memory killer. It starts no programs, which would inherit this."""
    path = "/proc/self/oom_score_adj"
    try:
        with open(path, encoding="ascii") as file:
            before = file.read()
        _write(path, "-1000")
    except OSError:  # without CAP_SYS_RESOURCE
        yield
        return
    try:
        yield
    finally:
        _write(path, before)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def leave_control_group(description: str) -> None:
    """Move to a separate systemd scope (org.freedesktop.systemd1(5)); does nothing without systemd.

    OSError if systemd refuses or does not answer.
    """
    if not os.path.isdir(_SYSTEMD):
        return
    from jeepney import DBusAddress, MessageType, new_method_call
    from jeepney.io.blocking import open_dbus_connection

    manager = DBusAddress(
        "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
    )
    properties: list[tuple[str, tuple[str, Any]]] = [
        ("Description", ("s", description)),
        ("PIDs", ("au", [os.getpid()])),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]
    arguments: tuple[Any, ...] = (f"wgq-try-{os.getpid()}.scope", "fail", properties, [])
    call = new_method_call(manager, "StartTransientUnit", "ssa(sv)a(sa(sv))", arguments)
    before = _control_group()
    try:
        with open_dbus_connection("SYSTEM") as connection:
            reply = connection.send_and_get_reply(call, timeout=_BUS_PATIENCE)
    except (RuntimeError, ValueError) as fault:
        raise OSError(str(fault)) from None
    if reply.header.message_type is MessageType.error:
        raise OSError(" ".join(map(str, reply.body)))
    deadline = time.monotonic() + _BUS_PATIENCE
    while _control_group() == before:  # systemd answers before it has moved the process
        if time.monotonic() > deadline:
            raise OSError("systemd does not move the process")
        time.sleep(_LOOK_AGAIN)


def _control_group() -> str:
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
        return file.read()
