"""The source address of an end's packets: it is the address that the peer knows, as long as that one works."""

from __future__ import annotations

import socket
import time

import pytest

from tests.interop.pairs import GO, WGQ, WIRE, join, machines, pair
from tests.waiting import until

SECOND = {4: "192.0.2.77", 6: "2001:db8::77"}
PREFIX = {4: "24", 6: "64 nodad"}
ENDPOINT = {4: "192.0.2.77:51822", 6: "[2001:db8::77]:51822"}
FAMILY = {4: "ip", 6: "ip6"}

# Like a firewall or a NAT in front of the left end.
ONLY_FROM_THE_SECOND = """
table inet strict {{
    chain received {{
        type filter hook input priority 0
        iifname {wire} {family} saddr {first} udp sport 51822 drop
    }}
}}
"""


@pytest.mark.parametrize("version", [4, 6])
def test_the_source_address_stays_when_other_links_change(version: int) -> None:
    with machines(WGQ, WGQ) as (left, right):
        join(left, right)
        right.ip(f"addr add {SECOND[version]}/{PREFIX[version]} dev {WIRE}")
        # Without this route, the kernel prefers the newest IPv6 address.
        right.ip(f"route add {left.outer(version)} dev {WIRE} src {right.outer(version)}")
        for end in (left, right):
            end.start()
        right.configure(left.peer())
        left.configure(right.peer(f"Endpoint = {ENDPOINT[version]}"))
        left.ping(right)
        rules = ONLY_FROM_THE_SECOND.format(wire=WIRE, family=FAMILY[version], first=right.outer(version))
        left.machine.run(["nft", "-f", "-"], input=rules)
        with (
            left.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            right.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind((left.inner(), 7))
            right.ip(
                "link add other type veth peer name more", "link set other up", "route add 198.51.100.0/24 dev lo"
            )
            # Only one direction, as an answer would set the address again. The daemon needs time to see the change.
            for number in range(10):
                sender.sendto(b"%d" % number, (left.inner(), 7))
                assert receiver.recv(9) == b"%d" % number
                time.sleep(0.03)


NETWORK = {4: "192.0.2.0/24", 6: "2001:db8::/64"}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("program", [WGQ, GO])
def test_an_end_does_not_follow_its_peer_into_the_tunnel(program: str, version: int) -> None:
    """A host with a route but no address on its link sends from the tunnel's address (RFC 6724, section 4).

    An end that followed would send its outer packets into its own tunnel.
    """
    with pair(program, WGQ, version=version) as (left, right):
        left.ping(right)
        known = right.known_endpoint(left)
        left.set_peer(right, "persistent-keepalive", "1")
        left.ip(f"addr flush dev {WIRE} scope global", f"route add {NETWORK[version]} dev {WIRE}")
        received = right.transfer(left)[0]
        until(lambda: right.transfer(left)[0] > received, "a packet from the tunnel's own address")
        assert right.known_endpoint(left) == known
        left.ip(f"addr add {SECOND[version]}/{PREFIX[version]} dev {WIRE}")
        until(lambda: SECOND[version] in right.known_endpoint(left), "the new address")
        right.ping(left)
