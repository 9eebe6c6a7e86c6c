"""No key remains in our daemon's memory after its end; the test plays the far end and knows all keys."""

from __future__ import annotations

import base64
import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.interop.clocks import Clocks
from tests.interop.forgery import DATA, INITIATION, RESPONSE, checksum
from tests.interop.memory import remains
from tests.interop.noise import Session, Static
from tests.interop.pairs import LINK, End, private_key
from tests.namespaces import host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

EXPIRY = 3 * 180
ADDRESS = "127.0.0.1"
INSIDE = "10.66.0.2"
# The number of packets that the cipher processes side by side.
PACKETS = 16
HEX_ZEROS = "0" * 64
TRANSPORT, PRESHARED, PRIVATE = "transport keys", "preshared key", "private key"


def echo_request(end: End, number: int) -> bytes:
    """A ping to this end from inside the tunnel."""
    body = struct.pack("!BBHHH", 8, 0, 0, 7, number) + bytes(56)
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    addresses = socket.inet_aton(INSIDE) + socket.inet_aton(end.inner())
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(body), 0, 0, 64, socket.IPPROTO_ICMP)
    return start + struct.pack("!H", checksum(start, addresses)) + addresses + body


class Far(NamedTuple):
    """The far end, played by the test: its keys and its socket."""

    end: End
    static: Static
    socket: socket.socket

    def start(self, **environment: str) -> None:
        """Start the daemon."""
        settings = [f"{name}={value}" for name, value in environment.items()]
        self.end.program = " ".join(["env", *settings, self.end.program])
        self.end.start()

    def in_use(self) -> dict[str, dict[str, bytes]]:
        """Establish two sessions. Returns the secrets of each kind by name, all present in the daemon's memory.

        The secrets of the handshakes are gone by then.
        """
        self.configure()
        first, second = self.answer(), self.begin()
        live = {
            TRANSPORT: secrets_of(first, "first") | secrets_of(second, "second"),
            PRESHARED: {PRESHARED: self.static.preshared},
            PRIVATE: {PRIVATE: base64.b64decode(self.end.private)},
        }
        for name, secret in {name: secret for kind in live.values() for name, secret in kind.items()}.items():
            assert found(self, {name: secret}), f"the scan does not find the {name} while it is in use"
        assert_gone(self, {"first chaining key": first.chaining, "second chaining key": second.chaining})
        return live

    def configure(self) -> None:
        """Add the far end as the daemon's peer; the keepalive makes the daemon begin a handshake."""
        peer = (
            f"[Peer]\nPublicKey = {base64.b64encode(self.static.public).decode()}\n"
            f"PresharedKey = {base64.b64encode(self.static.preshared).decode()}\n"
            f"Endpoint = {ADDRESS}:{self.socket.getsockname()[1]}\n"
            f"AllowedIPs = {INSIDE}/32\nPersistentKeepalive = 3600\n"
        )
        self.end.configure(peer)

    def await_(self, kind: int) -> bytes:
        """Wait for the next message of a kind."""
        while (message := self.socket.recv(2000))[0] != kind:
            pass
        return message

    def answer(self) -> Session:
        """Answer the daemon's initiation."""
        response, session = self.static.respond(self.await_(INITIATION), 11)
        self._send(response)
        self.await_(DATA)  # the keepalive that confirms the session
        self.talk(session)
        return session

    def begin(self) -> Session:
        """Begin a handshake that the daemon answers."""
        begun = self.static.initiate(22)
        self._send(begun.message)
        session = begun.finish(self.await_(RESPONSE))
        self.talk(session)
        return session

    def talk(self, session: Session) -> None:
        """Exchange pings until the daemon has sent the answers with this session."""
        for number in range(PACKETS):
            self._send(session.data(number, echo_request(self.end, number)))
        for _ in range(PACKETS):
            while len(message := self.await_(DATA)) <= 32 or message[4:8] != struct.pack("<I", session.ours):
                pass
            assert session.opened(message)[9] == socket.IPPROTO_ICMP

    def _send(self, message: bytes) -> None:
        self.socket.sendto(message, (ADDRESS, self.end.port))


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    return Clocks(tmp_path)


