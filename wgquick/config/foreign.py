"""Lines and files for other programs: AmneziaWG, WireSock, Android, systemd-networkd, OpenVPN, ...

wg and wg-quick refuse such lines. One fault for each program explains them, instead of an `unknown-key` for every
line.
"""

from __future__ import annotations

import re

from wgquick.config.document import is_header
from wgquick.errors import Diagnostic
from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.config.document import Document

REPLACED = ("unknown-key", "unknown-section", "unknown-line", "no-section", "misplaced-key", "missing-value")
_WRITE = "write it as wg-quick(8) describes"
_ASK = "ask for a WireGuard configuration"
_FORMATS = (
    (r"(?i)<(!doctype|html|head)\b", "a web page, not a configuration", "download the file again"),
    (r"[{\[]\s*(\"|$)", "JSON", _WRITE),
    (
        r"(client|dev tun\S*|dev tap\S*|remote \S+ \d+|<ca>)\s*$",
        "an OpenVPN configuration",
        _ASK,
    ),
    (r"(network|tunnels):\s*$", "a netplan configuration", f"{_WRITE}, or use `netplan apply'"),
    (r"config (interface|wireguard_\S+)\b", "an OpenWrt configuration (UCI)", _WRITE),
    (r"/interface[ /]wireguard\b", "a script for MikroTik's RouterOS", _WRITE),
    (r"<\?xml\b", "XML", _WRITE),
    (r"(\{.*\}:|[\w.]+\s*=\s*\{)$", "a NixOS configuration", _WRITE),
    (r"(---|%YAML\b.*)$", "YAML", _WRITE),
    (r"(interface|peer): \S+$", "the output of `wg show'", "use the output of `wg showconf'"),
)
"""The first line of a file in another format, as a pattern; what the file is; the remedy."""


class Program(NamedTuple):
    """A program, its own keys and sections (in lower case), and the message and remedy for them."""

    code: str
    keys: frozenset[str]
    sections: frozenset[str]
    message: str
    remedy: str


def _keys(text: str) -> frozenset[str]:
    return frozenset(text.lower().split())


PROGRAMS = (
    Program(
        "amnezia-key",
        _keys("Jc Jmin Jmax S1 S2 S3 S4 H1 H2 H3 H4 I1 I2 I3 I4 I5 J1 J2 J3 Itime AdvancedSecurity"),
        frozenset(),
        "is a key of AmneziaWG: plain WireGuard does not support its protocol",
        "ask for a plain WireGuard configuration, or use AmneziaWG's programs",
    ),
    Program(
        "other-program",
        _keys(
            "DisallowedIPs ExcludedIPs AllowedApps DisallowedApps Socks5Proxy BypassLanTraffic VirtualAdapterMode"
        ),
        frozenset(),
        "is a key of WireSock",
        "remove it; AllowedIPs selects what goes into the tunnel, and a route in PostUp what stays outside",
    ),
    Program(
        "other-program",
        _keys("BlockDNS BlockInternet AllowMulticast ObfuscateKey ObfuscateTCP"),
        frozenset(),
        "is a key of TunSafe",
        "remove it; with ObfuscateKey the server accepts TunSafe's clients only",
    ),
    Program(
        "other-program",
        _keys("IncludedApplications ExcludedApplications"),
        frozenset(),
        "is a key of the WireGuard application for Android",
        "remove it; on Linux a tunnel is for all programs, or for those of a network namespace",
    ),
    Program(
        "other-program",
        _keys("Reserved ClientID"),
        frozenset(),
        "is a key of clients for Cloudflare WARP: WireGuard sends its three reserved bytes as zero",
        "remove it; if WARP does not answer then, use Cloudflare's client",
    ),
    Program(
        "other-program",
        _keys("PrivateKeyFile PresharedKeyFile PublicKeyFile"),
        frozenset(),
        "belongs to systemd-networkd (systemd.netdev(5)), not to wg-quick",
        "write the key itself, or set it in a hook: PostUp = wg set %i private-key FILE",
    ),
    Program(
        "other-program",
        _keys("FirewallMark RouteTable RouteMetric"),
        _keys("[NetDev] [WireGuard] [WireGuardPeer] [Match] [Network] [Route] [RoutingPolicyRule] [Link]"),
        "belongs to systemd-networkd (systemd.netdev(5)), not to wg-quick",
        "write [Interface] with PrivateKey, ListenPort and Address, and a [Peer] for each [WireGuardPeer]",
    ),
    Program(
        "other-program",
        frozenset(),
        _keys("[connection] [wireguard] [ipv4] [ipv6] [proxy]"),
        "belongs to NetworkManager (nm-settings-keyfile(5)), not to wg-quick",
        "write [Interface] with PrivateKey, ListenPort and Address, and a [Peer] for each [wireguard-peer...]",
    ),
    Program(
        "other-program",
        _keys("WSTunnel Name Description ID FriendlyName DisplayName Enabled Metric OnDemandActivation"),
        frozenset(),
        "is a key of another program: wg and wg-quick do not know it",
        "put a `#' before it to keep it as a comment",
    ),
)
_NM_PEER = re.compile(r"\[wireguard-peer\.[^]]*\]", re.IGNORECASE)
_NAMED_PEER = re.compile(r"\[(peer|interface)([\s:._-]+[^]]+|\d+)\]", re.IGNORECASE)
_NAMED = Program(
    "other-program",
    frozenset(),
    frozenset(),
    "has a name, as some programs write: wg and wg-quick know only [Interface] and [Peer]",
    "write [Peer] and put the name in a comment: # Name = ...",
)


