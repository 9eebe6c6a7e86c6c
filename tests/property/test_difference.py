"""Up is the difference from nothing: its steps are those from an interface without settings to the file's state.

`up` plans stage by stage, as hooks may change the host in between; reload takes the whole difference. Here the host
exists only in memory: without the interface for up, with that of an empty file for the difference.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.property.peers import PEERS, SECRETS
from wgquick.config.document import Document
from wgquick.config.parser import parse
from wgquick.config.settings import Extras
from wgquick.device import Device
from wgquick.diagnosis.keys import public_key_of
from wgquick.errors import OperationError, WgqError
from wgquick.executor import up
from wgquick.executor.journal import Journal
from wgquick.executor.planned_host import PlannedHost, changed
from wgquick.executor.planning import DryRun
from wgquick.executor.reloading import Reload, ReloadOptions
from wgquick.net import IPV6_MTU, Link, Path, Prefix, SocketAddress
from wgquick.options import DNS_MODES, FIREWALLS, Options
from wgquick.plan import applied
from wgquick.plan.steps import (
    AddAddress,
    AddFirewall,
    AddLink,
    AddRoute,
    ChangeDevice,
    Note,
    ReleaseSysctl,
    RunHook,
    SetDevice,
    SetFwmark,
    SetGuard,
)
from wgquick.plan.up import SRC_VALID_MARK
from wgquick.system.empty_host import EmptyHost
from wgquick.transcript import command

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from wgquick import ports
    from wgquick.config.settings import Settings
    from wgquick.executor.execution import Execution
    from wgquick.net import Endpoint, Guard, Route, Rule
    from wgquick.plan.steps import Step
    from wgquick.transcript import Line

GONE = "gone.example"
NAMES = {"vpn.example": "192.0.2.7", "six.example": "2001:db8::7"}
UPLINK = Link(2, "eth0", 1500, up=True, kind="veth")
TUNNEL = Link(3, "wg0", 1420, up=False, kind="wireguard")


class HostState(NamedTuple):
    """The host before the tunnel. `path_mtu` is None without a route; `src_valid_mark` is None if hidden.

    `is_held`: another tunnel has set it.
    """

    path_mtu: int | None = 1500
    has_ipv6: bool = True
    src_valid_mark: str | None = "0"
    is_held: bool = False
    src_valid_mark_writable: bool = True
    lans: tuple[str, ...] = ("192.168.7.5/24", "fd77::5/64")


class _Rtnl:
    """A host with an uplink, and with a new tunnel if it `has_tunnel`."""

    def __init__(self, state: HostState, *, has_tunnel: bool) -> None:
        self._state, self._has_tunnel = state, has_tunnel
        self._empty = EmptyHost().rtnl

    def links(self) -> list[Link]:
        return [UPLINK, TUNNEL] if self._has_tunnel else [UPLINK]

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links() if link.name == name), None)

    def takes_ipv6(self, name: str) -> bool:
        return self._state.has_ipv6

    def addresses(self, name: str) -> list[Prefix]:
        return [Prefix.parse(each) for each in self._state.lans] if name == UPLINK.name else []

    def link_addresses(self, name: str) -> list[object]:
        return []

    def link_routes(self, name: str) -> list[object]:
        return []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._empty, name)

    def path(self, address: str, mark: int = 0) -> Path | None:
        return None if self._state.path_mtu is None else Path(UPLINK.name, self._state.path_mtu)

    def default_path(self) -> Path | None:
        return self.path("")

    def rules(self, family: int) -> list[Rule]:
        return self._empty.rules(family) if family == 4 or self._state.has_ipv6 else []


class _WireGuard:
    def __init__(self, *, has_tunnel: bool) -> None:
        self._has_tunnel = has_tunnel

    def interfaces(self) -> list[str]:
        return [TUNNEL.name] if self._has_tunnel else []

    def get(self, name: str) -> Device:
        return Device(name)


class _Sysctl:
    def __init__(self, state: HostState) -> None:
        self._state = state

    def read(self, key: str) -> str | None:
        return self._state.src_valid_mark if key.endswith("src_valid_mark") else "0"

    def writable(self, key: str) -> bool:
        return self._state.src_valid_mark_writable


class _Dns:
    """The host's DNS, none of which is the tunnel's."""

    def __init__(self) -> None:
        self.detect = EmptyHost().dns.detect

    def stale(self) -> tuple[str, ...]:
        return ()

    def set_lines(self, mode: str, *_words: object) -> tuple[Line, ...]:
        """The line of `set`, without the notes about this machine's resolv.conf."""
        return (command(f"set DNS by {mode}"),)

    def unset_lines(self, mode: str, _name: str) -> tuple[Line, ...]:
        return (command(f"unset DNS by {mode}"),)

    def current(self, mode: str, name: str) -> None:
        return None


