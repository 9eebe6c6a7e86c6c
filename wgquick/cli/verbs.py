"""Implements each verb for its parsed arguments; both `cli.main` and typer call it."""

from __future__ import annotations

import os
import sys

from wgquick import api
from wgquick.cli import privilege, signals
from wgquick.cli.streams import say
from wgquick.config import extras, location
from wgquick.config.reading import read_settings
from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING
from wgquick.options import DIRECTORY, Options, option_of
from wgquick.transcript import note

if TYPE_CHECKING:
    from typing import Any

    from wgquick.cli import advice
    from wgquick.cli.waiting import Waiting
    from wgquick.config.settings import Settings


OF_ENSURE = {"ensure", "or-restart", "keep-foreign", "force", "json"}
"""The options of up that need --ensure."""
Given = dict[str, "str | bool"]
"""The given options of a call: a name mapped to a value or True."""


def run(verb: str, targets: list[str], given: Given) -> int:
    """Run a verb; returns the exit status."""
    match verb:
        case "up" if given.keys() & OF_ENSURE:
            from wgquick.cli.ensure import ensure

            return ensure(targets[0], given)
        case "up":
            up(targets[0], given)
        case "down":
            down(targets[0], given)
        case "reload":
            return reload(targets[0], given)
        case "try":
            from wgquick.cli.trying import try_

            return try_(targets[0], targets[1], given)
        case "confirm":
            from wgquick.cli.trying import confirm

            confirm(targets[0], given)
        case "plan":
            from wgquick.cli.plan import plan

            return plan(targets[0], targets[1], given)
        case "diff":
            from wgquick.cli.plan import diff

            return diff(targets[0], given)
        case "save":
            save(targets[0], given)
        case "strip":
            strip(targets[0], given)
        case "show":
            show(targets)
        case "status":
            from wgquick.cli.status import status

            return status(targets, given)
        case "wait":
            from wgquick.cli.waiting import wait

            wait(targets[0], given)
        case "watch":
            from wgquick.cli.watch import watch

            return watch(targets, given)
        case "metrics":
            from wgquick.cli.metrics import metrics

            metrics(targets, given)
        case "check":
            return check(targets, given)
        case "allowed-ips":
            allowed_ips(targets, given)
        case "doctor":
            from wgquick.cli.doctor import doctor

            return doctor(targets, given)
        case "rehearse":
            from wgquick.cli.rehearse import rehearse

            return rehearse(targets, given)
        case "exec":
            from wgquick.cli.execute import execute

            return execute(targets[0], targets[1:])
        case "trace":
            from wgquick.cli.trace import trace

            trace(targets[0], given)
        case _:
            raise ValueError(verb)
    return 0


def options_of(given: Given) -> Options:
    """The given options; missing ones come from their environment variables."""
    chosen: dict[str, Any] = {}
    for field in Options._fields:
        option = option_of(field)
        named = given.get(option.name)
        value = named or os.environ.get(option.variable)
        if value:
            option.check(value, f"--{option.name}" if named else option.variable)
            chosen[field] = value
    return Options(**chosen)


def name_of(given: Given) -> str | None:
    name = given.get("name")
    return str(name) if name else None


def warn_of_ssh(settings: Settings, remedy: str) -> None:
    """Warn if the replies of the SSH session that wgq runs in will go into the tunnel."""
    connection = os.environ.get("SSH_CONNECTION")
    if not connection:
        return
    from wgquick.plan import operator

    session = operator.session_of(connection)
    try:
        if (
            session
            and operator.leads_inside(settings, session.client, api.main_routes)
            and api.link_towards(session.client) != settings.name  # a session through the tunnel itself continues
        ):
            say(operator.warning(settings.name, connection, remedy))
    except WgqError:  # continue without the warning
        return


def up(target: str, given: Given) -> None:
    """Bring an interface up."""
    from wgquick.cli import advice

    chosen = options_of(given)
    privilege.acquire()
    checks: list[advice.Advice | None] = []
    found = location.locate(target, name_of(given))
    settings = read_settings(
        found, say, when_valid=lambda *file: checks.append(advice.begin(*file, on_host=not given.get("netns")))
    )
    try:
        settings = with_extras(settings, given)
        waiting = waiting_of(settings, chosen, given)
        warn_of_ssh(settings, f"`wgq try up {target}' rolls it back by itself")
        with signals.raised():
            api.up(settings, chosen, say)
            if waiting is not None:
                waiting.finish(lambda: _print_findings(checks))
    finally:
        _print_findings(checks)


def with_extras(settings: Settings, given: Given) -> Settings:
    """The settings with the extras that the options add."""
    of_options = extras.of_options(
        kill_switch=bool(given.get("kill-switch")),
        exclude=str(given.get("exclude", "")),
        keep_inbound=bool(given.get("keep-inbound")),
        netns=str(given.get("netns", "")),
    )
    return settings._replace(extras=extras.joined(settings.extras, of_options), option_extras=of_options)


def waiting_of(settings: Settings, chosen: Options, given: Given) -> Waiting | None:
    """The wait after up; None if none of the options asks for it."""
    if not given.keys() & {"wait", "wait-for", "or-down"}:
        return None
    from wgquick.cli.waiting import after_up

    return after_up(settings, chosen, given)


def _print_findings(checks: list[advice.Advice | None]) -> None:
    """Print the findings of the checks, once."""
    while checks:
        if (check := checks.pop()) is not None:
            check.print(say)


