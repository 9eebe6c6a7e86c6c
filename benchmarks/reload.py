"""Times `wgq reload` and `wg syncconf` alternately, after one of many peers has changed.

    python -m benchmarks.reload --peers 10000 --rounds 7      # over wgq-userspace, in a namespace
    python -m benchmarks.reload --kernel --peers 2000         # over the kernel's WireGuard, in the VM of the tests
    python -m benchmarks.reload --stages                      # where the time of one reload goes

`wg syncconf` reads no wg-quick file, so wg-quick(8) documents `wg syncconf NAME <(wg-quick strip NAME)`. The table
has this through a file, the same with `wgq strip`, and `wg syncconf` of an already stripped file. Each figure is
the median of the rounds: elapsed seconds, and processor seconds (which depend less on other programs). The daemon's
own time does not count, the kernel's does. In the VM wgq runs in forks of one process: on an emulated
processor the interpreter's start takes ten seconds. Needs root and what scripts/test installs.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.updown import FIRST_NETWORK, NAME, key
from tests.namespaces import host
from tests.parity.trial import in_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.namespaces import Namespace

    Run = Callable[[Namespace, Sequence[Sequence[str]]], None]

WGQ = [sys.executable, "-m", "wgquick"]
STRIPPED = "/run/stripped.conf"
STRIP, RELOAD = ("wgq", "strip", NAME), ("wgq", "reload", NAME)
SYNCCONF = ("wg", "syncconf", NAME, STRIPPED)
COMMANDS = {
    "wgq reload": (RELOAD,),
    "wg-quick strip, wg syncconf": (("wg-quick", "strip", NAME), SYNCCONF),
    "wgq strip, wg syncconf": (STRIP, SYNCCONF),
    "wg syncconf alone": (SYNCCONF,),
    "wgq reload, nothing changed": (RELOAD,),
}
"""Each step of a command; the output of the first of two goes to STRIPPED."""
FIRST, UNCHANGED = "wgq reload", "wgq reload, nothing changed"
STAGES = (
    ("wgquick.cli.main", "run", "everything except the interpreter's start"),
    ("wgquick.api", "load", "  the file, to values"),
    ("wgquick.executor.reloading", "Reload.__init__", "  the journal, to values"),
    ("wgquick.executor.snapshot", "current", "  the host's state"),
    ("wgquick.system.wireguard", "Control.get", "    the device"),
    ("wgquick.system.netlink", "RtNetlink.link_routes", "    the routes"),
    ("wgquick.executor.reloading", "desired", "  the desired state"),
    ("wgquick.plan.reload", "change", "  the difference of the device"),
    ("wgquick.executor.reloading", "difference", "  all other differences"),
    ("wgquick.executor.reloading", "Reload._apply", "  the changes"),
    ("wgquick.executor.reloading", "Reload._intend", "  the journal before them"),
    ("wgquick.executor.reloading", "Reload._finish", "  the journal after them"),
)
"""Modules, their functions, and what these do; the time of an indented one is part of the one above it."""


WARM = (
    "wgquick.cli.verbs",
    "wgquick.config.reading",
    "wgquick.executor.down",
    "wgquick.executor.up",
    "wgquick.executor.reloading",
    "wgquick.system.host",
    "wgquick.system.wireguard.kernel",
)
"""What wgq imports, once instead of in every fork."""


class Timing(NamedTuple):
    """Elapsed seconds and processor seconds."""

    elapsed: float
    processor: float


class File:
    """A file of many peers with a route each; `edited` changes the keepalive of the middle peer."""

    def __init__(self, peers: int) -> None:
        head = f"[Interface]\nPrivateKey = {key()}\nListenPort = 51820\nAddress = 10.200.0.1/24\n"
        networks = (ipaddress.IPv4Address(FIRST_NETWORK + 256 * number) for number in range(peers))
        sections = [f"[Peer]\nPublicKey = {key()}\nAllowedIPs = {network}/24\n" for network in networks]
        middle = peers // 2
        self._before, self._after = "".join((head, *sections[: middle + 1])), "".join(sections[middle + 1 :])
        self._seconds = 25

    def edited(self) -> str:
        self._seconds = 51 - self._seconds
        return f"{self._before}PersistentKeepalive = {self._seconds}\n{self._after}"


def measure(peers: int, rounds: int, run: Run) -> dict[str, Timing]:
    """The medians of the commands on one machine; SystemExit if a command failed to make the change."""
    file = File(peers)
    taken: dict[str, list[Timing]] = {name: [] for name in COMMANDS}
    with host() as machine:
        machine.uplink()
        _write(machine, file.edited())
        run(machine, [("wgq", "up", NAME)])
        for _ in range(rounds):
            for name, steps in COMMANDS.items():
                if name != UNCHANGED:
                    _write(machine, file.edited())
                    if STRIP not in steps:
                        run(machine, [STRIP, ("true",)])
                taken[name].append(_timed(machine, steps, run))
                _check(machine, name)
                run(machine, [RELOAD])  # brings the journal up to date
    return {name: _median(timings) for name, timings in taken.items()}


def processes(machine: Namespace, steps: Sequence[Sequence[str]]) -> None:
    """Run the steps in a shell."""
    first, *rest = (shlex.join([*WGQ, *step[1:]] if step[0] == "wgq" else step) for step in steps)
    line = f"{first} >{STRIPPED} && {rest[0]}" if rest else first
    machine.run(["sh", "-c", line] if rest else shlex.split(line), timeout=900)


def forks(machine: Namespace, steps: Sequence[Sequence[str]]) -> None:
    """Run the steps in a fork of this process, those of wgq without a new interpreter."""
    machine.call(_forked, steps)


def _forked(steps: Sequence[Sequence[str]]) -> None:
    for number, step in enumerate(steps, 1):
        if step[0] == "wgq":
            status, output, error = in_process(list(step[1:]), dict(os.environ))
            if status:
                raise AssertionError(error)
        else:
            output = subprocess.run(step, check=True, capture_output=True, text=True).stdout
        if number < len(steps):
            Path(STRIPPED).write_text(output)


def _write(machine: Namespace, text: str) -> None:
    machine.run(["sh", "-c", f"umask 077; cat >/etc/wireguard/{NAME}.conf"], input=text)


def _check(machine: Namespace, name: str) -> None:
    live = machine.out("wg", "show", NAME, "persistent-keepalive").split()
    wanted = machine.out("sed", "-n", "s/^PersistentKeepalive = //p", f"/etc/wireguard/{NAME}.conf").strip()
    if wanted not in live:
        raise SystemExit(f"{name}: no peer has the keepalive {wanted}")


def _timed(machine: Namespace, steps: Sequence[Sequence[str]], run: Run) -> Timing:
    before, began = _processor(), time.perf_counter()
    run(machine, steps)
    return Timing(time.perf_counter() - began, _processor() - before)


def _processor() -> float:
    """The processor seconds of the processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _median(timings: list[Timing]) -> Timing:
    return Timing(*map(statistics.median, zip(*timings, strict=True)))


