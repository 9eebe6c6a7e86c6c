"""The clock is set while a tunnel runs, in a separate VM, as all processes share one clock."""

from __future__ import annotations

import json

import pytest

from tests.kernel import vm
from tests.kernel.clock import FAR_ENDS

pytestmark = pytest.mark.timeout(1600)  # a boot may take vm.LIMIT beside other tests


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    lines = vm.run("tests.kernel.clock")
    return {far: outcome for far, _, outcome in map(json.loads, lines)}


@pytest.mark.parametrize("far", FAR_ENDS)
def test_a_tunnel_works_while_the_clock_is_set(outcomes: dict[str, str], far: str) -> None:
    assert outcomes[far] == ""
