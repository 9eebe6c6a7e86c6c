"""`wgq up --ensure`: brings an interface up, reloads it, or does nothing."""

from __future__ import annotations

from wgquick import api
from wgquick.cli import advice, privilege, signals, verbs
from wgquick.cli.streams import say
from wgquick.config import location
from wgquick.config.reading import read_settings
from wgquick.errors import WgqError
from wgquick.executor.ensuring import Ensured
from wgquick.executor.reloading import ReloadOptions, RestartNeededError
from wgquick.lean import TYPE_CHECKING
from wgquick.transcript import lines_of

if TYPE_CHECKING:
    from wgquick.cli.verbs import Given
    from wgquick.config.document import Document
    from wgquick.config.location import Location
    from wgquick.config.settings import Settings


def ensure(target: str, given: Given) -> int:
    """Bring the interface to the state that its file describes; 3 if that needs a restart."""
    if "ensure" not in given:
        named = ", ".join(f"--{name}" for name in given if name in verbs.OF_ENSURE)
        raise WgqError(f"without --ensure, up does not take {named}", remedy="Add --ensure, or use `wgq reload'.")
    return _Ensure(target, given).run()


class _Ensure:
    def __init__(self, target: str, given: Given) -> None:
        self._given = given
        self._options = verbs.options_of(given)
        self._reload_options = ReloadOptions(
            *(bool(given.get(name.replace("_", "-"))) for name in ReloadOptions._fields)
        )
        privilege.acquire()
        self._found = location.locate(target, verbs.name_of(given))
        self._settings: Settings | None = None
        self._files: list[tuple[Location, Document]] = []
        self._commands: list[str] = []

    def run(self) -> int:
        with signals.raised():
            try:
                done, status = self._ensure(), 0
            except RestartNeededError as needed:
                say(f"wgq: {needed}")
                done, status = Ensured(restart=needed.reasons), needed.status
            self._report(done)
            if not status:
                self._wait(done)
        return status

    def _report(self, done: Ensured) -> None:
        """Print check's findings if something was changed, and JSON."""
        for file in self._files if done.action != "none" else ():
            if (check := advice.begin(*file)) is not None:
                check.print(say)
        if "json" in self._given:
            from wgquick.show.ensure import json_text

            verbs.write(json_text(self._found.name, done, self._commands))

    def _ensure(self) -> Ensured:
        return api.ensure(
            self._read,
            self._options,
            self._say,
            self._reload_options,
            name=self._found.name,
            before_up=lambda settings: verbs.warn_of_ssh(
                settings, f"`wgq try up {settings.path or settings.name}' rolls it back by itself"
            ),
        )

    def _say(self, line: str) -> None:
        self._commands += (each.text for each in lines_of(line) if each.is_command)
        say(line)

    def _read(self) -> Settings:
        """The current file; WgqError, before any change, if options contradict it."""
        settings = read_settings(self._found, say, when_valid=lambda *file: self._files.append(file))
        self._settings = verbs.with_extras(settings, self._given)
        verbs.waiting_of(self._settings, self._options, self._given)
        return self._settings

    def _wait(self, done: Ensured) -> None:
        """Wait if --wait asks for it. --or-down takes the interface down only if this run has brought it up."""
        if self._settings is None or "wait" not in self._given:
            return
        given = {name: value for name, value in self._given.items() if name != "or-down" or done.action == "up"}
        waiting = verbs.waiting_of(self._settings, self._options, given)
        if waiting is not None:
            is_new = done.action in ("up", "restart")
            again = waiting if is_new else waiting.of_a_live_interface()
            again.finish(lambda: None)
