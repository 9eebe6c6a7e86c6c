"""Whatever fails or is killed, wherever: nothing of the tunnel is left behind, and nothing else is touched."""

from __future__ import annotations

import json
import os
import signal
from errno import EIO
from typing import TYPE_CHECKING, Any

import pytest

from tests.namespaces import host as machine_of_its_own
from wgquick.config.document import Document
from wgquick.config.parser import parse
from wgquick.errors import OperationError
from wgquick.executor.commands import cmd_down, cmd_up
from wgquick.executor.options import Options
from wgquick.system.host import LocalHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.namespaces import Namespace

KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PEER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
CONFIG = f"""[Interface]
PrivateKey = {KEY}
Address = 10.0.0.2/24, fd00::2/64
DNS = 10.0.0.1, corp.example
PreUp = true
PostUp = true
PreDown = true
PostDown = true
[Peer]
PublicKey = {PEER}
AllowedIPs = 0.0.0.0/0, ::/0, 10.9.0.0/16
Endpoint = 192.0.2.9:51820
"""
# The kernel is not asked: its refusal, injected or not, only makes up go on to userspace, as in wg-quick.
OPTIONS = Options(backend="userspace", dns="file")
EFFECTS = {
    "rtnl": (
        "add_wireguard_link",
        "delete_link",
        "set_link",
        "add_addresses",
        "add_routes",
        "add_rule",
        "delete_rule",
    ),
    "wireguard": ("set",),
    "firewall": ("add", "remove"),
    "dns": ("set", "unset"),
    "sysctl": ("write",),
    "hooks": ("run",),
    "userspace": ("start", "await_exit"),
}


class Trapped:
    """A part of the host, or the host, that calls `tick` before and after each of its effects."""

    def __init__(self, inner: Any, effects: tuple[str, ...], tick: Callable[[], None]) -> None:
        self._inner, self._effects, self._tick = inner, effects, tick

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in EFFECTS:
            return Trapped(found, EFFECTS[name], self._tick)
        return self._trap(found) if name in self._effects else found

    def _trap(self, effect: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*args: Any, **kwargs: Any) -> Any:
            self._tick()
            result = effect(*args, **kwargs)
            self._tick()
            return result

        return trapped


def ticking(at: int, action: Callable[[], None]) -> Callable[[], None]:
    """A function that calls `action` on its `at`-th call (from 0)."""
    count = iter(range(10_000))

    def tick() -> None:
        if next(count) == at:
            action()

    return tick


def fail() -> None:
    raise OperationError("injected", errno=EIO)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def settings() -> Any:
    return parse(Document.parse(CONFIG.encode()), "wg0")


def unsaid(_text: str) -> None:
    pass


def up(at: int, action: Callable[[], None]) -> bool:
    """Whether up ended without meeting the action."""
    trapped: Any = Trapped(LocalHost(unsaid), (), ticking(at, action))
    try:
        cmd_up(settings(), trapped, OPTIONS, unsaid)
    except OperationError as error:
        if error.what != "injected":
            raise
        return False
    return True


def down() -> None:
    cmd_down("wg0", settings(), LocalHost(unsaid), OPTIONS, say=unsaid, save=lambda _: None)


def killed(at: int, work: Callable[[int, Callable[[], None]], object]) -> bool:
    """Whether a child that does the work was killed at that tick."""
    if (child := os.fork()) == 0:
        try:
            work(at, die)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def down_with(at: int, action: Callable[[], None]) -> None:
    trapped: Any = Trapped(LocalHost(unsaid), (), ticking(at, action))
    cmd_down("wg0", settings(), trapped, OPTIONS, say=unsaid, save=lambda _: None)


def state(machine: Namespace) -> dict[str, object]:
    """All that a tunnel could leave behind."""
    commands = {
        "links": "ip -j link",
        "addresses": "ip -j address",
        "routes": "ip -j route show table all",
        "routes6": "ip -j -6 route show table all",
        "rules": "ip -j rule",
        "rules6": "ip -j -6 rule",
        "firewall": "nft -j list ruleset",
        "mark": "sysctl net.ipv4.conf.all.src_valid_mark",
        "dns": "cat /etc/resolv.conf",
        "sockets": "ls -A /run/wireguard",
        "journals": "find /run/wgq -type f ! -name *lock",
    }
    found = {name: machine.run(command.split(), check=False).stdout for name, command in commands.items()}
    links = json.loads(found["links"])
    return {**found, "links": [link["ifname"] for link in links], "addresses": _addresses(found["addresses"])}


def _addresses(text: str) -> list[str]:
    return [entry["local"] for link in json.loads(text) for entry in link["addr_info"]]


@pytest.fixture(scope="module")
def machine() -> Iterator[Namespace]:
    """A host with an uplink and, of its own, a suppress rule and a firewall table."""
    with machine_of_its_own() as made:
        # Without duplicate address detection the uplink's own routes are there from the start.
        made.run(["sysctl", "-q", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"])
        made.uplink(ipv6=True)
        made.run(["sysctl", "-q", "net.ipv4.conf.all.src_valid_mark=0"])
        made.run(["ip", "rule", "add", "priority", "100", "table", "main", "suppress_prefixlength", "0"])
        made.run(["nft", "add table inet mine"])
        # The first run makes /run/wgq and what the kernel keeps for good (empty nft hooks, loaded families).
        made.call(up, -1, fail)
        made.call(down)
        yield made


def test_up_that_fails_at_any_step_leaves_nothing(machine: Namespace) -> None:
    before = state(machine)
    at = 0
    while not machine.call(up, at, fail):
        assert state(machine) == before, f"after a failure at step {at}"
        at += 1
    machine.call(down)
    assert state(machine) == before
    assert at > 30, "the faults were not injected where they should be"


def test_up_killed_at_any_step_is_taken_back_by_down(machine: Namespace) -> None:
    before = state(machine)
    at = 0
    while machine.call(killed, at, up):
        if state(machine) != before:
            machine.call(down)
        assert state(machine) == before, f"after a kill at step {at}"
        at += 1
    machine.call(down)
    assert state(machine) == before
    assert at > 30, "the kills did not happen where they should"


def test_down_killed_at_any_step_is_finished_by_down(machine: Namespace) -> None:
    before = state(machine)
    for at in range(100):
        assert machine.call(up, -1, fail)
        if not machine.call(killed, at, down_with):
            break
        if state(machine) != before:
            machine.call(down)
        assert state(machine) == before, f"after a kill at step {at}"
    assert state(machine) == before
    assert at > 15, "the kills did not happen where they should"


def test_up_after_a_kill_cleans_up_by_itself(machine: Namespace) -> None:
    before = state(machine)
    assert machine.call(killed, 25, up)
    machine.run(["ip", "link", "delete", "wg0"])
    assert machine.call(up, -1, fail)
    machine.call(down)
    assert state(machine) == before
