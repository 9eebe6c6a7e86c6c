"""Other programs that manage a machine's network, the real ones: systemd-networkd and NetworkManager."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.netns.pair import until
from tests.resolvers import install

if TYPE_CHECKING:
    import subprocess

    from tests.namespaces import Namespace

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
    install(machine, "libsystemd-shared", "systemd")
    machine.run(["sh", "-c", _NETWORKD_USER])
    for name, text in networks.items():
        machine.run(["sh", "-c", f"cat >/etc/systemd/network/{name}.network"], input=text)
    machine.run(["mount", "-o", "remount,ro", "/sys"])


def start_networkd(machine: Namespace) -> subprocess.Popen[bytes]:
    """Start it, and wait until it has looked at every link."""
    machine.run(["sh", "-c", "rm -f /run/systemd/networkd.log"])
    command = "SYSTEMD_LOG_LEVEL=debug exec /usr/lib/systemd/systemd-networkd 2>/run/systemd/networkd.log"
    process = machine.popen(["sh", "-c", command])
    seen = ["grep", "-q", "Enumeration completed", "/run/systemd/networkd.log"]
    until(lambda: machine.run(seen, check=False).returncode == 0)
    return process
