"""The notices of linked code are those of the crates that are linked."""

from __future__ import annotations

from tests.notices import NOTICES, generate, linked


def test_the_notices_are_those_of_the_linked_crates() -> None:
    """Stale after a change of the dependencies: `python -m tests.notices` writes them anew."""
    assert NOTICES.read_text() == generate()


def test_no_crate_for_tests_or_for_building_is_noticed() -> None:
    names = {crate.name for crate in linked()}
    assert {"ring", "snow", "curve25519-dalek", "landlock"} <= names
    assert not names & {"proptest", "cc", "syn", "zeroize_derive", "wgq-userspace"}
