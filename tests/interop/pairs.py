"""Two machines joined by a veth, with one end of a tunnel on each.

    with pair("wgq-userspace", "wireguard-go") as (left, right):
        left.ping(right)

Only the left end knows the other's endpoint, so the left one begins the handshake and the right one learns.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.keys import public_key
from tests.namespaces import host, mortal
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.namespaces import Namespace

WGQ = "wgq-userspace"
GO = "wireguard-go"
BORINGTUN = "boringtun-cli"
GOTATUN = "gotatun"
KERNEL = "the kernel's module"
LINK = "wg0"
WIRE = "up0"
MTU = 1420
SOCKET = f"/run/wireguard/{LINK}.sock"
_LOG = "/run/daemon.log"

# WG_SUDO: boringtun does not drop to the user who called sudo. WG_THREADS: more threads reorder packets.
_ENVIRONMENT = {"LOG_LEVEL": "error", "WG_LOG_LEVEL": "error", "WG_SUDO": "true", "WG_THREADS": "1"}
# Without this flag, boringtun keeps sending from the source address of its first packet.
FLAGS = {BORINGTUN: "--disable-connected-udp"}


def both_ways(*peers: str) -> list[tuple[str, str]]:
    """Ours with each peer, in both orders. The first one of a pair begins the handshake."""
    return [pair for peer in peers for pair in ((WGQ, peer), (peer, WGQ))]


ROLES = both_ways(GO)
EVERY_ROLE = both_ways(GO, BORINGTUN, GOTATUN)

# `@th,64,8` is the first byte after the UDP header: the type of the message.
_COUNTERS = f"""
table inet messages {{
    counter initiation {{ }}
    counter response {{ }}
    counter cookie {{ }}
    counter keepalive {{ }}
    counter data {{ }}
    chain sent {{
        type filter hook output priority 0
        oifname != "{WIRE}" return
        meta l4proto != udp return
        @th,64,8 1 counter name initiation
        @th,64,8 2 counter name response
        @th,64,8 3 counter name cookie
        @th,64,8 4 udp length 40 counter name keepalive
        @th,64,8 4 udp length > 40 counter name data
    }}
}}
"""


def private_key() -> str:
    """A private key in the form of `wg genkey`."""
    raw = bytearray(os.urandom(32))
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return base64.b64encode(raw).decode()


@dataclasses.dataclass
class Peer:
    """A peer as the UAPI's `get` describes it."""

    key: str
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    allowed_ips: list[str] = dataclasses.field(default_factory=list)

    def number(self, name: str) -> int:
        return int(self.values[name])


