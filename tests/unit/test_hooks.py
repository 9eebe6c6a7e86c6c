"""Hook lines run as under wg-quick(8): its shell code and ours give the same results for the same lines."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.signals import terminate
from tests.waiting import until
from wgquick.errors import HookError, OperationError
from wgquick.system import programs
from wgquick.system.hooks import Hooks, own_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

LINES = [
    "echo out; echo err >&2",
    "false; echo not reached",
    "false || echo rescued",
    "false | true; echo not reached",
    "exit 7",
    "(exit 3)",
    "kill -TERM $$",
    'echo "$INTERFACE" \'$INTERFACE\' "$CONFIG_FILE"',
    "env | grep -E '^(INTERFACE|CONFIG_FILE|PROGRAM|hook)=' || echo none exported",
    "cat <(echo one) <(echo two)",
    'x=$(echo sub); echo "$x `echo ticks`"',
    "case abc in +([a-c])) echo extglob;; esac",
    'echo "$LC_ALL" "$(locale | grep LC_ALL)"',
    "if true; then echo 'a;b' # a comment",
    "if true; then echo 'a;b'; fi # a comment",
    "nonesuch-command",
    "echo 'unfinished",
    "echo \\\\ \\' \\\" $'\\t' {1..3} ~root",
    "a=(1 2 3); echo ${#a[@]} ${a[-1]}",
    "trap 'echo left' EXIT; false",
    'read -r line; echo "got $line"',
    "yes | head -n 1",
    "umask; pwd; echo $-",
    "set +e; false; echo on",
    "wait; sleep 0 & wait $!; echo $?",
    "printf '%s\\n' \"$@\" | wc -l >/dev/null; echo ${BASH_VERSION:+bash}",
    "[[ wg0 =~ ^wg([0-9])$ ]] && echo ${BASH_REMATCH[1]}",
    "exec echo replaced",
    "echo é | od -An -tx1",
    "return 4",
    '[ -n "$PATH" ] && return 0; false',
    "local x=1; echo $x ${FUNCNAME[0]}",
    "",
]

SEEN: dict[str, str | tuple[str, ...]] = {"INTERFACE": "wg0", "CONFIG_FILE": "/etc/wireguard/wg0.conf"}

# wg-quick's code for a hook and what surrounds it, as a program to compare with.
REFERENCE = """
set -e -o pipefail
shopt -s extglob
export LC_ALL=C
export PATH="$1:$PATH"
INTERFACE=$2 CONFIG_FILE=$3 hook=$4
set --
execute_hooks() { (eval "$hook"); }
execute_hooks
exit 0
"""


def ours(hook: str) -> tuple[int, str, str]:
    """Status, output and errors of a hook that wgq runs in its own process."""
    code = (
        "import sys; from wgquick.errors import HookError; from wgquick.system.hooks import Hooks\n"
        f"try: Hooks(print, '/nonesuch').run(sys.argv[1], {SEEN!r})\n"
        "except HookError as error: sys.exit(error.status)"
    )
    return finished([sys.executable, "-c", code, hook])


def reference(hook: str) -> tuple[int, str, str]:
    return finished(["bash", "-c", REFERENCE, "wgq", "/nonesuch", "wg0", "/etc/wireguard/wg0.conf", hook])


def finished(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, input="first line\nsecond\n", check=False)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("hook", LINES)
def test_a_hook_has_the_output_and_status_of_wg_quick(hook: str) -> None:
    status, out, err = ours(hook)
    expected_status, expected_out, expected_err = reference(hook)
    assert (status, out) == (expected_status, expected_out)
    assert bool(err) == bool(expected_err)


def test_a_hook_may_call_the_function_that_runs_hooks() -> None:
    """It runs the given lines and stops at the first failure."""
    assert ours("execute_hooks 'echo a' 'echo b; (exit 3)' 'echo c'") == (
        3,
        "a\nb\n",
        "[#] echo a\n[#] echo b; (exit 3)\n",
    )
    assert ours("execute_hooks; echo done") == (0, "done\n", "")


@pytest.fixture
def remarks() -> list[str]:
    return []


@pytest.fixture
def hooks(remarks: list[str]) -> Hooks:
    return Hooks(remarks.append)


def run(hooks: Hooks, command: str) -> None:
    hooks.run(command, SEEN)


def test_the_error_for_a_missing_program_is_plain_bash() -> None:
    _, _, err = ours("nonesuch-command")
    assert re.fullmatch(r".*/hook\.sh: line \d+: nonesuch-command: command not found\n", err)


WORDS: dict[str, str | tuple[str, ...]] = {
    "ADDRESSES": ("10.0.0.1/24", "a b'c"),
    "MTU": "1400",
    "DNS": (),
    "TABLE": "off",
}


def test_arrays_and_words_reach_the_hook_but_no_child(
    hooks: Hooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTU", "9000")
    monkeypatch.setenv("ADDRESSES", "exported")
    hooks.run(f"declare -p {' '.join(WORDS)} >{tmp_path}/seen; env >{tmp_path}/inherited", WORDS)
    assert (tmp_path / "seen").read_text().splitlines() == [
        """declare -a ADDRESSES=([0]="10.0.0.1/24" [1]="a b'c")""",
        'declare -- MTU="1400"',
        "declare -a DNS=()",
        'declare -- TABLE="off"',
    ]
    inherited = (tmp_path / "inherited").read_text().splitlines()
    assert not [line for line in inherited if line.partition("=")[0] in WORDS]


def test_cmd_prints_its_command_and_die_ends_the_hook() -> None:
    assert ours("cmd echo one two; die three four; echo five") == (
        1,
        "one two\n",
        "[#] echo one two\nwgq: three four\n",
    )


def test_self_and_args_are_those_of_the_command(
    hooks: Hooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/wgq/bin/wgq", "up", "--dns", "off", "wg0"])
    Hooks(print).run(f'printf "%s|" "$SELF" "${{ARGS[@]}}" >{tmp_path}/seen', {})
    assert (tmp_path / "seen").read_text() == "/opt/wgq/bin/wgq|up|--dns|off|wg0|"
    run(hooks, f'echo "${{#ARGS[@]}}" >{tmp_path}/seen')


@pytest.mark.parametrize(
    ("table", "network", "transcript"),
    [
        ("", "10.1.0.0/16", "[#] ip -4 route add 10.1.0.0/16 dev wg0\n"),
        ("auto", "fd00::/64", "[#] ip -6 route add fd00::/64 dev wg0\n"),
        ("7", "0.0.0.0/0", "[#] ip -4 route add 0.0.0.0/0 dev wg0 table 7\n"),
        ("off", "10.1.0.0/16", ""),
    ],
)
def test_add_route_respects_the_table(tmp_path: Path, table: str, network: str, transcript: str) -> None:
    """The `ip` in PATH finds no route and accepts each one."""
    (tmp_path / "ip").write_text("#!/bin/sh\n")
    (tmp_path / "ip").chmod(0o755)
    code = f"from wgquick.system.hooks import Hooks; Hooks(print, '{tmp_path}').run('add_route {network}', "
    done = finished([sys.executable, "-c", f"{code}{ {**SEEN, 'TABLE': table} })"])
    assert done == (0, "", transcript)


def test_a_failing_hook_is_an_error_with_its_status(hooks: Hooks) -> None:
    with pytest.raises(HookError) as failure:
        run(hooks, "exit 42")
    assert failure.value.status == 42
    assert "exit 42" in str(failure.value)


def test_a_hook_killed_by_a_signal_has_the_shells_status(hooks: Hooks) -> None:
    with pytest.raises(HookError) as failure:
        run(hooks, "kill -KILL $$")
    assert failure.value.status == 128 + signal.SIGKILL


def test_an_error_hides_possible_keys(hooks: Hooks) -> None:
    key = "2MtBlbfEoJf5kqHjTNmNhDhM1hCZgsXWaGP9UTdBVUo="
    with pytest.raises(HookError) as failure:
        run(hooks, f"test {key} = other")
    assert key not in str(failure.value)
    assert "(hidden)" in str(failure.value)


def test_a_hook_line_is_in_no_argument_list(hooks: Hooks, tmp_path: Path) -> None:
    run(hooks, f": secret-word; cat /proc/$$/cmdline /proc/$$/environ >{tmp_path}/seen")
    assert b"secret-word" not in (tmp_path / "seen").read_bytes()


def test_a_hook_inherits_no_descriptor(hooks: Hooks, tmp_path: Path) -> None:
    with (tmp_path / "ours").open("w"):
        run(hooks, f"ls -l /proc/self/fd >{tmp_path}/seen")
    seen = (tmp_path / "seen").read_text()
    assert "memfd" not in seen
    assert "/ours" not in seen


def test_a_broken_pipe_ends_a_hooks_command_quietly(hooks: Hooks, tmp_path: Path) -> None:
    run(hooks, f"set +e +o pipefail; (yes; echo $? >{tmp_path}/status) | head -n 1 >/dev/null")
    assert (tmp_path / "status").read_text() == f"{128 + signal.SIGPIPE}\n"


def test_the_tools_directory_comes_first_in_path(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "only-here"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho found >{tmp_path}/found\n")
    program.chmod(0o755)
    Hooks(print, str(program.parent)).run("only-here", {})
    assert (tmp_path / "found").exists()


def test_a_hook_does_not_change_our_environment(hooks: Hooks) -> None:
    before = dict(os.environ)
    run(hooks, "export LEAKED=1")
    assert dict(os.environ) == before


def test_without_the_command_wgq_is_found_beside_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/other"])
    assert own_directory() == str(Path(sys.executable).parent)
    monkeypatch.setattr(sys, "argv", ["/opt/wgq/bin/wgq", "up"])
    assert own_directory() == "/opt/wgq/bin"


@pytest.fixture
def without_bash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("wgquick.system.hooks._BASH", "/nonesuch/bash")
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("without_bash")
def test_without_bash_sh_runs_the_hooks_with_one_note(hooks: Hooks, remarks: list[str], tmp_path: Path) -> None:
    for word in ("one", "it's two"):
        hooks.run(f'cmd echo "$INTERFACE" "{word}" "$ADDRESSES" >>{tmp_path}/seen', {**SEEN, **WORDS})
    assert (tmp_path / "seen").read_text() == "wg0 one 10.0.0.1/24\nwg0 it's two 10.0.0.1/24\n"
    assert len(remarks) == 1
    assert "no bash" in remarks[0]


@pytest.mark.usefixtures("without_bash")
def test_without_bash_a_failing_command_ends_the_hook(hooks: Hooks, tmp_path: Path) -> None:
    with pytest.raises(HookError) as failure:
        run(hooks, f"false; echo >{tmp_path}/seen")
    assert failure.value.status == 1
    assert not (tmp_path / "seen").exists()


@pytest.mark.usefixtures("without_bash")
def test_without_any_shell_the_error_has_a_remedy(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wgquick.system.hooks._SH", "/nonesuch/sh")
    with pytest.raises(HookError) as failure:
        run(hooks, "true")
    assert failure.value.status == 127
    assert "Install bash" in failure.value.remedy


class InterruptionError(Exception):
    """Raised by the signal handler."""


def _interrupt(_number: int, _frame: object) -> None:
    raise InterruptionError


@pytest.fixture
def interrupt() -> Iterator[str]:
    """A shell command that interrupts this process while it waits for the hook."""
    earlier = signal.signal(signal.SIGTERM, _interrupt)
    yield terminate()
    signal.signal(signal.SIGTERM, earlier)


def await_end(path: Path) -> None:
    """Wait until the process with the id in this file has ended."""
    stat = Path(f"/proc/{int(path.read_text())}/stat")

    def has_ended() -> bool:
        with contextlib.suppress(OSError):
            return stat.read_text().rpartition(")")[2].split()[0] in "ZX"
        return True

    until(has_ended, f"process {path.name} ended")


def test_an_interrupted_hook_is_ended_with_its_children(
    hooks: Hooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: str
) -> None:
    """TERM is enough: KILL would come after the time limit of this test."""
    monkeypatch.setattr(programs, "_PATIENCE", 3600)
    with pytest.raises(InterruptionError):
        run(hooks, f"echo $$ >{tmp_path}/shell; (sleep 3600 & echo $! >{tmp_path}/sleep; {interrupt}; wait) | cat")
    await_end(tmp_path / "shell")
    await_end(tmp_path / "sleep")


def test_an_interrupted_hook_that_ignores_sigterm_is_killed(
    hooks: Hooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: str
) -> None:
    monkeypatch.setattr(programs, "_PATIENCE", 0.3)
    with pytest.raises(InterruptionError):
        run(hooks, f"trap '' TERM; echo $$ >{tmp_path}/shell; {interrupt}; sleep 3600")
    await_end(tmp_path / "shell")


def test_a_signal_at_the_end_of_a_hook_is_not_lost(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> None:
    waitpid = os.waitpid

    def reaped_then_interrupted(child: int, flags: int) -> tuple[int, int]:
        monkeypatch.setattr(os, "waitpid", waitpid)
        waitpid(child, flags)
        raise InterruptionError

    monkeypatch.setattr(os, "waitpid", reaped_then_interrupted)
    with pytest.raises(InterruptionError):
        run(hooks, "true")


def test_termination_signals_are_not_blocked_in_a_hook(hooks: Hooks, tmp_path: Path) -> None:
    run(hooks, f"grep SigBlk /proc/self/status >{tmp_path}/blocked")
    assert (tmp_path / "blocked").read_text().split()[1] == "0" * 16


def test_ignoring_sigchld_is_an_error(hooks: Hooks) -> None:
    earlier = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(OperationError, match="SIGCHLD"):
            run(hooks, "true")
    finally:
        signal.signal(signal.SIGCHLD, earlier)


def test_a_program_is_found_in_path_as_bash_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("plain", "folder"):
        (tmp_path / name).mkdir()
    (tmp_path / "plain" / "tool").write_text("")
    (tmp_path / "folder" / "tool").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/folder:{tmp_path}/plain")
    assert programs.find("tool") is None
    (tmp_path / "plain" / "tool").chmod(0o755)
    assert programs.find("tool") == f"{tmp_path}/plain/tool"


@pytest.mark.machine
def test_cap_dac_read_search_finds_programs_in_roots_directories(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    tmp_path.chmod(0o700)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    capable = [*user, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", sys.executable]
    finding = "import sys; from wgquick.system import programs; print(programs.find('tool', sys.argv[1]))"
    done = subprocess.run([*capable, "-c", finding, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(tmp_path / "tool"), done.stderr
