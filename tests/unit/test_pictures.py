"""The documentation's pictures show what wgq prints."""

from __future__ import annotations

import re

from tests import pictures


def test_the_picture_of_status_is_what_it_prints() -> None:
    """If this fails: python -m tests.pictures"""
    text = re.sub(r"\x1b\[[0-9;]*m", "", pictures.printed())
    assert pictures.characters(pictures.FILE.read_text()) == "$wgqstatus" + "".join(text.split())


def test_the_picture_needs_nothing_from_the_network() -> None:
    assert re.findall(r"https?://[^\"]*", pictures.FILE.read_text()) == ["http://www.w3.org/2000/svg"]
