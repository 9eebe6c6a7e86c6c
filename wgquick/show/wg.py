"""The output of `wg show` (wg(8)), byte for byte: for people, and one value per line for scripts.

A secret key is hidden in the text for people unless the style shows keys. The words for keys print them, as in wg.
"""

from __future__ import annotations

from _socket import if_indextoname
from functools import cmp_to_key

from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import HIDDEN, address_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wgquick.device import Device, DevicePeer
    from wgquick.net import AllowedIP, PublicKey, SecretKey

NONE = "(none)"
_GREEN, _YELLOW, _CYAN, _BOLD, _RESET = "\x1b[32m", "\x1b[33m", "\x1b[36m", "\x1b[1m", "\x1b[0m"
UNITS = ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
"""The units of numbers of bytes, the largest first."""
_SPANS = ((365 * 24 * 3600, "year"), (24 * 3600, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


class Style(NamedTuple):
    """The style of the text for people: whether it has colours, and whether it shows secret keys."""

    colour: bool = False
    keys: bool = False

    def paint(self, codes: str, text: str) -> str:
        """The text in a terminal's colours, or as it is."""
        return f"{codes}{text}{_RESET}" if self.colour else text


class Shown(NamedTuple):
    """A device and its public key, which is None if it has no private key."""

    device: Device
    public_key: PublicKey | None


def pretty(shown: Shown, now: float, style: Style) -> str:
    """What `wg show NAME` prints; `now` is the time in seconds since 1970."""
    device = shown.device
    start = _RESET if style.colour else ""
    name = style.paint(_GREEN, device.name)
    lines = [f"{start}{style.paint(_GREEN + _BOLD, 'interface')}: {name}"]
    if shown.public_key is not None:
        lines.append(_field(style, "public key", str(shown.public_key)))
    if device.private_key is not None:
        lines.append(_field(style, "private key", _secret(style, device.private_key)))
    if device.listen_port:
        lines.append(_field(style, "listening port", str(device.listen_port)))
    if device.fwmark:
        lines.append(_field(style, "fwmark", _mark(device)))
    for peer in sorted(device.peers, key=cmp_to_key(_latest_first)):
        lines += ["", *_peer(style, peer, now)]
    return "\n".join(lines) + "\n"


def _latest_first(one: DevicePeer, two: DevicePeer) -> int:
    """Compare for sorting: the latest handshake first, peers without a handshake last in the device's order."""
    return (one.last_handshake < two.last_handshake) - (one.last_handshake > two.last_handshake)


def _peer(style: Style, peer: DevicePeer, now: float) -> Iterator[str]:
    yield f"{style.paint(_YELLOW + _BOLD, 'peer')}: {style.paint(_YELLOW, str(peer.public_key))}"
    if peer.preshared_key is not None:
        yield _field(style, "preshared key", _secret(style, peer.preshared_key))
    if peer.endpoint is not None:
        yield _field(style, "endpoint", _endpoint(peer))
    slash = style.paint(_CYAN, "/")
    networks = ", ".join(f"{address_text(ip.address)}{slash}{ip.length}" for ip in peer.allowed_ips)
    yield _field(style, "allowed ips", networks or NONE)
    if int(peer.last_handshake):
        yield _field(style, "latest handshake", _ago(style, int(now) - int(peer.last_handshake)))
    if peer.rx_bytes or peer.tx_bytes:
        sizes = f"{_size(style, peer.rx_bytes)} received, {_size(style, peer.tx_bytes)} sent"
        yield _field(style, "transfer", sizes)
    if peer.persistent_keepalive:
        yield _field(style, "persistent keepalive", f"every {_span(style, peer.persistent_keepalive)}")


def _field(style: Style, name: str, value: str) -> str:
    return f"  {style.paint(_BOLD, name)}: {value}"


def _secret(style: Style, key: SecretKey) -> str:
    return key.reveal() if style.keys else HIDDEN


def _ago(style: Style, seconds: int) -> str:
    if seconds < 0:
        warning = "(System clock wound backward; connection problems may ensue.)"
        return style.paint("\x1b[31m", warning) if style.colour else warning
    return f"{_span(style, seconds)} ago" if seconds else "Now"


def _span(style: Style, seconds: int) -> str:
    """A number of seconds in words, such as `1 minute, 13 seconds`."""
    parts = []
    for length, unit in _SPANS:
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count} {style.paint(_CYAN, unit if count == 1 else unit + 's')}")
    return ", ".join(parts)


def _size(style: Style, count: int) -> str:
    for size, unit in UNITS:
        if count >= size:
            return f"{count / size:.2f} {style.paint(_CYAN, unit)}"
    return f"{count} {style.paint(_CYAN, 'B')}"


# One value a line.


def _mark(device: Device) -> str:
    return f"{device.fwmark:#x}" if device.fwmark else "off"


def _networks(networks: tuple[AllowedIP, ...], between: str) -> str:
    return between.join(map(str, networks)) or NONE


def _endpoint(peer: DevicePeer) -> str:
    """The endpoint with the name of its zone, as getnameinfo(3) prints it."""
    endpoint = peer.endpoint
    if endpoint is None or not endpoint.scope:
        return NONE if endpoint is None else str(endpoint)
    try:
        zone = if_indextoname(endpoint.scope)
    except OSError:
        zone = str(endpoint.scope)
    return f"[{endpoint.address}%{zone}]:{endpoint.port}"


def _keepalive(peer: DevicePeer) -> str:
    return str(peer.persistent_keepalive or "off")


OF_DEVICE: dict[str, Callable[[Shown], str]] = {
    "public-key": lambda shown: _public(shown.public_key),
    "private-key": lambda shown: _revealed(shown.device.private_key),
    "listen-port": lambda shown: str(shown.device.listen_port),
    "fwmark": lambda shown: _mark(shown.device),
}
OF_PEERS: dict[str, Callable[[DevicePeer], tuple[str, ...]]] = {
    "peers": lambda peer: (),
    "preshared-keys": lambda peer: (_revealed(peer.preshared_key),),
    "endpoints": lambda peer: (_endpoint(peer),),
    "allowed-ips": lambda peer: (_networks(peer.allowed_ips, " "),),
    "latest-handshakes": lambda peer: (str(int(peer.last_handshake)),),
    "transfer": lambda peer: (str(peer.rx_bytes), str(peer.tx_bytes)),
    "persistent-keepalive": lambda peer: (_keepalive(peer),),
}
WORDS = (*OF_DEVICE, *OF_PEERS, "dump")
"""The words that may follow an interface's name."""


def values(shown: Shown, word: str, *, with_name: bool) -> str:
    """What `wg show NAME WORD` prints; `with_name` as for `wg show all WORD`.

    wg prints the name before the first of a device's endpoints only, even if there are none (show.c).
    """
    head = (shown.device.name,) if with_name else ()
    if word == "endpoints":
        return "\t".join((*head, "")) + "".join("\t".join(row) + "\n" for row in _rows(shown, word))
    return "".join("\t".join((*head, *row)) + "\n" for row in _rows(shown, word))


def _rows(shown: Shown, word: str) -> Iterator[tuple[str, ...]]:
    if word == "dump":
        yield from _dump(shown)
    elif word in OF_DEVICE:
        yield (OF_DEVICE[word](shown),)
    else:
        for peer in shown.device.peers:
            yield (str(peer.public_key), *OF_PEERS[word](peer))


def _dump(shown: Shown) -> Iterator[tuple[str, ...]]:
    device = shown.device
    yield _revealed(device.private_key), _public(shown.public_key), str(device.listen_port), _mark(device)
    for peer in device.peers:
        yield (
            str(peer.public_key),
            _revealed(peer.preshared_key),
            _endpoint(peer),
            _networks(peer.allowed_ips, ","),
            str(int(peer.last_handshake)),
            str(peer.rx_bytes),
            str(peer.tx_bytes),
            _keepalive(peer),
        )


def _public(key: PublicKey | None) -> str:
    return NONE if key is None else str(key)


def _revealed(key: SecretKey | None) -> str:
    return NONE if key is None else key.reveal()
