"""`wgq check`: the findings for each file and for the files together, without those that a comment silences."""

from __future__ import annotations

from wgquick.diagnosis import one_file
from wgquick.lean import TYPE_CHECKING, Pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from wgquick.config.document import Line
    from wgquick.diagnosis.finding import Finding
    from wgquick.diagnosis.live import Live
    from wgquick.diagnosis.source import Source

_IGNORE = Pattern(r"(?i)#\s*wgq:\s*ignore\s+([a-z0-9, -]+)")


def check(
    sources: Sequence[Source],
    look: Callable[[Source], Live] | None = None,
    more: Callable[[Source], Iterable[Finding]] | None = None,
) -> list[Finding]:
    """The findings for all files, in the order of the files and of their lines.

    `look` reads this host's state for a file; if it is None, the files may belong to any hosts. `more` has further
    findings for a file.
    """
    found: list[Finding] = []
    for source in sources:
        found += one_file.findings(source)
    if len(sources) > 1:
        from wgquick.diagnosis import several_files  # `wgq up` checks one file; this import would slow it down

        found += several_files.findings(sources, {(each.file, each.code) for each in found})
        follow = several_files.consequences(sources, found)
        found = [each for each in found if each not in follow]
    if look is not None:
        from wgquick.diagnosis import live

        found = [live.on_one_host(each) for each in found]
        for source in sources:
            if source.is_sound and source.interface:
                found += live.findings(source, look(source))
    if more is not None:
        found += (each for source in sources for each in more(source))
    order = {source.shown: at for at, source in enumerate(sources)}
    ignored = {source.shown: _Ignored(source.lines) for source in sources}
    kept = [each for each in dict.fromkeys(found) if not ignored[each.file].has(each)]
    return sorted(kept, key=lambda each: (order[each.file], each.line, each.column, each.code))


class _Ignored:
    """The codes that `# wgq: ignore CODE` comments silence, by row (from 0).

    A comment at the end of a line applies to that line. A comment on a line of its own applies to its section and
    to a section that begins right below it; above the first section it applies to the whole file.
    """

    def __init__(self, lines: Sequence[Line]) -> None:
        self._codes: set[tuple[int, str]] = set()
        self._everywhere: set[str] = set()
        for row, line in enumerate(lines):
            if "wgq:" in line.text.lower() and (match := _IGNORE().search(line.text)):
                words = set(match[1].lower().replace(",", " ").split())
                if not line.section:
                    self._everywhere |= words
                for each in _rows(row, lines):
                    self._codes |= {(each, word) for word in words}

    def has(self, finding: Finding) -> bool:
        """Whether the finding is silenced."""
        return finding.code in self._everywhere or (finding.line - 1, finding.code) in self._codes


def _rows(row: int, lines: Sequence[Line]) -> Iterable[int]:
    """The rows that a comment in `row` applies to."""
    if not lines[row].text.lstrip().startswith("#"):
        return [row]
    return [*_section(row, lines, -1), row, *_section(row, lines, 1)]


def _section(row: int, lines: Sequence[Line], step: int) -> Iterator[int]:
    """The rows above (step -1) or below (1) in the same section, or in a section that begins right below."""
    only_comments = step == 1
    at = row + step
    while 0 <= at < len(lines):
        if step == 1 and lines[at].header and not only_comments:
            return
        yield at
        if step == -1 and lines[at].header:
            return
        text = lines[at].text.strip()
        only_comments = only_comments and (not text or text.startswith("#") or bool(lines[at].header))
        if lines[at].header:
            only_comments = False
        at += step
