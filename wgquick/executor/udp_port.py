"""Checks the UDP port. If a tunnel cannot bind its port, up fails with the port's number."""

from __future__ import annotations

import errno
from os import strerror
from time import monotonic, sleep

from wgquick.errors import FAILURE, IP_STATUS, OperationError
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.device import Device
    from wgquick.ports import Host

REFUSALS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)
_PATIENCE = 5.0  # seconds for a daemon to notice that its link is up
_PAUSE = 0.001


def check_free(name: str, port: int | None, host: Host) -> None:
    """Raise OperationError if the port cannot be bound, unless a PreUp hook already gave it to this device."""
    code = host.udp_ports.refusal(port) if port else 0
    if port and code and host.wireguard.get(name).listen_port != port:
        raise refused(name, port, code, host)


def check_bound(name: str, port: int, host: Host) -> None:
    """Wait until the daemon of a link that is up has bound its port; OperationError if that fails.

    The kernel's WireGuard refuses to set a link up without its port, but a TUN device always goes up. Without the
    port wgq-userspace sets the link down again, and wireguard-go reports port 0. wireguard-go may do so before the
    link is up, so `port` is the file's, not the device's.
    """
    link = host.rtnl.link(name)
    if not port or link is None or link.kind == "wireguard":
        return
    deadline = monotonic() + _PATIENCE
    while not host.udp_ports.has(name, port):
        link = host.rtnl.link(name)
        is_lost = link is None or not link.up or host.wireguard.get(name).listen_port != port
        if is_lost or monotonic() > deadline:
            raise refused(name, port, host.udp_ports.refusal(port), host)
        sleep(_PAUSE)


def check_change(name: str, port: int | None, host: Host) -> None:
    """Raise OperationError, before a reload changes anything, if a live device cannot bind this port."""
    if port and (code := host.udp_ports.refusal(port)):
        raise refused(name, port, code, host, task=f"change the ListenPort of {name}", status=FAILURE)


def chosen(device: Device, host: Host) -> int:
    """The port that a device has after its link went up; 0 if it chooses none.

    The kernel chooses the port when the link goes up. A daemon chooses it shortly after.
    """
    port, deadline = device.listen_port, monotonic() + _PATIENCE
    while not port and monotonic() < deadline:
        port = _port(device.name, host)
        link = host.rtnl.link(device.name)
        if port or link is None or not link.up or link.kind == "wireguard":
            return port
        sleep(_PAUSE)
    return port


def refused(
    name: str, port: int, code: int, host: Host, *, task: str = "", status: int = IP_STATUS
) -> OperationError:
    """The error for a refused port, with the port's current user if known; `code` is the errno."""
    match code:
        case errno.EADDRINUSE:
            holders = " and ".join(_holders(name, port, host))
            reason = f"is in use{f' by {holders}' if holders else ''}"
            remedy = "Choose another ListenPort, remove it to get a free port, or stop the program that uses it."
        case errno.EACCES:
            reason = "is privileged"
            remedy = "A port below 1024 needs root or CAP_NET_BIND_SERVICE."
        case 0:
            reason, remedy = "is free, but the daemon does not bind it", "See the daemon's log."
        case _:
            reason = f"cannot be bound: {strerror(code)}"
            remedy = ""
    what = f"cannot {task or f'bring {name} up'}: UDP port {port} {reason}"
    return OperationError(what, errno=code, remedy=remedy, status=status)


def _holders(name: str, port: int, host: Host) -> tuple[str, ...]:
    """The WireGuard interfaces that use the port, as kernel sockets belong to no process; else the programs."""
    interfaces = tuple(f"the WireGuard interface {other}" for other in _others(name, port, host))
    return interfaces or host.udp_ports.programs(port)


def _others(name: str, port: int, host: Host) -> Iterator[str]:
    for other in host.wireguard.interfaces():
        link = host.rtnl.link(other) if other != name else None
        if link is not None and link.up and _port(other, host) == port:
            yield other


def _port(name: str, host: Host) -> int:
    """A device's port; 0 if its daemon ended or hangs."""
    try:
        return host.wireguard.get(name).listen_port
    except OperationError:
        return 0