def table(medians: dict[str, Timing]) -> str:
    """The figures as Markdown, with the ratios to those of `wgq reload`."""
    first = medians[FIRST]
    rows = ["| | seconds | processor, seconds | wgq reload's processor time relative to it |", "|---|---|---|---|"]
    rows += [
        f"| {name} | {each.elapsed:.3f} | {each.processor:.3f} | {first.processor / each.processor:.2f}x |"
        for name, each in medians.items()
    ]
    return "\n".join(rows)


def stages(peers: int) -> str:
    """The processor milliseconds of each part of one reload in this process, as Markdown."""
    file = File(peers)
    with host() as machine:
        machine.uplink()
        _write(machine, file.edited())
        machine.run([*WGQ, "up", NAME])
        _write(machine, file.edited())
        found: dict[str, float] = machine.call(_staged)
    rows = [f"| {'&emsp;' * (words.count('  '))}{words.strip()} | {found[words]:.0f} |" for *_, words in STAGES]
    return "\n".join(["| | processor, ms |", "|---|---|", *rows])


def _staged() -> dict[str, float]:
    import gc

    gc.disable()  # as `wgq` does
    taken: dict[str, float] = {}
    for module, path, words in STAGES:
        holder: Any = import_module(module)
        *outer, last = path.split(".")
        for each in outer:
            holder = getattr(holder, each)
        setattr(holder, last, _watched(getattr(holder, last), words, taken))
    import_module("wgquick.cli.main").run(["reload", NAME])
    return taken


def _watched(function: Any, words: str, taken: dict[str, float]) -> Any:
    def watched(*values: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return function(*values, **named)
        finally:
            taken[words] = taken.get(words, 0) + (time.process_time() - began) * 1000

    return watched


def in_vm(peers: int, rounds: int) -> dict[str, Timing]:
    """`measure` over the kernel's WireGuard, in the VM of tests/kernel."""
    from tests.kernel import vm

    lines = vm.run("benchmarks.reload", "--peers", str(peers), "--rounds", str(rounds), "--json")
    return {name: Timing(*figures) for name, figures in json.loads(lines[-1])}


def main() -> None:
    """Measure what the arguments select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kernel", action="store_true", help="boot a VM and measure there")
    parser.add_argument("--stages", action="store_true", help="show where the time of one reload goes")
    parser.add_argument("--json", action="store_true", help="for the VM: print a line of JSON")
    given = parser.parse_args()
    if given.json:
        for module in WARM:
            import_module(module)
    else:
        subprocess.run([sys.executable, "-m", "compileall", "-q", "wgquick"], check=False)
    if given.stages:
        print(stages(given.peers))
        return
    if given.kernel:
        medians = in_vm(given.peers, given.rounds)
    else:
        medians = measure(given.peers, given.rounds, forks if given.json else processes)
    print(json.dumps(list(medians.items())) if given.json else table(medians))


if __name__ == "__main__":
    main()
