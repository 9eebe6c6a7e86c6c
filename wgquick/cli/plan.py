"""`wgq plan` and `wgq diff`: what a verb would do, and how a live interface differs from its file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wgquick import api
from wgquick.cli import privilege, verbs
from wgquick.cli.streams import say
from wgquick.errors import CHANGES, FAILURE, WgqError, not_one_of
from wgquick.executor.reloading import ReloadOptions
from wgquick.show import plan as show
from wgquick.transcript import note

if TYPE_CHECKING:
    from wgquick.cli.verbs import Given
    from wgquick.options import Options
    from wgquick.plan.planned import Plan


def plan(verb: str, target: str, given: Given) -> int:
    """Print what a verb would do; returns 2 if there are changes, else 0."""
    if verb not in api.PLANNED:
        raise not_one_of(verb, api.PLANNED, "plan")
    is_offline = "offline" in given
    if is_offline and verb == "reload":
        raise WgqError("reload compares with the live interface", remedy="Leave --offline out.")
    return _print(verb, target, given, is_offline=is_offline)


def diff(target: str, given: Given) -> int:
    """Print how a live interface differs from its file; returns 2 if it does, else 0."""
    return _print("diff", target, given)


def _print(verb: str, target: str, given: Given, *, is_offline: bool = False) -> int:
    options = verbs.options_of(given)
    if not is_offline:
        privilege.acquire()
    as_json = "json" in given
    try:
        found = _made(verb, target, given, options, is_offline=is_offline)
    except WgqError as error:
        error.status = FAILURE  # not the verb's own status, as 2 means changes
        raise
    if as_json:
        verbs.write(show.json_text(found))
    else:
        _print_text(found)
    return CHANGES if found.changes or found.restart else 0


def _made(verb: str, target: str, given: Given, options: Options, *, is_offline: bool) -> Plan:
    return api.plan(
        verb,
        target,
        options,
        None if "json" in given else say,
        ReloadOptions(force="force" in given, keep_foreign="keep-foreign" in given),
        name=verbs.name_of(given),
        changed=lambda settings: verbs.with_extras(settings, given),
        offline=is_offline,
        ssh_connection=os.environ.get("SSH_CONNECTION", ""),
    )


def _print_text(plan: Plan) -> None:
    for each in plan.notes:
        say(each)
    if plan.restart:
        say(note(f"{plan.interface} needs a restart for {'; and for '.join(plan.restart)}:"))
    if not plan.changes and not plan.restart:
        say(note(f"{plan.interface}: nothing to do"))
    verbs.write(show.text(plan))
