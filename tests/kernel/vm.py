"""Boots a kernel on this machine's root file system and runs a module of the tests in it.

WGQ_TEST_KERNEL chooses the kernel (see `tests.kernel.kernels`). User-mode Linux is a program of the host. An image
runs under qemu, through virtme-ng, with one processor: of two emulated ones, each waits for the other in loops (for
a lock, for the answer to an interrupt), and the waiting takes more of the host than the second one gives.
"""

from __future__ import annotations

import compileall
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kernel.kernels import VmError, chosen, is_user_mode
from tests.namespaces import mortal_family

if TYPE_CHECKING:
    from collections.abc import Sequence

PROJECT = Path(__file__).parents[2]
LOGS = PROJECT / ".cache/logs"
MARK = "-- trials --"
LIMIT = 2400  # seconds

USER_MODE_GUEST = Path(__file__).with_name("uml.sh")

GUEST = Path(__file__).with_name("guest.sh")
SHARE = "cached"
# The host's root file system again (guest.sh), and fewer ports than the 31 of each of five serial devices: whenever
# qemu waits, it polls two descriptors for each port.
QEMU = (
    f"-fsdev local,id={SHARE},path=/,security_model=none,readonly=on,multidevs=remap",
    f"-device virtio-9p-pci,fsdev={SHARE},mount_tag={SHARE}",
    "-global virtio-serial-pci.max_ports=2",
)
# The drivers that udev would load for devices of the VM that no test uses, and that take longest to start.
UNUSED = "aesni_intel", "kvm_amd", "psmouse"
# Debian's kernels fill each new page with zeros twice.
PARAMETERS = f"init_on_alloc=0 modprobe.blacklist={','.join(UNUSED)}"


def run(module: str, *arguments: str, kernel: Path | None = None, limit: float = LIMIT) -> list[str]:
    """Boot the kernel, or the chosen one, and run a Python module. Returns the JSON lines that it printed.

    They are also in .cache/logs, with the time that each check took.
    """
    compileall.compile_dir(PROJECT / "tests", quiet=2)  # the VM cannot write, and would compile each module anew
    settings = [f"PYTHONPATH={_python_path()}", f"PATH={_path()}"]
    if steps := os.environ.get("WGQ_TEST_STEPS"):
        settings.append(f"WGQ_TEST_STEPS={steps}")
    python = ["env", "-C", str(PROJECT), *settings, sys.executable, "-m", module, *arguments]
    image = kernel or chosen()
    printed = (_user_mode if is_user_mode(image) else _emulated)(image, python, limit)
    _, _, rest = printed.partition(f"{MARK}\n")
    lines, _, status = rest.partition(MARK)
    if status.split()[:1] != ["0"]:
        raise VmError(f"{module} in the VM failed:\n{printed[-4000:]}")
    found = [line for line in lines.splitlines() if line.startswith("[")]
    if LOGS.is_dir():
        (LOGS / f"vm-{module.rpartition('.')[2]}-{image.name}.jsonl").write_text("\n".join(found))
    return found


def _user_mode(kernel: Path, command: Sequence[str], limit: float) -> str:
    """The output of a command in user-mode Linux.

    The command and its output are files of a folder that the guest can write to, because the output of user-mode
    Linux also has the kernel's messages.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        Path(folder, "command").write_text(f"echo {MARK}; {shlex.join(command)}; echo {MARK} $?\n")
        parameters = ["rootfstype=hostfs", "rootflags=/", "ro", "mem=2G", "quiet", f"init={USER_MODE_GUEST}"]
        # The kernel gives a parameter that it does not know to the first program as a variable.
        console = _ended([str(kernel), *parameters, f"WGQ_TEST_FOLDER={folder}"], limit)
        return console + (output.read_text() if output.exists() else "")


def _emulated(kernel: Path, command: Sequence[str], limit: float) -> str:
    """The output of a command with the kernel in an emulated machine."""
    inside = shlex.join(["unshare", "--mount", "sh", str(GUEST), SHARE, *command])
    return _ended(
        [
            *("vng", "--run", str(kernel), "--disable-kvm", "--user", "root", "--cpus", "1", "--memory", "2G"),
            *(f"--qemu-opts={' '.join(QEMU)}", "--append", PARAMETERS),
            *("--", f"echo {MARK}; {inside}; echo {MARK} $?"),
        ],
        limit,
    )


def _ended(command: Sequence[str], limit: float) -> str:
    """The output of a VM, which ends with its command or at the time limit."""
    vm = subprocess.Popen(
        mortal_family(*command),
        env=os.environ | {"PATH": _path()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        return vm.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        raise VmError(f"the VM did not finish in {limit} s") from None
    finally:
        vm.kill()
        vm.wait()


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def _python_path() -> str:
    """The path of this process, so that the VM tests the same package."""
    return os.pathsep.join(path for path in sys.path if path)
