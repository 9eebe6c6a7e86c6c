"""`wgq up` prints the findings of `wgq check` for its file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.netns.tunnels import KEY, PEERS, programs, wgq, write
from wgquick.cli import advice as advice_of
from wgquick.config.document import Document
from wgquick.config.location import Location

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.namespaces import Namespace
    from wgquick.diagnosis.finding import Finding

SOUND = "192.0.2.1:51820"
FAULTY = "192.0.2.1:0"
CODE = "[endpoint-port-zero]"


def text(endpoint: str, *interface: str) -> str:
    """A configuration with no mistake, except for the endpoint's port if that is 0."""
    head = "\n".join(("[Interface]", f"PrivateKey = {KEY}", "Address = 10.0.0.1/24", *interface))
    return f"{head}\n[Peer]\nPublicKey = {PEERS[0]}\nAllowedIPs = 10.0.0.0/24\nEndpoint = {endpoint}\n"


def advice(machine: Namespace, *arguments: str, stdin: str | None = None) -> list[str]:
    """The lines of up that name a code of check, or `wgq check` itself."""
    lines = wgq(machine, "up", *arguments, stdin=stdin).stderr.splitlines()
    return [line for line in lines if line.startswith("[!] ") and (line.endswith("]") or "wgq check" in line)]


def test_up_names_the_mistake_its_place_and_its_code(machine: Namespace) -> None:
    write(machine, text(FAULTY))
    (line,) = advice(machine, "wg0")
    assert line.startswith("[!] /etc/wireguard/wg0.conf:7:12: ")
    assert line.endswith(CODE)


def test_up_of_a_sound_file_has_no_advice(machine: Namespace) -> None:
    write(machine, text(SOUND))
    assert advice(machine, "wg0") == []


def test_up_names_three_mistakes_and_points_to_check(machine: Namespace) -> None:
    """The error comes first, although it is in the last line."""
    write(machine, text(FAULTY, "MTU = 1500", "DNS = 192.168.7.1", "PostUp = echo % i", "PostUp = echo $i"))
    found = advice(machine, "wg0", "--dns", "off")
    assert len(found) == 4
    assert found[0].endswith(CODE)
    assert found[3] == "[!] 2 more: wgq check /etc/wireguard/wg0.conf"


def test_an_ignored_finding_is_not_printed(machine: Namespace) -> None:
    write(machine, text(f"{FAULTY} # wgq: ignore endpoint-port-zero"))
    assert advice(machine, "wg0") == []


def test_a_failed_up_prints_the_advice_before_the_failure(machine: Namespace) -> None:
    write(machine, text(FAULTY, "PostUp = exit 7"))
    lines = wgq(machine, "up", "wg0", status=7).stderr.splitlines()
    (at,) = (at for at, line in enumerate(lines) if line.endswith(CODE))
    assert lines[at + 1].startswith("wgq: ")


def test_a_file_from_standard_input_gets_advice_too(machine: Namespace) -> None:
    (line,) = advice(machine, "-", "--name", "wg0", stdin=text(FAULTY))
    assert line.startswith("[!] standard input:7:12: ")


def test_up_says_that_a_peer_with_the_own_key_is_ignored(machine: Namespace) -> None:
    own = machine.run(["wg", "pubkey"], input=KEY).stdout.strip()
    write(machine, text(SOUND).replace(PEERS[0], own))
    (line,) = advice(machine, "wg0")
    assert line == f"[!] wg0 ignores the peer {own}: its PublicKey is the interface's own [peer-is-self]"


def test_up_says_that_the_host_lacks_what_a_hook_needs(machine: Namespace) -> None:
    """Both are judged after the hooks, which may add the link and enable forwarding."""
    rule = "POSTROUTING -o eth9 -j MASQUERADE"
    hooks = (f"PostUp = iptables -t nat -A {rule}", f"PostDown = iptables -t nat -D {rule}")
    write(machine, text(SOUND, *hooks))
    forwarding, link = advice(machine, "wg0")
    assert forwarding.endswith("net.ipv4.ip_forward = 0 [forwarding-off]")
    assert "the hook names the link eth9" in link
    wgq(machine, "down", "wg0")
    enable = "PreUp = ip link add eth9 type veth peer name eth8; echo 1 >/proc/sys/net/ipv4/conf/all/forwarding"
    write(machine, text(SOUND, enable, *hooks, "PostDown = ip link delete eth9"))
    assert advice(machine, "wg0") == []


