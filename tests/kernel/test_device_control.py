"""Device control with the kernel's WireGuard, in a VM."""

from __future__ import annotations

import pytest

from tests.kernel.device_control import CHECKS

pytestmark = pytest.mark.timeout(7200)  # the first test waits for the kernel's build, the boot and every check


@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_over_the_kernel_module(outcomes: dict[str, str], check: str) -> None:
    assert outcomes[check] == ""