@dataclasses.dataclass
class End:
    """One machine and its end of the tunnel."""

    machine: Namespace
    number: int
    program: str
    private: str = dataclasses.field(default_factory=private_key, repr=False)
    public: str = ""
    daemon: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.public = public_key(self.private)

    @property
    def port(self) -> int:
        return 51820 + self.number

    def outer(self, version: int = 4) -> str:
        """Its address on the wire."""
        return f"192.0.2.{self.number}" if version == 4 else f"2001:db8::{self.number}"

    def inner(self, version: int = 4) -> str:
        """Its address in the tunnel."""
        return f"10.66.0.{self.number}" if version == 4 else f"fd66::{self.number}"

    def endpoint(self, version: int = 4) -> str:
        return f"{self.outer(version)}:{self.port}" if version == 4 else f"[{self.outer(version)}]:{self.port}"

    def start(self) -> None:
        """Start the daemon and wait for its socket."""
        if self.program == KERNEL:
            self.ip(f"link add {LINK} type wireguard")
            return
        self.daemon = self.machine.popen(
            mortal("sh", "-c", f"exec {self.program} {FLAGS.get(self.program, '')} -f {LINK} >>{_LOG} 2>&1"),
            stdin=subprocess.DEVNULL,
            env=os.environ | _ENVIRONMENT,
        )
        until(self._answers, f"an answer of {self.program} on its socket")

    def _answers(self) -> bool:
        """Whether the daemon answers a request. A connection alone is possible before the link exists."""
        self.assert_alive()
        try:
            return self.request("get=1\n\n") != ""
        except OSError:
            return False

    def assert_alive(self) -> None:
        if self.program == KERNEL:
            return
        assert self.daemon is not None
        status = self.daemon.poll()
        if status is not None:
            log = self.machine.out("cat", _LOG)
            raise AssertionError(f"{self.program} at end {self.number} ended with status {status}:\n{log}")

    def configure(self, *lines: str) -> None:
        """Set keys, port and peers (lines of `wg setconf`), add the addresses and set the link up."""
        self.wg("setconf", LINK, "/dev/stdin", input=self.interface() + "\n".join(lines))
        self.addresses()
        if self.program.endswith(WGQ):
            until(self._receives, "the link up for the daemon")

    def _receives(self) -> bool:
        """Whether our daemon knows that the link is up: until then it drops what arrives."""
        return "while the link is down" not in self.request("features=1\n\n")

    def interface(self) -> str:
        return f"[Interface]\nPrivateKey = {self.private}\nListenPort = {self.port}\n"

    def addresses(self, mtu: int = MTU) -> None:
        """Add addresses to the tunnel's link and set it up."""
        self.ip(
            f"addr add {self.inner(4)}/24 dev {LINK}",
            f"addr add {self.inner(6)}/64 dev {LINK} nodad",
            f"link set {LINK} up mtu {mtu}",
        )
        self.machine.settle()

    def peer(self, *lines: str, version: int | None = None) -> str:
        """A [Peer] section that describes this end to the other; with a version, it has an endpoint."""
        section = [
            "[Peer]",
            f"PublicKey = {self.public}",
            f"AllowedIPs = {self.inner(4)}/32, {self.inner(6)}/128",
            *([] if version is None else [f"Endpoint = {self.endpoint(version)}"]),
            *lines,
        ]
        return "\n".join(section) + "\n"

    def ip(self, *lines: str) -> None:
        self.machine.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n")

    def forget(self, other: End, *lines: str) -> None:
        """Remove the other end and add it again, with more lines: the next packet needs a handshake.

        Setting the link down and up has no such effect in wireguard-go on every kernel. The pause is needed because
        a responder accepts at most fifty initiations per second from a peer.
        """
        time.sleep(0.05)
        self.set_peer(other, "remove")
        self.wg("addconf", LINK, "/dev/stdin", input=other.peer(*lines, version=4))

    def wg(self, *arguments: str, input: str | None = None) -> str:
        return self.machine.run(["wg", *arguments], input=input).stdout

    def set_peer(self, other: End, *arguments: str, input: str | None = None) -> None:
        """`wg set` of the other end as a peer. boringtun panics on a change, so its peer is removed first."""
        if self.program == BORINGTUN and arguments != ("remove",):
            self.set_peer(other, "remove")
            networks = f"{other.inner(4)}/32,{other.inner(6)}/128"
            arguments = ("endpoint", other.endpoint(), "allowed-ips", networks, *arguments)
        self.wg("set", LINK, "peer", other.public, *arguments, input=input)

    def rekey_by_hand(self, private: str) -> None:
        """`wg set` of another private key."""
        self.wg("set", LINK, "private-key", "/dev/stdin", input=private)
        self.private, self.public = private, public_key(private)

    def handshake(self, other: End) -> int:
        """The time of the last handshake with the other end, in seconds since 1970; 0 for never."""
        return int(self._about(other, "latest-handshakes"))

    def known_endpoint(self, other: End) -> str:
        return self._about(other, "endpoints")

    def transfer(self, other: End) -> tuple[int, int]:
        """Bytes received from the other end, and bytes sent to it."""
        received, sent = self._about(other, "transfer").split("\t")
        return int(received), int(sent)

    def _about(self, other: End, what: str) -> str:
        for line in self.wg("show", LINK, what).splitlines():
            key, _, value = line.partition("\t")
            if key == other.public:
                return value
        raise AssertionError(f"end {self.number} knows no peer {other.public}")

    def try_ping(self, other: End, *options: str, version: int = 4, address: str = "") -> bool:
        """Whether one ping is answered."""
        once = ["ping", f"-{version}", "-n", "-q", "-c", "1", "-W", "1"]
        return self.machine.run([*once, *options, address or other.inner(version)], check=False).returncode == 0

    def ping(self, other: End, *options: str, version: int = 4, seconds: float = 60) -> None:
        """Ping until an answer comes."""
        until(lambda: self.try_ping(other, *options, version=version), f"an answer to {self.program}", seconds)

    def begin(self, other: End) -> None:
        """The first handshake, and what wireguard-go may add to it, for tests in which no other one may follow.

        It sends an initiation before it sets the timer that repeats it: an early answer does not stop it.
        """
        self.ping(other)
        if self.program == GO:
            time.sleep(6)  # the timer takes 5.33 s at most

    def open_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this machine, for use by the test."""
        with self.machine.entered():
            made = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        made.settimeout(60)
        return made

    def uapi(self) -> socket.socket:
        """A connection to the daemon's control socket."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        made.settimeout(60)
        try:
            with self.machine.entered():
                made.connect(SOCKET)
        except OSError:
            made.close()
            raise
        return made

    def request(self, request: str | bytes) -> str:
        """The daemon's whole answer to a request."""
        with self.uapi() as connection:
            connection.sendall(request.encode() if isinstance(request, str) else request)
            return answer(connection)

    def get(self) -> tuple[dict[str, str], list[Peer]]:
        """The device's values, and its peers."""
        device: dict[str, str] = {}
        peers: list[Peer] = []
        for line in self.request("get=1\n\n").splitlines():
            name, _, value = line.partition("=")
            match name:
                case "" | "errno":
                    pass
                case "public_key":
                    peers.append(Peer(value))
                case "allowed_ip":
                    peers[-1].allowed_ips.append(value)
                case _:
                    (peers[-1].values if peers else device)[name] = value
        return device, peers

    def count_messages(self) -> None:
        """Count the messages that this end sends from now on, by kind."""
        self.machine.run(["nft", "-f", "-"], input=_COUNTERS)

    def sent(self, kind: str) -> int:
        """How many messages of a kind this end has sent."""
        words = self.machine.out("nft", "list", "counter", "inet", "messages", kind).split()
        return int(words[words.index("packets") + 1])

    def resident(self) -> int:
        """The daemon's resident memory in bytes, by pages: VmRSS lags by some pages for each processor."""
        assert self.daemon is not None
        return int(fields(f"/proc/{self.daemon.pid}/smaps_rollup")["Rss"].split()[0]) * 1024

    def peak(self) -> int:
        """The daemon's peak resident memory, in bytes."""
        assert self.daemon is not None
        return int(status(self.daemon.pid)["VmHWM"].split()[0]) * 1024


