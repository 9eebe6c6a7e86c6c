"""Checks of `wgq up`, `reload` and `show` with the kernel's WireGuard, which run inside the VM.

wgq runs in a fork of this process (`in_process`), as a new Python takes ten seconds to start if emulated.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import random
import re
import socket
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING
from unittest import mock

from tests.interop.daemons import CAP_NET_ADMIN, SECCOMP_FILTER
from tests.interop.pairs import KERNEL, LINK, WGQ, End, join, machines, pair, private_key, threads
from tests.interop.ports import PORT, TAKEN, take
from tests.keys import public_key
from tests.namespaces import PATH, host
from tests.netns.firewalld import EARLY_FILTER, hosts, reaches, tunnel, without_marks
from tests.netns.firewalld import PORT as FAR_PORT
from tests.netns.pair import pair as cable
from tests.netns.reloads import CHANGES, ECHO, both_ends, kill_at_steps, reload_by_steps
from tests.netns.tunnels import config, journals, links, write
from tests.parity.trial import in_process
from tests.waiting import until
from wgquick import api
from wgquick.errors import OperationError
from wgquick.options import Options
from wgquick.system.netlink import RtNetlink
from wgquick.system.wireguard import Control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.namespaces import Namespace
    from wgquick.device import DeviceConfig

ENVIRONMENT = {"PATH": PATH, "HOME": "/root"}
PROGRAM = r"is in use by \S+ \(process \d+\)\n"  # the forks of this process have its sockets too
LISTEN = config(f"ListenPort = {PORT}")
WARM = (
    "wgquick.cli.verbs",
    "wgquick.executor.down",
    "wgquick.executor.up",
    "wgquick.executor.reloading",
    "wgquick.system.host",
)

for name in (*WARM, "wgquick.config.reading", "wgquick.diagnosis.keys", "wgquick.system.wireguard.kernel"):
    import_module(name)  # once here instead of in every fork


def wgq(
    machine: Namespace, *arguments: str, status: int = 0, environment: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, str]:
    """The standard output and standard error of a run of wgq on the machine."""
    found, output, error = machine.call(in_process, list(arguments), ENVIRONMENT | dict(environment))
    assert found == status, error
    return output, error


@contextmanager
def nothing_left(machine: Namespace) -> Iterator[None]:
    before = links(machine), journals(machine)
    yield
    assert (links(machine), journals(machine)) == before


def refused(machine: Namespace, name: str = LINK) -> str:
    with nothing_left(machine):
        return wgq(machine, "up", name, status=2)[1]


def is_kernels(machine: Namespace, name: str = LINK) -> bool:
    return " wireguard " in machine.out("ip", "-d", "-o", "link", "show", name)


def up_on_a_taken_port_fails_as_wg_quick_does() -> None:
    with host() as machine:
        write(machine, LISTEN)
        for kind in TAKEN:
            with take(machine, kind):
                output = refused(machine)
            assert f"wgq: cannot bring wg0 up: UDP port {PORT} is in use by " in output, kind
            assert re.search(PROGRAM, output), output
        with take(machine, "any"):
            assert machine.run(["wg-quick", "up", LINK], check=False, env=ENVIRONMENT).returncode == 2
        wgq(machine, "up", LINK)
        assert is_kernels(machine)
        assert f":{PORT}" in machine.out("ss", "-Hlun")


def up_on_a_taken_port_names_the_interface_that_has_it() -> None:
    """The socket of a kernel interface belongs to no process; that of a daemon does."""
    with host() as machine:
        write(machine, LISTEN)
        write(machine, config(f"ListenPort = {PORT}", address="10.1.0.1/24", n=1), "wg1")
        wgq(machine, "up", LINK)
        assert f"UDP port {PORT} is in use by the WireGuard interface wg0\n" in refused(machine, "wg1")
        machine.run(["ip", "link", "set", LINK, "down"])  # gives its port up, and keeps the number
        wgq(machine, "up", "wg1")
        assert machine.out("wg", "show", "all", "listen-port") == f"wg0\t{PORT}\nwg1\t{PORT}\n"
        wgq(machine, "down", LINK)
        wgq(machine, "down", "wg1")
        end = End(machine, 9, WGQ)
        end.start()
        end.wg("set", LINK, "listen-port", str(PORT))
        end.ip(f"link set {LINK} up")
        assert f"UDP port {PORT} is in use by the WireGuard interface wg0\n" in refused(machine, "wg1")


def up_on_a_port_of_a_moved_interface_names_the_possibility() -> None:
    """Its socket stays in the namespace where the link was made (wireguard.com/netns)."""
    with host() as machine, host() as elsewhere:
        write(machine, LISTEN)
        net = elsewhere.paths["net"]
        moved = ["link add wg8 type wireguard", f"link set wg8 netns {net.split('/')[2]}"]
        machine.run(["ip", "-batch", "-"], input="\n".join([*moved, ""]))
        elsewhere.run(["wg", "set", "wg8", "listen-port", str(PORT)])
        elsewhere.run(["ip", "link", "set", "wg8", "up"])
        output = refused(machine)
        assert f"UDP port {PORT} is in use by a hidden program of user 0" in output, output
        assert "a WireGuard interface that was moved to another network namespace" in output


def a_port_taken_after_the_check_is_refused_by_the_kernel() -> None:
    """At `ip link set up`, or at once if a hook has set the link up."""
    with host() as machine:
        for moment, hook in (("set_link", ""), ("set", "PreUp = ip link set %i up")):
            write(machine, config(f"ListenPort = {PORT}\n{hook}"))
            with nothing_left(machine):
                error = machine.call(_up_while_the_port_is_taken, moment)
            assert f"cannot bring wg0 up: UDP port {PORT} is in use by " in str(error), moment
            assert (error.errno, error.status) == (errno.EADDRINUSE, 2), moment


def _up_while_the_port_is_taken(moment: str) -> OperationError:
    """The error of up if the port is taken just before the kernel needs it."""
    control_set, set_link = Control.set, RtNetlink.set_link
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # of the machine that this process is on

    def take_and_set(control: Control, name: str, change: DeviceConfig) -> None:
        if moment == "set":
            taken.bind(("0.0.0.0", PORT))
        control_set(control, name, change)

    def take_and_set_link(rtnl: RtNetlink, name: str, *, mtu: int | None = None, up: bool = True) -> None:
        if moment == "set_link":
            taken.bind(("0.0.0.0", PORT))
        set_link(rtnl, name, mtu=mtu, up=up)

    with (
        mock.patch.object(Control, "set", take_and_set),
        mock.patch.object(RtNetlink, "set_link", take_and_set_link),
    ):
        try:
            api.up(api.load("/etc/wireguard/wg0.conf"), Options(backend="kernel"))
        except OperationError as error:
            return error
    raise AssertionError("up got a port that another socket has")


A, B, GONE, NEW, BY_HOOK = (public_key(private_key()) for _ in range(5))
PSK_A, PSK_B, FIRST_KEY, SECOND_KEY = (private_key() for _ in range(4))


def section(key: str, *lines: str) -> str:
    return "\n".join(["[Peer]", f"PublicKey = {key}", *lines, ""])


def interface(key: str, *lines: str) -> str:
    return "\n".join(["[Interface]", f"PrivateKey = {key}", "Address = 10.0.0.1/24", *lines, ""])


def dump(machine: Namespace) -> tuple[list[str], dict[str, list[str]]]:
    """The device's own fields, and those of each peer without its key (`wg show dump`, wg(8))."""
    first, *peers = [line.split("\t") for line in machine.out("wg", "show", LINK, "dump").splitlines()]
    return first, {line[0]: [line[1], line[2], *sorted(line[3].split(",")), line[7]] for line in peers}


