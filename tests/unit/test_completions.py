"""Each shell's completion, tried in that shell, with three configurations and one live interface."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.namespaces import host
from wgquick.cli import completions
from wgquick.options import VERBS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.namespaces import Namespace

pytestmark = pytest.mark.machine

COMPLETIONS = Path(__file__).parents[2] / "completions"

BASH = """
cd /etc/wireguard/sub
source "$1/wgq.bash"
COMP_LINE=$2 COMP_POINT=${#2}
read -ra COMP_WORDS <<<"${2//=/ = }"
[[ $2 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_wgq
printf '%s\\n' "${COMPREPLY[@]}"
"""
# zpty gives zsh a terminal to complete in; `note` records what compadd offers.
ZSH = """
cd /etc/wireguard/sub
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1= PS2= fpath=($1 \\$fpath); autoload -Uz compinit && compinit -u -d /run/zcompdump"
zpty -w shell 'note() { builtin compadd -A offered "$@"; print -rl -- $offered >>/run/offered }'
zpty -w shell 'compadd() { note "$@"; builtin compadd "$@" }'
zpty -w shell "finished() { : >/run/finished }; zle -N finished; bindkey '^X' finished; bindkey '^I' complete-word"
zpty -w shell 'zstyle ":completion:*" list-prompt ""; zstyle ":completion:*" menu no; : >/run/ready'
until [[ -e /run/ready ]]; do sleep 0.05; done
zpty -n -w shell "$2"$'\\t\\x18'
until [[ -e /run/finished ]]; do zpty -r -t shell ignored; sleep 0.05; done
zpty -d shell
cat /run/offered
rm -f /run/offered /run/ready /run/finished
"""
FISH = """
cd /etc/wireguard/sub
source $argv[1]/wgq.fish
complete -C $argv[2] | string split -f1 \\t
true
"""
SHELLS = {
    "bash": ["bash", "--norc", "-c", BASH, "bash"],
    "zsh": ["zsh", "-f", "-c", ZSH, "zsh"],
    "fish": ["fish", "--no-config", "-c", FISH],
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Namespace]:
    with host() as machine:
        machine.call(_write_files)
        yield machine


def _write_files() -> None:
    for name in ("home.conf", "work.conf", "notes.txt", "a=b.conf", "$(touch ran).conf", "two words.conf"):
        Path("/etc/wireguard", name).touch()
    Path("/etc/wireguard/sub").mkdir()
    Path("/etc/wireguard/sub/other.conf").touch()
    with socket.socket(socket.AF_UNIX) as control:
        control.bind("/var/run/wireguard/live0.sock")


@pytest.fixture(params=SHELLS)
def offered(request: pytest.FixtureRequest, machine: Namespace) -> Callable[[str], set[str]]:
    def complete(line: str) -> set[str]:
        done = machine.run([*SHELLS[request.param], str(COMPLETIONS), line], timeout=120)
        return {word.rstrip("/") for word in done.stdout.split()}

    return complete


def test_the_first_word_completes_to_the_verbs(offered: Callable[[str], set[str]]) -> None:
    assert offered("wgq ") == set(VERBS)
    assert offered("wgq s") == {verb for verb in VERBS if verb.startswith("s")}


def test_up_and_strip_complete_configuration_names_and_files(offered: Callable[[str], set[str]]) -> None:
    assert offered("wgq up ") == {"home", "work", "a=b", "other.conf"}
    assert offered("wgq strip ") == {"home", "work", "a=b", "other.conf"}
    assert offered("wgq up h") == {"home"}


def test_a_name_with_an_equals_sign_completes(offered: Callable[[str], set[str]]) -> None:
    assert {"a=b", "b"} & offered("wgq up a=")  # readline of bash begins a new word after the sign


def test_invalid_interface_names_are_neither_offered_nor_run(
    offered: Callable[[str], set[str]], machine: Namespace
) -> None:
    assert not {"two", "words", "ran"} & offered("wgq up ")
    assert "ran" not in machine.out("ls", "/etc/wireguard/sub").split()


def test_a_path_completes_to_the_files_there(offered: Callable[[str], set[str]]) -> None:
    assert "other.conf" in {Path(word).name for word in offered("wgq up ../sub/o")}  # zsh offers `sub` too


def test_down_and_save_complete_live_interfaces(offered: Callable[[str], set[str]]) -> None:
    assert offered("wgq down ") == {"live0"}
    assert offered("wgq save ") == {"live0"}


def test_each_verb_completes_the_options_in_its_help(offered: Callable[[str], set[str]]) -> None:
    for verb in VERBS:
        assert {word.rstrip("=") for word in offered(f"wgq {verb} --")} == _options(verb)
    assert offered("wgq --") >= _options()


def _options(*verb: str) -> set[str]:
    """The long options in the command's help."""
    shown = subprocess.run(
        [sys.executable, "-m", "wgquick", *verb, "--help"], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", shown.stdout, re.MULTILINE))


def test_the_values_of_an_option_complete(offered: Callable[[str], set[str]]) -> None:
    assert offered("wgq up --backend ") == {"auto", "kernel", "userspace"}
    assert offered("wgq up --firewall i") == {"iptables"}
    assert offered("wgq down --dns ") == {"auto", "resolvconf", "resolved", "file", "off"}


def test_an_option_before_the_name_is_skipped(offered: Callable[[str], set[str]]) -> None:
    assert offered("wgq up --backend kernel h") == {"home"}


@pytest.mark.parametrize("name", completions.FILES)
def test_the_completions_are_up_to_date(name: str) -> None:
    """If this fails, run: python -m wgquick.cli.completions completions"""
    assert (COMPLETIONS / name).read_text() == completions.FILES[name]()


def test_the_completion_of_bash_passes_shellcheck() -> None:
    done = subprocess.run(
        ["shellcheck", str(COMPLETIONS / "wgq.bash")], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
