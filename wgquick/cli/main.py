"""The command line: arguments in, text out, and the exit status.

`wgq up wg0`, the form that scripts use, is recognised without typer, whose import costs more time than wg-quick's
rule of thumb for a whole `up`; both ways end in `verbs`.
"""

from __future__ import annotations

from signal import SIGINT
from typing import TYPE_CHECKING

from wgquick.cli import streams
from wgquick.errors import ConfigError, WgqError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VERBS = ("up", "down", "save", "strip")


def run(arguments: Sequence[str]) -> int:
    """Run one command; the status is wg-quick's: 0, 1, or a failing hook's own."""
    streams.open_missing()
    try:
        return _dispatch(arguments)
    except ConfigError as error:
        streams.say(str(error))
        return error.status
    except WgqError as error:
        streams.say(f"wgq: {error}")
        return error.status
    except KeyboardInterrupt:  # before there is anything to undo
        return 128 + SIGINT
    except BrokenPipeError:
        streams.forsake_output()
        return 1
    except OSError as error:
        streams.say(f"wgq: {f'{error.filename}: ' if error.filename else ''}{error.strerror}")
        streams.forsake_output()
        return 1


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
