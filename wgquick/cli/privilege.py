"""Acquires CAP_NET_ADMIN: the process has it (root, a container, an ambient capability), or sudo gives it."""

from __future__ import annotations

import os
import sys

from wgquick import reexec
from wgquick.errors import WgqError
from wgquick.options import PASSED_TO_ROOT

_CAP_NET_ADMIN = 1 << 12
_REMEDY = "In a container: give it the capability (docker run --cap-add NET_ADMIN)."
_PROMPT = "wgq must be run as root. Please enter the password for %u to continue: "


def acquire() -> None:
    """Return if the process has CAP_NET_ADMIN, else run the same command under sudo (wg-quick's auto_su)."""
    if _effective_capabilities() & _CAP_NET_ADMIN:
        return
    if os.geteuid() == 0:  # sudo would start the same command again and again
        raise WgqError("this needs the capability CAP_NET_ADMIN, which root does not have here", remedy=_REMEDY)
    kept = ",".join(name for name in PASSED_TO_ROOT if name in os.environ)
    preserve = [f"--preserve-env={kept}"] if kept else []
    command = ["sudo", "-p", _PROMPT, *preserve, "--", *reexec.command(sys.argv)]
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise WgqError(
            "this needs the capability CAP_NET_ADMIN, and sudo is not installed",
            remedy=f"Run it as root. {_REMEDY}",
        ) from None


def _effective_capabilities() -> int:
    """CapEff of this process, proc(5)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0
