"""Boots a kernel with the WireGuard module under qemu, through virtme-ng, on this machine's root file system.

The VM has one processor. Of two emulated ones, each waits for the other in loops (for a lock, for the answer to an
interrupt), and the waiting takes more of the host's processors than the second one gives.

WGQ_TEST_KERNEL chooses the kernel: `newer` (see `tests.kernel.kernels`) or the path of an image; by default the
distribution's.
"""

from __future__ import annotations

import compileall
import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.kernel.kernels import VmError, chosen
from tests.namespaces import mortal_family

PROJECT = Path(__file__).parents[2]
LOGS = PROJECT / ".cache/logs"
GUEST = Path(__file__).with_name("guest.sh")
MARK = "-- trials --"
LIMIT = 2400  # seconds; without KVM a boot takes 20 of them, and all trials some minutes

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
    settings = [f"PYTHONPATH={_python_path()}", f"PATH={os.environ['PATH']}"]
    if steps := os.environ.get("WGQ_TEST_STEPS"):
        settings.append(f"WGQ_TEST_STEPS={steps}")
    python = ["env", "-C", str(PROJECT), *settings, sys.executable, "-m", module, *arguments]
    inside = shlex.join(["unshare", "--mount", "sh", str(GUEST), SHARE, *python])
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
            *("vng", "--run", str(kernel), "--disable-kvm", "--user", "root", "--cpus", "1", "--memory", "2G"),
            *(f"--qemu-opts={' '.join(QEMU)}", "--append", PARAMETERS, "--", command),
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
