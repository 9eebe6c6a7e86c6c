"""Installs and starts real network managers: systemd-networkd and NetworkManager."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.resolvers import install
from tests.waiting import until

if TYPE_CHECKING:
    import subprocess

    from tests.namespaces import Namespace

NETWORKD_PACKAGES = ("libsystemd-shared", "systemd")
NETWORK_MANAGER_PACKAGES = ("network-manager", "libndp0", "libnm0")
_BUS = ["dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus"]
_NETWORKD_USER = """
id -u systemd-network >/dev/null 2>&1 || {
    echo 'systemd-network:x:998:' >>/etc/group
    echo 'systemd-network:x:998:998::/:/usr/sbin/nologin' >>/etc/passwd
}
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
mkdir -p /etc/systemd/network /run/systemd/netif
chown -R systemd-network /run/systemd/netif
"""


def install_networkd(machine: Namespace, **networks: str) -> None:
    """Install systemd-networkd with files NAME.network; it does not wait for udev where /sys is read-only."""
    install(machine, *NETWORKD_PACKAGES)
    machine.run(["sh", "-c", _NETWORKD_USER])
    for name, text in networks.items():
        machine.run(["sh", "-c", f"cat >/etc/systemd/network/{name}.network"], input=text)
    machine.run(["mount", "-o", "remount,ro", "/sys"])
    _start_bus(machine)


def _start_bus(machine: Namespace) -> None:
    """Start a system bus with the installed services."""
    machine.run(["mkdir", "-p", "/run/dbus"])
    machine.popen(["sh", "-c", "exec dbus-daemon --system --nofork --nopidfile 2>/run/dbus/log"])
    until(lambda: machine.run([*_BUS, "org.freedesktop.DBus.ListNames"], check=False).returncode == 0, "a bus")


def start_networkd(machine: Namespace) -> subprocess.Popen[bytes]:
    """Start it, and wait until it has configured every link and answers on the bus."""
    machine.run(["sh", "-c", "rm -f /run/systemd/networkd.log"])
    command = "SYSTEMD_LOG_LEVEL=debug exec /usr/lib/systemd/systemd-networkd 2>/run/systemd/networkd.log"
    process = machine.popen(["sh", "-c", command])
    seen = ["grep", "-q", "Enumeration completed", "/run/systemd/networkd.log"]
    until(lambda: machine.run(seen, check=False).returncode == 0, "udev")
    until(lambda: "org.freedesktop.network1" in machine.out(*_BUS, "org.freedesktop.DBus.ListNames"), "networkd")
    return process


_NETWORK_MANAGER = "org.freedesktop.NetworkManager"
_CONFIGURATION = """
[main]
plugins=keyfile
dns=default
rc-manager=file
auth-polkit=false
"""
_UPLINK = """
[connection]
id=up0
type=ethernet
interface-name=up0
[ipv4]
method=manual
address1=192.0.2.2/24,192.0.2.1
dns=192.0.2.54;
[ipv6]
method=disabled
"""


def install_network_manager(machine: Namespace) -> None:
    """Install NetworkManager with a connection for up0, and start a system bus."""
    install(machine, *NETWORK_MANAGER_PACKAGES)
    where = "/etc/NetworkManager"
    machine.run(["sh", "-c", f"mkdir -p {where}; cat >{where}/NetworkManager.conf"], input=_CONFIGURATION)
    connection = f"{where}/system-connections/up0.nmconnection"
    machine.run(["sh", "-c", f"mkdir -p {where}/system-connections; umask 077; cat >{connection}"], input=_UPLINK)
    machine.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib"])  # NetworkManager keeps its state there
    machine.run(["mount", "-o", "remount,ro", "/sys"])
    _start_bus(machine)


def start_network_manager(machine: Namespace) -> subprocess.Popen[bytes]:
    """Start it, and wait until it has its name on the bus."""
    command = "exec /usr/sbin/NetworkManager --no-daemon --log-level=INFO 2>/run/network-manager.log"
    process = machine.popen(["sh", "-c", command])
    until(lambda: _NETWORK_MANAGER in machine.out(*_BUS, "org.freedesktop.DBus.ListNames"), "NetworkManager")
    return process
