"""Runs one tool, or one tool's up and the other's down, with a case on its own machine, and records the outcome."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Never

from tests.namespaces import host
from tests.parity import state
from wgquick.cli import main as cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace
    from tests.parity.case import Case
    from tests.parity.state import State

FIREWALLS = ("nft", "iptables")
PROGRAMS = "/run/programs"
USERSPACE = "wireguard-go"
WG_QUICK = "/usr/bin/wg-quick"
IN_PROCESS = "wgq, in a fork of this process"  # a Python takes ten seconds to start in the VM if emulated
_PORT = re.compile(r'("field": "dport", "protocol": "udp"}}, "op": "==", "right": |--dport )\d+')

# In place of resolvconf: it records its calls with their input; -l prints the record.
RESOLVCONF = """#!/bin/sh
record=/run/resolvconf.$2
[ $1 = -l ] && exec cat $record
{ echo "resolvconf $*"; [ $1 = -d ] && rm -f $record || tee $record; } >>/run/resolvconf.calls
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """One verb's exit status and transcript, and the machine's state after it."""

    status: int
    transcript: list[str]
    after: State


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome of up, of the case's own commands, and of down."""

    before: State
    up: Ran
    between: list[Ran]
    down: Ran


def wgq() -> str:
    """The command under test: WGQ_COMMAND, else the `wgq` installed beside this Python."""
    return os.environ.get("WGQ_COMMAND") or str(Path(sys.executable).with_name("wgq"))


@cache
def trial(case: Case, firewall: str, up: str, down: str) -> Trial:
    """One tool's up and the other's down with a case; each combination runs once per session."""
    with host() as machine:
        _prepare(machine, case, firewall)
        before = _settled(machine, case)
        first = _verb(machine, case, firewall, [up, "up", case.argument])
        between = [_verb(machine, case, firewall, command) for command in _commands(case, up)]
        return Trial(before, first, between, _verb(machine, case, firewall, [down, "down", case.argument]))


def _commands(case: Case, tool: str) -> Iterator[list[str]]:
    for word, value in case.directives:
        if word == "then":
            yield ["sh", "-c", value]
        elif word == "run":
            yield [tool, value, case.argument]


def strip(case: Case, *tools: str) -> list[tuple[int, str]]:
    """Exit status and output of each tool's `strip`."""
    with host() as machine:
        _prepare(machine, case, "nft")
        return [_run(machine, case, "nft", [tool, "strip", case.argument])[:2] for tool in tools]


def _prepare(machine: Namespace, case: Case, firewall: str) -> None:
    machine.run(["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"])  # no address is tentative then
    match case.one("uplink", "").split():
        case ["none"]:
            pass
        case ["mtu", number]:
            machine.uplink(mtu=int(number))
        case ["ipv6", *_]:
            machine.uplink(ipv6=True)
        case _:
            machine.uplink()
    if case.one("uplink", "") == "ipv6 only":
        machine.run(["ip", "-4", "address", "flush", "dev", "up0"])
    machine.call(_install_programs, firewall, case.one("resolvconf", "absent"))
    machine.call(_write, case.file, case.content, int(case.one("mode", "0600"), 8))
    for command in case.all("before"):
        machine.run(["sh", "-c", command])


def _install_programs(firewall: str, resolvconf: str) -> None:
    """The only programs outside /usr/bin: firewall, sysctl, userspace implementation, resolvconf."""
    folder = Path(PROGRAMS)
    folder.mkdir()
    found = {"sysctl": "sysctl", USERSPACE: USERSPACE} | ({"nft": "nft"} if firewall == "nft" else {})
    for name in ("iptables", "ip6tables"):
        for suffix in ("", "-save", "-restore"):
            found[f"{name}{suffix}"] = f"{name}-legacy{suffix}"
    for name, program in found.items():
        path = shutil.which(program)
        assert path, f"{program} is not installed"
        (folder / name).symlink_to(path)
    if resolvconf != "absent":
        _install_resolvconf(folder, resolvconf)


