"""The exit statuses, and the exceptions. Each has what happened, where, and what to do about it."""

from __future__ import annotations

from errno import ENODEV

from wgquick.lean import TYPE_CHECKING, NamedTuple, signal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wgquick.net import Endpoint


# The exit statuses (docs/reference.md). A signal's is 128 + N, and a failed hook's is the hook's own.
FAILURE = 1
CHANGES = 2
"""Of plan and diff: there are changes."""
IP_STATUS = 2
"""Of ip(8), and so of wg-quick, if the kernel refuses."""
RESTART_NEEDED = 3
"""Of reload: nothing was changed."""
NOT_UP = 4
"""Of status: a wanted peer is not up."""
NO_HANDSHAKE = 4
"""Of wait and up: no handshake in time."""
ROLLED_BACK = 4
"""Of try."""
NOT_EXECUTABLE, NOT_FOUND = 126, 127
"""Of a shell, and so of a hook and of exec: the command cannot be run, or does not exist."""


class WgqError(Exception):
    """A failure that the user can act on; `status` is the exit status for it."""

    status = FAILURE

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without __init__, as its arguments are not `args`, so that errors can cross processes."""
        return _made_anew, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        """`where: what` and, on a second line, the remedy."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  {self.remedy}" if self.remedy else head


def _made_anew(kind: type[WgqError], args: tuple[object, ...]) -> WgqError:
    return kind.__new__(kind, *args)


def reason_of(error: BaseException) -> str:
    """The error's text for the user; of an OSError the file and strerror(3), without the number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


class Diagnostic(NamedTuple):
    """One error or warning of the parser, which check reports as a `Finding`.

    `line` and `column` count from 1, `code` is stable across releases. `about` is for code that depends on the
    kind of fault: the key that the line means, "empty entry" or "no port"; "" for other faults. `value` is the
    value in question as wg(8) reads it, without blanks; "" if the message shows none. `form` is the
    message with {} in its place, if it can be shown in another form.
    """

    line: int
    column: int
    code: str
    message: str
    remedy: str = ""
    severity: str = "error"
    about: str = ""
    form: str = ""
    value: str = ""


class ConfigError(WgqError):
    """All faults of one configuration file, in the order of their lines."""

    def __init__(self, path: str, diagnostics: Iterable[Diagnostic]) -> None:
        self.path = path
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(self._lines()))

    def _lines(self) -> Iterable[str]:
        before = f"{self.path}:" if self.path else ""
        for fault in self.diagnostics:
            yield f"{before}{fault.line}:{fault.column}: {fault.message} [{fault.code}]"
            if fault.remedy:
                yield f"  {fault.remedy}"


class HookError(WgqError):
    """A hook failed. Its status becomes the exit status, as with wg-quick's `set -e`."""

    def __init__(self, what: str, status: int, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.status = status


class OperationError(WgqError):
    """The kernel, a daemon or a program refused a request; `errno` is 0 if there is none.

    `status` is the exit status of wg-quick in this case, which is that of the program it runs.
    """

    def __init__(
        self, what: str, *, errno: int = 0, where: str = "", remedy: str = "", status: int = WgqError.status
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.errno = errno
        self.status = status


class UnresolvedError(OperationError):
    """An Endpoint that cannot be resolved."""

    def __init__(self, what: str, endpoint: Endpoint, *, remedy: str = "") -> None:
        self.endpoint = endpoint
        super().__init__(what, remedy=remedy)


class BatchError(OperationError):
    """The refused items of one batch: pairs of index and errno, in order; never empty."""

    def __init__(self, what: str, failures: Iterable[tuple[int, int]]) -> None:
        self.failures = tuple(failures)
        super().__init__(what, errno=self.failures[0][1])


class NoHandshakeError(WgqError):
    """The awaited handshakes did not happen in time."""

    status = NO_HANDSHAKE


ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def status_of_signal(number: int) -> int:
    """The exit status of a program that a signal ended, as in a shell."""
    return 128 + number


class SignalError(WgqError):
    """One of ENDING_SIGNALS ends the command after its changes are undone."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"interrupted by {name}")
        self.number = number
        self.status = status_of_signal(number)


def not_wireguard(name: str, *, is_missing: bool = False) -> OperationError:
    """The error for a link of another kind; of down and save, as in wg-quick, also for a missing link."""
    remedy = f"There is no interface {name}: it is not up." if is_missing else ""
    return OperationError(f"`{name}' is not a WireGuard interface", errno=ENODEV, remedy=remedy)


def not_up(name: str, *, why: str = "", remedy: str = "", target: str = "") -> OperationError:
    """The error for a missing link, of the verbs that wg-quick does not have; `target` names it for `wgq up`."""
    what = f"`{name}' is not up: {why}" if why else f"`{name}' is not up"
    return OperationError(what, errno=ENODEV, remedy=remedy or f"Bring it up: wgq up {target or name}")


def not_one_of(word: str, verbs: Sequence[str], command: str) -> WgqError:
    """The error for a word that `command` takes in place of a verb."""
    what = f"`{word}' is not {', '.join(verbs[:-1])} or {verbs[-1]}"
    return WgqError(what, remedy=f"Write for example: wgq {command} {verbs[0]} NAME")


def take_down_first(name: str) -> str:
    """The remedy if an interface is in the way."""
    return f"Take it down first: wgq down {name}"
