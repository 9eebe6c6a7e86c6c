"""Checks of links, rules and device control with the kernel's WireGuard, which run inside the VM."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.keys import networks, public, secret
from wgquick.device import Device, DeviceConfig, PeerConfig
from wgquick.errors import OperationError
from wgquick.net import AllowedIP, Link, Prefix, Route, Rule, SecretKey, SocketAddress
from wgquick.system.netlink import RtNetlink
from wgquick.system.wireguard import Control
from wgquick.system.wireguard.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NL, CONTROL = RtNetlink(), Control()


def refusal(function: Callable[[], object]) -> OperationError | None:
    try:
        function()
    except OperationError as error:
        return error
    return None


def errno_of(function: Callable[[], object]) -> int:
    error = refusal(function)
    return error.errno if error else 0


def a_link_of_the_kernels_wireguard_is_added_and_found() -> None:
    NL.add_wireguard_link("wg0")
    link = NL.link("wg0")
    assert link is not None
    assert link == Link(link.ifindex, "wg0", 1420, False, "wireguard")
    assert errno_of(lambda: NL.add_wireguard_link("wg0")) == errno.EEXIST
    assert CONTROL.interfaces() == ["wg0"]
    assert CONTROL.backend("wg0") == "kernel"
    assert CONTROL.get("wg0") == Device("wg0")


def removal() -> tuple[PeerConfig, ...]:
    """The change that removes all peers."""
    return tuple(PeerConfig(peer.public_key, remove=True) for peer in CONTROL.get("wg0").peers)


def three_thousand_peers_read_back_in_order() -> None:
    private = secret()
    peers = tuple(
        PeerConfig(
            public(),
            preshared_key=secret(),
            endpoint=SocketAddress("192.0.2.1", 1000 + n) if n % 2 else SocketAddress("fe80::1", 9, 1),
            persistent_keepalive=n % 100,
            replace_allowed_ips=True,
            allowed_ips=(ip, AllowedIP(((0xFD00 << 112) + (n << 64)).to_bytes(16, "big"), 64)),
        )
        for n, ip in enumerate(networks(3000))
    )
    CONTROL.set("wg0", DeviceConfig(private, 51820, 51820, peers))
    device = CONTROL.get("wg0")
    assert device._replace(peers=()) == Device("wg0", private, 51820, 51820)
    assert [peer.public_key for peer in device.peers] == [peer.public_key for peer in peers]
    for found, wanted in zip(device.peers, peers, strict=True):
        assert found.preshared_key == wanted.preshared_key
        assert found.endpoint == wanted.endpoint
        assert found.persistent_keepalive == wanted.persistent_keepalive
        assert set(found.allowed_ips) == set(wanted.allowed_ips)
    shown = subprocess.run(["wg", "show", "wg0", "peers"], capture_output=True, text=True, check=True).stdout
    assert shown.split() == [str(peer.public_key) for peer in peers]


def thousands_of_allowed_ips_of_one_peer_read_back() -> None:
    many = PeerConfig(public(), allowed_ips=networks(20_000))
    few = PeerConfig(public(), allowed_ips=(AllowedIP(bytes(4), 0), AllowedIP(bytes(16), 0)))
    CONTROL.set("wg0", DeviceConfig(peers=(*removal(), many, few)))
    first, second = CONTROL.get("wg0").peers
    assert (first.public_key, set(first.allowed_ips)) == (many.public_key, set(many.allowed_ips))
    assert (second.public_key, set(second.allowed_ips)) == (few.public_key, set(few.allowed_ips))


def only_given_settings_change_and_zeros_remove_them() -> None:
    peer = PeerConfig(public(), preshared_key=secret(), persistent_keepalive=25, allowed_ips=networks(1))
    CONTROL.set("wg0", DeviceConfig(secret(), 51820, 7, (*removal(), peer)))
    CONTROL.set("wg0", DeviceConfig(peers=(PeerConfig(peer.public_key, allowed_ips=networks(3)[1:]),)))
    device = CONTROL.get("wg0")
    assert (device.listen_port, device.fwmark) == (51820, 7)
    assert device.peers[0].preshared_key == peer.preshared_key
    assert set(device.peers[0].allowed_ips) == set(networks(3))
    off = PeerConfig(peer.public_key, preshared_key=SecretKey(bytes(32)), persistent_keepalive=0)
    CONTROL.set("wg0", DeviceConfig(SecretKey(bytes(32)), 0, 0, peers=(off._replace(replace_allowed_ips=True),)))
    device = CONTROL.get("wg0")
    assert (device.private_key, device.fwmark) == (None, 0)
    assert device.peers[0].preshared_key is None
    assert (device.peers[0].persistent_keepalive, device.peers[0].allowed_ips) == (0, ())


def peers_are_removed_and_not_created_by_an_update() -> None:
    first, second = PeerConfig(public()), PeerConfig(public())
    CONTROL.set("wg0", DeviceConfig(peers=(*removal(), first, second)))
    stranger = PeerConfig(public(), update_only=True, allowed_ips=networks(1000))
    CONTROL.set("wg0", DeviceConfig(peers=(first._replace(remove=True), stranger)))
    assert [peer.public_key for peer in CONTROL.get("wg0").peers] == [second.public_key]


def an_error_names_the_peer() -> None:
    peer = PeerConfig(public(), allowed_ips=(AllowedIP(bytes(4), 33),))
    error = refusal(lambda: CONTROL.set("wg0", DeviceConfig(secret(), peers=(peer,))))
    assert error is not None
    assert error.errno == errno.EINVAL
    assert str(peer.public_key) in str(error)


def removing_an_allowed_ip_works_or_names_the_needed_kernel() -> None:
    peer = PeerConfig(public(), allowed_ips=networks(2))
    CONTROL.set("wg0", DeviceConfig(peers=(peer,)))
    minus = peer._replace(allowed_ips=(networks(1)[0]._replace(change="-"),))
    error = refusal(lambda: CONTROL.set("wg0", DeviceConfig(peers=(minus,))))
    assert (error is None) == (tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 16))
    if error is None:
        assert CONTROL.get("wg0").peers[-1].allowed_ips == networks(2)[1:]
    else:
        assert "needs Linux 6.16" in str(error)


def a_link_that_is_not_wireguard_is_refused() -> None:
    assert errno_of(lambda: CONTROL.get("lo")) == errno.ENODEV
    assert errno_of(lambda: Kernel().get("lo")) == errno.EOPNOTSUPP
    assert errno_of(lambda: Kernel().get("nosuch0")) == errno.ENODEV
    assert errno_of(lambda: Kernel().set("nosuch0", DeviceConfig())) == errno.ENODEV


def addresses_routes_and_rules_work_on_this_kernel() -> None:
    NL.set_link("wg0", mtu=1400)
    NL.add_addresses("wg0", [Prefix.parse("10.0.0.1/24"), Prefix.parse("fd00::1/64")])
    assert NL.addresses("wg0") == [Prefix.parse("10.0.0.1/24"), Prefix.parse("fd00::1/64")]
    wanted = [Prefix(ip.address, ip.length) for ip in networks(10_000)]
    NL.add_routes([Route(prefix, "wg0", 51820) for prefix in wanted])
    assert sorted(NL.routes(family=4, table=51820, device="wg0")) == wanted
    for family in (4, 6):
        before = NL.rules(family)
        ours = Rule(family, 51820, 32000, fwmark=51820), Rule(family, 254, 31999, suppress_prefixlength=0)
        for rule in ours:
            NL.add_rule(rule)
        assert set(NL.rules(family)) - set(before) == set(ours)
        for rule in ours:
            NL.delete_rule(rule)
        assert NL.rules(family) == before


def a_deleted_link_is_gone() -> None:
    NL.delete_link("wg0")
    assert NL.link("wg0") is None
    assert CONTROL.interfaces() == []


def down_does_not_wait_for_a_daemon_in_another_namespace() -> None:
    NL.add_wireguard_link("wg9")
    path = Path("/run/wireguard/wg9.sock")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        command = [sys.executable, "-m", "wgquick", "down", "wg9"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert path.exists()
    path.unlink()
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("[#] ip link delete dev wg9\n"), done.stderr  # "does not end" would come after
    assert NL.link("wg9") is None


CHECKS: Sequence[Callable[[], None]] = (
    a_link_of_the_kernels_wireguard_is_added_and_found,
    three_thousand_peers_read_back_in_order,
    thousands_of_allowed_ips_of_one_peer_read_back,
    only_given_settings_change_and_zeros_remove_them,
    peers_are_removed_and_not_created_by_an_update,
    an_error_names_the_peer,
    removing_an_allowed_ip_works_or_names_the_needed_kernel,
    a_link_that_is_not_wireguard_is_refused,
    addresses_routes_and_rules_work_on_this_kernel,
    a_deleted_link_is_gone,
    down_does_not_wait_for_a_daemon_in_another_namespace,
)
