"""Faults of the matrix over the kernel's own WireGuard, to be tried inside the VM."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from tests.faults.matrix import FAULTS, HEALTHY
from tests.faults.trial import attempt
from tests.interop.pairs import KERNEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.matrix import Case

WARM = (
    "cryptography.hazmat.primitives.ciphers.aead",
    "wgquick.diagnosis.doctor.examination",
    "wgquick.system.inspection",
)
for module in WARM:
    import_module(module)  # once here, or else in the fork of every case

# Those that the backend has a part in: what it sends, tells and counts.
_NAMES = (
    "the own firewall drops what goes out",
    "the other end is not up",
    "the other end has a preshared key",
    "the own firewall drops the answers",
    "the other end's AllowedIPs lack this address",
    "the server's firewall drops the port",
    "a client and a server",
)


def _is_named(case: Case) -> None:
    outcome = attempt(case, KERNEL)
    assert not outcome.fault, outcome.fault
    assert outcome.code == case.code if case.code else not outcome.loud, outcome.text


_CASES = {case.name: case for case in (*FAULTS, *HEALTHY)}
CHECKS: dict[str, Callable[[], None]] = {name: partial(_is_named, _CASES[name]) for name in _NAMES}
