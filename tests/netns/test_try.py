"""`wgq try` and `wgq confirm`: a change that is not confirmed is rolled back, even if processes die."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

import wgquick
from tests.netns.pair import pair
from tests.netns.tunnels import FULL, KEY, WGQ, config, journals, links, programs, wgq, write
from tests.netns.watches import watching
from tests.waiting import stop, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.namespaces import Namespace

LONG = "300"
"""The seconds of a trial that the test ends."""
CHANGED = config(peer=FULL, address="10.0.0.7/24, fd00::1/64", n=1)
FAR_KEY = "cGtNUBJAyzXSzVvCZ0bJaVTaB4aSnpOqIP2d/Bw1F3w="


_VARIES = re.compile("fe80:|^multicast")  # the kernel adds these with a delay


def state(machine: Namespace) -> list[str]:
    """The state that a tunnel sets, without the addresses that the kernel generates for a link."""
    machine.settle()
    until(lambda: "0" not in machine.out("wg", "show", "all", "listen-port").split(), "a port of each device")
    commands = (
        "wg show all dump",
        "ip -o addr",
        "ip -o link show type tun",
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule",
        "ip -6 rule",
        "cat /etc/resolv.conf /proc/sys/net/ipv4/conf/all/src_valid_mark",
    )
    shown = [machine.run(command.split(), check=False).stdout for command in commands]
    tables = sorted(re.split("^(?=table )", machine.out("nft", "list", "ruleset"), flags=re.MULTILINE))
    text = "\n".join([*shown, *tables])
    lines = [re.sub(r"^\d+: ", "", line) for line in text.splitlines() if not _VARIES.search(line)]
    return [re.sub(r"packets \d+ bytes \d+|\t\d+\t\d+\t\d+(?=\t\w+$)", "", line) for line in lines]


def watchdogs(machine: Namespace) -> list[int]:
    """The watchdog and the standby: the processes that hold the trial's file open."""
    found = []
    for pid in machine.processes():
        try:
            paths = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if any(path.endswith(".trial") for path in paths):
            found.append(pid)
    return found


def kill(machine: Namespace, victim: int) -> None:
    """Kill one of the two, and wait until there are two again. A killed process exists for a moment."""
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(found := watchdogs(machine)) == 2 and victim not in found, "two watchdogs")


def phase(machine: Namespace) -> str:
    """The phase of the trial; "" if there is none."""
    trials = json.loads(wgq(machine, "status", "--json").stdout)["trials"]
    return trials[0]["phase"] if trials else ""


