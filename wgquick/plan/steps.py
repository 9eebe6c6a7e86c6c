"""The steps of up, reload and down. For each: what it is, how it is told, done, undone and recorded, in one place.

A Change that outlives the link names its Undo before it is applied; addresses, routes through the link and the
device's settings go with the link. A Note is a line of the transcript without an effect. Steps are values: only
`do` acts, and only on the run that it is given.
"""

from __future__ import annotations

from errno import EEXIST

from wgquick.device import DeviceConfig
from wgquick.lean import TYPE_CHECKING, NamedTuple, Protocol, cast
from wgquick.net import MAIN_TABLE, Prefix, Rule, without_keys

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wgquick.config.settings import Address
    from wgquick.net import FirewallRules, Guard, Route
    from wgquick.ports import Host

IP_STATUS = 2
"""The status of ip(8) where the kernel refuses, and so of wg-quick."""


class Run(Protocol):
    """What a step is done on: the host, and what needs more than the host alone."""

    @property
    def host(self) -> Host: ...

    def add_link(self, name: str) -> None:
        """Make the link, by the kernel or by a userspace implementation."""

    def run_hook(self, hook: RunHook) -> None:
        """Run a hook line; HookError if its status is not 0."""

    def expect_exit(self) -> None:
        """The daemon of a deleted link is about to end: wait for it once the rest is done."""

    def release(self, undo: ReleaseSysctl) -> None:
        """Put a kernel parameter back unless another tunnel needs it."""

    def take_back_live(self, undo: Undo) -> None:
        """Take an undo, gone or not, and retract it in the journal."""


def _told(command: str) -> tuple[str, ...]:
    return (f"[#] {command}",)


# Undos.


class DeleteLink(NamedTuple):
    """`ip link delete dev NAME`."""

    name: str

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"ip link delete dev {self.name}")

    def do(self, run: Run) -> None:
        link = run.host.rtnl.link(self.name)
        run.host.rtnl.delete_link(self.name)
        if link is not None and link.kind != "wireguard":
            run.expect_exit()


class DeleteRule(NamedTuple):
    """`ip -4|-6 rule delete ...`, exactly this one."""

    rule: Rule

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"ip -{self.rule.family} rule delete {_deleted(self.rule)}")

    def do(self, run: Run) -> None:
        run.host.rtnl.delete_rule(self.rule)


class UnsetDns(NamedTuple):
    """Takes back the link's DNS as `mode` set it."""

    name: str
    mode: str

    def lines(self, host: Host) -> tuple[str, ...]:
        return host.dns.unset_lines(self.mode, self.name)

    def do(self, run: Run) -> None:
        run.host.dns.unset(self.mode, self.name)


class RemoveFirewall(NamedTuple):
    """Removes the rules that carry this interface's name, of both families if `family` is 0."""

    name: str
    kind: str
    family: int

    def lines(self, host: Host) -> tuple[str, ...]:
        return host.firewall.remove_lines(self.kind, self.family)

    def do(self, run: Run) -> None:
        run.host.firewall.remove(self.kind, self.name, self.family)


class ReleaseSysctl(NamedTuple):
    """Puts `earlier` back unless another full tunnel still needs the value."""

    key: str
    earlier: str

    def lines(self, _host: Host) -> tuple[str, ...]:
        return ()

    def do(self, run: Run) -> None:
        run.release(self)


class DeleteThrow(NamedTuple):
    """`ip route delete throw PREFIX table N`; the prefix is a text."""

    destination: str
    table: int

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"ip {_family_of(self.destination)} route delete throw {self.destination} table {self.table}")

    def do(self, run: Run) -> None:
        run.host.rtnl.delete_throw(Prefix.parse(self.destination), self.table)


class ForgetInbound(NamedTuple):
    """Removes the rules for connections that come in beside the tunnel."""

    name: str

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"nft -f /dev/fd/63 # no longer keep inbound connections beside {self.name}")

    def do(self, run: Run) -> None:
        run.host.firewall.forget_inbound(self.name)


class RemoveGuard(NamedTuple):
    """Takes the kill switch away. `resolved` is what its endpoints led to, as it lets nobody look names up."""

    name: str
    resolved: str = ""

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"nft -f /dev/fd/63 # no kill switch of {self.name} any more")

    def do(self, run: Run) -> None:
        run.host.firewall.remove_guard(self.name)


Undo = (
    DeleteLink | DeleteRule | UnsetDns | RemoveFirewall | ReleaseSysctl | DeleteThrow | ForgetInbound | RemoveGuard
)

