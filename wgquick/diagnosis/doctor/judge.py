"""Orders the causes: the root cause first, and without the consequences of other causes."""

from __future__ import annotations

from wgquick.diagnosis.doctor import comparison, inside, outside, wire
from wgquick.diagnosis.doctor.codes import RANK, SEVERITY_RANK, explains
from wgquick.diagnosis.finding import CONFIDENCES, ERROR
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.evidence import Evidence


def diagnose(evidence: Evidence, more: Iterable[Cause] = ()) -> list[Cause]:
    """The causes, the root cause first; `more` are causes from elsewhere, such as the other end's file."""
    parts = (comparison,) if evidence.is_unread else (comparison, outside, wire, inside)
    return ordered([*more, *(cause for part in parts for cause in part.causes(evidence))])


def ordered(causes: Iterable[Cause]) -> list[Cause]:
    """The causes in order, each once, without consequences of other causes."""
    found: dict[tuple[str, str | None], Cause] = {}
    for each in sorted(causes, key=_rank):
        place = (each.code, each.peer)
        before = found.get(place)
        found[place] = each if before is None else _joined(before, each)
    every = found.values()
    kept = [each for each in every if not any(_explains(other, each) for other in every)]
    return sorted(kept, key=_rank)


def _joined(cause: Cause, other: Cause) -> Cause:
    """Two causes with the same code and peer in one: the first, with the evidence of both."""
    more = () if other.message == cause.message or cause.peer else (other.message,)
    return cause._replace(evidence=tuple(dict.fromkeys((*cause.evidence, *more, *other.evidence))))


def _explains(cause: Cause, other: Cause) -> bool:
    """Whether `other` is a consequence: by its code, and if both concern one peer or one concerns the interface."""
    if cause.severity != ERROR or not (_is_fault(cause.code) or explains(cause.code, other.code)):
        return False
    if _is_fault(cause.code):
        return other.code == "not-up"
    return explains(cause.code, other.code) and (None in (cause.peer, other.peer) or cause.peer == other.peer)


def _is_fault(code: str) -> bool:
    """Whether the code is a syntax error of the file, so that `wgq up` fails."""
    return code not in RANK


def _rank(cause: Cause) -> tuple[int, int, int]:
    severity = SEVERITY_RANK[cause.severity]
    return severity, RANK.get(cause.code, -1), CONFIDENCES.index(cause.confidence)
