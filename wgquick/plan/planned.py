"""A plan as values: the changes that up, down or reload would make, in order, with their reasons."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.net import PublicKey
    from wgquick.transcript import Line


class Reason(NamedTuple):
    """The line of a file that causes a change: 0 if the file has none for it. The path is empty without a file."""

    path: str = ""
    line: int = 0

    def __str__(self) -> str:
        """PATH:LINE, or the path alone."""
        return f"{self.path}:{self.line}" if self.line else self.path


class Planned(NamedTuple):
    """One change. `sign` is "+" (adds), "-" (removes) or "~" (changes, runs); `step` names the step's class.

    `text` has the commands of the transcript. `reason` is the place in the file. `interrupts` are the peers that
    lose their session. `undo` has the commands that revert the change; empty if it disappears with the link or
    cannot be reverted. `known_after` says what decides the open values in `text`: "PreUp", "the host" or "the
    lookup"; "" if none is open. `has_open_number` is whether `text` has `(known ...)` in place of a number.
    """

    sign: str
    step: str
    text: tuple[str, ...]
    reason: Reason = Reason()
    interrupts: tuple[PublicKey, ...] = ()
    undo: tuple[str, ...] = ()
    known_after: str = ""
    has_open_number: bool = False


class Plan(NamedTuple):
    """The changes that a verb ("up", "down", "reload", "diff") would make to an interface.

    `restart` has the reasons for a restart; if there are any, `changes` are those of the restart. `notes` are the
    notes of the transcript.
    """

    verb: str
    interface: str
    changes: tuple[Planned, ...] = ()
    restart: tuple[str, ...] = ()
    notes: tuple[Line, ...] = ()