# How undos stand in the journal: [class, field, ...]; a rule is the list of its own fields.
_RECORDED: dict[str, tuple[type[Any], tuple[type, ...]]] = {
    "DeleteLink": (DeleteLink, (str,)),
    "DeleteRule": (DeleteRule, (list,)),
    "UnsetDns": (UnsetDns, (str, str)),
    "RemoveFirewall": (RemoveFirewall, (str, str, int)),
    "ReleaseSysctl": (ReleaseSysctl, (str, str)),
    "DeleteThrow": (DeleteThrow, (str, int)),
    "ForgetInbound": (ForgetInbound, (str,)),
    "RemoveGuard": (RemoveGuard, (str, str)),
}


def recorded(undo: Undo) -> list[Any]:
    """The undo as the journal has it."""
    return [type(undo).__name__, *undo]


def from_record(kind: str, fields: list[Any]) -> Undo:
    """The undo that the journal has; ValueError or TypeError if it is none."""
    undo, types = _RECORDED.get(kind, (None, ()))
    if undo is None or tuple(map(type, fields)) != types:
        raise ValueError
    return cast("Undo", DeleteRule(Rule(*fields[0])) if undo is DeleteRule else undo(*fields))


# Changes.


class AddLink(NamedTuple):
    """`ip link add dev NAME type wireguard`, or a userspace implementation if the kernel has no WireGuard."""

    name: str

    def lines(self, _host: Host) -> tuple[str, ...]:
        """None: the run says which WireGuard it tries."""
        return ()

    def do(self, run: Run) -> None:
        run.add_link(self.name)

    def undo(self) -> Undo | None:
        return DeleteLink(self.name)


class RunHook(NamedTuple):
    """A PreUp, PostUp, PreDown or PostDown line, `%i` already replaced; `stage` is that key's name."""

    name: str
    stage: str
    command: str

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(without_keys(self.command))

    def do(self, run: Run) -> None:
        run.run_hook(self)

    def undo(self) -> Undo | None:
        return None


class SetDevice(NamedTuple):
    """`wg addconf NAME`: the device takes over the configuration's keys and peers."""

    name: str
    config: DeviceConfig

    def lines(self, _host: Host) -> tuple[str, ...]:
        """None: a Note announces it, before the endpoints are looked up."""
        return ()

    def do(self, run: Run) -> None:
        run.host.wireguard.set(self.name, self.config)

    def undo(self) -> Undo | None:
        return None


class SetFwmark(NamedTuple):
    """`wg set NAME fwmark N`."""

    name: str
    fwmark: int

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"wg set {self.name} fwmark {self.fwmark}")

    def do(self, run: Run) -> None:
        run.host.wireguard.set(self.name, DeviceConfig(fwmark=self.fwmark))

    def undo(self) -> Undo | None:
        return None


class AddAddress(NamedTuple):
    """`ip -4|-6 address add ADDRESS dev NAME`."""

    name: str
    address: Address

    @property
    def command(self) -> str:
        return f"ip {_family(self.address.address)} address add {self.address.text} dev {self.name}"

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(self.command)

    def do(self, run: Run) -> None:
        add_addresses([self], run.host)

    def undo(self) -> Undo | None:
        return None

    def remedy(self, errno: int) -> str:
        """What to do if the kernel refuses it."""
        return "The address is given twice: remove one of the two." if errno == EEXIST else ""


class SetMtuUp(NamedTuple):
    """`ip link set mtu N up dev NAME`."""

    name: str
    mtu: int

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"ip link set mtu {self.mtu} up dev {self.name}")

    def do(self, run: Run) -> None:
        run.host.rtnl.set_link(self.name, mtu=self.mtu)

    def undo(self) -> Undo | None:
        return None


class AddRoute(NamedTuple):
    """`ip -4|-6 route add PREFIX dev NAME [table T]`; `table_word` is the table as the user wrote it.

    `beside` (`ip route append`) adds it though there is a route to the same network, which is about to go.
    """

    route: Route
    table_word: str = ""
    beside: bool = False

    @property
    def command(self) -> str:
        to = self.route.destination
        verb = "append" if self.beside else "add"
        return f"ip {_family(to.address)} route {verb} {to} dev {self.route.device}{_in_table(self.table_word)}"

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(self.command)

    def do(self, run: Run) -> None:
        add_routes([self], run.host)

    def undo(self) -> Undo | None:
        return None

    def remedy(self, errno: int) -> str:
        """What to do if the kernel refuses it."""
        if errno != EEXIST:
            return ""
        return "The host has this route already: remove it, set Table, or take the network out of AllowedIPs."


