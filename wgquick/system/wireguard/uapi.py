"""The control socket of a userspace WireGuard (cross-platform userspace API): one request and answer at a time."""

from __future__ import annotations

import errno
import os
import stat
from _socket import AF_UNIX, SO_PEERCRED, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET
from fcntl import LOCK_EX, flock
from struct import Struct

from wgquick import patience as deadline
from wgquick.errors import OperationError, not_wireguard
from wgquick.lean import TYPE_CHECKING, socket, suppress
from wgquick.options import SOCKETS
from wgquick.system.wireguard import uapi_codec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wgquick.counters import Diagnostics
    from wgquick.device import Device, DeviceConfig, PeerConfig
    from wgquick.net import PublicKey

_SUFFIX = ".sock"
_CHUNK = 1 << 18
_CREDENTIALS = Struct("=iII")  # struct ucred: process, user, group


class Uapi:
    """The userspace devices with a socket in the caller's mount namespace.

    Both limits are seconds without any progress, as a request with thousands of peers takes long.
    """

    def __init__(self, *, get_patience: float = 10.0, set_patience: float = 30.0) -> None:
        self._get_patience = get_patience
        self._set_patience = set_patience

    def interfaces(self) -> list[str]:
        """The interfaces with a control socket that answers, in the directory's order, as in wg(8)."""
        try:
            entries = os.listdir(SOCKETS)
        except OSError:
            return []
        return [
            name for name, dot, rest in (entry.rpartition(_SUFFIX) for entry in entries) if dot and answers(name)
        ]

    def get(self, name: str) -> Device:
        """The device's state."""
        what = f"cannot read {name}"
        answer = _exchange(name, uapi_codec.GET, self._get_patience, what)
        _check(answer, what)
        try:
            return uapi_codec.decode(name, answer)
        except ValueError as error:
            raise OperationError(f"{what}: its daemon: {error}", errno=errno.EPROTO) from None

    def diagnostics(self, name: str) -> Diagnostics | None:
        """The daemon's counters; None if it does not know the request: it refuses it or closes the connection."""
        from wgquick.system.wireguard import diagnostics  # rarely needed

        what = f"cannot read the counters of {name}"
        try:
            answer = _exchange(name, diagnostics.REQUEST, self._get_patience, what)
        except OperationError as error:
            if error.errno == errno.ECONNRESET:
                return None
            raise
        if uapi_codec.errno_of(answer):
            return None
        try:
            return diagnostics.decode(answer)
        except ValueError as error:
            raise OperationError(f"{what}: its daemon: {error}", errno=errno.EPROTO) from None

    def begin_handshakes(self, name: str, peers: Sequence[PublicKey]) -> bool:
        """Make the daemon start a handshake with each peer; False if it does not know the request.

        It ignores peers to which it sent a handshake message less than five seconds ago. Missing peers and a link
        that is down are no errors here.
        """
        lines = "".join(f"public_key={key.raw.hex()}\n" for key in peers)
        what = f"cannot begin a handshake of {name}"
        try:
            answer = _exchange(name, f"handshake=1\n{lines}\n".encode(), self._set_patience, what)
        except OperationError as error:
            if error.errno == errno.ECONNRESET:
                return False
            raise
        return uapi_codec.errno_of(answer) in (0, errno.ENOENT, errno.ENETDOWN)

    def set(self, name: str, config: DeviceConfig) -> None:
        """Apply the change; the error names the peer if the request had only one."""
        what = f"cannot configure {name}"
        answer = _exchange(name, uapi_codec.encode(config), self._set_patience, what)
        _check(answer, what, _about(config.peers))


def socket_path(name: str) -> str:
    """The path of an interface's control socket."""
    return f"{SOCKETS}/{name}{_SUFFIX}"


def answers(name: str) -> bool:
    """Whether a daemon listens on the interface's control socket."""
    try:
        _connect(name, 1.0).close()
    except OperationError:
        return False
    return True


def serves(name: str) -> bool:
    """Whether a daemon answers a request on the interface's control socket.

    wireguard-go listens on it before it starts the process that answers.
    """
    try:
        _exchange(name, uapi_codec.GET, 1.0, f"cannot read {name}")
    except OperationError:
        return False
    return True


