"""The lines of the transcript, as values."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Line(str):
    """A line as it is printed. `text` is the line without its mark; `is_command` is whether the mark is `[#]`."""

    __slots__ = ("is_command", "text")

    text: str
    is_command: bool


class Batch(str):
    """Several lines that are printed together; `lines` has each."""

    __slots__ = ("lines",)

    lines: tuple[Line, ...]


def command(text: str) -> Line:
    """The line of a command: `[#] TEXT`."""
    return _line(f"[#] {text}", text, is_command=True)


def note(text: object) -> Line:
    """The line of a note: `[!] TEXT`."""
    return _line(f"[!] {text}", str(text), is_command=False)


def _line(printed: str, text: str, *, is_command: bool) -> Line:
    line = Line(printed)
    line.text, line.is_command = text, is_command
    return line


def batch(lines: Iterable[Line]) -> Batch:
    """Lines to be printed together; "" if there are none."""
    each = tuple(lines)
    made = Batch("\n".join(each))
    made.lines = each
    return made


def lines_of(said: str) -> tuple[Line, ...]:
    """The lines that a `say` got. Text that is no line of the transcript, such as an error, has no mark."""
    if isinstance(said, Batch):
        return said.lines
    if isinstance(said, Line):
        return (said,)
    return tuple(_line(text, text, is_command=False) for text in said.split("\n"))
