"""A finding: one mistake in a file, its place, and a remedy."""

from __future__ import annotations

from wgquick.lean import NamedTuple

ERROR = "error"
WARNING = "warning"
INFO = "info"
SEVERITIES = (ERROR, WARNING, INFO)
"""The most severe first."""

CERTAIN = "certain"
LIKELY = "likely"
POSSIBLE = "possible"
CONFIDENCES = (CERTAIN, LIKELY, POSSIBLE)
"""The confidence of a conclusion about a live tunnel, the surest first."""


class Finding(NamedTuple):
    """One mistake in a configuration. `line` and `column` count from 1; `severity` is one of SEVERITIES.

    `code` stays the same across releases; `message` and `remedy` never show a private or preshared key. `other` is
    the other file that the message names, "" if it names none.
    """

    file: str
    line: int
    column: int
    code: str
    severity: str
    message: str
    remedy: str
    other: str = ""

    @property
    def is_loud(self) -> bool:
        """Whether the finding makes `wgq check` exit with 1."""
        return self.severity != INFO
