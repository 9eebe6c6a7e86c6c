"""The state of a machine as lists of lines by section, without what differs from one run to the next."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

State = dict[str, list[str]]

# What is asked of a machine, by section; $1 is the interface, $2 its configuration file.
QUESTIONS = {
    "links": "ip -j -d link show",
    "addresses": "ip -j address show",
    "routes4": "ip -4 -j route show table all",
    "routes6": "ip -6 -j route show table all",
    "rules4": "ip -4 -j rule show",
    "rules6": "ip -6 -j rule show",
    "nft": "/usr/sbin/nft -j list ruleset",
    "iptables": "iptables-save; echo \\# six; ip6tables-save",
    "sysctl": "sysctl net.ipv4.conf.all.src_valid_mark",
    "resolv.conf": "cat /etc/resolv.conf",
    "resolvconf": "cat /run/resolvconf.calls",
    "device": "wg showconf $1",
    "sockets": "ls /run/wireguard",
    "hooks": "cat /run/hooks",
    "file": "cat $2",
    "mode": "stat -c %a $2",
}
SCRIPT = "\n".join(f"{question} 2>/dev/null; printf '\\0'" for question in QUESTIONS.values())

# A link's IPv6 link-local address is drawn at random for each.
LINK_LOCAL = re.compile(r"fe80::[0-9a-f:]+")


def read(answers: str) -> State:
    """The state from what SCRIPT printed."""
    texts = dict(zip(QUESTIONS, LINK_LOCAL.sub("fe80::?", answers).split("\0"), strict=False))
    return {section: READERS.get(section, str.splitlines)(text) for section, text in texts.items()}


def _json(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text or "[]")
    return found


def _links(text: str) -> list[str]:
    """By name: a link that is added before the PreUp hooks comes before theirs."""
    return sorted(
        f"{link['ifname']} mtu {link['mtu']} {link.get('linkinfo', {}).get('info_kind')} "
        f"{' '.join(sorted(link['flags']))} txqlen {link.get('txqlen')}"
        for link in _json(text)
    )


def _addresses(text: str) -> list[str]:
    found = [(link["ifname"], address) for link in _json(text) for address in link.get("addr_info", [])]
    return [f"{name} {_plain(address)}" for name, address in sorted(found, key=lambda pair: pair[0])]


def _plain(item: dict[str, Any]) -> str:
    unstable = ("tentative", "nodad")
    return " ".join(f"{key}={json.dumps(item[key])}" for key in sorted(item) if key not in unstable)


def _routes(text: str) -> list[str]:
    return sorted(_plain(route) for route in _json(text))


def _rules(text: str) -> list[str]:
    return [_plain(rule) for rule in _json(text)]


def _nft(text: str) -> list[str]:
    found = _json(text)["nftables"][1:] if text else []  # type: ignore[call-overload]
    return _nft_lines((kind, dict(value)) for item in found for kind, value in item.items())


def _nft_lines(found: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
    """Tables and chains by name, each chain's rules in their order: handles and creation order tell nothing."""
    lines = []
    for kind, item in found:
        item.pop("handle", None)
        place = (item["family"], item.get("table", item.get("name", "")), item.get("chain", item.get("name", "")))
        lines.append(((*place, kind), json.dumps({kind: item}, sort_keys=True)))
    return [line for _, line in sorted(lines, key=lambda pair: pair[0])]


def _iptables(text: str) -> list[str]:
    """The rules, each after its table; an empty table is as good as none."""
    lines, family, table = [], "4", ""
    for line in text.splitlines():
        if line == "# six":
            family = "6"
        elif line.startswith("*"):
            table = line
        elif line.startswith("-A"):
            lines.append(f"{family} {table} {line}")
    return lines


def _device(text: str) -> list[str]:
    """Peers in their order, each one's AllowedIPs sorted: their order is the device's own."""
    lines = []
    for line in text.splitlines():
        key, equals, value = line.partition(" = ")
        lines.append(f"{key}{equals}{', '.join(sorted(value.split(', ')))}")
    return lines


READERS: dict[str, Callable[[str], list[str]]] = {
    "links": _links,
    "addresses": _addresses,
    "routes4": _routes,
    "routes6": _routes,
    "rules4": _rules,
    "rules6": _rules,
    "nft": _nft,
    "iptables": _iptables,
    "device": _device,
}
