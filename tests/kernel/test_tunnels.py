"""wgq-userspace at one end of a tunnel and the kernel's WireGuard at the other, in a VM."""

from __future__ import annotations

import pytest

from tests.kernel.tunnels import AGED, CHECKS

pytestmark = pytest.mark.timeout(7200)  # the first test waits for the kernel's build, the boot and every check


@pytest.mark.parametrize("check", [*CHECKS, *AGED])
def test_wgq_userspace_works_with_the_kernels_wireguard(outcomes: dict[str, str], check: str) -> None:
    assert outcomes[check] == ""