class DeleteAddress(NamedTuple):
    """`ip -4|-6 address delete ADDRESS dev NAME`."""

    name: str
    address: Prefix

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"ip {_family(self.address.address)} address delete {self.address} dev {self.name}")

    def do(self, run: Run) -> None:
        run.host.rtnl.delete_addresses(self.name, [self.address])

    def undo(self) -> Undo | None:
        return None


class DeleteRoute(NamedTuple):
    """`ip -4|-6 route delete PREFIX dev NAME [table T]`: the one that up or reload added."""

    route: Route
    table_word: str = ""

    @property
    def command(self) -> str:
        to = self.route.destination
        return f"ip {_family(to.address)} route delete {to} dev {self.route.device}{_in_table(self.table_word)}"

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(self.command)

    def do(self, run: Run) -> None:
        delete_routes([self], run.host)

    def undo(self) -> Undo | None:
        return None

    def remedy(self, _errno: int) -> str:
        """What to do if the kernel refuses it."""
        return ""


class ChangeDevice(NamedTuple):
    """A change of a live device; `told` are the wg(8) commands that would do the same."""

    name: str
    config: DeviceConfig
    told: tuple[str, ...]

    def lines(self, _host: Host) -> tuple[str, ...]:
        return self.told

    def do(self, run: Run) -> None:
        run.host.wireguard.set(self.name, self.config)

    def undo(self) -> Undo | None:
        return None


class SetMtu(NamedTuple):
    """`ip link set mtu N dev NAME` of a link that is up."""

    name: str
    mtu: int

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"ip link set mtu {self.mtu} dev {self.name}")

    def do(self, run: Run) -> None:
        run.host.rtnl.set_link(self.name, mtu=self.mtu, up=False)

    def undo(self) -> Undo | None:
        return None


class ReplaceFirewall(NamedTuple):
    """The firewall rules of one family in place of those that stand."""

    name: str
    rules: FirewallRules

    def lines(self, host: Host) -> tuple[str, ...]:
        return host.firewall.add_lines(self.rules.kind, self.rules.family)

    def do(self, run: Run) -> None:
        kind, family, addresses, fwmark, port, _ = self.rules
        run.host.firewall.replace(kind, self.name, family, addresses, fwmark, port)

    def undo(self) -> Undo | None:
        return RemoveFirewall(self.name, self.rules.kind, self.rules.family)


class TakeBack(NamedTuple):
    """Takes an undo while the link stays, and strikes it out of the journal."""

    undone: Undo

    def lines(self, host: Host) -> tuple[str, ...]:
        return self.undone.lines(host)

    def do(self, run: Run) -> None:
        run.take_back_live(self.undone)

    def undo(self) -> Undo | None:
        return None


class AddRule(NamedTuple):
    """`ip -4|-6 rule add ...`; the rule carries the priority that the kernel would choose."""

    rule: Rule

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"ip -{self.rule.family} rule add {_added(self.rule)}")

    def do(self, run: Run) -> None:
        run.host.rtnl.add_rule(self.rule)

    def undo(self) -> Undo | None:
        return DeleteRule(self.rule)


class SetDns(NamedTuple):
    """Servers and search domains of the link; `full_tunnel` asks for all queries (`~.`)."""

    name: str
    mode: str
    servers: tuple[str, ...]
    search: tuple[str, ...]
    full_tunnel: bool

    def lines(self, host: Host) -> tuple[str, ...]:
        return host.dns.set_lines(self.mode, self.name, self.servers, self.search, self.full_tunnel)

    def do(self, run: Run) -> None:
        run.host.dns.set(self.mode, self.name, self.servers, self.search, self.full_tunnel)

    def undo(self) -> Undo | None:
        return UnsetDns(self.name, self.mode)


class AddFirewall(NamedTuple):
    """wg-quick's anti-spoofing and mark-keeping rules of one family; `kind` is "nft" or "iptables".

    With a `port`, what arrives there gets the mark before a firewall's reverse path filter looks at it.
    """

    name: str
    kind: str
    family: int
    addresses: tuple[bytes, ...]
    fwmark: int
    port: int = 0

    def lines(self, host: Host) -> tuple[str, ...]:
        return host.firewall.add_lines(self.kind, self.family)

    def do(self, run: Run) -> None:
        run.host.firewall.add(self.kind, self.name, self.family, self.addresses, self.fwmark, self.port)

    def undo(self) -> Undo | None:
        return RemoveFirewall(self.name, self.kind, self.family)


