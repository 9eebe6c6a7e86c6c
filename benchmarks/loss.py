"""Counts lost packets and ended sessions while a live tunnel is changed.

It makes each kind of change by `wgq reload`, by `wg syncconf`, and by taking the tunnel down and up; in the VM by
the first two, by systemd-networkd and by NetworkManager.

    python -m benchmarks.loss                          # over wgq-userspace, in two namespaces
    python -m benchmarks.loss --kernel                 # over the kernel's WireGuard, in a VM without KVM
    python -m benchmarks.loss --only "FwMark"          # the changes with this text in their name

A thousand probes per second go through the tunnel and are answered, during the change and for one second after it.
A probe that cannot be sent counts as lost. A session has ended if its latest handshake has changed. A change counts
as not made if `wgq reload --dry-run` prints changes afterwards, or, for a network manager, if the device, its
addresses, MTU or routes differ from the file. The measured processes run with priority, so that other programs on
the machine cause no loss. Needs root and what scripts/test installs.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import tools
from tests.interop.pairs import private_key, public_key
from tests.namespaces import host
from tests.parity.trial import in_process
from tests.resolvers import unpacked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from benchmarks.tools import Tool
    from tests.namespaces import Namespace

USERSPACE = {"WG_QUICK_USERSPACE_IMPLEMENTATION": "wgq-userspace"}
_FIRST = "nice -n -15 "
_PYTHON = ("python3", "-I", "-S", "-c")  # the fastest start
PROBE, PORT = "10.0.0.2", 7777
OUTER = "203.0.113.1"
"""The far end's outer address: beyond the gateway, as a full tunnel never takes a link's own networks."""
ECHO = """
import os, socket, sys
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", int(sys.argv[1]))); print("ready", flush=True)
while True: data, where = s.recvfrom(64); s.sendto(data, where)
"""
SEND = """
import gc, os, select, socket, sys, threading, time
gc.disable(); os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(9))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); heard = set()
def hear():
    while True: heard.add(s.recv(64))
threading.Thread(target=hear, daemon=True).start()
print("ready", flush=True)
sent, due, where = 0, time.monotonic(), (sys.argv[1], int(sys.argv[2]))
while not select.select([0], [], [], max(0, due - time.monotonic()))[0]:
    try: s.sendto(b"%d" % sent, where)
    except OSError: pass
    sent += 1; due = max(due + 0.001, time.monotonic() - 0.02)
end = time.monotonic() + 5
while len(heard) < sent and time.monotonic() < end: time.sleep(0.01)
print(sent, len(heard), flush=True); os._exit(0)
"""
"""Sends until there is standard input, waits for the last answers, and prints the numbers."""
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
    Change("nothing changes, and the far end has roamed", PLAIN, PLAIN, prepare="wg set wg0 listen-port 51999"),
    Change("a peer comes", PLAIN, tunnel(more=other("10.7.0.0/16"))),
    Change("a peer goes", tunnel(more=other("10.7.0.0/16")), PLAIN),
    Change("an AllowedIP comes", PLAIN, tunnel("10.0.0.0/24, 10.8.0.0/16, 10.6.0.0/16")),
    Change("an AllowedIP goes", PLAIN, tunnel("10.0.0.0/24")),
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
    Change("an address comes", PLAIN, tunnel(address="10.0.0.1/24, 10.4.0.1/24, fd00::1/64")),
    Change("an address goes", tunnel(address="10.0.0.1/24, 10.4.0.1/24"), PLAIN),
    Change("a smaller MTU", PLAIN, tunnel(interface="MTU = 1300")),
    Change("the default route comes", PLAIN, FULL),
    Change("the default route goes", FULL, PLAIN),
    Change("another table", PLAIN, tunnel(interface="Table = 77\nPostUp = ip rule add table 77 priority 99")),
)


class Outcome(NamedTuple):
    """The numbers of sent and lost probes, whether the session ended, and whether the change was made."""

    sent: int
    lost: int
    ended: bool
    made: bool

    def __str__(self) -> str:
        words = [f"{self.lost} of {self.sent}" if self.lost else "0"]
        words += ["session ended"] if self.ended else []
        words += [] if self.made else ["not made"]
        return ", ".join(words)


@contextmanager
def ends(*, kernel: bool) -> Iterator[tuple[Namespace, Namespace]]:
    """A machine, and on its uplink a second machine at 192.0.2.1 with PROBE in the tunnel."""
    with host() as near, host() as far:
        near.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", far.paths["net"]])
        lines = ["addr add 192.0.2.2/24 dev up0", "link set up0 up", "route add default via 192.0.2.1", ""]
        near.run(["ip", "-batch", "-"], input="\n".join(lines))
        lines = ["addr add 192.0.2.1/24 dev up0", "link set up0 up", f"addr add {OUTER}/32 dev up0", ""]
        far.run(["ip", "-batch", "-"], input="\n".join(lines))
        daemon = [*_FIRST.split(), "wgq-userspace", "wg0"]
        far.run(["ip", "link", "add", "wg0", "type", "wireguard"] if kernel else daemon)
        _set_far(far)
        far.run(["ip", "-batch", "-"], input=f"addr add {PROBE}/24 dev wg0\nlink set wg0 up\n")
        yield near, far


def _set_far(far: Namespace) -> None:
    """Give the far end its settings; it has no session then."""
    peers = f"[Peer]\nPublicKey = {public_key(NEAR)}\nAllowedIPs = 0.0.0.0/0\n"
    peers += f"[Peer]\nPublicKey = {public_key(NEXT)}\n"
    text = f"[Interface]\nPrivateKey = {FAR}\nListenPort = 51820\n{peers}"
    far.run(["wg", "setconf", "wg0", "/dev/stdin"], input=text)


def outcomes(tool: Tool, changes: Iterable[Change], *, kernel: bool) -> Iterator[tuple[str, str]]:
    """The name and the outcome of each change that the tool makes, on the same two machines."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/root", **({} if kernel else USERSPACE)}
    with ends(kernel=kernel) as (near, far):
        if tool.start:
            tool.start(near)
        with far.popen([*_PYTHON, ECHO, str(PORT)], stdout=subprocess.PIPE) as echo:
            if echo.stdout is None:
                raise SystemExit("there is no pipe")
            echo.stdout.readline()
            try:
                for change in changes:
                    if tool.start and "PostUp" in change.after:
                        continue  # a network manager has no such line
                    yield change.name, str(tried(change, tool, near, far, environment))
                    _run(near, tool.down, environment)
            except AssertionError as error:  # the program does not work any more
                print(error, file=sys.stderr)
            finally:
                echo.kill()


