"""doctor's findings as text and as JSON."""

from __future__ import annotations

import json

from wgquick.diagnosis.finding import CERTAIN
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wgquick.diagnosis.doctor.cause import Cause


def text(interface: str, causes: Sequence[Cause]) -> str:
    """Each cause as a paragraph: `interface: severity: message [code]`, its evidence, and its remedy."""
    if not causes:
        return f"{interface}: no problem found\n"
    return "\n".join(map("".join, (_lines(interface, each) for each in causes)))


def paragraph(interface: str, each: Cause) -> str:
    """One cause."""
    return "".join(_lines(interface, each))


def _lines(interface: str, each: Cause) -> Iterable[str]:
    sure = "" if each.confidence == CERTAIN else f", {each.confidence}"
    yield f"{interface}: {each.severity}{sure}: {each.message} [{each.code}]\n"
    if each.peer:
        yield f"  peer: {each.peer}\n"
    for fact in each.evidence:
        yield f"  - {fact}\n"
    if each.remedy:
        yield f"  {each.remedy}\n"
    if each.other_end:
        yield f"  at the other end: {each.other_end}\n"


def json_text(found: Mapping[str, Sequence[Cause]]) -> str:
    """`{"interface": ..., "findings": [...]}`, or a list of these for several interfaces."""
    values = [{"interface": name, "findings": [_value(each) for each in causes]} for name, causes in found.items()]
    return json.dumps(values[0] if len(values) == 1 else values, indent=2) + "\n"


def _value(each: Cause) -> dict[str, object]:
    return {**each._asdict(), "evidence": list(each.evidence)}