class SetSysctl(NamedTuple):
    """`sysctl -q KEY=VALUE`; `earlier` is the value before the first tunnel that needed it.

    `held`: another tunnel has set it already, so that this one only keeps it from being put back too early.
    """

    key: str
    value: str
    earlier: str
    held: bool = False

    def lines(self, _host: Host) -> tuple[str, ...]:
        return () if self.held else _told(f"sysctl -q {self.key}={self.value}")

    def do(self, run: Run) -> None:
        if not self.held:
            run.host.sysctl.write(parameter(self.key), self.value)

    def undo(self) -> Undo | None:
        return ReleaseSysctl(self.key, self.earlier)


class AddThrow(NamedTuple):
    """`ip -4|-6 route add throw PREFIX table N`: what goes there is looked up in the tables below."""

    destination: Prefix
    table: int

    @property
    def command(self) -> str:
        return f"ip {_family(self.destination.address)} route add throw {self.destination} table {self.table}"

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(self.command)

    def do(self, run: Run) -> None:
        run.host.rtnl.add_throw(self.destination, self.table)

    def undo(self) -> Undo | None:
        return DeleteThrow(str(self.destination), self.table)


class KeepInbound(NamedTuple):
    """Rules by which connections that come in beside the tunnel are answered there; `mark` is the tunnel's."""

    name: str
    mark: int

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"nft -f /dev/fd/63 # keep inbound connections beside {self.name}")

    def do(self, run: Run) -> None:
        run.host.firewall.keep_inbound(self.name, self.mark)

    def undo(self) -> Undo | None:
        return ForgetInbound(self.name)


class SetGuard(NamedTuple):
    """The kill switch, in one transaction in place of an earlier one."""

    name: str
    guard: Guard
    resolved: str = ""

    def lines(self, _host: Host) -> tuple[str, ...]:
        return _told(f"nft -f /dev/fd/63 # kill switch of {self.name}")

    def do(self, run: Run) -> None:
        run.host.firewall.guard(self.name, self.guard)

    def undo(self) -> Undo | None:
        return RemoveGuard(self.name, self.resolved)


Change = (
    AddLink
    | RunHook
    | SetDevice
    | SetFwmark
    | AddAddress
    | SetMtuUp
    | AddRoute
    | DeleteAddress
    | DeleteRoute
    | ChangeDevice
    | SetMtu
    | ReplaceFirewall
    | TakeBack
    | AddRule
    | SetDns
    | AddFirewall
    | SetSysctl
    | AddThrow
    | KeepInbound
    | SetGuard
)


class Note(NamedTuple):
    """A line of the transcript without an effect: `[!]` and its text, or a command ahead of what it does."""

    text: str

    def lines(self, _host: Host) -> tuple[str, ...]:
        return (self.text,)

    def do(self, run: Run) -> None:
        """Nothing is done."""

    def undo(self) -> Undo | None:
        return None


Step = Change | Note
"""What up and reload apply, in order. Down applies Undos, and hooks."""


def add_addresses(steps: Sequence[AddAddress], host: Host) -> None:
    """Adds the addresses of one link in one batch; BatchError names the refused ones by index."""
    words = [step.address for step in steps]
    host.rtnl.add_addresses(steps[0].name, [Prefix(word.address, word.length) for word in words])


def add_routes(steps: Sequence[AddRoute], host: Host) -> None:
    """Adds the routes in one batch; BatchError names the refused ones by index."""
    host.rtnl.add_routes([step.route for step in steps], beside=steps[0].beside)


def delete_routes(steps: Sequence[DeleteRoute], host: Host) -> None:
    """Deletes the routes in one batch; BatchError names the refused ones by index."""
    host.rtnl.delete_routes([step.route for step in steps])


def parameter(key: str) -> str:
    """A sysctl(8) key as the path below /proc/sys."""
    return key.replace(".", "/")


def _family_of(prefix: str) -> str:
    return "-6" if ":" in prefix else "-4"


def _family(address: bytes) -> str:
    return "-4" if len(address) == 4 else "-6"


def _in_table(word: str) -> str:
    return f" table {word}" if word else ""


def _table(rule: Rule) -> str:
    return "main" if rule.table == MAIN_TABLE else str(rule.table)


def _added(rule: Rule) -> str:
    if rule.fwmark is not None:
        return f"not fwmark {rule.fwmark} table {rule.table}"
    return f"table {_table(rule)} suppress_prefixlength 0"


def _deleted(rule: Rule) -> str:
    return f"table {rule.table}" if rule.fwmark is not None else f"table {_table(rule)} suppress_prefixlength 0"
