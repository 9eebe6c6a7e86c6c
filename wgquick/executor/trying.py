"""`wgq try`: a separate process makes a change, and rolls it back unless it is confirmed in time.

That process is the watchdog. It keeps the earlier state in memory. A second process, the standby, has the same
memory and replaces the watchdog if it dies. So the death of one process never prevents the rollback: not during the
change, not during the trial, and not during the rollback itself.
"""

from __future__ import annotations

import os
import time

from wgquick.config.settings import Settings
from wgquick.errors import WgqError, not_one_of, not_wireguard, reason_of
from wgquick.executor import down, netns, netns_records, restoring, trial, waiting
from wgquick.executor.reloading import Reload, RestartNeededError
from wgquick.executor.trial import Trial
from wgquick.lean import TYPE_CHECKING, NamedTuple, loads, suppress
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wgquick.errors import ConfigError
    from wgquick.executor.reloading import ReloadOptions
    from wgquick.executor.restoring import Before
    from wgquick.executor.trial import TrialFile
    from wgquick.options import Options
    from wgquick.ports import Host, Watchdog, Watchdogs

    Read = Callable[[], tuple[Settings | None, ConfigError | None]]
    Met = Callable[[], bool]

VERBS = ("up", "down", "reload")
_PIECE = 65536
_PAUSE = 0.2  # seconds between two readings of the file
_LONGEST_CHANGE = 60.0  # the minimum of seconds until a change counts as hanging
_ATTEMPTS = ((False, False), (False, False), (True, False), (False, True), (True, True))
"""The attempts to roll back: whether with any port, and whether by down and up."""
_BETWEEN_ATTEMPTS = 1.0
_MOST_DEATHS = 20  # the maximum number of watchdogs that may die


class TrialRequest(NamedTuple):
    """The change to try. `settings` are the file's for up and reload; `read` reads the file for down.

    A handshake with `peers` ("any", "all" or names), or an echo reply from `ping`, confirms the change; "" is none.
    """

    verb: str
    name: str
    seconds: float
    options: Options
    reload_options: ReloadOptions
    settings: Settings | None = None
    read: Read | None = None
    peers: str = ""
    ping: str = ""


def criterion(verb: str, text: str) -> tuple[str, str]:
    """Parse --confirm-when: `handshake` is ("any", ""), `ping:ADDRESS` is ("", ADDRESS); WgqError if invalid."""
    if verb not in VERBS:
        raise not_one_of(verb, VERBS, "try")
    kind, _, address = text.partition(":")
    if text == "handshake" and verb == "down":
        raise WgqError("--confirm-when handshake: there is no handshake after down", remedy="Use ping:ADDRESS.")
    if text in ("", "handshake"):
        return "any" if text else "", ""
    if kind != "ping" or not address:
        raise WgqError(f"--confirm-when {text}: unknown", remedy="Write handshake, or ping: and an address.")
    return "", address


class News:
    """The watchdog's news: its pipe has one JSON object a line."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._text = b""

    def read(self) -> list[dict[str, Any]]:
        """Wait for output; returns the complete news in it. The end of the pipe is news of a failure."""
        piece = os.read(self._pipe, _PIECE)
        if not piece:
            return [{"phase": trial.FAILED, "message": "the watchdogs were killed: nothing can be rolled back"}]
        *lines, self._text = (self._text + piece).split(b"\n")
        return [loads(line.decode()) for line in lines]


class OnTrial:
    """A change on trial, as seen by the process that started the watchdog."""

    def __init__(self, name: str, watchdog: Watchdog, say: Callable[[str], None]) -> None:
        """Wait until the change is made; WgqError if it is refused or fails."""
        self.name = name
        self._watchdog = watchdog
        self._say = say
        self._printed = 0
        self._pipe = News(watchdog.news)
        self._news: list[dict[str, Any]] = []
        self._end = self._next()
        if self._end["phase"] != trial.PENDING:
            self._finish()

    def wait(self) -> str:
        """Wait for the end: "confirmed", "rolled back" or "superseded"; WgqError if the rollback fails."""
        if self._end["phase"] == trial.PENDING:
            self._end = self._next()
            self._finish()
        return str(self._end["phase"])

    def _next(self) -> dict[str, Any]:
        while not self._news:
            self._news += self._pipe.read()
        self._transcribe()
        return self._news.pop(0)

    def _transcribe(self) -> None:
        """Print the watchdog's new output."""
        text = os.pread(self._watchdog.output[1], os.fstat(self._watchdog.output[1]).st_size, 0)[self._printed :]
        self._printed += len(text)
        for line in text.decode(errors="replace").splitlines():
            self._say(line)

    def _finish(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self._watchdog.process, 0)
        self._transcribe()
        for descriptor in (self._watchdog.news, *self._watchdog.output):
            os.close(descriptor)
        if self._end["phase"] == trial.FAILED:
            raise WgqError(str(self._end["message"]))


