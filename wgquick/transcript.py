"""The lines of the transcript, as values."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Line(str):
    """A line as it is printed. Text that is no line of the transcript, such as an error, has no mark."""

    __slots__ = ()

    mark = ""
    is_command = False

    @property
    def text(self) -> str:
        """The line without its mark."""
        return str(self)[len(self.mark) :]


class _Command(Line):
    __slots__ = ()

    mark = "[#] "
    is_command = True


class _Note(Line):
    __slots__ = ()

    mark = "[!] "


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


def lines_of(said: str) -> tuple[Line, ...]:
    """The lines that a `say` got."""
    if isinstance(said, Batch):
        return said.lines
    if isinstance(said, Line):
        return (said,)
    return tuple(map(Line, said.split("\n")))
