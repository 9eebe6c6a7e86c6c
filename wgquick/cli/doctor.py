"""`wgq doctor`: prints why a tunnel does not work."""

from __future__ import annotations

import os
import time

from wgquick import api
from wgquick.cli import privilege, verbs
from wgquick.cli.streams import say
from wgquick.diagnosis.doctor.gather import LIMIT
from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING
from wgquick.show import doctor as show

if TYPE_CHECKING:
    from wgquick.cli.verbs import Given

_LONGEST = 86400.0
_LEAST = 5.0  # seconds that an examination needs


def doctor(targets: list[str], given: Given) -> int:
    """Print the findings; 1 if there is an error."""
    listen = _seconds(str(given.get("listen", "")))
    privilege.acquire()
    found = api.doctor(
        targets[0] if targets else None,
        peer_config=str(given.get("peer-config", "")),
        listen=listen,
        fix=bool(given.get("fix")),
        transcript=say,
        limit=max(_LEAST, LIMIT - _age()),
    )
    causes = {name: each.causes for name, each in found.items()}
    if given.get("bundle"):
        from wgquick.show import bundle

        verbs.write("\n".join(bundle.text(*each) for each in found.values()))
    elif given.get("json"):
        verbs.write(show.json_text(causes))
    else:
        verbs.write("\n".join(show.text(*each) for each in causes.items()))
    return int(any(each.severity == "error" for every in causes.values() for each in every))


def _age() -> float:
    """Seconds since this process started (proc(5), stat: starttime). They count towards the limit."""
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _seconds(text: str) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST:
        raise WgqError(f"--listen `{text}' is not a number of seconds", remedy="Write --listen 30.")
    return seconds
