"""The pictures in the documentation show what wgq prints."""

from __future__ import annotations

import re

import pytest

from tests import pictures

SHOWN = pictures.printed()


@pytest.mark.parametrize("verb", SHOWN)
def test_a_picture_is_up_to_date(verb: str) -> None:
    """If this fails, run: python -m tests.pictures"""
    text = re.sub(r"\x1b\[[0-9;]*m", "", SHOWN[verb])
    drawn = pictures.characters((pictures.DOCS / f"{verb}.svg").read_text())
    assert drawn == f"$wgq{verb}" + "".join(text.split())


@pytest.mark.parametrize("verb", SHOWN)
def test_a_picture_loads_nothing_from_the_network(verb: str) -> None:
    picture = (pictures.DOCS / f"{verb}.svg").read_text()
    assert re.findall(r"https?://[^\"]*", picture) == ["http://www.w3.org/2000/svg"]
