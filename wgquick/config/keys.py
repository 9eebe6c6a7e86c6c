"""Each configuration key of wg(8) and wg-quick(8), once.

The parser, the text of settings, `save`, `reload`, the advice for unknown lines, the checks and the models use this
table. It stands on the path of `wgq up NAME`, so this module imports nothing that is slow.
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
    `read`: a value as the file has it, or one word of it if the key is a list; raises GrammarError.
    `write`: the values of the lines that give these fields, secrets included.
    `help`: what it is for, in one sentence.
    `command`: the word of `wg set` for it, which is empty for the keys that wg-quick keeps for itself.
    `secret`: its value is never shown.
    `normal`: makes one value of all those that mean the same to a device; false if it means none.
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
        """Whether wg(8) reads it; the others are wg-quick(8)'s own."""
        return bool(self.command)


def _one(write: Callable[[Any], str]) -> Callable[[Any], Iterable[str]]:
    """Writes a value that may be None: not given."""
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
    """One line, or one for each where plain entries follow incremental ones: in wg(8) the last line decides."""
    entries = [str(ip) for ip in allowed_ips]
    if replace and any(ip.change for ip in allowed_ips):
        return entries
    return [", ".join(entries)] if entries else []


def _read_preshared_key(value: str) -> SecretKey:
    return grammar.secret_key(value, "PresharedKey")


def _read_allowed_ip(entry: str) -> AllowedIP:
    return grammar.allowed_ip(entry)[0]


def clamped(key: SecretKey | None) -> SecretKey | None:
    """The scalar that a device makes of a private key (RFC 7748, 5); None for one of zeros, which is none."""
    if key is None or not any(key.raw):
        return None
    raw = key.raw
    return SecretKey(bytes([raw[0] & 248, *raw[1:31], raw[31] & 127 | 64]))


def _nonzero(key: SecretKey | None) -> SecretKey | None:
    """A preshared key; one of zeros is none."""
    return key if key and any(key.raw) else None


def _hook(name: str, field: str, when: str) -> Key:
    help = f"A shell command that is run {when}; %i in it is the interface's name."
    return Key(name, "Interface", (field,), _itself, _itself_each, help)


def _itself_each(lines: Iterable[str]) -> Iterable[str]:
    return lines


_HOOKS = (
    _hook("PreUp", "pre_up", "before the interface is configured"),
    _hook("PostUp", "post_up", "after the interface has come up"),
    _hook("PreDown", "pre_down", "before the interface is taken down"),
    _hook("PostDown", "post_down", "after the interface has gone"),
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
        "The UDP port; without it one is chosen at random.",
        command="listen-port",
        normal=_or_none,
    ),
    Key(
        "FwMark",
        "Interface",
        ("fwmark",),
        grammar.fwmark,
        _one(_write_mark),
        "The mark of the encrypted packets, a number of 32 bits; off or 0 is none.",
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
        "The MTU in bytes; without it, it is that of the path to the endpoints less 80.",
    ),
    Key(
        "Table",
        "Interface",
        ("table",),
        _itself,
        _write_table,
        "The routing table for the peers' networks, or off for no routes; auto is the default.",
    ),
    *_HOOKS,
    Key(
        "SaveConfig",
        "Interface",
        ("save_config",),
        grammar.save_config,
        _write_save_config,
        "Whether the state of the interface is written to the file when it is taken down.",
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
        "A further secret that both ends have, in base64.",
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
        "The networks that are reached through the peer, and from which it may send.",
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
"""The names of the keys that wg-quick(8) keeps for itself, by their lower case."""
HOOKS = tuple(key.name for key in _HOOKS)
"""The stages at which hooks run, in that order."""


def of(section: str, *, of_wg: bool | None = None) -> tuple[Key, ...]:
    """The keys of a section: all, or those that wg reads, or those that it does not."""
    return tuple(key for key in _KEYS if key.section == section and of_wg in (None, key.of_wg))


def lines(section: str, values: object) -> Iterable[tuple[str, str]]:
    """The names and values of the lines that give `values`, a Settings or PeerSettings."""
    for key in of(section):
        for value in key.write(*(getattr(values, field) for field in key.fields)):
            yield key.name, value
