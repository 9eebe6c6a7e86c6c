"""A target is a name or a path; rule and messages are those of wg-quick."""

from __future__ import annotations

import io
import os
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from wgquick.config import location
from wgquick.config.location import Location, file_here, locate
from wgquick.config.reading import read_settings, read_stripped
from wgquick.errors import ConfigError, WgqError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    (tmp_path / "wg0.conf").write_bytes(b"[Interface]\nMTU = 1400\n")
    (tmp_path / "wg0.conf").chmod(0o600)
    return tmp_path


@pytest.mark.parametrize("name", ["wg0", "a", "x=y+z_.-", "a23456789012345", "wg0.conf"])
def test_a_name_means_a_file_in_the_directory(directory: Path, name: str) -> None:
    (directory / f"{name}.conf").touch()
    assert locate(name, directory=str(directory)) == Location(name, str(directory / f"{name}.conf"))


def test_a_path_names_the_interface(directory: Path) -> None:
    assert locate(str(directory / "wg0.conf")) == Location("wg0", str(directory / "wg0.conf"))


def test_a_symbolic_link_gives_the_name_and_its_target_the_file(directory: Path) -> None:
    (directory / "home.conf").symlink_to("wg0.conf")
    assert locate(str(directory / "home.conf")) == Location("home", str(directory / "wg0.conf"))


def test_a_pipe_is_read_and_has_no_path_to_save_to() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"[Interface]\nMTU = 1400\n")
    os.close(writer)
    found = locate(f"/dev/fd/{reader}", "wg7")
    settings = read_settings(found, print)
    os.close(reader)
    assert (settings.name, settings.mtu, settings.path) == ("wg7", 1400, "")


def test_a_fault_in_a_pipe_has_its_path(directory: Path) -> None:
    os.mkfifo(directory / "wg7.conf")
    writer = Thread(target=(directory / "wg7.conf").write_bytes, args=[b"MTU = x\n"])
    writer.start()
    with pytest.raises(ConfigError) as caught:
        read_settings(locate("wg7", directory=str(directory)), print)
    writer.join()
    assert caught.value.path == f"{directory}/wg7.conf"


def test_a_path_may_be_given_a_name(directory: Path) -> None:
    assert locate(str(directory / "wg0.conf"), "wg7").name == "wg7"


@pytest.mark.parametrize("target", ["nosuch", "./nosuch.conf"])
def test_a_missing_file_has_the_message_of_wg_quick(directory: Path, target: str) -> None:
    shown = f"{directory}/nosuch.conf" if target == "nosuch" else target
    with pytest.raises(WgqError) as caught:
        locate(target, directory=str(directory))
    assert caught.value.what == f"`{shown}' does not exist"


def remedy(target: str, directory: Path) -> str:
    with pytest.raises(WgqError) as caught:
        locate(target, directory=str(directory))
    return caught.value.remedy


def test_the_remedy_for_a_missing_file_lists_the_existing_ones(directory: Path) -> None:
    (directory / "not a name.conf").touch()
    assert f"Configurations are in {directory} (wg0);" in remedy("wg1", directory)
    for number in range(1, 12):
        (directory / f"wg{number}.conf").touch()
    assert "and 4 more);" in remedy("nosuch", directory)


