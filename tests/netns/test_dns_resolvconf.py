"""resolvconf as wg-quick calls it: the real openresolv, Debian's resolvconf, and systemd's link."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.resolvers import UPSTREAM, debian_resolvconf, openresolv, plain, resolved
from wgquick.errors import OperationError
from wgquick.system.dns import Dns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.namespaces import Namespace

SERVERS, SEARCH = ("10.0.0.1", "fd00::1"), ("corp.example", "lan")
DNS = Dns("/run/wgq", print)
CONFIG = """[Interface]
PrivateKey = 2MtBlbfEoJf5kqHjTNmNhDhM1hCZgsXWaGP9UTdBVUo=
DNS = 10.0.0.1, fd00::1, corp.example, lan
"""


@pytest.fixture(params=[openresolv, debian_resolvconf], ids=["openresolv", "debian"])
def machine(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    make: Callable[[], AbstractContextManager[Namespace]] = request.param
    with make() as made:
        yield made


def state(machine: Namespace) -> dict[str, str]:
    """The contents of resolv.conf and of resolvconf's records."""
    return machine.call(files)


def files() -> dict[str, str]:
    kept = [path for path in Path("/run/resolvconf").rglob("*") if path.is_file() and path.name != "run-lock"]
    return {str(path): path.read_text() for path in [*kept, Path("/etc/resolv.conf")]}


def set_dns(machine: Namespace, name: str = "wg0") -> None:
    machine.call(DNS.set, "resolvconf", name, SERVERS, SEARCH, True)


def test_auto_uses_resolvconf(machine: Namespace) -> None:
    assert machine.call(DNS.detect, "auto") == "resolvconf"


def test_up_and_down_have_the_effect_and_transcript_of_wg_quick(machine: Namespace) -> None:
    before = state(machine)
    machine.run(["sh", "-c", "cat >/etc/wireguard/wg0.conf"], input=CONFIG)
    their_lines = machine.run(["wg-quick", "up", "wg0"]).stderr
    theirs = state(machine)
    their_lines += machine.run(["wg-quick", "down", "wg0"]).stderr
    assert state(machine) == before

    set_dns(machine)
    assert state(machine) == theirs
    assert "nameserver 10.0.0.1\nnameserver fd00::1\n" in machine.out("cat", "/etc/resolv.conf")
    our_lines = machine.call(DNS.set_lines, "resolvconf", "wg0", SERVERS, SEARCH, True)
    our_lines += machine.call(DNS.unset_lines, "resolvconf", "wg0")
    machine.call(DNS.unset, "resolvconf", "wg0")
    assert state(machine) == before
    assert list(our_lines) == [line for line in their_lines.splitlines() if "resolvconf" in line]


def test_wg_quick_down_removes_the_dns_that_wgq_set(machine: Namespace) -> None:
    before = state(machine)
    machine.run(["sh", "-c", "cat >/etc/wireguard/wg0.conf"], input=CONFIG)
    machine.run(["wg-quick", "up", "wg0"])
    machine.call(DNS.unset, "resolvconf", "wg0")
    set_dns(machine)
    machine.run(["wg-quick", "down", "wg0"])
    assert state(machine) == before


def test_unset_may_be_repeated_and_needs_no_set(machine: Namespace) -> None:
    before = state(machine)
    machine.call(DNS.unset, "resolvconf", "wg0")
    assert state(machine) == before
    set_dns(machine)
    for _ in range(2):
        machine.call(DNS.unset, "resolvconf", "wg0")
    assert state(machine) == before


def test_current_is_only_the_record_of_this_link(machine: Namespace) -> None:
    assert machine.call(DNS.current, "resolvconf", "wg0") is None
    set_dns(machine)
    machine.call(DNS.set, "resolvconf", "wg1", ("10.9.9.9",), (), True)
    assert machine.call(DNS.current, "resolvconf", "wg0") == (SERVERS, SEARCH)
    assert machine.call(DNS.current, "resolvconf", "wg1") == (("10.9.9.9",), ())


def test_two_tunnels_down_in_either_order_restore_the_original(machine: Namespace) -> None:
    before = state(machine)
    for order in (("wg0", "wg1"), ("wg1", "wg0")):
        set_dns(machine, "wg0")
        set_dns(machine, "wg1")
        for name in order:
            machine.call(DNS.unset, "resolvconf", name)
        assert state(machine) == before


def test_debians_record_has_the_prefix_that_sorts_it_first() -> None:
    with debian_resolvconf() as machine:
        lines = machine.call(DNS.set_lines, "resolvconf", "wg0", SERVERS, SEARCH, True)
        assert lines == ("[#] resolvconf -a tun.wg0 -m 0 -x",)
        set_dns(machine)
        assert machine.out("grep", "^nameserver", "/etc/resolv.conf").splitlines()[0] == "nameserver 10.0.0.1"