@contextmanager
def trying(machine: Namespace, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running `wgq try`, once its change is made."""
    process = machine.popen(
        [*WGQ, "try", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        until(lambda: phase(machine) == "pending", "the trial")
        yield process
    finally:
        for pipe in filter(None, (process.stdout, process.stderr)):
            pipe.close()


@contextmanager
def port_taken(machine: Namespace, port: int) -> Iterator[None]:
    """A program that has a UDP port."""
    held = machine.popen(["python3", "-c", _HOLD_PORT, str(port)], stdout=subprocess.PIPE)
    assert held.stdout is not None
    with held.stdout:
        held.stdout.readline()
        yield


_HOLD_PORT = """
import socket, sys, time
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.bind(("", int(sys.argv[1])))
print(flush=True)
time.sleep(600)
"""


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The exit status and standard error."""
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors.decode()


def await_end(machine: Namespace) -> None:
    """Let the trial end now, and wait for that."""
    if phase(machine) == "pending":
        wgq(machine, "confirm", "wg0", "--extend", "0.1")
    until(lambda: not watchdogs(machine), "the end of the trial")


@pytest.fixture
def up(machine: Namespace) -> Namespace:
    """The machine with wg0 up. Its file has no port and was changed since."""
    write(machine, config("PostUp = echo up >>/run/hooks\nPreDown = echo down >>/run/hooks"))
    wgq(machine, "up", "wg0")
    state(machine)  # the daemon has a port
    write(machine, CHANGED)
    return machine


def test_up_is_taken_down_again_with_its_hooks(machine: Namespace) -> None:
    write(machine, config("PostUp = echo up >>/run/hooks\nPreDown = echo down >>/run/hooks", FULL))
    before = state(machine)
    done = wgq(machine, "try", "up", "wg0", "--timeout", "0.5", status=4)
    assert done.stderr.endswith("[!] wg0 was not confirmed: it is as it was before\n")
    assert (state(machine), journals(machine)) == (before, "")
    assert machine.out("cat", "/run/hooks") == "up\ndown\n"
    assert machine.out("find", "/run/wgq", "-type", "f") == ""


def test_reload_is_taken_back_with_the_port_that_was_chosen(up: Namespace) -> None:
    before = state(up)
    assert wgq(up, "reload", "wg0", "--dry-run").stdout
    wgq(up, "try", "reload", "wg0", "--timeout", "0.5", status=4)
    assert state(up) == before
    write(up, config("ListenPort = 4444"))
    wgq(up, "try", "reload", "wg0", "--timeout", "0.5", status=4)
    assert state(up) == before
    wgq(up, "down", "wg0")
    assert links(up) == ["lo", "up0", "up1"]


def test_down_is_taken_back_with_hooks_and_port(machine: Namespace) -> None:
    write(machine, config("PostUp = echo up >>/run/hooks\nPreDown = echo down >>/run/hooks", FULL))
    wgq(machine, "up", "wg0")
    machine.run(["wg", "set", "wg0", "peer", FAR_KEY, "allowed-ips", "10.77.0.0/24", "endpoint", "192.0.2.3:9"])
    before = state(machine)
    wgq(machine, "try", "down", "wg0", "--timeout", "0.5", status=4)
    assert state(machine) == before
    assert machine.out("cat", "/run/hooks") == "up\ndown\nup\n"
    wgq(machine, "reload", "wg0", "--keep-foreign")
    assert state(machine) == before
    wgq(machine, "down", "wg0")
    assert machine.out("find", "/run/wgq", "-type", "f") == ""


def test_a_reload_after_a_rollback_has_nothing_to_do(machine: Namespace) -> None:
    """The journal is as before: it has names and hashes of keys, not the values of the rollback."""
    key = f"AllowedIPs = 10.9.0.0/16\nPresharedKey = {KEY}"
    write(machine, config("DNS = 10.0.0.53", key))
    wgq(machine, "up", "wg0")
    for verb in ("reload", "down"):
        write(machine, CHANGED)
        wgq(machine, "try", verb, "wg0", "--timeout", "0.3", status=4)
        write(machine, config("DNS = 10.0.0.53", key))
        assert wgq(machine, "reload", "wg0", "--dry-run").stdout == "", verb
        assert json.loads(wgq(machine, "status", "--json").stdout)["interfaces"][0]["drift"] == []


def test_confirm_keeps_the_change(up: Namespace) -> None:
    with trying(up, "reload", "wg0", "--timeout", LONG, "--json") as process:
        wgq(up, "confirm", "wg0")
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out) == {
        "verb": "reload",
        "interface": "wg0",
        "outcome": "confirmed",
        "by": "confirm",
        "message": None,
    }
    assert errors.decode().endswith("[!] wg0 is confirmed\n")
    assert "10.0.0.7/24" in "".join(state(up))
    assert watchdogs(up) == []
    assert up.out("find", "/run/wgq", "-name", "*.trial") == ""
    assert "no trial of wg0 is pending" in wgq(up, "confirm", "wg0", status=1).stderr


def test_the_end_of_standard_input_does_not_confirm(up: Namespace) -> None:
    before = state(up)
    wgq(up, "try", "reload", "wg0", "--timeout", "0.5", status=4, stdin="")
    wgq(up, "try", "reload", "wg0", "--timeout", "0.5", status=4, stdin="\n\ny\n")
    assert state(up) == before


@pytest.mark.parametrize("victim", ["the command", "the watchdog", "the standby", "both in turn"])
def test_a_killed_process_is_survived(up: Namespace, victim: str) -> None:
    before = state(up)
    with trying(up, "reload", "wg0", "--timeout", LONG) as process:
        pair = watchdogs(up)
        names = ["wgq-watchdog\n", "wgq-standby\n"]
        until(lambda: [up.out("cat", f"/proc/{pid}/comm") for pid in pair] == names, "their names")
        assert process.pid not in pair
        if victim == "the command":
            process.kill()
        elif victim == "both in turn":
            process.kill()
            for _ in range(2):
                kill(up, min(watchdogs(up)))
        else:
            kill(up, pair[victim == "the standby"])
        assert phase(up) == "pending"
        await_end(up)
    assert state(up) == before
    if victim in ("the watchdog", "the standby"):
        assert ended(process)[0] == 4


