"""The steps of up, reload and down. Each class has its transcript lines, its effect, its undo and its record.

A Change that outlives the link has an Undo, which is recorded before the change is applied. Addresses, routes
through the link and the device's settings disappear with the link and have none. A Note is a line of the transcript
without an effect. Steps are values: only `do` has effects, on the given run.
"""

from __future__ import annotations

from errno import EEXIST

from wgquick.config.keys import KEYS
from wgquick.device import DeviceConfig
from wgquick.lean import TYPE_CHECKING, NamedTuple, Protocol, cast
from wgquick.net import (
    MAIN_NAME,
    MAIN_TABLE,
    Destination,
    Endpoint,
    Prefix,
    PublicKey,
    Rule,
    SocketAddress,
    without_keys,
)
from wgquick.transcript import command, note

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from wgquick.config.settings import Address, Settings
    from wgquick.net import FirewallRules, Guard, Route
    from wgquick.ports import Host
    from wgquick.transcript import Line

    T = TypeVar("T")


class Run(Protocol):
    """The run that a step works on: the host, and the actions that also need the journal or the options."""

    @property
    def host(self) -> Host: ...

    def add_link(self, name: str) -> None:
        """Create the link, by the kernel or by a userspace implementation."""

    def run_hook(self, hook: RunHook) -> None:
        """Run a hook line; HookError if its status is not 0."""

    def expect_exit(self) -> None:
        """The daemon of a deleted link is about to exit: wait for it after the other undos."""

    def release(self, undo: ReleaseSysctl) -> None:
        """Restore a kernel parameter unless another tunnel needs its value."""

    def undo_live(self, undo: Undo) -> None:
        """Apply an undo, whether or not its state still exists, and remove it from the journal."""


def _line(text: str) -> tuple[Line, ...]:
    return (command(text),)


_SIGNS: dict[type, str] = {}


def adds(step: type[T]) -> type[T]:
    """Says that a step adds something to the host."""
    _SIGNS[step] = "+"
    return step


def removes(step: type[T]) -> type[T]:
    """Says that a step removes something from the host."""
    _SIGNS[step] = "-"
    return step


def changes(step: type[T]) -> type[T]:
    """Says that a step changes or runs something."""
    _SIGNS[step] = "~"
    return step


# Undos.


@removes
class DeleteLink(NamedTuple):
    """`ip link delete dev NAME`."""

    name: str

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"ip link delete dev {self.name}")

    def do(self, run: Run) -> None:
        link = run.host.rtnl.link(self.name)
        run.host.rtnl.delete_link(self.name)
        if link is not None and link.kind != "wireguard":
            run.expect_exit()


@removes
class DeleteRule(NamedTuple):
    """`ip -4|-6 rule delete ...` of exactly this rule."""

    rule: Rule

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"ip -{self.rule.family} rule delete {_deleted(self.rule)}")

    def do(self, run: Run) -> None:
        run.host.rtnl.delete_rule(self.rule)


@removes
class UnsetDns(NamedTuple):
    """Removes the link's DNS that `mode` has set."""

    name: str
    mode: str

    def lines(self, host: Host) -> tuple[Line, ...]:
        return host.dns.unset_lines(self.mode, self.name)

    def do(self, run: Run) -> None:
        run.host.dns.unset(self.mode, self.name)


@removes
class RemoveFirewall(NamedTuple):
    """Removes the rules that carry this interface's name, of both families if `family` is 0."""

    name: str
    kind: str
    family: int

    def lines(self, host: Host) -> tuple[Line, ...]:
        return host.firewall.remove_lines(self.kind, self.family)

    def do(self, run: Run) -> None:
        run.host.firewall.remove(self.kind, self.name, self.family)


@changes
class ReleaseSysctl(NamedTuple):
    """Restores `earlier` unless another full tunnel still needs the value."""

    key: str
    earlier: str

    @property
    def command(self) -> str:
        return f"sysctl -q {self.key}={self.earlier}"

    def lines(self, _host: Host) -> tuple[Line, ...]:
        """Empty, as wg-quick never restores the parameter."""
        return ()

    def do(self, run: Run) -> None:
        run.release(self)


