"""Counts lost packets and ended sessions while a live tunnel is changed.

It makes each kind of change by `wgq reload`, by `wg syncconf`, and by taking the tunnel down and up; in the VM by
the first two, by systemd-networkd and by NetworkManager.

    python -m benchmarks.loss                          # over wgq-userspace, in two namespaces
    python -m benchmarks.loss --kernel                 # over the kernel's WireGuard, in the VM of the tests
    python -m benchmarks.loss --only "FwMark"          # the changes with this text in their name
    python -m benchmarks.loss --rounds 3               # the worst of three rounds
    python -m benchmarks.loss --read .cache/logs/vm-loss-*.jsonl    # the table of the VM's earlier runs

A thousand probes per second go through the tunnel and are answered, during the change and for one second after it.
A probe that cannot be sent counts as lost. A session has ended if its latest handshake has changed. A change counts
as not made if `wgq reload --dry-run` prints changes afterwards, or, for a network manager, if the device, its
addresses, MTU or routes differ from the file. The measured processes run with priority, so that other programs on
the machine cause no loss. In the VM they have none, as they would stop the kernel's threads, which encrypt, on the
only processor; there at most 200 probes of the last second are without an answer. Needs root and what scripts/test
installs.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import tools
from benchmarks.reload import WARM
from tests.interop.pairs import private_key
from tests.keys import public_key
from tests.namespaces import host
from tests.parity.trial import in_process
from tests.resolvers import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from benchmarks.tools import Tool
    from tests.namespaces import Namespace

USERSPACE = {"WG_QUICK_USERSPACE_IMPLEMENTATION": "wgq-userspace"}
_NICE = -15
_PYTHON = ("python3", "-I", "-S", "-c")  # the fastest start
FAILED = (AssertionError, subprocess.TimeoutExpired)
PROBE, PORT = "10.0.0.2", 7777
OUTER = "203.0.113.1"
"""The far end's outer address: beyond the gateway, as a full tunnel never takes a link's own networks."""
# Both sockets have a receive buffer of 8 MiB (SO_RCVBUFFORCE), as the kernel delivers probes in batches.
ECHO = """
import os, socket, sys
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)
s.bind(("", int(sys.argv[1]))); print("ready", flush=True)
while True: data, where = s.recvfrom(64); s.sendto(data, where)
"""
SEND = """
import gc, os, select, socket, sys, threading, time
from _collections import deque
gc.disable(); os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(9))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, 33, 1 << 22); heard = set()
def hear():
    while True: heard.add(s.recv(64))
threading.Thread(target=hear, daemon=True).start()
print("ready", flush=True)
began = due = time.monotonic(); sent, late, under_way = 0, 0, deque()
where, limit = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
while not select.select([0], [], [], max(0, due - time.monotonic()))[0]:
    now = time.monotonic()
    while under_way and (under_way[0][0] in heard or under_way[0][1] < now - 1):
        late += under_way.popleft()[0] not in heard
    if sent - len(heard) - late < limit:
        probe = b"%d" % sent; sent += 1; under_way.append((probe, now))
        try: s.sendto(probe, where)
        except OSError: pass
    due = max(due + 0.001, now - 0.02)
seconds = time.monotonic() - began
while len(heard) < sent and time.monotonic() < began + seconds + 5: time.sleep(0.01)
print(sent, len(heard), seconds, flush=True); os._exit(0)
"""
"""Sends until there is standard input, waits for the last answers, and prints the numbers and the seconds.

The third argument limits the probes of the last second that have no answer yet.
"""
UNDER_WAY = 200
"""The limit in the VM: with more the kernel's queues overflow when an emulated processor does not keep up."""
NEAR, NEXT, FAR = private_key(), private_key(), private_key()
OTHER = base64.b64encode(b"\x09" * 32).decode()
PSK = private_key()


def tunnel(
    networks: str = "10.0.0.0/24, 10.8.0.0/16",
    interface: str = "",
    peer: str = "",
    more: str = "",
    *,
    address: str = "10.0.0.1/24",
    private: str = NEAR,
) -> str:
    """A file with the far end as its peer."""
    return (
        f"[Interface]\nPrivateKey = {private}\nAddress = {address}\n{interface}\n"
        f"[Peer]\nPublicKey = {public_key(FAR)}\nEndpoint = {OUTER}:51820\nAllowedIPs = {networks}\n"
        f"{peer}\n{more}"
    )


