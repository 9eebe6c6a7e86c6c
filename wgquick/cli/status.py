"""`wgq status`: prints once, or every second."""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING

from wgquick import api
from wgquick.cli import privilege, signals
from wgquick.cli.streams import say
from wgquick.cli.verbs import write
from wgquick.config import location
from wgquick.errors import NOT_UP, OperationError, SignalError, WgqError
from wgquick.lean import signal
from wgquick.show import status as show

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from wgquick.cli.verbs import Given
    from wgquick.status.values import Status

_PAUSE = 1.0
_NARROWEST = 40


def status(targets: list[str], given: Given) -> int:
    """Show interfaces and peers; with --exit-code returns NOT_UP unless each wanted peer is up."""
    if given.get("watch") and given.get("exit-code"):
        raise WgqError("--watch and --exit-code exclude each other", remedy="Omit one of them.")
    privilege.acquire()
    targets = names(targets)
    text = show.json_text if given.get("json") else _text
    if given.get("watch"):
        return _watch(targets, text)
    gc.disable()  # it would scan a large interface's peers repeatedly and find no garbage
    try:
        found = api.status(targets)
    except OperationError as error:
        if not given.get("exit-code"):
            raise
        say(f"wgq: {error}")
        return NOT_UP
    write(text(found))
    return NOT_UP if given.get("exit-code") and not found.is_well else 0


def names(targets: list[str]) -> list[str]:
    """The named interfaces: names, which need not be valid for wg-quick, or paths of files."""
    return [location.interface_name(each) if "/" in each or each.endswith(".conf") else each for each in targets]


def _text(found: Status) -> str:
    """The text for people; on a terminal in its width and colours."""
    console = _terminal()
    if console is None:
        return show.text(found)
    return show.text(found, _painter(console), max(console.width, _NARROWEST))


def _terminal() -> Console | None:
    """The terminal; None if the output goes elsewhere, without importing rich's console."""
    if sys.stdout is None or not (sys.stdout.isatty() or os.environ.get("FORCE_COLOR")):
        return None
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)


def _painter(console: Console) -> Callable[[str, str], str]:
    """The function that colours texts on this terminal; without colours if it has none or NO_COLOR is set."""
    from rich.color import ColorSystem
    from rich.style import Style

    if console.color_system is None or console.no_color:
        return show.plain
    systems = {"standard": ColorSystem.STANDARD, "256": ColorSystem.EIGHT_BIT, "truecolor": ColorSystem.TRUECOLOR}
    system = systems.get(console.color_system, ColorSystem.STANDARD)
    return lambda style, text: Style.parse(style).render(text, color_system=system)


def _watch(targets: list[str], text: Callable[[Status], str]) -> int:
    """Print repeatedly until a signal arrives; the status is 128 plus the signal's number."""
    observer = api.observer()
    if targets:
        api.status(targets)  # a missing interface is an error now, but may return later
    console = _terminal() if text is _text else None
    try:
        with signals.raised():
            if console is not None:
                _live(lambda: text(observer.read(targets, missing=True)), console)
            while True:
                write(text(observer.read(targets, missing=True)) + ("\n" if text is _text else ""))
                time.sleep(_PAUSE)
    except SignalError as error:
        if error.number == signal.SIGINT:  # Ctrl-C is the normal way to end
            return error.status
        raise


def _live(shown: Callable[[], str], console: Console) -> None:
    """Print on the terminal's alternate screen; the previous content returns at the end."""
    from rich.live import Live
    from rich.text import Text

    def screen() -> Text:
        return Text.from_ansi(shown(), no_wrap=True)

    with Live(screen(), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(_PAUSE)
            live.update(screen(), refresh=True)