def test_a_confirmation_counts_after_deaths(up: Namespace) -> None:
    with trying(up, "reload", "wg0", "--timeout", LONG) as process:
        process.kill()
        kill(up, min(watchdogs(up)))
        kept = state(up)
        wgq(up, "confirm", "wg0")
        await_end(up)
    assert state(up) == kept


def test_status_says_that_both_watchdogs_were_killed(up: Namespace) -> None:
    with trying(up, "reload", "wg0", "--timeout", LONG) as process:
        pair = watchdogs(up)
        for pid in pair:
            stop(pid)  # so that neither replaces the other
        for pid in pair:
            os.kill(pid, signal.SIGKILL)
        status, errors = ended(process)
        assert (status, "nothing can be rolled back" in errors) == (1, True)
    until(lambda: not watchdogs(up), "the end of both")
    assert "will not be rolled back, as its watchdogs were killed" in wgq(up, "status").stdout
    assert (
        "put the earlier file back, then wgq reload wg0" in wgq(up, "confirm", "wg0", "--reject", status=1).stderr
    )
    wgq(up, "confirm", "wg0")
    assert phase(up) == ""
    wgq(up, "down", "wg0")
    assert links(up) == ["lo", "up0", "up1"]


class Terminal:
    """A `wgq try` that leads the session of its own terminal; `typed` waits there before it starts."""

    def __init__(self, machine: Namespace, *arguments: str, typed: bytes = b"") -> None:
        start, go = os.pipe()
        self.pid, self.end = pty.fork()
        if not self.pid:
            os.read(start, 1)
            command = machine.argv([*WGQ, "try", *arguments])
            os.execvp(command[0], command)
        os.write(self.end, typed)
        os.write(go, b".")
        os.close(start)
        os.close(go)
        self.text = ""

    def read_until(self, text: str) -> None:
        """Read the output until it has this text."""
        deadline = time.monotonic() + 60
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            self.text += os.read(self.end, 4096).decode()

    def status(self) -> int:
        """Its exit status."""
        while True:
            try:
                piece = os.read(self.end, 4096)
            except OSError:
                break
            if not piece:
                break
            self.text += piece.decode()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_enter_confirms_only_after_the_change(up: Namespace) -> None:
    before = state(up)
    terminal = Terminal(up, "reload", "wg0", "--timeout", "1", typed=b"\n")
    assert terminal.status() == 4
    assert state(up) == before
    terminal = Terminal(up, "reload", "wg0", "--timeout", LONG)
    terminal.read_until("press Enter")
    os.write(terminal.end, b"\n")
    assert terminal.status() == 0
    assert state(up) != before


def test_interrupt_rolls_back_at_once(up: Namespace) -> None:
    before = state(up)
    terminal = Terminal(up, "reload", "wg0", "--timeout", "600")
    terminal.read_until("press Enter")
    os.write(terminal.end, b"\x03")
    assert terminal.status() == 4
    assert state(up) == before


def test_the_end_of_the_terminal_leaves_the_trial(up: Namespace) -> None:
    before = state(up)
    terminal = Terminal(up, "reload", "wg0", "--timeout", LONG)
    terminal.read_until("press Enter")
    os.close(terminal.end)
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == -signal.SIGHUP
    assert phase(up) == "pending"
    await_end(up)
    assert state(up) == before


def test_a_watchdog_that_gets_a_signal_rolls_back(up: Namespace) -> None:
    before = state(up)
    with trying(up, "reload", "wg0", "--timeout", LONG) as process:
        for pid in watchdogs(up):
            with suppress(ProcessLookupError):  # the first has ended both
                os.kill(pid, signal.SIGTERM)
        assert ended(process)[0] == 4
    assert state(up) == before


def test_extend_and_reject(up: Namespace) -> None:
    before = state(up)
    with trying(up, "reload", "wg0", "--timeout", LONG) as process:
        wgq(up, "confirm", "wg0", "--extend", "600")
        left = json.loads(wgq(up, "status", "--json").stdout)["trials"][0]["seconds_left"]
        assert 500 < left <= 600
        assert re.search(r"is rolled back in (5\d\d|600) s", wgq(up, "status", "wg0").stdout)
        assert process.poll() is None
        wgq(up, "confirm", "wg0", "--reject")
        assert ended(process)[0] == 4
    assert state(up) == before


