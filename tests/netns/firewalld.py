"""Two machines, one of them with firewalld."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.resolvers import install
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.interop.pairs import private_key
from tests.keys import public_key
from tests.namespaces import host
from tests.netns.tunnels import await_carriers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace


FAR_ADDRESS = "2001:db8:9::1"  # reached by the default route only
PORT = 51820
# firewalld's current filter, at the priority that it had up to firewalld 0.9.3: raw + 10.
EARLY_FILTER = """
table inet early {
    chain prerouting {
        type filter hook prerouting priority -290
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }
}
"""


@contextmanager
def hosts() -> Iterator[tuple[Namespace, Namespace]]:
    """A host, and behind its default route the far end of the tunnel, which is up."""
    with host() as near, host() as far:
        near.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"])
        near.run(["ip", "link", "set", "up1", "netns", far.paths["net"].split("/")[2]])
        near.run(
            ["ip", "-batch", "-"],
            input="addr add 2001:db8::2/64 dev up0 nodad\nlink set up0 up\nroute add ::/0 via fe80::1 dev up0\n",
        )
        far.run(
            ["ip", "-batch", "-"],
            input=f"addr add {FAR_ADDRESS}/128 dev up1 nodad\naddr add fe80::1/64 dev up1 nodad\n"
            "link set up1 up\nroute add 2001:db8::/64 dev up1\n",
        )
        await_carriers(near, far)
        yield near, far


def tunnel(near: Namespace, far: Namespace, *, begins: str = "near") -> tuple[str, str]:
    """The two configurations; only the end that begins has an Endpoint."""
    keys = {"near": private_key(), "far": private_key()}
    endpoints = {"near": f"Endpoint = [{FAR_ADDRESS}]:{PORT}\n", "far": f"Endpoint = [2001:db8::2]:{PORT}\n"}
    given = {end: text if end == begins else "" for end, text in endpoints.items()}

    def text(end: str, other: str, address: str, allowed: str) -> str:
        interface = f"[Interface]\nPrivateKey = {keys[end]}\nListenPort = {PORT}\nAddress = {address}\n"
        return f"{interface}[Peer]\nPublicKey = {public_key(keys[other])}\n{given[end]}AllowedIPs = {allowed}\n"

    return text("near", "far", "fd00:9::2/64", "::/0"), text("far", "near", "fd00:9::1/64", "fd00:9::2")


def reaches(machine: Namespace, address: str, seconds: int = 60) -> bool:
    """Whether a ping to the far end of the tunnel is answered; a handshake is repeated after five seconds."""
    return machine.run(["ping", "-c", "1", "-w", str(seconds), address], check=False).returncode == 0


def without_marks(machine: Namespace, firewall: str) -> None:
    """Delete the rules that wg-quick does not have."""
    if firewall == "nft":
        listed = machine.out("nft", "-a", "list", "table", "ip6", "wg-quick-wg0").splitlines()
        for word, chains in (("dport", ("preraw", "premangle")), ("ct mark 0x", ("premangle",))):
            handles = [line.rpartition(" ")[2] for line in listed if word in line]
            for chain, handle in zip(chains, handles, strict=True):
                machine.run(["nft", "delete", "rule", "ip6", "wg-quick-wg0", chain, "handle", handle])
        return
    for table, word in (("raw", "--dport"), ("mangle", "--dport"), ("mangle", "-m connmark")):
        saved = machine.out("ip6tables-save", "-t", table).splitlines()
        (rule,) = (line for line in saved if word in line and "wg-quick(8)" in line)
        machine.run(["ip6tables-restore", "-n"], input=f"*{table}\n-D{rule.removeprefix('-A')}\nCOMMIT\n")


BUS = ("dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus")


def firewalld(machine: Namespace, backend: str = "nftables") -> None:
    """Start the real firewalld on its own system bus, with the tunnel's port open."""
    install(machine, "firewalld", "netbase", "python3-firewall", "python3-nftables")
    configuration = "/etc/firewalld/firewalld.conf"
    machine.run(["sed", "-i", f"s/^FirewallBackend=.*/FirewallBackend={backend}/", configuration])
    machine.run(["sh", "-c", f"grep -qx IPv6_rpfilter=yes {configuration} && mkdir -p /run/dbus"])
    machine.run(["/usr/bin/python3", "/usr/bin/firewall-offline-cmd", f"--add-port={PORT}/udp"])
    machine.popen(["sh", "-c", "exec dbus-daemon --system --nofork --nopidfile 2>/run/dbus/log"])
    until(lambda: machine.run([*BUS, "org.freedesktop.DBus.ListNames"], check=False).returncode == 0, "a bus")
    machine.popen(
        ["sh", "-c", "exec /usr/bin/python3 /usr/sbin/firewalld --nofork --nopid >/run/firewalld.log 2>&1"]
    )
    # It gets its name before it is ready, and flushes the iptables tables meanwhile; it answers afterwards.
    name = "org.fedoraproject.FirewallD1"
    until(lambda: name in machine.out(*BUS, "org.freedesktop.DBus.ListNames"), "firewalld", 60)
    call = ["dbus-send", "--system", "--print-reply", "--reply-timeout=60000", f"--dest={name}"]
    machine.run([*call, f"/{name.replace('.', '/')}", f"{name}.getDefaultZone"])