def test_no_prefix_without_an_order_or_with_systemds_link() -> None:
    with openresolv() as machine:
        order = "# tun*\nlo.inet\n tap-1* \ntun*\n"
        machine.run(["sh", "-c", "mkdir /etc/resolvconf; cat >/etc/resolvconf/interface-order"], input=order)
        assert machine.call(DNS.unset_lines, "resolvconf", "wg0") == ("[#] resolvconf -d tap-1.wg0 -f",)
        machine.run(["sh", "-c", "echo '*' >/etc/resolvconf/interface-order"])
        assert machine.call(DNS.unset_lines, "resolvconf", "wg0") == ("[#] resolvconf -d wg0 -f",)
    with resolved(resolvconf=True) as machine:
        machine.run(["sh", "-c", "mkdir /etc/resolvconf; echo 'tun*' >/etc/resolvconf/interface-order"])
        assert machine.call(DNS.unset_lines, "resolvconf", "wg0") == ("[#] resolvconf -d wg0 -f",)


def test_systemds_link_named_resolvconf_is_used_like_wg_quick() -> None:
    with resolved(resolvconf=True) as machine:
        machine.run(["ip", "link", "add", "wg0", "type", "veth"])
        assert machine.call(DNS.detect, "auto") == "resolvconf"
        set_dns(machine)
        assert machine.out("resolvectl", "dns", "wg0").split(": ")[1] == "10.0.0.1 fd00::1\n"
        assert machine.out("resolvectl", "domain", "wg0").split(": ")[1] == "corp.example lan ~.\n"
        machine.call(DNS.unset, "resolvconf", "wg0")
        assert machine.out("resolvectl", "dns", "wg0").split(":")[1] == "\n"
        machine.run(["ip", "link", "delete", "wg0"])
        machine.call(DNS.unset, "resolvconf", "wg0")


def test_a_failing_resolvconf_is_an_error_with_its_status() -> None:
    with resolved(resolvconf=True) as machine:
        with pytest.raises(
            OperationError, match=r"`resolvconf -a wg0 -m 0 -x' failed with status 1: .*wg0"
        ) as failure:
            set_dns(machine)
        assert failure.value.remedy


def test_the_error_without_a_resolvconf_has_a_remedy() -> None:
    with plain() as machine:
        with pytest.raises(OperationError, match="command not found") as failure:
            set_dns(machine)
        assert "--dns file" in failure.value.remedy


def with_path(path: str, verb: str) -> None:
    os.environ["PATH"] = path
    if verb == "set":
        DNS.set("resolvconf", "wg0", SERVERS, SEARCH, True)
    else:
        DNS.unset("resolvconf", "wg0")


def test_unset_finds_resolvconf_in_sbin_without_path(machine: Namespace) -> None:
    before = state(machine)
    set_dns(machine)
    with pytest.raises(OperationError, match="command not found"):
        machine.call(with_path, "/usr/bin:/bin", "set")
    machine.call(with_path, "/usr/bin:/bin", "unset")
    assert state(machine) == before


def test_unset_without_a_resolvconf_does_nothing() -> None:
    with plain() as machine:
        before = state(machine)
        machine.call(DNS.unset, "resolvconf", "wg0")
        assert state(machine) == before


def test_messages_of_a_successful_resolvconf_are_printed() -> None:
    with debian_resolvconf() as machine:
        machine.run(["sh", "-c", "rm /etc/resolv.conf; echo own >/etc/resolv.conf"])
        seen = machine.call(errors_of_set)
        assert "is not a symbolic link" in seen


def errors_of_set() -> str:
    notes: list[str] = []
    Dns("/run/wgq", notes.append).set("resolvconf", "wg0", SERVERS, SEARCH, True)
    return "\n".join(notes)


def test_a_search_domain_keeps_its_bytes() -> None:
    with openresolv() as machine:
        assert b"search \xe9.example\n" in machine.call(record_of_foreign_domain)


def record_of_foreign_domain() -> bytes:
    DNS.set("resolvconf", "wg0", SERVERS, ("\udce9.example",), False)
    records = (path for path in Path("/run/resolvconf").rglob("wg0") if path.is_file())
    return b"".join(path.read_bytes() for path in records)


def test_the_machine_has_its_own_server_without_a_tunnel(machine: Namespace) -> None:
    assert f"nameserver {UPSTREAM}" in machine.out("cat", "/etc/resolv.conf")