def reload_changes_each_setting_and_keeps_a_hooks_peer() -> None:
    with host() as machine:
        machine.uplink()
        hook = f"PostUp = wg set %i peer {BY_HOOK} allowed-ips 10.77.0.0/16"
        networks = "AllowedIPs = 10.1.0.0/16, 10.2.0.0/16"
        a = section(A, f"PresharedKey = {PSK_A}", "PersistentKeepalive = 25", networks, "Endpoint = 192.0.2.9:1")
        before = (a, section(B, "AllowedIPs = 10.3.0.0/16"), section(GONE, "AllowedIPs = 10.4.0.0/16"))
        write(machine, interface(FIRST_KEY, "ListenPort = 51820", "FwMark = 7", hook) + "".join(before))
        wgq(machine, "up", LINK)
        after = (
            section(A, "AllowedIPs = 10.1.0.0/16, 10.5.0.0/16", "Endpoint = 192.0.2.9:2"),
            section(B, f"PresharedKey = {PSK_B}", "PersistentKeepalive = 9", "AllowedIPs = 10.2.0.0/16"),
            section(NEW, "AllowedIPs = 10.3.0.0/16, 10.4.0.0/16", "Endpoint = [2001:db8::9]:3"),
        )
        write(machine, interface(SECOND_KEY, "ListenPort = 51830", "FwMark = 8", hook) + "".join(after))
        _, output = wgq(machine, "reload", LINK)
        assert not any(key in output for key in (FIRST_KEY, SECOND_KEY, PSK_A, PSK_B))
        device, peers = dump(machine)
        assert device == [SECOND_KEY, public_key(SECOND_KEY), "51830", "0x8"]
        assert peers == {
            A: ["(none)", "192.0.2.9:2", "10.1.0.0/16", "10.5.0.0/16", "off"],
            B: [PSK_B, "(none)", "10.2.0.0/16", "9"],
            NEW: ["(none)", "[2001:db8::9]:3", "10.3.0.0/16", "10.4.0.0/16", "off"],
            BY_HOOK: ["(none)", "(none)", "10.77.0.0/16", "off"],
        }
        assert wgq(machine, "reload", LINK)[1] == ""


