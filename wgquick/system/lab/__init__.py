"""The simulated hosts of a rehearsal: processes with their own namespaces, connected by a router.

    holder                 in this program's namespaces; waits for the router
      router               process 1 of a PID namespace, with a network and mounts of its own
        host, host, ...    each with a network, mounts and a host name of its own

The namespaces have no names: only these processes hold them. The kernel kills the holder when the program that
started it ends, the router with the holder (PR_SET_PDEATHSIG), and all others with the router (pid_namespaces(7)).
Root's processes need no user namespace; another user's processes get one.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from wgquick.errors import ENDING_SIGNALS, WgqError, reason_of
from wgquick.lean import contextmanager, suppress
from wgquick.rehearsal import Entry, Reach, State
from wgquick.system import calls
from wgquick.system.lab import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, NoReturn

    from wgquick.rehearsal import Host, Layout, Probe

_TUN = "/dev/net/tun"
_CAPABILITIES = 1 << 12 | 1 << 13 | 1 << 21  # CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN
_NAMESPACES = calls.NEW_MOUNTS | calls.NEW_NETWORK | calls.NEW_UTS | calls.NEW_PIDS
_HOSTS_OWN = calls.NEW_MOUNTS | calls.NEW_NETWORK | calls.NEW_UTS
_UP_PATIENCE = 60.0
_END_PATIENCE = 10.0
_KEEP = b"k"
_RIGHTS = (
    "Run it as root. In a container: give it the capability SYS_ADMIN (docker run --privileged), or allow its user "
    "namespaces with networks and mounts."
)


class _Pair(NamedTuple):
    """Two connected sockets: the program's end, and the end of a process of the rehearsal."""

    ours: socket.socket
    theirs: socket.socket


class Lab:
    """The hosts of a layout, identified by their indices."""

    def __init__(self, layout: Layout, holder: int, control: socket.socket, asked: Sequence[socket.socket]) -> None:
        self.layout = layout
        self.holder = holder
        self.is_kept = False
        self.is_root = _may_administer()
        self._control = control
        self._hosts = [each.makefile("rwb") for each in asked]

    def up(self) -> list[State]:
        """Bring the interfaces up, one wave of hosts after another."""
        states: dict[int, State] = {}
        hosts = list(enumerate(self.layout.hosts))
        for wave in sorted({host.wave for _, host in hosts}):
            of_wave = [index for index, host in hosts if host.wave == wave]
            answers = self._ask({index: {"do": "up", "patience": _UP_PATIENCE} for index in of_wave})
            states |= {index: State(status, output) for index, (status, output) in answers.items()}
        return self.looked_at([states[index] for index, _ in hosts])

    def looked_at(self, states: Sequence[State]) -> list[State]:
        """The states with the devices' current handshakes, MTU and port."""
        answers = self._ask({index: {"do": "state"} for index in range(len(self.layout.hosts))})
        return [_state(state, answers[index]) for index, state in enumerate(states)]

    def tried(self, probes: Sequence[Probe], states: Sequence[State]) -> list[Reach]:
        """The results of the probes; all hosts work at the same time."""
        of_hosts: dict[int, list[int]] = {}
        for number, probe in enumerate(probes):
            if all(states[end].is_up for end in (probe.at, probe.to, probe.hub) if end >= 0):
                of_hosts.setdefault(probe.at, []).append(number)
        requests = {
            host: {"do": "probe", "mtu": states[host].mtu, "probes": [_plain(probes[n]) for n in numbers]}
            for host, numbers in of_hosts.items()
        }
        found = [Reach()] * len(probes)
        for host, answer in self._ask(requests).items():
            for number, reach in zip(of_hosts[host], answer, strict=True):
                found[number] = Reach(*reach)
        return found

    def run(self, arguments: Mapping[int, list[str]], patience: float) -> dict[int, tuple[int, str]]:
        """Run this program on several hosts at once; returns the status and output of each."""
        asked = {i: {"do": "run", "arguments": words, "patience": patience} for i, words in arguments.items()}
        return {index: (status, output) for index, (status, output) in self._ask(asked).items()}

    def keep(self) -> list[Entry]:
        """Keep the hosts after the end of this program; returns their names and processes."""
        self._control.sendall(_KEEP)
        self._control.recv(1)
        self.is_kept = True
        router = _children(self.holder)[0]
        return [Entry(host.name, pid) for host, pid in zip(self.layout.hosts, _children(router), strict=False)]

    def _ask(self, requests: Mapping[int, dict[str, Any]]) -> dict[int, Any]:
        try:
            for index, request in requests.items():
                self._hosts[index].write(json.dumps(request).encode() + b"\n")
                self._hosts[index].flush()
            return {index: self._answer(index) for index in requests}
        except BrokenPipeError:
            raise WgqError("the rehearsal's processes were killed") from None

    def _answer(self, index: int) -> Any:
        line = self._hosts[index].readline()
        if not line:
            raise WgqError(f"the process of the host {self.layout.hosts[index].name} has ended")
        return json.loads(line)