def test_the_remedy_for_a_missing_file_covers_common_mistakes(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (directory / "gone.conf").symlink_to("nowhere.conf")
    assert "symbolic link to `nowhere.conf'" in remedy("gone", directory)
    assert "write `wg0'" in remedy("wg0.conf", directory)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.conf").touch()
    assert "`./here.conf'" in remedy("here.conf", directory / "elsewhere")
    wanted = f"Write `./no.conf' for a file in this directory, or `no' for {directory}/no.conf."
    assert remedy("no.conf", directory).startswith(wanted)


@pytest.mark.parametrize("file", ["a234567890123456.conf", "wg 0.conf", "wg0.txt", ".conf", "wg0.conf.bak"])
def test_a_file_with_an_invalid_name_has_the_message_of_wg_quick(directory: Path, file: str) -> None:
    (directory / file).touch()
    with pytest.raises(WgqError) as caught:
        locate(str(directory / file))
    assert caught.value.what.startswith("The config file must be a valid interface name, followed by .conf")


@pytest.mark.parametrize(
    ("name", "fault", "other"),
    [
        ("united-states-chicago-1234", "it has 26 characters, the maximum is 15", "united-states-c"),
        ("My VPN", "it contains a blank", "MyVPN"),
        ("vpn@home", "it contains `@'", "vpnhome"),
        ("b\u00fcro", "it contains U+00FC LATIN SMALL LETTER U WITH DIAERESIS", "bro"),
        ("wg\u20130", "it contains U+2013 EN DASH", "wg0"),
        ("wg0\u200b", "it contains U+200B ZERO WIDTH SPACE", "wg0"),
        ("all", "the kernel reserves that name", "wg0"),
        ("default", "the kernel reserves that name", "wg0"),
    ],
)
def test_another_name_can_replace_an_invalid_one(directory: Path, name: str, fault: str, other: str) -> None:
    (directory / f"{name}.conf").touch()
    for target in (name, str(directory / f"{name}.conf")):
        with pytest.raises(WgqError) as caught:
            locate(target, directory=str(directory))
        assert fault in caught.value.what
        assert caught.value.remedy.endswith(f"--name {other}")
        assert locate(target, "wg7", str(directory)) == ("wg7", str(directory / f"{name}.conf"))


def test_an_invalid_name_without_a_file_is_reported() -> None:
    with pytest.raises(WgqError, match="it has 26 characters, the maximum is 15"):
        location.interface_name("united-states-chicago-1234")


def test_the_remedy_names_a_file_in_the_current_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    with pytest.raises(WgqError, match=r"\./wg0\.conf"):
        locate("wg0.conf", directory=str(directory / "none"))


def test_a_target_has_an_interface_name_without_a_file() -> None:
    assert [location.interface_name(each) for each in ("wg0", "/none/wg1.conf")] == ["wg0", "wg1"]


@pytest.mark.parametrize("name", [None, "", "a/b", "a23456789012345x"])
def test_standard_input_needs_a_valid_name(name: str | None) -> None:
    with pytest.raises(WgqError):
        locate("-", name)


def test_standard_input_is_read_under_the_given_name() -> None:
    found = locate("-", "wg0")
    settings = read_settings(found, pytest.fail, io.BytesIO(b"[Interface]\nMTU = 1400"))
    assert (settings.name, settings.path, settings.mtu) == ("wg0", "", 1400)


def test_faults_of_standard_input_say_so() -> None:
    with pytest.raises(ConfigError, match=r"^standard input:1:1: "):
        read_settings(locate("-", "wg0"), pytest.fail, io.BytesIO(b"x"))


@pytest.mark.parametrize(
    ("file", "directory_mode", "warned"),
    [
        (0o600, 0o755, False),
        (0o644, 0o700, False),
        (0o644, 0o755, True),
        (0o641, 0o752, False),
        (0o602, 0o703, True),
    ],
)
def test_only_a_world_accessible_file_gets_a_warning(
    directory: Path, file: int, directory_mode: int, warned: bool
) -> None:
    path = directory / "wg0.conf"
    path.chmod(file)
    directory.chmod(directory_mode)
    notes: list[str] = []
    read_settings(locate(str(path)), notes.append)
    assert notes == ([f"Warning: `{path}' is world accessible"] if warned else [])


def test_warnings_of_wg_are_printed(directory: Path) -> None:
    key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
    (directory / "wg0.conf").write_text(f"[Peer]\nPublicKey={key}\nAllowedIPs=10.0.0.1/8\n")
    notes: list[str] = []
    read_settings(locate(str(directory / "wg0.conf")), notes.append)
    assert notes == ["Warning: AllowedIP has nonzero host part: 10.0.0.1/8"]


def test_an_unreadable_file_is_an_error_with_its_path(directory: Path) -> None:
    (directory / "dir.conf").mkdir()
    (directory / "mem.conf").symlink_to("/proc/self/mem")
    with pytest.raises(WgqError, match=r"cannot read `.*/mem': Input/output error"):
        read_stripped(locate(str(directory / "mem.conf")), lambda _: None)


@pytest.mark.parametrize("read", [locate, lambda path: location.read(Location("wg0", path))])
def test_a_directory_is_named_as_such(directory: Path, read: Callable[[str], object]) -> None:
    with pytest.raises(WgqError) as caught:
        read(f"{directory}/")
    assert str(caught.value) == f"`{directory}/' is a directory\n  Give the file: {directory}/NAME.conf"


def test_strip_reads_a_located_file(directory: Path) -> None:
    assert read_stripped(locate(str(directory / "wg0.conf")), pytest.fail) == b"[Interface]\n\n"


def test_a_file_here_can_be_named_without_its_path(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    (directory / "wg5.conf").touch()
    assert file_here("wg5.conf") == "./wg5.conf"
    assert [file_here(text) for text in ("wg5", "wg6.conf", "", "/x/wg5.conf")] == [
        "wg5",
        "wg6.conf",
        "",
        "/x/wg5.conf",
    ]


def test_a_file_outside_the_directory_is_named_by_its_path(directory: Path) -> None:
    """The words after `wgq up` in a remedy bring this file up under this name."""
    (directory / "elsewhere").mkdir()
    elsewhere = f"{directory}/elsewhere/wg0.conf"
    (directory / "home.conf").symlink_to(elsewhere)
    for name, path, words in (
        ("wg0", f"{directory}/wg0.conf", "wg0"),
        ("home", elsewhere, "home"),
        ("wg0", elsewhere, elsewhere),
        ("wg7", elsewhere, f"--name wg7 {elsewhere}"),
        ("wg0", "", "wg0"),
    ):
        assert location.target_of(name, path, str(directory)) == words