def reload_moves_allowed_ips_of_thousands_between_peers() -> None:
    """Peers get and lose more AllowedIPs than fit into one netlink message."""
    with host() as machine:
        many = [f"10.{128 + n // 256}.{n % 256}.0/24" for n in range(3000)]
        shares = many[:2000], many[2000:]
        swapped = [*many[2000:], *many[:500]], many[500:1990]
        for verb, (a, b) in (("up", shares), ("reload", swapped), ("reload", shares)):
            peers = (section(key, f"AllowedIPs = {', '.join(each)}") for key, each in ((A, a), (B, b)))
            write(machine, interface(FIRST_KEY, "Table = off") + "".join(peers))
            wgq(machine, verb, LINK)
            found = dict(line.split("\t") for line in machine.out("wg", "show", LINK, "allowed-ips").splitlines())
            assert {key: set(each.split()) for key, each in found.items()} == {A: set(a), B: set(b)}, verb


def reload_of_a_tunnel_of_wg_quick_works() -> None:
    with host() as machine:
        write(machine, interface(FIRST_KEY) + section(A, "AllowedIPs = 10.1.0.0/16"))
        machine.run(["wg-quick", "up", LINK])
        write(machine, interface(FIRST_KEY) + section(A, "AllowedIPs = 10.2.0.0/16") + section(B))
        wgq(machine, "reload", LINK)
        assert set(machine.out("wg", "show", LINK, "allowed-ips").splitlines()) == {
            f"{A}\t10.2.0.0/16",
            f"{B}\t(none)",
        }


def reload_to_a_taken_port_changes_nothing_and_names_the_holder() -> None:
    """The kernel sets the mark before it refuses the port (drivers/net/wireguard/netlink.c, wg_set_device)."""
    with host() as machine:
        write(machine, interface(FIRST_KEY, "ListenPort = 51820", "FwMark = 7"))
        wgq(machine, "up", LINK)
        before = dump(machine)
        write(machine, interface(FIRST_KEY, f"ListenPort = {PORT}", "FwMark = 8") + section(A))
        with take(machine, "any"):
            _, output = wgq(machine, "reload", LINK, status=1)
        assert f"wgq: cannot change the ListenPort of wg0: UDP port {PORT} is in use by " in output, output
        assert re.search(PROGRAM, output), output
        assert dump(machine) == before
        wgq(machine, "reload", LINK)
        assert dump(machine)[0][2:] == [str(PORT), "0x8"]


