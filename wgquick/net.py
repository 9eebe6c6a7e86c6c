"""Small frozen values that every layer shares: keys, addresses, prefixes, routes and rules.

They are NamedTuples, not dataclasses: importing `dataclasses` and building each class would take longer than all
netlink traffic of `wgq up`.
"""

from __future__ import annotations

import binascii
from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from wgquick.lean import TYPE_CHECKING, NamedTuple, Pattern, Protocol

if TYPE_CHECKING:
    from typing import NoReturn

KEY_LENGTH = 32
MAIN_NAME = "main"
TABLES = {"default": 253, MAIN_NAME: 254, "local": 255}
"""The kernel's own routing tables (RT_TABLE_*, linux/rtnetlink.h), which iproute2 knows without a file."""
MAIN_TABLE = TABLES[MAIN_NAME]
INITIAL_RULES = ((0, TABLES["local"]), (32766, MAIN_TABLE), (32767, TABLES["default"]))
"""The rules of a new network namespace: priority and table (net/ipv4/fib_rules.c)."""
FIRST_TABLE = 51820
"""The first routing table, and so the first fwmark, that a full tunnel may get."""
IPV6_MTU = 1280
"""The minimum MTU of a link with IPv6, in bytes (RFC 8200): below it the kernel disables IPv6 on the link."""
HIDDEN = "(hidden)"
"""In place of a secret key, as in wg(8)."""
KEY_TEXT_LENGTH = 44
"""The characters of a key in base64."""
_LAST_CHARACTERS = frozenset("AEIMQUYcgkosw048")
"""Base64 characters that end the 32 bytes: the two bits that do not belong to them are 0."""
# 32 bytes in base64, or in hexadecimal as in the UAPI. After `peer' (as in wg(8)) the key is a public one.
_KEY_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_KEY_LIKE = Pattern(r"(\bpeer\s+)?([A-Za-z0-9+/]{43}=|[0-9A-Fa-f]{64})")


def _decode_key(text: str) -> bytes:
    """Decode canonical base64 of 32 bytes, as wg(8)'s key_from_base64 does; ValueError never has the text."""
    if len(text) == KEY_TEXT_LENGTH and text[-2] in _LAST_CHARACTERS:
        try:
            raw = binascii.a2b_base64(text, strict_mode=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) == KEY_LENGTH:
            return raw
    raise ValueError("a key is 32 bytes in base64: 43 characters and one `='")


def without_keys(command: str) -> str:
    """A hook's line for printing, with wg(8)'s "(hidden)" in place of anything that may be a secret key."""
    if not _may_hold_key(command):  # the usual case, without importing `re'
        return command
    return _KEY_LIKE().sub(lambda match: match[0] if match[1] else HIDDEN, command)


def _may_hold_key(text: str) -> bool:
    """Whether the text has a run of characters as long as a key."""
    run = 0
    for char in text:
        run = run + 1 if char in _KEY_CHARACTERS else 0
        if run == KEY_TEXT_LENGTH - 1:
            return True
    return False


class PublicKey(NamedTuple):
    """A Curve25519 public key (32 bytes); prints as base64."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read base64; ValueError if it is not a key."""
        return tuple.__new__(cls, (_decode_key(text),))

    def __str__(self) -> str:
        return binascii.b2a_base64(self.raw, newline=False).decode()

    def __repr__(self) -> str:
        return f"PublicKey({str(self)!r})"


