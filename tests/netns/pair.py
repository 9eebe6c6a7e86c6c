"""Two machines connected by a veth, 192.0.2.1 and 192.0.2.2, with the files of a tunnel between them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from tests.namespaces import host
from tests.netns.tunnels import KEY, await_carriers, write
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

ONE, TWO = KEY, "8MZLqDwzmfmrXRm9OTTHLMkr4Vp7xPZkmTHLvp0r23E="


class Pair(NamedTuple):
    """The machines, and the public keys of their ends of the tunnel."""

    one: Namespace
    two: Namespace
    key_of_one: str
    key_of_two: str

    def write(self, peer: str = "", *, interface: str = "", other: str = "") -> None:
        """Write both ends' wg0.conf; only `one` has an Endpoint.

        `peer` is added to one's [Peer], `interface` to its [Interface], `other` to two's [Peer].
        """
        write(
            self.one,
            f"[Interface]\nPrivateKey = {ONE}\nAddress = 10.7.0.1/24\nListenPort = 51820\n{interface}\n\n"
            f"### begin the other ###\n[Peer]\nPublicKey = {self.key_of_two}\nAllowedIPs = 10.7.0.2/32\n"
            f"Endpoint = 192.0.2.2:51820\n{peer}\n",
        )
        write(
            self.two,
            f"[Interface]\nPrivateKey = {TWO}\nAddress = 10.7.0.2/24\nListenPort = 51820\n\n"
            f"[Peer]\n# friendly_name = one\nPublicKey = {self.key_of_one}\nAllowedIPs = 10.7.0.1/32\n{other}\n",
        )


@contextlib.contextmanager
def pair() -> Iterator[Pair]:
    """Two connected machines without files."""
    with host() as one, host() as two:
        keeper = two.paths["net"].split("/")[2]
        one.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", keeper])
        for machine, number in ((one, 1), (two, 2)):
            machine.run(["ip", "address", "add", f"192.0.2.{number}/24", "dev", "eth0"])
            machine.run(["ip", "link", "set", "eth0", "up"])
            machine.run(["ip", "route", "add", "default", "via", f"192.0.2.{3 - number}"])
        await_carriers(one, two)
        keys = [one.run(["wg", "pubkey"], input=f"{key}\n").stdout.strip() for key in (ONE, TWO)]
        yield Pair(one, two, *keys)


def ping(machine: Namespace, address: str) -> None:
    """Ping until an answer comes."""
    until(
        lambda: machine.run(["ping", "-c1", "-W1", address], check=False).returncode == 0, f"an answer of {address}"
    )
