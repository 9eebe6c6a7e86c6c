"""The finding of `wgq check`: a mistake in a file. Severities and confidences are doctor's too."""

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
"""The confidence of a sign or a cause, the surest first."""


class Finding(NamedTuple):
    """A finding about a file; one about a live tunnel is a `Cause` (wgquick.diagnosis.doctor.cause).

    `line` and `column` count from 1; `severity` is one of SEVERITIES. `code` stays the same across releases;
    `message` and `remedy` never show a private or preshared key. `other` is the other file that the message names,
    "" if it names none.
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
    def is_problem(self) -> bool:
        """Whether the finding makes `wgq check` exit with 1."""
        return self.severity != INFO
