"""The command line: usage errors, help, version and choices."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wgquick
from wgquick.cli.app import run_app
from wgquick.cli.main import Call, parse
from wgquick.errors import WgqError
from wgquick.options import OPTIONS, VERBS

if TYPE_CHECKING:
    from pathlib import Path

KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="


def wgq(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wgquick", *arguments]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("arguments", [(), ("fly", "wg0"), ("up",), ("up", "wg0", "wg1"), ("up", "--fast", "wg0")])
def test_usage_errors_go_to_stderr_with_status_1(arguments: tuple[str, ...]) -> None:
    done = wgq(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Usage: wgq" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fly wg0", "`fly' is not a verb\n  Usage: wgq VERB ...; `wgq -h' lists the verbs."),
        ("up", "`wgq up' needs a file or an interface\n  Usage: wgq up [OPTIONS] CONFIG_FILE|INTERFACE|-;"),
        ("confirm wg0 wg1", "`wgq confirm' takes no further argument: `wg1'\n  Usage: wgq confirm [OPTIONS] INTER"),
        ("up --wait 0.1 wg0", "`wgq up' takes no further argument: `wg0'\n  Write --wait=0.1, as the value of"),
        (
            "check",
            "`wgq check' needs a file or an interface\n  Usage: wgq check [OPTIONS] CONFIG_FILE|INTERFACE...",
        ),
        ("try up", "`wgq try' needs up, reload or down, and a file or an interface\n  Usage: wgq try"),
        ("rehearse a.conf", "`wgq rehearse' needs two files\n  Usage: wgq rehearse"),
        ("wait", "`wgq wait' needs an interface\n  Usage: wgq wait [OPTIONS] INTERFACE;"),
        ("exec wg0", "`wgq exec' needs an interface and a command\n  Usage: wgq exec"),
        ("status --zz", "`--zz' is not an option of wgq status\n  Usage: wgq status [OPTIONS] [INTERFACE...];"),
        ("up --foo wg0", "`--foo' is not an option of wgq up; did you mean --force?\n  Usage: wgq up"),
        ("--fast", "`--fast' is not an option of wgq\n  Usage: wgq VERB"),
        ("up --dns", "`--dns' needs a value: auto, resolvconf, resolved, file, off\n  Usage: wgq up"),
        ("metrics --listen", "`--listen' needs a value: [ADDRESS:]PORT\n  Usage: wgq metrics"),
        ("up --strict=1 wg0", "`--strict' takes no value\n  Usage: wgq up"),
        ("up --dns=bsd wg0", "`bsd' is not a valid value for --dns\n  Choose one of: auto"),
    ],
)
def test_a_usage_error_has_the_form_of_other_errors(line: str, message: str) -> None:
    done = wgq(*line.split())
    assert done.returncode == 1
    assert done.stderr.lower().startswith(f"wgq: {message}".lower())


@pytest.mark.parametrize("argument", ["--help", "-h", "help"])
def test_help_lists_every_verb(argument: str) -> None:
    done = wgq(argument)
    assert done.returncode == 0
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)


@pytest.mark.parametrize("arguments", [("up", "--help"), ("help", "up")])
def test_help_of_up_lists_its_options(arguments: tuple[str, ...]) -> None:
    done = wgq(*arguments)
    assert all(option in done.stdout for option in ("--backend", "--firewall", "--dns", "--strict", "--name"))


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("doctor", "--listen SECONDS Listen SECONDS for handshakes."),
        ("metrics", "--listen [ADDRESS:]PORT Serve the metrics over HTTP on a loopback address."),
        ("wait", "--timeout SECONDS The maximum time."),
        ("try", "--timeout SECONDS How long the change is on trial."),
        ("up", "--wait SECONDS Wait for a handshake: 15 seconds, or --wait=SECONDS."),
    ],
)
def test_the_help_of_a_verb_has_only_its_own_words(verb: str, text: str) -> None:
    assert text in " ".join(wgq(verb, "--help").stdout.split())


def test_version_is_the_version_of_the_package() -> None:
    assert wgq("--version").stdout == f"wgq {wgquick.__version__}\n"


@pytest.mark.parametrize("variable", ["WGQ_BACKEND", "WGQ_FIREWALL", "WGQ_DNS"])
def test_an_unknown_choice_in_the_environment_is_refused(variable: str) -> None:
    done = wgq("up", "none0", **{variable: "bsd"})
    assert done.returncode == 1
    assert f"`bsd' is not a valid value for {variable}\n  Choose one of: auto" in done.stderr


@pytest.mark.machine
def test_a_missing_file_is_reported_as_wg_quick_does() -> None:
    done = wgq("up", "none0")
    assert done.returncode == 1
    assert "`/etc/wireguard/none0.conf' does not exist" in done.stderr


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("up wg0", Call("up", ["wg0"], {})),
        ("up -", Call("up", ["-"], {})),
        ("up --backend kernel wg0", Call("up", ["wg0"], {"backend": "kernel"})),
        ("up wg0 --dns=off --strict", Call("up", ["wg0"], {"dns": "off", "strict": True})),
        ("down --force -- wg0", Call("down", ["wg0"], {"force": True})),
        ("down --dns off --dns file wg0", Call("down", ["wg0"], {"dns": "file"})),
        ("strip -- -wg0", Call("strip", ["-wg0"], {})),
        ("check wg0 wg1 --json", Call("check", ["wg0", "wg1"], {"json": True})),
        ("show", Call("show", [], {})),
        ("up --name -- wg0", Call("up", ["wg0"], {"name": "--"})),
    ],
)
def test_a_valid_call_is_parsed_without_typer(line: str, call: Call) -> None:
    assert parse(line.split()) == call


@pytest.mark.parametrize(
    "line",
    ["", "fly wg0", "up", "up wg0 wg1", "up -h", "up --help wg0", "up --fast wg0", "up --strict=1 wg0", "up --dns",
     "up -b wg0", "save --strict wg0", "check", "show a b c", "--version", "up --str wg0"],
)  # fmt: skip
def test_help_and_usage_errors_are_left_to_typer(line: str) -> None:
    assert parse(line.split()) is None


@given(st.data())
def test_typer_parses_a_call_like_the_fast_parser(data: st.DataObject) -> None:
    """Random words of valid and invalid calls: if the fast parser accepts them, typer gets the same call."""
    known = [f"--{name}" for name in OPTIONS] + [f"--{name}=x" for name in OPTIONS]
    words = data.draw(st.lists(st.sampled_from([*known, "wg0", "-", "--", "-h", "--help", "off"]), max_size=5))
    arguments = [data.draw(st.sampled_from(sorted(VERBS))), *words]
    called: list[Call] = []

    def record(verb: str, targets: list[str], given: dict[str, str | bool]) -> int:
        called.append(Call(verb, targets, given))
        return 0

    short = parse(arguments)
    with (
        mock.patch("wgquick.cli.verbs.run", record),
        redirect_stdout(StringIO()),
        redirect_stderr(StringIO()),
        suppress(WgqError),
    ):
        run_app(arguments)
    assert called == ([short] if short else [])


def test_a_hot_verb_with_options_does_not_import_typer(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(f"[Interface]\nAddress = 10.0.0.1/24\nPrivateKey = {KEY}\n")
    path.chmod(0o600)
    script = "import sys; from wgquick.cli.main import run; run(sys.argv[1:]); print('typer' in sys.modules)"
    command = [sys.executable, "-c", script, "strip", "--name", "other", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"[Interface]\nPrivateKey = {KEY}\n\nFalse\n"


def test_strip_of_standard_input_needs_no_name() -> None:
    command = [sys.executable, "-m", "wgquick", "strip", "-"]
    text = f"[Interface]\nDNS = 10.0.0.53\nPrivateKey = {KEY}\n"
    done = subprocess.run(command, check=True, capture_output=True, text=True, input=text)
    assert done.stdout == f"[Interface]\nPrivateKey = {KEY}\n\n"


def test_a_closed_standard_input_is_an_error() -> None:
    command = f"'{sys.executable}' -m wgquick strip - <&-"
    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("wgq: standard input is closed\n")


def test_errors_in_standard_input_name_it() -> None:
    command = [sys.executable, "-m", "wgquick", "strip", "-"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, input="[Interface]\nSaveConfig = x")
    assert done.returncode == 1
    assert done.stderr.startswith("standard input:2:14: SaveConfig `x' is neither true nor false")


def test_help_of_a_verb_explains_its_argument(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert run_app([verb, "--help"]) == 0
        assert "INTERFACE alone means\n  /etc/wireguard/INTERFACE.conf" in capsys.readouterr().out


def test_a_closed_pipe_gives_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text("[Peer]\n" + "# filler\n" * 100_000)
    path.chmod(0o600)
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m wgquick strip '{path}' | true"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
