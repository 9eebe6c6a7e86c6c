"""What a plan announces, compared with the netlink messages that the kernel gets, inside the VM.

A link of the kind nlmon has a copy of each message in its network namespace (drivers/net/nlmon.c).
"""

from __future__ import annotations

import json
import socket
import struct
from collections import Counter
from importlib import import_module
from typing import TYPE_CHECKING

from tests.interop.pairs import LINK
from tests.kernel.verbs import wgq
from tests.namespaces import host
from tests.netns.plans import NFNL_SUBSYS_NFTABLES, announced, commands
from tests.netns.tunnels import FULL, config, write
from wgquick.system.netlink.codec import NLM_F_REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.namespaces import Namespace

NETLINK_ROUTE, NETLINK_NETFILTER, NETLINK_GENERIC, GENL_ID_CTRL = 0, 12, 16, 16
ETH_P_ALL, SO_RCVBUFFORCE = 3, 33  # linux/if_ether.h, asm-generic/socket.h
HEADER = struct.Struct("=IHHII")
WG_CMD_SET_DEVICE, WGDEVICE_A_PEERS = 1, 8  # linux/wireguard.h
NLA_TYPE_MASK = 0x3FFF


class Monitor:
    """The messages that programs on the machine send to the kernel."""

    def __init__(self, machine: Namespace) -> None:
        machine.run(["ip", "-batch", "-"], input="link add nlmon0 type nlmon\nlink set nlmon0 up\n")
        with machine.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self._socket.bind(("nlmon0", ETH_P_ALL))
        self.settings: list[bytes] = []

    def changes(self) -> dict[object, int]:
        """What programs changed since the last call, counted; `settings` are the attributes for devices."""
        self.settings = []
        return Counter(kind for protocol, data in self._sent() for kind in self._kinds(protocol, data))

    def _sent(self) -> Iterator[tuple[int, bytes]]:
        """The netlink protocol and the data of each send, the kernel's included."""
        while True:
            try:
                data, (_, protocol, *_) = self._socket.recvfrom(1 << 18)
            except BlockingIOError:
                return
            yield protocol, data

    def _kinds(self, protocol: int, data: bytes) -> list[object]:
        found = list(_messages(data))
        if protocol == NETLINK_ROUTE:
            return [kind for kind, _ in found if kind % 4 != 2]  # RTM_GET...
        if protocol == NETLINK_NETFILTER:
            changed = any(kind >> 8 == NFNL_SUBSYS_NFTABLES for kind, _ in found) and len(found) > 1
            return ["nftables"] if changed else []  # changes come in a batch
        if protocol == NETLINK_GENERIC:
            bodies = [body for kind, body in found if kind > GENL_ID_CTRL and body[0] == WG_CMD_SET_DEVICE]
            self.settings += [body[4:] for body in bodies]
            return ["uapi"] * len(bodies)
        return []


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and the body of each request of a send; the kernel's messages are none."""
    while len(data) >= HEADER.size:
        length, kind, flags, *_ = HEADER.unpack_from(data)
        if flags & NLM_F_REQUEST:
            yield kind, data[HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message by type."""
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & NLA_TYPE_MASK] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def a_plan_announces_what_the_kernel_gets() -> None:
    """Nothing else is sent, and neither a plan nor a reload without a difference changes anything."""
    import_module("wgquick.cli.app")  # once here, not in each fork
    first = config("ListenPort = 51999", f"{FULL}, 10.9.0.0/16", address="10.0.0.1/24, fd00::1/64")
    other = config("MTU = 1300", "AllowedIPs = ::/0, 10.9.0.0/16", address="10.0.0.1/24, 10.3.0.1/24, fd00::1/64")
    kept = other.replace("AllowedIPs", "PersistentKeepalive = 25\nAllowedIPs")
    with host() as machine:
        machine.uplink()
        monitor = Monitor(machine)
        monitor.changes()
        for verb, text in (("up", first), ("reload", other), ("reload", kept), ("down", kept)):
            write(machine, text)
            planned = commands(json.loads(wgq(machine, "plan", verb, LINK, "--json", status=2)[0]))
            assert monitor.changes() == {}
            wgq(machine, verb, LINK)
            seen, wanted = monitor.changes(), announced(planned)
            assert seen == {kind: wanted[kind] for kind in wanted if kind != "sysctl"}, (verb, seen, planned)
            if text == kept and verb == "reload":
                _is_only_a_keepalive(monitor.settings)
            if verb != "down":
                assert wgq(machine, "reload", LINK)[1] == ""
                assert monitor.changes() == {}


def _is_only_a_keepalive(settings: list[bytes]) -> None:
    """No attribute that does not change is sent."""
    (message,) = map(_attributes, settings)
    assert set(message) == {2, WGDEVICE_A_PEERS}  # WGDEVICE_A_IFNAME
    (peer,) = map(_attributes, _attributes(message[WGDEVICE_A_PEERS]).values())
    assert set(peer) == {1, 3, 5}, peer.keys()  # WGPEER_A_PUBLIC_KEY, _FLAGS, _PERSISTENT_KEEPALIVE_INTERVAL
    assert peer[5] == struct.pack("=H", 25)


CHECKS: Sequence[Callable[[], None]] = (a_plan_announces_what_the_kernel_gets,)
