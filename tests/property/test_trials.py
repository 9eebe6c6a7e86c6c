"""The earlier state is restored if the watchdog of a trial is killed at any step of the change or the rollback."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.property.failures import CHANGED, CONFIG, IPTABLES, PROGRAMS, Setting, Trap, Trapped, ignore, live, state
from wgquick.config.document import Document
from wgquick.config.parser import parse
from wgquick.executor.ensuring import cmd_ensure
from wgquick.executor.reloading import ReloadOptions
from wgquick.executor.trying import Attempt, TrialRequest
from wgquick.system import watchdogs
from wgquick.system.host import LocalHost

if TYPE_CHECKING:
    from wgquick.options import Options


pytestmark = pytest.mark.machine

HIT = "/run/killed"


def die(*others: int) -> None:
    """Create the file HIT, and kill this process and others."""
    Path(HIT).touch()
    for pid in (*others, os.getpid()):
        os.kill(pid, signal.SIGKILL)


def tried(
    setting: Setting, verb: str, at: int = -1, *, seconds: float = 0.05, text: str = CONFIG, both: bool = False
) -> list[str]:
    """The phases that a trial reports. Its watchdog is killed at the `at`-th beginning or end of an effect.

    `both`: the standby is killed too, so nothing is rolled back.
    """
    return setting.machine.call(_tried, setting.options, verb, at, seconds, text, both)


def _tried(options: Options, verb: str, at: int, seconds: float, text: str, both: bool) -> list[str]:
    os.environ["PATH"] = f"{PROGRAMS}:{os.environ['PATH']}"
    Path(HIT).unlink(missing_ok=True)
    settings = parse(Document.parse(text.encode()), "wg0")
    traps: list[Trap] = []

    def host(own: watchdogs.Watchdogs) -> Any:
        """The trapped host for the first watchdog."""
        if traps:
            return LocalHost(ignore)
        traps.append(Trap(at, lambda: die(*([own._standby] if both else []))))
        return Trapped(LocalHost(ignore), traps[0])

    asked = TrialRequest(verb, "wg0", seconds, options, ReloadOptions(), settings)
    if verb == "down":
        asked = asked._replace(settings=None, read=lambda: (settings, None))
    watchdog = watchdogs.begin(lambda own: Attempt(asked, lambda: host(own), ignore, own, _never).run(), "")
    with os.fdopen(watchdog.news) as news:
        told = [json.loads(line)["phase"] for line in news]
    os.waitpid(watchdog.process, 0)
    return told


def _never(address: str) -> Any:
    raise AssertionError(f"no trial here pings {address}")


def ensured(setting: Setting, text: str) -> None:
    """`wgq up --ensure`, without traps."""
    setting.machine.call(_ensure, setting.options, text)


def _ensure(options: Options, text: str) -> None:
    os.environ["PATH"] = f"{PROGRAMS}:{os.environ['PATH']}"
    settings = parse(Document.parse(text.encode()), "wg0")
    cmd_ensure("wg0", lambda: settings, LocalHost(ignore), options, ReloadOptions(), ignore)


def was_killed(setting: Setting) -> bool:
    return setting.machine.run(["test", "-e", HIT], check=False).returncode == 0


def steps(setting: Setting, first: int = 0, times: int = 1) -> itertools.count[int]:
    """Some of all steps, fewer where they are slow; `WGQ_TEST_STEPS=1` takes every one."""
    stride = os.environ.get("WGQ_TEST_STEPS") or times * (11 if setting.options is IPTABLES else 5)
    return itertools.count(first, int(stride))


def test_up_on_trial_leaves_nothing(setting: Setting) -> None:
    before = state(setting.machine)
    for at in steps(setting):
        assert tried(setting, "up", at)[-1] == "rolled back", f"at step {at}"
        assert state(setting.machine) == before, f"at step {at}"
        if not was_killed(setting):
            break
    assert at > 50


@pytest.mark.parametrize("verb", ["reload", "down"])
def test_a_tunnel_is_as_it_was(setting: Setting, verb: str) -> None:
    pristine = state(setting.machine)
    setting.up()
    before = live(setting.machine)
    for at in steps(setting):
        assert tried(setting, verb, at, text=CHANGED if verb == "reload" else CONFIG)[-1] == "rolled back", at
        assert live(setting.machine) == before, f"at step {at}"
        if not was_killed(setting):
            break
    assert at > 20
    setting.reload()
    wanted = live(setting.machine)
    setting.reload(text=CONFIG)
    assert live(setting.machine) == before
    assert wanted != before
    setting.down()
    assert state(setting.machine) == pristine


@pytest.mark.parametrize("verb", ["up", "reload", "down"])
def test_without_watchdogs_other_verbs_finish_it(setting: Setting, verb: str) -> None:
    """Both watchdogs are killed at any step of the change or of the rollback.

    Then `down` leaves nothing, and `reload` and `up --ensure` apply the file.
    """
    pristine = state(setting.machine)
    text = CHANGED if verb == "reload" else CONFIG
    ensured(setting, text)
    wanted = live(setting.machine)
    setting.down()
    for count, at in enumerate(steps(setting, 1, 3)):
        if verb != "up":
            setting.up()
        tried(setting, verb, at, text=text, both=True)
        if not was_killed(setting):
            break
        if count % 2:
            if verb == "reload":
                setting.reload()
            else:
                ensured(setting, text)
            assert live(setting.machine) == wanted, f"at step {at}"
        if state(setting.machine) != pristine:
            setting.down()
        assert state(setting.machine) == pristine, f"at step {at}"
    assert at > 20
    if verb != "up":
        setting.down()
    assert state(setting.machine) == pristine
