"""The peer that `wgq trace` finds is the one that the device sends to; and the namespace of its socket is found."""

from __future__ import annotations

import ipaddress
import os
import random
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.netns.tunnels import config, wgq, write
from tests.waiting import until
from wgquick.device import DeviceConfig, PeerConfig, peer_of
from wgquick.net import AllowedIP, Prefix, PublicKey, SocketAddress, pack_address
from wgquick.system.routes import Routing
from wgquick.system.snapshot import _path_of
from wgquick.system.wireguard import Control

if TYPE_CHECKING:
    from tests.namespaces import Namespace

PEERS = 6
DRAWS = 25
INITIATION = 148
PATIENCE = 60.0


def address(draw: random.Random) -> str:
    return f"10.{draw.randrange(2)}.{draw.randrange(3)}.{draw.randrange(8)}"


def allowed(draw: random.Random) -> tuple[AllowedIP, ...]:
    """Random networks for one peer."""
    found = []
    for _ in range(draw.randrange(1, 4)):
        length = draw.choice((8, 12, 15, 16, 20, 23, 24, 29, 30, 31, 32))
        prefix = Prefix.parse(str(ipaddress.ip_network(f"{address(draw)}/{length}", strict=False)))
        found.append(AllowedIP(prefix.address, prefix.length))
    return tuple(found)


def compare(seed: int) -> list[str]:
    """The differences between the traced peer and the receiver of the first packet, for random AllowedIPs."""
    draw = random.Random(seed)
    keys = [PublicKey(draw.randbytes(32)) for _ in range(PEERS)]
    wrong: list[str] = []
    with ExitStack() as stack:
        ends = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in keys]
        for end in ends:
            end.bind(("127.0.0.1", 0))
            end.settimeout(PATIENCE)
        where = [SocketAddress("127.0.0.1", end.getsockname()[1]) for end in ends]
        out = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for _ in range(DRAWS):
            change = [
                PeerConfig(key, endpoint=place, allowed_ips=allowed(draw))
                for key, place in zip(keys, where, strict=True)
            ]
            # A new peer sends an initiation at once, however short the last one was ago.
            away = [PeerConfig(peer.public_key, remove=True) for peer in Control().get("wg0").peers]
            Control().set("wg0", DeviceConfig(peers=(*away, *change)))
            peers = Control().get("wg0").peers
            destination = address(draw)
            chosen = peer_of(peers, pack_address(destination))
            if chosen is None:
                continue
            out.sendto(b"\0", (destination, 9))
            end = ends[keys.index(chosen[0].public_key)]
            try:
                if len(end.recv(2000)) != INITIATION:
                    wrong.append(f"{destination}: no initiation came to the peer of {chosen[1]}")
            except TimeoutError:
                wrong.append(f"{destination}: nothing came to the peer of {chosen[1]}; {change}")
            for other in ends:
                wrong += [f"{destination}: also to another" for _ in _waiting(other)]
    return wrong


def _waiting(end: socket.socket) -> list[bytes]:
    end.setblocking(False)
    try:
        return [end.recv(2000)]
    except BlockingIOError:
        return []
    finally:
        end.settimeout(PATIENCE)


def test_the_traced_peer_is_the_one_that_the_device_sends_to(machine: Namespace) -> None:
    write(machine, config(peer="AllowedIPs = 10.9.0.0/16", address="10.9.9.9/32"))
    wgq(machine, "up", "wg0")
    machine.run(["ip", "route", "replace", "10.0.0.0/8", "dev", "wg0"])
    for seed in range(3):
        assert machine.call(compare, seed) == []


def _path_of_peer(link: str) -> str:
    with Routing() as routing:
        (found,) = (each for each in routing.kernel.get_links() if each.get("IFLA_IFNAME") == link)
        return _path_of(found.get("IFLA_LINK_NETNSID"))


def test_a_namespace_is_found_by_its_number(machine: Namespace) -> None:
    """For a moved link of the kernel's WireGuard, IFLA_LINK_NETNSID is the number of its socket's namespace."""
    own = os.readlink("/proc/self/ns/net")
    here = os.readlink(f"/proc/{machine.paths['net'].split('/')[2]}/ns/net")
    other = machine.popen(["unshare", "--net", "sleep", "600"])
    until(lambda: os.readlink(f"/proc/{other.pid}/ns/net") not in (here, own), "the other namespace")
    machine.run(["ip", "link", "add", "r0", "type", "veth", "peer", "name", "r1", "netns", str(other.pid)])
    path = machine.call(_path_of_peer, "r0")
    assert os.readlink(path) == os.readlink(f"/proc/{other.pid}/ns/net")