class SecretKey:
    """A private or preshared key (32 bytes); only `reveal` and `raw` show it."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_LENGTH:
            raise ValueError("a key is 32 bytes")
        self._raw = raw

    @classmethod
    def parse(cls, text: str) -> SecretKey:
        """Read base64; ValueError (without the text) if it is not a key."""
        return cls(_decode_key(text))

    @property
    def raw(self) -> bytes:
        """The 32 bytes; only for the device's control interface."""
        return self._raw

    def public_key(self) -> PublicKey:
        """The public key of a private key (X25519, RFC 7748), as `wg pubkey` prints it."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # seldom needed

        return PublicKey(X25519PrivateKey.from_private_bytes(self._raw).public_key().public_bytes_raw())

    def reveal(self) -> str:
        """The base64 form; only for a configuration file."""
        return binascii.b2a_base64(self._raw, newline=False).decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKey) and self._raw == other._raw

    def __hash__(self) -> int:
        return hash(self._raw)

    def __repr__(self) -> str:
        return f"SecretKey{HIDDEN}"

    __str__ = __repr__

    def __copy__(self) -> SecretKey:
        return self

    def __deepcopy__(self, _memo: object) -> SecretKey:
        """Return self: it is immutable, and copies of a configuration do not duplicate the key."""
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key cannot be pickled")


NO_KEY = SecretKey(bytes(KEY_LENGTH))
"""A key of zeros, which means no key: in requests it removes one."""


def family_of(address: bytes) -> int:
    """4 or 6, by the length of a packed address."""
    return 4 if len(address) == 4 else 6


def address_text(address: bytes) -> str:
    """A packed address in its usual notation."""
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)


def is_link_local(address: bytes) -> bool:
    """Whether a packed address is in fe80::/10."""
    return len(address) == 16 and address[0] == 0xFE and address[1] & 0xC0 == 0x80


def pack_address(text: str) -> bytes:
    """A numeric address packed, 4 or 16 bytes; ValueError if the text is not an address."""
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except OSError:
        raise ValueError(f"`{text}' is not an IP address") from None


class Prefix(NamedTuple):
    """An address with its prefix length: of an interface address (host bits kept) or of a route."""

    address: bytes
    length: int

    @property
    def family(self) -> int:
        """4 or 6."""
        return family_of(self.address)

    @classmethod
    def parse(cls, text: str) -> Prefix:
        """Read `address[/length]`; ValueError if the text is not valid."""
        host, slash, length = text.partition("/")
        address = pack_address(host)
        bits = int(length) if slash else len(address) * 8
        if not 0 <= bits <= len(address) * 8:
            raise ValueError(f"`{text}' has no valid prefix length")
        return cls(address, bits)

    def __str__(self) -> str:
        return f"{address_text(self.address)}/{self.length}"


class Network(Protocol):
    """What has an address and a prefix length, such as Prefix and AllowedIP."""

    @property
    def address(self) -> bytes: ...

    @property
    def length(self) -> int: ...


def head(address: bytes, length: int) -> int:
    """The first `length` bits of an address as a number."""
    return int.from_bytes(address, "big") >> (len(address) * 8 - length)


def contains(network: Network, other: Network) -> bool:
    """Whether every address of `other` is in `network`."""
    return (
        len(network.address) == len(other.address)
        and network.length <= other.length
        and head(network.address, network.length) == head(other.address, network.length)
    )


class AllowedIP(NamedTuple):
    """One AllowedIPs entry; `change` is "" or, for wg(8)'s incremental form, "+" or "-"."""

    address: bytes
    length: int
    change: str = ""

    @property
    def family(self) -> int:
        """4 or 6."""
        return family_of(self.address)

    def __str__(self) -> str:
        return f"{self.change}{address_text(self.address)}/{self.length}"


class Endpoint(NamedTuple):
    """A peer's endpoint as written: `host` (address or name, no brackets) and `port` (number or service name)."""

    host: str
    port: str

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SocketAddress(NamedTuple):
    """A resolved endpoint: numeric `address` (without zone), `port`, and the IPv6 scope (interface index, or 0)."""

    address: str
    port: int
    scope: int = 0

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4

    def __str__(self) -> str:
        zone = f"%{self.scope}" if self.scope else ""
        return f"[{self.address}{zone}]:{self.port}" if self.family == 6 else f"{self.address}:{self.port}"


class Route(NamedTuple):
    """A route through a link as wg-quick adds it: protocol boot, scope link (IPv4), default metric.

    `table` is a number; `device` the link's name.
    """

    destination: Prefix
    device: str
    table: int = MAIN_TABLE


class Rule(NamedTuple):
    """A policy routing rule of the two kinds that wg-quick adds (ip-rule(8)).

    With `fwmark`: `not fwmark N table T`. With `suppress_prefixlength` (0): `table main suppress_prefixlength 0`.
    `priority` is the kernel's number, the lowest first; None lets the kernel choose. `other` is True for any other
    kind of rule of the host; reload adds one such rule for a moment, `fwmark N table main`.
    """

    family: int
    table: int
    priority: int | None = None
    fwmark: int | None = None
    suppress_prefixlength: int | None = None
    other: bool = False


