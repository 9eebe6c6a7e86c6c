"""Start and end of userspace implementations, both real and failing ones."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import Namespace, host
from tests.netns.tunnels import WGQ, config, write
from tests.signals import terminate
from tests.waiting import stop, until
from wgquick.errors import OperationError
from wgquick.system.netlink import RtNetlink
from wgquick.system.userspace import Candidate, Userspace, candidates
from wgquick.system.wireguard import Control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with host() as inside, inside.entered():
        yield inside


def script(directory: Path, body: str) -> str:
    path = directory / "implementation"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def refused(function: Callable[[], object]) -> OperationError:
    with pytest.raises(OperationError) as caught:
        function()
    return caught.value


def descriptors(process: int) -> dict[str, str]:
    """The open descriptors of a process with their files."""
    found: dict[str, str] = {}
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[entry.name] = str(entry.readlink())
    return found


def test_link_and_socket_exist_after_start(machine: Namespace) -> None:
    Userspace().start("wireguard-go", "wg0")
    link = RtNetlink().link("wg0")
    assert link is not None
    assert link.kind == "tun"
    assert Control().get("wg0").peers == ()


def test_the_daemon_has_its_own_session_and_descriptors(machine: Namespace) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    leak = fcntl.fcntl(null, fcntl.F_DUPFD, 99)  # inheritable; the daemon itself does not use such a high number
    try:
        Userspace().start("wireguard-go", "wg0")
        daemon = machine.process()
        assert os.getsid(daemon) != os.getsid(0)
        assert os.getpgid(daemon) != os.getpgid(0)
        opened = descriptors(daemon)
        assert str(leak) not in opened
        assert [opened.get(number) for number in "012"] == ["/dev/null"] * 3
    finally:
        os.close(null)
        os.close(leak)


def test_the_daemon_accepts_signals_that_the_caller_ignores(machine: Namespace) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    try:
        Userspace().start("wireguard-go", "wg0")
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    daemon = machine.process()
    await_signals(daemon, blocked=signal.SIGTERM, ignored=signal.SIGHUP)


def await_signals(process: int, *, blocked: signal.Signals, ignored: signal.Signals) -> None:
    """Wait until the process neither blocks the one nor ignores the other; Go blocks all while it forks."""

    def accepts() -> bool:
        return not (mask(process, "SigBlk") & 1 << blocked - 1 or mask(process, "SigIgn") & 1 << ignored - 1)

    until(accepts, f"process {process} accepts signals")


def mask(process: int, field: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith(f"{field}:"))


def test_down_then_up_at_once_works(machine: Namespace) -> None:
    userspace = Userspace()
    for _ in range(10):
        userspace.start("wireguard-go", "wg0")
        RtNetlink().delete_link("wg0")
        userspace.await_exit("wg0")
    assert not list(Path("/run/wireguard").iterdir())


def test_up_waits_for_the_daemon_of_a_deleted_link(machine: Namespace) -> None:
    """A process on a busy machine may stand still for a while."""
    write(machine, config())
    machine.run([*WGQ, "up", "wg0"])
    old = machine.process()
    stop(old)
    machine.run(["ip", "link", "delete", "wg0"])
    resume = threading.Timer(1, os.kill, (old, signal.SIGCONT))
    resume.start()
    machine.run([*WGQ, "up", "wg0"])
    resume.join()
    assert machine.process() != old
    machine.run([*WGQ, "down", "wg0"])


def test_without_a_daemon_there_is_nothing_to_wait_for(machine: Namespace) -> None:
    start = time.monotonic()
    Userspace(patience=200).await_exit("wg0")
    assert time.monotonic() - start < 60


def test_waiting_for_a_daemon_has_a_limit(machine: Namespace) -> None:
    Userspace().start("wireguard-go", "wg0")
    start = time.monotonic()
    Userspace(patience=0.2).await_exit("wg0")
    assert 0.2 <= time.monotonic() - start < 60


def test_a_failing_program_is_quoted_with_its_status(machine: Namespace, tmp_path: Path) -> None:
    program = script(tmp_path, "echo '┌──┐' >&2; echo '│ advice │' >&2; echo no such luck >&2; exit 3")
    error = refused(lambda: Userspace().start(program, "wg0"))
    assert str(error) == f"{program} could not bring up wg0: it exited with status 3: no such luck"


def test_without_a_tun_device_the_container_option_is_named(machine: Namespace) -> None:
    machine.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/net"])
    assert "docker run --device /dev/net/tun" in refused(lambda: Userspace().start("wireguard-go", "wg0")).remedy


def test_a_daemon_that_ends_after_its_start_is_an_error(machine: Namespace) -> None:
    """wireguard-go's first process succeeds, and the second one ends: here it gets no inotify instance."""
    write(machine, config())
    limit = "echo 0 >/proc/sys/user/max_inotify_instances"
    command = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", f'{limit}; exec "$@"', "sh", *WGQ]
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    up = machine.run([*command, "up", "wg0"], check=False, env=environment)
    assert up.returncode == 1
    assert "wireguard-go could not bring up wg0: it ended after its start\n" in up.stderr
    assert "raise fs.inotify.max_user_instances" in up.stderr
    assert os.listdir("/run/wireguard") == []


