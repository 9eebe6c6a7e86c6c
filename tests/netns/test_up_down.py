"""`wgq up` and `wgq down` as a user runs them, beyond the parity with wg-quick."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.netns.tunnels import (
    FULL,
    KEY,
    PEERS,
    WGQ,
    config,
    journals,
    links,
    programs,
    rules,
    src_valid_mark,
    wgq,
    with_resolvconf,
    write,
)
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.namespaces import Namespace


def failing_resolvconf(machine: Namespace) -> str:
    """A PATH with a resolvconf that fails to remove a record while /run/failing exists."""
    script = """
        if [ "$1" = -d ] && [ -e /run/failing ]; then echo no >&2; exit 3; fi
        [ "$1" = -l ] || echo "$1" >>/run/dns
    """
    return with_resolvconf(machine, script)


@pytest.mark.parametrize("first_down", ["wg0", "wg1"])
def test_down_of_one_full_tunnel_leaves_the_other_intact(machine: Namespace, first_down: str) -> None:
    before = rules(machine)
    write(machine, config(peer=FULL))
    write(machine, config(peer=FULL, address="10.1.0.1/24", n=1), "wg1")
    wgq(machine, "up", "wg0")
    alone = rules(machine)
    wgq(machine, "up", "wg1")
    wgq(machine, "down", first_down)
    left = rules(machine)
    other = "wg1" if first_down == "wg0" else "wg0"
    table = "51821" if other == "wg1" else "51820"
    assert left.count("suppress_prefixlength 0") == 2
    assert left.count(f"lookup {table}") == 2
    assert other == "wg1" or left == alone
    assert f"wg-quick-{other}" in machine.out("nft", "list", "tables")
    assert machine.out("ip", "route", "show", "table", table).startswith(f"default dev {other}")
    assert src_valid_mark(machine) == "1"
    wgq(machine, "down", other)
    assert rules(machine) == before
    assert src_valid_mark(machine) == "0"
    assert machine.out("nft", "list", "ruleset") == ""


def test_a_full_tunnel_of_wg_quick_is_left_intact(machine: Namespace) -> None:
    write(machine, config(peer=FULL))
    write(machine, config(peer=FULL, address="10.1.0.1/24", n=1), "wg1")
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    machine.run(["wg-quick", "up", "wg0"], env=environment)
    alone = rules(machine)
    wgq(machine, "up", "wg1")
    wgq(machine, "down", "wg1")
    assert rules(machine) == alone
    assert src_valid_mark(machine) == "1"


def test_src_valid_mark_is_restored_after_a_tunnel_of_wg_quick(machine: Namespace) -> None:
    write(machine, config(peer=FULL))
    write(machine, config(peer=FULL, address="10.1.0.1/24", n=1), "wg1")
    write(machine, config(peer=FULL, address="10.2.0.1/24", n=1), "wg2")
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    wgq(machine, "up", "wg0")
    machine.run(["wg-quick", "up", "wg1"], env=environment)
    wgq(machine, "down", "wg0")
    wgq(machine, "up", "wg2")
    wgq(machine, "down", "wg2")
    assert src_valid_mark(machine) == "1"
    wgq(machine, "down", "wg1")
    assert src_valid_mark(machine) == "0"
    assert journals(machine) == ""


def test_a_src_valid_mark_left_by_wg_quick_stays(machine: Namespace) -> None:
    """wg-quick's down leaves it at 1, which is the machine's own value from then on."""
    write(machine, config(peer=FULL))
    write(machine, config(peer=FULL, address="10.1.0.1/24", n=1), "wg1")
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    wgq(machine, "up", "wg0")
    machine.run(["wg-quick", "up", "wg1"], env=environment)
    wgq(machine, "down", "wg0")
    machine.run(["wg-quick", "down", "wg1"], env=environment)
    wgq(machine, "up", "wg0")
    wgq(machine, "down", "wg0")
    assert src_valid_mark(machine) == "1"
    assert journals(machine) == ""


def test_the_hosts_own_suppress_rule_survives_down(machine: Namespace) -> None:
    machine.run(["ip", "rule", "add", "priority", "50", "table", "main", "suppress_prefixlength", "0"])
    before = rules(machine)
    write(machine, config(peer=FULL))
    wgq(machine, "up", "wg0")
    wgq(machine, "down", "wg0")
    assert rules(machine) == before


def test_down_uses_the_journal_if_the_file_was_edited(machine: Namespace) -> None:
    before = rules(machine)
    resolv = machine.out("cat", "/etc/resolv.conf")
    write(machine, config("DNS = 10.0.0.53", FULL))
    wgq(machine, "up", "wg0", WGQ_DNS="file")
    assert "10.0.0.53" in machine.out("cat", "/etc/resolv.conf")
    write(machine, config("Table = off"))
    wgq(machine, "down", "wg0")
    assert (rules(machine), machine.out("cat", "/etc/resolv.conf")) == (before, resolv)


@pytest.mark.parametrize("damage", ["rm /etc/wireguard/wg0.conf", "echo nonsense >> /etc/wireguard/wg0.conf"])
def test_down_with_a_broken_file_runs_the_recorded_hooks(machine: Namespace, damage: str) -> None:
    write(machine, config("PreDown = touch /run/pre-%i\nPostDown = touch /run/post-%i", FULL))
    before = rules(machine)
    wgq(machine, "up", "wg0")
    machine.run(["sh", "-c", damage])
    wgq(machine, "down", "wg0")
    assert rules(machine) == before
    assert {"pre-wg0", "post-wg0"} <= set(machine.out("ls", "/run").split())
    assert journals(machine) == ""


def test_down_after_the_link_was_deleted_removes_the_rest(machine: Namespace) -> None:
    before = rules(machine)
    write(machine, config("PostDown = touch /run/post", FULL))
    wgq(machine, "up", "wg0")
    machine.run(["ip", "link", "delete", "wg0"])
    wgq(machine, "down", "wg0")
    assert rules(machine) == before
    assert machine.out("nft", "list", "ruleset") == ""
    assert "post" in machine.out("ls", "/run").split()


def test_a_stale_journal_does_not_touch_the_next_tunnels_rules(machine: Namespace) -> None:
    """wg-quick takes wgq's tunnel down; another gets the same table and priorities; then ours comes up again."""
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    write(machine, config(peer=FULL))
    write(machine, config(peer=FULL, address="10.1.0.1/24", n=1), "wg1")
    wgq(machine, "up", "wg0")
    machine.run(["wg-quick", "down", "wg0"], env=environment)
    machine.run(["wg-quick", "up", "wg1"], env=environment)
    others = rules(machine)
    wgq(machine, "up", "wg0")
    wgq(machine, "down", "wg0")
    assert rules(machine) == others


