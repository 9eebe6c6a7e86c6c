"""The steps of up and down as data. Every step that outlives the link names its undo before it is applied.

Steps without an undo (addresses, routes through the link, the device's settings) go with the link.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.config.settings import Address
    from wgquick.device import DeviceConfig
    from wgquick.net import Route, Rule


class AddLink(NamedTuple):
    """`ip link add dev NAME type wireguard`, or a userspace implementation where the kernel has no WireGuard."""

    name: str


class DeleteLink(NamedTuple):
    """`ip link delete dev NAME`."""

    name: str


class RunHook(NamedTuple):
    """A PreUp, PostUp, PreDown or PostDown line, `%i` already replaced; `stage` is that key's name."""

    name: str
    stage: str
    command: str


class SetDevice(NamedTuple):
    """`wg addconf NAME`: the device takes over the configuration's keys and peers."""

    name: str
    config: DeviceConfig


class SetFwmark(NamedTuple):
    """`wg set NAME fwmark N`."""

    name: str
    fwmark: int


class AddAddress(NamedTuple):
    """`ip -4|-6 address add ADDRESS dev NAME`."""

    name: str
    address: Address


class SetMtuUp(NamedTuple):
    """`ip link set mtu N up dev NAME`."""

    name: str
    mtu: int


class AddRoute(NamedTuple):
    """`ip -4|-6 route add PREFIX dev NAME [table T]`; `table_word` is the table as the user wrote it."""

    route: Route
    table_word: str = ""


class AddRule(NamedTuple):
    """`ip -4|-6 rule add ...`; the rule carries the priority that the kernel would choose."""

    rule: Rule


class DeleteRule(NamedTuple):
    """`ip -4|-6 rule delete ...`, exactly this one."""

    rule: Rule


class SetDns(NamedTuple):
    """Servers and search domains of the link; `full_tunnel` asks for all queries (`~.`)."""

    name: str
    mode: str
    servers: tuple[str, ...]
    search: tuple[str, ...]
    full_tunnel: bool


class UnsetDns(NamedTuple):
    """Takes back the link's DNS as `mode` set it."""

    name: str
    mode: str


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


class RemoveFirewall(NamedTuple):
    """Removes the rules that carry this interface's name, of both families where `family` is 0."""

    name: str
    kind: str
    family: int


class SetSysctl(NamedTuple):
    """`sysctl -q KEY=VALUE`; `earlier` is the value before the first tunnel that needed it.

    `held`: another tunnel has set it already, so that this one only keeps it from being put back too early.
    """

    key: str
    value: str
    earlier: str
    held: bool = False


class ReleaseSysctl(NamedTuple):
    """Puts `earlier` back unless another full tunnel still needs the value."""

    key: str
    earlier: str


class Note(NamedTuple):
    """A line of the transcript without an effect: `[!]` and its text, or a command ahead of what it does."""

    text: str


Step = (
    AddLink
    | DeleteLink
    | RunHook
    | SetDevice
    | SetFwmark
    | AddAddress
    | SetMtuUp
    | AddRoute
    | AddRule
    | DeleteRule
    | SetDns
    | UnsetDns
    | AddFirewall
    | RemoveFirewall
    | SetSysctl
    | ReleaseSysctl
    | Note
)


def undo(step: Step) -> Step | None:
    """The step that takes back what this one does, or None where it goes with the link."""
    match step:
        case AddLink(name):
            return DeleteLink(name)
        case AddRule(rule):
            return DeleteRule(rule)
        case SetDns(name, mode):
            return UnsetDns(name, mode)
        case AddFirewall(name, kind, family):
            return RemoveFirewall(name, kind, family)
        case SetSysctl(key, _, earlier):
            return ReleaseSysctl(key, earlier)
        case _:
            return None
