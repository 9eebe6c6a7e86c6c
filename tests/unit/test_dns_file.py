"""DNS through /etc/resolv.conf: its content while tunnels are up, and how the original is restored."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgquick.errors import OperationError
from wgquick.system.dns import LinkDns, resolv_conf
from wgquick.system.dns.file import ResolvConfFile
from wgquick.system.dns.resolv_conf import Record, Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE = LinkDns(("10.0.0.1", "fd00::1"), ("corp.example", "lan"), full_tunnel=True)
TWO = LinkDns(("10.2.0.1",), (), full_tunnel=False)
THREE = LinkDns(("10.3.0.1",), ("three",), full_tunnel=False)
TUNNELS = {"wg0": ONE, "wg1": TWO, "wg2": THREE}
EARLIER = b"# mine\nnameserver 192.0.2.53\nsearch home\noptions ndots:2 timeout:1\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    directory.mkdir()
    (directory / "resolv.conf").write_bytes(EARLIER)
    return directory / "resolv.conf"


@pytest.fixture
def file(path: Path, tmp_path: Path) -> ResolvConfFile:
    return ResolvConfFile(str(tmp_path / "run"), str(path))


def effective(path: Path) -> list[str]:
    """The lines that a resolver reads."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(
    "server",
    ["https://dns.example/dns-query", "192.0.2.53:5353", "999.0.2.53", "192.0.2", "192.0.2.53%x", "[::1]", "a:b"],
)
def test_an_invalid_server_is_refused_and_the_file_unchanged(file: ResolvConfFile, path: Path, server: str) -> None:
    with pytest.raises(OperationError, match="is not the address of a DNS server"):
        file.set("wg0", LinkDns(("10.0.0.1", server), (), full_tunnel=False))
    assert path.read_bytes() == EARLIER


def test_a_server_may_have_a_zone(file: ResolvConfFile, path: Path) -> None:
    file.set("wg0", LinkDns(("fe80::1%wg0",), (), full_tunnel=False))
    assert effective(path)[0] == "nameserver fe80::1%wg0"


def test_the_tunnels_servers_replace_the_originals(file: ResolvConfFile, path: Path) -> None:
    """The options of the original file stay."""
    file.set("wg0", ONE)
    assert effective(path) == [
        "nameserver 10.0.0.1",
        "nameserver fd00::1",
        "search corp.example lan",
        "options ndots:2 timeout:1",
    ]


@pytest.mark.machine
@pytest.mark.parametrize(
    "earlier",
    [
        EARLIER,
        b"",
        b"nameserver 192.0.2.53",
        b"nameserver 192.0.2.53\n\n\n",
        b"nameserver 192.0.2.53\r\noptions edns0\r\n",
        b"\xff\xfe not text \0\n; comment\n",
        b"nameserver 192.0.2.53\n" * 500,
    ],
)
def test_the_original_file_comes_back_with_mode_and_owner(file: ResolvConfFile, path: Path, earlier: bytes) -> None:
    path.write_bytes(earlier)
    path.chmod(0o640)
    os.chown(path, 12, 34)
    file.set("wg0", ONE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    file.unset("wg0")
    assert path.read_bytes() == earlier
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, 12, 34)


@given(earlier=st.binary(max_size=400))
def test_any_earlier_content_survives_in_the_text(earlier: bytes) -> None:
    record = Record("file", earlier, resolv_conf.kept_lines(earlier), (Tunnel("wg0", "boot", ("10.0.0.1",), ()),))
    again = resolv_conf.parse(resolv_conf.text(record))
    assert again == record
    assert resolv_conf.put_back(record._replace(tunnels=())) == earlier


def test_unset_leaves_no_other_file(file: ResolvConfFile, path: Path) -> None:
    file.set("wg0", ONE)
    file.unset("wg0")
    assert [entry.name for entry in path.parent.iterdir()] == ["resolv.conf"]


@pytest.mark.parametrize("ups", list(itertools.permutations(TUNNELS)))
@pytest.mark.parametrize("downs", list(itertools.permutations(TUNNELS)))
def test_stacked_tunnels_in_any_order_leave_the_original_file(
    file: ResolvConfFile, path: Path, ups: tuple[str, ...], downs: tuple[str, ...]
) -> None:
    for name in ups:
        file.set(name, TUNNELS[name])
        assert effective(path)[0] == f"nameserver {TUNNELS[name].servers[0]}"
    up = list(ups)
    for name in downs:
        up.remove(name)
        file.unset(name)
        if up:
            assert effective(path)[0] == f"nameserver {TUNNELS[up[-1]].servers[0]}"
    assert path.read_bytes() == EARLIER


def test_setting_a_tunnel_again_replaces_its_servers(file: ResolvConfFile, path: Path) -> None:
    file.set("wg0", ONE)
    file.set("wg1", TWO)
    file.set("wg0", THREE)
    assert effective(path)[0] == "nameserver 10.3.0.1"
    file.unset("wg0")
    file.unset("wg1")
    assert path.read_bytes() == EARLIER


