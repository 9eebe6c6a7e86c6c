"""The command line: arguments in, text out, and the exit status.

This module parses valid calls itself, by the tables in `wgquick.options`: importing typer takes about as long as a
whole `wg-quick up`. Everything else (help, usage errors) goes to typer. Both call `verbs`.
"""

from __future__ import annotations

from wgquick.cli import streams
from wgquick.errors import ConfigError, WgqError, reason_of, status_of_signal
from wgquick.lean import TYPE_CHECKING, NamedTuple, signal
from wgquick.options import OPTIONS, VERBS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wgquick.options import Verb


class Call(NamedTuple):
    """A verb with its arguments and options; `given` maps an option's name to a value or True."""

    verb: str
    targets: list[str]
    given: dict[str, str | bool]


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status (docs/reference.md lists them)."""
    streams.open_missing()
    try:
        return _dispatch(arguments)
    except ConfigError as error:
        streams.say(str(error))
        return error.status
    except WgqError as error:
        streams.say(f"wgq: {error}")
        return error.status
    except KeyboardInterrupt:  # nothing to undo yet
        return status_of_signal(signal.SIGINT)
    except BrokenPipeError:
        streams.discard_output()
        return 1
    except OSError as error:
        streams.say(f"wgq: {reason_of(error)}")
        streams.discard_output()
        return 1


def _dispatch(arguments: Sequence[str]) -> int:
    call = parse(arguments)
    if call is None:
        from wgquick.cli.app import run_app

        return run_app(list(arguments))
    from wgquick.cli import verbs

    return verbs.run(*call)


def parse(arguments: Sequence[str]) -> Call | None:
    """The parsed call; None if the arguments ask for help or have an error, which `cli.app` then reports."""
    call = split(arguments)
    if call is None:
        return None
    verb = VERBS[call.verb]
    return call if verb.least <= len(call.targets) <= verb.most else None


def split(arguments: Sequence[str]) -> Call | None:
    """The call, perhaps with too few or too many targets; None if the arguments ask for help or have another error.

    VERB (--NAME VALUE | --NAME=VALUE | --FLAG | TARGET)... [-- TARGET...]
    """
    verb = VERBS.get(arguments[0]) if arguments else None
    if verb is None:
        return None
    rest = list(arguments[1:])
    given: dict[str, str | bool] = {}
    targets: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            targets += rest
            break
        if word == "-" or not word.startswith("-"):
            targets.append(word)
        elif not _take_option(verb, word, rest, given):
            return None
    return Call(verb.name, targets, given)


def _take_option(verb: Verb, word: str, rest: list[str], given: dict[str, str | bool]) -> bool:
    """Move an option, and its value from `rest`, to `given`; False if it is not valid for the verb."""
    name, equals, value = word.removeprefix("--").partition("=")
    if not word.startswith("--") or name not in verb.options:
        return False
    option = OPTIONS[name]
    if option.is_flag or (option.alone and not equals):
        given[name] = option.alone or True
        return not equals
    if not equals and not rest:
        return False
    given[name] = value if equals else rest.pop(0)
    return True
