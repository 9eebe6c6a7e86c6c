"""The checks that depend on the age of the kernel, with the distribution's kernel, in an emulated machine."""

from __future__ import annotations

import json

import pytest

from tests.kernel import vm
from tests.kernel.checks import ON_THE_DISTRIBUTIONS_KERNEL
from tests.kernel.kernels import installed

pytestmark = pytest.mark.timeout(7200)  # the first test waits for the kernel's build, the boot and every check
NAMES = [check.__name__ for check in ON_THE_DISTRIBUTIONS_KERNEL]


@pytest.fixture(scope="module")
def on_the_distributions_kernel() -> dict[str, str]:
    lines = vm.run("tests.kernel.checks", *NAMES, kernel=installed())
    return {name: outcome for name, _, outcome in map(json.loads, lines)}


@pytest.mark.parametrize("check", NAMES)
def test_over_the_distributions_kernel(on_the_distributions_kernel: dict[str, str], check: str) -> None:
    assert on_the_distributions_kernel[check] == ""
