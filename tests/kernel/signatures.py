"""Checks of captures at the kernel's WireGuard and of their signs, which run inside the VM."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.interop.pairs import KERNEL
from tests.netns import test_signatures as signatures

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKS: dict[str, Callable[[], None]] = {
    check.__name__: partial(check, KERNEL)
    for check in (
        signatures.test_an_unknown_key_is_reported_with_its_address,
        signatures.test_different_preshared_keys_are_reported_by_the_initiator,
        signatures.test_a_clock_that_went_back_is_reported,
        signatures.test_missing_return_data_is_reported_despite_a_session,
    )
}