def other(networks: str) -> str:
    """A second peer, which does not exist."""
    return f"[Peer]\nPublicKey = {OTHER}\nAllowedIPs = {networks}\n"


class Change(NamedTuple):
    """A kind of change: the two files, and the commands at the far end before and after it."""

    name: str
    before: str
    after: str
    prepare: str = ""
    follow: str = ""


PLAIN, FULL = tunnel(), tunnel("0.0.0.0/0, 10.0.0.0/24")
_FOLLOW_KEY = f"wg set wg0 peer {public_key(NEXT)} allowed-ips 0.0.0.0/0"
_SET_PSK = f"echo {PSK} | wg set wg0 peer {public_key(NEAR)} preshared-key /dev/stdin"
CHANGES = (
    Change("nothing changes", PLAIN, PLAIN),
    Change("nothing changes, of a full tunnel", FULL, FULL),
    Change("nothing changes, and the other end has roamed", PLAIN, PLAIN, prepare="wg set wg0 listen-port 51999"),
    Change("a peer is added", PLAIN, tunnel(more=other("10.7.0.0/16"))),
    Change("a peer is removed", tunnel(more=other("10.7.0.0/16")), PLAIN),
    Change("an AllowedIP is added", PLAIN, tunnel("10.0.0.0/24, 10.8.0.0/16, 10.6.0.0/16")),
    Change("an AllowedIP is removed", PLAIN, tunnel("10.0.0.0/24")),
    Change(
        "an AllowedIP moves to another peer",
        tunnel(more=other("10.7.0.0/16")),
        tunnel("10.0.0.0/24", more=other("10.7.0.0/16, 10.8.0.0/16")),
    ),
    Change("PresharedKey", PLAIN, tunnel(peer=f"PresharedKey = {PSK}"), follow=_SET_PSK),
    Change("PersistentKeepalive", PLAIN, tunnel(peer="PersistentKeepalive = 25")),
    Change("PrivateKey", PLAIN, tunnel(private=NEXT), follow=_FOLLOW_KEY),
    Change("ListenPort", PLAIN, tunnel(interface="ListenPort = 41000")),
    Change("FwMark", PLAIN, tunnel(interface="FwMark = 7")),
    Change("FwMark of a full tunnel", FULL, tunnel("0.0.0.0/0, 10.0.0.0/24", "FwMark = 7")),
    Change("an address is added", PLAIN, tunnel(address="10.0.0.1/24, 10.4.0.1/24, fd00::1/64")),
    Change("an address is removed", tunnel(address="10.0.0.1/24, 10.4.0.1/24"), PLAIN),
    Change("a smaller MTU", PLAIN, tunnel(interface="MTU = 1300")),
    Change("the default route is added", PLAIN, FULL),
    Change("the default route is removed", FULL, PLAIN),
    Change("another table", PLAIN, tunnel(interface="Table = 77\nPostUp = ip rule add table 77 priority 99")),
)


class Outcome(NamedTuple):
    """The numbers of sent and lost probes, the seconds, and what else the change did.

    `ended`: the session ended. `made`: the change was made. `crashed`: the program does not run any more.
    """

    sent: int = 0
    lost: int = 0
    seconds: float = 0
    ended: bool = False
    made: bool = True
    crashed: bool = False

    def __str__(self) -> str:
        if not self.sent:
            return "does not come up"
        words = [f"{self.lost} of {self.sent}" if self.lost else "0"]
        words += ["session ended"] if self.ended else []
        words += [] if self.made else ["not made"]
        return ", ".join([*words, *(["crashed"] if self.crashed else [])])


def worst(found: Sequence[Outcome]) -> Outcome:
    """The outcome with the most lost probes, with all that happened in any of them."""
    most = max(found, key=lambda each: (each.lost, each.sent))
    return most._replace(
        ended=any(each.ended for each in found),
        made=all(each.made for each in found),
        crashed=any(each.crashed for each in found),
    )


class Place(NamedTuple):
    """The two machines, the environment of programs, their niceness, and the limit of probes under way."""

    near: Namespace
    far: Namespace
    environment: dict[str, str]
    niceness: int
    limit: int


