"""The clock set back and forth under a running tunnel, in a VM of its own: there is one clock for all that runs."""

from __future__ import annotations

import json

import pytest

from tests.kernel import vm
from tests.kernel.clock import FAR_ENDS

pytestmark = pytest.mark.timeout(1600)  # a boot may take vm.LIMIT beside other tests


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    lines = vm.run(tmp_path_factory.mktemp("vm"), "tests.kernel.clock")
    return {far: outcome for far, _, outcome in map(json.loads, lines)}


@pytest.mark.parametrize("far", FAR_ENDS)
def test_a_tunnel_does_not_mind_that_the_clock_is_set_back_and_forth(outcomes: dict[str, str], far: str) -> None:
    assert outcomes[far] == ""