def processor_seconds(end: End) -> float:
    """The processor time of an end's daemon so far."""
    assert end.daemon is not None
    fields = Path(f"/proc/{end.daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answer(connection: socket.socket) -> str:
    """One answer: up to its empty line or to the end of the connection."""
    received = b""
    while not received.endswith(b"\n\n") and (more := connection.recv(1 << 20)):
        received += more
    return received.decode()


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status (proc(5))."""
    return fields(f"/proc/{pid}/status")


def threads(pid: int) -> list[dict[str, str]]:
    """The status of each thread of a process, without those that end meanwhile."""
    found = []
    for entry in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(status(int(entry.name)))
    return found


def fields(path: str) -> dict[str, str]:
    """The fields of a file with lines such as `Name: value`."""
    lines = Path(path).read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def join(left: End, right: End, mtu: int = 1500) -> None:
    """Connect the two machines by a veth with addresses of both families."""
    veth = f"link add {WIRE} mtu {mtu} type veth peer name {WIRE} mtu {mtu} netns {right.machine.paths['net']}"
    for end, lines in ((left, [veth]), (right, [])):
        end.ip(
            *lines,
            f"addr add {end.outer(4)}/24 dev {WIRE}",
            f"addr add {end.outer(6)}/64 dev {WIRE} nodad",
            f"link set {WIRE} up",
        )
    for end in (left, right):
        end.machine.settle()  # the wire carries packets then (addrconf_link_ready)


@contextlib.contextmanager
def machines(left: str, right: str) -> Iterator[tuple[End, End]]:
    """Two machines that are not connected and have no daemon yet."""
    with host() as here, host() as there:
        yield End(here, 1, left), End(there, 2, right)


@contextlib.contextmanager
def pair(
    left: str,
    right: str,
    *lines: str,
    version: int = 4,
    mtu: int = 1500,
    joined: Callable[..., Any] = join,
) -> Iterator[tuple[End, End]]:
    """Two connected ends with `lines` in both [Peer] sections. Both daemons must be alive at the end."""
    with machines(left, right) as (here, there):
        joined(here, there, mtu=mtu)
        for end in (here, there):
            end.start()
        there.configure(here.peer(*lines))
        here.configure(there.peer(*lines, version=version))
        yield here, there
        for end in (here, there):
            end.assert_alive()