class Machine(EmptyHost):
    """The host; with `journals` an empty file has been brought up on it."""

    def __init__(self, state: HostState, journals: str = "") -> None:
        super().__init__()
        self.rtnl = cast("ports.RtNetlink", _Rtnl(state, has_tunnel=bool(journals)))
        self.wireguard = cast("ports.WireGuard", _WireGuard(has_tunnel=bool(journals)))
        self.sysctl = cast("ports.Sysctl", _Sysctl(state))
        self.dns = cast("ports.Dns", _Dns())
        self.journal_directory = journals

    def resolve(self, endpoint: Endpoint) -> SocketAddress:
        if endpoint.host == GONE:
            raise OperationError(f"{GONE} has no address")
        address, _, zone = endpoint.host.partition("%")
        return SocketAddress(NAMES.get(address, address), int(endpoint.port), int(zone or 0))

    def resolved_now(self, endpoints: Iterable[Endpoint]) -> dict[Endpoint, SocketAddress]:
        return {endpoint: self.resolve(endpoint) for endpoint in endpoints if endpoint.host != GONE}

    def outside_servers(self, given: Collection[str]) -> tuple[SocketAddress, ...]:
        return (SocketAddress("192.168.7.1", 53),)


class Changes(NamedTuple):
    """The result of steps, whatever their form: the device, the last kill switch, and all other steps and notes."""

    device: Device
    guard: Guard | None
    routes: list[tuple[Route, str]]
    others: set[Step]
    notes: set[str]


def of_steps(steps: Iterable[Step], notes: Iterable[str] = ()) -> Changes:
    device, guard, routes, told = Device("wg0"), None, [], set(notes)
    others: set[Step] = set()
    for step in steps:
        match step:
            case AddLink() | RunHook():
                pass
            case SetDevice() | ChangeDevice():
                device = changed(device, step.config, public_key_of)
            case SetFwmark(_, fwmark):
                device = device._replace(fwmark=fwmark)
            case SetGuard(_, found, _):
                guard = found
            case AddRoute(route, word):
                routes.append((route, word))
            case AddFirewall(_, _, _, addresses):
                others.add(step._replace(addresses=tuple(sorted(addresses))))
            case Note(_, is_command):
                told |= set() if is_command else {step.line}
            case _:
                others.add(step)
    peers = sorted(each._replace(allowed_ips=tuple(sorted(each.allowed_ips))) for each in device.peers)
    return Changes(device._replace(peers=tuple(peers)), guard, routes, others, told)


@contextmanager
def directory(state: HostState) -> Iterator[str]:
    """A directory with the journals of other tunnels."""
    with tempfile.TemporaryDirectory() as above:
        journal = Journal(f"{above}/journals", "wg9")
        journal.start("", ())
        if state.is_held:
            journal.record_undo(ReleaseSysctl(SRC_VALID_MARK, "0"))
        yield f"{above}/journals"


def by_up(file: Settings, state: HostState, options: Options) -> Changes:
    """The steps of up on a host without the interface. With a small MTU the link loses IPv6."""
    made: list[Execution] = []
    with directory(state) as journals:
        run = DryRun(PlannedHost(cast("ports.Host", Machine(state)), "wg0", journals, public_key_of))

        def execution(*words: Any, **named: Any) -> Execution:
            made.append(run.execution(*words, **named))
            return made[-1]

        up.bring_up(file, run.host, options, run.say, execution=execution)
    if run.planned_host.unresolved:
        raise OperationError("a plan does not wait for a name, but up fails")
    found = of_steps(made[-1].taken)
    if (file.mtu or IPV6_MTU) >= IPV6_MTU:
        return found
    if any(route.destination.family == 6 for route, _ in found.routes):
        raise OperationError("the kernel refuses the IPv6 route")
    kept = {each for each in found.others if not (isinstance(each, AddAddress) and len(each.address.address) == 16)}
    return found._replace(others=kept)


def by_difference(file: Settings, state: HostState, options: Options) -> Changes:
    """The difference from the state of an empty file."""
    with directory(state) as journals:
        journal = Journal(journals, "wg0")
        journal.start("", ())
        journal.identify(TUNNEL.ifindex)
        journal.apply(applied.recorded(applied.Applied({}, extras=Extras())))
        journal.complete(True)
        printed: list[str] = []
        host = cast("ports.Host", Machine(state, journals))
        comparison = Reload(file, host, options, ReloadOptions(force=True), printed.append).compare()
    assert comparison.difference.restart == ()
    return of_steps([move.step for move in comparison.difference.moves], [*printed, *comparison.notes])


def one_of(*lines: str) -> st.SearchStrategy[str]:
    """One of the lines, or none."""
    return st.sampled_from(("", *lines))


def some(values: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), unique=True, max_size=4)


