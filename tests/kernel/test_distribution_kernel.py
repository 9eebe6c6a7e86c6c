"""The most important checks with the kernel's WireGuard of a newer kernel, in a VM."""

from __future__ import annotations

import json

import pytest

from tests.kernel import vm
from tests.kernel.checks import ON_A_NEWER_KERNEL
from tests.kernel.kernels import newer

pytestmark = pytest.mark.timeout(2500)  # the first test waits for the boot and for every check
NAMES = [check.__name__ for check in ON_A_NEWER_KERNEL]


@pytest.fixture(scope="module")
def on_a_newer_kernel() -> dict[str, str]:
    lines = vm.run("tests.kernel.checks", *NAMES, kernel=newer())
    return {name: outcome for name, _, outcome in map(json.loads, lines)}


@pytest.mark.parametrize("check", NAMES)
def test_over_the_module_of_a_newer_kernel(on_a_newer_kernel: dict[str, str], check: str) -> None:
    assert on_a_newer_kernel[check] == ""
