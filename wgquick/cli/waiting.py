"""`wgq wait`, and the `--wait` options of `wgq up`."""

from __future__ import annotations

from wgquick import api
from wgquick.cli import privilege, signals
from wgquick.cli.streams import say
from wgquick.config import location
from wgquick.errors import NoHandshakeError, SignalError, WgqError
from wgquick.executor.waiting import PATIENCE
from wgquick.lean import TYPE_CHECKING, NamedTuple, suppress

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.cli.verbs import Given
    from wgquick.config.settings import Settings
    from wgquick.options import Options

_LONGEST = 86400


class Waiting(NamedTuple):
    """The wait after `up`; with --or-down a failed wait takes the interface down."""

    settings: Settings
    options: Options
    is_temporary: bool
    handshakes: Callable[[], object]
    timeout: float
    peers: str

    def of_a_live_interface(self) -> Waiting:
        """The same for an interface that was up before: only a new handshake counts."""
        return self._replace(handshakes=lambda: api.wait(self.settings.name, self.timeout, self.peers))

    def finish(self, before: Callable[[], None]) -> None:
        """Run `before`, then wait; NoHandshakeError if there is no handshake in time. A signal ends both."""
        try:
            before()
            self.handshakes()
        except (NoHandshakeError, SignalError) as error:
            if isinstance(error, NoHandshakeError):
                _print_cause(self.settings)
            if self.is_temporary:
                api.down(self.settings.name, self.settings, self.options, say)
            raise


def after_up(settings: Settings, options: Options, given: Given) -> Waiting:
    """The wait for --wait, --wait-for and --or-down; WgqError, before any change, if they contradict."""
    if "wait" not in given:
        raise WgqError("--wait-for and --or-down need --wait", remedy="Add --wait, or omit them.")
    timeout, peers = seconds(str(given["wait"]), "--wait"), str(given.get("wait-for") or "any")
    handshakes = api.first_handshakes(settings, timeout, peers)
    return Waiting(settings, options, bool(given.get("or-down")), handshakes, timeout, peers)


def after_reload(name: str, given: Given) -> Callable[[], object]:
    """The wait after reload for --wait and --wait-for; WgqError, before any change, if --wait is missing."""
    if "wait" not in given:
        raise WgqError("--wait-for needs --wait", remedy="Add --wait, or omit --wait-for.")
    timeout, peers = seconds(str(given["wait"]), "--wait"), str(given.get("wait-for") or "any")
    return lambda: api.wait(name, timeout, peers)


def wait(target: str, given: Given) -> None:
    """Wait for a handshake with a live interface's peers."""
    timeout, peers = seconds(str(given.get("timeout") or PATIENCE), "--timeout"), str(given.get("for") or "any")
    privilege.acquire()
    with signals.raised():
        api.wait(location.interface_name(target), timeout, peers)


def seconds(text: str, option: str) -> float:
    """The seconds of `15`, `0.5` or `15s`, the value of an option; at most a day."""
    number = text.removesuffix("s")
    whole, _, part = number.partition(".")
    if not (whole.isascii() and whole.isdecimal() and (not part or (part.isascii() and part.isdecimal()))):
        raise WgqError(f"{option} `{text}' is not a time", remedy=f"Write a number of seconds: {option}=15.")
    return min(float(number), _LONGEST)


def _print_cause(settings: Settings) -> None:
    """Print doctor's first cause."""
    from wgquick.show import doctor as show

    is_called_so = settings.path.endswith(f"/{settings.name}.conf")
    with suppress(WgqError):
        for examined in api.doctor(settings.path if is_called_so else settings.name).values():
            for cause in examined.causes[:1]:
                say(show.paragraph(settings.name, cause).rstrip("\n"))
