"""A failure or a kill at any step leaves nothing of the tunnel behind and touches nothing else."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from errno import EIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.imports import import_wgquick
from tests.namespaces import host as machine_of_its_own
from tests.property.settling import await_ports, settle
from wgquick.config.document import Document
from wgquick.config.parser import parse
from wgquick.errors import OperationError, WgqError
from wgquick.executor.down import cmd_down
from wgquick.executor.reloading import ReloadOptions, cmd_reload
from wgquick.executor.up import cmd_up
from wgquick.options import Options
from wgquick.system.host import LocalHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.namespaces import Namespace

pytestmark = pytest.mark.machine

KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PEER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
CONFIG = f"""[Interface]
PrivateKey = {KEY}
Address = 10.0.0.2/24, fd00::2/64
DNS = 10.0.0.1, corp.example
PreUp = test -e /sys/class/net/%i
PostUp = ip route get 10.9.0.1 | grep %i >/dev/null
PreDown = ip route get 10.9.0.1 | grep %i >/dev/null
PostDown = test ! -e /sys/class/net/%i
[Peer]
PublicKey = {PEER}
AllowedIPs = 0.0.0.0/0, ::/0, 10.9.0.0/16
Endpoint = 192.0.2.9:51820
"""
# Without the kernel backend: its refusal only makes up continue with userspace, as in wg-quick.
NFT = Options(backend="userspace", firewall="nft", dns="file")
IPTABLES = Options(backend="userspace", firewall="iptables", dns="resolvconf")
# All kinds of changes at once: an IPv4 full tunnel goes, an IPv6 one stays; peers, addresses and DNS change.
CHANGED = f"""[Interface]
PrivateKey = {KEY}
Address = fd00::2/64, 10.0.3.2/24, fd00:3::2/64, fe80::7/64
DNS = 10.0.0.3
MTU = 1380
PreUp = test -e /sys/class/net/%i
PostUp = ip route get 10.9.0.1 | grep %i >/dev/null
PreDown = ip route get 10.8.0.1 | grep %i >/dev/null
PostDown = test ! -e /sys/class/net/%i
[Peer]
PublicKey = {PEER}
AllowedIPs = ::/0, 10.8.0.0/16
Endpoint = 192.0.2.9:51821
[Peer]
PublicKey = TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=
AllowedIPs = 10.9.0.0/16
"""
EFFECTS = {
    "rtnl": (
        "delete_link",
        "set_link",
        "add_addresses",
        "delete_addresses",
        "add_routes",
        "delete_routes",
        "add_rule",
        "delete_rule",
    ),
    "wireguard": ("set",),
    "firewall": ("add", "replace", "remove"),
    "dns": ("set", "unset"),
    "sysctl": ("write",),
    "hooks": ("run",),
    "userspace": ("start", "await_exit"),
}
PROGRAMS = "/run/programs"
RESOLVCONF = """#!/bin/sh
mkdir -p /run/records
case $1 in -a) cat >/run/records/$2;; -d) rm -f /run/records/$2;; -l) cat /run/records/$2;; esac
"""


class Trap:
    """Calls `action` at the `at`-th beginning or end of an effect (-1 for never), and records the effects."""

    def __init__(self, at: int, action: Callable[[], None]) -> None:
        self._at, self._action = at, action
        self._count = itertools.count()
        self.effects: list[str] = []

    def tick(self) -> None:
        """Count the beginning or end of an effect."""
        if next(self._count) == self._at:
            self._action()


class Trapped:
    """The host or a part of it, with the trap before and after each effect."""

    def __init__(self, inner: Any, trap: Trap, part: str = "") -> None:
        self._inner, self._trap, self._part = inner, trap, part

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in EFFECTS:
            return Trapped(found, self._trap, name)
        return self._effect(name, found) if name in EFFECTS.get(self._part, ()) else found

    def _effect(self, name: str, effect: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*args: Any, **kwargs: Any) -> Any:
            self._trap.effects.append(f"{self._part}.{name}")
            self._trap.tick()
            result = effect(*args, **kwargs)
            self._trap.tick()
            return result

        return trapped


def fail() -> None:
    raise OperationError("injected", errno=EIO)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ignore(_text: str) -> None:
    pass


class Setting(NamedTuple):
    """A machine, and the options of the tunnel on it."""

    machine: Namespace
    options: Options

    def up(self, at: int = -1, action: Callable[[], None] = fail, name: str = "wg0") -> list[str]:
        """Bring a tunnel up. Returns the effects."""
        return self.machine.call(self._inside, _up, at, action, name)

    def down(self, at: int = -1, action: Callable[[], None] = fail, name: str = "wg0") -> list[str]:
        """Take the tunnel down. Returns the effects."""
        return self.machine.call(self._inside, _down, at, action, name)

    def reload(self, at: int = -1, action: Callable[[], None] = fail, text: str = CHANGED) -> list[str]:
        """Reload the tunnel wg0. Returns the effects."""

        def work(host: Any, options: Options, name: str) -> None:
            cmd_reload(parse(Document.parse(text.encode()), name), host, options, ReloadOptions(), ignore)

        return self.machine.call(self._inside, work, at, action, "wg0")

    def _inside(self, work: Work, at: int, action: Callable[[], None], name: str) -> list[str]:
        os.environ["PATH"] = f"{PROGRAMS}:{os.environ['PATH']}"
        trap = Trap(at, action)
        work(Trapped(LocalHost(ignore), trap), self.options, name)
        return trap.effects


if TYPE_CHECKING:
    Work = Callable[[Any, Options, str], None]


def _up(host: Any, options: Options, name: str) -> None:
    cmd_up(_settings(name), host, options, ignore)


def _down(host: Any, options: Options, name: str) -> None:
    cmd_down(name, lambda: (_settings(name), None), host, options, say=ignore, save=lambda _: None)


def _settings(name: str) -> Any:
    text = CONFIG if name == "wg0" else CONFIG.replace("10.", "11.").replace("fd00", "fd01")
    return parse(Document.parse(text.encode()), name)


def stopped(work: Callable[[int, Callable[[], None]], object], at: int, action: Callable[[], None]) -> bool:
    """Whether the work failed or was killed at this step; False if it has fewer steps."""
    try:
        work(at, action)
    except (WgqError, AssertionError) as end:
        if not re.search(f"injected|died with wait status {signal.SIGKILL:d}", str(end)):
            raise
        return True
    return False


def state(machine: Namespace) -> dict[str, object]:
    """Everything that a tunnel could leave behind."""
    commands = {
        "links": "ip -j link",
        "addresses": "ip -j address",
        "routes": "ip -j route show table all",
        "routes6": "ip -j -6 route show table all",
        "rules": "ip -j rule",
        "rules6": "ip -j -6 rule",
        "nft": "nft -j list ruleset",
        "iptables": "iptables-legacy-save -t raw",
        "iptables mangle": "iptables-legacy-save -t mangle",
        "ip6tables": "ip6tables-legacy-save -t raw",
        "ip6tables mangle": "ip6tables-legacy-save -t mangle",
        "mark": "sysctl net.ipv4.conf.all.src_valid_mark",
        "dns": "cat /etc/resolv.conf",
        "records": "ls -A /run/records",
        "sockets": "ls -A /run/wireguard",
        "journals": "find /run/wgq -type f ! -name '*lock'",
    }
    script = "; printf '\\0'; ".join(commands.values())
    answers = machine.run(["sh", "-c", f"exec 2>/dev/null; {script}"], check=False).stdout.split("\0")
    found = dict(zip(commands, answers, strict=True))
    links = json.loads(found["links"])
    return {
        **found,
        **{name: re.findall("^-A.*", text, re.MULTILINE) for name, text in found.items() if "tables" in name},
        "links": [link["ifname"] for link in links],
        "addresses": _addresses(found["addresses"]),
        "nft": _ruleset(found["nft"]),
    }


def _ruleset(text: str) -> list[str]:
    """The nftables rules, without the empty tables that iptables-nft leaves behind."""
    items = [entry for item in json.loads(text)["nftables"] for entry in item.items()]
    kept = [
        (kind, value)
        for kind, value in items
        if kind == "rule" or {value.get("table"), value.get("name")}.isdisjoint({"raw", "mangle"})
    ]
    return [json.dumps({kind: value}) for kind, value in kept]


def _addresses(text: str) -> list[str]:
    return [entry["local"] for link in json.loads(text) for entry in link["addr_info"]]


@pytest.fixture(
    scope="module",
    params=[(NFT, False), (IPTABLES, False), (NFT, True)],
    ids=["nft and a file", "iptables and resolvconf", "beside another tunnel"],
)
def setting(request: pytest.FixtureRequest) -> Iterator[Setting]:
    """A host with an uplink, and with a suppress rule and firewall rules that are not ours."""
    import_wgquick()
    options, neighbour = request.param
    with machine_of_its_own() as machine:
        machine.run(["sysctl", "-q", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0"])
        machine.uplink(ipv6=True)
        machine.run(["sysctl", "-q", "net.ipv4.conf.all.src_valid_mark=0"])
        machine.run(["ip", "rule", "add", "priority", "100", "table", "main", "suppress_prefixlength", "0"])
        machine.run(["nft", "add table inet mine"])
        machine.run(["iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-i", "up0", "-j", "ACCEPT"])
        machine.call(_install_resolvconf)
        made = Setting(machine, options)
        if neighbour:
            made.up(name="wg1")
        settle(machine)
        fresh = state(machine)
        made.up()
        made.down()
        assert state(machine) == fresh
        yield made


def _install_resolvconf() -> None:
    place = Path(PROGRAMS, "resolvconf")
    place.parent.mkdir()
    place.write_text(RESOLVCONF)
    place.chmod(0o755)


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


def device(machine: Namespace) -> list[str]:
    """The device's settings and peers, sorted."""
    shown = machine.out("wg", "show", "wg0", "dump").splitlines()
    fields = [line.split("\t") for line in shown]
    return sorted(" ".join([*line[:3], *sorted(line[3].split(",")), line[-1]]) for line in fields)


def live(machine: Namespace) -> dict[str, list[str]]:
    """The state of a tunnel that is up, without what differs from one up to the next."""
    settle(machine)
    await_ports(machine)
    port = machine.out("wg", "show", "wg0", "listen-port").strip()
    found = {**state(machine), "device": device(machine), "journals": ""}
    return {section: sorted(_unvaried(line, port) for line in _lines(value)) for section, value in found.items()}


def _lines(value: object) -> list[str]:
    """A section's items; `ip -j` prints a list of them."""
    if isinstance(value, str):
        value = json.loads(value) if value.startswith("[") else value.splitlines()
    assert isinstance(value, list)
    return [str(each) for each in value if "'dst': 'fe80:" not in str(each)]


def _unvaried(line: str, port: str) -> str:
    for pattern, word in (
        (r'"handle": \d+', "handle"),
        (rf"\b{port}\b", "PORT"),
        (r'"counter": [^}]*', ""),
        ("fe80::[0-9a-f:]+", "fe80"),
        (r"/\d+/host ", " "),
    ):
        line = re.sub(pattern, word, line)
    return line


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