ADDRESSES = ("10.0.0.1/24", "10.0.0.2/24", "10.1.0.1/16", "10.2.0.1", "fd00::1/64", "fd00::2/64", "fe80::5/64")
NETWORKS = (
    *("0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/24", "10.0.0.7/32", "10.9.0.0/16", "10.1.0.0/16", "192.168.7.0/24"),
    *("::/0", "fd00::/64", "fd00::9/128", "fd01::/48", "2001:db8::/32"),
)
ENDPOINTS = ("192.0.2.9:51820", "[2001:db8::9]:51820", "vpn.example:7", "six.example:7", "[fe80::9%1]:51820")
EXCLUDED = ("198.51.100.0/24", "lan, fd77::/48", "198.51.0.0/16, 198.51.100.0/24, lan")


@st.composite
def peers(draw: st.DrawFn) -> list[str]:
    """[Peer] sections; sections of one key, and networks of two peers, may occur.

    Up resolves the endpoint of each section, reload only the last one of a peer, so all others have an address. And
    up takes a network from another peer even if the same section removes it again, so no section does that.
    """
    lines: list[str] = []
    keys = draw(st.lists(st.sampled_from(PEERS[:3]), max_size=4))
    endpoints = ENDPOINTS if len(set(keys)) < len(keys) else (*ENDPOINTS, f"{GONE}:7")
    for key in keys:
        lines += ["[Peer]", f"PublicKey = {key}"]
        networks = draw(some(NETWORKS))
        cut = draw(st.integers(0, len(networks)))
        for line in filter(None, (networks[:cut], networks[cut:])):
            sign = draw(st.sampled_from(("", "", "", "+", "-")))
            lines.append(f"AllowedIPs = {', '.join(f'{sign}{each}' for each in line)}")
        lines += [
            draw(one_of(*(f"Endpoint = {each}" for each in endpoints))),
            draw(one_of("PersistentKeepalive = 25", "PersistentKeepalive = off")),
            draw(one_of(*(f"PresharedKey = {secret}" for secret in SECRETS[1:3]))),
        ]
    return lines


@st.composite
def files(draw: st.DrawFn) -> str:
    lines = [
        "[Interface]",
        draw(one_of(f"PrivateKey = {SECRETS[0]}")),
        draw(one_of("ListenPort = 51999", "ListenPort = 0")),
        draw(one_of("FwMark = 7", "FwMark = off")),
        f"Address = {', '.join(draw(some(ADDRESSES)))}",
        draw(one_of("MTU = 1420", "MTU = 1300", "MTU = 1200", "MTU = 9000")),
        draw(one_of("Table = off", "Table = 1234", "Table = auto", "Table = main")),
        draw(one_of("DNS = 10.0.0.53", "DNS = fd00::53, corp.example", "DNS = corp.example")),
        draw(one_of("SaveConfig = true")),
        draw(one_of("PreUp = true")),
        draw(one_of("PostUp = true")),
        draw(one_of("# wgq: kill-switch = on")),
        draw(st.just("") | one_of(*(f"# wgq: exclude = {each}" for each in EXCLUDED))),
        draw(one_of("# wgq: keep-inbound = on")),
        draw(one_of("# wgq: netns = inner")),
    ]
    return "\n".join([*lines, *draw(peers())])


GROUNDS = st.builds(
    HostState,
    path_mtu=st.sampled_from((1500, 1400, 9000, None)),
    has_ipv6=st.booleans(),
    src_valid_mark=st.sampled_from(("0", "1", None)),
    is_held=st.booleans(),
    src_valid_mark_writable=st.booleans(),
    lans=st.sampled_from((("192.168.7.5/24", "fd77::5/64"), ("198.18.0.5/24",))),
)
MEANS = st.builds(
    Options,
    backend=st.just("auto"),
    firewall=st.sampled_from(FIREWALLS),
    dns=st.sampled_from(DNS_MODES),
    strict=st.sampled_from((False, False, False, True)),
    no_wait_for_dns=st.sampled_from((False, True, True)),
)
WHOLE = f"""[Interface]
PrivateKey = {SECRETS[0]}
Address = 10.0.0.1/24, fd00::1/64
DNS = 10.0.0.53
# wgq: kill-switch = on
# wgq: exclude = lan
# wgq: keep-inbound = on
[Peer]
PublicKey = {PEERS[0]}
Endpoint = vpn.example:7
AllowedIPs = 0.0.0.0/0, ::/0
"""


@settings(max_examples=200)
@given(files(), GROUNDS, MEANS)
@example(WHOLE, HostState(), Options())
@example(WHOLE.replace("[Peer]", "Table = 1234\n[Peer]"), HostState(), Options())
@example(WHOLE, HostState(has_ipv6=False), Options(firewall="iptables"))
def test_up_is_the_difference_from_nothing(text: str, state: HostState, options: Options) -> None:
    file = parse(Document.parse(text.encode()), "wg0")
    try:
        wanted = by_up(file, state, options)
    except WgqError as error:
        event(f"refused: {error.what}")
        with pytest.raises(WgqError):
            by_difference(file, state, options)
        return
    found = by_difference(file, state, options)
    for field in Changes._fields:
        assert (field, getattr(found, field)) == (field, getattr(wanted, field))
