"""A failure or a kill at any step leaves nothing of the tunnel behind and touches nothing else."""

from __future__ import annotations

import itertools
import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.property.failures import CONFIG, EFFECTS, NFT, Setting, fail, live, state
from wgquick.errors import WgqError

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.machine


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stopped(work: Callable[[int, Callable[[], None]], object], at: int, action: Callable[[], None]) -> bool:
    """Whether the work failed or was killed at this step; False if it has fewer steps."""
    try:
        work(at, action)
    except (WgqError, AssertionError) as end:
        if not re.search(f"injected|died with wait status {signal.SIGKILL:d}", str(end)):
            raise
        return True
    return False


@pytest.mark.parametrize("action", [fail, die], ids=["fails", "is killed"])
def test_down_after_an_up_that_ended_at_any_step_leaves_nothing(
    setting: Setting, action: Callable[[], None]
) -> None:
    before = state(setting.machine)
    for at in itertools.count():
        if not stopped(setting.up, at, action):
            break
        if action is die and state(setting.machine) != before:
            setting.down()
        assert state(setting.machine) == before, f"after step {at}"
    setting.down()
    assert state(setting.machine) == before
    assert at == 2 * len(setting.up())
    setting.down()


@pytest.mark.parametrize("action", [fail, die], ids=["fails", "is killed"])
def test_a_down_that_ends_at_any_step_is_finished_by_another(setting: Setting, action: Callable[[], None]) -> None:
    before = state(setting.machine)
    for at in itertools.count():
        setting.up()
        if not stopped(setting.down, at, action):
            break
        if state(setting.machine) != before:
            setting.down()
        assert state(setting.machine) == before, f"after step {at}"
    assert state(setting.machine) == before


@pytest.mark.parametrize("action", [fail, die], ids=["fails", "is killed"])
def test_a_reload_killed_at_any_step_is_reverted_or_finished(setting: Setting, action: Callable[[], None]) -> None:
    """A failed one changes nothing. A killed one is finished by the next reload, or down leaves nothing."""
    pristine = state(setting.machine)
    setting.up()
    setting.reload()
    wanted = live(setting.machine)
    setting.reload(text=CONFIG)
    before = live(setting.machine)
    assert before != wanted
    if "wg1" in setting.machine.out("ip", "link"):
        setting.down()
        return  # only src_valid_mark depends on the other tunnel, and the tests of up and down cover it
    # In the middle of each step: a step that fails has been done, a step that is killed has not.
    for at in itertools.count(1 if action is fail else 0, 2 if setting.options is NFT else 8):
        if not stopped(setting.reload, at, action):
            break
        if action is fail:
            assert live(setting.machine) == before, f"after step {at}"
        elif at % 4 == 0:
            setting.reload()
            assert live(setting.machine) == wanted, f"after step {at}"
            setting.reload(text=CONFIG)
            assert live(setting.machine) == before, f"after step {at}"
        else:
            setting.down()
            assert state(setting.machine) == pristine, f"after step {at}"
            setting.up()
    assert live(setting.machine) == wanted
    setting.down()
    assert state(setting.machine) == pristine


def test_the_steps_cover_every_kind_of_effect(setting: Setting) -> None:
    taken = {*setting.up(), *setting.reload(), *setting.down()}
    # Beside another full tunnel, src_valid_mark already has its value; iptables' rules are removed and added again.
    needless = {"sysctl.write"} if "wg1" in setting.machine.out("ip", "link") else set()
    assert taken == {f"{part}.{name}" for part, names in EFFECTS.items() for name in names} - needless


def test_up_after_a_kill_cleans_up(setting: Setting) -> None:
    before = state(setting.machine)
    assert stopped(setting.up, 25, die)
    setting.machine.run(["ip", "link", "delete", "wg0"])
    setting.up()
    setting.down()
    assert state(setting.machine) == before
