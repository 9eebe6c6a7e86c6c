"""Checks of what is heard at the port of the kernel's own WireGuard and of what it means, to be tried in the VM."""

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
        signatures.test_a_stranger_is_named_by_key_and_address,
        signatures.test_preshared_keys_that_differ_are_told_where_the_answer_comes,
        signatures.test_a_clock_that_went_back_is_told,
        signatures.test_data_that_nobody_answers_is_told_while_the_session_works,
    )
}
