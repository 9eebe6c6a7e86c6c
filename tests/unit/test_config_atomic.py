"""A file is replaced in one step that survives a crash."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from wgquick.config.atomic import write_atomic
from wgquick.errors import OperationError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.machine
def test_a_replaced_file_keeps_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_bytes(b"old")
    path.chmod(0o640)
    os.chown(path, 1, 2)
    before = path.stat().st_ino
    write_atomic(str(path), b"new")
    found = path.stat()
    assert path.read_bytes() == b"new"
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o640, 1, 2)
    assert found.st_ino != before
    assert os.listdir(tmp_path) == ["wg0.conf"]


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real.conf").write_bytes(b"old")
    (tmp_path / "wg0.conf").symlink_to("real.conf")
    write_atomic(str(tmp_path / "wg0.conf"), b"new")
    assert (tmp_path / "wg0.conf").is_symlink()
    assert (tmp_path / "real.conf").read_bytes() == b"new"


def test_only_the_owner_may_read_a_new_file(tmp_path: Path) -> None:
    write_atomic(str(tmp_path / "wg0.conf"), b"new")
    assert (tmp_path / "wg0.conf").stat().st_mode & 0o7777 == 0o600


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wg0.conf"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OperationError, match="No space left on device"):
        write_atomic(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["wg0.conf"]


def test_a_name_of_any_length_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("\N{SNOWMAN}" * 80 + "n" * 15)
    path.write_bytes(b"old")
    write_atomic(str(path), b"new")
    assert path.read_bytes() == b"new"


def test_a_directory_exchanged_meanwhile_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file goes to the directory that was opened first."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/wg0.conf").write_bytes(b"old")
    (tmp_path / "elsewhere").mkdir()
    fsync = os.fsync

    def exchange(descriptor: int) -> None:
        if not (tmp_path / "moved").exists():
            (tmp_path / "mine").rename(tmp_path / "moved")
            (tmp_path / "mine").symlink_to("elsewhere")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", exchange)
    write_atomic(str(tmp_path / "mine/wg0.conf"), b"new")
    assert (tmp_path / "moved/wg0.conf").read_bytes() == b"new"
    assert os.listdir(tmp_path / "elsewhere") == []
