"""The grammar of single values, as wg(8) and the programs that wg-quick(8) calls read them.

Each function takes a value as wg or wg-quick sees it (trimmed; for wg's keys without any whitespace) and returns
its meaning, or raises `GrammarError` with a message that never shows a key.
"""

from __future__ import annotations

from _socket import (
    AF_INET,
    AF_INET6,
    AI_PASSIVE,
    IPPROTO_UDP,
    SOCK_DGRAM,
    getaddrinfo,
    inet_aton,
    inet_pton,
)

from wgquick.config.settings import Address
from wgquick.lean import NamedTuple, Pattern
from wgquick.net import KEY_TEXT_LENGTH, AllowedIP, Endpoint, PublicKey, SecretKey

_LONG_MAX = 2**64 - 1
_LONG_DIGITS = 20
_INT_MAX = 2**31 - 1
UINT_MAX = 2**32 - 1
_SHOWN = 80  # characters of a value in a message
_SECRET = Pattern(r"[A-Za-z0-9+/_-]{20}")
_STRTOUL = Pattern(r"[ \t\n\v\f\r]*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_HEX_MARK = Pattern(r"0x[0-9a-fA-F]+")
_HOST = Pattern(r"(?:[\w.-]|[^\x00-\x7f])+")
_HEX_KEY = Pattern(r"[0-9a-fA-F]{64}")
_DIGITS = "0123456789"
_SHORT = 9  # a number of digits that always fits into 32 bits
_BLANKS = str.maketrans("\t\n,", "   ")
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"
_HOSTS_OF_ALL = frozenset({"default", "all", "any"})


class GrammarError(ValueError):
    """A value that wg or wg-quick does not accept; `offset` is the fault's place in the value.

    `about`, `form` and `value` are as in Diagnostic; a value that may be a key is in neither of them.
    """

    def __init__(
        self, code: str, form: str, remedy: str = "", offset: int = 0, about: str = "", value: str = ""
    ) -> None:
        self.message = form.replace("{}", shown(value)) if value else form
        super().__init__(self.message)
        is_shown = bool(value) and not _may_be_key(value)
        self.code = code
        self.form = form if is_shown else ""
        self.value = value if is_shown else ""
        self.remedy = remedy
        self.offset = offset
        self.about = about

    def at(self, offset: int) -> GrammarError:
        """The same fault for a larger value that contains this one at `offset`."""
        form = self.form or self.message
        return GrammarError(self.code, form, self.remedy, self.offset + offset, self.about, self.value)


class Word(NamedTuple):
    """A word of a list and its offset in the list."""

    text: str
    offset: int


def shown(text: str) -> str:
    """A value quoted for a message, or a placeholder if it may contain key material."""
    if _may_be_key(text):
        return "(not shown: it may be a key)"
    printable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    clean = "".join(char if char.isprintable() else "?" for char in printable)
    return f"`{clean}'" if len(clean) <= _SHOWN else f"`{clean[:_SHOWN]}...'"


def _may_be_key(text: str) -> bool:
    return bool(_SECRET().search("".join(text.split())))


def redacted(fault: GrammarError, whole: str) -> GrammarError:
    """The fault of a word, without the word if the whole value may be a key."""
    if not _may_be_key(whole):
        return fault
    return GrammarError(
        fault.code, f"the value {shown(whole)} is not valid", fault.remedy, fault.offset, fault.about
    )


def words(value: str) -> list[Word]:
    """The words of a list as bash splits `${value//,/ }`; empty ones are dropped."""
    found, start = [], 0
    for text in word_texts(value):
        start = value.index(text, start)
        found.append(Word(text, start))
        start += len(text)
    return found


def word_texts(value: str) -> list[str]:
    """The same words without their offsets."""
    return [text for text in value.translate(_BLANKS).split(" ") if text]


def unquoted(value: str) -> str:
    """The remedy if the value is in quotes, which neither wg nor wg-quick removes; else ""."""
    return "remove the quotation marks" if value[:1] in _QUOTES and value else ""


# Numbers


def _is_decimal(text: str) -> bool:
    return text != "" and not text.strip(_DIGITS)


def _is_dotted(text: str) -> bool:
    """Whether the text has only digits and dots."""
    return text != "" and not text.strip(f"{_DIGITS}.")


def _decimal(digits: str) -> int:
    """The number of any run of digits (int() has a limit); some number out of strtoul(3)'s range if too long."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= _LONG_DIGITS else _LONG_MAX + 1


def strtoul(text: str) -> int | None:
    """strtoul(3) with base 0 over the whole text; None if it stops early."""
    if _is_decimal(text) and text[0] != "0":
        return min(_decimal(text), _LONG_MAX)
    match = _STRTOUL().fullmatch(text)
    if not match:
        return None
    digits = match[2]
    base = 16 if digits[1:2] in ("x", "X") else 8 if digits[0] == "0" else 10
    number = _decimal(digits) if base == 10 else int(digits, base)
    return _LONG_MAX if number > _LONG_MAX else -number & _LONG_MAX if match[1] == "-" else number


def _strtol(text: str) -> int | None:
    """strtol(3) with base 0 over the whole text, without its limits."""
    if _is_decimal(text) and text[0] != "0":
        return _decimal(text)
    match = _STRTOUL().fullmatch(text)
    if not match:
        return None
    number = strtoul(match[2])
    return -number if number and match[1] == "-" else number


def fwmark(value: str) -> int:
    """FwMark of wg(8): `off`, decimal, or hexadecimal after a `0x` in lower case."""
    if value.lower() == "off":
        return 0
    mark = _fwmark_number(value)
    if mark is not None and mark <= UINT_MAX:
        return mark
    raise GrammarError(
        "fwmark",
        "FwMark {} is neither off nor a number of 32 bits",
        unquoted(value) or "write off, 0 to 4294967295, or 0x0 to 0xffffffff",
        value=value,
    )


def _fwmark_number(value: str) -> int | None:
    if _is_decimal(value):
        return _decimal(value)
    return int(value, 16) if _HEX_MARK().fullmatch(value) else None


def persistent_keepalive(value: str) -> int:
    """PersistentKeepalive of wg(8): `off` or seconds."""
    if value.lower() == "off":
        return 0
    if _is_decimal(value) and (seconds := _decimal(value)) <= 0xFFFF:
        return seconds
    raise GrammarError(
        "persistent-keepalive",
        "PersistentKeepalive {} is neither off nor a number of seconds up to 65535",
        unquoted(value) or "write off, or 1 to 65535 (25 suits most NATs)",
        value=value,
    )


def mtu(value: str) -> int:
    """MTU as `ip link set mtu` reads it: decimal, 0x hexadecimal or 0 octal (ip-link(8))."""
    number = _strtol(value)
    if number is not None and 0 <= number <= _INT_MAX:
        return number
    what = f"MTU {shown(value)} is not a number of bytes"
    raise GrammarError("mtu", what, unquoted(value) or "write a number, such as 1420")


def save_config(value: str) -> bool:
    """SaveConfig of wg-quick(8): `true` or `false` in any case."""
    match value.lower():
        case "true":
            return True
        case "false":
            return False
        case _:
            pass
    what = f"SaveConfig {shown(value)} is neither true nor false"
    raise GrammarError("save-config", what, unquoted(value) or "write true or false")


# Ports and endpoints


def _service(value: str, flags: int) -> int:
    """A UDP port as getaddrinfo(3) reads it: numbers wrap at 65536, names come from /etc/services."""
    if _is_decimal(value) and len(value) <= _SHORT:
        return int(value) & 0xFFFF
    found = getaddrinfo(None, value, 0, SOCK_DGRAM, IPPROTO_UDP, flags)
    return int(found[0][4][1])


def listen_port(value: str) -> int:
    """ListenPort of wg(8): a number or the name of a UDP service."""
    try:
        return _service(value, AI_PASSIVE)
    except (OSError, ValueError):
        raise GrammarError(
            "listen-port",
            "ListenPort {} is neither a port nor a known service",
            unquoted(value) or "write a number from 0 to 65535",
            value=value,
        ) from None


def _split_endpoint(value: str) -> tuple[str, str]:
    """The host and port of an Endpoint, split as in wg's parse_endpoint."""
    if value[:1] != "[":
        host, colon, port = value.rpartition(":")
        return (host, port) if colon else (value, "")
    host, bracket, rest = value[1:].partition("]")
    if not bracket:
        what = "Endpoint {} has no closing bracket"
        raise GrammarError("endpoint", what, "write [address]:port", value=value)
    return host, rest[1:] if rest[:1] == ":" else ""


def endpoint(value: str) -> Endpoint:
    """Endpoint of wg(8): `host:port`, the host an address, a name, or an IPv6 address in brackets."""
    host, port = _split_endpoint(value)
    if not port:
        remedy = unquoted(value) or "add the peer's port after a colon, such as :51820"
        raise GrammarError("endpoint", "Endpoint {} has no port", remedy, about="no port", value=value)
    if not (_is_decimal(port) and len(port) <= _SHORT) and port != "*":
        _check_service(value, port)
    _check_host(value, host)
    return Endpoint(_text(host), _text(port))


def _check_service(value: str, port: str) -> None:
    try:
        _service(port, 0)
    except (OSError, ValueError):
        raise GrammarError(
            "endpoint",
            "Endpoint {} has a port that is neither a number nor a known service",
            unquoted(value) or "write a number from 1 to 65535 after the last colon",
            len(value) - len(port),
            value=value,
        ) from None


def _check_host(value: str, host: str) -> None:
    """Refuse hosts that must not be looked up in DNS: empty ones and broken addresses."""
    if not host:
        raise GrammarError("endpoint", "Endpoint {} has no host", "write host:port", value=value)
    if not host.isascii():
        _refuse_odd(value, _text(host))
    if ":" in host and _pack(host.partition("%")[0]) is None:
        what = "Endpoint {} is neither host:port nor [IPv6 address]:port"
        raise GrammarError("endpoint", what, _host_remedy(host), value=value)
    if _is_dotted(host) and not _is_inet_aton(host):
        what = "Endpoint {} has no valid IPv4 address"
        remedy = "write four numbers up to 255 with dots between them, or a host name"
        raise GrammarError("endpoint", what, remedy, value=value)


def _refuse_odd(value: str, host: str) -> None:
    """Refuse a host with an invisible or misleading character, which no DNS server can know."""
    from wgquick.config.characters import suspicious

    if suspicious(host):
        raise GrammarError("endpoint", "Endpoint {} has no valid host", "write host:port", value=value)


def _host_remedy(host: str) -> str:
    if "//" in host:
        return "write only host:port, without the part before `//'"
    if "," in host:
        return "write one host:port: a peer has one endpoint"
    return "write an IPv6 address like this: [2001:db8::1]:51820"


def _is_inet_aton(host: str) -> bool:
    """Whether the host is an IPv4 address in a notation of inet_aton(3), which getaddrinfo(3) accepts too."""
    try:
        return bool(inet_aton(host))
    except OSError:
        return False


def may_be_host(text: str) -> bool:
    """Whether a text that is no IP address has only characters of host names."""
    return _HOST().fullmatch(text) is not None


def _text(part: str) -> str:
    """A part of a wg line, which was decoded byte by byte, as UTF-8."""
    return part if part.isascii() else part.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


# Keys


def _key_fault(name: str, value: str) -> GrammarError:
    """The fault of a key, with its remedy. Neither shows any part of the key."""
    what, remedy = _key_reason(value)
    return GrammarError("wireguard-key", f"{name} {what}", remedy)


def _key_reason(value: str) -> tuple[str, str]:
    if _HEX_KEY().fullmatch(value):
        return "is in hexadecimal", "write the key in base64, as `wg genkey' prints it"
    if value[:1] in _QUOTES:
        return "is in quotation marks", "remove the quotation marks"
    if value[KEY_TEXT_LENGTH - 1 : KEY_TEXT_LENGTH] == "=" and value[KEY_TEXT_LENGTH:]:
        return "has text after the key", "delete the text, or put a `#' before it"
    if value[:1] in ("/", "~") and len(value) < KEY_TEXT_LENGTH:
        return "is the name of a file", "write the key itself, or set it in a hook: PostUp = wg set %i ..."
    if len(value) != KEY_TEXT_LENGTH:
        what = f"has {len(value)} characters; a key in base64 has {KEY_TEXT_LENGTH}"
        return what, "copy the whole key, with the `=' at its end"
    if "-" in value or "_" in value:
        return "is in URL-safe base64", "write + for - and / for _"
    return "is not a key in base64", "copy the key again, as `wg genkey' prints it"


def public_key(value: str) -> PublicKey:
    """PublicKey of wg(8): 32 bytes in base64."""
    try:
        return PublicKey.parse(value)
    except ValueError:
        raise _key_fault("PublicKey", value) from None


def secret_key(value: str, name: str = "PrivateKey") -> SecretKey:
    """PrivateKey or PresharedKey of wg(8): 32 bytes in base64."""
    try:
        return SecretKey.parse(value)
    except ValueError:
        raise _key_fault(name, value) from None


# Addresses


def _pack(host: str) -> bytes | None:
    try:
        return inet_pton(AF_INET6 if ":" in host else AF_INET, host)
    except (OSError, ValueError):
        return None


def _lengths(bits: int) -> dict[str, int]:
    return {str(length): length for length in range(bits + 1)}


_LENGTHS4 = _lengths(32)
_LENGTHS6 = _lengths(128)
_HOSTMASK4 = [(1 << 32 - length) - 1 for length in range(33)]
_HOSTMASK6 = [(1 << 128 - length) - 1 for length in range(129)]


def plain_allowed_ips(value: str) -> list[AllowedIP]:
    """The fast path for common AllowedIPs; after any exception the caller uses `allowed_ip` for each entry."""
    found: list[AllowedIP] = []
    add = found.append
    new = tuple.__new__
    number = int.from_bytes
    for entry in value.split(","):
        host, slash, bits = entry.partition("/")
        if ":" in host:
            address = inet_pton(AF_INET6, host)
            length = _LENGTHS6[bits] if slash else 128
            host_part = _HOSTMASK6[length]
        else:
            address = inet_pton(AF_INET, host)
            length = _LENGTHS4[bits] if slash else 32
            host_part = _HOSTMASK4[length]
        if host_part and number(address, "big") & host_part:
            raise ValueError
        add(new(AllowedIP, (address, length, "")))
    return found


def allowed_ip(entry: str) -> tuple[AllowedIP, bool]:
    """One AllowedIPs entry of wg(8), masked as the kernel does, and whether it had host bits."""
    change = entry[:1] if entry[:1] in ("+", "-") else ""
    host, slash, bits = entry[len(change) :].partition("/")
    address = _pack(host)
    if address is None:
        if not entry:
            what = "AllowedIPs has an empty entry"
            raise GrammarError("allowed-ip", what, "remove the extra comma", about="empty entry")
        remedy = unquoted(entry) or "write address/length, such as 10.0.0.0/24 or fd00::/64, separated by commas"
        raise GrammarError("allowed-ip", "AllowedIPs entry {} is not an IP address", remedy, value=entry)
    length = _allowed_length(entry, len(address) * 8, bits) if slash else len(address) * 8
    network = mask(address, length)
    return AllowedIP(network, length, change), network != address


def _allowed_length(entry: str, most: int, bits: str) -> int:
    if _is_decimal(bits) and (length := _decimal(bits)) <= most:
        return length
    place = entry.index("/") + 1
    what = "AllowedIPs entry {} has no valid prefix length"
    remedy = f"write 0 to {most} after the slash"
    if "/" in bits:
        remedy += ", and a comma between two networks"
    raise GrammarError("allowed-ip", what, remedy, place, value=entry)


def mask(address: bytes, length: int) -> bytes:
    """The address with the bits after the prefix cleared."""
    bits = len(address) * 8
    number = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return number.to_bytes(len(address), "big")


def _pack_loose(host: str) -> bytes | None:
    """An IPv4 address as iproute2 reads it: one to four numbers of any base; missing ones are zero."""
    numbers = [strtoul(part) for part in host.split(".")]
    small = [number for number in numbers if number is not None and number <= 255]
    return bytes(small).ljust(4, b"\0") if len(small) == len(numbers) <= 4 else None


def _netmask(word: str) -> int | None:
    """A prefix length as iproute2's get_netmask reads it: a number, or a netmask in dotted notation."""
    number = strtoul(word)
    if number is not None and number <= UINT_MAX:
        return number
    packed = bytes(4) if word in _HOSTS_OF_ALL else _pack_loose(word)
    if packed is None:
        return None
    host = ~int.from_bytes(packed, "big") & UINT_MAX
    return None if host & (host + 1) else 32 - host.bit_length()


def address(word: str) -> Address:
    """An Address word as `ip address add WORD` takes it (ip-address(8)), host bits kept."""
    if word == "default":
        return Address(bytes(4), 0, word)
    host, slash, bits = word.partition("/")
    packed = _pack(host) or (None if ":" in word else _pack_loose(host))
    if packed is None or (":" in word) != (len(packed) == 16):
        raise GrammarError(
            "address", f"Address {shown(word)} is not an IP address", unquoted(word) or _ADDRESS_REMEDY
        )
    length = _netmask(bits) if slash else len(packed) * 8
    if length is None or length > len(packed) * 8:
        what = f"Address {shown(word)} has no valid prefix length"
        raise GrammarError("address", what, f"write 0 to {len(packed) * 8} after the slash", len(host) + 1)
    _refuse_unassignable(packed, word)
    return Address(packed, length, word)


_ADDRESS_REMEDY = "write address/length, such as 10.0.0.1/24 or fd00::1/64"


def _refuse_unassignable(packed: bytes, word: str) -> None:
    """Refuse IPv6 addresses that the kernel allows only on the loopback link (net/ipv6/addrconf.c)."""
    if len(packed) == 16 and (packed[0] == 0xFF or (packed[:15] == bytes(15) and packed[15] in (0, 1))):
        raise GrammarError("address", f"Address {shown(word)} cannot be given to an interface", _ADDRESS_REMEDY)


def identity(address: Address) -> tuple[bytes, int] | None:
    """The part that is unique on a link: an IPv4 address with its length, an IPv6 address; None for 0.0.0.0."""
    if len(address.address) == 16:
        return address.address, 128
    return (address.address, address.length) if any(address.address) else None


_DOMAIN = Pattern(r"~?(?:\.|(?:[\w-]+\.)*[\w-]+\.?)")
_URL = Pattern(r"(?i:(?:https|http|tls|quic|h3|sdns|udp|tcp)://|sdns:)")
_WITH_PORT = Pattern(r"[0-9.]+:[0-9]+|\[[0-9a-fA-F:.]+\](?::[0-9]+)?")


def check_dns(word: str) -> None:
    """Raise GrammarError for a DNS word that is neither an address nor a domain, although wg-quick accepts it."""
    if is_nameserver(word):
        host, zone, _ = word.partition("%")
        if _pack(host) is None or (zone and ":" not in host):
            what = f"DNS {shown(word)} is not the address of a DNS server"
            raise GrammarError("dns-server", what, _dns_remedy(word))
    elif not is_domain(word):
        what = f"DNS {shown(word)} counts as a search domain, but is not a valid one"
        raise GrammarError("dns-search", what, _dns_remedy(word))


def is_domain(word: str) -> bool:
    """Whether a DNS word is a valid search domain."""
    return _DOMAIN().fullmatch(word) is not None


def _dns_remedy(word: str) -> str:
    if _URL().match(word):
        return "write the server's IP address: DNS over HTTPS or TLS needs a separate resolver"
    if _WITH_PORT().fullmatch(word):
        return "write only the address, without brackets and port: DNS uses port 53"
    if _pack(word.partition("/")[0]) is not None:
        return "write the address without a prefix length"
    if ";" in word:
        return "separate servers with commas, and end without one"
    return unquoted(word) or "write an IPv4 or IPv6 address, or a search domain"


def is_nameserver(word: str) -> bool:
    """Whether wg-quick treats a DNS word as a server: digits and dots, or anything with a colon."""
    return ":" in word or _is_dotted(word)