@pytest.mark.parametrize("parting", ["delete wg0", "set wg0 down"])
def test_down_removes_its_own_rules_if_another_took_its_table(machine: Namespace, parting: str) -> None:
    """A link that is set down or deleted by hand loses its routes, and its table then counts as free."""
    before = rules(machine)
    write(machine, config(peer=FULL))
    write(machine, config(peer=FULL, address="10.1.0.1/24", n=1), "wg1")
    wgq(machine, "up", "wg0")
    machine.run(["ip", "link", *parting.split()])
    wgq(machine, "up", "wg1")
    wgq(machine, "down", "wg0")
    assert rules(machine).count("lookup 51820") == rules(machine).count("suppress_prefixlength 0") == 2
    assert "dev wg1" in machine.out("ip", "route", "get", "198.51.100.1")
    wgq(machine, "down", "wg1")
    assert rules(machine) == before


def test_a_stale_journal_leaves_the_suppress_rule_of_another(machine: Namespace) -> None:
    environment = {**os.environ, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    write(machine, config(peer=FULL))
    write(machine, config("FwMark = 7", FULL, address="10.1.0.1/24", n=1), "wg1")
    wgq(machine, "up", "wg0")
    machine.run(["wg-quick", "down", "wg0"], env=environment)
    machine.run(["wg-quick", "up", "wg1"], env=environment)
    others = rules(machine)
    wgq(machine, "down", "wg0")
    assert rules(machine) == others


def test_up_with_a_mark_in_use_leaves_the_other_tunnels_rules(machine: Namespace) -> None:
    write(machine, config("FwMark = 0x1234", FULL))
    write(machine, config("FwMark = 0x1234", FULL, address="10.1.0.1/24", n=1), "wg1")
    wgq(machine, "up", "wg0")
    alone = rules(machine)
    assert "table 4660' failed: File exists" in wgq(machine, "up", "wg1", status=2).stderr
    assert rules(machine) == alone


def test_up_without_a_free_priority_leaves_the_other_tunnel(machine: Namespace) -> None:
    """The kernel gives priority 0 if nothing lower is free, and there two suppress rules are one rule."""
    for table in ("100", "101"):
        machine.run(["ip", "rule", "add", "preference", "1", "table", table])
    write(machine, config(peer=FULL))
    write(machine, config(peer=FULL, address="10.1.0.1/24", n=1), "wg1")
    wgq(machine, "up", "wg0")
    alone = rules(machine)
    error = wgq(machine, "up", "wg1", status=2).stderr
    assert "File exists" in error
    assert "`ip rule'" in error
    assert rules(machine) == alone


def test_a_failing_pre_down_hook_stops_down_and_names_force(machine: Namespace) -> None:
    write(machine, config("PreDown = exit 7\nPostDown = touch /run/post"))
    wgq(machine, "up", "wg0")
    refused = wgq(machine, "down", "wg0", status=7)
    assert "wgq down --force wg0" in refused.stderr
    assert "wg0" in links(machine)
    wgq(machine, "down", "--force", "wg0")
    assert "wg0" not in links(machine)
    assert "post" in machine.out("ls", "/run").split()


def test_a_failing_post_down_hook_gives_its_status(machine: Namespace) -> None:
    write(machine, config("PostDown = exit 9", FULL))
    before = rules(machine)
    wgq(machine, "up", "wg0")
    wgq(machine, "down", "wg0", status=9)
    assert rules(machine) == before
    assert "wg0" not in links(machine)
    assert journals(machine) == ""


def test_a_failed_undo_of_dns_is_repeated_by_the_next_down(machine: Namespace) -> None:
    path = failing_resolvconf(machine)
    hooks = "PreDown = echo pre >>/run/hooks\nPostDown = echo post >>/run/hooks"
    write(machine, config(f"DNS = 10.0.0.53\n{hooks}", FULL))
    before = rules(machine)
    wgq(machine, "up", "wg0", PATH=path)
    machine.run(["touch", "/run/failing"])
    refused = wgq(machine, "down", "wg0", status=1, PATH=path)
    assert "`resolvconf -d wg0 -f' failed with status 3: no" in refused.stderr
    assert "wgq down wg0" in refused.stderr
    assert (rules(machine), "wg0" in links(machine)) == (before, False)
    assert machine.out("cat", "/run/hooks").split() == ["pre", "post"]
    wgq(machine, "down", "wg0", status=1, PATH=path)
    machine.run(["rm", "/run/failing"])
    wgq(machine, "down", "wg0", PATH=path)
    assert machine.out("cat", "/run/hooks").split() == ["pre", "post"]
    assert machine.out("cat", "/run/dns").split() == ["-a", "-d"]
    assert journals(machine) == ""


def test_a_failing_post_down_hook_hides_no_failed_undo(machine: Namespace) -> None:
    path = failing_resolvconf(machine)
    write(machine, config("DNS = 10.0.0.53\nPostDown = touch /run/failing; exit 9\nPreDown = touch /run/failing"))
    wgq(machine, "up", "wg0", PATH=path)
    assert "`resolvconf -d wg0 -f' failed" in wgq(machine, "down", "wg0", status=9, PATH=path).stderr
    assert journals(machine) != ""


def test_a_hooks_line_hides_keys_but_the_peers_public_ones(machine: Namespace) -> None:
    hook = f"PostUp = wg set %i private-key <(echo {KEY}) peer {PEERS[1]} preshared-key <(echo {KEY})"
    write(machine, config(hook))
    transcript = wgq(machine, "up", "wg0").stderr  # wgq() asserts that KEY is not in it
    shown = f"private-key <(echo (hidden)) peer {PEERS[1]} preshared-key <(echo (hidden))"
    assert f"[#] wg set wg0 {shown}" in transcript.splitlines()
    assert PEERS[1] in machine.out("wg", "show", "wg0", "peers")


def test_a_failing_post_up_hook_rolls_up_back_with_its_status(machine: Namespace) -> None:
    before = rules(machine)
    write(machine, config("PostUp = exit 23", FULL))
    wgq(machine, "up", "wg0", status=23)
    assert rules(machine) == before
    assert "wg0" not in links(machine)
    assert (src_valid_mark(machine), journals(machine)) == ("0", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_during_up_rolls_it_back(machine: Namespace, number: signal.Signals) -> None:
    before = rules(machine)
    write(machine, config("DNS = 10.0.0.53\nPostUp = touch /run/reached; sleep 60", FULL))
    resolv = machine.out("cat", "/etc/resolv.conf")
    # A background job ignores INT and HUP, and wgq does not change what is ignored.
    wgq_with_signals = ["env", "--default-signal=INT,TERM,HUP,QUIT", *WGQ]
    process = machine.popen(
        [*wgq_with_signals, "up", "wg0"], env={**os.environ, "WGQ_DNS": "file"}, stderr=subprocess.PIPE
    )
    until(lambda: not machine.run(["test", "-e", "/run/reached"], check=False).returncode, "the hook runs")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr.decode()
    assert (rules(machine), machine.out("cat", "/etc/resolv.conf")) == (before, resolv)
    assert "wg0" not in links(machine)
    until(lambda: not programs(machine, "sleep"), "the end of the hook's program")


def test_the_daemon_survives_signals_to_the_callers_group(machine: Namespace) -> None:
    write(machine, config())
    process = machine.popen(
        [*WGQ, "up", "wg0"], env=dict(os.environ), start_new_session=True, stderr=subprocess.PIPE
    )
    process.communicate(timeout=60)
    assert process.returncode == 0
    (daemon,) = programs(machine, "wgq-userspace")
    assert os.getpgid(daemon) != process.pid
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    assert programs(machine, "wgq-userspace") == [daemon]
    wgq(machine, "down", "wg0")
    until(lambda: programs(machine, "wgq-userspace") == [], "the end of the daemon")


def test_full_tunnels_started_at_once_get_different_tables(machine: Namespace) -> None:
    before = rules(machine)
    names = ["wg0", "wg1", "wg2", "wg3"]
    for number, name in enumerate(names):
        write(machine, config("", FULL, address=f"10.{number}.0.1/24"), name)
    starting = [machine.popen([*WGQ, "up", name], env=dict(os.environ), stderr=subprocess.PIPE) for name in names]
    transcripts = [process.communicate(timeout=120)[1].decode() for process in starting]
    assert [process.returncode for process in starting] == [0] * len(names), transcripts
    marks = {machine.out("wg", "show", name, "fwmark").strip() for name in names}
    assert marks == {hex(51820 + number) for number in range(len(names))}
    for name in names:
        wgq(machine, "down", name)
    assert (rules(machine), journals(machine)) == (before, "")


def test_standard_input_needs_a_name_and_touches_no_disk(machine: Namespace) -> None:
    refused = wgq(machine, "up", "-", stdin=config(), status=1)
    assert "--name" in refused.stderr
    wgq(machine, "up", "-", "--name", "ci0", stdin=config())
    assert "ci0" in links(machine)
    wgq(machine, "down", "ci0")
    assert "ci0" not in links(machine)


def test_a_faulty_file_is_reported_and_changes_nothing(machine: Namespace) -> None:
    write(machine, config("MTU = many", "AllowedIPs = 10.0.0.0/33"))
    before = machine.out("ip", "-j", "link")
    refused = wgq(machine, "up", "wg0", status=1)
    assert "/etc/wireguard/wg0.conf:4:7:" in refused.stderr
    assert "/etc/wireguard/wg0.conf:7:" in refused.stderr
    assert machine.out("ip", "-j", "link") == before
    assert journals(machine) == ""


def test_an_existing_interface_has_the_message_of_wg_quick(machine: Namespace) -> None:
    write(machine, config())
    wgq(machine, "up", "wg0")
    refused = wgq(machine, "up", "wg0", status=1).stderr
    assert refused.endswith("`wg0' already exists\n  Take it down first: wgq down wg0\n")
    wgq(machine, "down", "wg0")
    assert "`wg0' is not a WireGuard interface" in wgq(machine, "down", "wg0", status=1).stderr


def test_a_link_that_is_not_wireguard_is_refused(machine: Namespace) -> None:
    write(machine, config(), "up0")
    assert "It is not a WireGuard interface" in wgq(machine, "up", "up0", status=1).stderr
    assert "`up0' is not a WireGuard interface" in wgq(machine, "down", "up0", status=1).stderr
    assert "up0" in links(machine)


def test_without_ipv6_the_tunnel_comes_up_with_one_warning(machine: Namespace) -> None:
    machine.run(["sysctl", "-q", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"])
    write(machine, config(peer=FULL, address="fd00::1/64, 10.0.0.1/24"))
    assert wgq(machine, "up", "wg0").stderr.count("IPv6 is disabled") == 1
    assert "10.0.0.1" in machine.out("ip", "address", "show", "wg0")
    wgq(machine, "down", "wg0")
    refused = wgq(machine, "up", "--strict", "wg0", status=1)
    assert "IPv6 is disabled" in refused.stderr
    assert "wg0" not in links(machine)


def test_a_read_only_proc_sys_gives_a_warning(machine: Namespace) -> None:
    machine.run(["mount", "--bind", "/proc/sys", "/proc/sys"])
    machine.run(["mount", "-o", "remount,ro,bind", "/proc/sys"])
    write(machine, config(peer=FULL))
    assert "src_valid_mark" in wgq(machine, "up", "wg0").stderr
    wgq(machine, "down", "wg0")
    refused = wgq(machine, "up", "--strict", "wg0", status=1)
    assert "--sysctl" in refused.stderr
    assert "wg0" not in links(machine)


@pytest.mark.parametrize("hidden", ["/proc/sys", "/proc/sys/net/ipv6"])
def test_a_hidden_proc_sys_does_not_mean_no_ipv6(machine: Namespace, hidden: str) -> None:
    """Some containers mount a tmpfs over it."""
    machine.run(["mount", "-t", "tmpfs", "tmpfs", hidden])
    write(machine, config("DNS = 10.0.0.53", FULL, address="fd00::1/64, 10.0.0.1/24"))
    transcript = wgq(machine, "up", "wg0", WGQ_DNS="file").stderr
    assert "\nnameserver 10.0.0.53\n" in machine.out("cat", "/etc/resolv.conf")
    assert "IPv6 is disabled" not in transcript
    assert ("src_valid_mark cannot be read" in transcript) == (hidden == "/proc/sys")
    assert "fd00::1/64" in machine.out("ip", "address", "show", "wg0")
    assert "default dev wg0" in machine.out("ip", "-6", "route", "show", "table", "51820")
    wgq(machine, "down", "wg0")
    assert "lookup 51820" not in rules(machine)


def test_an_mtu_too_small_for_ipv6_is_refused_as_by_wg_quick(machine: Namespace) -> None:
    write(machine, config("MTU = 1200", "AllowedIPs = fd09::/64", address="fd00::1/64, 10.0.0.1/24"))
    assert "fd09::/64" in wgq(machine, "up", "wg0", status=2).stderr
    assert "wg0" not in links(machine)


REFUSED = {
    "the kernel refuses a route": (config(peer="AllowedIPs = 192.0.2.0/24"), 2),
    "the kernel refuses a route in a table": (config("Table = 77", "AllowedIPs = 10.9.0.0/16"), 2),
    "the kernel refuses an MTU": (config("MTU = 70000"), 2),
    "resolvconf fails": (config("DNS = 10.0.0.53"), 7),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_a_failing_step_has_the_exit_status_of_wg_quick(machine: Namespace, refused: str) -> None:
    """With `set -e` that is the status of the failing command; ip(8) exits with 2 if the kernel refuses."""
    text, status = REFUSED[refused]
    machine.run(["ip", "route", "add", "10.9.0.0/16", "dev", "up0", "table", "77"])
    path = with_resolvconf(machine, "[ $1 != -a ] || exit 7")
    before = (links(machine), rules(machine), machine.out("ip", "route"))
    write(machine, text)
    environment = {"PATH": path, "WG_QUICK_USERSPACE_IMPLEMENTATION": "wireguard-go"}
    reference = machine.run(["wg-quick", "up", "wg0"], check=False, env={**os.environ, **environment})
    assert reference.returncode == status, reference.stderr
    wgq(machine, "up", "wg0", status=status, **environment)
    assert (links(machine), rules(machine), machine.out("ip", "route")) == before


def test_a_refused_address_exits_with_2(machine: Namespace) -> None:
    write(machine, config("PreUp = ip address add 10.0.0.1/24 dev %i"))
    assert "`ip -4 address add 10.0.0.1/24 dev wg0' failed" in wgq(machine, "up", "wg0", status=2).stderr
    assert "wg0" not in links(machine)


def test_a_missing_resolvconf_exits_as_the_shell_does(machine: Namespace) -> None:
    write(machine, config("DNS = 10.0.0.53"))
    assert "command not found" in wgq(machine, "up", "wg0", status=127, WGQ_DNS="resolvconf").stderr


def test_a_read_only_proc_sys_with_the_right_value_is_fine(machine: Namespace) -> None:
    machine.run(["sysctl", "-q", "net.ipv4.conf.all.src_valid_mark=1"])
    machine.run(["mount", "--bind", "/proc/sys", "/proc/sys"])
    machine.run(["mount", "-o", "remount,ro,bind", "/proc/sys"])
    write(machine, config(peer=FULL))
    assert "src_valid_mark" not in wgq(machine, "up", "--strict", "wg0").stderr


def test_ambient_cap_net_admin_is_enough(machine: Namespace) -> None:
    """A container's user with CAP_NET_ADMIN (and the capability to read a Python below /root)."""
    machine.run(["chmod", "0777", "/run/wireguard"])
    machine.run(["chmod", "0666", "/dev/net/tun"])
    machine.run(["install", "-d", "-m", "0700", "-o", "65534", "/run/user-65534"])
    text = config()
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+net_admin,+dac_read_search"]
    user += ["--ambient-caps=+net_admin,+dac_read_search", "--"]
    home = {**os.environ, "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1", "XDG_RUNTIME_DIR": "/run/user-65534"}
    up = machine.run([*user, *WGQ, "up", "-", "--name", "wg0"], check=False, input=text, env=home)
    assert up.returncode == 0, up.stderr
    assert "wg0" in links(machine)
    down = machine.run([*user, *WGQ, "down", "wg0"], check=False, env=home)
    assert down.returncode == 0, down.stderr
    assert "wg0" not in links(machine)


def test_sudo_passes_only_the_known_variables(machine: Namespace, tmp_path: Path) -> None:
    """A name with commas would pass other variables, and root would run a program that a variable names."""
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    sudo.chmod(0o755)
    tmp_path.chmod(0o755)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search"]
    user += ["--ambient-caps=+dac_read_search", "--"]
    settings = dict.fromkeys(("LOG_LEVEL", "WGQ_DNS", "WG_ENDPOINT_RESOLUTION_RETRIES"), "off")
    others = dict.fromkeys(
        ("WG_A,PYTHONPATH,LD_PRELOAD", "WGQ_X,PATH", "LOG_LEVEL2", "WG_QUICK_USERSPACE_IMPLEMENTATION"), "x"
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **settings, **others}
    done = machine.run([*user, *WGQ, "up", "wg0"], env=environment)
    words = done.stdout.splitlines()
    assert words[:1] == ["-p"]
    (passed,) = (word for word in words if "-env" in word)
    assert sorted(passed.removeprefix("--preserve-env=").split(",")) == sorted(settings)
    assert words[-2:] == ["up", "wg0"]


def test_the_transcript_gives_the_reason_for_the_backend(machine: Namespace) -> None:
    write(machine, config())
    transcript = wgq(machine, "up", "wg0", WG_QUICK_USERSPACE_IMPLEMENTATION="wireguard-go").stderr
    assert "WG_QUICK_USERSPACE_IMPLEMENTATION" in transcript
    assert "[#] wireguard-go wg0" in transcript


def test_down_leaves_nothing_in_run(machine: Namespace) -> None:
    write(machine, config("DNS = 10.0.0.53", FULL))
    before = set(machine.out("find", "/run").split())
    wgq(machine, "up", "wg0", WGQ_DNS="file")
    wgq(machine, "down", "wg0")
    assert set(machine.out("find", "/run").split()) == before | {"/run/wgq"}


def test_down_removes_the_lock_file_of_a_killed_run(machine: Namespace) -> None:
    write(machine, config())
    before = set(machine.out("find", "/run").split())
    wgq(machine, "up", "wg0")
    machine.run(["touch", f"{os.path.dirname(journals(machine).strip())}/lock"])
    wgq(machine, "down", "wg0")
    assert set(machine.out("find", "/run").split()) == before | {"/run/wgq"}


def test_an_unknown_table_is_refused_before_any_change(machine: Namespace) -> None:
    write(machine, config("Table = Off"))
    refused = wgq(machine, "up", "wg0", status=1)
    assert "`Off'" in refused.stderr
    assert "[#]" not in refused.stderr


def test_save_writes_to_a_bind_mounted_file(machine: Namespace) -> None:
    """A container's bind-mounted file cannot be replaced by rename(2)."""
    write(machine, config("SaveConfig = true"))
    machine.run(["mount", "--bind", "/etc/wireguard/wg0.conf", "/etc/wireguard/wg0.conf"])
    wgq(machine, "up", "wg0")
    machine.run(["wg", "set", "wg0", "peer", PEERS[1], "allowed-ips", "10.77.0.0/24"])
    wgq(machine, "down", "wg0")
    assert "10.77.0.0/24" in machine.out("cat", "/etc/wireguard/wg0.conf")
    assert machine.out("ls", "-A", "/etc/wireguard").split() == ["wg0.conf"]
