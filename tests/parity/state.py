"""The state of a machine as lines by section, without what varies between runs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

State = dict[str, list[str]]
Items = list[dict[str, Any]]

# The questions to a machine, for bash: $1 is the interface, $2 its file; each answer ends with a NUL. Programs
# start slowly on an emulated processor, so `ip` answers several questions at once and bash reads the files.
SECTIONS = (
    "links",
    "nft",
    "iptables",
    "sysctl",
    "resolv.conf",
    "resolvconf",
    "device",
    "sockets",
    "hooks",
    "file",
    "mode",
)
SCRIPT = r"""
exec 2>/dev/null
end() { printf '\0'; }
ip -j -d -force -batch - <<<$'link show\naddress show'
ip -4 -j -d -force -batch - <<<$'route show table all\nrule show'
ip -6 -j -d -force -batch - <<<$'route show table all\nrule show'
end; /usr/sbin/nft -j list ruleset
end; [[ -z $(</proc/net/ip_tables_names) ]] || iptables-save
printf '# six\n'; [[ -z $(</proc/net/ip6_tables_names) ]] || ip6tables-save
end; echo "src_valid_mark = $(</proc/sys/net/ipv4/conf/all/src_valid_mark)"
end; echo "$(</etc/resolv.conf)"
end; echo "$(</run/resolvconf.calls)"
end; wg showconf "$1"
end; shopt -s nullglob; printf '%s\n' /run/wireguard/*
end; echo "$(</run/hooks)"
end; echo "$(<"$2")"
end; stat -c %a "$2"
"""
LISTS = ("links", "addresses", "routes4", "rules4", "routes6", "rules6")

# The IPv6 link-local address of each link is random.
LINK_LOCAL = re.compile(r"fe80::[0-9a-f:]+")


def read(answers: str) -> State:
    """The state in the output of SCRIPT."""
    texts = dict(zip(SECTIONS, LINK_LOCAL.sub("fe80::?", answers).split("\0"), strict=True))
    lists = [json.loads(line) for line in texts.pop("links").splitlines()]
    shown = {section: LIST_READERS[section](items) for section, items in zip(LISTS, lists, strict=True)}
    return shown | {section: READERS.get(section, _lines)(text) for section, text in texts.items()}


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


def _links(items: Items) -> list[str]:
    """Sorted by name: whether PreUp hooks add links before or after the tunnel's does not matter."""
    return sorted(
        f"{link['ifname']} mtu {link['mtu']} {link.get('linkinfo', {}).get('info_kind')} "
        f"{' '.join(sorted(link['flags']))} txqlen {link.get('txqlen')}"
        for link in items
    )


def _addresses(items: Items) -> list[str]:
    found = [(link["ifname"], address) for link in items for address in link.get("addr_info", [])]
    return [f"{name} {_plain(address)}" for name, address in sorted(found, key=lambda pair: pair[0])]


def _plain(item: dict[str, Any]) -> str:
    unstable = ("tentative", "nodad")
    return " ".join(f"{key}={json.dumps(item[key])}" for key in sorted(item) if key not in unstable)


def _routes(items: Items) -> list[str]:
    """Without routes to link-local addresses, which the kernel adds with a delay."""
    return sorted(_plain(route) for route in items if route["dst"] != "fe80::?")


def _rules(items: Items) -> list[str]:
    return [_plain(rule) for rule in items]


def _nft(text: str) -> list[str]:
    found = json.loads(text)["nftables"][1:] if text.strip() else []
    return _nft_lines((kind, dict(value)) for item in found for kind, value in item.items())


def _nft_lines(found: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
    """Tables and chains sorted by name, rules in order: handles and the order of creation do not matter."""
    lines = []
    for kind, item in found:
        item.pop("handle", None)
        place = (item["family"], item.get("table", item.get("name", "")), item.get("chain", item.get("name", "")))
        lines.append(((*place, kind), json.dumps({kind: item}, sort_keys=True)))
    return [line for _, line in sorted(lines, key=lambda pair: pair[0])]


def _iptables(text: str) -> list[str]:
    """The rules by table, in order within each chain; an empty table counts as none."""
    lines: list[tuple[tuple[str, str], str]] = []
    family, table = "4", ""
    for line in text.splitlines():
        if line == "# six":
            family = "6"
        elif line.startswith("*"):
            table = line
        elif line.startswith("-A"):
            lines.append(((family, table), f"{family} {table} {line}"))
    return [line for _, line in sorted(lines, key=lambda pair: pair[0])]  # iptables-save prints tables by age


def _device(text: str) -> list[str]:
    """Peers sorted by key, AllowedIPs sorted: wireguard-go keeps no order."""
    interface, *peers = text.split("[Peer]\n")
    return [line for section in (interface, *sorted(peers)) for line in _section(section)]


def _section(text: str) -> list[str]:
    pairs = (line.partition(" = ") for line in text.splitlines() if line)
    return [f"{key}{equals}{', '.join(sorted(value.split(', ')))}" for key, equals, value in pairs]


LIST_READERS: dict[str, Callable[[Items], list[str]]] = {
    "links": _links,
    "addresses": _addresses,
    "routes4": _routes,
    "routes6": _routes,
    "rules4": _rules,
    "rules6": _rules,
}
READERS: dict[str, Callable[[str], list[str]]] = {"nft": _nft, "iptables": _iptables, "device": _device}
