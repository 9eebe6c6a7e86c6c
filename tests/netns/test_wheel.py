"""The built wheel works on a machine without a compiler; it and its dependencies install from wheels.

`WGQ_WHEEL` is the path of the wheel, which scripts/test builds; without it the test builds one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import wgquick

if TYPE_CHECKING:
    from tests.namespaces import Namespace

PROJECT = Path(__file__).parents[2]
COMPILERS = ("cc", "gcc", "c99", "clang", "cargo")
INTERFACE = """[Interface]
PrivateKey = 2MtBlbfEoJf5kqHjTNmNhDhM1hCZgsXWaGP9UTdBVUo=
Address = 10.0.0.2/24
PostUp = echo up
"""
PEER = """[Peer]
PublicKey = cPkfAcaIBvRgBnIRqOYK2vCVqZt2LTZyxdxDyNKEWzE=
AllowedIPs = 0.0.0.0/0
"""
PROGRAMS = """
mkdir /run/programs
ln -s /bin/bash /run/programs
for part in restore save; do ln -s /usr/sbin/xtables-legacy-multi /run/programs/iptables-$part; done
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel under test."""
    if given := os.environ.get("WGQ_WHEEL"):
        return Path(given).resolve()
    made = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(made), str(PROJECT)]
    subprocess.run(build, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(PROJECT / "userspace/target")})
    return next(made.glob("wgq-*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a virtual environment with the wheel and its dependencies, installed only from wheels."""
    venv = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    environment = {**os.environ, "PATH": str(venv / "bin")}
    assert not any(shutil.which(compiler, path=environment["PATH"]) for compiler in COMPILERS)
    install = ["pip", "install", "--quiet", "--only-binary", ":all:", str(wheel)]
    subprocess.run([venv / "bin/python", "-m", *install], check=True, env=environment)
    return environment


def wgq(environment: dict[str, str]) -> str:
    return f"{environment['PATH'].partition(':')[0]}/wgq"


def test_the_wheel_installs_without_a_compiler(environment: dict[str, str], tmp_path: Path) -> None:
    version = subprocess.check_output([wgq(environment), "--version"], text=True, env=environment)
    assert wgquick.__version__ in version
    file = tmp_path / "wg0.conf"
    file.write_text(INTERFACE + PEER)
    file.chmod(0o600)
    stripped = subprocess.check_output([wgq(environment), "strip", str(file)], text=True, env=environment)
    assert stripped == INTERFACE.partition("Address")[0] + PEER + "\n"
    python = wgq(environment).removesuffix("wgq") + "python"
    found = subprocess.run(
        [python, "-c", "import iptc"], capture_output=True, text=True, env=environment, check=False
    )
    assert "No module named 'iptc'" in found.stderr


@pytest.mark.parametrize("firewall", ["nft", "iptables"])
def test_the_installed_wheel_brings_a_full_tunnel_up_and_down(
    machine: Namespace, environment: dict[str, str], firewall: str
) -> None:
    machine.run(["sh", "-ec", PROGRAMS])
    machine.run(["sh", "-c", "umask 077; cat >/etc/wireguard/wg0.conf"], input=INTERFACE + PEER)
    user = ["env", f"PATH={environment['PATH']}:/run/programs"]
    machine.run([*user, wgq(environment), "up", "--firewall", firewall, "wg0"])
    assert "peer: cPkfAcaIBvRgBnIRqOYK2vCVqZt2LTZyxdxDyNKEWzE=" in machine.out("wg", "show", "wg0")
    assert len(legacy_rules(machine)) == (3 if firewall == "iptables" else 0)
    machine.run([*user, wgq(environment), "down", "wg0"])
    assert "wg0" not in machine.out("ip", "link")
    assert legacy_rules(machine) == []
    assert machine.out("ip", "rule").count("\n") == 3


def legacy_rules(machine: Namespace) -> list[str]:
    return [line for line in machine.out("iptables-legacy-save").splitlines() if line.startswith("-A")]
