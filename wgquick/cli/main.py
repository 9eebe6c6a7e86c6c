"""The command line: arguments in, text out, and the exit status.

`wgq up wg0`, the form that scripts use, is recognised without typer, whose import costs more time than wg-quick's
rule of thumb for a whole `up`; both ways end in `verbs`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from wgquick.errors import ConfigError, WgqError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VERBS = ("up", "down", "save", "strip")


def run(arguments: Sequence[str]) -> int:
    """Run one command; the status is wg-quick's: 0, 1, or a failing hook's own."""
    try:
        return _dispatch(arguments)
    except ConfigError as error:
        _complain(str(error))
        return error.status
    except WgqError as error:
        _complain(f"wgq: {error}")
        return error.status
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter would complain at exit when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _dispatch(arguments: Sequence[str]) -> int:
    match arguments:
        case [verb, target] if verb in VERBS and not target.startswith("-"):
            from wgquick.cli import verbs

            simple: Callable[[str], None] = getattr(verbs, verb)
            simple(target)
            return 0
        case _:
            from wgquick.cli.app import run_app

            return run_app(list(arguments))