@pytest.mark.parametrize("directory", ["there", "missing"])
def test_the_error_without_a_socket_directory_names_it(machine: Namespace, directory: str) -> None:
    if directory == "missing":
        machine.run(["rmdir", "/run/wireguard"])
    machine.run(["chmod", "0666", "/dev/net/tun"])
    code = (
        "from wgquick.system.userspace import Userspace\n"
        "try: Userspace().start('/bin/false', 'wg0')\n"
        "except Exception as error: print(error.remedy)"
    )
    user = [
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
    ]
    remedy = machine.out(*user, "--", sys.executable, "-c", code)
    place = "/var/run/wireguard" if directory == "there" else "/var/run"
    assert remedy.startswith(f"This user cannot write to {place}: create /var/run/wireguard")


def test_a_program_killed_by_a_signal_is_an_error(machine: Namespace, tmp_path: Path) -> None:
    program = script(tmp_path, "kill -SEGV $$")
    assert "signal 11 ended it" in str(refused(lambda: Userspace().start(program, "wg0")))


@pytest.mark.parametrize("program", ["no-such-implementation", "/nonexistent/implementation"])
def test_a_missing_program_is_an_error(machine: Namespace, program: str) -> None:
    error = refused(lambda: Userspace().start(program, "wg0"))
    assert error.errno == errno.ENOENT
    assert program in str(error)


def test_a_program_that_creates_no_device_is_an_error(machine: Namespace, tmp_path: Path) -> None:
    program = script(tmp_path, "exit 0")
    error = refused(lambda: Userspace(patience=0.2).start(program, "wg0"))
    assert error.errno == errno.ETIMEDOUT
    assert "its control socket does not answer" in str(error)


def test_a_program_that_hangs_is_ended_with_its_children(machine: Namespace, tmp_path: Path) -> None:
    program = script(tmp_path, "sleep 600 & sleep 600")
    error = refused(lambda: Userspace(patience=0.2).start(program, "wg0"))
    assert "it does not return" in str(error)
    await_no_processes(machine)


def await_no_processes(machine: Namespace) -> None:
    """Wait until no process is left: a process that got a signal still has to run once to end."""
    until(lambda: machine.processes() == [], "the end of the processes")


def test_an_interrupted_start_leaves_nothing_behind(machine: Namespace, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    program = script(tmp_path, f"sleep 600 & {terminate()}; wait")
    try:
        with pytest.raises(KeyboardInterrupt):
            Userspace(patience=200).start(program, "wg0")
    finally:
        signal.signal(signal.SIGTERM, before)
    await_no_processes(machine)


def test_a_second_daemon_with_the_same_name_is_refused(machine: Namespace) -> None:
    Userspace().start("wireguard-go", "wg0")
    error = refused(lambda: Userspace().start("wireguard-go", "wg0"))
    assert "status 1" in str(error)
    assert Control().interfaces() == ["wg0"]


def nowhere(_: str) -> str | None:
    return None


def everywhere(name: str) -> str | None:
    return f"/usr/bin/{name}"


def test_the_program_in_the_environment_is_the_only_candidate() -> None:
    environ = {"WG_QUICK_USERSPACE_IMPLEMENTATION": "my wireguard"}
    expected = [Candidate("my wireguard", "set by WG_QUICK_USERSPACE_IMPLEMENTATION")]
    assert candidates(environ, everywhere) == candidates(environ, nowhere) == expected


def test_the_bundled_program_comes_before_wireguard_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "pytest")])
    assert candidates({}, nowhere) == []
    assert candidates({"WG_QUICK_USERSPACE_IMPLEMENTATION": ""}, nowhere) == []
    on_path = ["wgq-userspace", "wireguard-go"]
    assert [candidate.program for candidate in candidates({}, everywhere)] == on_path
    (tmp_path / "wgq-userspace").touch(mode=0o755)
    bundled = str(tmp_path / "wgq-userspace")
    assert [candidate.program for candidate in candidates({}, everywhere)] == [bundled, *on_path]
    assert candidates({}, nowhere) == [Candidate(bundled, "bundled with wgq")]


def test_the_first_candidate_is_chosen() -> None:
    assert Userspace({"WG_QUICK_USERSPACE_IMPLEMENTATION": "boringtun-cli"}).choose() == (
        "boringtun-cli",
        "set by WG_QUICK_USERSPACE_IMPLEMENTATION",
    )
    assert Userspace({}).choose() is not None


def test_a_killed_daemons_socket_is_removed(machine: Namespace) -> None:
    Userspace().start("wireguard-go", "wg0")
    daemon = machine.process()
    os.kill(daemon, signal.SIGKILL)
    Userspace().await_exit("wg0")
    assert not list(Path("/run/wireguard").iterdir())


HANGING = """
import socket, sys, time
owner = socket.socket(socket.AF_UNIX)
owner.bind("/run/wireguard/wg0.sock")
owner.listen(1)
waiting = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[1]))]
for each in waiting:
    each.connect("/run/wireguard/wg0.sock")
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("queued", "why"), [("0", "serves this interface"), ("2", "accepts no connections")])
def test_a_hung_process_with_the_socket_is_reported_in_time(machine: Namespace, queued: str, why: str) -> None:
    owner = machine.popen([sys.executable, "-c", HANGING, queued], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    assert owner.stdout.readline() == b"ready\n"
    refusal = refused(lambda: Userspace().start("wgq-userspace", "wg0"))
    assert why in refusal.what  # and not that it does not return
    assert Path("/run/wireguard/wg0.sock").is_socket()
    assert RtNetlink().link("wg0") is None
    owner.stdout.close()
