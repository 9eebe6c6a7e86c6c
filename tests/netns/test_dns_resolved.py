"""systemd-resolved over D-Bus: the real daemon on its own system bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.namespaces import Namespace, namespace
from tests.resolvers import plain, resolved
from tests.waiting import until
from wgquick.errors import OperationError
from wgquick.system.dns import Dns

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVERS, SEARCH = ("10.0.0.1", "fd00::1", "fe80::1%wg0"), ("corp.example", "lan")
DNS = Dns("/run/wgq", print)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Namespace]:
    with resolved() as machine:
        yield machine


@pytest.fixture
def machine(daemon: Namespace) -> Iterator[Namespace]:
    """The machine with a fresh link wg0."""
    daemon.run(["ip", "link", "add", "wg0", "type", "veth", "peer", "name", "wg1"])
    until(lambda: not daemon.run(["resolvectl", "dns", "wg0"], check=False).returncode, "resolved knows the link")
    yield daemon
    daemon.run(["ip", "link", "delete", "wg0"], check=False)


def shown(machine: Namespace, what: str, link: str = "wg0") -> str:
    """What resolvectl prints about the link."""
    return machine.out("resolvectl", what, link).partition(":")[2].strip()


def test_auto_uses_resolved_if_there_is_no_resolvconf(machine: Namespace) -> None:
    assert machine.call(DNS.detect, "auto") == "resolved"


def test_a_full_tunnel_gets_servers_domains_and_all_queries(machine: Namespace) -> None:
    machine.call(DNS.set, "resolved", "wg0", SERVERS, SEARCH, True)
    assert shown(machine, "dns") == "10.0.0.1 fd00::1 fe80::1"
    assert shown(machine, "domain") == "corp.example lan ~."


def test_another_tunnel_gets_only_its_domains(machine: Namespace) -> None:
    machine.call(DNS.set, "resolved", "wg0", SERVERS, SEARCH, True)
    machine.call(DNS.set, "resolved", "wg0", ("10.0.0.2",), (), False)
    assert shown(machine, "dns") == "10.0.0.2"
    assert shown(machine, "domain") == ""


def test_unset_clears_this_link_and_keeps_the_other(machine: Namespace) -> None:
    machine.call(DNS.set, "resolved", "wg1", ("10.1.0.1",), ("other",), False)
    machine.call(DNS.set, "resolved", "wg0", SERVERS, SEARCH, True)
    for _ in range(2):
        machine.call(DNS.unset, "resolved", "wg0")
        assert shown(machine, "dns") == shown(machine, "domain") == ""
        assert shown(machine, "dns", "wg1") == "10.1.0.1"


def test_current_is_read_from_the_daemon(machine: Namespace) -> None:
    assert machine.call(DNS.current, "resolved", "wg0") is None
    machine.call(DNS.set, "resolved", "wg0", SERVERS[:2], SEARCH, True)
    assert machine.call(DNS.current, "resolved", "wg0") == (SERVERS[:2], SEARCH)


def test_the_commands_of_the_transcript_have_the_same_effect(machine: Namespace) -> None:
    for full_tunnel, search in ((True, SEARCH), (False, SEARCH), (True, ()), (False, ())):
        machine.call(DNS.set, "resolved", "wg0", SERVERS[:2], search, full_tunnel)
        ours = [shown(machine, what) for what in ("dns", "domain")]
        machine.call(DNS.unset, "resolved", "wg0")
        for line in machine.call(DNS.set_lines, "resolved", "wg0", SERVERS[:2], search, full_tunnel):
            machine.run(["sh", "-c", line.removeprefix("[#] ")])
        assert [shown(machine, what) for what in ("dns", "domain")] == ours
        for line in DNS.unset_lines("resolved", "wg0"):
            machine.run(["sh", "-c", line.removeprefix("[#] ")])
        assert shown(machine, "dns") == ""


@pytest.mark.parametrize(
    ("resolv_conf", "hosts", "noted"),
    [
        ("nameserver 127.0.0.53", "files dns", False),
        ("nameserver 192.0.2.53", "files resolve dns", False),
        ("nameserver 192.0.2.53", "files dns", True),
        ("# nameserver 127.0.0.53", "files dns", True),
    ],
)
def test_a_note_says_if_programs_bypass_the_daemon(
    machine: Namespace, resolv_conf: str, hosts: str, noted: bool
) -> None:
    kept = "mv /etc/resolv.conf /etc/kept; mv /etc/nsswitch.conf /etc/kept.nss"
    given = f"echo '{resolv_conf}' >/etc/resolv.conf; echo 'hosts: {hosts}' >/etc/nsswitch.conf"
    machine.run(["sh", "-c", f"{kept}; {given}"])
    lines = machine.call(DNS.set_lines, "resolved", "wg0", SERVERS, SEARCH, True)
    machine.run(["sh", "-c", "mv /etc/kept /etc/resolv.conf; mv /etc/kept.nss /etc/nsswitch.conf"])
    assert (len(lines) == 3 and lines[2].startswith("[!] ")) == noted
    assert len(machine.call(DNS.set_lines, "resolved", "wg0", SERVERS, SEARCH, True)) == 2


def test_a_missing_link_takes_no_dns_and_needs_no_undo(machine: Namespace) -> None:
    machine.run(["ip", "link", "delete", "wg0"])
    machine.call(DNS.unset, "resolved", "wg0")
    assert machine.call(DNS.current, "resolved", "wg0") is None
    with pytest.raises(OperationError, match="no link wg0"):
        machine.call(DNS.set, "resolved", "wg0", SERVERS, SEARCH, True)


def test_an_invalid_server_changes_nothing(machine: Namespace) -> None:
    with pytest.raises(OperationError, match=r"`1\.2\.3' is not the address"):
        machine.call(DNS.set, "resolved", "wg0", ("10.0.0.1", "1.2.3"), SEARCH, True)
    assert shown(machine, "dns") == ""


def test_an_error_of_the_daemon_is_passed_on(machine: Namespace) -> None:
    with pytest.raises(OperationError, match=r"systemd-resolved refused: .*domain") as refusal:
        machine.call(DNS.set, "resolved", "wg0", ("10.0.0.1",), ("not..valid",), True)
    assert "--dns file" in refusal.value.remedy


def test_text_that_is_not_utf8_is_refused(machine: Namespace) -> None:
    with pytest.raises(OperationError, match="is not the address"):
        machine.call(DNS.set, "resolved", "wg0", ("\udce9:1",), SEARCH, True)
    with pytest.raises(OperationError, match="not written in UTF-8"):
        machine.call(DNS.set, "resolved", "wg0", ("10.0.0.1",), ("\udce9.example",), True)


def test_a_daemon_of_another_network_namespace_is_left_alone(machine: Namespace) -> None:
    """In that namespace, the link's index belongs to another link."""
    machine.run(["resolvectl", "dns", "wg0", "10.7.0.7"])
    with namespace() as inner:
        index = machine.out("cat", "/sys/class/net/wg0/ifindex").strip()
        inner.run(["ip", "link", "add", "wg0", "index", index, "type", "veth"])
        both = Namespace("both", {"net": inner.paths["net"], "mnt": machine.paths["mnt"]})
        assert both.call(DNS.detect, "auto") == "file"
        with pytest.raises(OperationError, match="another network namespace"):
            both.call(DNS.set, "resolved", "wg0", SERVERS, SEARCH, True)
        both.call(DNS.unset, "resolved", "wg0")
        assert both.call(DNS.current, "resolved", "wg0") is None
    assert shown(machine, "dns") == "10.7.0.7"