def is_abandoned(name: str) -> bool:
    """Whether the interface's control socket exists and no process has it."""
    try:
        _socket(name, 1.0).close()
    except OSError as error:
        return error.errno == errno.ECONNREFUSED
    return False


def outlasts(name: str, patience: float) -> bool:
    """Whether a process still has the control socket after waiting up to `patience` seconds for it to end.

    The end of the process closes the connection. Then the result is True too, as another process may have the
    socket now: call again. It is also True for a process that hangs and accepts no connections.
    """
    try:
        with _socket(name, patience) as control:
            control.recv(1)
    except (BlockingIOError, TimeoutError, ConnectionResetError):
        return True
    except OSError:
        return False
    return True


def listener(name: str) -> int:
    """The process that called listen on the control socket (SO_PEERCRED, unix(7)); 0 if there is none."""
    try:
        with _socket(name, 1.0) as control:
            process, _, _ = _CREDENTIALS.unpack(control.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size))
    except OSError:
        return 0
    return int(process)


def remove_stale(name: str) -> None:
    """Remove a socket without a listener, as wg(8) does.

    It holds the directory's lock, which wgq-userspace holds while it creates its socket, so that a new one stays.
    """
    try:
        directory = os.open(SOCKETS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        flock(directory, LOCK_EX)
        _socket(name, 1.0).close()
    except ConnectionRefusedError:
        with suppress(OSError):
            os.unlink(f"{name}{_SUFFIX}", dir_fd=directory)
    except OSError:
        return
    finally:
        os.close(directory)


def _check(answer: bytes, what: str, about: str = "") -> None:
    if code := uapi_codec.errno_of(answer):
        raise OperationError(f"{what}: its daemon: {os.strerror(code)}{about}", errno=code)


def _about(peers: tuple[PeerConfig, ...]) -> str:
    """The peers of a refused request: the answer is one errno for the whole request."""
    if not peers:
        return ""
    if len(peers) == 1:
        return f" (peer {peers[0].public_key})"
    return f" (in a request about {len(peers)} peers, {peers[0].public_key} to {peers[-1].public_key})"


def _connect(name: str, patience: float) -> socket:
    try:
        return _socket(name, patience)
    except OSError as error:
        raise _unreachable(name, error) from None


def _socket(name: str, patience: float) -> socket:
    """A connection to the daemon; a file of another kind at the path is not opened."""
    path = socket_path(name)
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise FileNotFoundError(errno.ENOENT, "not a socket")
    control = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    control.settimeout(patience)
    try:
        control.connect(path)
    except OSError:
        control.close()
        raise
    return control


def _unreachable(name: str, error: OSError) -> OperationError:
    """A socket that a killed daemon left (ECONNREFUSED) is not a device, as in wg(8)."""
    code = error.errno or errno.ETIMEDOUT
    if code in (errno.ENOENT, errno.ECONNREFUSED):
        return not_wireguard(name)
    return OperationError(f"cannot reach the daemon of {name}: {os.strerror(code)}", errno=code)


def _exchange(name: str, request: bytes, patience: float, what: str) -> bytes:
    """Send a request and return the whole answer; OperationError if the daemon ends or hangs."""
    patience = deadline.left(patience)
    with _connect(name, patience) as control:
        try:
            _send(control, request)
            return _receive(control)
        except TimeoutError:
            raise OperationError(
                f"{what}: its daemon has not answered for {patience:.2g} s",
                errno=errno.ETIMEDOUT,
                remedy="Check the daemon, or delete the link to end it.",
            ) from None
        except OSError as error:
            raise OperationError(f"{what}: its daemon: {error.strerror}", errno=error.errno or 0) from None


def _send(control: socket, request: bytes) -> None:
    """Send it all; a daemon that refuses early stops reading, and its answer has the reason."""
    rest = memoryview(request)
    try:
        while rest:
            rest = rest[control.send(rest[:_CHUNK]) :]
    except (BrokenPipeError, ConnectionResetError):
        return


def _receive(control: socket) -> bytes:
    parts: list[bytes] = []
    tail = b""
    while not tail.endswith(uapi_codec.END):
        part = control.recv(_CHUNK)
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed before the end of the answer")
        parts.append(part)
        tail = (tail + part)[-len(uapi_codec.END) :]
    return b"".join(parts)
