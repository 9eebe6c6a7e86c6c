"""The fault matrix with the kernel's WireGuard, in one boot of a VM: what the device has a part in.

`python -m tests.faults.page` tries all of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.faults.trial import Outcome, judged
from tests.interop.pairs import KERNEL
from tests.kernel import vm
from tests.kernel.fault_matrix import IN_EACH_RUN

if TYPE_CHECKING:
    from tests.faults.conftest import Outcomes
    from tests.faults.matrix import Case

pytestmark = pytest.mark.timeout(7200)  # the first test waits for the kernel's build, the boot and every case


@pytest.fixture(scope="module")
def in_the_vm() -> Outcomes:
    lines = vm.run("tests.kernel.fault_matrix")
    return {name: Outcome(*fields) for name, fields in map(json.loads, lines)}


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in IN_EACH_RUN])
def test_doctor_has_the_same_finding_with_the_kernels_wireguard(in_the_vm: Outcomes, case: Case) -> None:
    outcome = in_the_vm[f"{case.name}, {KERNEL}"]
    assert judged(case, KERNEL, outcome) == ""
