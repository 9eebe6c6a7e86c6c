"""WireGuard devices of all implementations."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING
from wgquick.system.netlink import RtNetlink
from wgquick.system.wireguard.uapi import Uapi, answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wgquick.counters import Diagnostics
    from wgquick.device import Device, DeviceConfig
    from wgquick.net import PublicKey
    from wgquick.system.wireguard.kernel import Kernel

__all__ = ["Control"]

_KIND = "wireguard"


class Control:
    """All devices (wgquick.ports.WireGuard): the kernel's through netlink, others through their control sockets."""

    def interfaces(self) -> list[str]:
        """The names that `wg show interfaces` prints: first the kernel's, then those with a daemon that answers."""
        kernel = [link.name for link in RtNetlink().links() if link.kind == _KIND]
        return kernel + [name for name in Uapi().interfaces() if name not in kernel]

    def backend(self, name: str) -> str:
        """The implementation of the device: "kernel", "userspace", or "" if there is no device."""
        if _is_the_kernels(name):
            return "kernel"
        return "userspace" if answers(name) else ""

    def program(self, name: str) -> str:
        """The implementation of the device: "kernel", the program's name, or "userspace" if that is unknown."""
        if _is_the_kernels(name):
            return "kernel"
        from wgquick.system.wireguard.origin import program

        return program(name)

    def get(self, name: str) -> Device:
        """The device's state; errno ENODEV if there is none."""
        return _of(name).get(name)

    def diagnostics(self, name: str) -> Diagnostics | None:
        """wgq-userspace's counters; None for the kernel and other daemons."""
        return None if _is_the_kernels(name) else Uapi().diagnostics(name)

    def begin_handshakes(self, name: str, peers: Sequence[PublicKey]) -> bool:
        """Make the device start handshakes with these peers; False if it is not wgq-userspace's."""
        return not _is_the_kernels(name) and Uapi().begin_handshakes(name, peers)

    def set(self, name: str, config: DeviceConfig) -> None:
        """Apply the change; errno ENODEV if there is no device."""
        _of(name).set(name, config)


def _of(name: str) -> Uapi | Kernel:
    if not _is_the_kernels(name):
        return Uapi()
    from wgquick.system.wireguard.kernel import Kernel  # a userspace device does not need it

    return Kernel()


def _is_the_kernels(name: str) -> bool:
    link = RtNetlink().link(name)
    return link is not None and link.kind == _KIND