@contextmanager
def ends(*, kernel: bool) -> Iterator[Place]:
    """A machine, and on its uplink a second machine at 192.0.2.1 with PROBE in the tunnel."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/root", **({} if kernel else USERSPACE)}
    with host() as near, host() as far:
        near.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", far.paths["net"]])
        lines = ["addr add 192.0.2.2/24 dev up0", "link set up0 up", "route add default via 192.0.2.1", ""]
        near.run(["ip", "-batch", "-"], input="\n".join(lines))
        lines = ["addr add 192.0.2.1/24 dev up0", "link set up0 up", f"addr add {OUTER}/32 dev up0", ""]
        far.run(["ip", "-batch", "-"], input="\n".join(lines))
        daemon = [*_nice(_NICE), "wgq-userspace", "wg0"]
        far.run(["ip", "link", "add", "wg0", "type", "wireguard"] if kernel else daemon)
        _set_far(far)
        far.run(["ip", "-batch", "-"], input=f"addr add {PROBE}/24 dev wg0\nlink set wg0 up\n")
        yield Place(near, far, environment, *((0, UNDER_WAY) if kernel else (_NICE, sys.maxsize)))


def _set_far(far: Namespace) -> None:
    """Give the far end its settings; it has no session then."""
    peers = f"[Peer]\nPublicKey = {public_key(NEAR)}\nAllowedIPs = 0.0.0.0/0\n"
    peers += f"[Peer]\nPublicKey = {public_key(NEXT)}\n"
    text = f"[Interface]\nPrivateKey = {FAR}\nListenPort = 51820\n{peers}"
    far.run(["wg", "setconf", "wg0", "/dev/stdin"], input=text)


def outcomes(tool: Tool, changes: Iterable[Change], *, kernel: bool) -> Iterator[tuple[str, Outcome]]:
    """The name and the outcome of each change that the tool makes.

    The machines stay until the program fails: then the next change has new ones, and a failure on these is final.
    """
    left = list(changes)
    while left:
        count = len(left)
        with ends(kernel=kernel) as place:
            running = tool.start(place.near) if tool.start else None
            _load(left[0], tool, place)
            with place.far.popen([*_PYTHON, ECHO, str(PORT)], stdout=subprocess.PIPE) as echo:
                if echo.stdout is None:
                    raise SystemExit("there is no pipe")
                echo.stdout.readline()
                try:
                    while left:
                        outcome = tried(left[0], tool, place)
                        has_crashed = running is not None and running.poll() is not None
                        yield left.pop(0).name, outcome._replace(crashed=has_crashed)
                        _run(place, tool.down)
                except FAILED as error:
                    print(str(error)[-500:], file=sys.stderr)
                    if len(left) == count:
                        yield left.pop(0).name, Outcome()
                finally:
                    echo.kill()


def _load(change: Change, tool: Tool, place: Place) -> None:
    """Run each command once, so that the measurement does not wait for the loading of programs."""
    _write(place.near, tool.files(change.before))
    for command in (tool.up, tool.change, tool.down):
        with suppress(*FAILED):
            _run(place, command)


def tried(change: Change, tool: Tool, place: Place) -> Outcome:
    """Make the change with the tool during a thousand probes per second."""
    near, far = place.near, place.far
    _set_far(far)
    _write(near, tool.files(change.before))
    _run(place, tool.up)
    near.run(["ping", "-c", "2", "-i", "0.2", "-W", "30", PROBE])
    if change.prepare:
        far.run(["sh", "-c", change.prepare])
        far.run(["ping", "-c", "2", "-i", "0.2", "-W", "30", "10.0.0.1"])
    session = _session(near)
    _write(near, tool.files(change.after))
    sender = [*_PYTHON, SEND, PROBE, str(PORT), str(place.limit)]
    with near.popen(sender, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as probes:
        if probes.stdout is None:
            raise SystemExit("there is no pipe")
        probes.stdout.readline()
        time.sleep(0.5)
        refused = ""
        try:
            _run(place, tool.change)
        except FAILED as error:
            refused = str(error)
        if change.follow:
            far.run(["sh", "-c", change.follow])
        time.sleep(1)
        output, _ = probes.communicate(b"enough", timeout=60)
    sent, heard, seconds = output.split()
    if refused:
        print(refused[-500:], file=sys.stderr)
    made = not refused and _made(tool, change.after, place)
    return Outcome(int(sent), int(sent) - int(heard), float(seconds), _session(near) != session, made)


def _made(tool: Tool, text: str, place: Place) -> bool:
    if tool.start:
        return tools.made(place.near, text)
    _, printed, _ = place.near.call(in_process, ["reload", "wg0", "--dry-run"], place.environment)
    return not any(line.startswith("[#]") for line in printed.splitlines())


def _write(near: Namespace, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        readable = f"umask 077; cat >{path}; ! id systemd-network 2>/dev/null || chown systemd-network {path}"
        near.run(
            ["sh", "-c", readable if "networkd" in path or "systemd" in path else f"umask 077; cat >{path}"],
            input=text,
        )


def _run(place: Place, command: str) -> None:
    """Run a command; `wgq` in a fork of this process. A failure is an AssertionError."""
    near, environment = place.near, place.environment
    if command.startswith("wgq "):
        status, _, error = near.call(_in_process, command.split()[1:], environment, place.niceness)
        if status:
            raise AssertionError(error)
    else:
        near.run([*_nice(place.niceness), "sh", "-c", command], env=environment, timeout=300)


def _nice(niceness: int) -> list[str]:
    return ["nice", "-n", str(niceness)]


def _in_process(arguments: list[str], environment: dict[str, str], niceness: int) -> tuple[int, str, str]:
    os.nice(niceness)
    return in_process(arguments, environment)


def _session(near: Namespace) -> str:
    shown = near.out("wg", "show", "wg0", "latest-handshakes").splitlines()
    return next((line for line in shown if line.startswith(public_key(FAR))), "")


def table(found: dict[str, dict[str, list[Outcome]]]) -> str:
    """The worst outcomes by tool and change as Markdown, and how often was sent."""
    head = f"| lost probes | {' | '.join(found)} |\n|---|{'---|' * len(found)}\n"
    names = [change.name for change in CHANGES if any(change.name in each for each in found.values())]
    cells = {name: [str(worst(each[name])) if name in each else "-" for each in found.values()] for name in names}
    rates = [
        (each.sent - 1) / each.seconds
        for by_name in found.values()
        for several in by_name.values()
        for each in several
        if each.sent
    ]
    rounds = [len(several) for by_name in found.values() for several in by_name.values()]
    rows = "\n".join(f"| {name} | {' | '.join(row)} |" for name, row in cells.items())
    return f"""{head}{rows}

