"""The full command line: typer's application, generated from the tables in `wgquick.options`."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated

import typer

import wgquick
from wgquick.cli import verbs
from wgquick.options import DIRECTORY, OPTIONS, VERBS

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.options import Option, Verb

_EPILOG = f"""
CONFIG_FILE is a path to INTERFACE.conf; INTERFACE alone means {DIRECTORY}/INTERFACE.conf; `-' is standard input.
wg-quick(8) and wg(8) describe these files.
"""

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


def _target(verb: Verb) -> Parameter:
    """The verb's argument. It is hidden because typer's text changes with its releases; the epilog describes it."""
    argument = typer.Argument(metavar=f"{verb.words}|-" if verb.standard_input else verb.words, hidden=True)
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
        if len(each) < verb.least > 1:
            raise typer.BadParameter(f"It needs at least {verb.least} arguments: {verb.words}")
        if len(each) > verb.most:
            raise typer.BadParameter(f"Got unexpected extra argument ({each[verb.most]})")
        words = {name: given.get(_identifier(name)) for name in verb.options}
        chosen: dict[str, str | bool] = {name: word for name, word in words.items() if word}
        status = verbs.run(verb.name, each, chosen)
        if status:
            raise typer.Exit(status)

    parameters = [_target(verb), *(_parameter(OPTIONS[name]) for name in verb.options)]
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
    """Run typer; usage errors (typer's status 2) exit with 1, as in wg-quick."""
    if len(arguments) == 2 and arguments[0] == "help" and arguments[1] in VERBS:
        arguments = [arguments[1], "--help"]
    meant = {f"--{each.name}": f"--{each.name}={each.alone}" for each in OPTIONS.values() if each.alone}
    try:
        app([meant.get(word, word) for word in arguments], prog_name="wgq")
    except SystemExit as end:
        return min(end.code, 1) if isinstance(end.code, int) else 0
    return 0
