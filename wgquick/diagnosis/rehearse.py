"""A rehearsal: simulates the files' hosts, brings their tunnels up, tests them, and finds causes of failures."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Protocol

from wgquick.config.location import interface_name
from wgquick.diagnosis import layout as layouts
from wgquick.diagnosis.reach import Causes, guess, probes
from wgquick.errors import ConfigError, WgqError
from wgquick.net import PublicKey
from wgquick.rehearsal import Failure, Pair, Reach, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from wgquick.diagnosis.source import Source
    from wgquick.rehearsal import Entry, Host, Layout, Probe, State

_DOCTORS_PATIENCE = 20.0
_VAGUE = ("no-answer", "no-data-back")


class Lab(Protocol):
    """The simulated hosts, by their indices in the layout."""

    @property
    def holder(self) -> int:
        """The ID of the process that keeps the hosts alive: they end with it."""

    @property
    def is_root(self) -> bool:
        """Whether the hosts belong to root, and not to a separate user namespace."""

    def up(self) -> list[State]:
        """Bring the interfaces up; returns the states of the hosts."""

    def looked_at(self, states: Sequence[State]) -> list[State]:
        """The states with the current values of the devices."""

    def tried(self, probes: Sequence[Probe], states: Sequence[State]) -> list[Reach]:
        """Run the probes; returns their results in the same order."""

    def run(self, arguments: Mapping[int, list[str]], patience: float) -> dict[int, tuple[int, str]]:
        """Run wgq with these arguments, by host, for at most `patience` seconds; returns (status, output)."""

    def keep(self) -> list[Entry]:
        """Keep the hosts after this program ends; returns their names and processes."""


def rehearse(
    sources: Sequence[Source],
    build: Callable[[Layout], AbstractContextManager[Lab]],
    say: Callable[[str], None],
    *,
    hosts: str = "",
    hooks: bool = True,
    keep: bool = False,
) -> Report:
    """Test the files. `hosts` has addresses of hosts in the form of `--host`. ConfigError if a file has faults."""
    _refuse_faulty(sources)
    ties, names = layouts.Ties(sources), layouts.names_of(sources)
    layout = layouts.lay_out(sources, ties, names, layouts.placements(hosts, sources, names), hooks=hooks)
    causes = Causes(ties, names)
    with build(layout) as lab:
        states = lab.up()
        for name, state in zip(names, states, strict=True):
            if not state.is_up:
                say(f"{name}: wgq up exited with {state.status}:\n{state.output.rstrip()}")
        wanted = [
            each._replace(doubtful=causes.is_doubtful(each, layout, states))
            for each in probes(ties, layout, states)
        ]
        reached = _tried(lab, wanted, states)
        states = lab.looked_at(states)
        pairs = _pairs(lab, layout, causes, wanted, states, reached)
        remarks = layouts.remarks(layout, ties, wanted)
        kept = tuple(lab.keep()) if keep else ()
        return Report(layout.hosts, tuple(states), pairs, remarks, kept, lab.holder, lab.is_root)


def _refuse_faulty(sources: Iterable[Source]) -> None:
    """Raise ConfigError if files have faults, or WgqError if a file's name is not an interface name."""
    faulty = [source for source in sources if not source.is_sound]
    if len(faulty) == 1:
        raise ConfigError(faulty[0].shown, faulty[0].report.faults)
    if faulty:
        raise _FaultyFilesError(faulty)
    for source in sources:
        try:
            interface_name(os.path.abspath(source.path))
        except WgqError as error:
            raise WgqError(error.what, remedy="Rename the file.") from None


class _FaultyFilesError(ConfigError):
    """The faults of several files."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._each = [ConfigError(source.shown, source.report.faults) for source in sources]
        super().__init__(self._each[0].path, (fault for error in self._each for fault in error.diagnostics))

    def _lines(self) -> Iterable[str]:
        return (str(error) for error in self._each)


def _tried(lab: Lab, wanted: Sequence[Probe], states: Sequence[State]) -> list[Reach]:
    """The results of the probes. Partly successful ones run again, as all at once may overload the machine."""
    reached = lab.tried(wanted, states)
    partly = [number for number, reach in enumerate(reached) if reach.ping and not all(reach)]
    if partly:
        for number, reach in zip(partly, lab.tried([wanted[each] for each in partly], states), strict=True):
            reached[number] = Reach(*(any(both) for both in zip(reached[number], reach, strict=True)))
    return reached


def _pairs(
    lab: Lab,
    layout: Layout,
    causes: Causes,
    tried: Sequence[Probe],
    states: Sequence[State],
    reached: Sequence[Reach],
) -> tuple[Pair, ...]:
    """The result of each probe, with the cause of a failure: from the files, else from doctor, else a guess."""
    misdelivered = [causes.misdelivered(probe, layout, states) for probe in tried]
    shaken = [
        probe.peer in states[probe.at].handshakes and cause is None
        for probe, cause in zip(tried, misdelivered, strict=True)
    ]
    found = [
        causes.of(probe, states, reach, handshake=done)
        or cause
        or (None if done else causes.misdelivered(_back(probe), layout, states))
        for probe, reach, done, cause in zip(tried, reached, shaken, misdelivered, strict=True)
    ]
    unknown = [
        number
        for number, cause in enumerate(found)
        if cause is None and not (shaken[number] and all(reached[number]))
    ]
    doctors = _Doctors(lab, layout.hosts, [tried[number] for number in unknown])
    for number in unknown:
        left = guess(tried[number], reached[number], handshake=shaken[number])
        found[number] = doctors.of(tried[number], left)
    names = [host.name for host in layout.hosts]
    return tuple(
        Pair(names[probe.at], names[probe.to], probe.address, done, *reach, cause)
        for probe, reach, done, cause in zip(tried, reached, shaken, found, strict=True)
    )


def _back(probe: Probe) -> Probe:
    return probe._replace(at=probe.to, to=probe.at)


class _Doctors:
    """The findings of `wgq doctor` on the hosts of the probes."""

    def __init__(self, lab: Lab, hosts: Sequence[Host], tried: Sequence[Probe]) -> None:
        self._hosts = hosts
        ends = sorted({end for probe in tried for end in _ends(probe)})
        asked = {end: ["doctor", hosts[end].interface, "--json"] for end in ends}
        self._findings = {end: _findings(output) for end, (_, output) in lab.run(asked, _DOCTORS_PATIENCE).items()}

    def of(self, probe: Probe, left: Failure) -> Failure:
        """The first cause that a host on the path finds, the sender first; `left` if there is none."""
        peer = str(PublicKey(probe.peer))
        for end in _ends(probe):
            for each in self._findings[end]:
                is_of_pair = each.get("peer") in (None, "", peer) or end != probe.at
                if is_of_pair and each["severity"] != "info" and each["code"] not in _VAGUE:
                    where = self._hosts[end].name
                    return Failure(each["code"], each["message"], each.get("remedy") or "", where)
        return left


def _ends(probe: Probe) -> list[int]:
    return [end for end in (probe.at, probe.hub, probe.to) if end >= 0]


def _findings(output: str) -> list[dict[str, str]]:
    """The findings in the output of `wgq doctor --json`; empty if it failed."""
    start = output.find("{")
    try:
        found = json.loads(output[start:])["findings"]
    except (ValueError, KeyError, TypeError):
        return []
    return list(found)
