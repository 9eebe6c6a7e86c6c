"""Machines for tests: network namespaces, with or without a private view of the file system.

    with namespace() as ns:      # a network namespace by `ip netns`; the files are shared
    with host() as machine:      # its own network, kernel parameters, /run (so /var/run/wireguard), /etc and /sys
        machine.uplink()
        machine.run(["wg-quick", "up", "wg0"])
        routes = machine.call(read_routes, "wg0")     # in a child process
        with machine.entered():                       # in this thread
            ...

At the end, also after a failure, the processes inside are ended by their ids and the namespace is removed. If the
test run is killed, the namespace's keeper does that.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pickle
import shlex
import signal
import subprocess
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

P = ParamSpec("P")
R = TypeVar("R")

CLONE_FS = 0x00000200
RT_SCOPE_UNIVERSE, IFA_F_TENTATIVE, RTF_LOCAL = 0, 0x40, 0x80000000  # linux/rtnetlink.h, if_addr.h, ipv6_route.h
UPLINK_ADDRESS = "192.0.2.2"
UPLINK_GATEWAY = "192.0.2.1"
UPLINK_ADDRESS6 = "2001:db8::2"
UPLINK_GATEWAY6 = "2001:db8::1"

_LIBC = ctypes.CDLL(None, use_errno=True)
_SERIAL = itertools.count()

# A keeper stays in the namespace until its standard input closes. That happens at the end of the test run, even if
# it is killed; the keeper then kills all processes in the network namespace, including daemons.
_KEEP = """
trap '' HUP INT
echo ready
while read -r _; do :; done
ours=$(readlink /proc/$$/ns/net)
for process in /proc/[0-9]*; do
    [ "$(readlink "$process/ns/net")" = "$ours" ] || continue
    [ "${process#/proc/}" = $$ ] || kill -KILL "${process#/proc/}" || :
done 2>/dev/null
"""
# The kernel's defaults (devinet.c, addrconf.c): a new namespace inherits the machine's values, which distributions
# change (systemd's 50-default.conf).
_PARAMETERS = """
for link in all default lo; do
    for name in accept_local arp_accept arp_announce arp_filter arp_ignore arp_notify forwarding \\
        ignore_routes_with_linkdown log_martians promote_secondaries proxy_arp route_localnet rp_filter \\
        src_valid_mark
    do echo 0 >/proc/sys/net/ipv4/conf/$link/$name
    done
    for name in disable_ipv6 forwarding; do
        ! [ -e /proc/sys/net/ipv6 ] || echo 0 >/proc/sys/net/ipv6/conf/$link/$name
    done
done
"""
# The contents of a machine's /etc, besides the links of update-alternatives(1) and the cache of ldconfig(8).
_ETC = {
    "group": "root:x:0:\nmessagebus:x:101:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "passwd": "root:x:0:0::/root:/bin/sh\nmessagebus:x:101:101::/:/usr/sbin/nologin\n"
    "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n",
    "resolv.conf": "nameserver 192.0.2.53\n",
}
# Programs that wg-quick and wgq look for; a machine has none unless a test installs it.
HIDDEN = ("resolvconf", "resolvectl")
_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
PATH = os.pathsep.join(_FOLDERS)
WHITEOUTS = "/run/.absent"

# The new /etc is made beside the old one. A character device 0:0 hides a file of the layers below (overlayfs.rst,
# whiteouts); a folder without hidden programs stays as it is.
_KEEP_HOST = f"""
set -e
ip link set lo up
{_PARAMETERS}
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir /run/lock /run/.etc {WHITEOUTS}
mount -t tmpfs -o mode=0755 tmpfs /run/.etc
mkdir /run/.etc/alternatives
mkdir -m 0700 /run/wireguard /run/.etc/wireguard
{"".join(f"printf %s {shlex.quote(text)} >/run/.etc/{name}" + chr(10) for name, text in _ETC.items())}
cp /etc/ld.so.cache /run/.etc/
mount --bind /etc/alternatives /run/.etc/alternatives
mount --move /run/.etc /etc
for program; do
    mkdir -p {WHITEOUTS}"${{program%/*}}"
    mknod {WHITEOUTS}"$program" c 0 0
