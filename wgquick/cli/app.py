"""The full command line, by typer."""

from __future__ import annotations

from typing import Annotated

import typer

import wgquick
from wgquick.cli import verbs

_EPILOG = """
CONFIG_FILE is a path to INTERFACE.conf; INTERFACE alone means /etc/wireguard/INTERFACE.conf; `-' is standard input.
wg-quick(8) and wg(8) say what stands in such a file.
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

# Hidden: what typer would say of an argument differs from release to release; the epilog says it.
Target = Annotated[str, typer.Argument(metavar="CONFIG_FILE|INTERFACE", hidden=True)]
SourceTarget = Annotated[str, typer.Argument(metavar="CONFIG_FILE|INTERFACE|-", hidden=True)]
Name = Annotated[
    str | None,
    typer.Option("--name", metavar="INTERFACE", help="The interface's name, for `-' or in place of the file's."),
]
Backend = Annotated[
    str | None,
    typer.Option("--backend", metavar="auto|kernel|userspace", help="Which WireGuard. [env: WGQ_BACKEND]"),
]
Firewall = Annotated[
    str | None,
    typer.Option("--firewall", metavar="auto|nft|iptables", help="Which firewall. [env: WGQ_FIREWALL]"),
]
Dns = Annotated[
    str | None,
    typer.Option("--dns", metavar="auto|resolvconf|resolved|file|off", help="How DNS is set. [env: WGQ_DNS]"),
]


@app.command(short_help="Bring an interface up.", epilog=_EPILOG)
def up(
    target: SourceTarget,
    name: Name = None,
    backend: Backend = None,
    firewall: Firewall = None,
    dns: Dns = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where IPv6 is disabled or src_valid_mark cannot be set.")
    ] = False,
) -> None:
    """Bring an interface up. Whatever fails half way is undone completely."""
    verbs.up(target, name, verbs.options(backend, firewall, dns, strict=strict))


@app.command(short_help="Take an interface down.", epilog=_EPILOG)
def down(
    target: SourceTarget,
    name: Name = None,
    dns: Dns = None,
    force: Annotated[bool, typer.Option("--force", help="Go on where a PreDown hook or saving fails.")] = False,
) -> None:
    """Take an interface down, by the journal of what up did. It works also where the file is gone or has faults."""
    verbs.down(target, name, verbs.options(None, None, dns, force=force))


@app.command(short_help="Write an interface's present state to its file.", epilog=_EPILOG)
def save(target: Target, dns: Dns = None) -> None:
    """Write an interface's present state to its configuration file, keeping comments and order."""
    verbs.save(target, verbs.options(None, None, dns))


@app.command(short_help="Print what `wg setconf' understands of a file.", epilog=_EPILOG)
def strip(target: SourceTarget, name: Name = None) -> None:
    """Print a configuration without what only wg-quick understands, for `wg setconf'."""
    verbs.strip(target, name)


@app.command(name="help", hidden=True)
def show_help(context: typer.Context) -> None:
    """Print the overview."""
    typer.echo(context.find_root().get_help())


@app.callback(invoke_without_command=True)
def overview(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Without a verb: the overview, as wg-quick prints its usage, and status 1."""
    if version:
        typer.echo(f"wgq {wgquick.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(1)


def run_app(arguments: list[str]) -> int:
    """Run typer; faults of usage (its status 2) end in 1, as wg-quick's do."""
    try:
        app(arguments, prog_name="wgq")
    except SystemExit as end:
        return min(end.code, 1) if isinstance(end.code, int) else 0
    return 0
