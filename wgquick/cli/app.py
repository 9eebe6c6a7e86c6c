"""The full command line: typer's application, generated from the tables in `wgquick.options`."""

from __future__ import annotations

from inspect import Parameter, Signature
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, cast

import typer

import wgquick
from wgquick.cli import verbs
from wgquick.cli.main import split
from wgquick.errors import WgqError
from wgquick.options import DIRECTORY, MANY, OPTIONS, VERBS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wgquick.options import Option, Verb

_EPILOG = f"""
CONFIG_FILE is a path to INTERFACE.conf; INTERFACE alone means {DIRECTORY}/INTERFACE.conf; `-' is standard input.
wg-quick(8) and wg(8) describe these files.
"""

# click's ClickException, of the package click or of typer's own copy.
_TYPER_ERROR = cast(
    "type[typer.BadParameter]",
    next(each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException"),
)
_ALONE = {f"--{each.name}": f"--{each.name}={each.alone}" for each in OPTIONS.values() if each.alone}
"""The options that may have no value, each with the value that it has then."""

app = typer.Typer(
    name="wgq",
    help="Bring WireGuard interfaces up and down from their configuration files, as wg-quick(8) does.",
    epilog=_EPILOG,
    add_completion=False,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _parameter(option: Option) -> Parameter:
    """The option as a parameter for typer."""
    text = f"{option.help} [env: {option.variable}]" if option.variable else option.help
    default: bool | None
    if option.is_flag:
        annotation, default = Annotated[bool, typer.Option(f"--{option.name}", help=text)], False
    else:
        metavar = option.metavar or "|".join(option.values)
        annotation = Annotated[str | None, typer.Option(f"--{option.name}", metavar=metavar, help=text)]
        default = None
    return Parameter(_identifier(option.name), Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _identifier(name: str) -> str:
    """The option's name as a Python identifier, also for `for` and names with a hyphen."""
    return f"option_{name.replace('-', '_')}"


def _words(verb: Verb) -> str:
    """The words for the verb's arguments in usage lines."""
    return f"{verb.words}|-" if verb.standard_input else verb.words


def _target(verb: Verb) -> Parameter:
    """The verb's argument. It is hidden because typer's text changes with its releases; the epilog describes it."""
    argument = typer.Argument(metavar=_words(verb), hidden=True)
    if verb.most > 1:
        annotation, default = Annotated[list[str] | None, argument], Parameter.empty if verb.least else None
        return Parameter("targets", Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
    if not verb.least:
        return Parameter(
            "targets", Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, argument]
        )
    return Parameter("targets", Parameter.KEYWORD_ONLY, annotation=Annotated[str, argument])


def _command(verb: Verb) -> Callable[..., None]:
    """The function that typer calls for a verb."""

    def command(targets: str | list[str] | None, **given: str | bool | None) -> None:
        each = [targets] if isinstance(targets, str) else targets or []
        _check_count(verb, each, [])
        words = {name: given.get(_identifier(name)) for name in verb.options}
        chosen: dict[str, str | bool] = {name: word for name, word in words.items() if word}
        status = verbs.run(verb.name, each, chosen)
        if status:
            raise typer.Exit(status)

    parameters = [_target(verb), *(_parameter(OPTIONS[name].of(verb.name)) for name in verb.options)]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


for _verb in VERBS.values():
    app.command(
        _verb.name,
        help=_verb.help,
        short_help=_verb.summary,
        epilog=_EPILOG,
        # The options after the command's name are the command's.
        context_settings={"allow_interspersed_args": _verb.name != "exec"},
    )(_command(_verb))


@app.command(name="help", hidden=True)
def show_help(context: typer.Context) -> None:
    """Print the overview."""
    typer.echo(context.find_root().get_help())


@app.callback(invoke_without_command=True)
def overview(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Without a verb: print the overview and exit with status 1, as wg-quick does."""
    if version:
        typer.echo(f"wgq {wgquick.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(1)


def run_app(arguments: list[str]) -> int:
    """Run typer; WgqError for a usage error, as wg-quick exits with 1 and typer with 2."""
    if len(arguments) == 2 and arguments[0] == "help" and arguments[1] in VERBS:
        arguments = [arguments[1], "--help"]
    call = split(arguments)
    if arguments and not arguments[0].startswith("-") and arguments[0] not in (*VERBS, "help"):
        raise WgqError(f"`{arguments[0]}' is not a verb", remedy=_usage(None))
    if call is not None:
        _check_count(VERBS[call.verb], call.targets, arguments)
    try:
        status = app([_ALONE.get(word, word) for word in arguments], prog_name="wgq", standalone_mode=False)
    except _TYPER_ERROR as error:
        verb = VERBS.get(arguments[0])
        raise WgqError(_what(error, verb), remedy=_usage(verb)) from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    return status or 0


def _what(error: typer.BadParameter, verb: Verb | None) -> str:
    """The message for an error of typer."""
    name = str(getattr(error, "option_name", None) or "")
    called = f"wgq {verb.name}" if verb else "wgq"
    if hasattr(error, "possibilities"):
        meant = " or ".join(sorted(error.possibilities or ()))
        what = f"`{name}' is not an option of {called}"
        return f"{what}; did you mean {meant}?" if meant else what
    option = OPTIONS.get(name.removeprefix("--"))
    if option is None or verb is None:
        message = error.format_message().rstrip(".")
        return message[:1].lower() + message[1:]
    if option.is_flag:
        return f"`{name}' takes no value"
    return f"`{name}' needs a value: {', '.join(option.values) or option.of(verb.name).metavar}"


def _check_count(verb: Verb, targets: Sequence[str], arguments: Sequence[str]) -> None:
    """WgqError if a verb has too few or too many targets."""
    if len(targets) < verb.least:
        raise WgqError(f"`wgq {verb.name}' needs {verb.needs}", remedy=_usage(verb))
    if len(targets) > verb.most:
        what = f"`wgq {verb.name}' takes no further argument: `{targets[verb.most]}'"
        raise WgqError(what, remedy=_forgotten_equals(arguments) or _usage(verb))


def _forgotten_equals(arguments: Sequence[str]) -> str:
    """The remedy for a value after an option that takes one only after `='; "" if no value looks like that."""
    for word, after in pairwise(arguments):
        if word in _ALONE and after[:1].isdecimal():
            return f"Write {word}={after}, as the value of {word} follows after `='."
    return ""


def _usage(verb: Verb | None) -> str:
    if verb is None:
        return "Usage: wgq VERB ...; `wgq -h' lists the verbs."
    words = _words(verb)
    if verb.most == MANY and "..." not in words:
        words += "..."
    if not verb.least:
        words = f"[{words}]"
    return f"Usage: wgq {verb.name} [OPTIONS] {words}; `wgq {verb.name} -h' lists the options."