done
for program; do
    folder=${{program%/*}}
    if [ -e "$program" ] || [ -L "$program" ]; then
        mount -t overlay -o "lowerdir={WHITEOUTS}$folder:$folder" overlay "$folder"
    fi
done
{_KEEP}
"""
_KEEP_NAMESPACE = f"""
set -e
ip link set lo up
{_PARAMETERS}
{_KEEP}
ip netns delete "$1"
"""


def _present() -> list[str]:
    """The paths of hidden programs on the machine that runs the tests."""
    folders = dict.fromkeys(os.path.realpath(folder) for folder in _FOLDERS)
    paths = (f"{folder}/{name}" for folder in folders for name in HIDDEN)
    return [path for path in paths if os.path.lexists(path)]


def mortal(*command: str) -> list[str]:
    """The command, which ends with the test run even if that is killed."""
    return ["setpriv", "--pdeathsig", "KILL", "--", *command]


def mortal_family(*command: str) -> list[str]:
    """The command, which ends with the test run together with all its children: they are in a separate PID
    namespace (pid_namespaces(7))."""
    return mortal("unshare", "--pid", "--fork", "--kill-child", "--", *command)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _move_to(descriptors: Sequence[int]) -> None:
    """Move the calling thread; setns(2) to a mount namespace needs a file system context that is not shared."""
    _check(_LIBC.unshare(CLONE_FS))
    for descriptor in descriptors:
        _check(_LIBC.setns(descriptor, 0))


class Namespace:
    """A place to run programs and functions; `paths` are its namespace files, by kind ("net", "mnt").

    `keeper` is the process that holds it, or 0.
    """

    def __init__(self, name: str, paths: Mapping[str, str], keeper: int = 0) -> None:
        self.name = name
        self.paths = dict(paths)
        self._spared = {os.getpid(), keeper}
        self._started: list[subprocess.Popen[bytes]] = []
        self._identity = _identity(self.paths["net"])
        assert self._identity is not None

    def argv(self, command: Sequence[str]) -> list[str]:
        """The argument list that runs a command inside, for callers that start the process."""
        flags = {"net": "--net", "mnt": "--mount"}
        return ["nsenter", *(f"{flags[kind]}={path}" for kind, path in self.paths.items()), "--", *command]

    def run(
        self,
        command: Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; with `check`, a failure raises an AssertionError with the output."""
        done = subprocess.run(
            self.argv(command),
            check=False,
            capture_output=True,
            text=True,
            env=env,
            timeout=timeout,
            **({"stdin": subprocess.DEVNULL} if input is None else {"input": input}),
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def out(self, *command: str) -> str:
        """The standard output of a command."""
        return self.run(command).stdout

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a command inside; it ends with the namespace at the latest."""
        self._started.append(subprocess.Popen(self.argv(command), **options))
        return self._started[-1]

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in a child process inside; its result or exception is pickled."""
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            os.close(reader)
            self._answer(writer, lambda: function(*args, **kwargs))
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            data = answer.read()
        _, status = os.waitpid(child, 0)
        if not data:
            raise AssertionError(f"the call in {self.name} died with wait status {status}")
        result, error = pickle.loads(data)
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def _answer(self, writer: int, function: Callable[[], object]) -> None:
        try:
            with self.entered():
                try:
                    data = pickle.dumps((function(), None))
                except BaseException as error:
                    error.add_note(f"in the child process:\n{traceback.format_exc()}")  # pickle leaves it out
                    data = _pickled_error(error)
            with os.fdopen(writer, "wb") as answer:
                answer.write(data)
        finally:
            os._exit(0)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread inside for the duration of the block."""
        with contextlib.ExitStack() as stack:
            inside = [self._opened(stack, path) for path in self.paths.values()]
            outside = [self._opened(stack, f"/proc/thread-self/ns/{kind}") for kind in self.paths]
            directory = self._opened(stack, ".")
            try:
                _move_to(inside)
                yield
            finally:
                _move_to(outside)
                os.fchdir(directory)

    @staticmethod
    def _opened(stack: contextlib.ExitStack, path: str) -> int:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        return descriptor

    def uplink(self, *, mtu: int = 1500, ipv6: bool = False) -> None:
        """Add the link `up0` with 192.0.2.2/24 and a default route (2001:db8::2/64 likewise)."""
        lines = [
            f"link add up0 mtu {mtu} type veth peer name up1 mtu {mtu}",
            f"addr add {UPLINK_ADDRESS}/24 dev up0",
            "link set up0 up",
            "link set up1 up",
            f"route add default via {UPLINK_GATEWAY}",
        ]
        if ipv6:
            lines += [
                f"addr add {UPLINK_ADDRESS6}/64 dev up0 nodad",
                f"route add ::/0 via {UPLINK_GATEWAY6} dev up0",
            ]
        self.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n")
        self._await_carrier()

    def settle(self) -> None:
        """Wait until each global IPv6 address has its local route: addrconf_dad_work() of the kernel adds it with a
        delay, also without duplicate address detection; until then the address is tentative."""
        until(self._is_settled, f"each IPv6 address of {self.name} in use")

    def _is_settled(self) -> bool:
        with self.entered():
            addresses, routes = (
                Path(f"/proc/thread-self/net/{name}").read_text() for name in ("if_inet6", "ipv6_route")
            )
        return _has_local_routes(addresses, routes)

    def _await_carrier(self) -> None:
        """Wait for the carrier: linkwatch_event() of the kernel notices with a delay that both ends are up."""
        show = ("ip", "-o", "link", "show", "type", "veth")
        until(lambda: "NO-CARRIER" not in self.out(*show), "the uplink's carrier")

    def processes(self) -> list[int]:
        """The ids of the processes inside, without this one and the keeper."""
        found = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()} - self._spared
        return [pid for pid in sorted(found) if _identity(f"/proc/{pid}/ns/net") == self._identity]

    def process(self) -> int:
        """The id of the only process inside, such as a daemon; waits for it on a busy machine."""
        found: list[int] = []

        def is_alone() -> bool:
            found[:] = self.processes()
            return len(found) == 1

        until(is_alone, f"one process in {self.name}")
        return found[0]

    def end_processes(self) -> None:
        """End the processes inside by TERM, and after two seconds by KILL."""
        for process in self._started:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
            process.kill()
            process.wait()
        for sent, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 60.0)):
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)
            if self._ended(time.monotonic() + patience):
                return
        raise AssertionError(f"processes {self.processes()} in {self.name} outlive SIGKILL")

    def _ended(self, deadline: float) -> bool:
        while any(_alive(pid) for pid in self.processes()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True


def _has_local_routes(addresses: str, routes: str) -> bool:
    """Whether no global address in /proc/net/if_inet6 is tentative or lacks its route in /proc/net/ipv6_route."""
    lines = [line.split() for line in routes.splitlines()]
    local = {(line[0], line[-1]) for line in lines if int(line[-2], 16) & RTF_LOCAL}
    given = [line.split() for line in addresses.splitlines()]
    return all(
        (address, link) in local and not int(flags, 16) & IFA_F_TENTATIVE
        for address, _, _, scope, flags, link in given
        if int(scope, 16) == RT_SCOPE_UNIVERSE
    )


def _pickled_error(error: BaseException) -> bytes:
    """The exception if it can be pickled and read back, else its text."""
    try:
        data = pickle.dumps((None, error))
        pickle.loads(data)
    except Exception:
        return pickle.dumps((None, AssertionError(f"{type(error).__name__}: {error}")))
    return data


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _unique() -> str:
    return f"wgqt-{os.getpid()}-{next(_SERIAL)}"


@contextlib.contextmanager
def _kept(command: Sequence[str], paths: Mapping[str, str], name: str) -> Iterator[Namespace]:
    """A namespace with the command as its keeper; {keeper} in the paths is the keeper's process id."""
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    with keeper.stdin, keeper.stdout:
        try:
            if keeper.stdout.readline() != b"ready\n":
                raise AssertionError("the namespace could not be made; see the output above")
            where = {kind: path.format(keeper=keeper.pid) for kind, path in paths.items()}
            inside = Namespace(name, where, keeper.pid)
            try:
                yield inside
            finally:
                inside.end_processes()
        finally:
            keeper.kill()
            keeper.wait()


@contextlib.contextmanager
def before_other_work() -> Iterator[None]:
    """Run with a high priority, and everything that starts meanwhile."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -15)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """A network namespace by `ip netns`, with its loopback up."""
    name = _unique()
    path = f"/run/netns/{name}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        keeper = ["nsenter", f"--net={path}", "sh", "-c", _KEEP_NAMESPACE, "sh", name]
        with _kept(keeper, {"net": path}, name) as inside:
            yield inside
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextlib.contextmanager
def host() -> Iterator[Namespace]:
    """A machine with its own network and /sys, an empty /run, a fixed /etc, and no resolvconf."""
    keeper = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _KEEP_HOST, "sh", *_present()]
    paths = {kind: f"/proc/{{keeper}}/ns/{kind}" for kind in ("net", "mnt")}
    with _kept(keeper, paths, _unique()) as machine:
        yield machine
