"""The table of all configuration keys of wg(8) and wg-quick(8).

The parser, the text of settings, `save`, `reload`, the advice for unknown lines, the checks and the models use this
table. `wgq up NAME` imports this module, so it imports nothing slow.
"""

from __future__ import annotations

from wgquick.config import grammar
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import SecretKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from wgquick.net import AllowedIP


class Key(NamedTuple):
    """A key of a section.

    `name`: its spelling; a file may use any case. `section`: "Interface" or "Peer".
    `fields`: the fields of Settings or PeerSettings that hold its values.
    `read`: parses a value, or one word of it if the key is a list; raises GrammarError.
    `write`: returns the values of the lines that set these fields, secrets included.
    `help`: its purpose, in one sentence.
    `command`: the parameter of `wg set`; "" for the keys that only wg-quick reads.
    `secret`: its value is never shown.
    `normal`: maps equivalent values to one value, which is false if it means "not set".
    """

    name: str
    section: str
    fields: tuple[str, ...]
    read: Callable[[str], Any]
    write: Callable[..., Iterable[str]]
    help: str
    command: str = ""
    secret: bool = False
    normal: Callable[[Any], Any] = bool

    @property
    def field(self) -> str:
        """The first field, which for most keys is the only one."""
        return self.fields[0]

    @property
    def of_wg(self) -> bool:
        """Whether wg(8) reads the key; only wg-quick(8) reads the others."""
        return bool(self.command)


def _one(write: Callable[[Any], str]) -> Callable[[Any], Iterable[str]]:
    """A `write` for a value that is None if it is not set."""
    return lambda value: () if value is None else (write(value),)


def _itself(value: str) -> str:
    return value


def _or_none(value: Any) -> Any:
    return value or None


def _reveal(key: SecretKey) -> str:
    return key.reveal()


def _write_mark(mark: int) -> str:
    return hex(mark) if mark else "off"


def _write_seconds(seconds: int) -> str:
    return str(seconds or "off")


def _write_addresses(addresses: Iterable[Any]) -> Iterable[str]:
    return (address.text for address in addresses)


def _write_dns(servers: tuple[str, ...], search: tuple[str, ...]) -> Iterable[str]:
    return (", ".join(words),) if (words := servers + search) else ()


def _write_table(table: str) -> Iterable[str]:
    return (table,) if table else ()


def _write_save_config(save: bool) -> Iterable[str]:
    return ("true",) if save else ()


def _write_allowed_ips(allowed_ips: tuple[AllowedIP, ...], replace: bool) -> Iterable[str]:
    """One line, or one for each entry if plain and incremental ones are mixed: in wg(8) the last line decides."""
    entries = [str(ip) for ip in allowed_ips]
    if replace and any(ip.change for ip in allowed_ips):
        return entries
    return [", ".join(entries)] if entries else []


def _read_preshared_key(value: str) -> SecretKey:
    return grammar.secret_key(value, "PresharedKey")


def _read_allowed_ip(entry: str) -> AllowedIP:
    return grammar.allowed_ip(entry)[0]


def clamped(key: SecretKey | None) -> SecretKey | None:
    """The clamped scalar of a private key (RFC 7748, 5); None for a key of zeros, which means no key."""
    if key is None or not any(key.raw):
        return None
    raw = key.raw
    return SecretKey(bytes([raw[0] & 248, *raw[1:31], raw[31] & 127 | 64]))


def _nonzero(key: SecretKey | None) -> SecretKey | None:
    """A preshared key; None for a key of zeros."""
    return key if key and any(key.raw) else None


def _hook(name: str, field: str, when: str) -> Key:
    help = f"A shell command that runs {when}; %i is the interface's name."
    return Key(name, "Interface", (field,), _itself, _itself_each, help)


def _itself_each(lines: Iterable[str]) -> Iterable[str]:
    return lines


