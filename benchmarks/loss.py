"""Counts lost packets and ended sessions while a live tunnel is changed.

It makes each kind of change by `wgq reload`, by `wg syncconf`, and by taking the tunnel down and up.

    python -m benchmarks.loss                          # over wgq-userspace, in two namespaces
    python -m benchmarks.loss --kernel                 # over the kernel's WireGuard, in a VM without KVM
    python -m benchmarks.loss --only "FwMark"          # the changes with this text in their name

A thousand probes per second go through the tunnel and are answered, during the change and for one second after it.
A probe that cannot be sent counts as lost. A session has ended if its latest handshake has changed. A change counts
as not made if `wgq reload --dry-run` prints changes afterwards. The measured processes run with priority, so that
other programs on the machine cause no loss. Needs root and what scripts/test installs.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.interop.pairs import private_key, public_key
from tests.namespaces import host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

WGQ = f"{sys.executable} -m wgquick"
USERSPACE = {"WG_QUICK_USERSPACE_IMPLEMENTATION": "wgq-userspace"}
_FIRST = "nice -n -15 "
SYNCCONF = "wg-quick strip wg0 >/run/stripped && wg syncconf wg0 /run/stripped"
TOOLS = {
    "wgq reload": f"{WGQ} reload wg0",
    "wg syncconf": SYNCCONF,
    "wg-quick down, up": "wg-quick down wg0; wg-quick up wg0",
}
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
        peers = f"[Peer]\nPublicKey = {public_key(NEAR)}\nAllowedIPs = 0.0.0.0/0\n"
        peers += f"[Peer]\nPublicKey = {public_key(NEXT)}\n"
        text = f"[Interface]\nPrivateKey = {FAR}\nListenPort = 51820\n{peers}"
        far.run(["wg", "setconf", "wg0", "/dev/stdin"], input=text)
        far.run(["ip", "-batch", "-"], input=f"addr add {PROBE}/24 dev wg0\nlink set wg0 up\n")
        yield near, far


def tried(change: Change, tool: str, *, kernel: bool = False) -> Outcome:
    """Make the change with the tool during a thousand probes per second."""
    environment = {**os.environ, **({} if kernel else USERSPACE)}
    with ends(kernel=kernel) as (near, far):
        _write(near, change.before)
        _run(near, _FIRST + (f"{WGQ} up wg0" if "wgq" in tool else "wg-quick up wg0"), environment)
        near.run(["ping", "-c", "2", "-i", "0.2", "-W", "30", PROBE])
        if change.prepare:
            far.run(["sh", "-c", change.prepare])
            far.run(["ping", "-c", "2", "-i", "0.2", "-W", "30", "10.0.0.1"])
        session = _session(near)
        _write(near, change.after)
        echo = far.popen(["python3", "-c", ECHO, str(PORT)], stdout=subprocess.PIPE)
        if echo.stdout is None:
            raise SystemExit("there is no pipe")
        echo.stdout.readline()
        probes = near.popen(
            ["python3", "-c", SEND, PROBE, str(PORT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        time.sleep(0.5)
        done = near.run([*_FIRST.split(), "sh", "-c", tool], env=environment, check=False, timeout=300)
        if change.follow:
            far.run(["sh", "-c", change.follow])
        if done.returncode:
            raise SystemExit(f"{change.name}: {tool}: {done.stderr}")
        time.sleep(1)
        output, _ = probes.communicate(b"enough", timeout=60)
        sent, heard = map(int, output.split())
        echo.stdout.close()
        left = near.run(["sh", "-c", f"{WGQ} reload wg0 --dry-run"], env=environment, check=False, timeout=300)
        made = not any(line.startswith("[#]") for line in left.stdout.splitlines())
        return Outcome(sent, sent - heard, _session(near) != session, made)


def _write(near: Namespace, text: str) -> None:
    near.run(["sh", "-c", "umask 077; cat >/etc/wireguard/wg0.conf"], input=text)


def _run(near: Namespace, command: str, environment: dict[str, str]) -> None:
    near.run(["sh", "-c", command], env=environment, timeout=300)


def _session(near: Namespace) -> str:
    shown = near.out("wg", "show", "wg0", "latest-handshakes").splitlines()
    return next((line for line in shown if line.startswith(public_key(FAR))), "")


def table(rows: list[tuple[str, dict[str, str]]]) -> str:
    """The outcomes as Markdown."""
    head = f"| lost probes | {' | '.join(TOOLS)} |\n|---|{'---|' * len(TOOLS)}\n"
    return head + "\n".join(f"| {name} | {' | '.join(found.values())} |" for name, found in rows)


def main() -> None:
    """Measure the changes in the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a part of the changes' names")
    parser.add_argument("--kernel", action="store_true", help="boot a VM and try there")
    parser.add_argument("--inside", action="store_true", help="for the VM: print lines of JSON")
    given = parser.parse_args()
    if given.kernel:
        from tests.kernel import vm

        with tempfile.TemporaryDirectory() as folder:
            lines = vm.run(Path(folder), "benchmarks.loss", "--inside", "--only", given.only)
        print(table([tuple(json.loads(line)) for line in lines]))
        return
    rows = []
    for change in CHANGES:
        if given.only in change.name:
            found = {name: str(tried(change, tool, kernel=given.inside)) for name, tool in TOOLS.items()}
            rows.append((change.name, found))
            if given.inside:
                print(json.dumps(rows[-1]), flush=True)
            else:
                print(change.name, found, file=sys.stderr, flush=True)
    if not given.inside:
        print(table(rows))


if __name__ == "__main__":
    main()
