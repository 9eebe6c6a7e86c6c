"""One interface examined: its file found, its evidence gathered and judged."""

from __future__ import annotations

import time

from wgquick.diagnosis.doctor.gather import gather, read_file
from wgquick.diagnosis.doctor.judge import diagnose
from wgquick.executor.journal import Journal
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.gather import Senses
    from wgquick.ports import Host


def examine(name: str, source: str, host: Host, senses: Senses) -> list[Cause]:
    """The causes of what is wrong with the interface, the root first."""
    began = time.monotonic()
    evidence = gather(name, read_file(_file_of(name, source, host), name), host, senses, began=began)
    return diagnose(evidence)


def _file_of(name: str, source: str, host: Host) -> str:
    """The file that the tunnel was brought up from, if only its name is given; else the file that is named."""
    record = Journal(host.journal_directory, name).read() if source == name else None
    return record.path if record is not None and record.path else source
