"""Boots a kernel with the WireGuard module under qemu, through virtme-ng, on this machine's root file system.

WGQ_TEST_KERNEL chooses the kernel: `newer` (see `tests.kernel.kernels`) or the path of an image; by default the
distribution's.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.interop.pairs import WGQ
from tests.kernel.kernels import VmError, chosen
from tests.namespaces import mortal_family
from tests.parity.trial import USERSPACE

PROJECT = Path(__file__).parents[2]
LOGS = PROJECT / ".cache/logs"
GUEST = Path(__file__).with_name("guest.sh")
MARK = "-- trials --"
LIMIT = 1500  # seconds; without KVM a boot takes 20 of them, and all trials some minutes

# The programs that trials and tunnels start often.
PROGRAMS = (
    *("bash", "sh", "cat", "chmod", "cp", "env", "grep", "kill", "ls", "mkdir", "mount", "mv", "nsenter", "printf"),
    *("readlink", "rm", "sed", "seq", "sleep", "sort", "stat", "sync", "sysctl", "touch", "true", "unshare"),
    *("ip", "ldconfig", "nft", "ping", "setpriv", "wg", "xtables-legacy-multi"),
)


def run(folder: Path, module: str, *arguments: str, kernel: Path | None = None, limit: float = LIMIT) -> list[str]:
    """Boot the kernel, or the chosen one, and run a Python module. Returns the JSON lines that it printed.

    They are also in .cache/logs, for whoever wants to know which check takes how long.
    """
    archive = folder / "programs.tar"
    _pack(archive)
    settings = [f"PYTHONPATH={_python_path()}", f"PATH={os.environ['PATH']}"]
    python = ["env", "-C", str(PROJECT), *settings, sys.executable, "-m", module, *arguments]
    inside = shlex.join(["unshare", "--mount", "sh", str(GUEST), str(archive), *python])
    image = kernel or chosen()
    printed = _boot(image, f"echo {MARK}; {inside}; echo {MARK} $?", limit)
    _, _, rest = printed.partition(f"{MARK}\n")
    lines, _, status = rest.partition(MARK)
    if status.split()[:1] != ["0"]:
        raise VmError(f"{module} in the VM failed:\n{printed[-4000:]}")
    found = [line for line in lines.splitlines() if line.startswith("[")]
    if LOGS.is_dir():
        (LOGS / f"vm-{module.rpartition('.')[2]}-{image.name}.jsonl").write_text("\n".join(found))
    return found


def _boot(kernel: Path, command: str, limit: float) -> str:
    """The output of a command in a VM with the kernel, which ends with the command or at the time limit."""
    vm = subprocess.Popen(
        mortal_family(
            *("vng", "--run", str(kernel), "--disable-kvm", "--user", "root", "--cpus", "2", "--memory", "2G"),
            *("--", command),
        ),
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return vm.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        raise VmError(f"the VM did not finish in {limit} s") from None
    finally:
        vm.kill()
        vm.wait()


def _python_path() -> str:
    """The path of this process, so that the VM tests the same package."""
    return os.pathsep.join(path for path in sys.path if path)


def _pack(archive: Path) -> None:
    """The programs with their libraries and iptables' extensions, at their own paths (/lib is a link)."""
    with tarfile.open(archive, "w") as tar:
        for path in sorted(_needed()):
            tar.add(path.resolve(), arcname=str(path.parent.resolve() / path.name), recursive=False)


def _needed() -> set[Path]:
    programs = {_found(name) for name in (*PROGRAMS, USERSPACE, WGQ)}
    extensions = set(Path("/usr/lib").glob("*/xtables/*.so"))
    return programs | extensions | {library for program in programs for library in _libraries(program)}


def _found(name: str) -> Path:
    path = shutil.which(name)
    if path is None:
        raise VmError(f"{name} is not installed: scripts/test installs it")
    return Path(os.path.normpath(path))


def _libraries(program: Path) -> list[Path]:
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", listed)]
