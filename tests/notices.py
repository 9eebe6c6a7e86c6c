"""Generates THIRD-PARTY-NOTICES: the licences of the crates that wgq-userspace is linked with.

Run `python -m tests.notices` after a change of the crate's dependencies.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parent.parent
NOTICES = PROJECT / "THIRD-PARTY-NOTICES"
MANIFEST = PROJECT / "userspace" / "Cargo.toml"
# The architectures that the daemon's system call filter supports.
TARGETS = [f"{architecture}-unknown-linux-gnu" for architecture in ("x86_64", "aarch64", "riscv64gc")]
# The licences in order of preference, and a part of the name of each licence's file.
PREFERRED = {"MIT": "MIT", "BSD-3-Clause": "BSD", "Apache-2.0": "APACHE"}

HEADING = """\
wgq-userspace is linked with the crates below and with Rust's standard library. Their licences follow.

========================================================================
The Rust standard library (MIT OR Apache-2.0): Copyright (c) The Rust Project Contributors.
Its licences and those of the code in it: https://doc.rust-lang.org/stable/COPYRIGHT-library.html
"""


class Crate(NamedTuple):
    name: str
    version: str
    licence: str
    folder: Path


def cargo(*arguments: str) -> str:
    command = ["cargo", *arguments, "--manifest-path", str(MANIFEST), "--locked"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def linked_names(target: str) -> set[tuple[str, str]]:
    """Name and version of each crate linked for a target, without crates for tests or building."""
    tree = cargo("tree", "--edges", "normal,no-proc-macro", "--target", target, "--prefix", "none")
    found = (re.match(r"(\S+) v(\S+)", line) for line in tree.splitlines())
    return {(match[1], match[2]) for match in found if match}


def linked_for(target: str) -> set[Crate]:
    """The crates linked for a target; crates of other targets are not downloaded."""
    names = linked_names(target)
    packages = json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", target))["packages"]
    return {
        Crate(each["name"], each["version"], each["license"], Path(each["manifest_path"]).parent)
        for each in packages
        if (each["name"], each["version"]) in names and each["source"]
    }


def linked() -> list[Crate]:
    """All linked crates except our own."""
    return sorted(set().union(*(linked_for(target) for target in TARGETS)))


def chosen(licence: str) -> str | None:
    """The part of a file name that belongs to the chosen licence; None if there is no choice."""
    if " AND " in licence or " OR " not in licence:
        return None
    options = re.split(r" OR |/", licence.strip("()"))
    return next(part for name, part in PREFERRED.items() if name in options)


def texts(crate: Crate) -> list[str]:
    """The licence texts and notices of a crate."""
    files = [path for path in sorted(crate.folder.rglob("*")) if path.is_file()]
    licences = [path for path in files if re.match("LICEN[CS]E|COPYING", path.name.upper())]
    part = chosen(crate.licence)
    named = [path for path in licences if part is not None and part in path.name.upper()]
    notices = [path for path in files if re.match("NOTICE|COPYRIGHT", path.name.upper())]
    if not licences:
        raise FileNotFoundError(f"{crate.name} {crate.version} comes without its licence")
    return [path.read_text().strip() for path in [*(named or licences), *notices]]


def generate() -> str:
    """The text of the file; crates with the same licence texts share them."""
    groups: dict[tuple[str, ...], list[Crate]] = {}
    for crate in linked():
        groups.setdefault(tuple(texts(crate)), []).append(crate)
    sections = [HEADING]
    for shared, crates in groups.items():
        names = [f"{each.name} {each.version} ({each.licence})" for each in crates]
        sections.append("\n".join(["=" * 72, *names, ""]))
        sections.extend(f"{text}\n" for text in shared)
    return "\n".join(sections)


if __name__ == "__main__":
    NOTICES.write_text(generate())
