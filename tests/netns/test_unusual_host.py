"""The tests on a machine with more than they expect: another resolvconf, other files in /etc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.namespaces import host, mortal

PROJECT = Path(__file__).parents[2]
# Laid over the machine's own /usr and /etc. The programs record their calls.
ODD = """
set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /usr/local/sbin
mkdir -p /run/etc/resolvconf /run/etc/iproute2
for program in resolvconf resolvectl; do
    printf '#!/bin/sh\\necho "called: $0 $*" >>/run/called\\nexit 7\\n' >/usr/local/sbin/$program
    chmod 755 /usr/local/sbin/$program
done
echo 'tun*' >/run/etc/resolvconf/interface-order
echo 'hosts: resolve' >/run/etc/nsswitch.conf
echo '51820 main' >/run/etc/iproute2/rt_tables
ln -s /run/systemd/resolve/stub-resolv.conf /run/etc/resolv.conf
mount -t overlay -o lowerdir=/run/etc:/etc overlay /etc
resolvconf -l || "$@"
cat /run/called
"""
SAMPLE = (
    "tests/netns/test_dns_file.py::test_auto_uses_the_file_if_there_is_nothing_else",
    "tests/netns/test_dns_file.py::test_the_c_library_asks_the_tunnels_server",
    "tests/netns/test_dns_file.py::test_a_mounted_file_is_written_in_place_and_restored",
    "tests/netns/test_up_down.py::test_a_missing_resolvconf_exits_as_the_shell_does",
    "tests/netns/test_up_down.py::test_down_uses_the_journal_if_the_file_was_edited",
    "tests/netns/test_up_down.py::test_an_unknown_table_is_refused_before_any_change",
    "tests/parity/test_parity.py::test_up_prints_the_same_transcript[nft-dns-servers-and-search]",
    "tests/parity/test_parity.py::test_up_leaves_the_same_state[nft-full-tunnel-table-taken]",
)


@pytest.mark.timeout(900)
def test_some_tests_pass_beside_another_resolvconf() -> None:
    """None of them calls the machine's programs or reads its /etc."""
    run = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ODD, "sh"]
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *SAMPLE]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        mortal(*run, *pytest_), cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    calls = [line for line in done.stdout.splitlines() if line.startswith("called: ")]
    assert calls == ["called: /usr/local/sbin/resolvconf -l"]


@pytest.mark.parametrize("link", ["all", "default", "lo"])
def test_a_machine_has_the_kernels_default_parameters(link: str) -> None:
    """systemd sets rp_filter and promote_secondaries, docker forwarding; a new namespace inherits these."""
    with host() as machine:
        for name in ("forwarding", "promote_secondaries", "rp_filter", "src_valid_mark"):
            assert machine.out("cat", f"/proc/sys/net/ipv4/conf/{link}/{name}") == "0\n"


def test_etc_has_the_same_files_on_each_machine() -> None:
    with host() as machine:
        files = "alternatives group hosts ld.so.cache nsswitch.conf passwd resolv.conf wireguard"
        assert machine.out("ls", "-A", "/etc").split() == files.split()