def test_unset_may_be_repeated_and_needs_no_set(file: ResolvConfFile, path: Path) -> None:
    file.unset("wg0")
    assert path.read_bytes() == EARLIER
    file.set("wg0", ONE)
    before = path.read_bytes()
    file.unset("wg1")
    assert path.read_bytes() == before
    file.unset("wg0")
    file.unset("wg0")
    assert path.read_bytes() == EARLIER


def test_a_missing_file_is_missing_again_after_unset(file: ResolvConfFile, path: Path) -> None:
    path.unlink()
    file.set("wg0", ONE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    file.unset("wg0")
    assert not path.exists()
    file.unset("wg0")
    assert not path.exists()


@pytest.mark.parametrize("target", ["../run/manager/resolv.conf", "dangling"])
def test_a_symbolic_link_is_restored_and_its_target_kept(file: ResolvConfFile, path: Path, target: str) -> None:
    managed = path.parent / "../run/manager/resolv.conf"
    managed.parent.mkdir(parents=True)
    managed.write_bytes(EARLIER)
    path.unlink()
    path.symlink_to(target)
    file.set("wg0", ONE)
    assert not path.is_symlink()
    assert effective(path)[0] == "nameserver 10.0.0.1"
    assert managed.read_bytes() == EARLIER
    file.unset("wg0")
    assert str(path.readlink()) == target


def test_a_link_to_itself_is_restored(file: ResolvConfFile, path: Path) -> None:
    path.unlink()
    path.symlink_to("resolv.conf")
    file.set("wg0", TWO)
    assert effective(path) == ["nameserver 10.2.0.1"]
    file.unset("wg0")
    assert os.readlink(path) == "resolv.conf"


def test_a_directory_in_place_of_the_file_is_an_error(file: ResolvConfFile, path: Path) -> None:
    """Docker creates a directory if it mounts a file that does not exist."""
    path.unlink()
    path.mkdir()
    with pytest.raises(OperationError, match="Is a directory"):
        file.set("wg0", ONE)
    assert os.listdir(path.parent) == ["resolv.conf"]
    file.unset("wg0")
    assert path.is_dir()


def test_the_options_of_a_links_target_are_kept(file: ResolvConfFile, path: Path) -> None:
    path.rename(path.parent / "managed")
    path.symlink_to("managed")
    file.set("wg0", ONE)
    assert "options ndots:2 timeout:1" in effective(path)


def test_another_process_can_read_a_tunnels_servers(path: Path, tmp_path: Path) -> None:
    ResolvConfFile(str(tmp_path / "run"), str(path)).set("wg0", ONE)
    again = ResolvConfFile(str(tmp_path / "run"), str(path))
    assert again.current("wg0") == (ONE.servers, ONE.search)
    assert again.current("wg1") is None


# Changes by other programs


def test_a_file_from_another_program_stays(file: ResolvConfFile, path: Path) -> None:
    file.set("wg0", ONE)
    path.write_bytes(b"nameserver 198.51.100.1\n")
    file.unset("wg0")
    assert path.read_bytes() == b"nameserver 198.51.100.1\n"


def test_a_file_replaced_while_up_is_the_next_tunnels_original(file: ResolvConfFile, path: Path) -> None:
    file.set("wg0", ONE)
    path.write_bytes(b"nameserver 198.51.100.1\n")
    file.set("wg1", TWO)
    assert effective(path) == ["nameserver 10.2.0.1"]
    file.unset("wg0")
    assert effective(path) == ["nameserver 10.2.0.1"]
    file.unset("wg1")
    assert path.read_bytes() == b"nameserver 198.51.100.1\n"


def test_a_symbolic_link_from_another_program_stays(file: ResolvConfFile, path: Path) -> None:
    file.set("wg0", ONE)
    path.unlink()
    path.symlink_to("elsewhere")
    file.unset("wg0")
    assert str(path.readlink()) == "elsewhere"


def test_lines_from_another_program_are_added_to_the_original(file: ResolvConfFile, path: Path) -> None:
    file.set("wg0", ONE)
    path.write_bytes(b"nameserver 198.51.100.7\n" + path.read_bytes() + b"options rotate\n")
    file.set("wg1", TWO)
    assert effective(path) == [
        "nameserver 10.2.0.1",
        "options ndots:2 timeout:1",
        "nameserver 198.51.100.7",
        "options rotate",
    ]
    file.unset("wg1")
    file.unset("wg0")
    assert path.read_bytes() == EARLIER + b"nameserver 198.51.100.7\noptions rotate\n"


def test_lines_added_without_an_original_become_the_file(file: ResolvConfFile, path: Path) -> None:
    path.unlink()
    file.set("wg0", ONE)
    path.write_bytes(path.read_bytes() + b"options rotate")
    file.unset("wg0")
    assert path.read_bytes() == b"options rotate\n"


def test_lines_added_to_a_replaced_link_are_saved_beside_it(file: ResolvConfFile, path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")
    file.set("wg0", ONE)
    assert len(file.unset_lines("wg0")) == 1
    path.write_bytes(path.read_bytes() + b"options rotate\n")
    assert "resolv.conf.wgq-saved" in file.unset_lines("wg0")[1]
    file.unset("wg0")
    assert str(path.readlink()) == "elsewhere"
    assert b"options rotate\n" in (path.parent / "resolv.conf.wgq-saved").read_bytes()


def test_a_file_with_damaged_comments_is_left_alone(file: ResolvConfFile, path: Path) -> None:
    file.set("wg0", ONE)
    damaged = path.read_bytes().replace(b"# wgq: + ", b"# wgq: + !")
    path.write_bytes(damaged)
    file.unset("wg0")
    assert path.read_bytes() == damaged


def test_a_tunnel_of_an_earlier_boot_keeps_the_original(file: ResolvConfFile, path: Path) -> None:
    file.set("wg0", ONE)
    record = resolv_conf.parse(path.read_bytes())
    assert record is not None
    stale = tuple(
        tunnel._replace(place=tunnel.place.replace(tunnel.place[:8], "another")) for tunnel in record.tunnels
    )
    path.write_bytes(resolv_conf.text(record._replace(tunnels=stale)))
    file.set("wg1", TWO)
    file.unset("wg1")
    assert path.read_bytes() == EARLIER


def test_down_after_a_reboot_restores_the_original(path: Path, tmp_path: Path) -> None:
    ResolvConfFile(str(tmp_path / "run"), str(path)).set("wg0", ONE)
    ResolvConfFile(str(tmp_path / "fresh"), str(path)).unset("wg0")
    assert path.read_bytes() == EARLIER


# Kills and failures


STEPS = ["open", "pwrite", "fchmod", "fchown", "fsync", "close", "replace", "unlink", "symlink", "ftruncate"]
EXPECTED = {"file": EARLIER, "link": "elsewhere", "absent": None, "in place": EARLIER}


def refuse_like_a_mount_point(*_: object) -> None:
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def prepare(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to("elsewhere")
    elif kind != "absent":
        path.write_bytes(EARLIER)


def found(path: Path) -> object:
    if path.is_symlink():
        return str(path.readlink())
    return path.read_bytes() if path.exists() else None


def killed_before_step(count: int, change: Callable[[], None]) -> bool:
    """Make a change in a child that is killed before system call `count`. Returns False if it needs fewer calls."""
    if (child := os.fork()) == 0:
        left = itertools.count(count, -1)

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def step(*args: object, **kwargs: object) -> object:
                if next(left) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return step

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        change()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("killed_in", ["set", "second set", "unset", "unset of two"])
def test_unset_restores_the_original_after_a_kill_at_any_step(
    file: ResolvConfFile, path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, killed_in: str
) -> None:
    if kind == "in place":
        monkeypatch.setattr("wgquick.system.dns.file._write_new", refuse_like_a_mount_point)
    changes: dict[str, Callable[[], None]] = {
        "set": lambda: file.set("wg0", ONE),
        "second set": lambda: file.set("wg1", TWO),
    }
    for count in itertools.count():
        prepare(path, kind)
        if killed_in != "set":
            file.set("wg0", ONE)
        if killed_in == "unset of two":
            file.set("wg1", TWO)
        killed = killed_before_step(count, changes.get(killed_in, lambda: file.unset("wg0")))
        for name in ("wg1", "wg0"):
            file.unset(name)
        assert found(path) == EXPECTED[kind]
        assert {entry.name for entry in path.parent.iterdir()} <= {"resolv.conf"}
        if not killed:
            break
    assert count > 3


def test_a_full_disk_leaves_a_file_that_is_written_in_place(
    file: ResolvConfFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wgquick.system.dns.file._write_new", refuse_like_a_mount_point)
    real = os.pwrite
    short = iter([10])
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: next(short, len(data))], at))
    with pytest.raises(OperationError, match="No space left on device"):
        file.set("wg0", ONE)
    assert path.read_bytes() == EARLIER


def test_an_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match=r"resolv\.conf cannot be changed") as refusal:
        ResolvConfFile(str(tmp_path), str(tmp_path / "none" / "resolv.conf")).set("wg0", ONE)
    assert "--dns off" in refusal.value.remedy


def test_the_transcript_says_what_is_written(file: ResolvConfFile, path: Path) -> None:
    assert file.set_lines("wg0", ONE) == (
        f"[#] write {path} for wg0: nameserver 10.0.0.1 fd00::1, search corp.example lan",
    )
    assert file.unset_lines("wg0") == (f"[#] remove wg0 from {path}",)
