"""Whether `up` leads the answers of the SSH session that it runs in into the tunnel.

This stands on the path of `wgq up NAME`, so it asks for the destinations of one table alone. `diagnosis.cut_off`
says the same of any change, by tracing the session over a whole snapshot.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING
from wgquick.net import MAIN_TABLE, pack_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wgquick.config.settings import Settings
    from wgquick.net import AllowedIP, Prefix

_MAPPED = bytes(10) + b"\xff\xff"
_AUTO = ("", "auto")
_MAIN = ("main", str(MAIN_TABLE))


def client_of(connection: str) -> bytes | None:
    """The address of the client in SSH_CONNECTION (ssh(1)), packed; None if there is none."""
    words = connection.split()
    if len(words) != 4:
        return None
    try:
        address = pack_address(words[0].partition("%")[0])
    except ValueError:
        return None
    return address[12:] if address.startswith(_MAPPED) else address


def leads_inside(settings: Settings, client: bytes, main: Callable[[bytes], Iterable[Prefix]]) -> bool:
    """Whether packets to `client` go into the tunnel once it is up.

    `main` gives the destinations of that table in an address's family; it is asked only if that matters.
    False where something of the host's own may decide: a table without rules, connections that are kept inbound.
    """
    if settings.extras.keep_inbound or settings.table not in (*_AUTO, *_MAIN):
        return False
    if any(not isinstance(each, str) and _has(each, client) for each in settings.extras.exclude):
        return False
    networks = [ip for peer in settings.peers for ip in peer.allowed_ips if ip.change != "-"]
    inside = _longest(networks, client)
    if inside < 0:
        return False
    outside = _longest(main(client), client)
    if inside == 0 and settings.table in _AUTO:
        return outside <= 0  # the rules look at main first, for all but its default route
    return inside > outside


def _longest(networks: Iterable[Prefix | AllowedIP], address: bytes) -> int:
    """The length of the longest prefix that has an address; -1 if none has it."""
    return max((each.length for each in networks if _has(each, address)), default=-1)


def _has(network: Prefix | AllowedIP, address: bytes) -> bool:
    shift = len(address) * 8 - network.length
    return (
        len(network.address) == len(address)
        and int.from_bytes(network.address, "big") >> shift == int.from_bytes(address, "big") >> shift
    )


def warning(name: str, connection: str, remedy: str) -> str:
    """What is said of it before the change."""
    client = connection.split()[0]
    return f"[!] Your SSH session from {client} may hang: its replies will go into {name} ({remedy})"
