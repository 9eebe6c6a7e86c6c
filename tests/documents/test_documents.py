"""Every command in the documentation does what the page shows."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.documents.page import Command, File, Program, Text, fits, steps
from tests.namespaces import host
from tests.waiting import until
from wgquick.diagnosis.codes import CODES
from wgquick.options import OPTIONS, PASSED_TO_ROOT, VERBS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


@contextlib.contextmanager
def machines() -> Iterator[dict[str, Namespace]]:
    """alice and bob, connected by a veth, 192.0.2.1 and 192.0.2.2; a page with one machine runs on alice."""
    with host() as alice, host() as bob:
        for machine in (alice, bob):
            machine.run(["sh", "-c", "echo nameserver 192.0.2.53 >/etc/resolv.conf"])
        keeper = bob.paths["net"].split("/")[2]
        alice.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", keeper])
        for machine, number in ((alice, 1), (bob, 2)):
            machine.run(["sh", "-c", OWN_HOME])
            machine.run(["ip", "address", "add", f"192.0.2.{number}/24", "dev", "eth0"])
            machine.run(["ip", "link", "set", "eth0", "up"])
            machine.run(["ip", "route", "add", "default", "via", f"192.0.2.{3 - number}"])
        # linkwatch_event() of the kernel notices later that both ends are up; until then packets are dropped.
        until(lambda: all(_has_carrier(machine) for machine in (alice, bob)), "a carrier at both ends")
        yield {"": alice, "alice": alice, "bob": bob}


def _has_carrier(machine: Namespace) -> bool:
    return "LOWER_UP" in machine.out("ip", "-o", "link", "show", "eth0").split("<")[1].split(">")[0].split(",")


# What the pages write in /root stays on the machine; the programs that are installed there can be run.
OWN_HOME = """
mkdir -p /run/.home/upper /run/.home/work
mount -t overlay -o lowerdir=/root,upperdir=/run/.home/upper,workdir=/run/.home/work overlay /root
"""


def environment() -> dict[str, str]:
    """An environment with the wgq under test first in PATH, without colours and with English messages."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "WG_COLOR_MODE": "never",
    }


def runnable(path: Path) -> list[File | Command | Program]:
    """The steps of a page that are run."""
    return [step for step in steps(path.read_text()) if not isinstance(step, Text)]


@pytest.mark.parametrize("path", [path for path in PAGES if runnable(path)], ids=lambda path: path.name)
def test_a_page_shows_what_happens(path: Path) -> None:
    with machines() as hosts:
        for step in runnable(path):
            _do(step, hosts)


def _do(step: File | Command | Program, hosts: dict[str, Namespace]) -> None:
    match step:
        case File(name, path, text):
            write = ["sh", "-c", 'mkdir -p "$(dirname "$1")"; umask 077; cat >"$1"', "sh", path]
            hosts[name].run(write, input=text)
        case Program(text):
            hosts[""].run([sys.executable, "-"], input=text, env=environment() | {"WG_CONFIG": CONFIG})
        case Command(name, text, output):
            done = hosts[name].run(["bash", "-c", f"cd /root; {text}"], check=False, env=environment())
            printed = done.stdout + done.stderr
            shows_failure = "exit status" in text or "|| true" in text
            assert done.returncode == 0 or output or shows_failure, f"{text}\n{printed}"
            if output:
                assert fits(output, printed), f"{text}\nprints\n{printed}\nand the page shows\n" + "\n".join(output)


CONFIG = """[Interface]
PrivateKey = 2GFXZ/Dq4XgPKhoOsJ4iMgIjmxl/jmJ9GHGHJuUTtnU=
Address = 10.6.0.2/24
"""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_that_are_not_run_have_a_reason(path: Path) -> None:
    for step in steps(path.read_text()):
        if isinstance(step, Text):
            assert step.why, step.text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_existing_pages_and_headings(path: Path) -> None:
    for target, heading in LINK.findall(path.read_text()):
        page = (path.parent / target) if target else path
        assert page.exists(), target
        if heading:
            assert heading in {_anchor(line) for line in page.read_text().splitlines()}, heading


def _anchor(line: str) -> str:
    return re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") if line.startswith("#") else ""


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readme_has_the_median_time_of_doctor() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text()
    faults = text.partition("| fault |")[2].partition("| healthy tunnel |")[0]
    rows = [row for row in faults.splitlines() if row.startswith("| ") and "`" in row]
    median = statistics.median(float(each) for each in re.findall(r"([\d.]+) s \|", faults))
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"tested with {len(rows)} faults" in readme
    assert f"after {median:.1f} seconds" in readme


def test_the_reference_is_complete() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    names = [f"`--{name}" for name in OPTIONS] + [f"`wgq {name}" for name in VERBS]
    names += [f"`{name}`" for name in CODES] + [f"`{name}" for name in PASSED_TO_ROOT]
    assert [name for name in names if name not in text] == []


def test_the_reference_has_the_verbs_of_each_option() -> None:
    text = (ROOT / "docs" / "reference.md").read_text().partition("\n## Options\n")[2].partition("\n## ")[0]
    found: dict[str, set[str]] = {}
    for row in text.splitlines():
        _, options, verbs, *_ = [*re.split(r"(?<!\\)\|", row), "", ""]
        for name in re.findall(r"`--([a-z-]+)", options):
            found.setdefault(name, set()).update(each.split()[0] for each in verbs.split(","))
    taken = {name: {verb.name for verb in VERBS.values() if name in verb.options} for name in OPTIONS}
    assert found == taken


def test_no_page_names_this_machine() -> None:
    for path in PAGES:
        assert os.fspath(ROOT) not in path.read_text()
