"""How our daemon starts and ends, and what it is allowed to do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.interop.daemons import CAP_NET_ADMIN, SECCOMP_FILTER, answers
from tests.interop.pairs import GO, LINK, SOCKET, WGQ, End, join, machines, private_key, status, threads
from tests.interop.traffic import bulk
from tests.namespaces import host
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with host() as made:
        yield made


def start(machine: Namespace, *arguments: str, name: str = LINK) -> int:
    """Start the daemon in the background, as wg-quick does. Returns its process id."""
    before = set(machine.processes())
    machine.run([WGQ, *arguments, name])
    (daemon,) = set(machine.processes()) - before
    return daemon


def refused(machine: Namespace, *arguments: str) -> str:
    """The error message of a start that fails."""
    done = machine.run([WGQ, *arguments], check=False)
    assert done.returncode != 0
    return done.stderr


def links(machine: Namespace) -> list[str]:
    return machine.out("ls", "/sys/class/net").split()


def has_socket(machine: Namespace, name: str = LINK) -> bool:
    return machine.run(["test", "-e", f"/run/wireguard/{name}.sock"], check=False).returncode == 0


def ended(pid: int) -> bool:
    """Whether a background daemon has ended; init may not have reaped it yet."""
    try:
        return status(pid)["State"].startswith("Z") and len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
    except (FileNotFoundError, ProcessLookupError):  # the latter if it is reaped between open(2) and read(2)
        return True


def test_the_start_returns_when_link_and_socket_exist(machine: Namespace) -> None:
    for number in range(20):
        machine.run(["sh", "-ec", f"{WGQ} wg{number}; wg show wg{number}; ip link show wg{number}"])
    assert len(machine.out("wg", "show", "interfaces").split()) == 20


def test_only_the_owner_may_use_the_socket(machine: Namespace) -> None:
    machine.run(["rmdir", "/run/wireguard"])
    machine.run(["sh", "-c", f"umask 0; {WGQ} {LINK}"])
    assert machine.out("stat", "-c", "%F %a %u", SOCKET).split() == ["socket", "600", "0"]
    assert machine.out("stat", "-c", "%a %u", "/run/wireguard").split() == ["700", "0"]


def test_a_background_daemon_has_its_own_session(machine: Namespace) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output:
        machine.popen([WGQ, LINK], stdin=writer, stdout=writer, stderr=writer).wait(30)
        os.close(writer)
        assert output.read() == b""  # end of file: the daemon has closed the other end
    daemon = machine.process()
    assert os.getsid(daemon) == daemon
    assert Path(f"/proc/{daemon}/cwd").readlink() == Path("/")


def test_a_signal_to_the_callers_group_spares_the_daemon(machine: Namespace) -> None:
    shell = machine.popen(["sh", "-c", f"{WGQ} {LINK}; touch /run/started; sleep 60"], start_new_session=True)
    until(lambda: machine.run(["test", "-e", "/run/started"], check=False).returncode == 0, "started")
    os.killpg(shell.pid, signal.SIGTERM)
    shell.wait(30)
    machine.run(["wg", "show", LINK])


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_and_removes_link_and_socket(machine: Namespace, sent: signal.Signals) -> None:
    daemon = start(machine)
    os.kill(daemon, sent)
    until(lambda: ended(daemon), "ended")
    assert not has_socket(machine)
    assert LINK not in links(machine)


def test_a_foreground_daemon_exits_with_0_on_sigterm(machine: Namespace) -> None:
    daemon = machine.popen([WGQ, "-f", LINK], stderr=subprocess.DEVNULL)
    until(lambda: answers(machine), "started")
    assert daemon.poll() is None
    daemon.terminate()
    assert daemon.wait(30) == 0


@pytest.mark.parametrize("state", ["up", "down"])
def test_deleting_the_link_ends_the_daemon(machine: Namespace, state: str) -> None:
    daemon = start(machine)
    machine.run(["ip", "link", "set", LINK, state])
    machine.run(["ip", "link", "delete", LINK])
    until(lambda: ended(daemon), "ended")
    assert not has_socket(machine)


def test_removing_the_socket_ends_the_daemon(machine: Namespace) -> None:
    daemon = start(machine)
    machine.run(["rm", SOCKET])
    until(lambda: ended(daemon), "ended")
    assert LINK not in links(machine)


def test_a_link_moved_to_another_namespace_works_and_ends_there(machine: Namespace) -> None:
    with machines(WGQ, GO) as (left, right), host() as elsewhere:
        join(left, right)
        right.start()
        right.configure(left.peer())
        daemon = start(left.machine)
        left.ip(f"link set {LINK} netns {elsewhere.paths['net']}")
        left.wg("setconf", LINK, "/dev/stdin", input=left.interface() + right.peer(version=4))
        inside = End(elsewhere, 1, WGQ)
        inside.addresses()
        inside.ping(right)
        inside.daemon = right.daemon
        bulk(inside, right, 1 << 20)
        bulk(right, inside, 1 << 20)
        inside.ip(f"link set {LINK} mtu 1300")

        def sealed() -> int:
            # The bytes of a packet of 1300 bytes: padding to a multiple of sixteen would exceed the MTU.
            before = left.transfer(right)[1]
            inside.ping(right, "-s", str(1300 - 28))
            return left.transfer(right)[1] - before

        until(lambda: sealed() == 1300 + 32, "the new MTU followed")

        def listens() -> bool:
            return f":{left.port} " in left.machine.out("ss", "-uln")

        assert listens()
        inside.ip(f"link set {LINK} down")
        until(lambda: not listens(), "the port given up with the link down")
        inside.ip(f"link set {LINK} up")
        until(listens, "the port bound again")
        inside.ping(right)
        inside.ip(f"link delete {LINK}")
        until(lambda: ended(daemon), "ended")
        assert not has_socket(left.machine)


def test_the_socket_of_a_killed_daemon_is_replaced(machine: Namespace) -> None:
    daemon = start(machine)
    os.kill(daemon, signal.SIGKILL)
    until(lambda: ended(daemon), "ended")
    assert has_socket(machine)
    start(machine)
    machine.run(["wg", "set", LINK, "listen-port", "5"])


def test_a_second_daemon_for_the_same_link_is_refused(machine: Namespace) -> None:
    start(machine)
    machine.run(["wg", "set", LINK, "listen-port", "51820"])
    for options in ([], ["-f"]):
        error = refused(machine, *options, LINK)
        assert LINK in error
        assert "in use" in error or "serves" in error
    assert machine.out("wg", "show", LINK, "listen-port") == "51820\n"
    assert LINK in links(machine)


def test_a_failed_start_says_why_and_leaves_nothing(machine: Namespace) -> None:
    machine.run(["ip", "link", "add", "taken", "type", "veth", "peer", "name", "other"])
    before = links(machine)
    for arguments in ([], ["a/b"], ["sixteen-letters-"], ["--nonsense", LINK], ["taken"], ["wg0", "wg1"]):
        error = refused(machine, *arguments)
        assert error.startswith("wgq-userspace: ")
        assert len(error.splitlines()) == 1
    assert links(machine) == before
    assert machine.out("ls", "/run/wireguard") == ""


def test_the_daemon_starts_without_a_free_inotify_instance(machine: Namespace) -> None:
    # A process without free descriptors forks: the child closes its copies and goes on creating instances.
    exhaust = (
        "import ctypes, os, subprocess, sys\n"
        "while True:\n"
        "    while (last := ctypes.CDLL(None).inotify_init1(0)) >= 0: newest = last\n"
        "    try: os.close(os.dup(0))\n"
        "    except OSError:\n"
        "        if os.fork(): sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
        "        os.closerange(3, newest + 1)\n"
        "    else: break\n"
        "subprocess.run(sys.argv[1:], check=True)"
    )
    # The limit counts the instances of a user (inotify(7)): this user id has no other processes.
    *user, program = as_user(machine, 65531)
    machine.run([*user, sys.executable, "-c", exhaust, program, LINK])
    machine.run(["wg", "show", LINK])


def test_a_start_without_cap_net_admin_names_it(machine: Namespace) -> None:
    bare = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-all", WGQ, LINK]
    done = machine.run(bare, check=False)
    assert done.returncode != 0
    assert "CAP_NET_ADMIN" in done.stderr
    assert not has_socket(machine)


def test_a_plain_user_with_the_ambient_capability_can_run_it() -> None:
    with machines(WGQ, GO) as (left, right):
        join(left, right)
        right.start()
        right.configure(left.peer())
        left.machine.run([*as_user(left.machine, 65534), LINK])
        left.configure(right.peer(version=4))
        left.wg("set", LINK, "fwmark", "7")
        left.ping(right)


def as_user(machine: Namespace, user: int) -> list[str]:
    """The daemon's command for a user other than root, with the capability and write access to the directory."""
    program = "/run/wireguard/.daemon"
    machine.run(["sh", "-c", f'install -m 755 "$(command -v {WGQ})" {program} && chown {user} /run/wireguard'])
    capability = ["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"]
    return ["setpriv", "--reuid", str(user), "--clear-groups", *capability, program]


