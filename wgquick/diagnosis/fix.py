"""`wgq check --fix`: applies the remedies that need no decision, and keeps every other byte of the file."""

from __future__ import annotations

import os

from wgquick.config.atomic import write_atomic
from wgquick.config.document import UTF8_BOM, decode, encode
from wgquick.config.grammar import allowed_ip
from wgquick.diagnosis.hook_rules import SUBSTITUTION
from wgquick.lean import TYPE_CHECKING
from wgquick.net import without_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from wgquick.diagnosis.finding import Finding
    from wgquick.diagnosis.source import Source

CODES = ("world-accessible", "allowed-ip-host-bits", "hook-substitution")
_PRIVATE = 0o600


def apply_fixes(sources: Sequence[Source], findings: Iterable[Finding], report: Callable[[str], None]) -> bool:
    """Fix the files; returns whether anything was changed. `report` gets a line for each change."""
    changed = False
    for source in sources:
        own = [each for each in findings if each.file == source.shown and each.code in CODES]
        changed = _fix_file(source, own, report) or changed
    return changed


def _fix_file(source: Source, findings: list[Finding], report: Callable[[str], None]) -> bool:
    lines = [decode(raw) for raw in source.document.raw]
    before = list(lines)
    for each in sorted(findings, key=lambda each: (each.line, -each.column)):
        if each.code == "world-accessible":
            os.chmod(source.path, _PRIVATE)
            report(f"{each.file}: set the mode to 0600")
            continue
        fixed = _fixed(each, lines[each.line - 1])
        if fixed != lines[each.line - 1]:
            lines[each.line - 1] = fixed
            report(f"{each.file}:{each.line}: {without_keys(fixed.strip())}")
    if lines != before:
        bom = UTF8_BOM if bytes(source.document).startswith(UTF8_BOM) else b""
        write_atomic(source.path, bom + b"\n".join(map(encode, lines)))
    return bool(findings)


def _fixed(finding: Finding, line: str) -> str:
    head, tail = line[: finding.column - 1], line[finding.column - 1 :]
    if finding.code == "hook-substitution":
        return head + SUBSTITUTION.sub("%i", tail)
    entry = tail.partition(",")[0].partition("#")[0].rstrip()
    return f"{head}{allowed_ip(entry)[0]}{tail[len(entry) :]}"
