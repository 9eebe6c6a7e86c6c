"""Captures of handshakes at the kernel's WireGuard, in a VM."""

from __future__ import annotations

import pytest

from tests.kernel import signatures

pytestmark = pytest.mark.timeout(7200)  # the first test waits for the kernel's build, the boot and every check


@pytest.mark.parametrize("check", signatures.CHECKS)
def test_a_capture_at_the_kernels_wireguard(outcomes: dict[str, str], check: str) -> None:
    assert outcomes[check] == ""