@pytest.fixture
def far(clocks: Clocks) -> Iterator[Far]:
    with host() as machine, contextlib.ExitStack() as stack:
        end = End(machine, 1, clocks.program)
        listening = stack.enter_context(end.open_socket(socket.AF_INET, socket.SOCK_DGRAM))
        listening.bind((ADDRESS, 0))
        static = Static(*(base64.b64decode(private_key()) for _ in range(3)))
        static = static._replace(other=base64.b64decode(end.public))
        yield Far(end, static, listening)
        end.assert_alive()


def secrets_of(session: Session, name: str) -> dict[str, bytes]:
    """The session's keys, named from the daemon's side."""
    return {f"{name} send key": session.receive, f"{name} receive key": session.send}


def found(far: Far, secrets: dict[str, bytes]) -> list[str]:
    assert far.end.daemon is not None
    return remains(far.end.daemon.pid, secrets)


def assert_gone(far: Far, secrets: dict[str, bytes]) -> None:
    """Wait until no secret is left: each thread wipes its stack only when it wakes."""
    deadline = time.monotonic() + 60
    while (left := found(far, secrets)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "\n".join(left)


def remove(far: Far, clocks: Clocks) -> None:
    far.end.request(f"set=1\npublic_key={far.static.public.hex()}\nremove=true\n\n")


def replace_peers(far: Far, clocks: Clocks) -> None:
    far.end.request("set=1\nreplace_peers=true\n\n")


def reset(far: Far, clocks: Clocks) -> None:
    far.end.request(f"set=1\nprivate_key={HEX_ZEROS}\nreplace_peers=true\n\n")


def reset_on_a_lasting_connection(far: Far, clocks: Clocks) -> None:
    request = f"set=1\nprivate_key={base64.b64decode(far.end.private).hex()}\n"
    request += f"public_key={far.static.public.hex()}\npreshared_key={far.static.preshared.hex()}\n\n"
    connection = far.end.uapi()
    for message in (request, "get=1\n\n", f"set=1\nprivate_key={HEX_ZEROS}\nreplace_peers=true\n\n"):
        connection.sendall(message.encode())
        while not connection.recv(1 << 16).endswith(b"\n\n"):
            pass
    connection.detach()  # open until the daemon ends


def take_down(far: Far, clocks: Clocks) -> None:
    far.end.ip(f"link set {LINK} down")


def change_private_key(far: Far, clocks: Clocks) -> None:
    far.end.rekey_by_hand(private_key())


def grow_old(far: Far, clocks: Clocks) -> None:
    clocks.advance(age=EXPIRY + 1)
    far.end.get()


def fall_asleep(far: Far, clocks: Clocks) -> None:
    clocks.advance(asleep=1)
    far.end.get()


ENDINGS: list[tuple[Callable[[Far, Clocks], None], Sequence[str]]] = [
    (remove, (TRANSPORT, PRESHARED)),
    (replace_peers, (TRANSPORT, PRESHARED)),
    (reset, (TRANSPORT, PRESHARED, PRIVATE)),
    (reset_on_a_lasting_connection, (TRANSPORT, PRESHARED, PRIVATE)),
    (take_down, (TRANSPORT,)),
    (change_private_key, (PRIVATE,)),
    (grow_old, (TRANSPORT,)),
    (fall_asleep, (TRANSPORT,)),
]


@pytest.mark.parametrize(("ending", "gone"), ENDINGS, ids=[ending.__name__ for ending, _ in ENDINGS])
def test_a_key_is_gone_from_memory_after_its_end(
    far: Far, clocks: Clocks, ending: Callable[[Far, Clocks], None], gone: Sequence[str]
) -> None:
    far.start()
    live = far.in_use()
    ending(far, clocks)
    assert_gone(far, {name: secret for kind in gone for name, secret in live[kind].items()})


@pytest.mark.parametrize("cipher", ["ring", "avx2"])  # the tests above use the fastest one
@pytest.mark.parametrize("ending", [take_down, grow_old])
def test_no_cipher_leaves_a_key_behind(
    far: Far, clocks: Clocks, ending: Callable[[Far, Clocks], None], cipher: str
) -> None:
    far.start(WGQ_CIPHER=cipher)
    live = far.in_use()
    ending(far, clocks)
    assert_gone(far, live[TRANSPORT])