def test_trying_again_extends_and_is_taken_back_with_the_first(up: Namespace) -> None:
    before = state(up)
    with trying(up, "reload", "wg0", "--timeout", LONG) as first:
        write(up, config("MTU = 1300", "AllowedIPs = 10.66.0.0/16"))
        second = up.popen(
            [*WGQ, "try", "reload", "wg0", "--timeout", "600"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        until(lambda: "10.66.0.0/16" in "".join(state(up)) and phase(up) == "pending", "the trial")
        assert json.loads(wgq(up, "status", "--json").stdout)["trials"][0]["seconds_left"] > 400
        await_end(up)
        statuses = ended(first)[0], ended(second)[0]
    assert statuses == (4, 4)
    assert state(up) == before


def test_a_second_change_that_fails_leaves_the_first_on_trial(up: Namespace) -> None:
    before = state(up)
    with trying(up, "reload", "wg0", "--timeout", LONG) as first:
        tried = state(up)
        assert "already exists" in wgq(up, "try", "up", "wg0", status=1).stderr
        assert state(up) == tried
        assert phase(up) == "pending"
        await_end(up)
        assert ended(first)[0] == 4
    assert state(up) == before


@pytest.mark.parametrize("verb", ["down", "reload"])
def test_another_command_ends_the_trial(up: Namespace, verb: str) -> None:
    with trying(up, "reload", "wg0", "--timeout", LONG) as process:
        if verb == "reload":
            write(up, config(address="10.0.0.9/24"))
        assert "This ends the trial of wg0" in wgq(up, verb, "wg0").stderr
        status, errors = ended(process)
        assert (status, "another command has changed wg0" in errors) == (1, True)
    time.sleep(1)
    assert ("wg0" in links(up)) == (verb == "reload")
    if verb == "reload":
        assert "10.0.0.9/24" in up.out("ip", "addr")


def test_a_command_that_fails_does_not_end_the_trial(up: Namespace) -> None:
    with trying(up, "reload", "wg0", "--timeout", LONG):
        wgq(up, "up", "wg0", status=1)
        write(up, config("ListenPort = 0x"))
        wgq(up, "reload", "wg0", status=1)
        assert phase(up) == "pending"
        wgq(up, "confirm", "wg0", "--reject")
        await_end(up)


def test_down_after_try_down_stays_down(up: Namespace) -> None:
    with trying(up, "down", "wg0", "--timeout", LONG) as process:
        assert "is not up: it is on trial" in wgq(up, "status", "wg0", status=1).stderr
        wgq(up, "down", "wg0", status=1)
        assert ended(process)[0] == 1
    time.sleep(0.5)
    assert links(up) == ["lo", "up0", "up1"]


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("up", config("PostUp = exit 7")),
        ("reload", config("ListenPort = 4444")),
        ("down", config("PostDown = exit 7")),
    ],
    ids=["up", "reload", "down"],
)
def test_a_change_that_fails_is_an_error_and_undone(machine: Namespace, verb: str, text: str) -> None:
    if verb != "up":
        write(machine, config())
        wgq(machine, "up", "wg0")
    write(machine, text)
    before = state(machine)
    with port_taken(machine, 4444):
        done = wgq(machine, "try", verb, "wg0", status=1)
    assert "wgq: " in done.stderr
    assert state(machine) == before
    assert machine.out("find", "/run/wgq", "-name", "*.trial") == ""


def test_a_port_that_is_taken_by_the_rollback_is_replaced(up: Namespace) -> None:
    port = up.out("wg", "show", "wg0", "listen-port").strip()
    write(up, config("ListenPort = 4444"))
    before = up.out("wg", "show", "wg0", "allowed-ips")
    with trying(up, "reload", "wg0", "--timeout", LONG) as process, port_taken(up, int(port)):
        await_end(up)
        assert ended(process)[0] == 4
    assert up.out("wg", "show", "wg0", "allowed-ips") == before
    assert state(up)  # the daemon has a port
    assert up.out("wg", "show", "wg0", "listen-port").strip() != port


def test_a_change_that_hangs_is_rolled_back(machine: Namespace) -> None:
    """The limit is a second here, and at least a minute otherwise."""
    write(machine, config("PostUp = sleep 600"))
    before = state(machine)
    code = "import wgquick.executor.trying as t; t._LONGEST_CHANGE = 1.0; import wgquick.__main__ as m; m.main()"
    command = [WGQ[0], "-c", code, "try", "up", "wg0", "--timeout", "1"]
    done = machine.run(command, check=False)
    assert done.returncode == 4
    assert state(machine) == before
    until(lambda: not programs(machine, "sleep"), "the end of the hook")


