"""Machines with one of the usual DNS setups: openresolv, Debian's resolvconf, systemd-resolved.

apt-get fetches the packages, and they are unpacked below .cache/, because installing them would take over this
machine's /etc/resolv.conf; the test machine sees them in its /usr and /etc.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.namespaces import WHITEOUTS, Namespace, host
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

UPSTREAM = "192.0.2.53"  # a machine's name server without a tunnel
_CACHE = Path(__file__).parent.parent / ".cache" / "packages"
_SPLIT = ("bin", "sbin", "lib")  # these folders are in /usr


def unpacked(package: str) -> Path:
    """The folder with the package's files, fetched once; it appears only when it is complete."""
    folder = _CACHE / package
    if folder.exists():
        return folder
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # apt-get does not run twice at once
        if not folder.exists():
            fresh = Path(tempfile.mkdtemp(prefix=f"{package}-", dir=_CACHE))
            try:
                _fetch(package, fresh)
                fresh.rename(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _fetch(package: str, folder: Path) -> None:
    download = ["apt-get", "-q", "-o", "Acquire::Retries=5", "download", package]
    if subprocess.run(download, cwd=folder, check=False, capture_output=True).returncode:
        subprocess.run(["apt-get", "-q", "-o", "Acquire::Retries=5", "update"], check=True, capture_output=True)
        subprocess.run(download, cwd=folder, check=True, capture_output=True)
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg", "-x", archive, folder], check=True)
    archive.unlink()
    for part in _SPLIT:
        if (folder / part).exists():
            subprocess.run(["cp", "-a", folder / part, folder / "usr/"], check=True)


def install(machine: Namespace, *packages: str, hidden: str = "") -> None:
    """Show the packages to the machine: an overlay over /usr, without the hidden file, and copies in /etc."""
    folders = [unpacked(package) for package in packages]
    absent = f"{WHITEOUTS}/usr"
    layers = ["/run/.hidden", *(str(folder / "usr") for folder in folders), absent, "/usr"]
    machine.run(["mkdir", "-p", "/run/.hidden", absent])
    if hidden:  # a character device 0:0 hides a file of the layers below (overlayfs.rst, whiteouts)
        machine.run(["mkdir", "-p", f"/run/.hidden/{Path(hidden).parent}"])
        machine.run(["mknod", f"/run/.hidden/{hidden}", "c", "0", "0"])
    machine.run(["mount", "-t", "overlay", "-o", f"lowerdir={':'.join(layers)}", "overlay", "/usr"])
    for folder in folders:
        if (folder / "etc").exists():
            machine.run(["cp", "-a", f"{folder}/etc/.", "/etc/"])


@contextlib.contextmanager
def openresolv() -> Iterator[Namespace]:
    """A machine with openresolv and one record."""
    with host() as machine:
        install(machine, "openresolv")
        machine.run(["resolvconf", "-a", "up0"], input=f"nameserver {UPSTREAM}\n")
        yield machine


@contextlib.contextmanager
def debian_resolvconf() -> Iterator[Namespace]:
    """A machine with Debian's resolvconf, set up like by its installation."""
    with host() as machine:
        install(machine, "resolvconf")
        machine.run(["mkdir", "-p", "/run/resolvconf/interface"])
        machine.run(["ln", "-sf", "/run/resolvconf/resolv.conf", "/etc/resolv.conf"])
        machine.run(["resolvconf", "--enable-updates"])
        machine.run(["resolvconf", "-a", "up0.inet"], input=f"nameserver {UPSTREAM}\n")
        yield machine


@contextlib.contextmanager
def plain() -> Iterator[Namespace]:
    """A machine with only /etc/resolv.conf."""
    with host() as machine:
        yield machine


_ASK = (
    "dbus-send",
    "--system",
    "--print-reply",
    "--dest=org.freedesktop.DBus",
    "/org/freedesktop/DBus",
    "org.freedesktop.DBus.NameHasOwner",
    "string:org.freedesktop.resolve1",
)
_USERS = """
id -u systemd-resolve >/dev/null 2>&1 || {
    echo 'systemd-resolve:x:990:' >>/etc/group
    echo 'systemd-resolve:x:990:990::/:/usr/sbin/nologin' >>/etc/passwd
}
"""


@contextlib.contextmanager
def resolved(*, resolvconf: bool = False) -> Iterator[Namespace]:
    """A machine with systemd-resolved on its own system bus, with or without the link named resolvconf."""
    with host() as machine:
        install(machine, "libsystemd-shared", "systemd-resolved", hidden="" if resolvconf else "sbin/resolvconf")
        machine.run(["sh", "-c", _USERS])
        machine.run(["mkdir", "-p", "/run/dbus", "/run/systemd"])
        machine.run(["ln", "-sf", "/run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf"])
        machine.popen(["sh", "-c", "exec dbus-daemon --system --nofork --nopidfile 2>/run/dbus/log"])
        until(lambda: machine.run(_ASK, check=False).returncode == 0, "a bus")
        machine.popen(["sh", "-c", "exec /usr/lib/systemd/systemd-resolved 2>/run/systemd/log"])
        until(lambda: "boolean true" in machine.out(*_ASK), "resolved")
        yield machine