@pytest.mark.parametrize("user", [0, 65534])
def test_a_daemon_that_is_up_keeps_one_capability(user: int) -> None:
    with machines(WGQ, GO) as (left, right):
        join(left, right)
        right.start()
        right.configure(left.peer())
        left.machine.run([*as_user(left.machine, user), LINK])
        daemon = left.machine.process()
        left.configure(right.peer(version=4))
        left.ping(right)
        # Until the sockets are bound, one more thread may bind to ports below 1024.
        until(lambda: len(threads(daemon)) == 3, "only the threads that work")
        for thread in threads(daemon):
            for kind in ("CapEff", "CapPrm"):
                assert int(thread[kind], 16) == CAP_NET_ADMIN, thread["Name"]
            assert int(thread["CapInh"], 16) == int(thread["CapAmb"], 16) == 0
            assert user or int(thread["CapBnd"], 16) == CAP_NET_ADMIN
            assert (thread["NoNewPrivs"], thread["Seccomp"]) == ("1", SECCOMP_FILTER), thread["Name"]
        limits = Path(f"/proc/{daemon}/limits").read_text()
        assert re.search(r"Max core file size +0 +0 ", limits)
        # The files in /proc of a process that may be dumped belong to its user.
        assert Path(f"/proc/{daemon}/environ").stat().st_uid == 0


