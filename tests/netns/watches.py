"""A run of `wgq watch` in a machine, and its events."""

from __future__ import annotations

import json
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.netns.tunnels import WGQ
from tests.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.namespaces import Namespace


SOON = 120.0
"""Seconds that a loaded machine may take; a quiet one has two."""


class Watch:
    """A running watch and its events."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process, self._path = process, path

    def events(self, event: str = "") -> list[dict[str, Any]]:
        """The events so far, or those of one kind. A reader may see only a part of the last line."""
        events = [json.loads(line) for line in self._path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        return [each for each in events if event in ("", each["event"])]

    def await_event(self, event: str) -> dict[str, Any]:
        """Wait for the first event of this kind, and return it."""
        until(lambda: self.events(event), event)
        return self.events(event)[0]

    def end(self) -> int:
        """End the watch as a service manager does. Returns the exit status."""
        self.process.terminate()
        return self.process.wait(SOON)


@contextmanager
def watching(machine: Namespace, path: Path, *arguments: str) -> Iterator[Watch]:
    """A watch that has reported its first check to the service manager. It is ended afterwards."""
    output = path / "watched"
    with output.open("wb") as file, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"wgq-test-{os.getpid()}"
        manager.bind(str(path / name))
        manager.settimeout(SOON)
        command = [*WGQ, "watch", "--json", *arguments]
        process = machine.popen(command, stdout=file, env={**os.environ, "NOTIFY_SOCKET": str(path / name)})
        assert manager.recv(100) == b"READY=1"
    watch = Watch(process, output)
    try:
        yield watch
    finally:
        assert watch.end() == 0


def state(machine: Namespace) -> str:
    """Everything that a watch restores."""
    routing = "ip -4 rule; ip -6 rule; ip -4 route show table all dev wg0; ip -6 route show table 51820"
    more = "ip -4 addr show wg0; nft list ruleset; cat /etc/resolv.conf /proc/sys/net/ipv4/conf/all/src_valid_mark"
    return machine.out("sh", "-c", f"{routing}; {more}")
