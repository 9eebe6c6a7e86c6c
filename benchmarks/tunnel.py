"""Compares userspace WireGuard implementations through a tunnel between two of the tests' machines.

    python -m benchmarks.tunnel "wgq-userspace -f" "wireguard-go -f" --rounds 3

A command takes the interface as its last argument, stays in the foreground and serves the UAPI socket. Each round
measures every command once, so that other load affects all commands alike. A figure is the median of the rounds,
and the last column is the first command's figure divided by this command's. Needs root, what scripts/test installs,
and a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING

from benchmarks import page
from tests.namespaces import host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

INTERFACE = "wgb0"
QUIET = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
SECONDS = 4
TICKS = os.sysconf("SC_CLK_TCK")
# A message with 64 bytes of UDP: 92 bytes of IP, padded to 96, and 32 of WireGuard (whitepaper, 5.4.6).
MESSAGE = 128
Figures = dict[str, float]

# Sends as many 64-byte datagrams as possible for some seconds, in bundles (UDP_SEGMENT).
SEND = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 103, 64)
s.connect((sys.argv[1], 9))
bundle = bytes(64 * 60)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    try:
        s.send(bundle)
    except OSError:
        time.sleep(0.0005)
"""
# Counts the received datagrams (UDP_GRO) from the first one on, and prints the rate per second. It reuses one
# buffer, as allocating one for each call takes Python longer than the call.
RECEIVE = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 104, 1)
s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
s.bind((sys.argv[1], 9))
s.settimeout(5)
buffer = bytearray(1 << 17)
got = s.recv_into(buffer)
end = time.monotonic() + float(sys.argv[2])
s.settimeout(0.5)
try:
    while time.monotonic() < end:
        got += s.recv_into(buffer)
except TimeoutError:
    pass
print(got / 64 / float(sys.argv[2]))
"""


class End:
    """One end of the tunnel: a machine and its daemon."""

    def __init__(self, machine: Namespace, number: int, command: str) -> None:
        self.machine, self.number = machine, number
        self.private = machine.out("wg", "genkey").strip()
        self.public = machine.run(["wg", "pubkey"], input=self.private).stdout.strip()
        self.daemon = machine.popen([*shlex.split(command), INTERFACE], **QUIET)
        _wait_for(machine)

    def join(self, other: End) -> None:
        """Configure the tunnel to the other end."""
        text = (
            f"[Interface]\nPrivateKey = {self.private}\nListenPort = 5182{self.number}\n"
            f"[Peer]\nPublicKey = {other.public}\nAllowedIPs = 10.10.0.{other.number}/32\n"
            f"Endpoint = 10.9.0.{other.number}:5182{other.number}\n"
        )
        self.machine.run(["wg", "setconf", INTERFACE, "/dev/stdin"], input=text)
        self.machine.run(["ip", "address", "add", f"10.10.0.{self.number}/24", "dev", INTERFACE])
        self.machine.run(["ip", "link", "set", INTERFACE, "mtu", "1420", "up"])

    def processor(self) -> float:
        """The daemon's processor time in seconds."""
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def transfer(self) -> tuple[int, int]:
        """The encrypted bytes that the daemon has received and sent, as it counts them."""
        received, sent = self.machine.out("wg", "show", INTERFACE, "transfer").split()[1:]
        return int(received), int(sent)

    def memory(self) -> float:
        """The daemon's peak resident memory in megabytes."""
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.daemon.pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0


def _wait_for(machine: Namespace) -> None:
    deadline = time.monotonic() + 10
    while machine.run(["wg", "show", INTERFACE], check=False).returncode:
        if time.monotonic() > deadline:
            raise SystemExit("the daemon does not answer on its socket")
        time.sleep(0.05)


