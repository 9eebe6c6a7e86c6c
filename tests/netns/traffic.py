"""Two machines with a kill switch or excluded networks, and what passes."""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.interop.pairs import private_key
from tests.keys import public_key
from tests.namespaces import host
from tests.netns.tunnels import wgq, write
from wgquick import api

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace


OUTSIDE = "203.0.113.9"  # an address on the Internet; the router has it
ENDPOINT = "192.0.2.1"
ROUTER = """
link set lo up
link set up1 up
addr add 192.168.7.1/24 dev up1
addr add fd07::1/64 dev up1 nodad
addr add 192.0.2.1/32 dev lo
addr add 203.0.113.9/32 dev lo
addr add 198.51.100.9/32 dev lo
addr add 2001:db8:9::9/128 dev lo
"""
NEAR = """
link set lo up
link set up0 up
addr add 192.168.7.2/24 dev up0
addr add fd07::2/64 dev up0 nodad
route add default via 192.168.7.1
route add default via fd07::1
"""
# Everything that leaves on the uplink except UDP to the endpoint, ARP and neighbour discovery.
COUNTER = """
table netdev capture {
    counter leaks {}
    chain leaving {
        type filter hook egress device up0 priority 0
        ether type arp accept
        ip daddr 192.0.2.1 udp dport 51820 accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
        counter name leaks
    }
}
"""


@contextmanager
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """The host and its router, once each knows the other's hardware address.

    Until then a packet waits for the address, behind the firewall, and would leave after the kill switch is set.
    """
    with host() as near, host() as router:
        near.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"])
        near.run(["ip", "link", "set", "up1", "netns", router.paths["net"].split("/")[2]])
        router.run(["ip", "-batch", "-"], input=ROUTER)
        near.run(["ip", "-batch", "-"], input=NEAR)
        for address in ("192.168.7.1", "fd07::1"):
            assert reaches(near, address)
        yield near, router


def tunnel(near: Namespace, router: Namespace, *own: str, endpoint: str = ENDPOINT, extra: str = "") -> None:
    """Bring the far end up, and write the near end's file."""
    keys = private_key(), private_key()
    far = f"[Interface]\nPrivateKey = {keys[1]}\nListenPort = 51820\nAddress = 10.9.0.1/24, fd09::1/64\n"
    write(router, f"{far}[Peer]\nPublicKey = {public_key(keys[0])}\nAllowedIPs = 10.9.0.2/32, fd09::2/128\n", "far")
    wgq(router, "up", "far")
    lines = "".join(f"# wgq: {each}\n" for each in own)
    text = f"[Interface]\n{lines}PrivateKey = {keys[0]}\nAddress = 10.9.0.2/24, fd09::2/64\n{extra}"
    peer = f"[Peer]\nPublicKey = {public_key(keys[1])}\nEndpoint = {endpoint}:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n"
    write(near, text + peer)


def reaches(machine: Namespace, address: str, *options: str, seconds: float = 60) -> bool:
    """Whether a ping is answered within `seconds`.

    Each ping is a process of its own: ping(8) keeps its first source address, and a new IPv6 address cannot be one
    before addrconf_dad_work() of the kernel has run.
    """
    command = ["ping", "-c", "1", "-W", "2", *options, address]
    deadline = time.monotonic() + seconds
    while machine.run(command, check=False).returncode:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def leaks(machine: Namespace) -> int:
    """The number of packets that left on the uplink and should not have."""
    listed = machine.out("nft", "list", "counter", "netdev", "capture", "leaks")
    return int(listed.split("packets ")[1].split()[0])


def tables(machine: Namespace) -> list[str]:
    return sorted(line for line in machine.out("nft", "list", "tables").splitlines() if "wgq-" in line)


def guard_of(machine: Namespace) -> str:
    return machine.out("nft", "list", "table", "inet", "wgq-guard-wg0")


def reload_with_probes() -> tuple[list[str], list[str]]:
    """The transcript of a reload, and the lines before whose steps a ping through the tunnel is lost.

    The counter of leaks begins again after the first step, which sets a kill switch that comes.
    """
    reset = ["nft", "reset", "counter", "netdev", "capture", "leaks"]
    lines: list[str] = []
    lost: list[str] = []

    def record(text: str) -> None:
        lines.append(text)
        if len(lines) == 2:
            subprocess.run(reset, capture_output=True, check=True)
        if subprocess.run(["ping", "-c", "1", "-W", "60", "10.9.0.1"], capture_output=True, check=False).returncode:
            lost.append(text)

    api.reload(api.load("wg0", lines.append), transcript=record)
    if len(lines) == 1:
        subprocess.run(reset, capture_output=True, check=True)
    return lines, lost


MORE = f"""[Peer]
PublicKey = {public_key(private_key())}
Endpoint = [2001:db8:9::9]:4000
AllowedIPs = 10.77.0.0/16
[Peer]
PublicKey = {public_key(private_key())}
Endpoint = {OUTSIDE}:4000
AllowedIPs = 10.78.0.0/16
"""