def test_no_key_is_in_a_file(up: Namespace) -> None:
    with trying(up, "reload", "wg0", "--timeout", LONG):
        assert up.run(["grep", "-rq", "reload", "/run/wgq"], check=False).returncode == 0
        assert up.run(["grep", "-raF", KEY, "/run/wgq"], check=False).returncode == 1
        wgq(up, "confirm", "wg0")


def test_a_handshake_confirms() -> None:
    with pair() as ends:
        ends.write()
        for machine in (ends.one, ends.two):
            wgq(machine, "up", "wg0")
        text = ends.one.out("cat", "/etc/wireguard/wg0.conf")
        write(ends.one, text.replace("192.0.2.2:51820", "192.0.2.9:51820"))
        wgq(ends.one, "try", "reload", "wg0", "--timeout", "3", "--confirm-when", "handshake", status=4)
        assert "192.0.2.2:51820" in ends.one.out("wg", "show", "wg0", "endpoints")
        write(ends.one, text.replace("AllowedIPs = 10.7.0.2/32", "AllowedIPs = 10.7.0.2/32, 10.8.0.0/24"))
        done = wgq(ends.one, "try", "reload", "wg0", "--timeout", LONG, "--confirm-when", "handshake")
        assert "[!] wg0 is confirmed by handshake\n" in done.stderr


def test_an_echo_reply_confirms() -> None:
    with pair() as ends:
        ends.write()
        wgq(ends.two, "up", "wg0")
        done = wgq(ends.one, "try", "up", "wg0", "--timeout", LONG, "--confirm-when", "ping:10.7.0.2")
        assert "[!] wg0 is confirmed by ping:10.7.0.2\n" in done.stderr
        wgq(ends.one, "try", "down", "wg0", "--timeout", "2", "--confirm-when", "ping:192.0.2.77", status=4)
        assert "wg0" in links(ends.one)
        wgq(ends.one, "try", "down", "wg0", "--timeout", LONG, "--confirm-when", "ping:192.0.2.2")
        assert "wg0" not in links(ends.one)


def test_from_python(up: Namespace) -> None:
    before = state(up)
    lines, ends = up.call(_tried_from_python)
    assert ends == ["rolled back", "confirmed", "refused"]
    assert any(line.startswith("[#] wg set wg0") for line in lines)
    assert state(up) != before


def _tried_from_python() -> tuple[list[str], list[str]]:
    config, lines = wgquick.read("wg0"), list[str]()
    ends = [wgquick.try_("reload", config, timeout=0.3, transcript=lines.append).wait()]
    trial = wgquick.try_("reload", config, timeout=300)
    wgquick.confirm("wg0")
    ends.append(trial.wait())
    try:
        wgquick.try_("up", config)
    except wgquick.WgqError:
        ends.append("refused")
    return lines, ends


@pytest.mark.parametrize(
    "words",
    [
        ["save", "wg0"],
        ["up", "wg0", "--timeout", "0"],
        ["up", "wg0", "--timeout", "soon"],
        ["up", "wg0", "--confirm-when", "never"],
        ["up", "wg0", "--confirm-when", "ping:here"],
        ["down", "wg0", "--confirm-when", "handshake"],
        ["down", "wg0", "--kill-switch"],
        ["up", "wg0", "--or-restart"],
        ["down", "none0"],
        ["reload", "wg0"],
        ["up"],
    ],
)
def test_invalid_trials_are_refused_before_any_change(machine: Namespace, words: list[str]) -> None:
    write(machine, config())
    before = state(machine)
    done = wgq(machine, "try", *words, status=1)
    assert "Traceback" not in done.stderr
    assert done.stderr
    assert state(machine) == before


def test_a_restart_on_trial_is_rolled_back(up: Namespace) -> None:
    write(up, config("# wgq: kill-switch = on", FULL, address="10.0.0.9/32, 10.0.0.1/24"))
    before = state(up)
    assert "needs a restart for the order" in wgq(up, "try", "reload", "wg0", status=1).stderr
    assert state(up) == before
    wgq(up, "try", "reload", "wg0", "--or-restart", "--timeout", "0.5", status=4)
    assert state(up) == before