def try_rolls_reload_and_down_back() -> None:
    """The port that was not set too; the watchdogs are forks of wgq."""
    with host() as machine:
        machine.uplink()
        write(machine, config("PostUp = ip route add 10.99.0.0/16 dev %i", f"PresharedKey = {private_key()}"))
        wgq(machine, "up", LINK)
        before = dump(machine), _network(machine)
        assert is_kernels(machine)
        write(machine, config("MTU = 1380", "AllowedIPs = 0.0.0.0/0, 10.9.0.0/24", address="10.3.0.1/24"))
        for verb in ("reload", "down"):
            transcript = wgq(machine, "try", verb, LINK, "--timeout", "1", status=4)[1]
            assert "[!] wg0 was not confirmed: it is as it was before\n" in transcript
            assert (dump(machine), _network(machine)) == before, verb
            assert is_kernels(machine)
        with nothing_left(machine):
            wgq(machine, "try", "up", "wg1", "--timeout", "1", status=1)
        wgq(machine, "down", LINK)
        assert machine.out("find", "/run/wgq", "-type", "f") == ""


def _network(machine: Namespace) -> list[str]:
    commands = ("ip -o addr show dev wg0", "ip route show table all dev wg0", "ip rule", "nft list ruleset")
    text = "\n".join(machine.out(*command.split()) for command in commands)
    return [re.sub(r"^\d+: |fe80:\S+", "", line) for line in text.splitlines()]


@contextmanager
def full_tunnel(*more: str) -> Iterator[tuple[End, End]]:
    """An end that `wgq up` brings up, with a full tunnel to the kernel's WireGuard at the other end."""
    with machines(KERNEL, KERNEL) as (near, far):
        join(near, far)
        far.start()
        far.configure(near.peer())
        write(near.machine, full_tunnel_text(near, far, *more))
        wgq(near.machine, "up", LINK)
        yield near, far


def full_tunnel_text(near: End, far: End, *more: str) -> str:
    first = f"[Interface]\nPrivateKey = {near.private}\nAddress = {near.inner(4)}/24, {near.inner(6)}/64\n"
    peer = section(far.public, f"Endpoint = {far.endpoint()}", "AllowedIPs = 0.0.0.0/0, ::/0")
    return f"{first}{peer}{''.join(more)}"


def reload_of_a_full_tunnel_keeps_its_device_and_session() -> None:
    with full_tunnel(section(GONE, "AllowedIPs = 10.4.0.0/16")) as (near, far):
        near.ping(far)
        far.wg("set", LINK, "listen-port", "51999")
        far.ping(near)
        until(lambda: near.known_endpoint(far) == f"{far.outer()}:51999", "the endpoint that has roamed")
        before, handshake = dump(near.machine), near.handshake(far)
        assert before[0][3] == "0xca6c"
        pings = near.machine.popen(["ping", "-q", "-i", "0.2", "-c", "40", "-W", "20", far.inner()], stdout=-1)
        write(near.machine, full_tunnel_text(near, far, section(NEW, "AllowedIPs = 10.4.0.0/16")))
        wgq(near.machine, "reload", LINK)
        output, _ = pings.communicate(timeout=120)
        assert b" 0% packet loss" in output, output
        device, peers = dump(near.machine)
        assert (device, near.handshake(far)) == (before[0], handshake)
        assert peers[far.public] == before[1][far.public]
        assert set(peers) == {far.public, NEW}
        compare_shown(near.machine)