@removes
class DeleteThrow(NamedTuple):
    """`ip route delete throw PREFIX table N`; the prefix is a text."""

    destination: str
    table: int

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"ip {_family_of(self.destination)} route delete throw {self.destination} table {self.table}")

    def do(self, run: Run) -> None:
        run.host.rtnl.delete_throw(Prefix.parse(self.destination), self.table)


@removes
class ForgetInbound(NamedTuple):
    """Removes the rules that KeepInbound adds."""

    name: str

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"nft -f /dev/fd/63 # remove the keep-inbound rules of {self.name}")

    def do(self, run: Run) -> None:
        run.host.firewall.forget_inbound(self.name)


@removes
class RemoveGuard(NamedTuple):
    """Removes the kill switch. `allowed` has the endpoints' addresses: the kill switch blocks DNS queries."""

    name: str
    allowed: tuple[Destination, ...] = ()

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"nft -f /dev/fd/63 # remove the kill switch of {self.name}")

    def do(self, run: Run) -> None:
        run.host.firewall.remove_guard(self.name)


Undo = (
    DeleteLink | DeleteRule | UnsetDns | RemoveFirewall | ReleaseSysctl | DeleteThrow | ForgetInbound | RemoveGuard
)

# The journal's form of an undo: [class, field, ...].
_RECORDED: dict[str, type[Any]] = {undo.__name__: undo for undo in cast("Any", Undo).__args__}
_SERVER, _PEER = "?", "@"


def _written(allowed: tuple[Destination, ...]) -> str:
    """The destinations as OWNER=ADDRESS/PORT/SCOPE, separated by blanks. OWNER is HOST:PORT, @PUBLICKEY or ?."""
    return " ".join(
        f"{_owner(each.owner)}={each.address.address}/{each.address.port}/{each.address.scope}" for each in allowed
    )


def _owner(owner: Endpoint | PublicKey | None) -> str:
    if owner is None:
        return _SERVER
    return f"{_PEER}{owner}" if isinstance(owner, PublicKey) else str(owner)


def _read(text: str) -> tuple[Destination, ...]:
    """The destinations; ValueError if the text is not from `_written`."""
    return tuple(map(_read_one, text.split()))


def _read_one(word: str) -> Destination:
    owner, _, found = word.rpartition("=")
    address, port, scope = found.split("/")
    known = SocketAddress(address, int(port), int(scope))
    host, colon, service = owner.rpartition(":")
    if colon:
        return Destination(known, Endpoint(host.removeprefix("[").removesuffix("]"), service))
    if owner == _SERVER:
        return Destination(known)
    return Destination(known, PublicKey.parse(owner.removeprefix(_PEER)))


class _Form(NamedTuple):
    """How a field of an undo is recorded: JSON's type, and the functions from and to the field's value."""

    kind: type
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _itself(value: Any) -> Any:
    return value


_FORMS = {
    "str": _Form(str, _itself, _itself),
    "int": _Form(int, _itself, _itself),
    "Rule": _Form(list, list, lambda fields: Rule(*fields)),
    "tuple[Destination, ...]": _Form(str, _written, _read),
}


def recorded(undo: Undo) -> list[Any]:
    """The undo in the journal's form."""
    forms = (_FORMS[each] for each in type(undo).__annotations__.values())
    return [type(undo).__name__, *(form.write(field) for form, field in zip(forms, undo, strict=True))]


def from_record(kind: str, fields: list[Any]) -> Undo:
    """The undo for a journal's entry; ValueError or TypeError if the entry is not an undo."""
    undo = _RECORDED.get(kind)
    if undo is None:
        raise ValueError
    forms = [_FORMS[each] for each in undo.__annotations__.values()]
    if [*map(type, fields)] != [form.kind for form in forms]:
        raise ValueError
    return cast("Undo", undo(*(form.read(field) for form, field in zip(forms, fields, strict=True))))


# Changes.


@adds
class AddLink(NamedTuple):
    """`ip link add dev NAME type wireguard`, or a userspace implementation if the kernel has no WireGuard."""

    name: str

    def lines(self, _host: Host) -> tuple[Line, ...]:
        """Empty: the run prints which WireGuard implementation it tries."""
        return ()

    def do(self, run: Run) -> None:
        run.add_link(self.name)

    def undo(self) -> Undo | None:
        return DeleteLink(self.name)


