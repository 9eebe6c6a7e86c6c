"""CAP_NET_ADMIN, held already (root, a container, an ambient capability) or had through sudo."""

from __future__ import annotations

import os
import sys

import wgquick
from wgquick.errors import WgqError
from wgquick.options import PASSED_TO_ROOT

_CAP_NET_ADMIN = 1 << 12
_REMEDY = "In a container: give it the capability (docker run --cap-add NET_ADMIN)."
# Root's Python may not look where the user's has found the package: a home directory, PYTHONPATH.
_START = "import sys; sys.path.append(sys.argv[1]); del sys.argv[:2]; from wgquick.__main__ import main; main()"
_PROMPT = "wgq must be run as root. Please enter the password for %u to continue: "


def acquire() -> None:
    """Return with CAP_NET_ADMIN, or become the same command under sudo (wg-quick's auto_su)."""
    if _effective_capabilities() & _CAP_NET_ADMIN:
        return
    if os.geteuid() == 0:  # sudo would start the same over and over
        raise WgqError("this needs the capability CAP_NET_ADMIN, and root does not have it here", remedy=_REMEDY)
    kept = ",".join(name for name in PASSED_TO_ROOT if name in os.environ)
    preserve = [f"--preserve-env={kept}"] if kept else []
    # -P: without it root would run whatever is called wgquick in the directory where the user stands.
    start = [sys.executable, "-P", "-c", _START, os.path.abspath(os.path.dirname(wgquick.__path__[0])), *sys.argv]
    command = ["sudo", "-p", _PROMPT, *preserve, "--", *start]
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise WgqError(
            "this needs the capability CAP_NET_ADMIN, and there is no sudo to get it with",
            remedy=f"Run it as root. {_REMEDY}",
        ) from None


def _effective_capabilities() -> int:
    """CapEff of this process, proc(5)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0
