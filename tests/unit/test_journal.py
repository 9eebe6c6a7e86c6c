"""The journal: it reads back what was written, even if the writer was killed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from wgquick.executor.journal import Journal, others
from wgquick.net import Rule
from wgquick.plan.file_peers import FilePeer, recorded_peers
from wgquick.plan.steps import DeleteLink, DeleteRule, ReleaseSysctl, RemoveFirewall, RunHook, Step, Undo, UnsetDns

if TYPE_CHECKING:
    from pathlib import Path

KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
UNDOS: tuple[Undo, ...] = (
    DeleteLink("wg0"),
    UnsetDns("wg0", "file"),
    DeleteRule(Rule(6, 51820, 32765, fwmark=51820)),
    DeleteRule(Rule(6, 254, 32764, suppress_prefixlength=0)),
    RemoveFirewall("wg0", "nft", 6),
    ReleaseSysctl("net.ipv4.conf.all.src_valid_mark", "0"),
)


def written(directory: Path, *hooks: Step) -> Path:
    journal = Journal(str(directory), "wg0")
    journal.start("/etc/wireguard/wg0.conf", hooks)
    for undo in UNDOS:
        journal.record_undo(undo)
    journal.identify(7)
    return directory / "wg0.journal"


def test_undos_are_read_back_in_order(tmp_path: Path) -> None:
    hook = RunHook("wg0", "PostDown", "echo 'déjà' \udcff # wg0")
    written(tmp_path, hook)
    record = Journal(str(tmp_path), "wg0").read()
    assert record is not None
    assert [type(step) for step in record.undos] == [type(step) for step in UNDOS]
    assert record.undos == UNDOS
    assert (record.path, record.ifindex, record.complete) == ("/etc/wireguard/wg0.conf", 7, False)
    assert record.hooks == (hook,)


def test_a_retracted_undo_is_not_due(tmp_path: Path) -> None:
    written(tmp_path)
    journal = Journal(str(tmp_path), "wg0")
    for undo in (UNDOS[0], UNDOS[2], UNDOS[2]):
        journal.record_undo(undo)
    journal.retract(UNDOS[2])
    journal.retract(UNDOS[0])
    record = journal.read()
    assert record is not None
    assert (record.undos, record.unread) == ((*UNDOS, UNDOS[2]), 0)


def test_a_journal_of_version_1_is_read(tmp_path: Path) -> None:
    """wgq 0.1 wrote this version, and tunnels stay up during an update."""
    lines = (
        '{"head": {"version": 1, "name": "wg0", "path": "/etc/wireguard/wg0.conf", "hidden_hooks": 0}}',
        '{"hook": ["wg0", "PostDown", "true"]}',
        '{"undo": ["DeleteLink", "wg0"]}',
        '{"ifindex": 7}',
        '{"undo": ["DeleteRule", [4, 51820, 32765, 51820, null, false]]}',
        '{"undo": ["RemoveFirewall", "wg0", "nft", 4]}',
        '{"complete": true}',
    )
    (tmp_path / "wg0.journal").write_text("\n".join(lines) + "\n")
    record = Journal(str(tmp_path), "wg0").read()
    assert record is not None
    rule = DeleteRule(Rule(4, 51820, 32765, fwmark=51820))
    assert record.undos == (DeleteLink("wg0"), rule, RemoveFirewall("wg0", "nft", 4))
    assert (record.ifindex, record.complete, record.unread) == (7, True, 0)


def test_peers_are_read_in_the_form_of_any_version(tmp_path: Path) -> None:
    """Peers share all fields but the preshared key's hash now; before, each peer had its own."""
    first, second, third, fourth = (bytes([n]) * 32 for n in (1, 2, 3, 4))
    one = FilePeer("192.0.2.9:1", 25, True, True, "0a")
    peers = {first: one, second: FilePeer(), third: FilePeer(), fourth: one._replace(preshared_key="0b")}
    assert len(recorded_peers(peers)) == 2
    earlier = {key.hex(): list(given) for key, given in peers.items()}
    for form in (recorded_peers(peers), earlier):
        (tmp_path / "wg0.journal").write_text(json.dumps({"peers": form}) + "\n")
        record = Journal(str(tmp_path), "wg0").read()
        assert record is not None
        assert (record.peers, record.unread) == (peers, 0)
    (tmp_path / "wg0.journal").write_text(
        '{"peers": 7}\n{"peers": [7]}\n{"peers": [["", null, false, false, "", "zz"]]}\n'
    )
    record = Journal(str(tmp_path), "wg0").read()
    assert record is not None
    assert (record.peers, record.unread) == (None, 3)


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    path = written(tmp_path)
    with path.open("a") as file:
        file.write('{"undo": ["DeleteRule", [4, 51')
    record = Journal(str(tmp_path), "wg0").read()
    assert record is not None
    assert record.undos == UNDOS


def test_only_the_owner_may_read_a_journal(tmp_path: Path) -> None:
    assert written(tmp_path / "below").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "below").stat().st_mode & 0o777 == 0o700


def test_a_hook_with_a_key_is_left_out_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, RunHook("wg0", "PostDown", f"wg set wg0 private-key <(echo {KEY})"))
    assert KEY not in path.read_text()
    record = Journal(str(tmp_path), "wg0").read()
    assert record is not None
    assert (record.hooks, record.hidden_hooks) == ((), 1)


def test_a_hook_with_a_peers_public_key_is_kept(tmp_path: Path) -> None:
    hook = RunHook("wg0", "PostDown", f"wg set wg1 peer {KEY} remove")
    written(tmp_path, hook)
    record = Journal(str(tmp_path), "wg0").read()
    assert record is not None
    assert (record.hooks, record.hidden_hooks) == ((hook,), 0)


def test_a_new_start_discards_the_earlier_run(tmp_path: Path) -> None:
    written(tmp_path)
    Journal(str(tmp_path), "wg0").start("", ())
    record = Journal(str(tmp_path), "wg0").read()
    assert record is not None
    assert record.undos == ()


def test_others_lists_the_other_interfaces_of_the_namespace(tmp_path: Path) -> None:
    written(tmp_path)
    Journal(str(tmp_path), "wg1").start("", ())
    assert [record.name for record in others(str(tmp_path), "wg0")] == ["wg1"]
    assert list(others(str(tmp_path / "none"), "wg0")) == []


def test_a_missing_journal_reads_as_none_and_can_be_removed(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), "wg9")
    journal.remove()
    assert journal.read() is None
