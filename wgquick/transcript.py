"""The lines of the transcript, as values."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Line(str):
    """A line as it is printed. Text that is no line of the transcript, such as an error, has no prefix."""

    __slots__ = ()

    prefix = ""
    is_command = False

    @property
    def text(self) -> str:
        """The line without its prefix."""
        return str(self)[len(self.prefix) :]


class _Command(Line):
    __slots__ = ()

    prefix = "[#] "
    is_command = True


class _Note(Line):
    __slots__ = ()

    prefix = "[!] "


class Batch(str):
    """Several lines that are printed together; `lines` has each."""

    __slots__ = ("lines",)

    lines: tuple[Line, ...]


def command(text: str) -> Line:
    """The line of a command: `[#] TEXT`."""
    return _Command(f"[#] {text}")


def note(text: object) -> Line:
    """The line of a note: `[!] TEXT`."""
    return _Note(f"[!] {text}")


def batch(lines: Iterable[Line]) -> Batch:
    """Lines to be printed together; "" if there are none."""
    each = tuple(lines)
    made = Batch("\n".join(each))
    made.lines = each
    return made


def lines_of(text: str) -> tuple[Line, ...]:
    """The lines that a `say` got at once."""
    if isinstance(text, Batch):
        return text.lines
    if isinstance(text, Line):
        return (text,)
    return tuple(map(Line, text.split("\n")))
