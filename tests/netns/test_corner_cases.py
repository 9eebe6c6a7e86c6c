"""`wgq` in difficult conditions: another run, a broken output, a dead daemon, a damaged journal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest

import wgquick
from tests.netns.tunnels import (
    FULL,
    KEY,
    PEERS,
    WGQ,
    config,
    journals,
    links,
    programs,
    rules,
    src_valid_mark,
    wgq,
    with_resolvconf,
    write,
)
from tests.waiting import stopped, until

if TYPE_CHECKING:
    from tests.namespaces import Namespace

CONFIG = Path("/etc/wireguard/wg0.conf")
HOOK_OUTPUT = Path("/run/output")


def shell(machine: Namespace, script: str, *, status: int = 0) -> str:
    """The standard error of a shell script that calls `wgq`."""
    command = "wgq() { " + " ".join(f"'{word}'" for word in WGQ) + ' "$@"; }; ' + script
    done = machine.run(["bash", "-c", command], check=False, env=dict(os.environ))
    assert done.returncode == status, done.stderr
    return done.stderr


def state(machine: Namespace) -> tuple[object, ...]:
    """Everything that a full tunnel with DNS could leave behind."""
    return (
        links(machine),
        rules(machine),
        src_valid_mark(machine),
        journals(machine),
        machine.out("nft", "list", "tables"),
        machine.out("ls", "-A", "/run/wireguard"),
        machine.out("cat", "/etc/resolv.conf"),
    )


def journal_path(machine: Namespace) -> str:
    return journals(machine).strip()


# Other runs


def test_of_two_ups_at_once_one_wins_and_the_other_fails(machine: Namespace) -> None:
    before = state(machine)
    write(machine, config("PreUp = sleep 1", FULL))
    runs = [machine.popen([*WGQ, "up", "wg0"], env=dict(os.environ), stderr=subprocess.PIPE) for _ in range(3)]
    results = sorted((run.communicate(timeout=60)[1].decode(), run.returncode) for run in runs)
    assert sorted(status for _, status in results) == [0, 1, 1]
    assert sum("`wg0' already exists" in text for text, _ in results) == 2
    assert "wg-quick-wg0" in machine.out("nft", "list", "tables")
    wgq(machine, "down", "wg0")
    assert state(machine) == before


def test_down_during_up_waits_and_removes_everything(machine: Namespace) -> None:
    before = state(machine)
    write(machine, config("PreUp = touch /run/reached; until [ -e /run/go ]; do sleep 0.02; done", FULL))
    up = machine.popen([*WGQ, "up", "wg0"], env=dict(os.environ), stderr=subprocess.DEVNULL)
    until(lambda: "reached" in machine.out("ls", "/run").split(), "the hook runs")
    down = machine.popen([*WGQ, "down", "wg0"], env=dict(os.environ), stderr=subprocess.PIPE)
    assert down.stderr is not None
    assert b"Waiting for another wgq" in down.stderr.readline()
    assert up.poll() is None
    machine.run(["touch", "/run/go"])
    transcript = down.communicate(timeout=60)[1]
    assert (up.wait(60), down.returncode) == (0, 0), transcript
    assert state(machine) == before


def test_a_hook_may_bring_another_tunnel_up_and_down(machine: Namespace) -> None:
    before = state(machine)
    command = f"'{WGQ[0]}' -m wgquick"
    write(machine, config(f"PostUp = {command} up wg1\nPreDown = {command} down wg1", FULL))
    write(machine, config(peer=FULL, address="10.1.0.1/24", n=1), "wg1")
    wgq(machine, "up", "wg0")
    assert {"wg0", "wg1"} <= set(links(machine))
    wgq(machine, "down", "wg0")
    assert state(machine) == before


def test_a_hook_may_call_wgq_for_its_own_interface(machine: Namespace) -> None:
    before = state(machine)
    write(machine, config(f"PostUp = '{WGQ[0]}' -m wgquick down wg0"))
    assert "another wgq process is working on wg0" in wgq(machine, "up", "wg0", status=1).stderr
    assert state(machine) == before


# Output that cannot be written


@pytest.mark.parametrize("output", ["2>/dev/full", "2>&-", "0<&- 1>&- 2>&-", "2> >(true)", "2> >(head -n 1)"])
def test_up_and_down_work_if_the_transcript_cannot_be_written(machine: Namespace, output: str) -> None:
    before = state(machine)
    write(machine, config("PostUp = echo text >&2; echo text\nPreDown = true", FULL))
    errors = shell(machine, f"wgq up wg0 {output}; up=$?; wgq down wg0 {output} || exit; exit $up", status=0)
    assert "Traceback" not in errors
    assert state(machine) == before


def test_an_exception_in_the_transcript_callback_rolls_up_back(machine: Namespace) -> None:
    before = state(machine)
    machine.call(up_with_a_failing_transcript)
    assert state(machine) == before


def up_with_a_failing_transcript() -> None:
    def fail(text: str) -> None:
        if "rule" in text:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        wgquick.up(wgquick.parse(config(peer=FULL)), transcript=fail)


def test_strip_to_a_full_disk_is_an_error_of_one_line(machine: Namespace) -> None:
    write(machine, config())
    error = shell(machine, "wgq strip wg0 >/dev/full", status=1)
    assert error == "wgq: No space left on device\n"


# Daemons


def test_down_after_the_daemon_was_killed_leaves_no_socket(machine: Namespace) -> None:
    before = state(machine)
    write(machine, config(peer=FULL))
    wgq(machine, "up", "wg0")
    os.kill(machine.process(), signal.SIGKILL)
    until(lambda: "wg0" not in links(machine), "the end of the link")
    wgq(machine, "down", "wg0")
    assert state(machine) == before


def test_a_failed_up_leaves_no_socket_of_a_killed_daemon(machine: Namespace) -> None:
    before = state(machine)
    write(machine, config("PostUp = touch /run/reached; until [ -e /run/killed ]; do sleep 0.05; done; exit 3"))
    up = machine.popen([*WGQ, "up", "wg0"], env=dict(os.environ), stderr=subprocess.DEVNULL)
    until(lambda: "reached" in machine.out("ls", "/run").split(), "the hook runs")
    (killed,) = programs(machine, "wgq-userspace")
    os.kill(killed, signal.SIGKILL)
    until(lambda: "wg0" not in links(machine), "the end of the link")
    machine.run(["touch", "/run/killed"])
    assert up.wait(60) == 3
    assert state(machine) == before


def test_down_ends_if_a_daemon_hangs_and_reports_it(machine: Namespace) -> None:
    write(machine, config(peer=FULL))
    before = rules(machine)
    wgq(machine, "up", "wg0")
    with stopped(machine.process()):
        transcript = wgq(machine, "down", "wg0").stderr
        assert "/wireguard/wg0.sock: kill it" in transcript
        assert "wg0" not in links(machine)
        assert rules(machine) == before


def test_a_signal_interrupts_a_slow_name_lookup_at_once(machine: Namespace) -> None:
    patient = "nameserver 127.0.0.9\noptions timeout:30 attempts:5\n"
    machine.run(["sh", "-c", "cat >/etc/resolv.conf"], input=patient)
    before = state(machine)
    write(machine, config(peer=FULL).replace("192.0.2.9", "slow.example"))
    with machine.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        server.bind(("127.0.0.9", 53))
        server.settimeout(60)
        up = machine.popen([*WGQ, "up", "wg0"], env=dict(os.environ), stderr=subprocess.DEVNULL)
        assert b"\4slow\7example" in server.recv(4096)
        up.terminate()
        assert up.wait(60) == 128 + signal.SIGTERM  # the resolver alone would take minutes
    assert state(machine) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_rollback_of_up_does_not_stop_it(machine: Namespace, number: signal.Signals) -> None:
    wait = "until [ -e /run/go ]; do sleep 0.02; done"
    script = f"[ $1 = -a ] || {{ echo >>/run/reached; {wait}; echo gone >>/run/record; }}"
    path = with_resolvconf(machine, script)
    before = state(machine)
    write(machine, config("DNS = 10.0.0.53\nPostUp = exit 9", FULL))
    wgq_with_signals = ["env", "--default-signal=INT,TERM,HUP", *WGQ]
    environment = {**os.environ, "PATH": path}
    up = machine.popen([*wgq_with_signals, "up", "wg0"], env=environment, stderr=subprocess.PIPE)
    until(lambda: "reached" in machine.out("ls", "/run").split(), "the hook runs")
    up.send_signal(number)
    until(lambda: machine.out("cat", "/run/reached") == "\n\n", "the undo begins again")
    machine.run(["touch", "/run/go"])
    transcript = up.communicate(timeout=60)[1].decode()
    assert up.returncode == 9, transcript
    assert machine.out("cat", "/run/record") == "gone\n"
    assert state(machine) == before


# Links


def test_a_renamed_tunnel_is_taken_down_by_its_original_name(machine: Namespace) -> None:
    before = state(machine)
    write(machine, config(peer=FULL))
    wgq(machine, "up", "wg0")
    machine.run(["ip", "link", "set", "wg0", "down"])
    machine.run(["ip", "link", "set", "wg0", "name", "other"])
    assert "renamed to other" in wgq(machine, "up", "wg0", status=1).stderr
    assert "wg0 was renamed to other" in wgq(machine, "down", "wg0").stderr
    until(lambda: not machine.processes(), "the end of the processes")
    assert state(machine) == before


def test_a_daemon_in_another_namespace_is_not_ours(machine: Namespace) -> None:
    write(machine, config(peer=FULL))
    wgq(machine, "up", "wg0")
    refused = shell(machine, 'unshare -n bash -c "$(declare -f wgq); wgq down wg0"', status=1)
    assert "`wg0' is not a WireGuard interface" in refused
    assert "wg0" in links(machine)
    wgq(machine, "down", "wg0")


# Journals


@pytest.mark.parametrize(
    "line",
    [
        '{"undo": ["Foo", 1]}',
        '{"undo": ["DeleteLink"]}',
        '{"undo": ["DeleteRule", [1]]}',
        '{"hook": [1]}',
        '{"head": {"version": 2, "path": 3}}',
        "[" * 100_000,
        "3",
        "\\xff\\x00",
        '{"und',
    ],
)
def test_down_works_with_a_damaged_or_newer_journal(machine: Namespace, line: str) -> None:
    before = state(machine)
    write(machine, config(peer=FULL))
    wgq(machine, "up", "wg0")
    machine.run(["bash", "-c", f"printf '%b\\n' {line!r} >> {journal_path(machine)}"])
    assert "cannot be parsed" in wgq(machine, "down", "wg0").stderr
    assert state(machine) == before


def test_reload_works_with_a_damaged_journal(machine: Namespace) -> None:
    write(machine, config())
    wgq(machine, "up", "wg0")
    machine.run(["truncate", "-s", "60", journal_path(machine)])
    write(machine, config(peer="AllowedIPs = 10.8.0.0/16"))
    wgq(machine, "reload", "wg0")
    assert machine.out("wg", "show", "wg0", "allowed-ips").split()[1:] == ["10.8.0.0/16"]


def test_reload_of_a_renamed_link_is_refused(machine: Namespace) -> None:
    write(machine, config())
    wgq(machine, "up", "wg0")
    machine.run(["ip", "link", "set", "wg0", "name", "wg7"])
    assert "wgq: `wg0' is not up\n" in wgq(machine, "reload", "wg0", status=1).stderr
    assert "renamed to wg7" in wgq(machine, "up", "wg0", status=1).stderr
    wgq(machine, "down", "wg0")


def test_down_reads_the_host_if_the_journal_has_no_undos(machine: Namespace) -> None:
    before = state(machine)
    write(machine, config(peer=FULL))
    wgq(machine, "up", "wg0")
    machine.run(["sed", "-i", 's/"undo"/"udon"/', journal_path(machine)])
    wgq(machine, "down", "wg0")
    assert state(machine)[:2] == before[:2]
    assert state(machine)[3:] == before[3:]


@pytest.mark.parametrize("size", range(120, 600, 60))
def test_down_reads_the_host_if_the_journal_is_truncated(machine: Namespace, size: int) -> None:
    before = state(machine)
    write(machine, config("PreDown = touch /run/pre\nPostDown = touch /run/post", peer=FULL))
    wgq(machine, "up", "wg0")
    machine.run(["truncate", "-s", str(size), journal_path(machine)])
    # A journal cut after a whole line looks like a killed run, after which no hooks run.
    damaged = "cannot be parsed" in wgq(machine, "down", "wg0").stderr
    assert damaged == ({"pre", "post"} <= set(machine.out("ls", "/run").split()))
    assert (state(machine)[:2], state(machine)[3:]) == (before[:2], before[3:])


def test_an_unwritable_journal_stops_up_before_any_change(machine: Namespace) -> None:
    write(machine, config(peer=FULL))
    before = state(machine)
    machine.run(["mkdir", "-m", "700", "/run/wgq"])
    machine.run(["mount", "-t", "tmpfs", "-o", "size=4k,mode=0700", "tmpfs", "/run/wgq"])
    machine.run(["dd", "if=/dev/zero", "of=/run/wgq/filler", "bs=4k", "count=1"])
    error = wgq(machine, "up", "wg0", status=1).stderr
    assert "wg0.journal cannot be written: No space left on device" in error
    assert "Traceback" not in error
    assert state(machine) == before


# SaveConfig


def test_down_of_a_tunnel_from_standard_input_saves_nothing(machine: Namespace) -> None:
    text = config("SaveConfig = true")
    before = state(machine)
    wgq(machine, "up", "-", "--name", "ci0", stdin=text)
    wgq(machine, "down", "-", "--name", "ci0", stdin=text)
    assert state(machine) == before


def test_a_tunnel_from_a_pipe_is_not_saved(machine: Namespace) -> None:
    before = state(machine)
    write(machine, config("SaveConfig = true"))
    shell(machine, "wgq up --name ci0 <(cat /etc/wireguard/wg0.conf)")
    assert "ci0" in links(machine)
    shell(machine, "wgq down --name ci0 <(cat /etc/wireguard/wg0.conf)")
    assert state(machine) == before


def test_save_does_not_replace_a_device_file(machine: Namespace) -> None:
    machine.run(["mknod", "/run/null", "c", "1", "3"])
    machine.run(["ln", "-s", "/run/null", "/etc/wireguard/wg0.conf"])
    wgq(machine, "up", "wg0")
    assert "no file to save to" in wgq(machine, "save", "wg0", status=1).stderr
    wgq(machine, "down", "wg0")
    assert machine.out("stat", "-c", "%F", "/run/null").strip() == "character special file"


def test_save_keeps_ipv6_addresses_on_a_host_without_ipv6(machine: Namespace) -> None:
    machine.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"])
    write(machine, config("SaveConfig = true", address="10.99.0.1/32, fd00:99::1/64"))
    wgq(machine, "up", "wg0")
    wgq(machine, "down", "wg0")
    assert "Address = 10.99.0.1/32, fd00:99::1/64\n" in machine.call(CONFIG.read_text)


def test_save_at_down_looks_all_names_up_at_once(machine: Namespace) -> None:
    """For one name and these two servers, getaddrinfo(3) takes a minute; there are four names."""
    names = [f"peer{number}.example.net" for number in range(4)]
    keys = (*PEERS, PEERS[0].replace("xTI", "yTI"), PEERS[1].replace("TrM", "UrM"))
    peers = (f"[Peer]\nPublicKey = {key}\nEndpoint = {name}:51820\n" for key, name in zip(keys, names, strict=True))
    text = f"[Interface]\nPrivateKey = {KEY}\nSaveConfig = true\n{''.join(peers)}"
    write(machine, text)
    machine.run(["sh", "-c", f"cp /etc/hosts /run/; echo 192.0.2.9 {' '.join(names)} >>/etc/hosts"])
    wgq(machine, "up", "wg0")
    silent = "echo nameserver 192.0.2.54; echo options timeout:15"
    machine.run(["sh", "-c", f"cat /run/hosts >/etc/hosts; {{ {silent}; }} >>/etc/resolv.conf"])
    start = time.monotonic()
    wgq(machine, "down", "wg0")
    assert time.monotonic() - start < 60
    assert machine.call(CONFIG.read_text).count(".example.net:51820") == 4


def test_a_save_over_edits_keeps_them_in_a_copy(machine: Namespace) -> None:
    """Edits before up, by hooks, or applied by reload are not kept, nor what save itself wrote."""
    write(machine, config("PostUp = sed -i s/:51820/:5000/ /etc/wireguard/wg0.conf"))
    wgq(machine, "up", "wg0")
    machine.run(["sed", "-i", "1i # a comment", str(CONFIG)])
    wgq(machine, "reload", "wg0")
    machine.run(["wg", "set", "wg0", "listen-port", "4242"])
    assert "edited" not in wgq(machine, "save", "wg0").stderr
    machine.run(["sed", "-i", "s/10.9.0.0/10.8.0.0/", str(CONFIG)])
    edited = machine.call(CONFIG.read_text)
    assert "kept as /etc/wireguard/wg0.conf.edited" in wgq(machine, "save", "wg0").stderr
    saved = machine.call(CONFIG.read_text)
    assert "10.9.0.0" in saved
    assert "# a comment" in saved
    assert machine.out("cat", "/etc/wireguard/wg0.conf.edited") == edited
    assert "edited" not in wgq(machine, "save", "wg0").stderr
    machine.run(["sed", "-i", "s/10.9.0.0/10.7.0.0/", str(CONFIG)])
    assert "kept as /etc/wireguard/wg0.conf.edited.2" in wgq(machine, "save", "wg0").stderr
    assert machine.out("cat", "/etc/wireguard/wg0.conf.edited") == edited
    assert "10.7.0.0" in machine.out("cat", "/etc/wireguard/wg0.conf.edited.2")


def test_saveconfig_over_edits_keeps_them_in_a_copy(machine: Namespace) -> None:
    hook = "PostUp = sed -i s/:51820/:5000/ /etc/wireguard/wg0.conf"
    text = config(f"SaveConfig = true\n{hook}")
    write(machine, text)
    wgq(machine, "up", "wg0")
    machine.run(["wg", "set", "wg0", "listen-port", "4242"])
    wgq(machine, "save", "wg0")
    machine.run(["sed", "-i", "s/10.9.0.0/10.8.0.0/", str(CONFIG)])
    wgq(machine, "reload", "--force", "wg0")
    machine.run(["wg", "set", "wg0", "listen-port", "4243"])
    assert "edited" not in wgq(machine, "down", "wg0").stderr
    assert machine.out("ls", "/etc/wireguard").split() == ["wg0.conf"]
    wgq(machine, "up", "wg0")
    machine.run(["sed", "-i", "s/10.8.0.0/10.7.0.0/", str(CONFIG)])
    assert "kept as /etc/wireguard/wg0.conf.edited" in wgq(machine, "down", "wg0").stderr
    assert "10.8.0.0" in machine.call(CONFIG.read_text)
    assert "10.7.0.0" in machine.out("cat", "/etc/wireguard/wg0.conf.edited")
    assert machine.out("stat", "-c", "%a", "/etc/wireguard/wg0.conf.edited").strip() == "600"


def test_a_failed_save_stops_down_unless_forced(machine: Namespace) -> None:
    write(machine, config("SaveConfig = true"))
    wgq(machine, "up", "wg0")
    machine.run(["wg", "set", "wg0", "listen-port", "4242"])
    machine.run(["mount", "--bind", "/etc/wireguard", "/etc/wireguard"])
    machine.run(["mount", "-o", "remount,ro,bind", "/etc/wireguard"])
    assert "wgq down --force wg0" in wgq(machine, "down", "wg0", status=1).stderr
    assert "wg0" in links(machine)
    wgq(machine, "down", "--force", "wg0")
    assert "wg0" not in links(machine)


def test_a_signal_during_save_leaves_no_copy_of_the_key(machine: Namespace) -> None:
    assert machine.call(interrupted_save) == ["wg0.conf"]


def interrupted_save() -> list[str]:
    """Interrupt the fsync of a save by SIGTERM, and list the directory."""
    from wgquick.cli import verbs
    from wgquick.errors import SignalError

    def interrupted(_descriptor: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with open("/etc/wireguard/wg0.conf", "w") as file:
        file.write(config())
    wgquick.up(wgquick.read("wg0"))
    subprocess.run(["wg", "set", "wg0", "listen-port", "4242"], check=True)
    with mock.patch("os.fsync", interrupted), pytest.raises(SignalError):
        verbs.save("wg0", {})
    return os.listdir("/etc/wireguard")


# Privileges


def test_strip_of_an_unreadable_file_goes_through_sudo(machine: Namespace, tmp_path: Path) -> None:
    write(machine, config())
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    for path in (sudo, tmp_path, *tmp_path.parents[:-1]):
        if path.stat().st_uid == os.geteuid() and path.is_relative_to(f"{tempfile.gettempdir()}/"):
            path.chmod(0o755)
    # The package may be below a home directory that is closed to other users.
    machine.run(["sh", "-c", 'mkdir /run/prefix && mount --bind "$0" /run/prefix', sys.prefix])
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
    done = machine.run([*user, "/run/prefix/bin/python3", "-m", "wgquick", "strip", "wg0"], env=environment)
    assert done.stdout.splitlines()[-2:] == ["strip", "wg0"]
    assert KEY not in done.stdout


def test_sudo_runs_no_code_from_the_current_directory(machine: Namespace, tmp_path: Path) -> None:
    """`python -m wgquick` would load a package from there, as root."""
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
    sudo.chmod(0o755)
    tmp_path.chmod(0o755)
    (tmp_path / "wgquick").mkdir()
    (tmp_path / "wgquick" / "__main__.py").write_text("print('taken over')\n")
    (tmp_path / "wgquick" / "__init__.py").write_text("")
    script = (
        "import sys; from wgquick.cli import privilege\n"
        "privilege._effective_capabilities = lambda: 0\n"
        f"import os; os.chdir({str(tmp_path)!r}); os.geteuid = lambda: 65534\n"
        "sys.argv = ['wgq', '--version']; privilege.acquire()"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = machine.run([WGQ[0], "-c", script], env=environment)
    assert done.stdout.startswith("wgq ")


def test_sudo_finds_the_package_of_the_user(machine: Namespace, tmp_path: Path) -> None:
    """The package may be in a home directory or in PYTHONPATH, which root's Python does not search."""
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec env -i "$@"\n')
    sudo.chmod(0o755)
    write(machine, config())
    script = (
        "import sys, os; from wgquick.cli import privilege\n"
        "privilege._effective_capabilities = lambda: 0\n"
        "os.geteuid = lambda: 65534; sys.argv = ['wgq', 'strip', 'wg0']; privilege.acquire()"
    )
    places = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(Path(wgquick.__file__).parents[1])}
    python = os.path.realpath(sys.executable)  # outside of any virtual environment
    done = machine.run([python, "-c", script], env={**os.environ, **places})
    assert PEERS[0] in done.stdout


