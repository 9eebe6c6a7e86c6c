"""A page of the documentation as steps that a test can run.

```ini HOST:PATH        the block is written to PATH on HOST, with mode 0600
```console              commands after a prompt, `# ` or `HOST# `, each with the output that follows it
```python               a program that is run as root on the host
```sh                   commands that are not run; a comment `<!-- not run: WHY -->` stands above the block

HOST is `alice` or `bob` on pages with two machines; other pages may leave it out. In output, a line `...`
stands for any lines, and `...` within a line stands for any text. Without output, the command may print anything.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHY = r"(?:<!-- not run: (?P<why>[^\n]+) -->\n+)?"
_BLOCK = re.compile(rf"^{_WHY}```(?P<info>\S+)(?P<rest>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^(?P<host>alice|bob|)# (?P<command>.*)$")


class File(NamedTuple):
    """A file that the page tells the reader to write."""

    host: str
    path: str
    text: str


class Command(NamedTuple):
    """A shell command and the lines that it prints; no lines if the page shows none."""

    host: str
    text: str
    output: tuple[str, ...]


class Program(NamedTuple):
    """A Python program."""

    text: str


class Text(NamedTuple):
    """Commands that are not run, and the reason."""

    text: str
    why: str


Step = File | Command | Program | Text


def steps(page: str) -> Iterator[Step]:
    """The steps of a page, in order. Raises ValueError for a block of an unknown kind."""
    for block in _BLOCK.finditer(page):
        match block["info"]:
            case "console":
                yield from _commands(block["text"])
            case "ini" if block["rest"].strip():
                host, colon, path = block["rest"].strip().rpartition(":")
                yield File(host if colon else "", path, block["text"])
            case "python":
                yield Program(block["text"])
            case "sh":
                yield Text(block["text"], block["why"] or "")
            case "ini" | "text" | "json":
                continue
            case kind:
                raise ValueError(f"a block of the kind {kind}")


def _commands(text: str) -> Iterator[Command]:
    found: list[tuple[str, str, list[str]]] = []
    for line in text.splitlines():
        if match := _PROMPT.match(line):
            found.append((match["host"], match["command"], []))
        elif found and found[-1][1].endswith("\\"):
            found[-1] = (found[-1][0], f"{found[-1][1]}\n{line}", [])
        else:
            found[-1][2].append(line)
    for host, command, output in found:
        yield Command(host, command, tuple(output))


def fits(output: tuple[str, ...], printed: str) -> bool:
    """Whether the printed text matches the output on the page."""
    lines = ["(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n" for line in output]
    return re.fullmatch("".join(lines), re.sub(r"[ \t]+$", "", printed, flags=re.MULTILINE)) is not None