_HOOKS = (
    _hook("PreUp", "pre_up", "before the interface is configured"),
    _hook("PostUp", "post_up", "after the interface is up"),
    _hook("PreDown", "pre_down", "before the interface is taken down"),
    _hook("PostDown", "post_down", "after the interface is removed"),
)
_KEYS = (
    Key(
        "PrivateKey",
        "Interface",
        ("private_key",),
        grammar.secret_key,
        _one(_reveal),
        "The private key, in base64.",
        command="private-key",
        secret=True,
        normal=clamped,
    ),
    Key(
        "ListenPort",
        "Interface",
        ("listen_port",),
        grammar.listen_port,
        _one(str),
        "The UDP port; the default is a random one.",
        command="listen-port",
        normal=_or_none,
    ),
    Key(
        "FwMark",
        "Interface",
        ("fwmark",),
        grammar.fwmark,
        _one(_write_mark),
        "The fwmark of the encrypted packets, a 32-bit number; off or 0 sets none.",
        command="fwmark",
        normal=_or_none,
    ),
    Key(
        "Address",
        "Interface",
        ("addresses",),
        grammar.address,
        _write_addresses,
        "Addresses of the interface, with prefix lengths.",
    ),
    Key(
        "DNS",
        "Interface",
        ("dns", "dns_search"),
        _itself,
        _write_dns,
        "Addresses of DNS servers, and search domains.",
    ),
    Key(
        "MTU",
        "Interface",
        ("mtu",),
        grammar.mtu,
        _one(str),
        "The MTU in bytes; the default is the MTU of the path to the endpoints minus 80.",
    ),
    Key(
        "Table",
        "Interface",
        ("table",),
        _itself,
        _write_table,
        "The routing table for the peers' networks, or off for no routes; the default is auto.",
    ),
    *_HOOKS,
    Key(
        "SaveConfig",
        "Interface",
        ("save_config",),
        grammar.save_config,
        _write_save_config,
        "Whether down writes the interface's state to the file.",
    ),
    Key(
        "PublicKey",
        "Peer",
        ("public_key",),
        grammar.public_key,
        _one(str),
        "The peer's public key, in base64.",
        command="peer",
    ),
    Key(
        "PresharedKey",
        "Peer",
        ("preshared_key",),
        _read_preshared_key,
        _one(_reveal),
        "An additional secret that both ends share, in base64.",
        command="preshared-key",
        secret=True,
        normal=_nonzero,
    ),
    Key(
        "AllowedIPs",
        "Peer",
        ("allowed_ips", "replace_allowed_ips"),
        _read_allowed_ip,
        _write_allowed_ips,
        "The networks reached through the peer, and the sources that it may send from.",
        command="allowed-ips",
    ),
    Key(
        "Endpoint",
        "Peer",
        ("endpoint",),
        grammar.endpoint,
        _one(str),
        "The peer's address or host name, and its port.",
        command="endpoint",
    ),
    Key(
        "PersistentKeepalive",
        "Peer",
        ("persistent_keepalive",),
        grammar.persistent_keepalive,
        _one(_write_seconds),
        "Seconds between keepalive packets; off or 0 sends none.",
        command="persistent-keepalive",
        normal=_or_none,
    ),
)
KEYS = {key.name: key for key in _KEYS}
"""All keys in the order of the manual pages, by name."""
BY_LOWER = {key.name.lower(): key for key in _KEYS}
QUICK = {lower: key.name for lower, key in BY_LOWER.items() if not key.of_wg}
"""The names of the keys that only wg-quick(8) reads, by their lower case."""
HOOKS = tuple(key.name for key in _HOOKS)
"""The stages at which hooks run, in that order."""


def of(section: str, *, of_wg: bool | None = None) -> tuple[Key, ...]:
    """The keys of a section: all, those that wg reads (`of_wg` True), or the others (False)."""
    return tuple(key for key in _KEYS if key.section == section and of_wg in (None, key.of_wg))


def lines(section: str, values: object) -> Iterable[tuple[str, str]]:
    """The names and values of the lines that set `values`, a Settings or PeerSettings."""
    for key in of(section):
        for value in key.write(*(getattr(values, field) for field in key.fields)):
            yield key.name, value