@pytest.mark.parametrize("user", [0, 65534])
@pytest.mark.parametrize("limit", ["8388608", "262144"])
def test_memory_is_locked_as_far_as_the_limit_allows(machine: Namespace, user: int, limit: str) -> None:
    end = End(machine, 1, WGQ)
    bound = ["prlimit", f"--memlock={limit}", "setpriv", "--bounding-set", "-sys_resource,-ipc_lock"]
    machine.run([*bound, *as_user(machine, user), LINK])
    daemon = machine.process()

    def locked() -> int:
        return int(status(daemon)["VmLck"].split()[0]) * 1024

    before = locked()
    assert before > 0
    peers = "".join(f"public_key={os.urandom(32).hex()}\npreshared_key={os.urandom(32).hex()}\n" for _ in range(50))
    assert end.request(f"set=1\n{peers}\n") == "errno=0\n\n"
    until(lambda: before <= locked() <= int(limit), "locked within the limit")
    heap = re.findall(r"\[heap\].*?^Locked: +(\d+) kB", smaps(daemon), re.DOTALL | re.MULTILINE)
    assert heap[0] != "0"
    many = "".join(f"public_key={os.urandom(32).hex()}\n" for _ in range(20_000))
    assert end.request(f"set=1\n{many}\n") == "errno=0\n\n"
    assert locked() <= int(limit)


def smaps(pid: int) -> str:
    return Path(f"/proc/{pid}/smaps").read_text()


