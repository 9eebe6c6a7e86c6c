"""The kernel's WireGuard devices, through generic netlink (linux/wireguard.h)."""

from __future__ import annotations

import errno

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING
from wgquick.system.netlink.connection import Connection, RefusedError
from wgquick.system.netlink.genl import HEADER, NETLINK_GENERIC, family_id, request
from wgquick.system.wireguard import kernel_codec as codec

if TYPE_CHECKING:
    from wgquick.device import Device, DeviceConfig
    from wgquick.net import PublicKey


class Kernel:
    """The kernel's devices in the calling thread's network namespace."""

    def get(self, name: str) -> Device:
        """The device's state."""
        with Connection(NETLINK_GENERIC) as connection:
            family = family_id(connection, codec.FAMILY)
            asked = request(family, codec.WG_CMD_GET_DEVICE, codec.VERSION, codec.get(name))
            answers = connection.dump(asked, f"cannot read {name}")
        return codec.decode(answer.body[HEADER.size :] for answer in answers)

    def set(self, name: str, config: DeviceConfig) -> None:
        """Apply the change, message by message, up to the first refused one."""
        what = f"cannot configure {name}"
        with Connection(NETLINK_GENERIC) as connection:
            family = family_id(connection, codec.FAMILY)
            for body, peers in codec.parts(name, config):
                try:
                    connection.request(request(family, codec.WG_CMD_SET_DEVICE, codec.VERSION, body), what)
                except RefusedError as refused:
                    raise _explained(refused, what, peers, config) from None


def _explained(
    refused: RefusedError, what: str, peers: tuple[PublicKey, ...], config: DeviceConfig
) -> OperationError:
    """The refusal with the peers of its message."""
    about = ""
    if peers:
        about = f" (peer {peers[0]})" if len(peers) == 1 else f" (one of the peers {peers[0]} to {peers[-1]})"
    remedy = refused.remedy
    if refused.errno in (errno.EINVAL, errno.EOPNOTSUPP) and _removes_single(config):
        remedy = "Removing single AllowedIPs (the `-' form) needs Linux 6.16: write the whole list instead."
    return OperationError(f"{what}: {refused.refusal}{about}", errno=refused.errno, remedy=remedy)


def _removes_single(config: DeviceConfig) -> bool:
    return any(allowed.change == "-" for peer in config.peers for allowed in peer.allowed_ips)