def explained(document: Document, faults: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The faults, reduced to one for each program and one for each unknown section, or to one for the file."""
    if (fault := _other_format(document)) is not None:
        return [fault]
    found: list[Diagnostic] = []
    reported: set[Program] = set()
    rows, below_unknown = _foreign_rows(document)
    given = list(faults)
    if len(given) > 1 and not rows and not _has_settings(document):
        what = "this file has neither a section nor `Key = value': it is not a WireGuard configuration"
        return [given[0]._replace(code="unknown-line", column=1, message=what, remedy=_WRITE)]
    for fault in given:
        row = fault.line - 1
        program = rows.get(row) if fault.code in REPLACED else None
        if program is None and row not in below_unknown:
            found.append(fault)
        elif program is not None and program not in reported:
            reported.add(program)
            what = f"{_words(document.line_text(row))} {program.message}"
            found.append(Diagnostic(fault.line, fault.column, program.code, what, program.remedy))
    return found


def _has_settings(document: Document) -> bool:
    """Whether a line begins as a section or has a key and `='."""
    lines = (document.line_text(row).partition("#")[0].strip() for row in range(len(document.raw)))
    return any(re.match(r"\[|\w+\s*=", line) for line in lines)


def _other_format(document: Document) -> Diagnostic | None:
    """The fault for a file in another format, by its first line that is neither empty nor a comment."""
    text = bytes(document).strip()
    if b"\r" in text and b"\n" not in text:
        what = "the lines end with a carriage return alone: for wg and wg-quick the file is one line"
        return Diagnostic(1, 1, "encoding", what, "end each line with a newline")
    lines = (document.line_text(row).partition("#")[0] for row in range(len(document.raw)))
    row, first = next(((row, line.strip()) for row, line in enumerate(lines) if line.strip()), (0, ""))
    for pattern, what, remedy in _FORMATS:
        if re.match(pattern, first):
            return Diagnostic(row + 1, 1, "other-program", f"this file is {what}", remedy)
    return None


def _words(line: str) -> str:
    """The key or section of a line for a message, without its value."""
    text = line.partition("#")[0].strip()
    return text.partition("]")[0] + "]" if text.startswith("[") else text.partition("=")[0].strip()


def _foreign_rows(document: Document) -> tuple[dict[int, Program], set[int]]:
    """The rows, from 0, of other programs' lines, and the rows in unknown sections."""
    rows: dict[int, Program] = {}
    below_unknown: set[int] = set()
    section: Program | None = None
    unknown = False
    for row, raw in enumerate(document.raw):
        text = raw.decode("utf-8", "replace").partition("#")[0].strip()
        if text.startswith("["):
            section = _section_of(text)
            unknown = section is None and not is_header(text)
        elif unknown:
            below_unknown.add(row)
        program = section or (None if unknown else _key_of(text))
        if program is not None and text:
            rows[row] = program
    return rows, below_unknown


def _section_of(text: str) -> Program | None:
    name = re.sub(r"\s", "", text).lower()
    if is_header(text):
        return None
    if _NAMED_PEER.fullmatch(text):
        return _NAMED
    # Only the case distinguishes networkd's [WireGuard] from NetworkManager's [wireguard].
    if text == "[wireguard]" or _NM_PEER.fullmatch(text):
        return next(program for program in PROGRAMS if "[connection]" in program.sections)
    return next((program for program in PROGRAMS if name in program.sections), None)


def _key_of(text: str) -> Program | None:
    key, equals, _ = text.partition("=")
    name = key.strip().lower()
    return next((program for program in PROGRAMS if name in program.keys), None) if equals else None