def test_without_resolved_set_fails_and_unset_does_nothing() -> None:
    with plain() as machine:
        machine.run(["ip", "link", "add", "wg0", "type", "veth"])
        assert machine.call(DNS.detect, "auto") == "file"
        with pytest.raises(OperationError, match="system bus cannot be reached: No such file or directory"):
            machine.call(DNS.set, "resolved", "wg0", SERVERS, SEARCH, True)
        machine.call(DNS.unset, "resolved", "wg0")
        assert machine.call(DNS.current, "resolved", "wg0") is None


def test_a_bus_without_the_daemon_does_not_count() -> None:
    with resolved() as machine:
        machine.run(["ip", "link", "add", "wg0", "type", "veth"])
        pids = machine.out("dbus-send", "--system", "--print-reply", *OWNER).split()
        machine.run(["kill", pids[-1]])
        until(lambda: machine.call(DNS.detect, "auto") == "file", "the end of resolved")
        machine.call(DNS.unset, "resolved", "wg0")
        assert machine.call(DNS.current, "resolved", "wg0") is None
        assert machine.call(DNS.detect, "auto") == "file"


OWNER = (
    "--dest=org.freedesktop.DBus",
    "/org/freedesktop/DBus",
    "org.freedesktop.DBus.GetConnectionUnixProcessID",
    "string:org.freedesktop.resolve1",
)
