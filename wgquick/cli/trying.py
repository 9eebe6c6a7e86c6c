"""`wgq try` and `wgq confirm`: shows a trial, which other processes run (`wgquick.executor.trying`)."""

from __future__ import annotations

import json
import os
import select
import sys
from typing import TYPE_CHECKING, Any

from wgquick import api
from wgquick.cli import privilege, verbs, waiting
from wgquick.cli.streams import say
from wgquick.config import location
from wgquick.errors import FAILURE, ROLLED_BACK, WgqError, not_one_of
from wgquick.executor import trial
from wgquick.executor.reloading import ReloadOptions
from wgquick.executor.trying import VERBS, News, TrialRequest, criterion
from wgquick.lean import signal
from wgquick.transcript import note

if TYPE_CHECKING:
    from types import FrameType

    from wgquick.cli.verbs import Given
    from wgquick.ports import Watchdog

_TIMEOUT = "120"
_PAUSE = 100  # milliseconds between two reads of the watchdog's output
_PIECE = 65536
_OF = {
    "up": ("kill-switch", "exclude", "keep-inbound", "netns", "backend"),
    "reload": ("or-restart", "keep-foreign", "backend"),
}
"""The options that not all of the verbs have."""


def try_(verb: str, target: str, given: Given) -> int:
    """Make a change on trial and show it until it ends; returns the status."""
    asked = _asked(verb, target, given)
    if asked.settings is not None:
        verbs.warn_of_ssh(asked.settings, f"it comes back in {asked.seconds:g} s unless you confirm")
    return _Shown(api.begin_trial(asked), asked, is_json=bool(given.get("json"))).run()


def confirm(target: str, given: Given) -> None:
    """Keep, extend or reject the change of an interface that is on trial."""
    if given.get("extend") and given.get("reject"):
        raise WgqError("--extend and --reject exclude each other", remedy="Omit one of them.")
    seconds = waiting.seconds(str(given["extend"]), "--extend") if given.get("extend") else None
    privilege.acquire()
    name = location.interface_name(target)
    if given.get("reject"):
        api.reject(name)
        return
    api.confirm(name, seconds)


def _asked(verb: str, target: str, given: Given) -> TrialRequest:
    """The trial to start; WgqError, before any change, if the arguments are not valid."""
    if verb not in VERBS:
        raise not_one_of(verb, VERBS, "try")
    for other, names in _OF.items():
        for name in names:
            if verb != other and name in given and name not in _OF.get(verb, ()):
                raise WgqError(f"--{name} is for try {other}", remedy="Omit it.")
    seconds = waiting.seconds(str(given.get("timeout") or _TIMEOUT), "--timeout")
    if seconds <= 0:
        raise WgqError("--timeout must be more than 0", remedy="Write a number of seconds, such as 120.")
    peers, ping = criterion(verb, str(given.get("confirm-when") or ""))
    options = verbs.options_of(given)
    privilege.acquire()
    called = verbs.name_of(given)
    reload_options = ReloadOptions(*(bool(given.get(field.replace("_", "-"))) for field in ReloadOptions._fields))
    if verb == "down":
        interface = location.valid_name(called) if called else location.interface_name(target)
        read = api.for_down(interface, target, say)
        return TrialRequest(verb, interface, seconds, options, reload_options, read=read, peers=peers, ping=ping)
    settings = api.load(target, say, name=called)
    if verb == "up":
        settings = verbs.with_extras(settings, given)
    return TrialRequest(verb, settings.name, seconds, options, reload_options, settings, peers=peers, ping=ping)


class _Shown:
    """Shows the watchdog's output and the end of a trial. On a terminal Enter confirms and Ctrl-C rejects.

    The end of standard input or of the terminal changes nothing.
    """

    def __init__(self, watchdog: Watchdog, asked: TrialRequest, *, is_json: bool) -> None:
        self._watchdog, self._asked, self._is_json = watchdog, asked, is_json
        self._read = [0, 0]
        self._news = News(watchdog.news)
        self._is_pending = False
        self._is_interrupted = False
        self._has_terminal = sys.stdin is not None and sys.stdin.isatty()

    def run(self) -> int:
        """Show it until it ends; returns the status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, self._interrupt)
        while True:
            ready = self._await()
            self._copy()
            if self._is_interrupted and self._is_pending:
                self._is_interrupted = False
                self._decide(api.reject)
            if self._watchdog.news in ready and (end := self._read_news()) is not None:
                os.waitpid(self._watchdog.process, 0)
                self._copy()
                return self._ended(end)
            if 0 in ready:
                self._hear_terminal()

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._is_interrupted = True

    def _await(self) -> list[int]:
        poller = select.poll()
        poller.register(self._watchdog.news, select.POLLIN)
        if self._has_terminal and self._is_pending and _is_in_foreground():
            poller.register(0, select.POLLIN)
        return [descriptor for descriptor, _ in poller.poll(_PAUSE)]

    def _copy(self) -> None:
        """Print the watchdog's new output."""
        for at, memory in enumerate(self._watchdog.output):
            while piece := os.pread(memory, _PIECE, self._read[at]):
                self._read[at] += len(piece)
                try:
                    while piece:
                        piece = piece[os.write(at + 1, piece) :]
                except OSError:  # the reader is gone
                    break

    def _read_news(self) -> dict[str, Any] | None:
        """Read the watchdog's news; returns the news of the trial's end, None before it."""
        for news in self._news.read():
            if news["phase"] != trial.PENDING:
                return news
            self._begin(news["deadline"])
        return None

    def _begin(self, deadline: int) -> None:
        self._is_pending = True
        if self._has_terminal:
            import termios

            # An Enter before the change does not confirm it; one after the prompt counts, however fast.
            termios.tcflush(0, termios.TCIFLUSH)
        left = round((deadline - trial.now()) / 1000)
        name = self._asked.name
        enter = "press Enter, or run" if self._has_terminal else "run"
        say(note(f"{name} is on trial for {left} s: to keep it, {enter} `wgq confirm {name}' in a new session"))

    def _hear_terminal(self) -> None:
        """A line confirms; the end of input does not."""
        try:
            line = os.read(0, _PIECE)
        except OSError:
            line = b""
        if not line:
            self._has_terminal = False
        else:
            self._decide(api.confirm)

    def _decide(self, decision: Any) -> None:
        try:
            decision(self._asked.name)
        except WgqError as error:
            say(f"wgq: {error}")

    def _ended(self, end: dict[str, Any]) -> int:
        phase, name = str(end["phase"]), self._asked.name
        status = {trial.CONFIRMED: 0, trial.ROLLED_BACK: ROLLED_BACK}.get(phase, FAILURE)
        message = str(end.get("message", ""))
        if phase == trial.CONFIRMED:
            by = end.get("by", "")
            say(note(f"{name} is confirmed{f' by {by}' if by not in ('', 'confirm') else ''}"))
        elif phase == trial.ROLLED_BACK:
            say(note(f"{name} was not confirmed: it is as it was before"))
        elif phase == trial.SUPERSEDED:
            say(f"wgq: another command has changed {name}: the trial has ended, and nothing is rolled back")
        else:
            say(f"wgq: {message}")
        if self._is_json:
            found = {
                "verb": self._asked.verb,
                "interface": name,
                "outcome": trial.OUTCOMES[phase],
                "by": end.get("by") or None,
                "message": message or None,
            }
            verbs.write(json.dumps(found, indent=2) + "\n")
        return status


def _is_in_foreground() -> bool:
    """Whether the terminal's keys are for this process; False if the terminal is gone."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
