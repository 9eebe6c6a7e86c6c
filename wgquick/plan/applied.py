"""The state that was last set up from a file, as recorded in the journal. Reload leaves all other state alone.

Secrets are recorded only as keyed hashes. Journals of earlier versions lack it.
"""

from __future__ import annotations

from wgquick.config import extras
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import FirewallRules, Prefix, address_text, pack_address
from wgquick.plan.current import LinkDns
from wgquick.plan.file_peers import UNKNOWN, file_peers, read_peers, recorded_peers
from wgquick.plan.steps import (
    AddAddress,
    AddFirewall,
    AddLink,
    AddRoute,
    AddRule,
    AddThrow,
    ChangeDevice,
    DeleteAddress,
    DeleteRoute,
    KeepInbound,
    Note,
    ReplaceFirewall,
    RunHook,
    SetDevice,
    SetDns,
    SetFwmark,
    SetGuard,
    SetMtu,
    SetMtuUp,
    SetSysctl,
    UndoStep,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from wgquick.config.settings import Extras, Settings
    from wgquick.net import PublicKey
    from wgquick.plan.desired import Desired
    from wgquick.plan.file_peers import FilePeers
    from wgquick.plan.steps import Step, Undo

    Digest = Callable[[bytes], str]


class Applied(NamedTuple):
    """The file's settings and the resulting state.

    `peers` is what the file set for its peers, `private_key` the hash of its key ("": none). `addresses` and
    `routes` (each with its table) are those that were added. `mtu` (0: not set) has a flag for an automatic value.
    `fwmark` is the one chosen for a full tunnel, else 0. `hooked` are the peers that the file's hooks added.
    `extras` are wgq's own settings (None: unknown), and `option_extras` those that options of the command line
    set. `mechanisms` are that command line's backend, firewall and DNS mode (None: unknown). `overridden` has
    hashes of what the hooks set on the device in place of the file's values (`plan.reload.parts`).
    """

    peers: FilePeers
    private_key: str = ""
    addresses: frozenset[Prefix] = frozenset()
    routes: frozenset[tuple[Prefix, int]] = frozenset()
    mtu: int = 0
    has_automatic_mtu: bool = True
    fwmark: int = 0
    dns: LinkDns = LinkDns("off")
    firewall: tuple[FirewallRules, ...] = ()
    hooked: frozenset[bytes] = frozenset()
    extras: Extras | None = None
    overridden: frozenset[str] = frozenset()
    option_extras: Extras | None = None
    mechanisms: tuple[str, str, str] | None = None


class Known(NamedTuple):
    """The tunnel's state according to the journal; None if the journal does not have it.

    `addresses` and `routes` are those that were added, perhaps only in part; `undos` are the journal's. A peer that
    the file lacks is removed if it is in `earlier`, the file's peers before. Other peers stay if they are `hooked`,
    or with `keep_foreign`. `is_unfinished`: a reload was killed, perhaps between an undo and its step.
    """

    addresses: frozenset[Prefix] | None = None
    routes: frozenset[tuple[Prefix, int]] | None = None
    undos: tuple[Undo, ...] | None = None
    earlier: FilePeers | None = None
    hooked: frozenset[bytes] = frozenset()
    keep_foreign: bool = False
    dns: LinkDns = LinkDns("off")
    firewall: tuple[FirewallRules, ...] = ()
    fwmark: int = 0
    mtu: int = 0
    extras: Extras | None = None
    overridden: frozenset[str] = frozenset()
    is_unfinished: bool = False

    def stays(self, key: PublicKey) -> bool:
        """Whether a peer stays although the file lacks it."""
        if self.earlier is not None and key.raw in self.earlier:
            return False
        return key.raw in self.hooked or self.keep_foreign


def known(
    undos: tuple[Undo, ...], applied: Applied | None, intended: Applied | None, earlier: FilePeers | None
) -> Known:
    """The content of a journal. After a killed reload the state is anywhere between `applied` and `intended`.

    A journal of version 2 has only `earlier`; unknown state is left alone.
    """
    both = [each for each in (applied, intended) if each is not None]
    if not both:
        return Known(undos=undos, earlier=earlier, keep_foreign=True)
    newest = both[-1]
    return Known(
        frozenset[Prefix]().union(*(each.addresses for each in both)),
        frozenset[tuple[Prefix, int]]().union(*(each.routes for each in both)),
        undos,
        _both_peers(*(each.peers for each in both)),
        newest.hooked,
        dns=newest.dns if len(both) == 1 else LinkDns("off"),
        firewall=newest.firewall if len(both) == 1 else (),
        fwmark=newest.fwmark or both[0].fwmark,
        mtu=newest.mtu if len(both) == 1 else 0,
        extras=newest.extras,
        overridden=newest.overridden,
        is_unfinished=intended is not None,
    )


def _both_peers(applied: FilePeers, *intended: FilePeers) -> FilePeers:
    """The union of what two states set for each peer; an endpoint that differs is unknown."""
    found = dict(applied)
    for key, new in (each for peers in intended for each in peers.items()):
        old = found.get(key, new)
        found[key] = old._replace(
            endpoint=old.endpoint if old.endpoint == new.endpoint else UNKNOWN,
            persistent_keepalive=new.persistent_keepalive
            if old.persistent_keepalive is None
            else old.persistent_keepalive,
            has_preshared_key=old.has_preshared_key or new.has_preshared_key,
            has_allowed_ips=old.has_allowed_ips or new.has_allowed_ips,
        )
    return found


def of_steps(settings: Settings, steps: Iterable[Step], digest: Digest, hooked: Iterable[PublicKey]) -> Applied:
    """The state after the steps of up."""
    found = _of_file(settings, digest, frozenset(key.raw for key in hooked))
    addresses: list[Prefix] = []
    routes: list[tuple[Prefix, int]] = []
    firewall: list[FirewallRules] = []
    for step in steps:
        match step:
            case AddRoute(route):
                routes.append((route.destination, route.table))
            case AddAddress(_, address):
                addresses.append(Prefix(address.address, address.length))
            case AddFirewall():
                firewall.append(FirewallRules(*step[1:]))
            case SetMtuUp(_, mtu):
                found = found._replace(mtu=mtu)
            case SetFwmark(_, fwmark):
                found = found._replace(fwmark=fwmark)
            case SetDns(_, mode, servers, search, full_tunnel):
                found = found._replace(dns=LinkDns(mode, servers, search, full_tunnel))
            case AddLink() | RunHook() | SetDevice() | Note():  # reload compares with the device itself
                pass
            case AddRule() | SetSysctl() | AddThrow() | KeepInbound() | SetGuard():  # the journal has their undos
                pass
            case DeleteAddress() | DeleteRoute() | ChangeDevice() | SetMtu() | ReplaceFirewall() | UndoStep():
                pass  # steps of reload only
    return found._replace(addresses=frozenset(addresses), routes=frozenset(routes), firewall=tuple(firewall))


def of_desired(wanted: Desired, digest: Digest, hooked: frozenset[bytes]) -> Applied:
    """The state after a reload."""
    found = _of_file(wanted.settings, digest, hooked)
    is_chosen = bool(wanted.full) and not wanted.settings.fwmark
    return found._replace(
        addresses=frozenset(Prefix(address.address, address.length) for address in wanted.addresses),
        routes=frozenset((route.destination, route.table) for route in wanted.routes),
        mtu=wanted.mtu or 0,
        fwmark=(wanted.fwmark or 0) if is_chosen else 0,
        dns=wanted.dns,
        firewall=wanted.firewall,
    )


def _of_file(settings: Settings, digest: Digest, hooked: frozenset[bytes]) -> Applied:
    private_key = digest(settings.private_key.raw) if settings.private_key else ""
    return Applied(
        file_peers(settings, digest),
        private_key,
        has_automatic_mtu=settings.mtu is None,
        hooked=hooked,
        extras=settings.extras,
        option_extras=settings.option_extras,
    )


def recorded(applied: Applied) -> dict[str, Any]:
    """The journal's form. Addresses and routes are joined to strings, as there may be ten thousand."""
    tables: dict[int, list[str]] = {}
    for (address, length), table in applied.routes:
        tables.setdefault(table, []).append(f"{address_text(address)}/{length}")
    return {
        "peers": recorded_peers(applied.peers),
        "private_key": applied.private_key,
        "addresses": " ".join(sorted(map(str, applied.addresses))),
        "routes": {str(table): " ".join(sorted(words)) for table, words in sorted(tables.items())},
        "mtu": [applied.mtu, applied.has_automatic_mtu],
        "fwmark": applied.fwmark,
        "dns": list(applied.dns),
        "firewall": [_recorded_rules(rules) for rules in applied.firewall],
        "hooked": " ".join(sorted(key.hex() for key in applied.hooked)),
        "extras": _recorded_extras(applied.extras),
        "overridden": " ".join(sorted(applied.overridden)),
        "told": _recorded_extras(applied.option_extras),  # the extras that options set
        "means": None if applied.mechanisms is None else list(applied.mechanisms),
    }


def _recorded_extras(own: Extras | None) -> list[str] | None:
    return None if own is None else list(extras.lines(own))


def _recorded_rules(rules: FirewallRules) -> list[Any]:
    return [rules.kind, rules.family, [address.hex() for address in rules.addresses], rules.fwmark, rules.port]


def from_record(record: dict[str, Any], peers: FilePeers | None = None) -> Applied:
    """The state from the journal's form; ValueError, KeyError or TypeError if it is not valid.

    `peers` are the record's, if they are already parsed.
    """
    mtu, is_automatic = record["mtu"]
    mode, servers, search, full_tunnel = record["dns"]
    return Applied(
        read_peers(record["peers"]) if peers is None else peers,
        record["private_key"],
        frozenset(map(Prefix.parse, record["addresses"].split())),
        frozenset([(each, int(table)) for table, words in record["routes"].items() for each in _prefixes(words)]),
        mtu,
        is_automatic,
        record["fwmark"],
        LinkDns(mode, tuple(servers), tuple(search), full_tunnel),
        tuple(_rules(*fields) for fields in record["firewall"]),
        frozenset(map(bytes.fromhex, record["hooked"].split())),
        None if (lines := record.get("extras")) is None else extras.of_lines(lines),
        frozenset(record.get("overridden", "").split()),
        None if (told := record.get("told")) is None else extras.of_lines(told),
        None if (mechanisms := record.get("means")) is None else _mechanisms(*mechanisms),
    )


def _mechanisms(backend: str, firewall: str, dns: str) -> tuple[str, str, str]:
    return backend, firewall, dns


def _prefixes(words: str) -> Iterator[Prefix]:
    """The networks of a text; there may be 100,000."""
    new = tuple.__new__
    for word in words.split():
        address, _, length = word.partition("/")
        yield new(Prefix, (pack_address(address), int(length)))


def _rules(kind: str, family: int, addresses: list[str], fwmark: int, port: int) -> FirewallRules:
    return FirewallRules(kind, family, tuple(map(bytes.fromhex, addresses)), fwmark, port)
