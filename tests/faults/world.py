"""Two machines with a router between them and a tunnel, into which tests inject faults.

`here` runs doctor, `there` is the other end, `between` is the router. All have IPv4 and IPv6. A second uplink of
`here`, eth1, has no route.
"""

from __future__ import annotations

import contextlib
import json
import os
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tests.interop.pairs import KERNEL
from tests.namespaces import host
from tests.waiting import until
from wgquick import api
from wgquick.diagnosis.keys import public_key_of
from wgquick.net import SecretKey
from wgquick.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

HERE, THERE = "192.0.2.2", "198.51.100.2"
KEYS = {
    name: SecretKey(bytes([248, *([at + 1] * 30), 64]))
    for at, name in enumerate(("here", "there", "other", "third"))
}
WORDS = {
    **{name: str(public_key_of(key)) for name, key in KEYS.items()},
    **{f"{name}_secret": key.reveal() for name, key in KEYS.items()},
    "psk": SecretKey(bytes([7] * 32)).reveal(),
    "psk2": SecretKey(bytes([9] * 32)).reveal(),
}
"""The values of @NAME@ in configurations and scripts."""
BACKENDS = ("wgq-userspace", "wireguard-go")

CLIENT = """[Interface]
PrivateKey = @here_secret@
Address = 10.66.0.2/24
[Peer]
PublicKey = @there@
AllowedIPs = 10.66.0.0/24
Endpoint = 198.51.100.2:51820
"""
SERVER = """[Interface]
PrivateKey = @there_secret@
Address = 10.66.0.1/24
ListenPort = 51820
[Peer]
PublicKey = @here@
AllowedIPs = 10.66.0.2/32
"""


class Finding(NamedTuple):
    """A finding of doctor, in short."""

    code: str
    severity: str
    message: str


class World(NamedTuple):
    """The machines."""

    here: Namespace
    there: Namespace
    between: Namespace

    def write(self, place: str, text: str, name: str = "wg0") -> None:
        """Write /etc/wireguard/NAME.conf at `here` or `there`."""
        self.script(place, f"umask 077; cat >/etc/wireguard/{name}.conf", filled(text))

    def script(self, place: str, text: str, given: str | None = None) -> None:
        """Run a bash script on a machine; a failing command raises AssertionError."""
        machine: Namespace = getattr(self, place)
        if text:
            machine.run(["bash", "-ec", filled(text)], input=given)

    def up(self, place: str, name: str = "wg0", options: Options | None = None, backend: str = BACKENDS[0]) -> str:
        """Bring the interface up. Returns the error, or "" if it is up."""
        machine: Namespace = getattr(self, place)
        return machine.call(_up, name, options or Options(backend="userspace"), backend)

    def ping(self, address: str = "10.66.0.1") -> None:
        """Wait until an address answers through the tunnel."""
        ping = ["ping", "-6" if ":" in address else "-4", "-c1", "-W1", "-q", address]
        until(lambda: not self.here.run(ping, check=False).returncode, "a ping through the healthy tunnel")

    def await_carriers(self) -> None:
        """Wait until each link's state is that of its carrier: linkwatch_event() of the kernel sets it later."""
        for machine in self:
            until(partial(_agrees_with_carriers, machine), "the state of each link")


def filled(text: str) -> str:
    """The text with its @NAME@ replaced."""
    for name, word in WORDS.items():
        text = text.replace(f"@{name}@", word)
    return text


def _up(name: str, options: Options, backend: str) -> str:
    if backend == KERNEL:
        options = options._replace(backend="kernel")
    else:
        os.environ["WG_QUICK_USERSPACE_IMPLEMENTATION"] = backend
    os.environ["WG_ENDPOINT_RESOLUTION_RETRIES"] = "0"
    try:
        api.up(api.load(name, name=name), options, lambda _line: None)
    except Exception as error:
        return str(error)
    return ""


def _pid(machine: Namespace) -> str:
    return machine.paths["net"].split("/")[2]


@contextlib.contextmanager
def world() -> Iterator[World]:
    """The machines with their links, addresses and default routes."""
    with host() as here, host() as there, host() as between:
        made = World(here, there, between)
        between.run(
            ["ip", "-batch", "-"],
            input=f"link add r0 type veth peer name eth0 netns {_pid(here)}\n"
            f"link add r1 type veth peer name eth0 netns {_pid(there)}\n"
            f"link add r2 type veth peer name eth1 netns {_pid(here)}\n"
            "addr add 203.0.113.1/24 dev r2\nlink set r2 up\n"
            "addr add 192.0.2.1/24 dev r0\naddr add 198.51.100.1/24 dev r1\n"
            "addr add 2001:db8:1::1/64 dev r0 nodad\naddr add 2001:db8:2::1/64 dev r1 nodad\n"
            "link set r0 up\nlink set r1 up\n",
        )
        between.run(
            ["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"]
        )
        here.run(["ip", "-batch", "-"], input="addr add 203.0.113.2/24 dev eth1\nlink set eth1 up\n")
        for machine, address, gateway in ((here, HERE, "192.0.2.1"), (there, THERE, "198.51.100.1")):
            six = "2001:db8:1::" if machine is here else "2001:db8:2::"
            machine.run(
                ["ip", "-batch", "-"],
                input=f"addr add {address}/24 dev eth0\naddr add {six}2/64 dev eth0 nodad\nlink set eth0 up\n"
                f"route add default via {gateway}\nroute add ::/0 via {six}1 dev eth0\n",
            )
        made.await_carriers()
        yield made


def _agrees_with_carriers(machine: Namespace) -> bool:
    links = json.loads(machine.out("ip", "-json", "link"))
    return all(
        ("LOWER_UP" in link["flags"]) == (link["operstate"] in ("UP", "UNKNOWN"))
        for link in links
        if "UP" in link["flags"]
    )