def _install_resolvconf(folder: Path, kind: str) -> None:
    place = folder / ("resolvectl" if kind == "link" else "resolvconf")
    place.write_text(RESOLVCONF + ("[ $1 = -d ] || exit 3\n" if kind == "failing" else ""))
    place.chmod(0o755)
    if kind == "link":
        (folder / "resolvconf").symlink_to("resolvectl")


def _write(path: str, content: bytes, mode: int) -> None:
    place = Path("/etc/wireguard", path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    place.chmod(mode)
    if mode != 0o600:
        place.parent.chmod(0o755)


def _verb(machine: Namespace, case: Case, firewall: str, command: list[str]) -> Ran:
    status, _, error = _run(machine, case, firewall, command)
    return Ran(status, _transcript(error), _settled(machine, case))


def _run(machine: Namespace, case: Case, firewall: str, command: list[str]) -> tuple[int, str, str]:
    environment = {
        "PATH": f"{PROGRAMS}:/usr/bin:/bin",
        "HOME": "/root",
        "WG_QUICK_USERSPACE_IMPLEMENTATION": USERSPACE,
        "WG_ENDPOINT_RESOLUTION_RETRIES": "1",
        "WGQ_FIREWALL": firewall,
    }
    if command[0] == IN_PROCESS:
        return machine.call(in_process, command[1:], environment)
    inside = ["sh", "-c", f"cd /etc/wireguard && exec {shlex.join(command)}"]
    done = machine.run(inside, check=False, env=environment)
    return done.returncode, done.stdout, done.stderr


def in_process(arguments: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    """wgq's command line in a fork of this process; a negative status is a signal, as in subprocess."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
        if (child := os.fork()) == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(error.fileno(), 2)
            _command_line(arguments, environment)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status, _whole(output), _whole(error)


def _command_line(arguments: list[str], environment: dict[str, str]) -> Never:
    status = 70
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir("/etc/wireguard")
        sys.argv = [wgq(), *arguments]
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)  # not pytest's
        status = cli.run(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _whole(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _transcript(text: str) -> list[str]:
    """The `[#]` lines, and the warning about a readable file; other messages are each tool's own."""
    lines = [line.replace("/dev/fd/62", "/dev/fd/63") for line in text.splitlines()]
    return [line for line in lines if line.startswith("[#] ") or "is world accessible" in line]


def _settled(machine: Namespace, case: Case) -> State:
    """The state once it is stable; if it does not settle, the comparison shows that."""
    deadline = time.monotonic() + 60
    while True:
        found = _state(machine, case)
        if not (_has_idle_daemon(found, case) or _lacks_local_routes(found)) or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def _has_idle_daemon(found: State, case: Case) -> bool:
    """Whether the daemon is still there, or was when the device was read, although the link is gone."""
    has_link = any(link.startswith(f"{case.interface} ") for link in found["links"])
    return bool(found["sockets"] or found["device"]) and not has_link


def _lacks_local_routes(found: State) -> bool:
    """Whether an IPv6 address has no local route yet: addrconf_dad_work() of the kernel adds those later."""
    up = {line.split()[0] for line in found["links"] if " UP " in line}
    given = [line for line in found["addresses"] if 'family="inet6"' in line and line.split()[0] in up]
    local = [line for line in found["routes6"] if 'table="local"' in line]
    addresses = {address for line in given for address in re.findall('local="([^"]+)"', line)} - {"fe80::?", "::1"}
    return any(not any(f'dst="{address}"' in line for line in local) for address in addresses)


def _state(machine: Namespace, case: Case) -> State:
    environment = {"PATH": f"{PROGRAMS}:/usr/bin:/bin"}
    path = str(Path("/etc/wireguard", case.file))
    found = state.read(
        machine.run(["bash", "-c", state.SCRIPT, "bash", case.interface, path], env=environment).stdout
    )
    if not case.settings("listenport"):
        found["device"] = [line for line in found["device"] if not line.startswith("ListenPort")]
        found["file"] = [line for line in found["file"] if not line.startswith("ListenPort")]
        for section in ("nft", "iptables"):  # wgq has a rule with the port (allowances.py)
            found[section] = [_PORT.sub(r"\1?", line) for line in found[section]]
    return found