@changes
class RunHook(NamedTuple):
    """A PreUp, PostUp, PreDown or PostDown line, `%i` already replaced; `stage` is the key's name."""

    name: str
    stage: str
    command: str

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(without_keys(self.command))

    def do(self, run: Run) -> None:
        run.run_hook(self)

    def undo(self) -> Undo | None:
        return None


@adds
class SetDevice(NamedTuple):
    """`wg addconf NAME`: gives the device the configuration's keys and peers."""

    name: str
    config: DeviceConfig

    def lines(self, _host: Host) -> tuple[Line, ...]:
        """Empty: a Note announces the step before the endpoints are resolved."""
        return ()

    def do(self, run: Run) -> None:
        run.host.wireguard.set(self.name, self.config)

    def undo(self) -> Undo | None:
        return None


@changes
class SetFwmark(NamedTuple):
    """`wg set NAME fwmark N`."""

    name: str
    fwmark: int

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"wg set {self.name} fwmark {self.fwmark}")

    def do(self, run: Run) -> None:
        run.host.wireguard.set(self.name, DeviceConfig(fwmark=self.fwmark))

    def undo(self) -> Undo | None:
        return None


@adds
class AddAddress(NamedTuple):
    """`ip -4|-6 address add ADDRESS dev NAME`."""

    name: str
    address: Address

    @property
    def command(self) -> str:
        return f"ip {_family(self.address.address)} address add {self.address.text} dev {self.name}"

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(self.command)

    def do(self, run: Run) -> None:
        add_addresses([self], run.host)

    def undo(self) -> Undo | None:
        return None

    def remedy(self, errno: int) -> str:
        """What to do if the kernel refuses it."""
        return "The file has the address twice: remove one of them." if errno == EEXIST else ""


@changes
class SetMtuUp(NamedTuple):
    """`ip link set mtu N up dev NAME`."""

    name: str
    mtu: int

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"ip link set mtu {self.mtu} up dev {self.name}")

    def do(self, run: Run) -> None:
        run.host.rtnl.set_link(self.name, mtu=self.mtu)

    def undo(self) -> Undo | None:
        return None


@adds
class AddRoute(NamedTuple):
    """`ip -4|-6 route add PREFIX dev NAME [table T]`; `table_word` is the table as the file writes it.

    With `beside` (`ip route append`) the route is added next to an existing one for the same network, which a later
    step deletes.
    """

    route: Route
    table_word: str = ""
    beside: bool = False

    @property
    def command(self) -> str:
        to = self.route.destination
        verb = "append" if self.beside else "add"
        return f"ip {_family(to.address)} route {verb} {to} dev {self.route.device}{_in_table(self.table_word)}"

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(self.command)

    def do(self, run: Run) -> None:
        add_routes([self], run.host)

    def undo(self) -> Undo | None:
        return None

    def remedy(self, errno: int) -> str:
        """What to do if the kernel refuses it."""
        if errno != EEXIST:
            return ""
        return "The host already has this route: remove it, set Table, or remove the network from AllowedIPs."


@removes
class DeleteAddress(NamedTuple):
    """`ip -4|-6 address delete ADDRESS dev NAME`."""

    name: str
    address: Prefix

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"ip {_family(self.address.address)} address delete {self.address} dev {self.name}")

    def do(self, run: Run) -> None:
        run.host.rtnl.delete_addresses(self.name, [self.address])

    def undo(self) -> Undo | None:
        return None


@removes
class DeleteRoute(NamedTuple):
    """`ip -4|-6 route delete PREFIX dev NAME [table T]`, for a route that up or reload added."""

    route: Route
    table_word: str = ""

    @property
    def command(self) -> str:
        to = self.route.destination
        return f"ip {_family(to.address)} route delete {to} dev {self.route.device}{_in_table(self.table_word)}"

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(self.command)

    def do(self, run: Run) -> None:
        delete_routes([self], run.host)

    def undo(self) -> Undo | None:
        return None

    def remedy(self, _errno: int) -> str:
        """What to do if the kernel refuses it."""
        return ""


@changes
class ChangeDevice(NamedTuple):
    """A change of a live device; `commands` are the equivalent wg(8) commands, for the transcript."""

    name: str
    config: DeviceConfig
    commands: tuple[Line, ...]

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return self.commands

    def do(self, run: Run) -> None:
        run.host.wireguard.set(self.name, self.config)

    def undo(self) -> Undo | None:
        return None


