"""The grammar of wg-quick(8) and of `wg setconf` (wg(8)) over whole files: a document in, `Settings` out.

What the two programs accept is accepted and means the same; what they refuse is refused, every fault of a file at
once and with its place. A bad Address or MTU, which wg-quick meets only half way through `up`, is a fault here.
"""

from __future__ import annotations

from wgquick.config import grammar
from wgquick.config.document import columns
from wgquick.config.grammar import GrammarError
from wgquick.config.settings import Address, PeerSettings, Settings
from wgquick.errors import ConfigError, Diagnostic
from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.config.document import Document, QuickLine
    from wgquick.net import AllowedIP, Endpoint, PublicKey, SecretKey


class Report(NamedTuple):
    """What a file means and what is to be said of it; `settings` is None exactly where there are faults."""

    settings: Settings | None
    faults: tuple[Diagnostic, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()


def parse(document: Document, name: str, path: str = "") -> Settings:
    """The settings of a file; ConfigError with every fault where wg-quick would not bring it up."""
    report = examine(document, name, path)
    if report.settings is None:
        raise ConfigError(path or document.path, report.faults)
    return report.settings


def examine(document: Document, name: str, path: str = "") -> Report:
    """The settings of a file or its faults, the warnings that `wg` prints, and those about DNS."""
    if document.is_utf16:
        what = "the file is encoded in UTF-16"
        return Report(None, (Diagnostic(1, 1, "encoding", what, "save it again as UTF-8"),))
    wg, quick = _WgSections(document), _QuickKeys(document)
    faults = sorted([*wg.faults, *quick.faults])
    if faults:
        from wgquick.config import explain, foreign

        faults = foreign.explained(document, explain.explained(document, faults))
    settings = None if faults else _settings(wg, quick, name, path or document.path)
    return Report(settings, tuple(faults), (*wg.warnings, *_dns_warnings(document, quick)))


def _dns_warnings(document: Document, quick: _QuickKeys) -> list[Diagnostic]:
    """The DNS words that are neither address nor domain, with the character that is to blame, if one is."""
    if not quick.warnings:
        return []
    from wgquick.config.explain import named

    return [named(document, warning) for warning in quick.warnings]


def for_down(document: Document, name: str, path: str = "") -> Settings:
    """What `down` needs of a file, whatever faults are in it: wg-quick's looks at no key of wg's there."""
    quick = _QuickKeys(document)
    return Settings(
        name=name,
        path=path or document.path,
        addresses=tuple(quick.addresses),
        dns=tuple(quick.dns),
        dns_search=tuple(quick.dns_search),
        mtu=quick.mtu,
        table=quick.table,
        pre_up=tuple(quick.hooks["PreUp"]),
        post_up=tuple(quick.hooks["PostUp"]),
        pre_down=tuple(quick.hooks["PreDown"]),
        post_down=tuple(quick.hooks["PostDown"]),
    )


def refuse_save_config(document: Document, path: str = "") -> None:
    """ConfigError where SaveConfig is neither true nor false, at which wg-quick gives up whatever the verb."""
    faults = [fault for fault in _QuickKeys(document).faults if fault.code == "save-config"]
    if faults:
        raise ConfigError(path or document.path, faults)


def table_fault(document: Document, fault: GrammarError) -> Diagnostic | None:
    """A fault of Table, which the host alone can find, in its place; None where the file gives none any more."""
    given = [line for line in document.views.quick if line.key == "Table"]
    if not given:
        return None
    from wgquick.config.explain import named

    return named(document, _diagnostic(given[-1].row, document.quick_value(given[-1])[1] + 1, fault))


def _settings(wg: _WgSections, quick: _QuickKeys, name: str, path: str) -> Settings:
    return Settings(
        name=name,
        path=path,
        private_key=wg.private_key,
        listen_port=wg.listen_port,
        fwmark=wg.fwmark,
        addresses=tuple(quick.addresses),
        dns=tuple(quick.dns),
        dns_search=tuple(quick.dns_search),
        mtu=quick.mtu,
        table=quick.table,
        pre_up=tuple(quick.hooks["PreUp"]),
        post_up=tuple(quick.hooks["PostUp"]),
        pre_down=tuple(quick.hooks["PreDown"]),
        post_down=tuple(quick.hooks["PostDown"]),
        save_config=quick.save_config,
        peers=tuple(peer.settings() for peer in wg.peers if peer.public_key),
    )


class _QuickKeys:
    """The keys that wg-quick keeps for itself, gathered as its parse_options does."""

    def __init__(self, document: Document) -> None:
        self.faults: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self.addresses: list[Address] = []
        self.dns: list[str] = []
        self.dns_search: list[str] = []
        self.mtu: int | None = None
        self.table = ""
        self.hooks: dict[str, list[str]] = {"PreUp": [], "PostUp": [], "PreDown": [], "PostDown": []}
        self.save_config = False
        self._assigned: set[tuple[bytes, int]] = set()
        self._last_mtu: tuple[int, str, int] | None = None
        for line in document.views.quick:
            value, start = document.quick_value(line)
            self._take(line, value, start)
        self._take_mtu()

    def _take(self, line: QuickLine, value: str, start: int) -> None:
        match line.key:
            case "Address":
                self._take_addresses(line.row, value, start)
            case "DNS":
                self._take_dns(line.row, value, start)
            case "MTU":
                self._last_mtu = (line.row, value, start)
            case "Table":
                self.table = value
            case "SaveConfig":
                self._take_save_config(line.row, value, start)
            case hook:
                self.hooks[hook].append(value)

    def _take_addresses(self, index: int, value: str, start: int) -> None:
        for word, offset in grammar.words(value):
            try:
                self._add_address(grammar.address(word))
            except GrammarError as fault:
                place = start + offset + fault.offset + 1
                self.faults.append(_diagnostic(index, place, grammar.guarded(fault, value)))

    def _add_address(self, address: Address) -> None:
        identity = grammar.identity(address)
        if identity in self._assigned:
            what = f"Address {grammar.shown(address.text)} is given twice"
            raise GrammarError("duplicate-address", what, "remove one of them: the kernel takes an address once")
        if identity:
            self._assigned.add(identity)
        self.addresses.append(address)

    def _take_dns(self, index: int, value: str, start: int) -> None:
        for word, offset in grammar.words(value):
            try:
                grammar.check_dns(word)
            except GrammarError as fault:
                place = start + offset + 1
                self.warnings.append(
                    _diagnostic(index, place, grammar.guarded(fault, value))._replace(severity="warning")
                )
            (self.dns if grammar.is_nameserver(word) else self.dns_search).append(word)

    def _take_save_config(self, index: int, value: str, start: int) -> None:
        try:
            self.save_config = grammar.save_config(value)
        except GrammarError as fault:
            self.faults.append(_diagnostic(index, start + 1, fault))

    def _take_mtu(self) -> None:
        """The last MTU counts, and an empty one is none: wg-quick does not look at the others."""
        if self._last_mtu is None or not self._last_mtu[1]:
            return
        index, value, start = self._last_mtu
        try:
            self.mtu = grammar.mtu(value)
        except GrammarError as fault:
            self.faults.append(_diagnostic(index, start + 1, fault))


class _PeerSection:
    """A [Peer] section while it is read; the later of two values wins, AllowedIPs accumulate."""

    __slots__ = (
        "allowed_ips",
        "endpoint",
        "has_public_key",
        "index",
        "persistent_keepalive",
        "preshared_key",
        "public_key",
        "replace_allowed_ips",
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.has_public_key = False
        self.public_key: PublicKey | None = None
        self.preshared_key: SecretKey | None = None
        self.allowed_ips: list[AllowedIP] = []
        self.replace_allowed_ips = True
        self.endpoint: Endpoint | None = None
        self.persistent_keepalive: int | None = None

    def settings(self) -> PeerSettings:
        """The section's values; only for one that has a public key."""
        assert self.public_key is not None  # noqa: S101  (a peer without one is a fault)
        return PeerSettings(
            self.public_key,
            self.preshared_key,
            tuple(self.allowed_ips),
            self.replace_allowed_ips,
            self.endpoint,
            self.persistent_keepalive,
        )


class _WgSections:
    """The lines that `wg setconf` gets, read as its process_line does."""

    def __init__(self, document: Document) -> None:
        self.faults: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self.private_key: SecretKey | None = None
        self.listen_port: int | None = None
        self.fwmark: int | None = None
        self.peers: list[_PeerSection] = []
        self._document = document
        self._index = 0
        self._columns: tuple[int, list[int]] = (-1, [])
        self._interface_keys: dict[str, Callable[[str], None]] = {
            "privatekey": self._take_private_key,
            "listenport": self._take_listen_port,
            "fwmark": self._take_fwmark,
        }
        self._peer_keys: dict[str, Callable[[str], None]] = {
            "publickey": self._take_public_key,
            "presharedkey": self._take_preshared_key,
            "allowedips": self._take_allowed_ips,
            "endpoint": self._take_endpoint,
            "persistentkeepalive": self._take_persistent_keepalive,
        }
        self._keys: dict[str, Callable[[str], None]] = {}
        self._read(document.views.wg)
        self._require_public_keys()

    def _read(self, lines: list[str]) -> None:
        for index, line in enumerate(lines):
            cleaned = line[: line.index("#")] if "#" in line else line
            if not cleaned:
                continue
            key, _, value = cleaned.partition("=")
            self._index = index
            take = self._keys.get(key.lower())
            if take is None or not value:
                self._take_other(cleaned)
                continue
            try:
                take(value)
            except GrammarError as fault:
                self._refuse(fault.at(len(key) + 1))

    def _take_other(self, cleaned: str) -> None:
        match cleaned.lower():
            case "[interface]":
                self._keys = self._interface_keys
            case "[peer]":
                self._keys = self._peer_keys
                self.peers.append(_PeerSection(self._index))
            case _:
                self._refuse(self._unrecognised(cleaned))

    def _unrecognised(self, cleaned: str) -> GrammarError:
        """Only a file with such a line pays for the import of what explains it."""
        from wgquick.config.advice import unrecognised

        section = ""
        if self._keys:
            section = "Peer" if self._keys is self._peer_keys else "Interface"
        return unrecognised(cleaned, section)

    def _refuse(self, fault: GrammarError) -> None:
        self.faults.append(_diagnostic(self._index, self._column(fault.offset), fault))

    def _column(self, offset: int) -> int:
        """The column of an offset in wg's view of the line; one line may have thousands of faults and warnings."""
        if self._columns[0] != self._index:
            self._columns = self._index, columns(self._document.line_text(self._index))
        places = self._columns[1]
        return places[min(offset, len(places) - 1)]

    def _require_public_keys(self) -> None:
        """A section whose PublicKey is a fault already does not lack one as well."""
        for peer in self.peers:
            if not peer.has_public_key:
                self._index = peer.index
                what = "the peer has no PublicKey"
                self._refuse(GrammarError("peer-without-key", what, "add its `PublicKey = ...'"))

    def _take_private_key(self, value: str) -> None:
        self.private_key = grammar.secret_key(value)

    def _take_listen_port(self, value: str) -> None:
        self.listen_port = grammar.listen_port(value)

    def _take_fwmark(self, value: str) -> None:
        self.fwmark = grammar.fwmark(value)

    def _take_public_key(self, value: str) -> None:
        self.peers[-1].has_public_key = True
        self.peers[-1].public_key = grammar.public_key(value)

    def _take_preshared_key(self, value: str) -> None:
        self.peers[-1].preshared_key = grammar.secret_key(value, "PresharedKey")

    def _take_endpoint(self, value: str) -> None:
        self.peers[-1].endpoint = grammar.endpoint(value)

    def _take_persistent_keepalive(self, value: str) -> None:
        self.peers[-1].persistent_keepalive = grammar.persistent_keepalive(value)

    def _take_allowed_ips(self, value: str) -> None:
        peer = self.peers[-1]
        peer.replace_allowed_ips = True
        try:
            peer.allowed_ips += grammar.plain_allowed_ips(value)
        except (OSError, ValueError, KeyError):
            self._take_each_allowed_ip(peer, value)

    def _take_each_allowed_ip(self, peer: _PeerSection, value: str) -> None:
        """Entry by entry, for incremental forms, host bits and faults; each line decides anew on replacement."""
        offset = len("AllowedIPs=")
        for entry in value.split(","):
            try:
                self._take_allowed_ip(peer, entry, offset)
            except GrammarError as fault:
                self._refuse(fault.at(offset))
            offset += len(entry) + 1

    def _take_allowed_ip(self, peer: _PeerSection, entry: str, offset: int) -> None:
        allowed, had_host_bits = grammar.allowed_ip(entry)
        if allowed.change:
            peer.replace_allowed_ips = False
        if had_host_bits:
            self._warn_of_host_bits(entry.removeprefix(allowed.change), offset + len(allowed.change))
        peer.allowed_ips.append(allowed)

    def _warn_of_host_bits(self, entry: str, offset: int) -> None:
        place = self._column(offset)
        what = f"AllowedIP has nonzero host part: {entry}"
        self.warnings.append(Diagnostic(self._index + 1, place, "allowed-ip-host-bits", what, severity="warning"))


def _diagnostic(index: int, place: int, fault: GrammarError) -> Diagnostic:
    return Diagnostic(index + 1, place, fault.code, fault.message, fault.remedy)