class LinkAddress(NamedTuple):
    """An address of a link with all its attributes (linux/if_addr.h).

    `scope` is RT_SCOPE_*, `flags` IFA_F_*, `protocol` IFAPROT_* (0: unset). `far` is the peer's address of a
    point-to-point address, else empty.
    """

    prefix: Prefix
    scope: int = 0
    flags: int = 0
    protocol: int = 0
    far: bytes = b""

    @property
    def is_secondary(self) -> bool:
        """Whether it is a secondary IPv4 address: the kernel deletes it along with its primary address."""
        return self.prefix.family == 4 and bool(self.flags & 1)

    @property
    def is_link_local(self) -> bool:
        """Whether it is in fe80::/10; the kernel gives every TUN device such an address."""
        return is_link_local(self.prefix.address)

    @property
    def is_the_kernels(self) -> bool:
        """Whether the kernel has chosen it: IFAPROT_KERNEL_LL, before Linux 5.18 IFA_F_STABLE_PRIVACY."""
        return self.is_link_local and (self.protocol == 2 or bool(self.flags & 0x800))


QUERY_MARK = 0x77677100
"""The fwmark of DNS queries of `wgq watch` for a tunnel that has a kill switch and no fwmark."""


class Guard(NamedTuple):
    """The traffic that a kill switch allows (`system.firewall.traffic`).

    `mark` and `port` are the tunnel's fwmark and UDP port, 0 if not known yet; `endpoints` are addresses (/32,
    /128) with their UDP ports. `networks` do not overlap. `inbound`: replies on connections that came in by other
    links. `dns`: queries while the endpoints are looked up, to `resolvers` or, if these are unknown, to all DNS
    servers. `servers` are the DNS servers (/32, /128) that `wgq watch` may ask. What `also` allows passes too,
    while a reload changes the tunnel.
    """

    mark: int = 0
    port: int = 0
    endpoints: tuple[tuple[Prefix, int], ...] = ()
    networks: tuple[Prefix, ...] = ()
    inbound: bool = False
    dns: bool = False
    servers: tuple[Prefix, ...] = ()
    also: tuple[Guard, ...] = ()
    resolvers: tuple[Prefix, ...] = ()


class Destination(NamedTuple):
    """A socket address outside the tunnel that a kill switch allows.

    `owner` is the endpoint of the file that has this address, or the peer that has roamed to it. It is None for a
    DNS server that `wgq watch` may ask for the names of endpoints.
    """

    address: SocketAddress
    owner: Endpoint | PublicKey | None = None


class LinkRoute(NamedTuple):
    """A route through a link with all its attributes (linux/rtnetlink.h).

    `protocol` is RTPROT_*, `scope` RT_SCOPE_*, `kind` RTN_*, `metric` RTA_PRIORITY. `gateway` and `source` are
    packed addresses, empty if there are none; `mtu` is the metric of that name. `others` counts further attributes.
    """

    destination: Prefix
    table: int
    protocol: int
    scope: int
    kind: int
    metric: int = 0
    gateway: bytes = b""
    source: bytes = b""
    mtu: int | None = None
    others: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether `ip route add PREFIX dev LINK` makes such a route, as up and most users do."""
        return self[2:] == (_PLAIN4 if len(self[0][0]) == 4 else _PLAIN6)  # there may be 10,000

    @property
    def is_of_an_address(self) -> bool:
        """Whether the kernel added it for an address of the link (RTPROT_KERNEL)."""
        return self.protocol == 2


# Protocol boot, scope link (IPv6 has none), unicast, and the default metric of IPv6 routes.
_PLAIN4 = (3, 253, 1, 0, b"", b"", None, 0)
_PLAIN6 = (3, 0, 1, 1024, b"", b"", None, 0)


class FirewallRules(NamedTuple):
    """A full tunnel's firewall rules of one family; `kind` is "nft" or "iptables".

    `addresses` are the link's addresses (packed), for which no other link may receive packets. `port` (0: none) is
    the tunnel's UDP port, where packets get the fwmark. `whole` is False if some rules are missing on the host.
    """

    kind: str
    family: int
    addresses: tuple[bytes, ...] = ()
    fwmark: int = 0
    port: int = 0
    whole: bool = True


TUNNELS = ("wireguard", "tun")
"""The kinds of links that a WireGuard implementation makes."""


class Link(NamedTuple):
    """A network interface; `kind` is IFLA_INFO_KIND ("wireguard", "tun", "veth", ...) or ""."""

    ifindex: int
    name: str
    mtu: int
    up: bool
    kind: str


class Path(NamedTuple):
    """The kernel's route to an address: the output link and the path's MTU.

    `mtu` is the route's mtu metric, else None. A locked metric (`mtu lock N`) is ignored, as in wg-quick.
    """

    link: str
    mtu: int | None