The worst of {_span(rounds)} rounds, with {_span(rates)} probes a second (median {statistics.median(rates):.0f})."""


def _span(numbers: Sequence[float]) -> str:
    low, high = round(min(numbers)), round(max(numbers))
    return str(low) if low == high else f"{low} to {high}"


def main() -> None:
    """Measure the changes in the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="a part of the changes' names, also repeated")
    parser.add_argument("--tool", action="append", default=[], help="a tool of the table, also repeated")
    parser.add_argument("--rounds", type=int, default=1, help="how often each change is made")
    parser.add_argument("--kernel", action="store_true", help="boot a VM and try there")
    parser.add_argument("--inside", action="store_true", help="for the VM: print lines of JSON")
    parser.add_argument("--read", nargs="+", type=Path, help="measure nothing: files with what the VM printed")
    given = parser.parse_args()
    if given.inside:
        for module in WARM:
            import_module(module)
    known = {**tools.WG_QUICK, **(tools.MANAGERS if given.kernel or given.inside else {})}
    if not given.tool:
        given.tool = [name for name in known if not (given.kernel and name == "wg-quick down, up")]
    found: dict[str, dict[str, list[Outcome]]] = {}
    for tool, change, outcome in _measured(given, known):
        found.setdefault(tool, {}).setdefault(change, []).append(outcome)
    if not given.inside:
        print(table(found))


def _measured(given: argparse.Namespace, known: Mapping[str, Tool]) -> Iterator[tuple[str, str, Outcome]]:
    """The tool, the change and the outcome of each measurement."""
    if given.read or given.kernel:
        lines = (
            [line for file in given.read for line in file.read_text().splitlines()] if given.read else _in_vm(given)
        )
        for tool, change, outcome in map(json.loads, lines):
            yield tool, change, Outcome(*outcome)
        return
    changes = [each for each in CHANGES if not given.only or any(part in each.name for part in given.only)]
    for name in given.tool:
        for change, outcome in outcomes(known[name], changes * given.rounds, kernel=given.inside):
            print(json.dumps([name, change, outcome]), file=sys.stdout if given.inside else sys.stderr, flush=True)
            yield name, change, outcome


def _in_vm(given: argparse.Namespace) -> list[str]:
    from tests.kernel import vm

    for package in tools.PACKAGES:
        unpacked(package)  # the VM has no network
    arguments = ["--rounds", str(given.rounds)]
    arguments += [word for name in given.tool for word in ("--tool", name)]
    arguments += [word for part in given.only for word in ("--only", part)]
    return vm.run("benchmarks.loss", "--inside", *arguments, limit=7200)


if __name__ == "__main__":
    main()
