"""The clock is set while a tunnel runs, in a VM, as all processes share one clock."""

from __future__ import annotations

import pytest

from tests.kernel.clock import CHECKS

pytestmark = pytest.mark.timeout(7200)  # the first test waits for the kernel's build, the boot and every check


@pytest.mark.parametrize("check", CHECKS)
def test_a_tunnel_works_while_the_clock_is_set(outcomes: dict[str, str], check: str) -> None:
    assert outcomes[check] == ""
