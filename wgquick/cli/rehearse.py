"""`wgq rehearse`: tests on simulated hosts who reaches whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wgquick import api
from wgquick.cli import signals
from wgquick.cli.streams import say
from wgquick.cli.verbs import write
from wgquick.show import rehearsal

if TYPE_CHECKING:
    from wgquick.cli.verbs import Given


def rehearse(targets: list[str], given: Given) -> int:
    """Print who reaches whom; 1 if an intended connection fails. With JSON, the causes go to standard error."""
    with signals.raised():
        report = api.rehearse(
            targets,
            hosts=str(given.get("host") or ""),
            hooks=not given.get("no-hooks"),
            keep=bool(given.get("keep")),
            transcript=say,
        )
    if not given.get("json"):
        write(rehearsal.text(report))
    else:
        if remarks := rehearsal.causes(report) + rehearsal.entries(report):
            say(remarks.rstrip())
        write(rehearsal.json_text(report))
    return int(not report.is_good)
