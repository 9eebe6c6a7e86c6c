"""The values of a rehearsal: hosts, the cables between them, the intended connections and the results.

`diagnosis` makes the layout from the files, `system` builds it, `show` prints the results.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.net import Prefix

INTERNET = ""
"""The segment that joins all hosts through a router without routes to private networks."""
TCP_PORT = 47110
"""The TCP port on which each host answers."""


class Cable(NamedTuple):
    """A link of a host: to the Internet, or to the switch of the private network `segment`."""

    link: str
    segment: str
    addresses: tuple[Prefix, ...]


class File(NamedTuple):
    """A file of a host; only root can read it."""

    path: str
    data: bytes
    executable: bool = False

    def __repr__(self) -> str:
        return f"File({self.path!r}, {len(self.data)} bytes)"


class Host(NamedTuple):
    """The simulated host of one configuration.

    `behind`: its addresses in the networks behind it. `wave`: hosts of lower waves come up first. `forwards`: the
    families (4, 6) in which it forwards, whatever its hooks do. `known`: its addresses by the files. `links`: links
    without an address that the hooks name.
    """

    name: str
    interface: str
    files: tuple[File, ...]
    cables: tuple[Cable, ...]
    behind: tuple[Prefix, ...] = ()
    wave: int = 0
    forwards: tuple[int, ...] = ()
    known: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


class Shared(NamedTuple):
    """A UDP port of an address that several hosts share; it belongs to the host with index `host`."""

    address: Prefix
    port: int
    host: int


class Layout(NamedTuple):
    """All hosts of a rehearsal; `names` are the lines of /etc/hosts: (address, name)."""

    hosts: tuple[Host, ...]
    names: tuple[tuple[str, str], ...] = ()
    shared: tuple[Shared, ...] = ()


class Probe(NamedTuple):
    """A test from one host to an address of another; hosts are indices into Layout.hosts.

    `peer` is the public key (32 bytes) of the first peer on the path, `source` the source address or "". `hub` is
    the host between the two, -1 for none. `network`: the address is in a network behind the other host. `doubtful`:
    a fault in the files probably prevents it, so that it is tried only briefly.
    """

    at: int
    to: int
    address: str
    peer: bytes
    source: str = ""
    hub: int = -1
    network: bool = False
    doubtful: bool = False


class State(NamedTuple):
    """The state of a host; `output` is that of `wgq up`, `handshakes` the public keys of peers with a handshake."""

    status: int = 0
    output: str = ""
    mtu: int = 0
    listen_port: int = 0
    forwards: tuple[int, ...] = ()
    handshakes: frozenset[bytes] = frozenset()

    @property
    def is_up(self) -> bool:
        """Whether `wgq up` succeeded."""
        return self.status == 0


class Reach(NamedTuple):
    """Which tests succeeded: pings, pings of the tunnel's full size, data over TCP."""

    ping: bool = False
    full_size: bool = False
    tcp: bool = False


class Failure(NamedTuple):
    """Why a connection fails; `where` is file:line:column or a host, "" if neither is at fault."""

    code: str
    message: str
    remedy: str = ""
    where: str = ""


class Pair(NamedTuple):
    """An intended connection. `to` is the name of the host that has `address`; `cause` is None if it works."""

    source: str
    to: str
    address: str
    handshake: bool
    ping: bool
    full_size: bool
    tcp: bool
    cause: Failure | None = None

    @property
    def is_reached(self) -> bool:
        """Whether all tests succeeded."""
        return self.cause is None


class Entry(NamedTuple):
    """A host that is kept for inspection, and the process that holds its namespaces."""

    name: str
    pid: int


class Report(NamedTuple):
    """The whole result.

    `remarks` are notes for people. `kept` are the hosts that still run, held by the process `holder`; `is_root`:
    they are not in a separate user namespace.
    """

    hosts: tuple[Host, ...]
    states: tuple[State, ...]
    pairs: tuple[Pair, ...]
    remarks: tuple[str, ...] = ()
    kept: tuple[Entry, ...] = ()
    holder: int = 0
    is_root: bool = True

    @property
    def is_good(self) -> bool:
        """Whether every host is up and every intended connection works."""
        return all(state.is_up for state in self.states) and all(pair.is_reached for pair in self.pairs)
