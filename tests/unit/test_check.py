"""`wgq check`: each code has a file with that one mistake, and similar files without any finding."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wgquick.diagnosis.check import check
from wgquick.diagnosis.codes import CODES, LIVE
from wgquick.diagnosis.finding import INFO, SEVERITIES
from wgquick.diagnosis.hooks import change, commands
from wgquick.diagnosis.keys import public_key_of
from wgquick.diagnosis.source import read
from wgquick.net import SecretKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.diagnosis.finding import Finding

CASES = Path(__file__).parents[1] / "parity" / "cases"


def private(name: str) -> str:
    """A private key, one for each name."""
    raw = bytearray(sha256(name.encode()).digest())
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return b64encode(raw).decode()


def public(name: str) -> str:
    return str(public_key_of(SecretKey.parse(private(name))))


def interface(name: str = "hub", *lines: str, address: str = "10.7.0.1/24", port: int | None = 51820) -> str:
    given = [f"PrivateKey = {private(name)}"]
    given += [f"Address = {address}"] if address else []
    given += [f"ListenPort = {port}"] if port else []
    return "\n".join(["[Interface]", *given, *lines, ""])


def peer(name: str = "phone", allowed: str = "10.7.0.2/32", *lines: str) -> str:
    networks = [f"AllowedIPs = {allowed}"] if allowed else []
    return "\n".join(["", "[Peer]", f"PublicKey = {public(name)}", *networks, *lines, ""])


HUB = interface() + peer()
CLIENT = interface("phone", address="10.7.0.2/24", port=None) + peer(
    "hub", "10.7.0.0/24", "Endpoint = hub.example.net:51820", "PersistentKeepalive = 25"
)
ZERO = "A" * 43 + "="
POST_UP = "PostUp = iptables -A FORWARD -i %i -j ACCEPT; iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE"
NAT = "PostUp = iptables -t nat -A POSTROUTING -j MASQUERADE"
INPUT = "PostUp = iptables -A INPUT -i wg7 -j ACCEPT"
CLAMP = "PostUp = iptables -t mangle -A FORWARD -o %i -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu"


def both(stage: str, line: str) -> str:
    """A hook line and its undo."""
    return f"{line}\n{stage} = {line.partition('= ')[2].replace(' -A ', ' -D ').replace(' add ', ' del ')}"


ONE_FILE = [
    ("no-private-key", f"[Interface]\nAddress = 10.7.0.1/24\nListenPort = 1\n{peer()}", 1),
    ("no-address", interface(address="") + peer(), 1),
    ("peer-without-allowed-ips", interface() + peer("phone", ""), 6),
    ("allowed-ip-moves", HUB + peer("laptop", "10.7.0.3/32, 10.7.0.2/32"), 12),
    ("repeated-peer", HUB + peer("phone", "10.7.0.3/32"), 11),
    ("full-tunnel-without-routes", interface("hub", "Table = off") + peer("phone", "0.0.0.0/0, ::/0"), 5),
    ("search-without-server", interface("hub", "DNS = corp.example") + peer(), 5),
    ("low-mtu", interface("hub", "MTU = 1279", "Address = fd07::1/64") + peer("phone", "10.7.0.2, fd07::2"), 5),
    ("nobody-connects", interface(port=None) + peer(), 1),
    ("peer-is-self", HUB + peer("hub", "10.7.0.3/32"), 11),
    ("public-key-is-private", HUB + peer().replace(public("phone"), private("hub")).replace(".2/", ".3/"), 11),
    ("preshared-key-is-key", interface() + peer("phone", "10.7.0.2", f"PresharedKey = {public('phone')}"), 9),
    ("example-key", HUB.replace(private("hub"), "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="), 2),
    (
        "example-key",
        HUB + "PresharedKey = /UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=\n",
        9,
    ),
    ("zero-key", HUB.replace(private("hub"), ZERO), 2),
    ("zero-key", HUB.replace(public("phone"), ZERO), 7),
    ("tunnel-net-unclaimed", interface() + peer("phone", "10.8.0.0/24"), 3),
    ("address-not-host", interface(address="10.7.0.0/24") + peer(), 3),
    ("address-not-host", interface(address="10.7.0.255/24") + peer(), 3),
    ("address-not-host", interface(address="fd07::/64") + peer("phone", "fd07::2"), 3),
    ("own-address-allowed", interface() + peer("phone", "10.7.0.1/32"), 8),
    (
        "endpoint-in-tunnel",
        interface() + peer("phone", "0.0.0.0/1, 128.0.0.0/1", "Endpoint = 198.51.100.1:51820"),
        9,
    ),
    ("endpoint-in-tunnel", interface() + peer("phone", "10.7.0.2/32", "Endpoint = 10.7.0.2:51820"), 9),
    ("endpoint-in-tunnel", interface() + peer("phone", "0.0.0.0/0", "Endpoint = 10.7.0.2:51820"), 9),
    (
        "endpoint-in-tunnel",
        interface("hub", "DNS = 9.9.9.9")
        + peer("phone", "0.0.0.0/0, 198.51.100.0/24", "Endpoint = 198.51.100.1:51820"),
        10,
    ),
    (
        "endpoint-in-tunnel",
        interface("hub", "Table = main") + peer("phone", "0.0.0.0/0", "Endpoint = 198.51.100.1:51820"),
        10,
    ),
    ("port-too-large", interface(port=70000) + peer(), 4),
    ("port-too-large", interface() + peer("phone", "10.7.0.2", "Endpoint = 198.51.100.1:99999"), 9),
    ("endpoint-no-host", interface() + peer("phone", "10.7.0.2", "Endpoint = 0.0.0.0:51820"), 9),
    ("endpoint-no-host", interface() + peer("phone", "10.7.0.2", "Endpoint = [ff02::1]:51820"), 9),
    ("endpoint-port-zero", interface() + peer("phone", "10.7.0.2", "Endpoint = 198.51.100.1:0"), 9),
    (
        "endpoint-shared",
        interface()
        + peer("phone", "10.7.0.2", "Endpoint = a.example:1")
        + peer("laptop", "10.7.0.3", "Endpoint = a.example:1"),
        14,
    ),
    (
        "endpoint-shared",
        interface()
        + peer("phone", "10.7.0.2", "Endpoint = [2001:db8::1]:1")
        + peer("laptop", "10.7.0.3", "Endpoint = [2001:DB8:0::1]:1"),
        14,
    ),
    ("peer-cannot-connect", CLIENT + peer("laptop", "10.7.1.0/24"), 11),
    ("family-without-address", interface() + peer("phone", "10.7.0.2, fd07::2"), 8),
    ("dns-outside-tunnel", interface("hub", "DNS = 10.9.0.53") + peer(), 5),
    ("mtu-too-large", interface("hub", "MTU = 1441") + peer(), 5),
    ("mtu-too-large", interface("hub", "MTU = 1421") + peer("phone", "10.7.0.2", "Endpoint = [2001:db8::1]:1"), 5),
    ("table-unused", interface("hub", "Table = 1234") + peer("phone", "0.0.0.0/0"), 5),
    ("hook-without-undo", interface("hub", POST_UP) + peer(), 5),
    ("hook-without-undo", interface("hub", "PostUp = ip rule add to 10.9.0.0/24 table 7") + peer(), 5),
    ("hook-without-undo", interface("hub", "PreUp = ip route add 10.9.0.0/24 via 192.0.2.1") + peer(), 5),
    ("masquerade-everywhere", interface("hub", both("PostDown", NAT)) + peer(), 5),
    ("hook-other-interface", interface("hub", both("PostDown", INPUT)) + peer(), 5),
    ("hook-without-undo", interface("hub", "PostUp = bash -c 'ip rule add from 10.7.0.0/24 table 7'") + peer(), 5),
    (
        "hook-without-undo",
        interface(
            "hub", "PostUp = ip route add 10.9.0.0/24 via 192.0.2.1 table 7", "PostDown = ip route flush table 8"
        )
        + peer(),
        5,
    ),
    (
        "hook-without-undo",
        interface("hub", "PostUp = nft add table inet wg", "PostDown = nft delete table inet other") + peer(),
        5,
    ),
    ("hook-other-interface", interface("hub", "PostUp = sysctl -w net.ipv4.conf.wg7.rp_filter=2") + peer(), 5),
    ("hook-other-interface", interface("hub", "PostUp = ip route add 10.9.0.0/24 dev wg7") + peer(), 5),
    ("hook-other-interface", interface("hub", "PostUp = ping -c1 -I wg7 10.7.0.2") + peer(), 5),
    (
        "no-private-key",
        f"[Interface]\nAddress = 10.7.0.1/24\nListenPort = 1\nPostDown = wg set %i private-key /k\n{peer()}",
        1,
    ),
    ("hook-substitution", interface("hub", "PostUp = echo % i up", "PostUp = echo %i") + peer(), 5),
    ("hook-substitution", interface("hub", "PostUp = echo $i") + peer(), 5),
    ("amnezia-key", interface("hub", "Jc = 4", "Jmin = 40", "Jmax = 70", "S1 = 0", "H1 = 1") + peer(), 5),
    ("other-program", interface("hub") + peer("phone", "10.7.0.2", "DisallowedIPs = 10.9.0.0/24"), 9),
    ("other-program", interface("hub", "ExcludedApplications = a, b", "IncludedApplications = c") + peer(), 5),
    ("other-program", f"[NetDev]\nName = wg0\nKind = wireguard\n\n[WireGuard]\nPrivateKey = {ZERO}\n", 1),
    ("other-program", f"{interface()}\n[Peer phone]\nPublicKey = {public('phone')}\nAllowedIPs = 10.7.0.2\n", 6),
    ("other-program", interface("hub", "Reserved = 1, 2, 3") + peer(), 5),
    ("other-program", f"{interface()}\n[Peer1]\nPublicKey = {public('phone')}\nAllowedIPs = 10.7.0.2\n", 6),
    ("other-program", f"{interface()}\n[Peer: phone]\nPublicKey = {public('phone')}\nAllowedIPs = 10.7.0.2\n", 6),
    ("other-program", "# VPN\nclient\ndev tun\nremote vpn.example.net 1194\n<ca>\n", 2),
    ("other-program", "<!DOCTYPE html>\n<html><title>404 = Not found</title></html>\n", 1),
    ("other-program", "network:\n  tunnels:\n    wg0:\n      mode: wireguard\n", 1),
    ("other-program", '{"PrivateKey": "a=", "Address": "10.7.0.1"}\n', 1),
    ("other-program", "config interface 'wg0'\n\toption proto 'wireguard'\n", 1),
    ("allowed-ip-host-bits", interface() + peer("phone", "10.7.0.2/24"), 8),
    ("dns-server", interface() + "DNS = 192.0.2.53, 192.0.2.53:5353\n" + peer("phone", "10.7.0.2"), 5),
    ("dns-search", interface() + "DNS = 192.0.2.54/32\n" + peer("phone", "10.7.0.2"), 5),
    ("dns-search", interface() + "DNS = 192.0.2.53, 192.0.2.54/32\n" + peer("phone", "10.7.0.2"), 5),
    ("unknown-key", interface("hub", "Colour = red") + peer(), 5),
    # the whole file has another format
    ("no-private-key", "# to do\n", 1),
    ("no-private-key", peer().lstrip(), 1),
    ("no-section", HUB.replace("[Interface]", "#[Interface]"), 2),
    ("other-program", "networking.wireguard.interfaces = {\n  wg0 = {\n    ips = [ ];\n  };\n};\n", 1),
    ("other-program", HUB.replace(f"PrivateKey = {private('hub')}", "PrivateKeyFile = /etc/wireguard/key"), 2),
    ("wireguard-key", HUB.replace(private("hub"), "/etc/wireguard/key"), 2),
    ("other-program", "---\n# a playbook\n- hosts: all\n", 1),
    ("other-program", "interface: wg0\n  public key: abc\n\npeer: abc\n  endpoint: 192.0.2.1:1\n", 1),
    ("other-program", "  tunnels:\n    wg0:\n      mode: wireguard\n      addresses: [10.7.0.1/24]\n", 1),
    ("unknown-line", "#!/bin/sh\nip link add wg0 type wireguard\nip addr add 10.7.0.1 dev wg0\n", 2),
    ("encoding", HUB.replace("\n", "\r"), 1),
    ("repeated-key", HUB + CLIENT, 10),
    ("repeated-key", HUB + "AllowedIPs = 10.7.0.3\nPublicKey = " + public("laptop") + "\n", 10),
    # one faulty line, and faults that follow from it
    ("missing-equals", HUB.replace("PublicKey =", "PublicKey:"), 7),
    ("unknown-key", HUB.replace("PublicKey =", "PubKey ="), 7),
    ("misplaced-key", HUB.replace(f"PublicKey = {public('phone')}", f"PrivateKey = {private('phone')}"), 7),
    ("wireguard-key", HUB.replace(private("hub"), f"{private('hub')} ; the hub's"), 2),
    ("wireguard-key", HUB.replace(private("hub"), "<server-private-key>"), 2),
    ("address", HUB.replace("10.7.0.1/24", "{{ vpn.address }}, {{ more }}"), 3),
    ("endpoint-no-host", CLIENT.replace("hub.example.net", "<server-ip>"), 8),
    ("endpoint-no-host", CLIENT.replace("hub.example.net", "192.0.2.1/32"), 8),
    (
        "hook-substitution",
        interface("hub", "PostUp = ip rule add iif % i table 7", "PostDown = ip rule del iif %i table 7") + peer(),
        5,
    ),
    ("amnezia-key", interface("hub", "Jc = 4") + peer("phone", "10.7.0.2", "AdvancedSecurity = on"), 5),
    ("other-program", interface("hub", "BlockDNS = true") + peer("phone", "10.7.0.2", "AllowMulticast = false"), 5),
]  # fmt: skip
INFOS = [
    ("save-config-overwrites", interface("hub", "SaveConfig = true") + peer(), 5),
    ("ipv6-beside-tunnel", interface("hub", "DNS = 10.7.0.53") + peer("phone", "0.0.0.0/0"), 9),
    ("full-tunnel-without-dns", interface("hub", "Address = fd07::1/64") + peer("phone", "0.0.0.0/0, ::/0"), 9),
    ("family-without-address", interface("hub", "DNS = 9.9.9.9") + peer("phone", "0.0.0.0/0, ::/0"), 9),
    ("hook-sets-key", interface("hub", "PostUp = wg set %i private-key <(pass wg/%i)") + peer(), 5),
    ("common-home-net", interface(address="192.168.1.1/24") + peer("phone", "192.168.1.2"), 3),
    ("endpoint-private", interface() + peer("phone", "10.7.0.2", "Endpoint = 192.168.7.1:51820"), 9),
    ("keepalive-advised", CLIENT.replace("PersistentKeepalive = 25\n", ""), 8),
    ("mss-not-clamped", interface("hub", both("PostDown", POST_UP)) + peer(), 5),
    ("allowed-ip-host-bits", interface() + peer("phone", "10.7.0.2, 10.124.0.1/24"), 8),
    ("private-key-is-public", HUB.replace(private("hub"), public("a")), 2),
    ("own-address-allowed", interface("hub", "DNS = 9.9.9.9") + peer("phone", "10.7.0.1/32, 0.0.0.0/0"), 9),
]
SILENT = {
    "a hub": HUB,
    "a client": CLIENT,
    "a key that a hook sets": f"[Interface]\nAddress = 10.7.0.1/24\nListenPort = 1\n"
    f"PostUp = wg set %i private-key <(pass wg/%i)\n{peer()}",
    "nested networks of two peers": HUB + peer("site", "10.0.0.0/8"),
    "an address of /31": interface(address="10.7.0.0/31") + peer("phone", "10.7.0.1"),
    "an address of /127": interface(address="fd07::/127") + peer("phone", "fd07::1"),
    "an address of /32 apart from the networks": interface(address="10.7.0.1/32") + peer("phone", "10.9.0.0/24"),
    "a full tunnel of IPv4 with an endpoint in no network": CLIENT.replace("10.7.0.0/24\n", "0.0.0.0/0\n").replace(
        "hub.example.net", "198.51.100.1"
    ),
    "Table = off with hooks that add routes": interface(
        "hub", "Table = off", "PostUp = ip route add 10.9.0.0/24 dev %i"
    )
    + peer("phone", "0.0.0.0/0, 10.7.0.2"),
    "a table that a hook's rule looks up": interface(
        "hub", "Table = 1234", "PostUp = ip rule add ipproto tcp dport 22 table 1234",
        "PreDown = ip rule delete ipproto tcp dport 22 table 1234",
    )
    + peer("phone", "0.0.0.0/0"),
    "a PreDown that undoes PostUp": interface("hub", both("PreDown", POST_UP), both("PostDown", CLAMP)) + peer(),
    "an undo of an inserted rule": interface(
        "hub", "PostUp = iptables -I FORWARD 1 -i %i -j ACCEPT; nft add table ip t",
        "PostDown = iptables --delete FORWARD -i %i -j ACCEPT; nft delete table ip t", both("PostDown", CLAMP)
    )
    + peer(),
    "keys in a file for wg": "[Interface]\nAddress = 10.7.0.1/24\nListenPort = 1\nPostUp = wg addconf %i /etc/k\n"
    + peer(),
    "a port that a hook sets": interface("hub", "PostUp = wg set %i listen-port 51820", port=None) + peer(),
    "a daemon of this host as the endpoint": interface()
    + peer("phone", "0.0.0.0/1, 128.0.0.0/1", "Endpoint = 127.0.0.1:51821"),
    "a link-local endpoint": interface(address="fd07::1/64")
    + peer("phone", "::/1, 8000::/1", "Endpoint = [fe80::1%eth0]:51820"),
    "scripts that may add and take away": interface(
        "hub", "Table = 1234", "PostUp = ip rule add to 10.9.0.0/24 table 7; ./up %i",
        "PostDown = bash /etc/down.sh",
    )
    + peer("phone", "0.0.0.0/0"),
    "masquerading of other programs": interface(
        "hub", "PostUp = firewall-cmd --zone=public --add-masquerade; echo masquerade is on"
    )
    + peer(),
    "prose and variables of other languages": interface(
        "hub", "PostUp = echo 50% in all", "PostUp = awk '{print $i}' /etc/a; let i++"
    )
    + peer(),
    "routes in a script": interface("hub", "Table = off", "PostUp = /etc/wireguard/routes.sh %i")
    + peer("phone", "0.0.0.0/0"),
    "routes in another namespace": interface("hub", "Table = off", "PostUp = ip -n vpn route add default dev %i")
    + peer("phone", "0.0.0.0/0"),
    "an nft rule that goes by its handle": interface(
        "hub", "PostUp = nft add rule inet filter input iifname %i accept",
        "PostDown = nft -a list ruleset | grep %i | xargs -n 1 nft delete rule inet filter input handle",
    )
    + peer(),
    "nft -f with nft delete table": interface(
        "hub", "PostUp = nft -f /etc/wg.nft", "PostDown = nft delete table inet wg"
    )
    + peer(),
    "a chain that is flushed": interface(
        "hub", "PostUp = iptables -N WG; iptables -A WG -j ACCEPT", "PostDown = iptables -F WG; iptables -X WG"
    )
    + peer(),
    "a loop over i": interface("hub", "PostUp = for i in 1 2; do echo $i; done; date +%I") + peer(),
    "a hook between two tunnels": interface("hub", both("PostDown", INPUT + " -o %i"))
    + peer(),
    "CRLF and several AllowedIPs lines": (HUB + "AllowedIPs = 10.9.0.0/24\n").replace("\n", "\r\n"),
    "keys in any spelling": HUB.replace("AllowedIPs", "allowedips").replace("PrivateKey", "PRIVATEKEY"),
    "a DNS server in the tunnel": interface("hub", "DNS = 10.7.0.2, 9.9.9.9, corp.example") + peer(),
    "a DNS server on another link": interface("hub", "DNS = fe80::1%eth0") + peer(),
    "the interface's own DNS server": interface("hub", "DNS = 10.7.0.1") + peer(),
    "an address that a hook adds": interface("hub", "PostUp = ip -6 addr add fe80::1/64 dev %i", address="")
    + peer("phone", "172.20.0.0/14, fd00::/8"),
    "masquerading to other networks only": interface(
        "hub",
        both("PostDown", "PostUp = iptables -t nat -A POSTROUTING -s 10.7.0.0/24 ! -d 10.7.0.0/24 -j MASQUERADE"),
    )
    + peer(),
    "a value twice": HUB.replace("ListenPort", "ListenPort = 51820\nListenPort"),
    "the largest MTU": interface("hub", "MTU = 1440") + peer(),
    "an ignored warning": interface("hub", "MTU = 1500 # wgq: ignore mtu-too-large") + peer(),
    "an ignored warning of a section": interface("hub", "# wgq: ignore low-mtu, mtu-too-large", "MTU = 1500")
    + peer(),
    "an ignored warning of the file": "# wgq: ignore mtu-too-large\n" + interface("hub", "MTU = 1500") + peer(),
}  # fmt: skip


def found(folder: Path, **files: str) -> list[Finding]:
    """The findings of files, each NAME.conf with mode 0600."""
    paths = []
    for name, text in files.items():
        path = folder / f"{name}.conf"
        path.write_text(text, newline="")
        path.chmod(0o600)
        paths.append(str(path))
    return check([read(path) for path in paths])


def problems(findings: Iterable[Finding]) -> list[tuple[str, int, str]]:
    return [(Path(each.file).stem, each.line, each.code) for each in findings if each.severity != INFO]


@pytest.mark.parametrize(("code", "text", "line"), ONE_FILE)
def test_one_mistake_gives_one_finding(code: str, text: str, line: int, tmp_path: Path) -> None:
    assert problems(found(tmp_path, wg0=text)) == [("wg0", line, code)]


@pytest.mark.parametrize(("code", "text", "line"), INFOS)
def test_an_info_is_no_warning(code: str, text: str, line: int, tmp_path: Path) -> None:
    findings = found(tmp_path, wg0=text)
    assert problems(findings) == []
    assert (line, code) in [(each.line, each.code) for each in findings]


INPUT_RULE, OWN_RULE = "iptables -A INPUT -i %i -j ACCEPT", "ip rule add pref 9 from 10.7.0.1 lookup 7"


@pytest.mark.parametrize(
    ("up", "down"),
    [
        (INPUT_RULE, "iptables --delete INPUT -i wg0 -j ACCEPT"),
        (INPUT_RULE, "iptables -D INPUT -i $INTERFACE -j ACCEPT 2>/dev/null || true"),
        (INPUT_RULE, "iptables -w 5 -D INPUT --jump ACCEPT --in-interface=%i > /dev/null 2>&1"),
        (INPUT_RULE, "while iptables -D INPUT -i %i -j ACCEPT; do :; done"),
        (INPUT_RULE, "iptables -4 -w5 -D INPUT 1"),
        (INPUT_RULE, "sh -c 'iptables -D INPUT -i %i -j ACCEPT'"),
        ("iptables --table=nat -A POSTROUTING -o eth0 -j SNAT --to 192.0.2.2",
         "iptables -t nat -D POSTROUTING -o eth0 -j SNAT --to 192.0.2.2"),
        (OWN_RULE, "ip rule del prio 9"),
        (OWN_RULE, "ip rule del from 10.7.0.1/32 table 7"),
        (OWN_RULE, "ip rule flush"),
        ("ip route add 192.0.2.9 via 192.0.2.1", "ip route del 192.0.2.9/32"),
        ("nft add rule ip nat post accept", "nft flush table nat"),
        ("nft add rule ip nat post accept", "nft flush ruleset"),
    ],
)  # fmt: skip
def test_an_undo_may_be_worded_differently(up: str, down: str, tmp_path: Path) -> None:
    text = interface("hub", f"PostUp = {up}", f"PostDown = {down}") + peer()
    assert problems(found(tmp_path, wg0=text)) == []


@pytest.mark.parametrize("text", SILENT.values(), ids=list(SILENT))
def test_a_correct_file_gives_no_warning(text: str, tmp_path: Path) -> None:
    assert problems(found(tmp_path, wg0=text)) == []


PHONE, LAPTOP = CLIENT, CLIENT.replace(private("phone"), private("laptop")).replace("10.7.0.2", "10.7.0.3")
BOTH = HUB + peer("laptop", "10.7.0.3/32")
PSK = f"PresharedKey = {private('psk')}\n"
WAITING = interface("phone", address="10.7.0.2/24") + peer("hub", "10.7.0.0/24")
MTU = interface("hub", "MTU = 1420")
OTHER_PSK = PSK.replace(private("psk"), private("other"))
PHONE_PSK = PSK.replace(private("psk"), private("phone"))
SITE = interface("site", address="10.9.0.1/24") + peer("branch", "10.9.0.2", "Endpoint = b.example:1")
NEAR = SITE.replace("51820", "51821")
SEVERAL = [
    ("one-key-two-places", {"hub": BOTH, "phone": PHONE, "copy": PHONE}, ("copy", 2)),
    ("one-key-two-places", {"hub": BOTH, "phone": PHONE, "copy": PHONE.replace("0.2/24", "0.3/24")}, ("copy", 2)),
    ("peer-key-mismatch", {"hub": HUB.replace(public("phone"), public("old")), "phone": PHONE}, ("hub", 7)),
    ("peer-key-mismatch", {"hub": HUB, "phone": PHONE.replace(public("hub"), public("old"))}, ("phone", 6)),
    ("peer-one-sided", {"hub": HUB, "laptop": LAPTOP}, ("hub", 1)),
    ("psk-differs", {"hub": HUB + PSK, "phone": PHONE}, ("hub", 9)),
    ("psk-differs", {"hub": HUB + PSK, "phone": PHONE + OTHER_PSK}, ("phone", 10)),
    ("public-key-is-private", {"hub": HUB.replace(public("phone"), private("phone")), "phone": PHONE}, ("hub", 7)),
    ("preshared-key-is-key", {"hub": HUB + PHONE_PSK, "phone": PHONE + PHONE_PSK}, ("phone", 10)),
    ("preshared-key-is-key", {"hub": HUB, "phone": PHONE, "site": SITE + PHONE_PSK}, ("site", 10)),
    (
        "address-shared",
        {"hub": BOTH, "phone": PHONE, "laptop": LAPTOP.replace("0.3/24", "0.2/24")},
        ("laptop", 3),
    ),
    ("source-not-allowed", {"hub": HUB.replace("0.2/32", "0.9/32"), "phone": PHONE}, ("hub", 8)),
    (
        "source-not-allowed",
        {"hub": HUB.replace("0.1/24", "0.1/24, fd07::1/64"), "phone": PHONE.replace("0.2/24", "0.2/24, fd07::2/64")
         .replace("10.7.0.0/24", "10.7.0.0/24, fd07::/64")},
        ("hub", 8),
    ),
    ("endpoint-port-differs", {"hub": HUB, "phone": PHONE.replace(":51820", ":51821")}, ("phone", 8)),
    ("endpoint-port-differs", {"hub": HUB.replace("ListenPort = 51820\n", ""), "phone": PHONE}, ("phone", 8)),
    (
        "private-key-is-public",
        {"hub": HUB, "phone": PHONE.replace(private("phone"), public("phone"))},
        ("phone", 2),
    ),
    ("source-not-allowed", {"hub": HUB, "phone": PHONE.replace("10.7.0.2", "10.8.0.2")}, ("hub", 8)),
    ("source-not-allowed", {"hub": HUB.replace("10.7.0.2", "10.7.0.1"), "phone": PHONE}, ("hub", 8)),
    ("endpoint-is-self", {"hub": HUB + "Endpoint = hub.example.net:51820\n", "phone": PHONE}, ("hub", 9)),
    ("nobody-connects", {"hub": HUB, "phone": WAITING}, ("phone", 6)),
]  # fmt: skip
FULL = PHONE.replace("10.7.0.0/24\n", "0.0.0.0/0, 10.7.0.0/24\n")
SEVERAL_INFOS = [
    ("mtu-unequal", {"hub": MTU + peer(), "phone": PHONE.replace("[Peer]", "MTU = 1400\n[Peer]")}),
    ("private-key-elsewhere", {"hub": HUB, "phone": PHONE}),
    ("tunnels-overlap", {"site": NEAR.replace("10.9.0.2", "10.7.0.2/32, 10.9.0.2"), "hub": HUB}),
    ("no-forwarding-hook", {"hub": HUB, "phone": FULL}),
    ("listen-port-shared", {"site": SITE, "hub": HUB}),
    ("mark-shared", {"site": NEAR.replace("51821", "4\nFwMark = 7"), "hub": HUB.replace("51820", "5\nFwMark = 7")}),
    ("one-key-two-places", {"se": PHONE, "nl": PHONE.replace(public("hub"), public("other hub"))}),
    ("mark-shared", {"site": NEAR.replace("51821", "4\nTable = 7"), "hub": interface("hub", "Table = 7") + peer()}),
    ("mark-shared", {"site": NEAR.replace("51821", "4\nTable = 7"), "hub": interface("hub", "Table=0x7") + peer()}),
]  # fmt: skip
CORRECT = {
    "all ends of a hub at once": {"hub": BOTH, "phone": PHONE, "laptop": LAPTOP},
    "two clients of one server": {"phone": PHONE, "laptop": LAPTOP},
    "two tunnels of one host": {"site": NEAR, "hub": HUB},
    "a pair with a preshared key": {"hub": HUB + PSK, "phone": PHONE + PSK},
    "a preshared key of zeros, which means no key": {"hub": HUB + f"PresharedKey = {ZERO}\n", "phone": PHONE},
    "a client without the hub's IPv6": {
        "hub": HUB.replace("0.1/24", "0.1/24, fd07::1/64") + peer("laptop", "fd07::3/128"),
        "phone": PHONE,
    },
    "two strangers": {"hub": HUB, "site": NEAR},
}


@pytest.mark.parametrize(("code", "files", "place"), SEVERAL)
def test_one_mistake_between_files_gives_one_finding(
    code: str, files: dict[str, str], place: tuple[str, int], tmp_path: Path
) -> None:
    findings = problems(found(tmp_path, **files))
    assert findings == [(*place, code)]


@pytest.mark.parametrize(("code", "files"), SEVERAL_INFOS)
def test_an_info_between_files_is_no_warning(code: str, files: dict[str, str], tmp_path: Path) -> None:
    findings = found(tmp_path, **files)
    assert problems(findings) == []
    assert code in {each.code for each in findings}


@pytest.mark.parametrize("files", [files for _, files, *_ in (*SEVERAL, *SEVERAL_INFOS)])
def test_a_finding_says_which_other_file_its_message_names(files: dict[str, str], tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{name}.conf") for name in files]
    for each in found(tmp_path, **files):
        named = [path for path in paths if path != each.file and path in each.message]
        assert each.other == "".join(named)


@pytest.mark.parametrize(
    ("hub", "phone"),
    [
        (HUB, PHONE),
        (HUB.replace("[Peer]", "PostUp = /etc/wireguard/nat.sh\n[Peer]"), FULL),
        (HUB, FULL.replace("[Peer]", "Table = off\n[Peer]")),
        (HUB.replace("10.7.0.2/32", "0.0.0.0/0"), FULL),
    ],
    ids=["no full tunnel", "any hook", "a routing daemon", "both ends full"],
)
def test_a_server_need_not_forward_by_a_hook(hub: str, phone: str, tmp_path: Path) -> None:
    assert "no-forwarding-hook" not in {each.code for each in found(tmp_path, hub=hub, phone=phone)}


@pytest.mark.parametrize("files", CORRECT.values(), ids=list(CORRECT))
def test_files_that_match_give_no_warning(files: dict[str, str], tmp_path: Path) -> None:
    assert problems(found(tmp_path, **files)) == []


def test_a_dns_server_is_reported_at_its_column(tmp_path: Path) -> None:
    text = interface("hub", "DNS = 9.9.9.9, 10.99.0.1", "DNS = 9.9.9.10") + peer()
    assert [(each.line, each.column) for each in found(tmp_path, wg0=text)] == [(5, 16)]


@pytest.mark.parametrize("words", [("254", "254"), ("main", "254"), ("0", "0"), ("local", "255"), ("off", "off")])
def test_two_tunnels_may_share_the_kernels_own_tables(words: tuple[str, str], tmp_path: Path) -> None:
    one, two = (f"Table = {word}" for word in words)
    findings = found(tmp_path, site=NEAR.replace("51821", f"4\n{one}"), hub=interface("hub", two) + peer())
    assert "mark-shared" not in {each.code for each in findings}


@pytest.mark.parametrize("word", ["main", "254", "0", "default", "253"])
def test_a_default_route_in_a_table_of_the_kernel_has_a_rule(word: str, tmp_path: Path) -> None:
    text = interface("hub", f"Table = {word}") + peer("phone", "0.0.0.0/0")
    assert "table-unused" not in {each.code for each in found(tmp_path, hub=text)}


def test_every_code_of_check_has_a_case() -> None:
    tried = {code for code, *_ in [*ONE_FILE, *INFOS, *SEVERAL, *SEVERAL_INFOS]}
    others = PARSER_CODES | set(LIVE) | {"interface-name", "world-accessible"}  # they have their own tests
    assert {code for code in CODES if code not in tried} == others
    assert {severity for severity, _ in CODES.values()} == set(SEVERITIES)


# The parser's own faults have their cases in test_config_parser.py.
PARSER_CODES = {
    "allowed-ip", "duplicate-address", "endpoint", "fwmark", "listen-port", "missing-value", "mtu",
    "peer-without-key", "persistent-keepalive", "save-config", "table", "unknown-section", "wgq-setting",
}  # fmt: skip


@pytest.mark.parametrize("name", ["united-states-chicago", "all", "a b"])
def test_an_invalid_interface_name_is_reported(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.conf"
    path.write_text(HUB)
    path.chmod(0o600)
    assert [each.code for each in check([read(str(path))])] == ["interface-name"]


def test_a_world_readable_file_is_reported_and_fixed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "wg0.conf"
    path.write_text(HUB)
    path.chmod(0o644)
    assert wgq("check", str(path)).stdout.startswith(f"{path}:1:1: warning: ")
    assert wgq("check", "--fix", str(path)).returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == HUB


def wgq(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wgquick", *arguments], check=False, capture_output=True, text=True
    )


def test_fix_changes_only_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    text = interface("hub", "PostUp = echo $i # % i") + peer("phone", "10.9.0.0/24 , 10.7.0.2/24 # net")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    path.chmod(0o600)
    done = wgq("check", "--fix", str(path))
    assert (done.returncode, done.stdout) == (0, "nothing to report in 1 file\n")
    mended = text.replace("$i # % i", "%i # %i").replace("10.7.0.2/24", "10.7.0.0/24")
    assert path.read_bytes() == b"\xef\xbb\xbf" + mended.replace("\n", "\r\n").encode()


def test_fix_prints_a_changed_hook_without_its_key(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(interface("hub", f"PostUp = echo $i {private('psk')}") + peer())
    path.chmod(0o600)
    done = wgq("check", "--fix", str(path))
    assert "PostUp = echo %i (hidden)" in done.stderr
    assert private("psk") not in done.stdout + done.stderr
    assert private("psk") in path.read_text()


def test_only_errors_and_warnings_change_the_exit_status(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    for text, status in ((HUB, 0), (INFOS[0][1], 0), (ONE_FILE[0][1], 1)):
        path.write_text(text)
        path.chmod(0o600)
        assert wgq("check", str(path)).returncode == status


def test_json_has_every_field(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(interface("hub", "MTU = 1500") + peer())
    path.chmod(0o600)
    (each,) = json.loads(wgq("check", "--json", str(path)).stdout)["findings"]
    assert set(each) == {"file", "line", "column", "code", "severity", "message", "remedy", "other"}
    assert (each["file"], each["line"], each["column"], each["code"]) == (str(path), 5, 7, "mtu-too-large")


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    done = wgq("check", str(tmp_path / "none.conf"))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"wgq: `{tmp_path}/none.conf' does not exist\n  Configurations are in " in done.stderr


def test_a_file_counts_once_and_standard_input_counts_as_one(tmp_path: Path) -> None:
    (tmp_path / "wg0.conf").write_text(HUB)
    (tmp_path / "link.conf").symlink_to("wg0.conf")
    (tmp_path / "wg0.conf").chmod(0o600)
    assert wgq("check", str(tmp_path / "wg0.conf"), str(tmp_path / "link.conf")).returncode == 0
    piped = subprocess.run(
        [sys.executable, "-m", "wgquick", "check", "-"], input=CLIENT, capture_output=True, text=True, check=False
    )
    assert (piped.returncode, piped.stderr) == (0, "")


def test_no_finding_shows_a_secret_key(tmp_path: Path) -> None:
    texts = [text for _, text, _ in [*ONE_FILE, *INFOS]]
    several = [files for _, files, *_ in SEVERAL] + [files for _, files in SEVERAL_INFOS]
    shown = "".join(
        str(each) for files in [*({"wg0": text} for text in texts), *several] for each in found(tmp_path, **files)
    )
    for name in ("hub", "phone", "laptop", "psk", "other", "site"):
        assert private(name) not in shown


# The manual pages' examples with different keys.
MANUALS = [
    """[Interface]
    Address = 10.200.100.8/24
    DNS = 10.200.100.1
    PrivateKey = {0}
    PostUp = wg set %i private-key <(pass WireGuard/private-keys/%i)
    PostUp = iptables -I OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) -m addrtype ! --dst-type LOCAL {5}
    PreDown = iptables -D OUTPUT ! -o %i -m mark ! --mark $(wg show %i fwmark) -m addrtype ! --dst-type LOCAL {5}
    [Peer]
    PublicKey = {1}
    PresharedKey = {4}
    AllowedIPs = 0.0.0.0/0
    Endpoint = demo.wireguard.com:51820
    """,
    """[Interface]
    Address = 10.192.122.1/24
    Address = 10.10.0.1/16
    SaveConfig = true
    PrivateKey = {0}
    ListenPort = 51820
    [Peer]
    PublicKey = {1}
    AllowedIPs = 10.192.122.3/32, 10.192.124.1/24
    [Peer]
    PublicKey = {2}
    AllowedIPs = 10.192.122.4/32, 192.168.0.0/16
    [Peer]
    PublicKey = {3}
    AllowedIPs = 10.10.10.230/32
    """,
    """[Interface]
    Address = 10.192.122.1/24
    PrivateKey = {0}
    ListenPort = 51820
    Table = 1234
    PostUp = ip rule add ipproto tcp dport 22 table 1234
    PreDown = ip rule delete ipproto tcp dport 22 table 1234
    [Peer]
    PublicKey = {1}
    AllowedIPs = 0.0.0.0/0
    """,
    """[Interface]
    PrivateKey = {0}
    ListenPort = 51820
    [Peer]
    PublicKey = {1}
    Endpoint = 192.95.5.67:1234
    AllowedIPs = 10.192.122.3/32, 10.192.124.1/24
    [Peer]
    PublicKey = {2}
    Endpoint = [2607:5300:60:6b0::c05f:543]:2468
    AllowedIPs = 10.192.122.4/32, 192.168.0.0/16
    [Peer]
    PublicKey = {3}
    Endpoint = test.wireguard.com:18981
    AllowedIPs = 10.10.10.230/32
    """,
]


@pytest.mark.parametrize("text", MANUALS)
def test_the_examples_of_the_manual_pages_give_no_warning(text: str, tmp_path: Path) -> None:
    keys = (private("0"), *map(public, "123"), private("4"), "-j REJECT")
    assert problems(found(tmp_path, wg0=text.format(*keys).replace("    ", ""))) == []


def test_ten_thousand_peers_take_no_quadratic_time(tmp_path: Path) -> None:
    """A rule that compares all pairs of peers would exceed the test's time limit."""
    many = "".join(
        f"[Peer]\nPublicKey = {b64encode(n.to_bytes(32, 'little')).decode()}\n"
        f"AllowedIPs = 10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32\n"
        for n in range(2, 10_002)
    )
    assert problems(found(tmp_path, wg0=interface(address="10.0.0.1/8") + many)) == []


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("iptables -A X -j Y; ip6tables -D X", [("iptables", True), ("iptables", False)]),
        ("/sbin/iptables-nft -w -t nat -I X 2 -j Y && true", [("iptables", True)]),
        ("echo 'iptables -A X; ip rule add'", []),
        ("ip -6 rule add from all || ip route del 10.0.0.0/8", [("rule", True), ("route", False)]),
        ("nft 'add rule ip a b drop' | cat", [("nft", True)]),
        ('X=1 sudo ip rule add pref 1 "unfinished', [("rule", True)]),
    ],
)
def test_the_commands_of_a_hook_are_found(hook: str, words: list[tuple[str, bool]]) -> None:
    changes = [each for each in map(change, commands(hook)) if each]
    assert [(each.kind, each.adds) for each in changes] == words


def test_only_looping_parity_cases_have_errors(tmp_path: Path) -> None:
    """wg-quick brings these up too, but an endpoint that is routed into the tunnel cannot be reached."""
    errors: dict[str, set[str]] = {}
    for path in sorted(CASES.glob("*.conf")):
        if not path.stem.endswith("-fails"):
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            findings = found(tmp_path, wg0=text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
            codes = {each.code for each in findings if each.severity == "error"}
            errors |= {path.stem: codes} if codes else {}
    assert {code for codes in errors.values() for code in codes} == {"endpoint-in-tunnel"}
    assert len(errors) == 4


def test_lines_of_an_unknown_section_give_no_findings(tmp_path: Path) -> None:
    findings = found(tmp_path, wg0=HUB + "[Relay]\nHost = a\nPublicKey = x\n")
    assert problems(findings) == [("wg0", 9, "unknown-section")]