# Hooks and signals


def test_rules_that_a_hook_moves_are_gone_after_down(machine: Namespace) -> None:
    before = state(machine)
    table, suppress = "not fwmark 51820 table 51820", "table main suppress_prefixlength 0"
    hook = f"ip rule delete {table}; ip rule add {table} priority 100"
    hook += f"; ip rule delete {suppress}; ip rule add {suppress} priority 99"
    write(machine, config(f"PostUp = {hook}", "AllowedIPs = 0.0.0.0/0"))
    wgq(machine, "up", "wg0")
    assert "100:\tnot from all fwmark 0xca6c lookup 51820" in rules(machine)
    wgq(machine, "down", "wg0")
    assert state(machine) == before


def test_a_failed_up_removes_rules_that_a_hook_moved(machine: Namespace) -> None:
    before = state(machine)
    moving = "ip rule delete table 51820; ip rule add preference 100 not fwmark 51820 table 51820"
    write(machine, config(f"PostUp = {moving}; exit 3", FULL))
    wgq(machine, "up", "wg0", status=3)
    assert state(machine) == before


def test_rules_that_a_pre_down_hook_moves_are_gone_after_down(machine: Namespace) -> None:
    before = state(machine)
    moving = "ip rule delete table 51820; ip rule add preference 100 not fwmark 51820 table 51820"
    write(machine, config(f"PreDown = {moving}", FULL))
    wgq(machine, "up", "wg0")
    wgq(machine, "down", "wg0")
    assert state(machine) == before


