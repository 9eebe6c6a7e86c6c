"""`wgq watch`: prints a line for each event, and runs a command."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import aclosing
from typing import TYPE_CHECKING

from wgquick import api
from wgquick.cli import privilege
from wgquick.cli.streams import say
from wgquick.cli.verbs import write
from wgquick.config.location import valid_name
from wgquick.errors import ENDING_SIGNALS, SignalError
from wgquick.transcript import note
from wgquick.upkeep.events import Event, json_line, text_line

if TYPE_CHECKING:
    from wgquick.cli.verbs import Given

_COMMAND_PATIENCE = 60.0
_QUEUE = 1000


def watch(targets: list[str], given: Given) -> int:
    """Watch until a signal comes; returns 1 with --once and --check-only if something is missing."""
    for name in targets:
        valid_name(name)
    privilege.acquire()
    return asyncio.run(_Run(targets, given).run())


class _Run:
    def __init__(self, targets: list[str], given: Given) -> None:
        self._targets = targets
        self._once, self._check_only = bool(given.get("once")), bool(given.get("check-only"))
        self._line = json_line if given.get("json") else text_line
        self._command = str(given.get("exec") or "")
        self._commands: asyncio.Queue[Event] = asyncio.Queue(_QUEUE)
        self._signal: signal.Signals | None = None
        self._count = 0

    async def run(self) -> int:
        """The exit status; 0 after TERM, with which service managers stop services."""
        printing = asyncio.create_task(self._print())
        running = asyncio.create_task(self._run_commands())
        self._handle_signals(printing)
        try:
            await printing
            await self._commands.join()
        except asyncio.CancelledError:
            if self._signal is None:
                raise
        finally:
            running.cancel()
        if self._signal not in (None, signal.SIGTERM):
            raise SignalError(self._signal.name, self._signal)
        return int(self._once and self._check_only and self._count > 0)

    def _handle_signals(self, printing: asyncio.Task[None]) -> None:
        """End at a signal, but not in the middle of a repair."""

        def end(number: signal.Signals) -> None:
            self._signal = number
            printing.cancel()

        for number in map(signal.Signals, ENDING_SIGNALS):
            if signal.getsignal(number) != signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, end, number)

    async def _print(self) -> None:
        events = api.watch(
            self._targets, once=self._once, check_only=self._check_only, ready=lambda: _notify("READY=1")
        )
        async with aclosing(events) as each:
            async for event in each:
                self._count += 1
                write(self._line(event))
                if self._command:
                    self._enqueue(event)

    def _enqueue(self, event: Event) -> None:
        try:
            self._commands.put_nowait(event)
        except asyncio.QueueFull:
            say(
                note(
                    f"{_QUEUE} events wait for the command: it does not run for {event.event} of {event.interface}"
                )
            )

    async def _run_commands(self) -> None:
        """Run the commands one after another, in the order of the events."""
        while True:
            event = await self._commands.get()
            await self._run_command(event)
            self._commands.task_done()

    async def _run_command(self, event: Event) -> None:
        fields = {f"WGQ_{name.upper()}": str(value) for name, value in event._asdict().items()}
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", self._command, env={**os.environ, **fields}, stdin=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(_COMMAND_PATIENCE):
                status = await process.wait()
        except TimeoutError:
            process.kill()
            say(note(f"The command for {event.event} was killed after {_COMMAND_PATIENCE:.0f} seconds"))
        except asyncio.CancelledError:
            process.terminate()
            raise
        else:
            if status:
                say(note(f"The command for {event.event} exited with {status}"))


def _notify(text: str) -> None:
    """Notify the service manager (sd_notify(3)); does nothing without one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as made:
        made.connect(path.replace("@", "\0", 1) if path[0] == "@" else path)
        made.send(text.encode())
