"""What is rehearsed: hosts, the cables between them, who is to reach whom, and what came of it.

`diagnosis` lays it out from the files, `system` builds it, `show` writes it down.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.net import Prefix

INTERNET = ""
"""The segment that joins all hosts, by a router that knows no private network."""
DIRECTORY = "/etc/wireguard"
"""Where a host's configuration is, as on a real one."""
TCP_PORT = 47110
"""The port on which each host answers by TCP."""


class Cable(NamedTuple):
    """A link of a host: on the Internet, or on the switch of the private network that `segment` names."""

    link: str
    segment: str
    addresses: tuple[Prefix, ...]


class File(NamedTuple):
    """A file of a host, by its path; only root may read it."""

    path: str
    data: bytes
    executable: bool = False

    def __repr__(self) -> str:
        return f"File({self.path!r}, {len(self.data)} bytes)"


class Host(NamedTuple):
    """A host of its own for one configuration.

    `behind`: its own addresses in the networks behind it. `wave`: hosts of a lower one come up first. `forwards`:
    the families (4, 6) for which it forwards whatever its hooks say. `known`: where the files say that it is.
    `links`: links without an address that the hooks name.
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
    """An address that several hosts have: a UDP port of it that belongs to the host with that index."""

    address: Prefix
    port: int
    host: int


class Layout(NamedTuple):
    """All that is built; `names` are lines of /etc/hosts: an address and its name."""

    hosts: tuple[Host, ...]
    names: tuple[tuple[str, str], ...] = ()
    shared: tuple[Shared, ...] = ()


class Probe(NamedTuple):
    """What one host tries towards an address of another; hosts are indices into Layout.hosts.

    `peer` is the public key (32 bytes) to which the packets go first, `source` an address to send from or "".
    `hub` is the host between the two, -1 for none. `network`: the address is of a network behind the other.
    `doubtful`: the files have a fault that speaks against it, so that it is not tried for long.
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
    """What became of a host; `handshakes` are the public keys of the peers with which it had one."""

    status: int = 0
    said: str = ""
    mtu: int = 0
    listen_port: int = 0
    forwards: tuple[int, ...] = ()
    handshakes: frozenset[bytes] = frozenset()

    @property
    def is_up(self) -> bool:
        """Whether `wgq up` succeeded."""
        return self.status == 0


class Reach(NamedTuple):
    """What arrived and came back: pings, pings as large as the tunnel takes, data by TCP."""

    ping: bool = False
    full_size: bool = False
    tcp: bool = False


class Cause(NamedTuple):
    """Why a pair does not reach each other; `where` is file:line:column or a host, "" if it is neither's."""

    code: str
    message: str
    remedy: str = ""
    where: str = ""


class Pair(NamedTuple):
    """One host that means to reach another at an address. `to` is its name; no `cause`: it does."""

    source: str
    to: str
    address: str
    handshake: bool
    ping: bool
    full_size: bool
    tcp: bool
    cause: Cause | None = None

    @property
    def is_reached(self) -> bool:
        """Whether all of it works."""
        return self.cause is None


class Entry(NamedTuple):
    """A host that is left to be looked at, and the process that holds its namespaces."""

    name: str
    pid: int


class Report(NamedTuple):
    """The whole result.

    `remarks` are for people. `kept` are the hosts that still run, held by the process `holder`; `is_root`: they are
    in no user namespace of their own.
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
        """Whether every host is up and all that mean to reach each other do."""
        return all(state.is_up for state in self.states) and all(pair.is_reached for pair in self.pairs)
