"""Messages about failing hooks and invalid DNS words: the place and the cause."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

    from tests.namespaces import Namespace

KEY = "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
FILE = "/etc/wireguard/wg0.conf"


def wgq(machine: Namespace, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "wgquick", *arguments]
    return machine.run(command, check=False, env=environment, input=given)


def write(machine: Namespace, *lines: str) -> str:
    text = "\n".join(["[Interface]", f"PrivateKey = {KEY}", *lines, ""])
    machine.run(["sh", "-c", f"umask 077; cat >{FILE}"], input=text)
    return text


@pytest.mark.parametrize(
    ("hook", "place", "name"),
    [
        ("ip link show \u2013\u2013bogus", "4:23", "U+2013 EN DASH"),
        ("test \u201ca b\u201d = 'a b'", "4:15", "U+201C LEFT DOUBLE QUOTATION MARK"),
        ("true;\u00a0ip link show", "4:15", "U+00A0 NO-BREAK SPACE"),
        ("\u200btrue %i", "4:10", "U+200B ZERO WIDTH SPACE"),
    ],
)
def test_a_failing_hook_is_reported_with_line_and_odd_character(
    machine: Namespace, hook: str, place: str, name: str
) -> None:
    write(machine, "PostUp = true", f"PostUp = {hook}")
    done = wgq(machine, "up", "wg0")
    assert done.returncode
    assert f"wgq: {FILE}:4:10: the hook failed with status {done.returncode} (" in done.stderr
    assert f"\n  The hook has {name} at {FILE}:{place}: " in done.stderr


def test_a_failing_pre_down_hook_is_reported_with_its_line(machine: Namespace) -> None:
    write(machine, "PreDown = test \u2018a\u2019 = a")
    assert wgq(machine, "up", "wg0").returncode == 0
    done = wgq(machine, "down", "wg0")
    assert f"{FILE}:3:11: the hook failed with status 1 (" in done.stderr
    assert "U+2018 LEFT SINGLE QUOTATION MARK" in done.stderr
    assert "Nothing was removed" in done.stderr


def test_a_hook_from_standard_input_is_reported_by_character(machine: Namespace) -> None:
    text = write(machine, "PostUp = ip link show \u2014bogus")
    done = wgq(machine, "up", "-", "--name", "wg0", given=text)
    assert "The hook has U+2014 EM DASH at its character 14" in done.stderr


def test_a_successful_hook_may_contain_any_character(machine: Namespace) -> None:
    write(machine, "PostUp = echo \u201cd\u00e9j\u00e0\u201d \u2013 vu")
    done = wgq(machine, "up", "wg0")
    assert done.returncode == 0
    assert "U+" not in done.stderr


def test_a_missing_program_is_reported_as_missing(machine: Namespace) -> None:
    write(machine, "PostUp = systemd-resolve-nonesuch %i")
    done = wgq(machine, "up", "wg0")
    assert done.returncode == 127
    assert "environment" not in done.stderr
    assert "not installed or not on PATH" in done.stderr


@pytest.mark.parametrize("word", ["https://dns.example/dns-query", "192.0.2.53:5353", "999.0.2.53", "192.0.2"])
def test_an_invalid_dns_server_is_an_error_with_its_place(machine: Namespace, word: str) -> None:
    before = machine.out("cat", "/etc/resolv.conf")
    write(machine, f"DNS = 192.0.2.1, {word}")
    done = wgq(machine, "up", "--dns", "file", "wg0")
    assert done.returncode == 1
    assert f"Warning: {FILE}:3:18: DNS `{word}' is not the address of a DNS server" in done.stderr
    assert f"wgq: `{word}' is not the address of a DNS server" in done.stderr
    assert machine.out("cat", "/etc/resolv.conf") == before
    assert "wg0" not in machine.out("ls", "/sys/class/net").split()


@pytest.mark.parametrize("word", ["192.0.2.53/32", '"192.0.2.53"', "192.0.2.53;192.0.2.54"])
def test_a_dns_word_used_as_a_search_domain_gives_a_warning(machine: Namespace, word: str) -> None:
    write(machine, f"DNS = {word}")
    done = wgq(machine, "up", "--dns", "file", "wg0")
    assert done.returncode == 0
    assert f"Warning: {FILE}:3:7: DNS `{word}' counts as a search domain" in done.stderr
    assert "DNS has no server address" in done.stderr


def test_children_of_a_hook_do_not_get_the_configuration(machine: Namespace) -> None:
    """`$WG_CONFIG` belongs to the hook, even if the caller exports a variable with that name."""
    write(machine, 'PostUp = env >/run/env; [ "$WG_CONFIG" ]; tr "\\0" "\\n" </proc/$$/cmdline >/run/argv')
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go", "WG_CONFIG": "x"}
    machine.run([sys.executable, "-m", "wgquick", "up", "wg0"], env=environment)
    seen = machine.out("cat", "/run/env", "/run/argv")
    assert "WG_CONFIG=" not in seen
    assert KEY not in seen


@pytest.mark.parametrize("options", [(), ("--exclude", "192.0.2.0/24"), ("--kill-switch",)])
def test_an_endpoint_without_an_address_is_reported_with_its_place(
    machine: Namespace, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WG_ENDPOINT_RESOLUTION_RETRIES", "0")
    peer = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
    write(machine, "[Peer]", f"PublicKey = {peer}", "AllowedIPs = 0.0.0.0/0", "  Endpoint = nosuch.invalid:5 # no")
    done = wgq(machine, "up", "wg0", *options)
    *_, what, remedy = done.stderr.splitlines()
    assert (done.returncode, remedy) == (1, "  Check the endpoint's host name and the name servers.")
    assert what.startswith(f"wgq: {FILE}:6:14: ")
    assert what.endswith(" in name resolution: `nosuch.invalid:5'")


def test_a_missing_userspace_implementation_has_a_remedy(machine: Namespace) -> None:
    write(machine)
    variable = "WG_QUICK_USERSPACE_IMPLEMENTATION"
    command = [
        "env",
        f"{variable}=nonesuch",
        sys.executable,
        "-m",
        "wgquick",
        "up",
        "--backend",
        "userspace",
        "wg0",
    ]
    done = machine.run(command, check=False)
    wanted = f"wgq: cannot run nonesuch: command not found\n  Install it, or unset {variable}.\n"
    assert (done.returncode, done.stderr.endswith(wanted)) == (1, True)