def test_a_daemon_without_privileges_can_be_configured() -> None:
    with machines(WGQ, GO) as (left, right):
        join(left, right)
        for end in (left, right):
            end.start()
        right.configure(left.peer())
        interface = left.interface().replace(str(left.port), "53")
        left.wg("setconf", LINK, "/dev/stdin", input=interface + right.peer(version=4))
        left.addresses()
        left.ping(right)
        left.wg("set", LINK, "fwmark", "9")
        # The daemon keeps the port while the link is down, and drops what arrives then.
        for _ in range(2):
            left.ip(f"link set {LINK} down")
            assert not right.try_ping(left)
            left.ip(f"link set {LINK} up")
            left.ping(right)
            assert right.known_endpoint(left) == f"{left.outer()}:53"
        bulk(left, right, 1 << 20)
        left.wg("set", LINK, "listen-port", "5353")
        left.ping(right)
        assert right.known_endpoint(left) == f"{left.outer()}:5353"
        # The privilege is gone after the first binding.
        refusal = left.machine.run(["wg", "set", LINK, "listen-port", "53"], check=False)
        assert "Permission denied" in refusal.stderr
        left.ping(right)


@pytest.mark.parametrize(("level", "lines"), [("silent", 0), ("error", 1), ("verbose", 1)])
def test_kernel_features_are_logged_once_at_the_start(machine: Namespace, level: str, lines: int) -> None:
    environment = {**os.environ, "LOG_LEVEL": level}
    daemon = machine.popen([WGQ, "-f", LINK], stderr=subprocess.PIPE, env=environment)
    until(lambda: answers(machine), "started")
    machine.run(["ip", "link", "set", LINK, "up"])
    machine.run(["ip", "link", "set", LINK, "down"])
    machine.run(["ip", "link", "set", LINK, "up"])
    features: list[str] = []

    def is_up() -> bool:
        # Read once: the daemon may still follow the first two changes.
        features[:] = machine.out(WGQ, "--features", LINK).splitlines()
        return not any(line.endswith("while the link is down") for line in features)

    until(is_up, "the link up")
    daemon.terminate()
    logged = daemon.communicate(timeout=30)[1].decode().splitlines()
    assert sum("; ".join(features) in line for line in logged) == lines, logged


def test_a_background_start_prints_nothing(machine: Namespace) -> None:
    assert machine.run([WGQ, LINK]).stderr == ""


def test_no_key_is_ever_logged(machine: Namespace) -> None:
    private, preshared, peer = private_key(), private_key(), private_key()
    daemon = machine.popen(["sh", "-c", f"exec {WGQ} -f -v {LINK} 2>/run/daemon.log"])
    until(lambda: answers(machine), "started")
    machine.run(["ip", "link", "set", LINK, "up"])
    config = f"[Interface]\nPrivateKey={private}\n[Peer]\nPublicKey={peer}\nPresharedKey={preshared}\n"
    config += "AllowedIPs=10.0.0.0/8\nEndpoint=127.0.0.1:1\nPersistentKeepalive=1\n"
    machine.run(["wg", "setconf", LINK, "/dev/stdin"], input=config)
    until(lambda: "handshake initiation" in machine.out("cat", "/run/daemon.log"), "an initiation sent")
    daemon.terminate()
    daemon.wait(30)
    logged = machine.out("cat", "/run/daemon.log")
    assert private not in logged
    assert preshared not in logged


@pytest.mark.parametrize("allowed", ["0.0.0.0/0, ::/0", "10.66.0.2/32"])
def test_stock_wg_quick_brings_it_up_and_down(allowed: str) -> None:
    with machines(WGQ, GO) as (left, right):
        join(left, right)
        right.start()
        right.configure(left.peer())
        peer = right.peer(version=4).replace(f"{right.inner(4)}/32, {right.inner(6)}/128", allowed)
        config = left.interface() + f"Address = {left.inner()}/24\n" + peer
        left.machine.run(["sh", "-c", f"umask 077; cat > /etc/wireguard/{LINK}.conf"], input=config)
        before = links(left.machine)
        environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": WGQ}
        for _ in range(2):
            up = left.machine.run(["wg-quick", "up", LINK], env=environment)
            assert f"[#] {WGQ} {LINK}" in up.stderr
            left.ping(right)
            daemon = left.machine.process()
            left.machine.run(["wg-quick", "down", LINK], env=environment)
            until(lambda pid=daemon: ended(pid), "ended")  # type: ignore[misc]
            assert links(left.machine) == before
            assert not has_socket(left.machine)
