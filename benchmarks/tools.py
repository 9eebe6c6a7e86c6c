"""The programs that benchmarks/loss.py compares: their files, their commands, and what they leave.

`networkctl reload` of systemd before 257 does not apply a changed .netdev file.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from tests.netns.managers import (
    NETWORK_MANAGER_PACKAGES,
    NETWORKD_PACKAGES,
    install_network_manager,
    install_networkd,
    start_network_manager,
    start_networkd,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping

    from tests.namespaces import Namespace

PACKAGES = (*NETWORKD_PACKAGES, *NETWORK_MANAGER_PACKAGES)
Section = dict[str, str]
_FULL_TABLE, _PRIORITY = "51820", "99"
_PEER = {"PublicKey": "PublicKey", "PresharedKey": "PresharedKey", "Endpoint": "Endpoint"}
_PEER |= {"AllowedIPs": "AllowedIPs", "PersistentKeepalive": "PersistentKeepalive"}
_NM_PEER = {"PresharedKey": "preshared-key", "Endpoint": "endpoint", "PersistentKeepalive": "persistent-keepalive"}


class Tool(NamedTuple):
    """How a program makes a change, brings a tunnel up and takes it down.

    `files` makes its files from the text of wg-quick's. `start` starts the program that it needs on a machine.
    Commands that begin with `wgq` run in a fork of this process.
    """

    change: str
    up: str
    down: str
    files: Callable[[str], Mapping[str, str]]
    start: Callable[[Namespace], subprocess.Popen[bytes]] | None = None


def sections(text: str) -> tuple[Section, list[Section]]:
    """The interface and the peers of a wg-quick file that names each key once."""
    found: list[Section] = []
    for line in text.splitlines():
        key, separator, value = line.partition(" = ")
        if separator:
            found[-1][key] = value
        elif line.startswith("["):
            found.append({})
    return found[0], found[1:]


def networkd_files(text: str) -> dict[str, str]:
    """The .netdev and the .network file, with the rules of systemd.netdev(5) for a full tunnel."""
    interface, peers = sections(text)
    is_full = any("0.0.0.0/0" in peer["AllowedIPs"] for peer in peers)
    mark = interface.get("FwMark", _FULL_TABLE if is_full else "")
    netdev = ["[NetDev]", "Name=wg0", "Kind=wireguard", "[WireGuard]", f"PrivateKey={interface['PrivateKey']}"]
    netdev += [f"ListenPort={interface['ListenPort']}"] if "ListenPort" in interface else []
    netdev += [f"FirewallMark={mark}"] if mark else []
    netdev += [f"RouteTable={interface.get('Table', _FULL_TABLE if is_full else 'main')}"]
    for peer in peers:
        netdev += ["[WireGuardPeer]", *(f"{_PEER[key]}={value}" for key, value in peer.items())]
    network = ["[Match]", "Name=wg0", "[Link]", f"MTUBytes={interface.get('MTU', '1420')}"]
    network += ["[Network]", "LinkLocalAddressing=no"]
    network += [f"Address={each.strip()}" for each in interface["Address"].split(",")]
    if is_full:
        rule = [
            "[RoutingPolicyRule]",
            f"FirewallMark={mark}",
            "InvertRule=yes",
            f"Table={_FULL_TABLE}",
            "Priority=20",
        ]
        network += [*rule, "[RoutingPolicyRule]", "SuppressPrefixLength=0", "Table=main", "Priority=10"]
    if "Table" in interface:
        network += ["[RoutingPolicyRule]", f"Table={interface['Table']}", f"Priority={_PRIORITY}"]
    folder = "/etc/systemd/network"
    return {f"{folder}/wg0.netdev": "\n".join([*netdev, ""]), f"{folder}/wg0.network": "\n".join([*network, ""])}


def network_manager_files(text: str) -> dict[str, str]:
    """The connection profile."""
    interface, peers = sections(text)
    lines = ["[connection]", "id=wg0", "type=wireguard", "interface-name=wg0", "autoconnect=false", "[wireguard]"]
    lines += [f"private-key={interface['PrivateKey']}", f"mtu={interface.get('MTU', '1420')}"]
    lines += [f"listen-port={interface['ListenPort']}"] if "ListenPort" in interface else []
    lines += [f"fwmark={interface['FwMark']}"] if "FwMark" in interface else []
    for peer in peers:
        lines += [f"[wireguard-peer.{peer['PublicKey']}]"]
        lines += [f"allowed-ips={''.join(f'{each.strip()};' for each in peer['AllowedIPs'].split(','))}"]
        lines += [f"{_NM_PEER[key]}={value}" for key, value in peer.items() if key in _NM_PEER]
        lines += ["preshared-key-flags=0"] if "PresharedKey" in peer else []
    addresses = [each.strip() for each in interface["Address"].split(",")]
    for family, mark in (("ipv4", "."), ("ipv6", ":")):
        chosen = [each for each in addresses if mark in each]
        lines += [f"[{family}]", f"method={'manual' if chosen else 'disabled'}"]
        lines += [f"address{number}={each}" for number, each in enumerate(chosen, 1)]
        if "Table" in interface and chosen:
            rule = f"routing-rule1=priority {_PRIORITY} from 0.0.0.0/0 table {interface['Table']}"
            lines += [f"route-table={interface['Table']}", rule]
    return {"/etc/NetworkManager/system-connections/wg0.nmconnection": "\n".join([*lines, ""])}


def _start_networkd(machine: Namespace) -> subprocess.Popen[bytes]:
    install_networkd(machine)
    return start_networkd(machine)


def _start_network_manager(machine: Namespace) -> subprocess.Popen[bytes]:
    install_network_manager(machine)
    keep_off = "\n[keyfile]\nunmanaged-devices=interface-name:up0\n"
    machine.run(["sh", "-c", "cat >>/etc/NetworkManager/NetworkManager.conf"], input=keep_off)
    machine.run(["sh", "-c", "rm /etc/NetworkManager/system-connections/*"])
    return start_network_manager(machine)


def _wg_quick(change: str) -> Tool:
    return Tool(change, "wgq up wg0", "wgq down wg0", lambda text: {"/etc/wireguard/wg0.conf": text})


def _network_manager(change: str) -> Tool:
    up, down = (
        "nmcli connection reload && nmcli --wait 120 connection up wg0",
        "nmcli --wait 60 connection down wg0",
    )
    return Tool(f"nmcli connection reload && {change}", up, down, network_manager_files, _start_network_manager)


WG_QUICK = {
    "wgq reload": _wg_quick("wgq reload wg0"),
    "wg syncconf": _wg_quick("wg-quick strip wg0 >/run/stripped && wg syncconf wg0 /run/stripped"),
    "wg-quick down, up": _wg_quick("wg-quick down wg0; wg-quick up wg0"),
}
_RECONFIGURED = "until ip -o link show wg0 up 2>/dev/null | grep -q LOWER_UP; do sleep 0.1; done"
_DELETE = "networkctl delete wg0"


def _networkd(change: str) -> Tool:
    return Tool(change, f"networkctl reload; {_RECONFIGURED}", _DELETE, networkd_files, _start_networkd)


MANAGERS = {
    "networkctl reload": _networkd("networkctl reload"),
    "networkctl delete, reload": _networkd(f"{_DELETE}; networkctl reload; {_RECONFIGURED}"),
    "nmcli device reapply": _network_manager("nmcli device reapply wg0"),
    "nmcli connection up": _network_manager("nmcli --wait 120 connection up wg0"),
}


def made(machine: Namespace, text: str) -> bool:
    """Whether device, addresses, MTU and routes of wg0 are as the wg-quick file says."""
    interface, peers = sections(text)
    device, *live = [line.split("\t") for line in machine.out("wg", "show", "wg0", "dump").splitlines()]
    found = {line[0]: (line[1], _list(line[3]), line[7]) for line in live}
    wanted = {
        peer["PublicKey"]: (
            peer.get("PresharedKey", "(none)"),
            _list(peer["AllowedIPs"]),
            peer.get("PersistentKeepalive", "off"),
        )
        for peer in peers
    }
    link = machine.out("ip", "-o", "address", "show", "dev", "wg0").split()
    addresses = [following for word, following in pairwise(link) if word in ("inet", "inet6")]
    return (
        found == wanted
        and device[0] == interface["PrivateKey"]
        and device[2] == interface.get("ListenPort", device[2])
        and ("FwMark" not in interface or device[3] == hex(int(interface["FwMark"])))
        and {each for each in addresses if not each.startswith("fe80:")} == _list(interface["Address"])
        and f"mtu {interface.get('MTU', '1420')} " in machine.out("ip", "link", "show", "wg0")
        and all(_is_routed(machine, address) == (address in _reached(peers)) for address in _PLACES)
        and ("Table" not in interface or _has_routes(machine, interface["Table"]))
    )


_PLACES = {"10.6.0.9": "10.6.0.0/16", "10.7.0.9": "10.7.0.0/16", "10.8.0.9": "10.8.0.0/16", "198.51.100.9": ""}


def _reached(peers: list[Section]) -> set[str]:
    networks = {each for peer in peers for each in _list(peer["AllowedIPs"])}
    return {address for address, network in _PLACES.items() if network in networks or "0.0.0.0/0" in networks}


def _is_routed(machine: Namespace, address: str) -> bool:
    return " dev wg0 " in machine.run(["ip", "route", "get", address], check=False).stdout


def _has_routes(machine: Namespace, table: str) -> bool:
    return bool(machine.run(["ip", "route", "show", "table", table], check=False).stdout)


def _list(text: str) -> frozenset[str]:
    return frozenset(each.strip() for each in text.split(","))
