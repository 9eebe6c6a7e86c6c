"""`wgq up`, `reload` and `show` with the kernel's WireGuard, in a VM."""

from __future__ import annotations

import pytest

from tests.kernel import messages, sessions, traffic, verbs

EVERY = (*verbs.CHECKS, *messages.CHECKS, *traffic.CHECKS, *sessions.CHECKS)
pytestmark = pytest.mark.timeout(7200)  # the first test waits for the kernel's build, the boot and every check


@pytest.mark.parametrize("check", [check.__name__ for check in EVERY])
def test_over_the_kernel_module(outcomes: dict[str, str], check: str) -> None:
    assert outcomes[check] == ""