@changes
class SetMtu(NamedTuple):
    """`ip link set mtu N dev NAME` of a link that is up."""

    name: str
    mtu: int

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"ip link set mtu {self.mtu} dev {self.name}")

    def do(self, run: Run) -> None:
        run.host.rtnl.set_link(self.name, mtu=self.mtu, up=False)

    def undo(self) -> Undo | None:
        return None


@changes
class ReplaceFirewall(NamedTuple):
    """Replaces the firewall rules of one family."""

    name: str
    rules: FirewallRules

    def lines(self, host: Host) -> tuple[Line, ...]:
        return host.firewall.add_lines(self.rules.kind, self.rules.family)

    def do(self, run: Run) -> None:
        kind, family, addresses, fwmark, port, _ = self.rules
        run.host.firewall.replace(kind, self.name, family, addresses, fwmark, port)

    def undo(self) -> Undo | None:
        return RemoveFirewall(self.name, self.rules.kind, self.rules.family)


class UndoStep(NamedTuple):
    """Applies an undo while the link stays up, and removes it from the journal."""

    undone: Undo

    def lines(self, host: Host) -> tuple[Line, ...]:
        return self.undone.lines(host)

    def do(self, run: Run) -> None:
        run.undo_live(self.undone)

    def undo(self) -> Undo | None:
        return None


@adds
class AddRule(NamedTuple):
    """`ip -4|-6 rule add ...`; the rule carries the priority that the kernel would choose."""

    rule: Rule

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"ip -{self.rule.family} rule add {_added(self.rule)}")

    def do(self, run: Run) -> None:
        run.host.rtnl.add_rule(self.rule)

    def undo(self) -> Undo | None:
        return DeleteRule(self.rule)


@adds
class SetDns(NamedTuple):
    """Sets the link's DNS servers and search domains; with `full_tunnel` they get all queries (`~.`)."""

    name: str
    mode: str
    servers: tuple[str, ...]
    search: tuple[str, ...]
    full_tunnel: bool

    def lines(self, host: Host) -> tuple[Line, ...]:
        return host.dns.set_lines(self.mode, self.name, self.servers, self.search, self.full_tunnel)

    def do(self, run: Run) -> None:
        run.host.dns.set(self.mode, self.name, self.servers, self.search, self.full_tunnel)

    def undo(self) -> Undo | None:
        return UnsetDns(self.name, self.mode)


@adds
class AddFirewall(NamedTuple):
    """wg-quick's anti-spoofing and mark-keeping rules of one family; `kind` is "nft" or "iptables".

    With a `port`, packets to this port get the fwmark before a firewall's reverse path filter checks them.
    """

    name: str
    kind: str
    family: int
    addresses: tuple[bytes, ...]
    fwmark: int
    port: int = 0

    def lines(self, host: Host) -> tuple[Line, ...]:
        return host.firewall.add_lines(self.kind, self.family)

    def do(self, run: Run) -> None:
        run.host.firewall.add(self.kind, self.name, self.family, self.addresses, self.fwmark, self.port)

    def undo(self) -> Undo | None:
        return RemoveFirewall(self.name, self.kind, self.family)


@changes
class SetSysctl(NamedTuple):
    """`sysctl -q KEY=VALUE`; `earlier` is the value before the first tunnel that needed it.

    `held`: another tunnel has already set the value, and this step only prevents that it is restored too early.
    """

    key: str
    value: str
    earlier: str
    held: bool = False

    @property
    def command(self) -> str:
        return f"sysctl -q {self.key}={self.value}"

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return () if self.held else _line(self.command)

    def do(self, run: Run) -> None:
        if not self.held:
            run.host.sysctl.write(parameter(self.key), self.value)

    def undo(self) -> Undo | None:
        return ReleaseSysctl(self.key, self.earlier)


@adds
class AddThrow(NamedTuple):
    """`ip -4|-6 route add throw PREFIX table N`: the lookup of such packets continues in the next tables."""

    destination: Prefix
    table: int

    @property
    def command(self) -> str:
        return f"ip {_family(self.destination.address)} route add throw {self.destination} table {self.table}"

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(self.command)

    def do(self, run: Run) -> None:
        run.host.rtnl.add_throw(self.destination, self.table)

    def undo(self) -> Undo | None:
        return DeleteThrow(str(self.destination), self.table)


