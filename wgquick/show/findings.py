"""Findings as text, a paragraph each, and as JSON."""

from __future__ import annotations

import json

from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wgquick.diagnosis.finding import Finding


def text(findings: Iterable[Finding]) -> str:
    """Each finding as `file:line:column: severity: message [code]`, and its remedy on a line of its own."""
    return "".join(map(_paragraph, findings))


def _paragraph(each: Finding) -> str:
    head = f"{each.file}:{each.line}:{each.column}: {each.severity}: {each.message} [{each.code}]\n"
    return f"{head}  {each.remedy}\n" if each.remedy else head


def summary(findings: Sequence[Finding], files: int) -> str:
    """One line that counts what was found."""
    counts = [
        f"{count} {severity}{'s' if count != 1 else ''}"
        for severity in ("error", "warning", "info")
        if (count := sum(each.severity == severity for each in findings))
    ]
    return f"{', '.join(counts) or 'nothing to report'} in {files} file{'s' if files != 1 else ''}\n"


def json_text(findings: Iterable[Finding]) -> str:
    """`{"findings": [...]}` with the fields of Finding, in one document."""
    return json.dumps({"findings": [each._asdict() for each in findings]}, indent=2) + "\n"