def _plain(probe: Probe) -> list[Any]:
    """The probe for JSON, without the key, which the host does not need."""
    return [*probe[:3], "", *probe[4:]]


def _state(before: State, answer: dict[str, Any]) -> State:
    return before._replace(
        mtu=answer.get("mtu", 0),
        listen_port=answer.get("listen_port", 0),
        forwards=tuple(answer["forwards"]),
        handshakes=frozenset(map(bytes.fromhex, answer.get("handshakes", ()))),
    )


def _children(process: int) -> list[int]:
    """The child processes of a process, oldest first."""
    found = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if parent == process:
            found.append(int(entry))
    return sorted(found)


@contextmanager
def started(layout: Layout) -> Iterator[Lab]:
    """The hosts with their cables, all interfaces down. At the end everything is removed unless it is kept."""
    if not os.path.exists(_TUN):
        remedy = f"Run `modprobe tun', or in a container: docker run --device {_TUN}."
        raise WgqError(f"the bundled backend needs {_TUN}, which does not exist", remedy=remedy)
    import pyroute2  # noqa: F401 - once for all the processes that are forked here

    control = _Pair(*socket.socketpair())
    asked = [_Pair(*socket.socketpair()) for _ in layout.hosts]
    everything = [control, *asked]
    program = os.getpid()
    holder = os.fork()
    if holder == 0:
        _child(control.theirs, lambda: _hold(layout, program, everything))
    for pair in everything:
        pair.theirs.close()
    lab = Lab(layout, holder, control.ours, [pair.ours for pair in asked])
    try:
        _await_start(control.ours)
        yield lab
    finally:
        if not lab.is_kept:
            _end(holder, control.ours)
        for pair in everything:
            pair.ours.close()


def _await_start(control: socket.socket) -> None:
    """Wait until the cables are connected; WgqError with the reason if that fails."""
    line = control.makefile("rb", buffering=0).readline()
    answer = json.loads(line) if line else {"what": "its processes have ended"}
    if answer:
        what = f"cannot create the hosts of the rehearsal: {answer['what']}"
        raise WgqError(what, remedy=_RIGHTS if answer.get("denied") else "")


def _end(holder: int, control: socket.socket) -> None:
    """End the router and everything with it; return once it is gone."""
    control.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + _END_PATIENCE
    while os.waitpid(holder, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)
            return
        time.sleep(0.005)


def _child(control: socket.socket, work: Callable[[], object]) -> NoReturn:
    """Do the work of a forked process, report a failure, and exit."""
    try:
        work()
    except BaseException as failure:
        denied = isinstance(failure, OSError) and failure.errno in (
            errno.EPERM,
            errno.EACCES,
            errno.ENOSPC,
            errno.EROFS,
        )
        with suppress(BaseException):
            report = json.dumps({"what": _reason(failure), "denied": denied})
            control.sendall(f"{report}\n".encode())
        os._exit(1)
    finally:
        os._exit(0)


