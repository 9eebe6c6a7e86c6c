"""`wgq up`, `reload` and `show` over the kernel's own WireGuard, in a VM."""

from __future__ import annotations

import pytest

from tests.kernel.verbs import CLAIMS

pytestmark = pytest.mark.timeout(1600)  # the first test waits for the boot and for every claim


@pytest.mark.parametrize("claim", [claim.__name__ for claim in CLAIMS])
def test_over_the_kernel_module(outcomes: dict[str, str], claim: str) -> None:
    assert outcomes[claim] == ""