def down(target: str, given: Given) -> None:
    """Take an interface down; without a valid file by its journal or the host's state."""
    chosen, name = options_of(given), name_of(given)
    privilege.acquire()
    interface = location.valid_name(name) if name else location.interface_name(target)
    with signals.raised():
        api.down(interface, target, chosen, say)


def reload(target: str, given: Given) -> int:
    """Apply a file's changes to a live interface; 3 if it needs a restart."""
    from wgquick.executor.reloading import Outcome, ReloadOptions, RestartNeededError

    chosen = options_of(given)
    privilege.acquire()
    settings = api.load(target, say, name=name_of(given))
    reload_options = ReloadOptions(*(bool(given.get(name.replace("_", "-"))) for name in ReloadOptions._fields))
    if not reload_options.dry_run:
        warn_of_ssh(settings, f"`wgq try reload {target}' rolls it back by itself")
    status = 0
    wait = None
    if given.keys() & {"wait", "wait-for"}:
        from wgquick.cli.waiting import after_reload

        wait = after_reload(settings.name, given)
    with signals.raised():
        try:
            outcome = api.reload(settings, chosen, say, reload_options)
            if wait is not None and not reload_options.dry_run:
                wait()
        except RestartNeededError as needed:
            outcome, status = Outcome(restart=needed.reasons), needed.status
            say(f"wgq: {needed}")
    if given.get("json"):
        from wgquick.show.reload import json_text

        write(json_text(settings.name, outcome, reload_options))
    elif reload_options.dry_run:
        write("".join(f"{line}\n" for move in outcome.moves for line in api.move_lines(move)[0]))
    return status


def save(target: str, given: Given) -> None:
    """Write an interface's current state to its file; a signal leaves no partial file with the key behind."""
    chosen = options_of(given)
    privilege.acquire()
    with signals.raised():
        api.save(target, chosen, say)


def strip(target: str, given: Given) -> None:
    """Print the part that `wg` reads."""
    name = name_of(given)
    if not _is_readable(target, name):
        privilege.acquire()
    if sys.stdout is None:
        raise WgqError("standard output is closed")
    sys.stdout.flush()
    sys.stdout.buffer.write(api.strip(target, say, name=name))
    sys.stdout.buffer.flush()


def _is_readable(target: str, name: str | None) -> bool:
    """Whether this user may read the file; False for one in a directory without access."""
    if target == location.STANDARD_INPUT:
        return True
    try:
        path = location.locate(target, name).path
    except WgqError:
        return os.access(DIRECTORY, os.X_OK, effective_ids=True)
    return not path or os.access(path, os.R_OK, effective_ids=True)


def check(targets: list[str], given: Given) -> int:
    """Print the findings for files; 1 if there is an error or a warning."""
    from wgquick.show import findings as show

    live = bool(given.get("live"))
    if live:
        privilege.acquire()
    found = api.check(targets, fix=bool(given.get("fix")), live=live, transcript=say)
    write(show.json_text(found) if given.get("json") else show.text(found) + show.summary(found, len(targets)))
    return int(any(each.is_problem for each in found))


def allowed_ips(targets: list[str], given: Given) -> None:
    """Print the networks of an expression, and warn of a file's endpoints inside them."""
    import json

    from wgquick import complement
    from wgquick.diagnosis import nets

    networks = complement.evaluate(targets[0])
    peers = api.load(location.file_here(targets[1]), say).peers if targets[1:] else ()
    hosts = dict.fromkeys(peer.endpoint.host.partition("%")[0] for peer in peers if peer.endpoint)
    inside = complement.loops(networks, (host for host in hosts if nets.literal(host)))
    if given.get("json"):
        shown = {"allowed_ips": [str(each) for each in networks], "loops": inside}
        write(json.dumps(shown, indent=2) + "\n")
        return
    write(", ".join(map(str, networks)) + "\n")
    for host in inside:
        say(note(f"The networks contain the Endpoint {host}, so the tunnel would loop: subtract {host} too"))
    for host in hosts:
        if not nets.literal(host):
            say(note(f"The Endpoint {host} is a name: subtract its address too"))


def show(targets: list[str]) -> None:
    """Print the same as `wg show`."""
    from time import time

    from wgquick.show import wg

    name, word = (*targets, "", "")[:2]
    if targets[:1] == [""]:
        raise WgqError("the interface's name is empty", remedy="`wgq show' without a name shows all interfaces.")
    if (word and word not in wg.WORDS) or (name == "interfaces" and word):
        raise WgqError(f"`{word}' is not a parameter of wg show", remedy=f"Choose one of: {', '.join(wg.WORDS)}.")
    privilege.acquire()
    if name == "interfaces":
        names = api.interfaces()
        return write(" ".join(names) + "\n" if names else "")
    every = name in ("", "all")
    devices = [wg.Shown(device, api.public_key(device)) for device in api.devices(None if every else [name])]
    if word:
        return write("".join(wg.values(each, word, with_name=every) for each in devices))
    style = wg.Style(_is_coloured(), os.environ.get("WG_HIDE_KEYS") == "never")
    return write("\n".join(wg.pretty(each, time(), style) for each in devices))


def _is_coloured() -> bool:
    """Whether wg(8) would print colours, by WG_COLOR_MODE or on a terminal."""
    mode = os.environ.get("WG_COLOR_MODE")
    return mode == "always" or (mode != "never" and sys.stdout is not None and sys.stdout.isatty())


def write(text: str) -> None:
    """Print to standard output, always in UTF-8."""
    if sys.stdout is None:
        raise WgqError("standard output is closed")
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
