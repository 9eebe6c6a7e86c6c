"""The kernels of the VM: one that is built here as user-mode Linux, and the distribution's.

    python -m tests.kernel.kernels      build the first, if it is not there, and print its path

User-mode Linux (Documentation/virt/uml in the kernel's source) is the kernel as a program. It has the same
WireGuard and network code, and programs in it run on the real processor, ten times as fast as on an emulated one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_CACHE = Path(__file__).parents[2] / ".cache" / "kernels"
_CONFIG = Path(__file__).with_name("uml.config")
_SUITE = "stable-backports"
# Three fifths of the source, which this kernel does not need. make reads other files in these folders.
_UNUSED = (
    "Documentation/*.rst",
    "Documentation/*.yaml",
    *(f"drivers/{folder}/*.[ch]" for folder in ("gpu", "infiniband", "media", "staging")),
    "sound/*.[ch]",
    "tools/testing/*.[ch]",
)


class VmError(Exception):
    """The VM has no kernel, did not boot or did not finish; the text is the end of its output."""


def chosen() -> Path:
    """The kernel that WGQ_TEST_KERNEL chooses: the path of an image, `distribution`, or the built one if unset."""
    choice = os.environ.get("WGQ_TEST_KERNEL", "")
    return installed() if choice == "distribution" else Path(choice) if choice else built()


def is_user_mode(kernel: Path) -> bool:
    """Whether the file is user-mode Linux: a program and not an image."""
    with kernel.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def installed() -> Path:
    """The newest kernel in /boot with the module."""
    modules = Path("/lib/modules").glob("*/kernel/drivers/net/wireguard/wireguard.ko*")
    found = [image for module in modules if (image := Path(f"/boot/vmlinuz-{module.parts[3]}")).exists()]
    if not found:
        raise VmError("no kernel in /boot has the WireGuard module: scripts/test installs one")
    return max(found, key=lambda image: _version(image.name))


def built() -> Path:
    """User-mode Linux from the newest source of Debian's backports, built once for each `uml.config`.

    On another distribution than Debian the installed kernel. apt verifies the source, which is not installed, and
    the machine's list of package sources stays as it is.
    """
    site = _site()
    if not site:
        return installed()
    _CACHE.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(_CONFIG.read_bytes()).hexdigest()[:12]
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = list(_CACHE.glob(f"linux-*-{digest}"))
        return max(found, key=lambda each: _version(each.name)) if found else _build(site, digest)


def _site() -> str:
    """The address of Debian's packages that this machine uses; an empty text if it uses none."""
    listed = ["apt-get", "indextargets", "--format", "$(SITE)", "Origin: Debian", "Label: Debian"]
    try:
        return next(iter(subprocess.run(listed, capture_output=True, text=True, check=False).stdout.split()), "")
    except FileNotFoundError:
        return ""


def _build(site: str, digest: str) -> Path:
    with tempfile.TemporaryDirectory(dir=_CACHE) as name:
        scratch = Path(name)
        version, archive = _source(site, scratch)
        tree = scratch / "tree"
        tree.mkdir()
        left_out = [f"--exclude=*/{pattern}" for pattern in _UNUSED]
        _run(["tar", "-x", "-f", str(archive), "-C", str(tree), "--strip-components=1", *left_out], scratch)
        make = ["make", "--silent", "ARCH=um", f"--jobs={os.cpu_count()}"]
        _run([*make, f"KCONFIG_ALLCONFIG={_CONFIG}", "allnoconfig"], tree)
        settings = (tree / ".config").read_text().splitlines()
        wanted = [line for line in _CONFIG.read_text().splitlines() if line.startswith("CONFIG_")]
        for missing in set(wanted) - set(settings):
            print(f"{_CONFIG.name}: Linux {version} does not accept {missing}", file=sys.stderr)
        _run([*make, "linux"], tree)
        (tree / "linux").rename(_CACHE / f"linux-{version}-{digest}")
    return _CACHE / f"linux-{version}-{digest}"


def _source(site: str, scratch: Path) -> tuple[str, Path]:
    """The version and the archive of the newest source."""
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
    known = _run(["apt-cache", *options, "pkgnames", "linux-source-"], scratch).split()
    package = max((each for each in known if re.fullmatch(r"linux-source-[\d.]+", each)), key=_version)
    _run(["apt-get", *options, "download", package], scratch)
    (file,) = scratch.glob("*.deb")
    _run(["dpkg-deb", "-x", str(file), str(scratch / "package")], scratch)
    (archive,) = (scratch / "package/usr/src").glob("*.tar.xz")
    return file.name.split("_")[1].split("~")[0], archive


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VmError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout


def _version(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


if __name__ == "__main__":
    print(built())
