"""What a daemon is allowed to do, and whether it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.interop.pairs import LINK, WGQ

if TYPE_CHECKING:
    from tests.namespaces import Namespace


CAP_NET_ADMIN = 1 << 12
SECCOMP_FILTER = "2"


def answers(machine: Namespace) -> bool:
    """Whether a started daemon answers: its socket is in place a moment earlier than its link."""
    return machine.run([WGQ, "--features", LINK], check=False).returncode == 0
