"""`wgq try` in an SSH session that comes through the tunnel which it changes, with a real sshd."""

from __future__ import annotations

import shlex
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.netns.pair import pair, ping
from tests.netns.tunnels import FULL, WGQ, config, wgq, write
from tests.resolvers import install
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace
    from tests.netns.pair import Pair

_SSHD = """Port 22
HostKey /run/ssh/host
AuthorizedKeysFile /run/ssh/key.pub
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
ClientAliveInterval 0
"""


@contextmanager
def reachable() -> Iterator[Pair]:
    """Two ends of a tunnel; one runs an sshd, and two has its key."""
    with pair() as ends:
        ends.write(other="Endpoint = 192.0.2.1:51820")
        for machine in ends[:2]:
            wgq(machine, "up", "wg0")
        _start_sshd(ends.one)
        for name in ("key", "key.pub"):
            text = ends.one.out("cat", f"/run/ssh/{name}")
            ends.two.run(["sh", "-c", f"umask 077; mkdir -p /run/ssh; cat >/run/ssh/{name}"], input=text)
        ping(ends.two, "10.7.0.1")
        until(lambda: ends.two.run(ssh("true"), check=False).returncode == 0, "a login")
        yield ends


def _start_sshd(machine: Namespace) -> None:
    install(machine, "libwrap0", "openssh-server")
    machine.run(["sh", "-c", "mkdir -p /run/ssh /run/sshd; cat >/run/ssh/config"], input=_SSHD)
    machine.run(["sh", "-c", "echo sshd:x:102:65534::/run/sshd:/usr/sbin/nologin >>/etc/passwd"])
    for name in ("host", "key"):
        machine.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"/run/ssh/{name}"])
    machine.popen(["/usr/sbin/sshd", "-D", "-f", "/run/ssh/config"])


def ssh(*command: str) -> list[str]:
    """A command on one, through the tunnel."""
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=60"]
    words = [word for option in options for word in ("-o", option)]
    return ["ssh", "-F", "none", "-i", "/run/ssh/key", *words, "root@10.7.0.1", shlex.join(command)]


def test_a_change_that_cuts_the_session_off_is_rolled_back() -> None:
    with reachable() as ends:
        before = ends.one.out("wg", "show", "wg0", "allowed-ips")
        text = ends.one.out("cat", "/etc/wireguard/wg0.conf")
        write(
            ends.one, text.replace("10.7.0.2/32", "10.7.0.3/32").replace("Address = 10.7.0.1", "Address = 10.7.0.9")
        )
        done = ends.two.run(ssh(*WGQ, "try", "reload", "wg0", "--timeout", "3"), check=False)
        assert done.returncode == 4, done.stderr
        assert done.stderr.endswith("[!] wg0 was not confirmed: it is as it was before\n")
        assert ends.one.out("wg", "show", "wg0", "allowed-ips") == before


def test_a_session_that_dies_with_the_change_leaves_a_rollback() -> None:
    with reachable() as ends:
        session = ends.two.popen(ssh(*WGQ, "try", "down", "wg0", "--timeout", "300"), stderr=subprocess.DEVNULL)
        until(lambda: "wg0" not in ends.one.out("ip", "link"), "the end of the link")
        session.kill()
        soon = [*WGQ, "confirm", "wg0", "--extend", "0.1"]
        until(lambda: ends.one.run(soon, check=False).returncode == 0, "the trial")
        until(lambda: "wg0" in ends.one.out("ip", "link"), "the link")
        until(lambda: ends.two.run(ssh("true"), check=False).returncode == 0, "a login")


def test_a_new_session_confirms() -> None:
    with reachable() as ends:
        text = ends.one.out("cat", "/etc/wireguard/wg0.conf")
        write(ends.one, text.replace("10.7.0.2/32", "10.7.0.2/32, 10.8.0.0/24"))
        first = ends.two.popen(ssh(*WGQ, "try", "reload", "wg0", "--timeout", "300"), stderr=subprocess.DEVNULL)
        until(lambda: ends.two.run(ssh(*WGQ, "confirm", "wg0"), check=False).returncode == 0, "the confirmation")
        assert first.wait(60) == 0
        assert "10.8.0.0/24" in ends.one.out("wg", "show", "wg0", "allowed-ips")


def test_up_and_reload_suggest_try_if_they_cut_off_ssh() -> None:
    """A session that comes by the uplink, to a tunnel that will take its replies; one through the tunnel stays."""
    with reachable() as ends:
        write(ends.one, ends.one.out("cat", "/etc/wireguard/wg0.conf").replace("10.7.0.2/32", "0.0.0.0/0"))
        inside = ends.two.run(ssh(*WGQ, "reload", "wg0", "--dry-run")).stderr
        assert "SSH" not in inside
        write(ends.one, config("ListenPort = 4444", FULL, address="10.44.0.1/24"), "wg1")
        far = ssh("env", "SSH_CONNECTION=203.0.113.7 5 192.0.2.1 22", *WGQ, "try", "up", "wg1", "--timeout", "1")
        transcript = ends.two.run(far, check=False).stderr
        assert "may hang: its replies will go into wg1 (it comes back in 1 s unless you confirm)" in transcript
