"""The built wheel works on a fresh Debian without a compiler; it and its dependencies install from wheels.

`WGQ_WHEEL` is the path of the wheel, which scripts/test builds; without it the test builds one.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import wgquick
from tests.netns.conftest import fresh_machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

pytestmark = pytest.mark.timeout(900)  # the first test makes the system

PROJECT = Path(__file__).parents[2]
PACKAGES = "python3-venv,iptables"
COMPILERS = ("usr/bin/cc", "usr/bin/gcc", "usr/bin/cargo", "usr/include/stdio.h")
INTERFACE = """[Interface]
PrivateKey = 2MtBlbfEoJf5kqHjTNmNhDhM1hCZgsXWaGP9UTdBVUo=
Address = 10.0.0.2/24
PostUp = echo up
"""
PEER = """[Peer]
PublicKey = cPkfAcaIBvRgBnIRqOYK2vCVqZt2LTZyxdxDyNKEWzE=
AllowedIPs = 0.0.0.0/0
"""
INSTALL = """
python3 -m venv /venv
/venv/bin/pip install --quiet --no-index --find-links /wheels wgq
"""
# The programs that a hook and the legacy iptables need, and no other.
PROGRAMS = """
mkdir -p /programs
ln -s /bin/bash /programs
for part in restore save; do ln -s /usr/sbin/xtables-legacy-multi /programs/iptables-$part; done
"""
MOUNTS = """
for folder in proc sys dev run etc/wireguard; do mkdir -p $0/$folder; mount --rbind /$folder $0/$folder; done
"""


def _wheel(folder: Path) -> Path:
    """The wheel under test."""
    if given := os.environ.get("WGQ_WHEEL"):
        return Path(given).resolve()
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(PROJECT)]
    subprocess.run(build, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(PROJECT / "userspace/target")})
    return next(folder.glob("wgq-*.whl"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The root of a fresh system like this one, with a virtual environment that has the wheel."""
    root, built = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("built")
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    bootstrap = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        '--aptopt=Acquire::Retries "5"',
        f"--include={PACKAGES}",
        suite,
        str(root),
    ]
    subprocess.run(bootstrap, check=True)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
    subprocess.run([*download, "--dest", root / "wheels", _wheel(built)], check=True)
    assert not [each for each in COMPILERS if (root / each).exists()]
    subprocess.run(
        ["chroot", root, "env", "-i", "PATH=/usr/bin:/usr/sbin", "sh", "-ec", INSTALL + PROGRAMS], check=True
    )
    yield str(root)
    shutil.rmtree(root)


@pytest.fixture
def system(root: str) -> Iterator[Namespace]:
    """A machine on which that root can be entered."""
    with fresh_machine() as machine:
        machine.run(["sh", "-ec", MOUNTS, root])
        yield machine


def wgq(root: str, *arguments: str) -> list[str]:
    return ["chroot", root, "env", "-i", "PATH=/venv/bin:/programs", "/venv/bin/wgq", *arguments]


def test_the_wheel_installs_without_a_compiler(root: str) -> None:
    version = subprocess.check_output(wgq(root, "--version"), text=True)
    assert wgquick.__version__ in version
    file = Path(root, "etc/wg0.conf")
    file.write_text(INTERFACE + PEER)
    file.chmod(0o600)
    stripped = subprocess.check_output(wgq(root, "strip", "/etc/wg0.conf"), text=True)
    assert stripped == INTERFACE.partition("Address")[0] + PEER + "\n"
    python = ["chroot", root, "/venv/bin/python", "-c", "import iptc"]
    found = subprocess.run(python, capture_output=True, text=True, check=False)
    assert "No module named 'iptc'" in found.stderr


@pytest.mark.parametrize("firewall", ["nft", "iptables"])
def test_the_installed_wheel_brings_a_full_tunnel_up_and_down(root: str, system: Namespace, firewall: str) -> None:
    system.run(["sh", "-c", "umask 077; cat >/etc/wireguard/wg0.conf"], input=INTERFACE + PEER)
    system.run(wgq(root, "up", "--firewall", firewall, "wg0"))
    assert "peer: cPkfAcaIBvRgBnIRqOYK2vCVqZt2LTZyxdxDyNKEWzE=" in system.out("wg", "show", "wg0")
    assert len(legacy_rules(system)) == (3 if firewall == "iptables" else 0)
    system.run(wgq(root, "down", "wg0"))
    assert "wg0" not in system.out("ip", "link")
    assert legacy_rules(system) == []
    assert system.out("ip", "rule").count("\n") == 3


def legacy_rules(machine: Namespace) -> list[str]:
    return [line for line in machine.out("iptables-legacy-save").splitlines() if line.startswith("-A")]