@adds
class KeepInbound(NamedTuple):
    """Adds rules that answer inbound connections on the link they arrived on; `mark` is the tunnel's fwmark."""

    name: str
    mark: int

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"nft -f /dev/fd/63 # keep-inbound rules of {self.name}")

    def do(self, run: Run) -> None:
        run.host.firewall.keep_inbound(self.name, self.mark)

    def undo(self) -> Undo | None:
        return ForgetInbound(self.name)


@adds
class SetGuard(NamedTuple):
    """Sets the kill switch, in one transaction that replaces an earlier one; `allowed` is as in RemoveGuard."""

    name: str
    guard: Guard
    allowed: tuple[Destination, ...] = ()

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return _line(f"nft -f /dev/fd/63 # kill switch of {self.name}")

    def do(self, run: Run) -> None:
        run.host.firewall.guard(self.name, self.guard)

    def undo(self) -> Undo | None:
        return RemoveGuard(self.name, self.allowed)


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
    | UndoStep
    | AddRule
    | SetDns
    | AddFirewall
    | SetSysctl
    | AddThrow
    | KeepInbound
    | SetGuard
)


@changes
class Note(NamedTuple):
    """A line of the transcript without an effect: a note, or the command of the next step."""

    text: str
    is_command: bool = False

    @property
    def line(self) -> Line:
        return command(self.text) if self.is_command else note(self.text)

    def lines(self, _host: Host) -> tuple[Line, ...]:
        return (self.line,)

    def do(self, run: Run) -> None:
        """Does nothing."""

    def undo(self) -> Undo | None:
        return None


Step = Change | Note
"""The steps of up and reload. Down applies Undos and hooks."""


def sign(step: Step | Undo) -> str:
    """ "+" for a step that adds something, "-" for one that removes something, "~" for one that changes it."""
    return _SIGNS[type(step.undone if isinstance(step, UndoStep) else step)]


def hooks(settings: Settings, stage: str) -> tuple[Step, ...]:
    """The hook lines of a stage (PreUp, PostUp, PreDown, PostDown), `%i` replaced everywhere."""
    lines: tuple[str, ...] = getattr(settings, KEYS[stage].field)
    return tuple(RunHook(settings.name, stage, line.replace("%i", settings.name)) for line in lines)


def add_addresses(steps: Sequence[AddAddress], host: Host) -> None:
    """Add the addresses of one link in one batch; BatchError has the indices of the refused ones."""
    words = [step.address for step in steps]
    host.rtnl.add_addresses(steps[0].name, [Prefix(word.address, word.length) for word in words])


def add_routes(steps: Sequence[AddRoute], host: Host) -> None:
    """Add the routes in one batch; BatchError has the indices of the refused ones."""
    host.rtnl.add_routes([step.route for step in steps], beside=steps[0].beside)


def delete_routes(steps: Sequence[DeleteRoute], host: Host) -> None:
    """Delete the routes in one batch; BatchError has the indices of the refused ones."""
    host.rtnl.delete_routes([step.route for step in steps])


def parameter(key: str) -> str:
    """The path below /proc/sys of a sysctl(8) key."""
    return key.replace(".", "/")


def _family_of(prefix: str) -> str:
    return "-6" if ":" in prefix else "-4"


def _family(address: bytes) -> str:
    return "-4" if len(address) == 4 else "-6"


def _in_table(word: str) -> str:
    return f" table {word}" if word else ""


def _table(rule: Rule) -> str:
    return MAIN_NAME if rule.table == MAIN_TABLE else str(rule.table)


def _added(rule: Rule) -> str:
    if rule.other:
        return f"fwmark {rule.fwmark} table {_table(rule)}"
    if rule.fwmark is not None:
        return f"not fwmark {rule.fwmark} table {rule.table}"
    return f"table {_table(rule)} suppress_prefixlength 0"


def _deleted(rule: Rule) -> str:
    if rule.other:
        return _added(rule)
    return f"table {rule.table}" if rule.fwmark is not None else f"table {_table(rule)} suppress_prefixlength 0"