def tried(change: Change, tool: Tool, near: Namespace, far: Namespace, environment: dict[str, str]) -> Outcome:
    """Make the change with the tool during a thousand probes per second."""
    _set_far(far)
    _write(near, tool.files(change.before))
    _run(near, tool.up, environment)
    near.run(["ping", "-c", "2", "-i", "0.2", "-W", "30", PROBE])
    if change.prepare:
        far.run(["sh", "-c", change.prepare])
        far.run(["ping", "-c", "2", "-i", "0.2", "-W", "30", "10.0.0.1"])
    session = _session(near)
    _write(near, tool.files(change.after))
    sender = [*_PYTHON, SEND, PROBE, str(PORT)]
    with near.popen(sender, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as probes:
        if probes.stdout is None:
            raise SystemExit("there is no pipe")
        probes.stdout.readline()
        time.sleep(0.5)
        refused = ""
        try:
            _run(near, tool.change, environment)
        except AssertionError as error:
            refused = str(error)
        if change.follow:
            far.run(["sh", "-c", change.follow])
        time.sleep(1)
        output, _ = probes.communicate(b"enough", timeout=60)
    sent, heard = map(int, output.split())
    if refused:
        print(refused[-500:], file=sys.stderr)
    made = not refused and _made(near, tool, change.after, environment)
    return Outcome(sent, sent - heard, _session(near) != session, made)


def _made(near: Namespace, tool: Tool, text: str, environment: dict[str, str]) -> bool:
    if tool.start:
        return tools.made(near, text)
    _, printed, _ = near.call(in_process, ["reload", "wg0", "--dry-run"], environment)
    return not any(line.startswith("[#]") for line in printed.splitlines())


def _write(near: Namespace, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        readable = f"umask 077; cat >{path}; ! id systemd-network 2>/dev/null || chown systemd-network {path}"
        near.run(
            ["sh", "-c", readable if "networkd" in path or "systemd" in path else f"umask 077; cat >{path}"],
            input=text,
        )


def _run(near: Namespace, command: str, environment: dict[str, str]) -> None:
    """Run a command with priority; `wgq` in a fork of this process. A failure is an AssertionError."""
    if command.startswith("wgq "):
        status, _, error = near.call(_first, command.split()[1:], environment)
        if status:
            raise AssertionError(error)
    else:
        near.run([*_FIRST.split(), "sh", "-c", command], env=environment, timeout=300)


def _first(arguments: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    os.nice(-15)
    return in_process(arguments, environment)


def _session(near: Namespace) -> str:
    shown = near.out("wg", "show", "wg0", "latest-handshakes").splitlines()
    return next((line for line in shown if line.startswith(public_key(FAR))), "")


def table(found: dict[str, dict[str, str]]) -> str:
    """The outcomes by tool and change as Markdown."""
    head = f"| lost probes | {' | '.join(found)} |\n|---|{'---|' * len(found)}\n"
    names = next(iter(found.values()))
    rows = (" | ".join(each.get(name, "-") for each in found.values()) for name in names)
    return head + "\n".join(f"| {name} | {row} |" for name, row in zip(names, rows, strict=True))


def main() -> None:
    """Measure the changes in the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="a part of the changes' names, also repeated")
    parser.add_argument("--tool", action="append", default=[], help="a tool of the table, also repeated")
    parser.add_argument("--kernel", action="store_true", help="boot a VM and try there")
    parser.add_argument("--inside", action="store_true", help="for the VM: print lines of JSON")
    given = parser.parse_args()
    known = {**tools.WG_QUICK, **(tools.MANAGERS if given.kernel or given.inside else {})}
    if not given.tool:
        given.tool = [name for name in known if not (given.kernel and name == "wg-quick down, up")]
    found: dict[str, dict[str, str]] = {name: {} for name in given.tool}
    if given.kernel:
        for line in _in_vm(given.tool, given.only):
            tool, change, outcome = json.loads(line)
            found[tool][change] = outcome
    else:
        changes = [each for each in CHANGES if not given.only or any(part in each.name for part in given.only)]
        for name in given.tool:
            for change, outcome in outcomes(known[name], changes, kernel=given.inside):
                found[name][change] = outcome
                print(
                    json.dumps([name, change, outcome]), file=sys.stdout if given.inside else sys.stderr, flush=True
                )
    if not given.inside:
        print(table(found))


def _in_vm(chosen: list[str], only: list[str]) -> list[str]:
    from tests.kernel import vm

    for package in tools.PACKAGES:
        unpacked(package)  # the VM has no network
    arguments = [word for name in chosen for word in ("--tool", name)] + [
        word for part in only for word in ("--only", part)
    ]
    return vm.run("benchmarks.loss", "--inside", *arguments, limit=7200)


if __name__ == "__main__":
    main()
