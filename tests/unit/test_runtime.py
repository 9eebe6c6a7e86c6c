"""The locks below /run: one holder at a time, released in every case, removed when unused."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from wgquick.errors import WgqError
from wgquick.executor.journal import Journal
from wgquick.system.runtime import locked, locked_interface

if TYPE_CHECKING:
    from pathlib import Path

MAKE = os.mkdir


def ignore(_text: str) -> None:
    pass


def test_each_interface_has_a_lock_with_one_holder(tmp_path: Path) -> None:
    notes: list[str] = []
    directory = str(tmp_path / "1")
    with locked_interface(directory, "wg0", ignore):
        with locked_interface(directory, "wg1", notes.append), locked(directory):
            assert notes == []
        with (
            pytest.raises(WgqError, match="another wgq process is working on wg0"),
            locked_interface(directory, "wg0", notes.append, patience=0),
        ):
            pass
    assert notes == ["[!] Waiting for another wgq process that is working on wg0"]
    with locked_interface(directory, "wg0", ignore):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_acquired_although_its_directory_is_removed(tmp_path: Path) -> None:
    """Another run may end and remove the directory before the lock file is made in it."""
    removals = [os.rmdir, os.rmdir]

    def made_and_removed(path: str, mode: int, *, dir_fd: int) -> None:
        MAKE(path, mode, dir_fd=dir_fd)
        if removals:
            removals.pop()(path, dir_fd=dir_fd)

    with mock.patch("os.mkdir", made_and_removed):
        with locked_interface(str(tmp_path / "1"), "wg0", ignore):
            pass
        with locked(str(tmp_path / "2")):
            pass


def hold(directory: str, place: Path, rounds: int) -> int:
    """Take the lock `rounds` times. Returns how often another process held it at the same time."""
    collisions = 0
    for _ in range(rounds):
        with locked(directory):
            try:
                os.close(os.open(place, os.O_CREAT | os.O_EXCL))
                os.unlink(place)
            except FileExistsError:
                collisions += 1
    return collisions


def test_the_lock_excludes_others_while_its_file_comes_and_goes(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        runs = [pool.submit(hold, str(tmp_path / "1"), tmp_path / "held", 300) for _ in range(4)]
        assert [run.result() for run in runs] == [0, 0, 0, 0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("swapped", ["root", "place"])
def test_a_symbolic_link_in_place_of_a_directory_is_not_followed(tmp_path: Path, swapped: str) -> None:
    """A user who can write to the directory above could make root write elsewhere, despite earlier checks."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    elsewhere.mkdir()
    root.mkdir(0o700)
    if swapped == "root":
        root.rmdir()
        root.symlink_to(elsewhere)
    else:
        (root / "1").symlink_to(elsewhere)
    with pytest.raises(WgqError, match="cannot be written"):
        Journal(str(root / "1"), "wg0").start("", ())
    with pytest.raises(WgqError, match="cannot create the lock"), locked(str(root / "1")):
        pass
    assert list(elsewhere.iterdir()) == []


@pytest.mark.machine  # changing an owner needs root
@pytest.mark.parametrize(("owner", "mode"), [(12, 0o700), (0, 0o777), (0, 0o770)])
def test_a_directory_writable_by_others_is_refused(tmp_path: Path, owner: int, mode: int) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(mode)
    os.chown(root, owner, owner)
    with pytest.raises(WgqError, match="cannot create the lock"), locked(str(root / "1")):
        pass
    assert list(root.iterdir()) == []


def test_symbolic_links_as_lock_or_journal_are_not_followed(tmp_path: Path) -> None:
    for name in ("lock", "wg0.journal"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WgqError, match="cannot create"), locked(str(tmp_path)):
        pass
    with pytest.raises(WgqError, match="cannot be written"):
        Journal(str(tmp_path), "wg0").start("", ())
    assert not (tmp_path / "elsewhere").exists()
