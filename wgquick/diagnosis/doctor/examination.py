"""The examination of one interface: find its file, gather evidence, judge it and, with `--fix`, repair."""

from __future__ import annotations

import time

from wgquick import patience
from wgquick.diagnosis.check import check
from wgquick.diagnosis.doctor.cause import Cause
from wgquick.diagnosis.doctor.codes import CODES
from wgquick.diagnosis.doctor.gather import gather, read_file
from wgquick.diagnosis.doctor.judge import diagnose
from wgquick.diagnosis.doctor.repair import repair
from wgquick.diagnosis.finding import CERTAIN, ERROR
from wgquick.diagnosis.source import read
from wgquick.executor.journal import Journal
from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.diagnosis.doctor.evidence import Evidence
    from wgquick.diagnosis.doctor.inspector import Inspector
    from wgquick.ports import Host


_REPAIRING = 2.0  # seconds


class DoctorOptions(NamedTuple):
    """Doctor's options: the other end's file ("" if not given), the minimum seconds to listen, and repairs."""

    peer_config: str = ""
    listen: float = 0.0
    fix: bool = False
    deadline: float = float("inf")
    """The monotonic time by which all is done."""


class Examined(NamedTuple):
    """The causes for an interface, the root cause first, and their evidence."""

    causes: list[Cause]
    evidence: Evidence


def examine(
    name: str, source: str, host: Host, inspector: Inspector, asked: DoctorOptions, report: Callable[[str], None]
) -> Examined:
    """The causes for the interface; with `fix`, those after the repairs. `report` gets a line for each repair."""
    if asked.fix:
        found = _examined(name, source, host, inspector, asked, watches=False)
        with patience.until(min(time.monotonic() + _REPAIRING, asked.deadline)):
            repair(found.evidence, found.causes, host, report)
    return _examined(name, source, host, inspector, asked)


def _examined(
    name: str, source: str, host: Host, inspector: Inspector, asked: DoctorOptions, *, watches: bool = True
) -> Examined:
    path = _file_of(name, source, host)
    more, known = _other_end(path, asked.peer_config) if asked.peer_config else ([], ())
    file = read_file(path, name)
    evidence = gather(
        name, file, host, inspector, deadline=asked.deadline, known=known, listen=asked.listen, watches=watches
    )
    return Examined(diagnose(evidence, more), evidence)


def _file_of(name: str, source: str, host: Host) -> str:
    """The file that the tunnel was brought up from, if only the interface is named; else the named file."""
    record = Journal(host.journal_directory, name).read() if source == name else None
    return record.path if record is not None and record.path else source


def _other_end(path: str, other: str) -> tuple[list[Cause], tuple[bytes, ...]]:
    """The errors from comparing the two files, and the other end's addresses."""
    sources = [read(path), read(other)]
    findings = [each for each in check(sources) if each.severity == ERROR and each.code in CODES]
    theirs = sources[1].public_key
    key = str(theirs) if any(peer.public_key == theirs for peer in sources[0].settings.peers) else None
    causes = [
        Cause(
            each.code,
            ERROR,
            CERTAIN,
            key,
            f"{each.file}:{each.line}: {each.message}",
            (f"{sources[0].shown} and {sources[1].shown} were compared",),
            each.remedy,
        )
        for each in findings
    ]
    return causes, tuple(address.address for address in sources[1].settings.addresses)
