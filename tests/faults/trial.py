"""Tries one case of the matrix: makes a tunnel, breaks it and examines it."""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec

from tests.faults.matrix import MOVES_ALONG, NO_COUNTERS, NO_DAEMON
from tests.faults.world import KEYS, THERE, filled, world
from tests.netns.tunnels import programs
from tests.waiting import until
from wgquick import api
from wgquick.datagram import COOKIE, INITIATION, LENGTHS
from wgquick.diagnosis.doctor.codes import CODES
from wgquick.diagnosis.finding import ERROR
from wgquick.diagnosis.handshake_probe import HandshakeProbe
from wgquick.diagnosis.keys import public_key_of
from wgquick.show import doctor as show
from wgquick.system import inspection

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.matrix import Case
    from tests.faults.world import World
    from tests.namespaces import Namespace


P = ParamSpec("P")
PATIENCE = 180.0
"""Seconds for doctor beside other work, or on an emulated processor; its own limit has tests of its own."""


class Outcome(NamedTuple):
    """Doctor's first code ("" for none) and severity, the number of findings beside infos, seconds, and the text.

    `fault` is the error that stopped the trial. `absent` is the confirmed reason why the case does not apply.
    """

    code: str
    severity: str
    loud: int
    seconds: float
    text: str
    fault: str = ""
    absent: str = ""


def judged(case: Case, backend: str, outcome: Outcome) -> str:
    """What is wrong with an outcome; "" if it is as expected."""
    if outcome.fault:
        return outcome.fault
    if outcome.absent or backend in case.absent:
        return (
            ""
            if outcome.absent == case.absent.get(backend)
            else "the case and the trial disagree about whether it was tried"
        )
    if not case.code:
        return outcome.text if outcome.loud else ""
    severities = (case.severity,) if case.severity else (ERROR, CODES[case.code].severity)
    is_right = outcome.code == case.code and outcome.severity in severities
    return "" if is_right and case.says in outcome.text else outcome.text or "doctor found nothing"


def attempt(case: Case, backend: str) -> Outcome:
    """Try the case; an error becomes the outcome's `fault`."""
    try:
        with world() as made:
            return _tried(made, case, backend)
    except Exception:
        return Outcome("", "", 0, 0.0, "", traceback.format_exc())


def _tried(made: World, case: Case, backend: str) -> Outcome:
    for place in ("here", "there", "between"):
        made.script(place, getattr(case, f"before_{place}"))
    made.write("here", case.here)
    made.write("there", case.there)
    if reason := case.absent.get(backend):
        assert not made.up("there", backend=backend)
        assert made.there.call(_HOLDS[reason]), f"not so: {reason}"
        return Outcome("", "", 0, 0.0, "", absent=reason)
    if fault := made.up("there", backend=backend):
        raise AssertionError(fault)
    _start(made, case, case.client or backend)
    if case.wants and case.starts:
        made.ping(case.wants)
    for place in ("here", "there", "between"):
        script = getattr(case, f"after_{place}")
        if "@up@" in script:
            made.write("here", case.here.replace("10.66", "10.68"), "copy")
            assert not made.up("here", "copy", backend=backend)
            continue
        made.script(place, script)
    if case.twin:
        made.write("between", case.here)
        assert not made.up("between", backend=backend)
        made.script("between", f"for n in $(seq 30); do ping -c1 -W1 -q {case.pings} && break; done >/dev/null")
        made.script("between", f"(ping -i0.1 {case.pings} >/dev/null 2>&1 &)")
    if case.pings:
        made.script(case.pings_from, f"(ping -i0.2 {case.pings} >/dev/null 2>&1 &)")
    if case.is_busy:
        until(lambda: not made.there.call(_is_taken, 51820), "the end of the daemon's sockets")
        made.there.call(_detached, _answer_with_cookies)
        until(lambda: made.there.call(_is_taken, 51820), "the program that answers")
    if case.late:
        made.here.call(_detached, _send_old_initiations, case.late)
    if case.other_file:
        made.script("here", "umask 077; cat >/run/other.conf", filled(case.there))
    if case.kills:
        _kill(made.here, backend)
    made.await_carriers()
    machine: Namespace = getattr(made, case.at)
    return machine.call(_examined, "/run/other.conf" if case.other_file else "", case.listen)


def _is_without_daemon() -> bool:
    """Whether the link is the kernel's."""
    return any(link.kind == "wireguard" for link in inspection.links() if link.name == "wg0")


def _is_without_counters() -> bool:
    """Whether there is a daemon, without counters of refused packets."""
    return api.diagnostics("wg0") is None and not _is_without_daemon()


_HOLDS = {NO_DAEMON: _is_without_daemon, MOVES_ALONG: _is_without_daemon, NO_COUNTERS: _is_without_counters}


def _kill(machine: Namespace, program: str) -> None:
    """Kill the machine's daemon, and wait until its link is gone."""
    for process in programs(machine, program):
        os.kill(process, signal.SIGKILL)
    until(lambda: machine.run(["ip", "link", "show", "wg0"], check=False).returncode, "the end of the link")


def _start(made: World, case: Case, backend: str) -> None:
    if dict(case.doctor).get("quick"):
        environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": backend}
        made.here.run(["wg-quick", "up", "wg0"], env=environment)
    elif case.starts:
        fault = made.up("here", options=case.options, backend=backend)
        if fault:
            raise AssertionError(fault)
    elif case.code not in ("not-up",):
        assert made.up("here", options=case.options, backend=backend), "it comes up despite the fault"


def _detached(function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Run it in a process of its own, which ends with the machine."""
    if os.fork() == 0:
        os.closerange(3, 1024)  # the pipe of the caller's answer among them
        try:
            function(*args, **kwargs)
        finally:
            os._exit(0)


def _is_taken(port: int) -> bool:
    """Whether a UDP socket has the port."""
    texts = [Path(f"/proc/thread-self/net/{name}").read_text() for name in ("udp", "udp6")]
    return any(line.split()[1].endswith(f":{port:04X}") for text in texts for line in text.splitlines())


def _answer_with_cookies() -> None:
    """Answer every initiation as a server under load does (whitepaper, section 5.4.7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", 51820))
        while True:
            message, sender = server.recvfrom(2048)
            if len(message) == LENGTHS[INITIATION]:
                server.sendto(bytes([COOKIE, 0, 0, 0]) + message[4:8] + os.urandom(56), sender)


def _send_old_initiations(behind: float) -> None:
    """Send the client's initiations with timestamps of the past."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        while True:
            attempt = HandshakeProbe(KEYS["here"], public_key_of(KEYS["there"]), None, time.time() - behind)
            client.sendto(attempt.message, (THERE, 51820))
            time.sleep(0.5)


def _examined(other: str, listen: float) -> Outcome:
    began = time.monotonic()
    found = api.doctor("wg0", peer_config=other, listen=listen, limit=PATIENCE)["wg0"].causes
    seconds = time.monotonic() - began
    loud = [each for each in found if each.severity != "info"]
    first = found[0] if found else None
    text = show.text("wg0", found)
    if first is None:
        return Outcome("", "", 0, seconds, text)
    return Outcome(first.code, first.severity, len(loud), seconds, text)