@pytest.mark.parametrize(
    "verb", [("reload",), ("up", "--ensure"), ("try", "reload")], ids=["reload", "ensure", "try"]
)
def test_a_restart_that_fails_is_undone(machine: Namespace, verb: tuple[str, ...]) -> None:
    """A hook fails while the kill switch is set, or the kernel refuses a route."""
    write(machine, config(peer=FULL))
    wgq(machine, "up", "wg0")
    before = state(machine)
    other = "10.0.0.9/32, 10.0.0.1/24"
    full = config("# wgq: kill-switch = on\nPostUp = exit 7", FULL, address=other)
    part = config("# wgq: kill-switch = on", "AllowedIPs = 192.0.2.0/24", address=other)  # the host has this route
    for text, status in ((full, 7), (part, 2)):
        write(machine, text)
        transcript = wgq(machine, *verb, "wg0", "--or-restart", status=status if verb[0] != "try" else 1).stderr
        assert (state(machine), verb[0] == "try" or "it was before" in transcript) == (before, True), transcript
    write(machine, config(peer=FULL))
    assert wgq(machine, "reload", "wg0").stderr == ""
    wgq(machine, "down", "wg0")
    assert links(machine) == ["lo", "up0", "up1"]


def test_a_rollback_restores_kill_switch_and_other_extras(machine: Namespace) -> None:
    """It does not matter which of them the trial adds or removes. The tried file's table does not count.

    If the trial changed the endpoint, the kill switch allows the earlier endpoint again.
    """
    plain, part = config(peer=FULL), config("Table = off", "AllowedIPs = 10.7.0.0/16")
    excluding = config("# wgq: exclude = 192.0.2.128/25", FULL)
    for full, option in ((plain, "--kill-switch"), (plain, "--keep-inbound"), (excluding, "--strict")):
        write(machine, full)
        wgq(machine, "up", "wg0", option)
        before = state(machine)
        write(machine, full.replace("192.0.2.9", "198.51.100.7"))
        wgq(machine, "try", "reload", "wg0", "--timeout", "0.3", status=4)
        assert state(machine) == before, option
        more = "# wgq: kill-switch = on\n# wgq: keep-inbound = on\n# wgq: exclude = lan\n[Peer]"
        for tried in (part, full.replace("[Peer]", more)):
            write(machine, tried)
            transcript = wgq(machine, "try", "reload", "wg0", "--timeout", "0.3", status=4).stderr
            assert state(machine) == before, (option, transcript)
        write(machine, full)
        wgq(machine, "try", "down", "wg0", "--timeout", "0.3", status=4)
        assert state(machine) == before, option
        wgq(machine, "down", "wg0")


def test_a_tunnel_of_wg_quicks_is_rolled_back(machine: Namespace) -> None:
    write(machine, config("", FULL))
    machine.run(["wg-quick", "up", "wg0"], env={**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wgq-userspace"})
    before = state(machine)
    write(machine, config(address="10.0.0.7/24", n=1))
    wgq(machine, "try", "reload", "wg0", "--timeout", "0.5", status=4)
    assert state(machine) == before
    wgq(machine, "try", "down", "wg0", "--timeout", "0.5", status=4)
    assert "0.0.0.0/0" in machine.out("wg", "show", "wg0", "allowed-ips")
    wgq(machine, "down", "wg0")
    machine.run(["sysctl", "-q", "net.ipv4.conf.all.src_valid_mark=0"])
    write(machine, config())
    machine.run(["wg-quick", "up", "wg0"], env={**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wgq-userspace"})
    before = state(machine)
    write(machine, config("", FULL))
    wgq(machine, "try", "reload", "wg0", "--timeout", "0.5", status=4)
    assert state(machine) == before


def test_a_note_says_that_systemd_has_no_bus(machine: Namespace) -> None:
    write(machine, config())
    machine.run(["mkdir", "-p", "/run/systemd/system"])
    done = wgq(machine, "try", "up", "wg0", "--timeout", "0.3", status=4)
    assert "the watchdog stays in this session's control group" in done.stderr
    assert links(machine) == ["lo", "up0", "up1"]


def test_watch_does_not_fight_a_trial(up: Namespace, tmp_path: Path) -> None:
    before = state(up)
    with watching(up, tmp_path, "wg0") as watch:
        wgq(up, "try", "reload", "wg0", "--timeout", "2", status=4)
        wgq(up, "try", "down", "wg0", "--timeout", "2", status=4)
        time.sleep(1)
        assert state(up) == before
    assert [each for each in watch.events() if each["event"].endswith("-restored")] == []