LOOP = "[!] The endpoint 198.51.100.9 is routed into wg0 itself"


def test_up_says_that_an_endpoint_is_routed_into_the_tunnel(machine: Namespace) -> None:
    """Where the file has a name only its address and the routes show it. So do reload, and plans of an address.

    Two full tunnels catch each other's packets.
    """
    machine.run(["sh", "-c", "echo 198.51.100.9 vpn.example.net >>/etc/hosts"])
    looped = text("vpn.example.net:51820").replace("10.0.0.0/24\n", "10.0.0.0/24, 128.0.0.0/1\n")
    write(machine, looped)
    (line,) = advice(machine, "wg0")
    assert line.startswith(LOOP)
    sound = looped.replace("128.0.0.0/1", "0.0.0.0/0")
    write(machine, sound)
    assert LOOP not in wgq(machine, "reload", "wg0").stderr
    write(machine, looped.replace("vpn.example.net", "198.51.100.9"))
    assert LOOP in wgq(machine, "plan", "reload", "wg0", status=2).stderr
    assert wgq(machine, "reload", "wg0").stderr.count(LOOP) == 1
    wgq(machine, "down", "wg0")
    write(machine, sound)
    assert advice(machine, "wg0") == []
    full = sound.replace("vpn.example.net", "203.0.113.7").replace("10.0.0.", "10.1.0.")
    write(machine, full, "wg1")
    for verb, status in ((("plan", "up"), 2), (("up",), 0)):
        transcript = wgq(machine, *verb, "wg1", status=status).stderr
        assert transcript.count("203.0.113.7 is routed into wg1 itself through wg0") == 1


def test_no_process_of_the_check_remains(machine: Namespace) -> None:
    write(machine, text(FAULTY))
    wgq(machine, "up", "wg0")
    assert len(programs(machine, "wgq-userspace")) == 1
    assert not [pid for pid in machine.processes() if b"wgquick" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_short_file_without_hooks_needs_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that fails prints nothing."""
    monkeypatch.setattr(os, "fork", pytest.fail)
    file = tmp_path / "wg0.conf"
    file.write_text(text(FAULTY))
    file.chmod(0o600)
    pending = advice_of.begin(Location("wg0", str(file)), Document.parse(file.read_bytes()))
    assert isinstance(pending, advice_of.Pending)
    printed: list[str] = []
    pending.print(printed.append)
    assert len(printed) == 1
    monkeypatch.setattr(advice_of, "_findings", lambda *_: 1 / 0)
    pending.print(pytest.fail)


def begun(folder: Path) -> advice_of.Running:
    """A check in a process, of a file with a hook."""
    file = folder / "wg0.conf"
    file.write_text(text(FAULTY, "PostUp = true"))
    file.chmod(0o600)
    started = advice_of.begin(Location("wg0", str(file)), Document.parse(file.read_bytes()))
    assert isinstance(started, advice_of.Running)
    return started


def spin(*_: object) -> NoReturn:
    while True:
        pass


@pytest.mark.parametrize(("limit", "slow"), [("_PATIENCE", lambda *_: time.sleep(600)), ("_EFFORT", spin)])
def test_a_check_that_takes_too_long_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, slow: Callable[..., None]
) -> None:
    """It prints nothing then."""
    monkeypatch.setattr(advice_of, "_PATIENCE", 600.0)
    monkeypatch.setattr(advice_of, limit, 0.01)
    monkeypatch.setattr(advice_of, "_findings", slow)
    started = begun(tmp_path)
    started.print(pytest.fail)
    with pytest.raises(ChildProcessError):
        os.waitpid(started.process, 0)


def test_a_check_that_other_work_delays_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a second of processor time, not of the clock."""
    real = advice_of._findings

    def delayed(found: Location, document: Document, is_ended: int) -> list[Finding]:
        time.sleep(1.2)
        return real(found, document, is_ended)

    monkeypatch.setattr(advice_of, "_PATIENCE", 600.0)
    monkeypatch.setattr(advice_of, "_findings", delayed)
    printed: list[str] = []
    begun(tmp_path).print(printed.append)
    assert [line for line in printed if line.endswith(CODE)]


def test_the_check_does_not_hold_the_lock_of_a_killed_up(machine: Namespace) -> None:
    write(machine, text(FAULTY, "PostUp = kill -9 $PPID"))
    wgq(machine, "up", "wg0", status=-9)
    wgq(machine, "down", "wg0")