def shown(machine: Namespace, words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The output of wg and of wgq, without handshake ages, as seconds pass between the two in the VM."""
    theirs = machine.run(["wg", "show", *words], env=ENVIRONMENT | dict(environment)).stdout
    ours = wgq(machine, "show", *words, environment=environment)[0]
    return [re.sub(r"(latest handshake.*: ).* ago", r"\1", text) for text in (theirs, ours)]


def _is_alike(machine: Namespace, words: Sequence[str], environment: Mapping[str, str]) -> bool:
    theirs, ours = shown(machine, words, environment)
    return theirs == ours


def compare_shown(machine: Namespace) -> None:
    """Compare `wgq show` with `wg show`, again if a packet passed between the two; test_show.py has more words."""
    runs: tuple[tuple[Sequence[str], Mapping[str, str]], ...] = (
        ((), {}),
        (("all", "dump"), {}),
        ((LINK, "latest-handshakes"), {}),
        ((LINK,), {"WG_COLOR_MODE": "always", "WG_HIDE_KEYS": "never"}),
    )
    for run in runs:
        until(partial(_is_alike, machine, *run), f"the bytes of wg show {run}", 120)


def show_prints_the_bytes_of_wg_for_many_peers_and_allowed_ips() -> None:
    """The kernel splits the peers, and a peer with many AllowedIPs, over several messages."""
    with host() as machine:
        draw = random.Random(1)
        keys = [base64.b64encode(draw.randbytes(32)).decode() for _ in range(300)]
        lists = [[f"10.{n >> 8}.{n & 255}.{m}/32" for m in range(draw.choice((0, 1, 9)))] for n in range(300)]
        lists[150] = [f"fd00:{n:x}::/64" for n in range(4000)] + [
            f"11.{n >> 8}.{n & 255}.0/24" for n in range(4000)
        ]
        peers = zip(keys, lists, strict=True)
        sections = (section(key, *[f"AllowedIPs = {ip}" for ip in each]) for key, each in peers)
        machine.run(["ip", "link", "add", LINK, "type", "wireguard"])
        machine.run(["wg", "setconf", LINK, "/dev/stdin"], input="".join(sections))
        machine.run(["ip", "link", "add", "wg1", "type", "wireguard"])
        for words in (("all", "dump"), (LINK,), ()):
            theirs, ours = shown(machine, words, {})
            assert theirs == ours, words


def a_full_tunnel_over_ipv6_passes_a_reverse_path_filter() -> None:
    """For a kernel before 7.2. Since then nft's `fib` ignores suppress_prefixlength: all passes without marks."""
    with hosts() as (near, far):
        near.run(["nft", "-f", "-"], input=EARLY_FILTER)
        near_text, far_text = tunnel(near, far)
        near_text = near_text.replace(
            f"ListenPort = {FAR_PORT}\n", ""
        )  # the kernel chooses one when the link goes up
        for machine, text in ((near, near_text), (far, far_text)):
            write(machine, text)
            wgq(machine, "up", LINK, "--firewall", "nft")
            assert is_kernels(machine)
        assert reaches(near, "fd00:9::1", 60)
        without_marks(near, "nft")
        assert not reaches(near, "fd00:9::1", 3)


def wait_begins_a_handshake_and_status_shows_it() -> None:
    with full_tunnel() as (near, far):
        wgq(near.machine, "wait", LINK, "--timeout", "60")
        assert near.handshake(far)
        assert near.machine.out("wg", "show", LINK, "persistent-keepalive") == f"{far.public}\toff\n"
        (found,) = json.loads(wgq(near.machine, "status", "--json", "--exit-code")[0])["interfaces"]
        assert (found["backend"], found["by"], found["up"], found["table"]) == ("kernel", "wgq", True, "51820")
        assert (found["drift"], found["peers"][0]["state"], found["peers"][0]["roamed"]) == ([], "up", False)
        wgq(near.machine, "wait", LINK)  # the session is young
        wgq(near.machine, "down", LINK)
        far.ip(f"link set {LINK} down")
        output = wgq(near.machine, "up", LINK, "--wait=1", status=4)[1]
        assert f"no handshake with {far.public}" in output
        assert is_kernels(near.machine)
        wgq(near.machine, "status", "--exit-code", status=4)
        wgq(near.machine, "down", LINK)
        wgq(near.machine, "up", LINK, "--wait=1", "--or-down", status=4)
        assert LINK not in links(near.machine)
        far.ip(f"link set {LINK} up")
        wgq(near.machine, "up", LINK, "--wait=60")


def reload_loses_no_probe_between_two_steps() -> None:
    with both_ends(kernel=True) as (near, far):
        write(near, CHANGES[-1])
        wgq(near, "up", LINK)
        near.run(["ping", "-c", "1", "-W", "60", "10.0.0.2"])
        before = near.out("wg", "show", LINK, "latest-handshakes")
        with far.popen(["python3", "-c", ECHO], stdout=-1) as echo:
            assert echo.stdout is not None
            echo.stdout.readline()
            for text in CHANGES:
                write(near, text)
                count, lost = near.call(reload_by_steps)
                assert count
                assert lost == []
            echo.kill()
        assert near.out("wg", "show", LINK, "latest-handshakes") == before
        assert is_kernels(near)


def a_killed_reload_is_finished_or_undone() -> None:
    """Before every 13th step, as each takes seconds here; `tests/netns` and `WGQ_TEST_STEPS=1` have every step."""
    with host() as machine:
        machine.uplink(ipv6=True)
        assert kill_at_steps(machine, wgq, stride=int(os.environ.get("WGQ_TEST_STEPS", 13))) > 6


def the_daemon_is_confined_with_the_kernel_as_peer() -> None:
    with pair(WGQ, KERNEL) as (left, right):
        left.ping(right)
        assert left.daemon is not None
        daemon = left.daemon.pid
        until(lambda: len(threads(daemon)) == 3, "only the threads that work")
        for thread in threads(daemon):
            assert int(thread["CapEff"], 16) == CAP_NET_ADMIN
            assert (thread["NoNewPrivs"], thread["Seccomp"]) == ("1", SECCOMP_FILTER)


def a_full_tunnel_in_a_namespace_keeps_its_socket_outside() -> None:
    """Reload, save and down find it by its name; down leaves neither the link nor the namespace."""
    with cable() as made:
        made.write("AllowedIPs = 0.0.0.0/0", interface="# wgq: netns = vpn\nDNS = 10.7.0.2")
        wgq(made.two, "up", LINK)
        with nothing_left(made.one):
            transcript = wgq(made.one, "up", LINK)[1]
            assert "[#] ip netns add vpn" in transcript
            assert LINK not in links(made.one)
            assert ":51820" in made.one.out("ss", "-Hlun")
            inside = ["ip", "netns", "exec", "vpn"]
            assert " wireguard " in made.one.out(*inside, "ip", "-d", "-o", "link", "show", LINK)
            assert "default dev wg0" in made.one.out(*inside, "ip", "route")
            assert ":51820" not in made.one.out(*inside, "ss", "-Hlun")
            ping = [*inside, "ping", "-c1", "-W2", "10.7.0.2"]
            until(lambda: made.one.run(ping, check=False).returncode == 0, "a ping through the tunnel")
            assert wgq(made.one, "reload", LINK)[1] == ""
            made.write("AllowedIPs = 10.8.0.0/16", interface="# wgq: netns = vpn")
            wgq(made.one, "reload", LINK)
            assert "10.8.0.0/16" in made.one.out(*inside, "ip", "route")
            wgq(made.one, "down", LINK)
            assert made.one.out("ip", "netns") == ""


CHECKS: Sequence[Callable[[], None]] = (
    up_on_a_taken_port_fails_as_wg_quick_does,
    up_on_a_taken_port_names_the_interface_that_has_it,
    up_on_a_port_of_a_moved_interface_names_the_possibility,
    a_port_taken_after_the_check_is_refused_by_the_kernel,
    reload_changes_each_setting_and_keeps_a_hooks_peer,
    reload_moves_allowed_ips_of_thousands_between_peers,
    reload_of_a_tunnel_of_wg_quick_works,
    reload_to_a_taken_port_changes_nothing_and_names_the_holder,
    reload_of_a_full_tunnel_keeps_its_device_and_session,
    reload_loses_no_probe_between_two_steps,
    a_killed_reload_is_finished_or_undone,
    try_rolls_reload_and_down_back,
    show_prints_the_bytes_of_wg_for_many_peers_and_allowed_ips,
    a_full_tunnel_in_a_namespace_keeps_its_socket_outside,
    wait_begins_a_handshake_and_status_shows_it,
    the_daemon_is_confined_with_the_kernel_as_peer,
)
