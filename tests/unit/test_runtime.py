"""The locks below /run: held by one, given back whatever happens, gone when nobody needs them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from wgquick.errors import WgqError
from wgquick.system.runtime import locked, locked_interface

if TYPE_CHECKING:
    from pathlib import Path

MAKE = os.makedirs


def unsaid(_text: str) -> None:
    pass


def test_an_interface_is_locked_for_one_at_a_time_and_each_by_itself(tmp_path: Path) -> None:
    said: list[str] = []
    directory = str(tmp_path / "1")
    with locked_interface(directory, "wg0", unsaid):
        with locked_interface(directory, "wg1", said.append), locked(directory):
            assert said == []
        with (
            pytest.raises(WgqError, match="another wgq is at work on wg0"),
            locked_interface(directory, "wg0", said.append, patience=0),
        ):
            pass
    assert said == ["[!] Waiting for another wgq that is at work on wg0"]
    with locked_interface(directory, "wg0", unsaid):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_had_where_its_directory_is_taken_away_meanwhile(tmp_path: Path) -> None:
    """Another run that ends removes the directory between the making of it and of the file in it."""
    removals = [os.rmdir, os.rmdir]

    def made_and_removed(path: str, mode: int, exist_ok: bool) -> None:
        MAKE(path, mode, exist_ok)
        if removals:
            removals.pop()(path)

    with mock.patch("os.makedirs", made_and_removed):
        with locked_interface(str(tmp_path / "1"), "wg0", unsaid):
            pass
        with locked(str(tmp_path / "2")):
            pass
