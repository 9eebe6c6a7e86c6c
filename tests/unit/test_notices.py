"""THIRD-PARTY-NOTICES covers exactly the linked crates."""

from __future__ import annotations

from tests.notices import NOTICES, generate, linked


def test_the_notices_are_up_to_date() -> None:
    """If this fails, run: python -m tests.notices"""
    assert NOTICES.read_text() == generate()


def test_crates_for_tests_or_building_are_left_out() -> None:
    names = {crate.name for crate in linked()}
    assert {"ring", "snow", "curve25519-dalek", "landlock"} <= names
    assert not names & {"proptest", "cc", "syn", "zeroize_derive", "wgq-userspace"}