def _reason(failure: BaseException) -> str:
    if isinstance(failure, OSError) and failure.errno == errno.ENOSPC:
        return "a limit of namespaces or memory is reached (/proc/sys/user/max_*_namespaces)"
    return reason_of(failure)


def _hold(layout: Layout, program: int, everything: Sequence[_Pair]) -> None:
    """The holder: fork the router in new namespaces, and wait until it ends."""
    calls.die_with_parent()
    if os.getppid() != program:
        return
    os.setsid()  # Ctrl-C must reach only the program
    for number in (*ENDING_SIGNALS, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    for pair in everything:
        pair.ours.close()
    _close_terminal()
    _enter_namespaces()
    control = everything[0].theirs
    own, routers = socket.socketpair()
    router = os.fork()
    if router == 0:
        own.close()
        _child(control, lambda: _route(layout, everything, routers))
    routers.close()
    for pair in everything:
        pair.theirs.close()
    if own.recv(1) == _KEEP:
        calls.die_with_parent(really=False)
        own.sendall(_KEEP)
    os.waitpid(router, 0)


def _close_terminal() -> None:
    """Close the program's input and output: a reader of its output waits until all copies are closed."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.chdir("/")


def _enter_namespaces() -> None:
    if _may_administer():
        calls.unshare(_NAMESPACES)
        return
    user, group = os.geteuid(), os.getegid()
    calls.unshare(calls.NEW_USER | _NAMESPACES)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _may_administer() -> bool:
    """Whether this process has all needed capabilities."""
    return calls.effective_capabilities() & _CAPABILITIES == _CAPABILITIES


def _route(layout: Layout, everything: Sequence[_Pair], holder: socket.socket) -> None:
    """The router: create the hosts and cables, and stay until the program ends."""
    calls.die_with_parent()
    control, *asked = (pair.theirs for pair in everything)
    files.prepare()
    hosts = []
    for number, (host, own) in enumerate(zip(layout.hosts, asked, strict=True)):
        ours, theirs = socket.socketpair()
        process = os.fork()
        if process == 0:
            kept = {own.fileno(), theirs.fileno(), control.fileno()}
            _close_others(kept)
            _child(control, lambda: _be(number, host, layout, own, theirs))  # noqa: B023 - used at once
        theirs.close()
        hosts.append((process, ours))
    for own in asked:
        own.close()
    from wgquick.system.lab import network

    if not all(each.recv(1) for _, each in hosts):
        return  # the host has reported the reason
    network.connect_hosts(layout, [process for process, _ in hosts])
    for _, each in hosts:
        each.sendall(b"c")
    if not all(each.recv(1) for _, each in hosts):
        return
    control.sendall(b"{}\n")
    # From here on nothing waits for child processes: the kernel reaps those that hooks leave.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if control.recv(1) == _KEEP:
        calls.die_with_parent(really=True)  # with the holder, which is kept
        holder.sendall(_KEEP)
        holder.recv(1)
        control.sendall(_KEEP)
        signal.pause()


def _close_others(kept: set[int]) -> None:
    for entry in os.listdir("/proc/thread-self/fd"):
        if int(entry) > 2 and int(entry) not in kept:
            with suppress(OSError):
                os.close(int(entry))


def _be(number: int, host: Host, layout: Layout, asked: socket.socket, router: socket.socket) -> None:
    """A host: create its namespaces and files, its links once the cables exist, and then answer requests."""
    from wgquick.system.lab import host as process
    from wgquick.system.lab import network

    calls.unshare(_HOSTS_OWN)
    calls.keep_mounts_private()
    name = "".join(char if char.isalnum() and char.isascii() else "-" for char in host.name)[:63].strip("-")
    socket.sethostname(name or f"host{number}")
    files.make_own(number, name or f"host{number}", layout.names, host.files)
    network.set_parameters()
    router.sendall(b"n")
    if not router.recv(1):
        return
    network.set_up(host)
    router.sendall(b"f")
    process.attend(host, asked)
