"""Runs of a verb that fail, are interrupted or are killed at each step."""

from __future__ import annotations

import itertools
import json
import os
import re
from errno import EIO
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.property.settling import await_ports, settle
from wgquick.config.document import Document
from wgquick.config.parser import parse
from wgquick.errors import OperationError
from wgquick.executor.down import cmd_down
from wgquick.executor.reloading import ReloadOptions, cmd_reload
from wgquick.executor.up import cmd_up
from wgquick.options import Options
from wgquick.system.host import LocalHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.namespaces import Namespace

    Work = Callable[[Any, Options, str], None]


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


def _up(host: Any, options: Options, name: str) -> None:
    cmd_up(_settings(name), host, options, ignore)


def _down(host: Any, options: Options, name: str) -> None:
    cmd_down(name, lambda: (_settings(name), None), host, options, say=ignore, save=lambda _: None)


def _settings(name: str) -> Any:
    text = CONFIG if name == "wg0" else CONFIG.replace("10.", "11.").replace("fd00", "fd01")
    return parse(Document.parse(text.encode()), name)


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
