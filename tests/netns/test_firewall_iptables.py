"""iptables rules in both variants: the same as wg-quick's iptables-restore input, and removed completely.

The legacy variant is tested with python-iptables and without it, through the host's own programs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest

from tests.namespaces import Namespace, host, namespace
from wgquick.errors import OperationError
from wgquick.net import pack_address
from wgquick.system import firewall
from wgquick.system.firewall import iptables, libiptc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

P = ParamSpec("P")
R = TypeVar("R")
VARIANTS = ("legacy", "nft")
PROGRAMS = {4: "iptables", 6: "ip6tables"}
ADDRESSES = {4: ("10.0.0.2", "172.16.255.1"), 6: ("fd00::2", "fe80::1")}
OTHERS = """*raw
-A PREROUTING -p tcp -m comment --comment "wg-quick(8) rule for wg01" -j ACCEPT
-A PREROUTING -m comment --comment "wg-quick(8) rule for wg0 " -j ACCEPT
-A OUTPUT -p udp --dport 53 -j ACCEPT
COMMIT
*mangle
-A PREROUTING -p udp -m comment --comment "mine" -m multiport --dports 1,2 -j MARK --set-mark 1
COMMIT
"""


@pytest.fixture(params=["legacy", "legacy without python-iptables", "nft"])
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Each way to change the rules. Returns the name of the variant."""
    variant, _, without = str(request.param).partition(" ")
    if without:
        (tmp_path / "iptc.py").write_text("raise ImportError('this package is missing')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setitem(sys.modules, "iptc", None)
    return variant


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with host() as made:
        link_programs(made)
        yield made


@pytest.fixture
def twin() -> Iterator[Namespace]:
    with host() as made:
        link_programs(made)
        yield made


def link_programs(machine: Namespace) -> None:
    """A folder for each variant, like a choice of `update-alternatives`, with the other programs wg-quick needs."""
    names = [f"{program}{part}" for program in PROGRAMS.values() for part in ("", "-save", "-restore")]
    for variant in VARIANTS:
        links = [f"ln -s /usr/sbin/xtables-{variant}-multi {name}" for name in names]
        others = [f"ln -s $(command -v {name}) {name}" for name in ("sysctl", "wireguard-go")]
        machine.run(["sh", "-ec", "\n".join([f"mkdir /run/{variant}", f"cd /run/{variant}", *links, *others])])


def path(variant: str) -> str:
    """A PATH in which `iptables` is of this variant, and without nft."""
    return f"/run/{variant}:/usr/bin:/bin"


def call(machine: Namespace, variant: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function on a machine with `iptables` of this variant."""

    def with_path() -> R:
        os.environ["PATH"] = path(variant)
        return function(*args, **kwargs)

    return machine.call(with_path)


def script(name: str, family: int, fwmark: int, port: int = 0) -> str:
    """wg-quick's input to `iptables-restore -n`; with a port, also our rules for reverse path filters."""
    marker = f'-m comment --comment "wg-quick(8) rule for {name}"'
    drops = [
        f"-I PREROUTING ! -i {name} -d {address} -m addrtype ! --src-type LOCAL -j DROP {marker}"
        for address in ADDRESSES[family]
    ]
    marks = [
        f"-I POSTROUTING -m mark --mark {fwmark} -p udp -j CONNMARK --save-mark {marker}",
        f"-I PREROUTING -p udp -j CONNMARK --restore-mark {marker}",
    ]
    if port:
        arrivals = f"! -i {name} -p udp --dport {port} -m addrtype --dst-type LOCAL"
        drops.append(f"-I PREROUTING {arrivals} -j MARK --set-mark {fwmark} {marker}")
        marks.insert(0, drops[-1])
        errors = f"-p ipv6-icmp -m connmark --mark {fwmark}"
        marks.append(f"-I PREROUTING {errors} -j CONNMARK --restore-mark {marker}")
    return "\n".join(["*raw", *drops, "COMMIT", "*mangle", *marks, "COMMIT", ""])


def add(name: str, family: int, fwmark: int = 51820) -> None:
    iptables.add(name, family, [pack_address(address) for address in ADDRESSES[family]], fwmark)


def restore(machine: Namespace, family: int, variant: str, text: str) -> None:
    machine.run([f"{PROGRAMS[family]}-{variant}-restore", "-n"], input=text)


def saved(machine: Namespace, variant: str = "legacy") -> list[str]:
    """The rules of both families as iptables-save prints them, without comments."""
    text = "".join(machine.out(f"{program}-{variant}-save") for program in PROGRAMS.values())
    return [line for line in text.splitlines() if not line.startswith("#")]


def rules(machine: Namespace, variant: str = "legacy") -> list[str]:
    return [line for line in saved(machine, variant) if line.startswith("-A")]


@pytest.mark.parametrize("name", ["wg0", "fifteen-letters", "with_dot.0", "a=b"])
def test_the_rules_equal_those_of_wg_quick(machine: Namespace, twin: Namespace, name: str, variant: str) -> None:
    for family in (4, 6):
        restore(machine, family, variant, OTHERS)
        call(machine, variant, add, name, family)
        restore(twin, family, variant, OTHERS)
        restore(twin, family, variant, script(name, family, 51820))
    assert saved(machine, variant) == saved(twin, variant)
    assert len(rules(machine, variant)) == 2 * (4 + 4)


def test_rules_for_reverse_path_filters_equal_those_of_iptables(
    machine: Namespace, twin: Namespace, variant: str
) -> None:
    addresses = [pack_address(address) for address in ADDRESSES[6]]
    call(machine, variant, iptables.add, "wg0", 6, addresses, 51820, 500)
    restore(twin, 6, variant, script("wg0", 6, 51820, 500))
    assert rules(machine, variant) == rules(twin, variant)
    assert len(rules(machine, variant)) == 7
    call(machine, variant, iptables.remove, "wg0")
    assert rules(machine, variant) == []


def test_rules_are_in_the_variant_of_the_hosts_iptables(machine: Namespace) -> None:
    call(machine, "nft", add, "wg0", 4)
    assert machine.out("cat", "/proc/net/ip_tables_names") == ""
    assert len(rules(machine, "nft")) == 4
    call(machine, "nft", iptables.remove, "wg0")
    call(machine, "legacy", add, "wg0", 6)
    assert machine.out("nft", "list", "tables", "ip6") == ""
    assert len(rules(machine, "legacy")) == 4


def test_each_family_uses_its_own_program(machine: Namespace) -> None:
    machine.run(["ln", "-sf", "/usr/sbin/xtables-legacy-multi", "/run/nft/ip6tables-restore"])
    for family in (4, 6):
        call(machine, "nft", add, "wg0", family)
    assert [len(rules(machine, variant)) for variant in VARIANTS] == [4, 4]
    call(machine, "nft", iptables.remove, "wg0")
    assert [rules(machine, variant) for variant in VARIANTS] == [[], []]


def hide_programs(machine: Namespace, *variants: str) -> None:
    """Hide the `iptables` programs of these variants; the package's libraries stay."""
    hidden = [f"rm -r /run/{each}; mount --bind /etc/passwd /usr/sbin/xtables-{each}-multi" for each in variants]
    machine.run(["sh", "-ec", "; ".join(hidden)])


def test_without_an_iptables_program_rules_are_legacy_ones(machine: Namespace) -> None:
    hide_programs(machine, "nft")
    call(machine, "nft", add, "wg0", 4)
    assert "raw" in machine.out("cat", "/proc/net/ip_tables_names").split()
    machine.call(iptables.remove, "wg0")
    assert not machine.call(iptables.present, "wg0")


def test_iptables_is_found_without_sbin_in_path(machine: Namespace) -> None:
    """A cron job has such a PATH; wg-quick in a root shell must find the rules later."""
    machine.run(["rm", "-r", "/run/nft"])
    call(machine, "nft", add, "wg0", 4)
    assert len(rules(machine, "nft")) == 4


def install(machine: Namespace, name: str, script: str, variant: str = "nft") -> None:
    """Put a shell script in place of a variant's program."""
    place = f"/run/{variant}/{name}"
    machine.run(["sh", "-c", f"rm -f {place}; cat >{place}; chmod +x {place}"], input=f"#!/bin/sh\n{script}\n")


def test_a_failing_iptables_restore_leaves_no_rule(machine: Namespace) -> None:
    real = "/usr/sbin/iptables-nft-restore"
    install(machine, "iptables-restore", f'{real} "$@"; [ $1 = -V ] || {{ echo "mangle is full" >&2; exit 4; }}')
    with pytest.raises(OperationError, match=r"`iptables-restore -n' failed .* 4: mangle is full") as refusal:
        call(machine, "nft", add, "wg0", 4)
    assert refusal.value.status == 4
    assert not rules(machine, "nft")


def test_no_other_table_is_created(machine: Namespace) -> None:
    call(machine, "legacy", add, "wg0", 4)
    assert sorted(machine.out("cat", "/proc/net/ip_tables_names").split()) == ["mangle", "raw"]
    assert machine.out("cat", "/proc/net/ip6_tables_names") == ""


def test_a_plus_in_a_name_is_not_a_wildcard(machine: Namespace) -> None:
    machine.run(["ip", "address", "add", "10.0.0.2/32", "dev", "lo"])
    machine.run(["ip", "link", "add", "wg9", "type", "veth", "peer", "name", "in0"])
    reach = ["ping", "-c", "1", "-w", "60", "10.0.0.2"]
    with namespace() as other:
        # From outside, where the other namespace's name is known: the machine has its own /run.
        into = [f"--net={machine.paths['net']}", "ip", "link", "set", "in0", "netns", other.name]
        subprocess.run(["nsenter", *into], check=True)
        for place, link, address in ((machine, "wg9", "192.0.2.1/24"), (other, "in0", "192.0.2.9/24")):
            place.run(["ip", "address", "add", address, "dev", link])
            place.run(["ip", "link", "set", link, "up"])
        other.run(["ip", "route", "add", "10.0.0.2", "via", "192.0.2.1"])
        other.run(reach)
        call(machine, "legacy", iptables.add, "wg+", 4, [b"\x0a\0\0\2"], 51820)
        assert other.run([*reach, "-w", "1"], check=False).returncode == 1
        machine.call(iptables.remove, "wg+")
        other.run(reach)


def test_marks_are_kept_if_the_library_does_not_know_connmark(machine: Namespace) -> None:
    def add_without_options() -> None:
        import iptc

        def refuse(_target: object, name: str, _value: str) -> None:
            raise iptc.XTablesError(f"b'CONNMARK': no such parameter {name}")

        iptc.Target.set_parameter = refuse
        for family in (4, 6):
            add("wg0", family)

    call(machine, "legacy", add_without_options)
    marks = [line for line in rules(machine, "legacy") if "CONNMARK" in line]
    assert len([line for line in marks if "--save-mark --nfmask 0xffffffff --ctmask 0xffffffff" in line]) == 2
    assert len([line for line in marks if "--restore-mark --nfmask 0xffffffff --ctmask 0xffffffff" in line]) == 2


def test_remove_deletes_this_interfaces_rules_in_either_variant(machine: Namespace, variant: str) -> None:
    for family in (4, 6):
        restore(machine, family, variant, OTHERS)
    before = saved(machine, variant)
    for family in (4, 6):
        restore(machine, family, variant, script("wg0", family, 51820))
    assert saved(machine, variant) != before
    assert machine.call(iptables.present, "wg0")
    machine.call(iptables.remove, "wg0")
    assert saved(machine, variant) == before
    assert not machine.call(iptables.present, "wg0")


def test_remove_of_one_family_leaves_the_other(machine: Namespace, variant: str) -> None:
    for family in (4, 6):
        restore(machine, family, variant, script("wg0", family, 51820))
    machine.call(iptables.remove, "wg0", 4)
    remaining = rules(machine, variant)
    assert len(remaining) == 4
    assert all("fd00::2" in line or "fe80::1" in line or "udp" in line for line in remaining)


CONFIG = """[Interface]
PrivateKey = 2MtBlbfEoJf5kqHjTNmNhDhM1hCZgsXWaGP9UTdBVUo=
Address = 10.0.0.2/24, 172.16.255.1/32
[Peer]
PublicKey = cPkfAcaIBvRgBnIRqOYK2vCVqZt2LTZyxdxDyNKEWzE=
AllowedIPs = 0.0.0.0/0
"""


class WgQuick:
    """wg-quick on a machine without nft and with iptables in one variant."""

    def __init__(self, machine: Namespace, variant: str) -> None:
        machine.uplink()
        machine.run(["sh", "-c", "cat >/etc/wireguard/wg0.conf"], input=CONFIG)
        self.machine = machine
        self.environment = {"PATH": path(variant), "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}

    def __call__(self, verb: str) -> None:
        self.machine.run(["wg-quick", verb, "wg0"], env=self.environment)

    def wgq(self, *arguments: str) -> None:
        self.machine.run([sys.executable, "-m", "wgquick", *arguments], env={**os.environ, **self.environment})


def test_rules_added_by_wg_quick_are_removed(machine: Namespace, variant: str) -> None:
    wg_quick = WgQuick(machine, variant)
    wg_quick("up")
    assert len(rules(machine, variant)) == 4
    assert machine.call(firewall.present, "wg0") == (("iptables", 4),)
    machine.call(iptables.remove, "wg0")
    assert not rules(machine, variant)
    wg_quick("down")


def test_wg_quick_removes_rules_added_by_wgq(machine: Namespace, variant: str) -> None:
    wg_quick = WgQuick(machine, variant)
    wg_quick("up")
    theirs = saved(machine, variant)
    wg_quick("down")
    wg_quick.wgq("up", "--firewall", "iptables", "wg0")
    assert saved(machine, variant) == theirs
    wg_quick("down")
    assert not any(rules(machine, each) for each in VARIANTS)


@pytest.mark.parametrize("journal", ["with its journal", "by the host's state"])
def test_down_removes_what_up_added(machine: Namespace, variant: str, journal: str) -> None:
    wg_quick = WgQuick(machine, variant)
    wg_quick.wgq("up", "--firewall", "iptables", "wg0")
    assert len(rules(machine, variant)) == 4
    if journal != "with its journal":
        machine.run(["sh", "-c", "rm /run/wgq/*/wg0.journal"])
    wg_quick.wgq("down", "wg0")
    assert not any(rules(machine, each) for each in VARIANTS)


def test_a_full_tunnel_with_nftables_does_not_use_iptables(machine: Namespace) -> None:
    """It runs no iptables program and imports no iptables module: they would slow down `up`."""
    wg_quick = WgQuick(machine, "nft")
    for program in PROGRAMS.values():
        for part in ("", "-save", "-restore"):
            install(machine, f"{program}{part}", "touch /run/called")
    up = [sys.executable, "-X", "importtime", "-m", "wgquick", "up", "wg0"]
    done = machine.run(up, env={**os.environ, **wg_quick.environment})
    assert "wgquick.system.firewall.nft" in done.stderr
    assert "iptables" not in done.stderr
    assert "called" not in machine.out("ls", "/run").split()


def test_remove_may_be_repeated_and_needs_no_add(machine: Namespace) -> None:
    call(machine, "legacy", iptables.remove, "wg0")
    call(machine, "legacy", add, "wg0", 4)
    call(machine, "legacy", iptables.remove, "wg0")
    call(machine, "legacy", iptables.remove, "wg0")
    assert not rules(machine)


def loaded_after(name: str) -> bool:
    sys.modules.pop("iptc", None)  # another test of this process may have imported it
    iptables.present(name)
    iptables.remove(name)
    return "iptc" in sys.modules


def test_looking_for_iptables_rules_loads_no_table_or_library(machine: Namespace) -> None:
    machine.run(["nft", "add", "table", "ip", "mangle"])
    assert not machine.call(loaded_after, "wg0")
    assert machine.out("cat", "/proc/net/ip_tables_names") == ""
    assert machine.out("nft", "list", "tables") == "table ip mangle\n"


def refused_mangle() -> None:
    """Add rules while the mangle table refuses them."""
    real = libiptc._Iptables.insert

    def insert(self: libiptc._Iptables, name: str, new: object) -> None:
        if name == "mangle":
            raise OperationError("refused")
        real(self, name, new)  # type: ignore[arg-type]

    libiptc._Iptables.insert = insert  # type: ignore[method-assign,assignment]
    with pytest.raises(OperationError):
        add("wg0", 4)


def test_an_error_in_the_second_table_restores_the_first(machine: Namespace) -> None:
    restore(machine, 4, "legacy", OTHERS)
    before = rules(machine)
    call(machine, "legacy", refused_mangle)
    assert rules(machine) == before


def used_beside(name: str) -> list[bool]:
    """Whether another user of the library in this process keeps its table and its pending change."""
    import warnings

    warnings.simplefilter("ignore")
    import iptc

    table = iptc.Table(iptc.Table.RAW)
    table.autocommit = False
    rule = iptc.Rule()
    rule.create_target("ACCEPT")
    iptc.Chain(table, "OUTPUT").insert_rule(rule)
    iptables.add(name, 4, [], 51820)
    iptables.remove(name, 4)
    return [table.autocommit, bool(iptc.Chain(table, "OUTPUT").rules)]


def test_another_user_of_the_library_is_not_disturbed(machine: Namespace) -> None:
    assert call(machine, "legacy", used_beside, "wg0") == [False, True]


def without_the_library() -> None:
    sys.modules["iptc"] = None  # type: ignore[assignment]
    add("wg0", 4)


def test_without_iptables_the_error_names_the_package(machine: Namespace) -> None:
    hide_programs(machine, *VARIANTS)
    with pytest.raises(OperationError, match="iptables cannot be used") as refusal:
        call(machine, "legacy", without_the_library)
    assert "Debian: iptables" in refusal.value.remedy


def test_the_library_is_imported_without_setuptools_or_gcc(tmp_path: Path) -> None:
    """Both would take most of an `up`: iptc asks gcc for its own library, and setuptools replaces distutils."""
    gcc = tmp_path / "gcc"
    gcc.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    gcc.chmod(0o755)
    code = """
import os, sys
from wgquick.system.firewall import libiptc
before = dict(os.environ)
assert libiptc.library().__name__ == "iptc"
assert not {"setuptools", "distutils"} & set(sys.modules)
assert dict(os.environ) == before
"""
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PATH": path}, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert not (tmp_path / "asked").exists()


def test_without_the_library_the_legacy_program_is_found(machine: Namespace) -> None:
    """Rules in legacy tables are removed even if the host's `iptables` is the nft variant."""
    restore(machine, 4, "legacy", script("wg0", 4, 51820))

    def remove() -> None:
        sys.modules["iptc"] = None  # type: ignore[assignment]
        assert iptables.present("wg0") == (4,)
        iptables.remove("wg0")

    call(machine, "nft", remove)
    assert not rules(machine)


def test_an_error_in_the_second_table_leaves_nothing(machine: Namespace) -> None:
    real = "/usr/sbin/iptables-legacy-restore"
    refusing = f'case $1 in -V) exec {real} -V;; esac; sed "/mangle/,/COMMIT/s/CONNMARK/NONE/" | {real} "$@"'
    install(machine, "iptables-legacy-restore", refusing, "legacy")
    restore(machine, 4, "legacy", OTHERS)
    before = rules(machine)
    with pytest.raises(OperationError, match="`iptables-legacy-restore -n -w' failed with status 2"):
        call(machine, "legacy", without_the_library)
    assert rules(machine) == before


def test_the_library_works_in_an_empty_environment(machine: Namespace) -> None:
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from wgquick.system.firewall import iptables; iptables.add('wg0', 4, [bytes([10, 0, 0, 2])], 51820)"
    )
    hide_programs(machine, "nft")
    machine.run([sys.executable, "-c", code], env={})
    assert len(rules(machine)) == 3


def test_present_lists_kinds_and_families(machine: Namespace) -> None:
    assert machine.call(firewall.present, "wg0") == ()
    machine.call(firewall.add, "iptables", "wg0", 4, [], 51820)
    assert machine.call(firewall.present, "wg0") == (("iptables", 4),)
    machine.call(firewall.add, "nft", "wg0", 4, [], 51820)
    assert machine.call(firewall.present, "wg0") == (("nft", 0), ("iptables", 4))
    machine.call(firewall.remove, "nft", "wg0", 0)
    machine.call(firewall.remove, "iptables", "wg0", 0)
    assert machine.call(firewall.present, "wg0") == ()


def test_the_transcript_of_iptables_is_that_of_wg_quick() -> None:
    assert firewall.add_lines("iptables", 4) == ("[#] iptables-restore -n",)
    assert firewall.add_lines("iptables", 6) == ("[#] ip6tables-restore -n",)
    assert firewall.remove_lines("iptables", 6) == ("[#] ip6tables-restore -n",)
