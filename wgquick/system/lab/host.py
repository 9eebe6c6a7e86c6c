"""The process of a simulated host: it holds the namespaces and executes requests, one line of JSON each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from wgquick import reexec
from wgquick.errors import OperationError
from wgquick.options import CIPHER, DIRECTORY, LOG_LEVEL, OPTIONS, PROGRAM, RETRIES
from wgquick.rehearsal import Probe
from wgquick.system.lab import network, traffic
from wgquick.system.netlink import RtNetlink
from wgquick.system.wireguard import Control

if TYPE_CHECKING:
    import socket
    from typing import Any

    from wgquick.rehearsal import Host

_MOST_OUTPUT = 20_000
_ENDLESS = 124  # timeout(1)'s status for a command that did not end
_PASSED_ON = (LOG_LEVEL, CIPHER, OPTIONS["firewall"].variable)


def attend(host: Host, asked: socket.socket) -> None:
    """Execute requests until the router ends."""
    servers = traffic.listening()
    if os.fork() == 0:
        asked.close()
        traffic.serve(servers)
        os._exit(0)
    for server in servers:
        server.close()
    with asked.makefile("rwb") as lines:
        for line in lines:
            request = json.loads(line)
            answer = _answered(host, request)
            lines.write(json.dumps(answer).encode() + b"\n")
            lines.flush()
    signal.pause()  # a kept host stays for inspection


def _answered(host: Host, request: dict[str, Any]) -> Any:
    match request["do"]:
        case "up":
            target = f"{DIRECTORY}/{host.interface}.conf"
            options = ["--backend", "userspace", "--dns", "file"]
            return _run(["up", *options, target], request["patience"])
        case "run":
            return _run(request["arguments"], request["patience"])
        case "state":
            return _state(host.interface)
        case "probe":
            probes = [Probe(*each)._replace(peer=b"") for each in request["probes"]]
            return traffic.try_all(probes, request["mtu"])
        case unknown:
            raise ValueError(unknown)


def _run(arguments: list[str], patience: float) -> tuple[int, str]:
    """Run this program with the arguments; returns its status, and its output with that of its hooks.

    The output goes to a file: a daemon started by a hook would keep a pipe open.
    """
    output = os.memfd_create("output")
    child = subprocess.Popen(
        reexec.command([sys.argv[0], *arguments]),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=_environment(),
        cwd="/",
        start_new_session=True,
    )
    try:
        status = child.wait(patience)
        late = ""
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        status, late = _ENDLESS, f"it did not end within {patience:.0f} seconds\n"
    size = os.fstat(output).st_size
    text = os.pread(output, _MOST_OUTPUT, max(0, size - _MOST_OUTPUT)).decode(errors="replace")
    os.close(output)
    return status, text + late


def _environment() -> dict[str, str]:
    """This process's environment without the choice of another backend; names are looked up only briefly."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if name != PROGRAM and (not name.startswith("WGQ_") or name in _PASSED_ON)
    }
    return {**ours, RETRIES: "1", "HOME": os.environ.get("HOME", "/")}


def _state(interface: str) -> dict[str, Any]:
    link = RtNetlink().link(interface)
    try:
        device = Control().get(interface)
    except (OperationError, OSError):
        return {"forwards": network.forwards()}
    return {
        "mtu": link.mtu if link else 0,
        "listen_port": device.listen_port,
        "forwards": network.forwards(),
        "handshakes": [peer.public_key.raw.hex() for peer in device.peers if peer.last_handshake],
    }