@contextlib.contextmanager
def tunnel(command: str) -> Iterator[tuple[End, End]]:
    """Two machines on one cable, with the tunnel up between them and an iperf3 server on the second."""
    with host() as left, host() as right:
        keeper = re.findall(r"\d+", right.paths["net"])[0]
        left.run(["ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", keeper])
        for number, machine in enumerate((left, right), 1):
            machine.run(["ip", "address", "add", f"10.9.0.{number}/24", "dev", "cable"])
            machine.run(["ip", "link", "set", "cable", "up"])
        one, two = End(left, 1, command), End(right, 2, command)
        one.join(two)
        two.join(one)
        left.run(["ping", "-c", "3", "-i", "0.2", "-q", "10.10.0.2"])
        right.popen(["iperf3", "-s"], **QUIET)
        time.sleep(0.5)
        yield one, two


def _tcp(end: End, *extra: str) -> float:
    """Gbit/s; the sum of both directions if both are measured."""
    printed = end.machine.out("iperf3", "-c", "10.10.0.2", "-t", str(SECONDS), "-J", *extra)
    sums = json.loads(printed)["end"]
    both = ("sum_received", "sum_received_bidir_reverse")
    return float(sum(sums[name]["bits_per_second"] for name in both if name in sums)) / 1e9


def _packets(one: End, two: End) -> Figures:
    """The datagrams that arrive a second, and the daemons' processor time for one, sent and received.

    The rate falls with each other process, as the test overloads two processors; the time does not.
    """
    used, (_, sent), (received, _) = (one.processor(), two.processor()), one.transfer(), two.transfer()
    receiver = two.machine.popen(
        [sys.executable, "-c", RECEIVE, "10.10.0.2", str(SECONDS - 1)],
        stdin=DEVNULL,
        stdout=subprocess.PIPE,
        stderr=DEVNULL,
    )
    time.sleep(0.3)
    one.machine.run([sys.executable, "-c", SEND, "10.10.0.2", str(SECONDS)])
    rate = float(receiver.communicate()[0] or 0)
    sending = (one.processor() - used[0]) / (one.transfer()[1] - sent) * MESSAGE
    receiving = (two.processor() - used[1]) / (two.transfer()[0] - received) * MESSAGE
    return {"64 B packets/s": rate, "64 B send ns": sending * 1e9, "64 B receive ns": receiving * 1e9}


def _ping_under_load(one: End) -> float:
    load = one.machine.popen(["iperf3", "-c", "10.10.0.2", "-t", str(SECONDS)], **QUIET)
    time.sleep(0.5)
    printed = one.machine.out("ping", "-q", "-i", "0.02", "-w", str(SECONDS - 1), "10.10.0.2")
    load.wait()
    found = re.search(r"= [\d.]+/([\d.]+)/", printed)
    return float(found[1]) if found else float("nan")


def measure(command: str) -> Figures:
    """All figures of one implementation in one tunnel."""
    with tunnel(command) as (one, two):
        before = one.processor() + two.processor()
        figures = {"TCP Gbit/s": _tcp(one)}
        used = one.processor() + two.processor() - before
        figures["processor s/Gbit"] = used / (figures["TCP Gbit/s"] * SECONDS)
        figures["TCP, 4 streams"] = _tcp(one, "-P", "4")
        figures["TCP, reverse"] = _tcp(one, "-R")
        figures["TCP, both ways"] = _tcp(one, "--bidir")
        figures |= _packets(one, two)
        figures["ping under load ms"] = _ping_under_load(one)
        figures["peak memory MB"] = max(one.memory(), two.memory())
        return figures


def main() -> None:
    """Measure the commands in turn and print their medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="benchmarks.tunnel"
    )
    parser.add_argument("commands", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", type=Path, help="a folder to write performance.md and performance.svg into")
    given = parser.parse_args()
    seen: dict[str, list[Figures]] = {command: [] for command in given.commands}
    for _ in range(given.rounds):
        for command, figures in seen.items():
            figures.append(measure(command))
    medians = {
        command: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for command, rows in seen.items()
    }
    first = medians[given.commands[0]]
    for name in first:
        for command, row in medians.items():
            print(f"{name:20}{row[name]:14.3f}  {command:32}{first[name] / row[name]:7.2f}x")
    if given.page:
        page.write(given.page, medians, given.rounds)


if __name__ == "__main__":
    main()