def test_up_without_dns_works_after_a_failing_resolvconf(machine: Namespace) -> None:
    before = state(machine)
    path = with_resolvconf(machine, "exit 7")
    write(machine, config("DNS = 10.0.0.53"))
    assert "`resolvconf -a wg0 -m 0 -x' failed" in wgq(machine, "up", "wg0", status=7, PATH=path).stderr
    assert journals(machine) == ""
    wgq(machine, "up", "wg0", "--dns", "off", PATH=path)
    wgq(machine, "down", "wg0", PATH=path)
    assert state(machine) == before


def test_a_failed_up_removes_a_link_that_a_hook_renamed(machine: Namespace) -> None:
    before = state(machine)
    write(machine, config("PostUp = ip link set %i down; ip link set %i name moved0; exit 3", FULL))
    transcript = wgq(machine, "up", "wg0", status=3).stderr
    assert "[#] ip link delete dev moved0" in transcript
    assert state(machine) == before


def test_sigquit_ends_a_hanging_rollback_and_down_finishes_it(machine: Namespace) -> None:
    """Ctrl-\\ ends a rollback; repeated Ctrl-C does not."""
    before = state(machine)
    hanging = (
        'if [ "$1" = -d ] && [ ! -e /run/mended ]; then touch /run/hanging; exec sleep 600; fi; cat >/dev/null'
    )
    path = with_resolvconf(machine, hanging)
    write(machine, config("DNS = 10.0.0.53\nPostUp = touch /run/reached; sleep 600", FULL))
    wgq_with_signals = ["env", "--default-signal=INT,QUIT", *WGQ]
    environment = {**os.environ, "PATH": path, "WGQ_DNS": "resolvconf"}
    up = machine.popen([*wgq_with_signals, "up", "wg0"], env=environment, stderr=subprocess.DEVNULL)
    until(lambda: "reached" in machine.out("ls", "/run").split(), "the hook runs")
    up.send_signal(signal.SIGINT)
    until(lambda: "hanging" in machine.out("ls", "/run").split(), "resolvconf hangs")
    up.send_signal(signal.SIGINT)
    up.send_signal(signal.SIGQUIT)
    assert up.wait(60) == -signal.SIGQUIT
    machine.run(["touch", "/run/mended"])
    wgq(machine, "down", "wg0", PATH=path)
    assert state(machine) == before


def test_a_signal_after_the_last_step_does_not_change_the_status(machine: Namespace) -> None:
    """The tunnel stays up, so the status must not say that it was rolled back."""
    write(machine, config())
    up = "import os, signal; from wgquick.cli import verbs; verbs.up('wg0', {})"
    script = f"{up}; os.kill(os.getpid(), signal.SIGTERM)"
    machine.run([WGQ[0], "-c", script], env=dict(os.environ))
    assert "wg0" in links(machine)


@pytest.mark.parametrize("locale", ["C.UTF-8", "POSIX"])
def test_hooks_run_and_print_their_bytes_in_any_locale(machine: Namespace, locale: str) -> None:
    hook = b"printf %s 'caf\xe9 \xe2\x86\x92' > /run/output"
    text = config("PostUp = HOOK").encode().replace(b"HOOK", hook)
    machine.call(CONFIG.write_bytes, text)
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    up = machine.popen([*WGQ, "up", "wg0"], env=environment, stderr=subprocess.PIPE)
    assert b"[#] " + hook + b"\n" in up.communicate(timeout=60)[1]
    assert machine.call(HOOK_OUTPUT.read_bytes) == b"caf\xe9 \xe2\x86\x92"