class Attempt:
    """One trial, in the watchdog's process."""

    def __init__(
        self,
        asked: TrialRequest,
        host: Callable[[], Host],
        say: Callable[[str], None],
        watchdogs: Watchdogs,
        ping: Callable[[str], Met],
    ) -> None:
        self._asked = asked
        self._new_host = host
        self._host = host()
        self._say = say
        self._watchdogs = watchdogs
        self._ping = ping
        self._is_orphaned = False
        self._deaths = 0
        self._tried: Settings | None = asked.settings

    def run(self) -> None:
        """Make the change and wait for the end of the trial."""
        try:
            with self._host.interface_lock(self._asked.name):
                earlier = self._earlier()
                if earlier is not None:
                    self._join(earlier)
                else:
                    self._begin()
        except WgqError as error:
            self._watchdogs.tell({"phase": trial.FAILED, "status": error.status, "message": str(error)})
            self._watchdogs.end()
            return
        if earlier is not None:
            self._follow(earlier)
        else:
            self._wait()

    def _earlier(self) -> TrialFile | None:
        """The file of a pending trial, or None. A trial without a watchdog is over, and its file is removed."""
        directory, name = self._host.journal_directory, self._asked.name
        file = trial.existing(directory, name)
        if file is None:
            return None
        found = file.read()
        if found is not None and file.has_watchdog() and found.phase == trial.PENDING:
            return file
        if found is not None and file.has_watchdog() and not found.is_over:
            raise WgqError(f"a trial of {name} is {found.phase}", remedy="Try again when that is done.")
        file.remove()
        file.close()
        return None

    def _begin(self) -> None:
        asked, host = self._asked, self._host
        self._tried = self._settings()
        if asked.verb == "up":
            netns.check_absent(self._tried or Settings(asked.name), host)
        self._before = restoring.look(asked.name, self._tried, host, asked.options)
        if asked.verb == "down" and self._before.wanted is None:
            raise not_wireguard(asked.name)
        path = self._tried.path if self._tried else ""
        begun = Trial(asked.verb, path, deadline=self._limit())
        self._file = trial.begun(host.journal_directory, asked.name, begun)
        self._share()
        try:
            self._change()
        except RestartNeededError:
            self._finish(trial.FAILED, remove=True)
            raise
        except Exception:
            self._undo_failed_change()
            raise
        self._put_on_trial(self._file, begun)

    def _settings(self) -> Settings | None:
        """The settings of the change; for down, those of the file as it is now."""
        if self._asked.read is None:
            return self._asked.settings
        with netns.located(self._asked.name, self._host) as host:
            return down.settings_of_file(self._asked.name, self._asked.read, host, self._say)

    def _share(self) -> None:
        """Start a standby. It keeps the trial's file and the network namespace, which the rollback needs."""
        kept = (self._file.descriptor, self._before.namespace)
        self._watchdogs.share(self._take_over, self._hangs, tuple(each for each in kept if each >= 0))

    def _limit(self) -> int:
        """The time at which a change that begins now counts as hanging (`trial.now`)."""
        return trial.now() + int(max(self._asked.seconds, _LONGEST_CHANGE) * 1000)

    def _hangs(self) -> bool:
        found = self._file.read()
        return found is not None and found.phase == trial.CHANGING and not found.left

    def _change(self) -> None:
        asked, host, say = self._asked, self._host, self._say
        where = netns_records.record_of(asked.name, host)
        if asked.verb == "down":
            # SaveConfig writes the current state to the file. A rollback restores that state: the file stays right.
            if where is None:
                down.take_down(
                    asked.name, self._tried, host, asked.options, say=say, save=lambda each: self._save(each, host)
                )
            else:
                netns.take_down(
                    asked.name, where, lambda: (self._tried, None), host, asked.options, say=say, save=self._save
                )
            return
        settings = asked.settings
        if settings is None:
            raise ValueError(asked.verb)
        if asked.verb == "up":
            netns.bring_up(settings, host, asked.options, say)
        elif where is not None or settings.extras.netns:
            netns.change(settings, host, asked.options, asked.reload_options, say)
        else:
            reload = Reload(settings, host, asked.options, asked.reload_options, say)
            reload.check_save_config("wgq try reload --force")
            reload.carry_out(reload.compare())

    def _save(self, settings: Settings, host: Host) -> None:
        from wgquick.executor.saving import cmd_save

        cmd_save(settings, host, self._asked.options, self._say)

    def _undo_failed_change(self) -> None:
        """Restore the earlier state: `up` and `reload` undo their changes after a failure, `down` does not."""
        try:
            restoring.go_back(self._before, self._tried, self._host, self._say)
        except WgqError as error:
            self._say(note(error))
        self._finish(trial.FAILED, remove=True)

    def _put_on_trial(self, file: TrialFile, begun: Trial) -> None:
        """Start the trial's time, and report it."""
        deadline = trial.now() + int(self._asked.seconds * 1000)
        with self._host.lock():
            file.write(begun._replace(phase=trial.PENDING, deadline=deadline))
        self._watchdogs.tell({"phase": trial.PENDING, "deadline": deadline})

    def _join(self, file: TrialFile) -> None:
        """Make another change of an interface on trial. The watchdog of the first change rolls back both."""
        asked = self._asked
        with self._host.lock():
            earlier = file.read()
            if earlier is None or earlier.phase != trial.PENDING or not earlier.left:
                raise WgqError(f"the trial of {asked.name} is just ending", remedy="Try again.")
            begun = earlier._replace(
                verb=asked.verb, phase=trial.CHANGING, deadline=self._limit(), changes=earlier.changes + 1
            )
            file.write(begun)
        self._file = file
        self._say(note(f"{asked.name} is on trial: this extends the trial, and a rollback reverts all changes"))
        self._watchdogs.share(lambda: None, self._hangs, (file.descriptor,))
        try:
            self._tried = self._settings()
            self._change()
        except Exception:
            with self._host.lock():
                file.write(earlier)
            raise
        self._put_on_trial(file, begun)
        self._watchdogs.end()

    def _follow(self, file: TrialFile) -> None:
        """Wait for the end of a trial that another watchdog has."""
        met = self._criterion()
        while True:
            found = file.read()
            if found is None or found.is_over or not file.has_watchdog():
                phase = found.phase if found and found.is_over else trial.FAILED
                self._watchdogs.tell(self._news(found._replace(phase=phase) if found else Trial("", phase=phase)))
                return
            self._confirm_if(met)
            time.sleep(_PAUSE)

    def _wait(self) -> None:
        met = self._criterion()
        while True:
            found = self._file.read() or Trial(self._asked.verb, phase=trial.REJECTED)
            if found.is_over:
                self._finish(found.phase, remove=True)
                return
            if self._is_due(found):
                if self._go_back():
                    return
                continue
            if found.phase == trial.PENDING:
                self._confirm_if(met)
            self._watchdogs.renew()
            time.sleep(min(_PAUSE, max(found.left, 0.001)))

    def _is_due(self, found: Trial) -> bool:
        return (
            self._is_orphaned
            or self._watchdogs.is_told_to_stop
            or found.phase in (trial.REJECTED, trial.RETURNING)
            or not found.left
        )

    def _take_over(self) -> None:
        """Become the watchdog, in the standby's process."""
        self._host = self._new_host()
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            self._finish(trial.FAILED, remove=False)
            return
        self._share()
        found = self._file.read()
        if found is not None and found.phase == trial.CHANGING and found.changes == 1:
            self._is_orphaned = True  # the watchdog died during the change
        self._wait()

    def _go_back(self) -> bool:
        """Roll back, under the interface's lock; returns False if the rollback is no longer due."""
        try:
            with self._host.interface_lock(self._asked.name):
                with self._host.lock():
                    found = self._file.read()
                    if found is not None and (found.is_over or not self._is_due(found)):
                        return False
                    found = found or Trial(self._asked.verb)
                    self._file.write(found._replace(phase=trial.RETURNING))
                fault = self._roll_back(found)
        except WgqError:  # another run holds the interface's lock
            return False
        if fault:
            self._file.write(found._replace(phase=trial.FAILED, message=fault))
            self._finish(trial.FAILED, remove=False)
        else:
            self._finish(trial.ROLLED_BACK, remove=True)
        return True

    def _roll_back(self, found: Trial) -> str:
        """Restore the earlier state; returns the last error, or "" on success."""
        tried = self._tried if found.changes == 1 else None
        must_restart = (
            self._is_orphaned and self._asked.verb == "down" and bool(tried and (tried.pre_down or tried.post_down))
        )
        fault = ""
        for any_port, by_restart in _ATTEMPTS:
            if fault:
                time.sleep(_BETWEEN_ATTEMPTS)
            before = _with_any_port(self._before) if any_port else self._before
            try:
                restoring.go_back(before, tried, self._host, self._say, by_restart=must_restart or by_restart)
                return ""
            except Exception as error:  # also a bug of wgq: no other process would try again
                fault = reason_of(error)
                self._say(note(fault))
        return fault

    def _finish(self, phase: str, *, remove: bool) -> None:
        """Record and report the end of the trial, and end the standby."""
        with self._host.lock():
            found = (self._file.read() or Trial(self._asked.verb))._replace(phase=phase)
            self._file.write(found)
            if remove:
                self._file.remove()
        if found.phase != trial.FAILED or not remove:  # a failed change is reported as an error
            self._watchdogs.note(
                f"{self._asked.name}: {self._asked.verb}: {phase}{found.message and ': '}{found.message}"
            )
            self._watchdogs.tell(self._news(found))
        self._watchdogs.end()

    def _news(self, found: Trial) -> dict[str, str | int]:
        return {"phase": found.phase, "by": found.by, "status": 1, "message": found.message}

    def _confirm_if(self, met: tuple[str, Met] | None) -> None:
        """Confirm the trial if the criterion is met."""
        if met is None:
            return
        by, is_met = met
        with suppress(WgqError, OSError):  # the interface is gone, or the time is up
            if is_met():
                trial.decide(self._asked.name, self._host, trial.CONFIRMED, by=by)

    def _criterion(self) -> tuple[str, Met] | None:
        if self._asked.ping:
            with netns.located(self._asked.name, self._host):
                return f"ping:{self._asked.ping}", self._ping(self._asked.ping)
        if not self._asked.peers:
            return None
        name = self._asked.name
        try:
            with netns.located(name, self._host) as host:
                device = host.wireguard.get(name)
        except WgqError:
            return None
        has_endpoint = {peer.public_key: peer.endpoint is not None for peer in device.peers}
        try:
            awaited = waiting.chosen(name, has_endpoint, self._asked.peers, {})
        except WgqError as error:
            self._say(note(error))
            return None
        earlier = None if self._asked.verb == "up" else device
        wait = waiting.Wait(name, self._host.wireguard, awaited, earlier)
        return "handshake", lambda: self._has_shaken(wait)

    def _has_shaken(self, wait: waiting.Wait) -> bool:
        with netns.located(self._asked.name, self._host) as host:
            device = host.wireguard.get(self._asked.name)
            wait.look(device, young_counts=False)
            if wait.is_over:
                return True
            wait.provoke(device)
            return False


def _with_any_port(before: Before) -> Before:
    """The state without its port, for a case in which another program uses that port."""
    wanted = before.wanted
    if wanted is None:
        return before
    return before._replace(wanted=wanted._replace(device=wanted.device._replace(listen_port=0)))
