"""A plan as values: what up, down or reload would change, in order, and why."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.net import PublicKey


class Planned(NamedTuple):
    """One change. `sign` is "+" (adds), "-" (removes) or "~" (changes, runs); `step` names the step's class.

    `text` has the commands of the transcript. `reason` is the place in the file (PATH:LINE), or the path alone if
    the file no longer has what goes. `interrupts` are the peers whose sessions end. `undo` has the commands that
    take the change back; empty if it goes with the link or cannot be taken back. `known_after` is what decides what
    the text leaves open: "PreUp" or "the host"; "" if all is known.
    """

    sign: str
    step: str
    text: tuple[str, ...]
    reason: str = ""
    interrupts: tuple[PublicKey, ...] = ()
    undo: tuple[str, ...] = ()
    known_after: str = ""


class Plan(NamedTuple):
    """What a verb ("up", "down", "reload", "diff") would do to an interface.

    `restart` says what only a restart can change: the changes are that restart's then. `notes` are remarks.
    """

    verb: str
    interface: str
    changes: tuple[Planned, ...] = ()
    restart: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
