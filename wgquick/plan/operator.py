"""Whether `up` would route the replies of its own SSH session into the tunnel.

It is on the path of `wgq up NAME`, so it reads only the destinations of one table. `diagnosis.cut_off` answers this
for any change, by tracing the session over a whole snapshot.
"""

from __future__ import annotations

from wgquick.config.tables import is_main
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import pack_address
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from wgquick.config.settings import Settings
    from wgquick.net import AllowedIP, Prefix

_MAPPED = bytes(10) + b"\xff\xff"


class Session(NamedTuple):
    """The ends of an SSH session: packed addresses and ports. `link` is the zone of the client's address, or ""."""

    client: bytes
    client_port: int
    server: bytes
    server_port: int
    link: str = ""


def session_of(connection: str) -> Session | None:
    """The session of SSH_CONNECTION (ssh(1)); None if it names none. IPv4-mapped addresses count as IPv4."""
    try:
        client, client_port, server, server_port = connection.split()
        address, _, link = client.partition("%")
        own = server.partition("%")[0]
        return Session(_unmapped(address), int(client_port), _unmapped(own), int(server_port), link)
    except ValueError:
        return None


def _unmapped(text: str) -> bytes:
    address = pack_address(text)
    return address[12:] if address.startswith(_MAPPED) else address


def leads_inside(settings: Settings, client: bytes, main: Callable[[bytes], Iterable[Prefix]]) -> bool:
    """Whether packets to `client` go into the tunnel once it is up.

    `main` returns the main table's destinations of an address's family; it is called only if necessary. False if
    the host's own configuration may decide: a table without rules, or keep-inbound.
    """
    if settings.extras.keep_inbound or not (settings.routes_automatically or is_main(settings.table)):
        return False
    if any(not isinstance(each, str) and _has(each, client) for each in settings.extras.exclude):
        return False
    networks = [ip for peer in settings.peers for ip in peer.allowed_ips if ip.change != "-"]
    inside = _longest(networks, client)
    if inside < 0:
        return False
    outside = _longest(main(client), client)
    if inside == 0 and settings.routes_automatically:
        return outside <= 0  # main's routes except its default route come first
    return inside > outside


def _longest(networks: Iterable[Prefix | AllowedIP], address: bytes) -> int:
    """The length of the longest prefix that contains an address; -1 if there is none."""
    return max((each.length for each in networks if _has(each, address)), default=-1)


def _has(network: Prefix | AllowedIP, address: bytes) -> bool:
    shift = len(address) * 8 - network.length
    return (
        len(network.address) == len(address)
        and int.from_bytes(network.address, "big") >> shift == int.from_bytes(address, "big") >> shift
    )


def warning(name: str, connection: str, remedy: str) -> str:
    """The note that is printed before the change."""
    client = connection.split()[0]
    return note(f"Your SSH session from {client} may hang: its replies will go into {name} ({remedy})")
