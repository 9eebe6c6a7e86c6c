"""The kernels that the VM boots: the distribution's, and a newer one from Debian's backports."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

_CACHE = Path(__file__).parents[2] / ".cache" / "kernels"
_PARTS = ("linux-binary", "linux-modules")  # the packages of one kernel
_SUITE = "stable-backports"


class VmError(Exception):
    """The VM has no kernel, did not boot or did not finish; the text is the end of its output."""


def chosen() -> Path:
    """The image that WGQ_TEST_KERNEL chooses."""
    choice = os.environ.get("WGQ_TEST_KERNEL", "")
    return newer() if choice == "newer" else Path(choice) if choice else installed()


def installed() -> Path:
    """The newest kernel in /boot with the module."""
    modules = Path("/lib/modules").glob("*/kernel/drivers/net/wireguard/wireguard.ko*")
    found = [image for module in modules if (image := Path(f"/boot/vmlinuz-{module.parts[3]}")).exists()]
    if not found:
        raise VmError("no kernel in /boot has the WireGuard module: scripts/test installs one")
    return max(found, key=_version)


def newer() -> Path:
    """The newest kernel of Debian's backports, fetched once; on another distribution the installed one.

    apt verifies the packages. They are unpacked below .cache/ and not installed, and the machine's list of sources
    stays as it is.
    """
    site = _site()
    if not site:
        return installed()
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (found := list(_CACHE.glob("*/boot/vmlinuz-*"))):
            found = [_fetched(site)]
    return max(found, key=_version)


def _site() -> str:
    """The address of Debian's packages that this machine uses; an empty text if it uses none."""
    listed = ["apt-get", "indextargets", "--format", "$(SITE)", "Origin: Debian", "Label: Debian"]
    try:
        return next(iter(subprocess.run(listed, capture_output=True, text=True, check=False).stdout.split()), "")
    except FileNotFoundError:
        return ""


def _fetched(site: str) -> Path:
    """The image, in a folder that virtme-ng takes for a root: boot/vmlinuz-VERSION, lib/modules/VERSION."""
    with tempfile.TemporaryDirectory(dir=_CACHE) as name:
        scratch, root = Path(name), Path(name, "root")
        (scratch / "lists" / "partial").mkdir(parents=True)
        (scratch / "cache" / "archives" / "partial").mkdir(parents=True)
        (scratch / "sources.list").write_text(f"deb {site} {_SUITE} main\n")
        settings = {
            "Dir::Etc::SourceList": scratch / "sources.list",
            "Dir::Etc::SourceParts": "-",
            "Dir::State::Lists": scratch / "lists",
            "Dir::Cache": scratch / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": 5,
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        _run(["apt-get", *options, "update"], scratch)
        known = _run(["apt-cache", *options, "pkgnames", "linux-modules-"], scratch).split()
        versions = [each.removeprefix("linux-modules-") for each in known]
        version = max((each for each in versions if re.fullmatch(r"[\d.]+\+deb\d+-amd64", each)), key=_version_of)
        _run(["apt-get", *options, "download", *(f"{part}-{version}" for part in _PARTS)], scratch)
        for package in scratch.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(package), str(root)], scratch)
        (root / "lib").symlink_to("usr/lib")
        (root / "boot").mkdir()
        shutil.move(root / "lib/modules" / version / "vmlinuz", root / "boot" / f"vmlinuz-{version}")
        _run(["depmod", "-b", str(root), version], scratch)
        root.rename(_CACHE / version)
    return _CACHE / version / "boot" / f"vmlinuz-{version}"


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VmError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout


def _version(image: Path) -> list[int]:
    return _version_of(image.name)


def _version_of(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]
