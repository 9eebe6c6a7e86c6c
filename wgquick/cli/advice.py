"""Runs `wgq check` on the file that `wgq up` brings up.

`up` prints the findings when it ends, even if it failed. A short file without hooks is checked then: this takes
less time than a process. For a long file or one with hooks (their rules need `re`) a child process of low priority
does it while `up` runs. It only reads: it holds no lock and no socket. What depends on the host (links, forwarding)
is checked only at the end, as hooks may change it.
"""

from __future__ import annotations

import os
from time import clock_gettime, monotonic

from wgquick.config.keys import HOOKS
from wgquick.config.reading import STANDARD_INPUT_PATH
from wgquick.errors import ENDING_SIGNALS, SignalError
from wgquick.lean import TYPE_CHECKING, NamedTuple, Protocol, signal, suppress
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wgquick.config.document import Document
    from wgquick.config.location import Location
    from wgquick.diagnosis.finding import Finding
    from wgquick.diagnosis.source import Source

_SHOWN = 3
# What `up` spends at its end on a check that is slower: seconds of the processor, and seconds of the clock on a
# machine with much other work.
_EFFORT, _PATIENCE = 1.0, 10.0
_ALREADY_PRINTED = frozenset(
    (
        "allowed-ip-host-bits",
        "world-accessible",
        "dns-search",
        "dns-server",
        "search-without-server",
        "endpoint-in-tunnel",
    )
)  # up itself prints these
_SLICE = 100  # milliseconds
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h
_MOST = 65536  # bytes that fit into a pipe without a reader
_SHORT = 100  # lines of a file


class Advice(Protocol):
    """A check whose findings can be printed once, when up has ended."""

    def print(self, say: Callable[[str], None]) -> None:
        """Print the findings; nothing if the check takes too long."""


class Pending(NamedTuple):
    """A check that runs when its findings are printed."""

    found: Location
    document: Document

    def print(self, say: Callable[[str], None]) -> None:
        """Check the file and print the findings; nothing if a rule fails, as the file is not at fault."""
        try:
            text = lines(_findings(self.found, self.document, -1), self.found.path)
        except SignalError:
            raise
        except Exception:  # a fault in a rule: up has done its work
            return
        for line in text:
            say(note(line))


class Running(NamedTuple):
    """A check in a process: the pipe for its lines, and the pipe that is closed when up ends."""

    process: int
    pipe: int
    ended: int

    def print(self, say: Callable[[str], None]) -> None:
        """Print the findings, when up has ended; nothing if the check takes too long."""
        os.close(self.ended)
        text = self._text()
        for line in text.splitlines():
            say(note(line))

    def _text(self) -> str:
        from select import POLLIN, poll

        poller, received, deadline = poll(), b"", monotonic() + _PATIENCE
        poller.register(self.pipe, POLLIN)
        with suppress(OSError):  # a lower value needs CAP_SYS_NICE; this process has nothing else to do now
            os.setpriority(os.PRIO_PROCESS, self.process, os.getpriority(os.PRIO_PROCESS, 0))
        effort = _processor_time(self.process) + _EFFORT
        try:
            while True:
                is_over = monotonic() >= deadline or _processor_time(self.process) >= effort
                if poller.poll(0 if is_over else _SLICE):
                    piece = os.read(self.pipe, _MOST)
                    if not piece:
                        return received.decode(errors="replace")
                    received += piece
                elif is_over:
                    return ""
        finally:
            os.close(self.pipe)
            with suppress(OSError):  # if our caller ignores SIGCHLD, the kernel reaps the process
                os.kill(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)


def _processor_time(process: int) -> float:
    """The processor time of a process in seconds (clock_getcpuclockid(3)); 0 if it has ended."""
    with suppress(OSError):
        return clock_gettime(~process << 3 | _CPUCLOCK_SCHED)
    return 0.0


def begin(found: Location, document: Document, *, on_host: bool = True) -> Advice | None:
    """Prepare the check of a file without faults; None if it needs a process and none can be started.

    `on_host` is whether the hooks run in this network namespace.
    """
    has_hooks = any(line.key in HOOKS for line in document.views.quick)
    if len(document.raw) <= _SHORT and not has_hooks:
        return Pending(found, document)
    pipes: list[int] = []
    try:
        pipes += os.pipe()
        pipes += os.pipe()
        process = os.fork()
    except OSError:
        for each in pipes:
            os.close(each)
        return None
    pipe, end, is_ended, ended = pipes
    if process:
        os.close(end)
        os.close(is_ended)
        return Running(process, pipe, ended)
    try:
        os.close(ended)
        for number in ENDING_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the transcript has only the lines of up
        os.nice(10)
        text = "\n".join(lines(_findings(found, document, is_ended if on_host else -1), found.path))
        os.write(end, text.encode("utf-8", "replace")[:_MOST])
    finally:
        os._exit(0)


def _findings(found: Location, document: Document, is_ended: int) -> list[Finding]:
    """The findings. Those about the host follow once the pipe `is_ended` has no writer (-1: without them)."""
    from wgquick.diagnosis.check import check
    from wgquick.diagnosis.source import Source

    source = Source(found.path or STANDARD_INPUT_PATH, found.path, found.name, document)
    # The rules about the interface's own public key are skipped, as importing the library that computes it takes
    # longer than the rest. The device ignores a peer with this key anyway.
    source.public_key = None
    if is_ended < 0 or source.settings.extras.netns or not _depends_on_host(source):
        return check([source])
    return check([source], more=lambda source: _of_host(source, is_ended))


def _depends_on_host(source: Source) -> bool:
    """Whether a hook needs a link or forwarding, which the host may lack."""
    if not source.hooks:
        return False
    from wgquick.diagnosis import hook_rules

    return hook_rules.depends_on_host(source)


def _of_host(source: Source, is_ended: int) -> Iterator[Finding]:
    from socket import if_nameindex

    from wgquick.diagnosis import hook_rules

    os.read(is_ended, 1)
    yield from hook_rules.without_link(source, {name for _, name in if_nameindex()})
    yield from hook_rules.without_forwarding(source, _parameter)


def _parameter(key: str) -> str | None:
    try:
        with open(f"/proc/sys/{key}") as file:
            return file.read().strip()
    except OSError:
        return None


def lines(findings: Sequence[Finding], path: str) -> list[str]:
    """The errors, then the warnings: at most three lines, and the command that shows all."""
    from wgquick.diagnosis.finding import SEVERITIES  # loaded already, as there are findings

    problems = [each for each in findings if each.is_problem and each.code not in _ALREADY_PRINTED]
    problems.sort(key=lambda each: SEVERITIES.index(each.severity))
    shown = [f"{each.file}:{each.line}:{each.column}: {each.message} [{each.code}]" for each in problems[:_SHOWN]]
    if (more := len(problems) - _SHOWN) > 0:
        shown.append(f"{more} more: wgq check {path}" if path else f"{more} more")
    return shown
